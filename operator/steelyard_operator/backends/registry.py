"""The backends by the name that the API gives them."""

from collections.abc import Sequence

from steelyard_operator.api.names import CONTAINERS
from steelyard_operator.api.v1alpha1 import Backend as BackendName
from steelyard_operator.api.v1alpha1 import InferenceService
from steelyard_operator.backends.base import Backend
from steelyard_operator.backends.native import NativeBackend
from steelyard_operator.backends.vllm import VLLMBackend

BACKENDS: dict[BackendName, Backend] = {
    BackendName.NATIVE: NativeBackend(),
    BackendName.VLLM: VLLMBackend(),
}


def backend(name: BackendName) -> Backend:
    """Return the backend of that name."""
    return BACKENDS[name]


def started_by(command: Sequence[str]) -> Backend | None:
    """Return the backend whose worker a command line starts, if it is one."""
    return next((one for one in BACKENDS.values() if [one.executable] == [*command[:1]]), None)


def unsupported(service: InferenceService) -> str | None:
    """Say in one sentence what the resource asks for and this version cannot do, if anything."""
    for name, role in (("prefill", service.spec.prefill), ("decode", service.spec.decode)):
        for override in role.pod_template.spec.containers:
            if override.name not in CONTAINERS:
                return (
                    f"`spec.{name}.podTemplate.spec.containers` has '{override.name}'; "
                    f"must be one of: {', '.join(CONTAINERS)}"
                )
    return backend(service.spec.runtime.backend).unsupported(service)
