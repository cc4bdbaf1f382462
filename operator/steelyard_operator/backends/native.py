"""The native backend: `steelyard-runtime serve`.

The flags are docs/contract.md's; tests/contract parses every line rendered here with the runtime's
own parser.
"""

from steelyard_operator.api.v1alpha1 import InferenceService
from steelyard_operator.backends.base import (
    Container,
    Drain,
    Flip,
    Probe,
    Sleep,
    WorkerPlacement,
)
from steelyard_operator.settings import Settings

EXECUTABLE = "steelyard-runtime"

# Reading and converting the largest supported checkpoint from a slow disk.
START_PATIENCE_SECONDS = 1800

# Until every router has seen that the worker's address is gone; then it drains by itself.
LEAVE_SECONDS = 2


class NativeBackend:
    """Renders Steelyard's own runtime."""

    flip = Flip.IN_PLACE
    drain = Drain.ADMIN
    executable = EXECUTABLE
    api_key_flag = "--api-key-file"
    api_key_variable: str | None = None

    def image(self, settings: Settings) -> str:
        """The image of a worker where the resource names none."""
        return settings.worker_image

    def worker(self, service: InferenceService, placement: WorkerPlacement) -> Container:
        """Render a worker."""
        spec = service.spec
        command = [EXECUTABLE, "serve"]
        command += ["--model", placement.model or spec.model.uri]
        command += ["--served-model-name", spec.model.name]
        command += ["--host", placement.host, "--port", str(placement.port)]
        command += ["--admin-port", str(placement.admin_port)]
        command += ["--kv-host", placement.kv_host, "--kv-port", str(placement.kv_port)]
        command += ["--kv-peers", ",".join(placement.kv_peers)]
        if placement.role_file is not None:
            command += ["--role-file", placement.role_file]
        elif placement.role is not None:
            command += ["--role", placement.role.wire]
        if placement.cuda:
            command += ["--device", "cuda"]
        if spec.model.max_model_len is not None:
            command += ["--max-model-len", str(spec.model.max_model_len)]
        command += ["--service-token-file", placement.service_token_file]
        command += ["--drain-timeout-seconds", str(spec.rollout.drain_seconds)]
        if placement.threads is not None:
            command += ["--threads", str(placement.threads)]
        command += spec.runtime.extra_args  # Last, so that they win.
        environment = {
            # A spinning OpenMP thread of an idle worker takes its core from a busy neighbour.
            "OMP_WAIT_POLICY": "passive",
        }
        if placement.kv_data_ports is not None:
            environment["UCX_TCP_PORT_RANGE"] = placement.kv_data_ports
        environment |= {variable.name: variable.value for variable in spec.runtime.env}
        port = placement.port
        return Container(
            command=tuple(command),
            environment=environment,
            startup=Probe(
                "/ready", port, period_seconds=5, failure_threshold=START_PATIENCE_SECONDS // 5
            ),
            readiness=Probe("/ready", port, period_seconds=2, failure_threshold=3),
            # A worker drains with /health at 200; only a dead or stuck one is restarted.
            liveness=Probe("/health", port, period_seconds=10, failure_threshold=6),
            pre_stop=Sleep(LEAVE_SECONDS),
        )

    def unsupported(self, service: InferenceService) -> str | None:
        """Say what the resource asks for and this engine cannot do, if anything."""
        spec = service.spec
        for name, role in (("prefill", spec.prefill), ("decode", spec.decode)):
            if role.tensor_parallel > 1:
                return (
                    f"`spec.{name}.tensorParallel` must be 1 with the backend 'Native' of this "
                    f"version, got {role.tensor_parallel}"
                )
        return None
