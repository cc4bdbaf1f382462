"""The vLLM backend: `vllm serve` with NixlConnector, behind Steelyard's router.

vLLM has no admin port: a worker is relabelled instead of told its role (every worker can give and
take KV blocks), and its metrics say when it is empty.
"""

import json

from steelyard_operator.api.v1alpha1 import InferenceService
from steelyard_operator.backends.base import (
    Command,
    Container,
    Drain,
    Flip,
    Probe,
    WorkerPlacement,
)
from steelyard_operator.settings import Settings

EXECUTABLE = "vllm"

# Downloads are over by then; compiling and capturing graphs is not.
START_PATIENCE_SECONDS = 1800

KV_TRANSFER = {"kv_connector": "NixlConnector", "kv_role": "kv_both"}

# The image has Python and maybe no shell tools. The first sleep is for the routers to look away; a
# page that cannot be read counts as busy, because the process may only be slow.
WAIT_UNTIL_IDLE = """\
import re, time, urllib.request
end = time.monotonic() + {seconds}
time.sleep(2)
while time.monotonic() < end:
    try:
        page = urllib.request.urlopen("http://127.0.0.1:{port}/metrics", timeout=5).read().decode()
    except OSError:
        time.sleep(1)
        continue
    busy = re.findall(r"^vllm:num_requests_(?:running|waiting){{.*}} (.+)$", page, re.M)
    if not any(map(float, busy)):
        break
    time.sleep(0.5)
"""


class VLLMBackend:
    """Renders vLLM."""

    flip = Flip.RELABEL
    drain = Drain.METRICS
    executable = EXECUTABLE
    # `--api-key` would show it in the list of processes. It guards /v1 and leaves metrics open.
    api_key_flag = ""
    api_key_variable: str | None = "VLLM_API_KEY"

    def image(self, settings: Settings) -> str:
        """The image of a worker where the resource names none."""
        return settings.vllm_image

    def worker(self, service: InferenceService, placement: WorkerPlacement) -> Container:
        """Render a worker."""
        spec = service.spec
        model = placement.model or spec.model.uri
        command = [EXECUTABLE, "serve", model.removeprefix("file://")]
        command += ["--served-model-name", spec.model.name]
        command += ["--host", placement.host, "--port", str(placement.port)]
        if spec.model.max_model_len is not None:
            command += ["--max-model-len", str(spec.model.max_model_len)]
        command += ["--tensor-parallel-size", str(placement.tensor_parallel)]
        command += ["--kv-transfer-config", json.dumps(KV_TRANSFER, separators=(",", ":"))]
        command += spec.runtime.extra_args  # Last, so that they win.
        environment = {
            "VLLM_NIXL_SIDE_CHANNEL_HOST": placement.kv_host,
            "VLLM_NIXL_SIDE_CHANNEL_PORT": str(placement.kv_port),
            "VLLM_NO_USAGE_STATS": "1",
            # The checkpoint is on disk; a name that is missing there must not become a download.
            "HF_HUB_OFFLINE": "1",
            # torch asks for the user's name, and the image's passwd file may not have one.
            "USER": "steelyard",
        }
        if placement.kv_data_ports is not None:
            environment["UCX_TCP_PORT_RANGE"] = placement.kv_data_ports
        environment |= {variable.name: variable.value for variable in spec.runtime.env}
        port = placement.port
        idle = WAIT_UNTIL_IDLE.format(seconds=spec.rollout.drain_seconds, port=port)
        return Container(
            command=tuple(command),
            environment=environment,
            # vLLM listens once it can serve.
            startup=Probe(
                "/health", port, period_seconds=5, failure_threshold=START_PATIENCE_SECONDS // 5
            ),
            readiness=Probe("/health", port, period_seconds=2, failure_threshold=3),
            liveness=Probe("/health", port, period_seconds=10, failure_threshold=6),
            pre_stop=Command(("python3", "-c", idle)),
        )

    def unsupported(self, service: InferenceService) -> str | None:
        """Say what the resource asks for and this engine cannot do, if anything."""
        uri = service.spec.model.uri
        if uri.startswith("package://"):
            return (
                "`spec.model.uri` must be hf://, s3://, pvc://, oci:// or file:// with the backend "
                f"'VLLM', got '{uri}'"
            )
        return None
