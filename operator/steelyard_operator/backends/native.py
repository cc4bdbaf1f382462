"""The native backend: `steelyard-runtime serve` and `steelyard-runtime router`.

The flags are docs/contract.md's; tests/contract parses every line rendered here with the runtime's
own parser.
"""

from steelyard_operator.api.v1alpha1 import InferenceService
from steelyard_operator.backends.base import Container, Probe, RouterPlacement, WorkerPlacement

EXECUTABLE = "steelyard-runtime"

# Reading and converting the largest supported checkpoint from a slow disk.
START_PATIENCE_SECONDS = 1800


class NativeBackend:
    """Renders Steelyard's own runtime."""

    def worker(self, service: InferenceService, placement: WorkerPlacement) -> Container:
        """Render a worker."""
        spec = service.spec
        command = [EXECUTABLE, "serve"]
        command += ["--model", spec.model.uri, "--served-model-name", spec.model.name]
        command += ["--host", placement.host, "--port", str(placement.port)]
        command += ["--admin-port", str(placement.admin_port)]
        command += ["--kv-host", placement.kv_host, "--kv-port", str(placement.kv_port)]
        command += ["--kv-peers", ",".join(placement.kv_peers)]
        if placement.role_file is not None:
            command += ["--role-file", placement.role_file]
        elif placement.role is not None:
            command += ["--role", placement.role.wire]
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
            **{variable.name: variable.value for variable in spec.runtime.env},
        }
        return _container(command, environment, placement.port)

    def router(self, service: InferenceService, placement: RouterPlacement) -> Container:
        """Render the router."""
        spec = service.spec
        command = [EXECUTABLE, "router"]
        command += ["--host", placement.host, "--port", str(placement.port)]
        command += ["--membership-file", placement.membership_file]
        command += ["--served-model-name", spec.model.name]
        if placement.api_keys_file is not None:
            command += ["--api-keys-file", placement.api_keys_file]
        command += ["--drain-timeout-seconds", str(spec.rollout.drain_seconds)]
        return _container(command, {}, placement.port)


def _container(command: list[str], environment: dict[str, str], port: int) -> Container:
    return Container(
        command=tuple(command),
        environment=environment,
        startup=Probe(
            "/ready", port, period_seconds=5, failure_threshold=START_PATIENCE_SECONDS // 5
        ),
        readiness=Probe("/ready", port, period_seconds=2, failure_threshold=3),
        # A worker drains with /health at 200; only a dead or stuck one is restarted.
        liveness=Probe("/health", port, period_seconds=10, failure_threshold=6),
    )
