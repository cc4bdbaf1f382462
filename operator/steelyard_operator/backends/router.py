"""The router in front of every backend's workers: `steelyard-runtime router`.

The flags are docs/contract.md's; tests/contract parses every line rendered here with the runtime's
own parser.
"""

from steelyard_operator.api.v1alpha1 import InferenceService
from steelyard_operator.backends.base import Container, Endpoints, Probe, RouterPlacement, Sleep

EXECUTABLE = "steelyard-runtime"

# Until load balancers in front of the cluster have seen that the address is gone, too.
LEAVE_SECONDS = 5


def router(service: InferenceService, placement: RouterPlacement) -> Container:
    """Render the router of a service."""
    spec = service.spec
    command = [EXECUTABLE, "router"]
    command += ["--host", placement.host, "--port", str(placement.port)]
    if isinstance(placement.members, Endpoints):
        command += ["--endpoints-namespace", placement.members.namespace]
        command += ["--prefill-service", placement.members.prefill_service]
        command += ["--decode-service", placement.members.decode_service]
    else:
        command += ["--membership-file", placement.members]
    command += ["--served-model-name", spec.model.name]
    if placement.api_keys_file is not None:
        command += ["--api-keys-file", placement.api_keys_file]
    if placement.worker_api_key_file is not None:
        command += ["--worker-api-key-file", placement.worker_api_key_file]
    command += ["--drain-timeout-seconds", str(spec.rollout.drain_seconds)]
    # Not /ready, which fails without a decode worker: while the only one is replaced the router
    # holds requests, and a Service without a ready router would refuse them.
    return Container(
        command=tuple(command),
        environment={},
        startup=Probe("/health", placement.port, period_seconds=1, failure_threshold=60),
        readiness=Probe("/health", placement.port, period_seconds=2, failure_threshold=3),
        liveness=Probe("/health", placement.port, period_seconds=10, failure_threshold=6),
        pre_stop=Sleep(LEAVE_SECONDS),
    )
