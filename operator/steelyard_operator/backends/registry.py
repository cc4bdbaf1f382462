"""The backends by the name that the API gives them."""

from steelyard_operator.api.v1alpha1 import Backend as BackendName
from steelyard_operator.backends.base import Backend
from steelyard_operator.backends.native import NativeBackend
from steelyard_operator.errors import UserError

BACKENDS: dict[BackendName, Backend] = {BackendName.NATIVE: NativeBackend()}


def backend(name: BackendName) -> Backend:
    """Return the backend of that name.

    Raises:
        UserError: this version renders no such backend.
    """
    try:
        return BACKENDS[name]
    except KeyError:
        known = ", ".join(BACKENDS)
        raise UserError(
            f"`spec.runtime.backend` '{name}' cannot be started yet; must be one of: {known}"
        ) from None
