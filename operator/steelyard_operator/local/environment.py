"""Which variables and addresses a document may set for processes on this machine. Pure.

In a cluster the document's variables end in a container that is its author's anyway. Here they end
in processes of whoever runs `steelyard up FILE`, and some variables name programs or libraries that
are then run: LD_PRELOAD, PYTHONPATH, CXX, CUDA_HOME, OMP_TOOL_LIBRARIES,
AWS_CONFIG_FILE (`credential_process`), and more every year. So what may be set is listed, by name:
it tunes, and names nothing that is loaded. The person's own environment is theirs and stays.
"""

import difflib

from steelyard_operator.api.v1alpha1 import InferenceService
from steelyard_operator.errors import UserError

ALLOWED = frozenset(
    {
        # Steelyard's own that choose among what is installed.
        "STEELYARD_KERNELS",
        "STEELYARD_LOG_LEVEL",
        # Threads.
        *("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "OMP_PROC_BIND", "OMP_PLACES", "OMP_DYNAMIC"),
        *("OMP_SCHEDULE", "OMP_STACKSIZE", "GOMP_CPU_AFFINITY", "GOMP_SPINCOUNT"),
        *("KMP_AFFINITY", "KMP_BLOCKTIME", "MKL_NUM_THREADS", "MKL_DYNAMIC", "MKL_DEBUG_CPU_TYPE"),
        *("MKL_ENABLE_INSTRUCTIONS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS"),
        "TOKENIZERS_PARALLELISM",
        # Memory.
        *("MALLOC_ARENA_MAX", "PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"),
        # GPUs.
        *("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "CUDA_LAUNCH_BLOCKING"),
        *("CUDA_MODULE_LOADING", "NVIDIA_TF32_OVERRIDE"),
        # Transfers.
        *("UCX_TLS", "UCX_NET_DEVICES", "UCX_TCP_PORT_RANGE", "UCX_RNDV_THRESH", "UCX_LOG_LEVEL"),
        *("UCX_MEMTYPE_CACHE", "NCCL_DEBUG", "NCCL_SOCKET_IFNAME", "NCCL_IB_DISABLE"),
        "NCCL_P2P_DISABLE",
        # Where checkpoints come from: nothing is fetched here, and the same file serves a cluster.
        *("HF_ENDPOINT", "HF_HUB_OFFLINE", "HF_HUB_DISABLE_TELEMETRY"),
        *("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"),
        *("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"),
        # Words and times.
        *("LANG", "LC_ALL", "TZ"),
    }
)


# Who reaches a process here is not the document's to say: it listens on 127.0.0.1, for this person.
NOT_ARGUMENTS = (
    *("--host", "--port", "--admin-port", "--kv-host", "--kv-port", "--kv-peers"),
    *("--allowed-origins", "--service-token-file", "--api-key-file", "--role-file"),
)


def require_own_addresses(service: InferenceService, file: str) -> None:
    """Refuse arguments that say who reaches a worker, or which files open it.

    Raises:
        UserError: there is one.
    """
    for index, argument in enumerate(service.spec.runtime.extra_args):
        if argument.partition("=")[0] in NOT_ARGUMENTS:
            raise UserError(
                f"{file}: `spec.runtime.extraArgs[{index}]` may not be '{argument[:80]}' on one "
                "machine, where workers listen for this machine alone; remove it"
            )


def require_allowed_variables(service: InferenceService, file: str) -> None:
    """Refuse variables that this machine's processes may not get from a document.

    Raises:
        UserError: there is one that is not on the list.
    """
    for index, variable in enumerate(service.spec.runtime.env):
        if variable.name in ALLOWED:
            continue
        near = difflib.get_close_matches(variable.name, ALLOWED, n=1, cutoff=0.8)
        hint = f"did you mean '{near[0]}'? " if near else ""
        raise UserError(
            f"{file}: `spec.runtime.env[{index}].name` may not be '{variable.name[:80]}' on one "
            f"machine, where a variable could run programs as you; {hint}set it in your own shell, "
            "or use one of those that docs/contract.md lists (section 8)"
        )
