"""A service's token and key: derived from the master key, so that no Secret is ever read."""

import hashlib
import hmac
from pathlib import Path

from steelyard_operator.errors import UserError

SHORTEST_KEY_BYTES = 16


class MasterKey:
    """What all services' tokens and keys are derived from."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def __repr__(self) -> str:
        return "MasterKey(...)"

    def token(self, service_uid: str) -> str:
        """Return the token of the service with that uid."""
        return hmac.new(self._key, service_uid.encode(), hashlib.sha256).hexdigest()

    def worker_key(self, service_uid: str) -> str:
        """Return the key of the serving port of that service's workers."""
        return self.token(f"worker-key:{service_uid}")

    def seal(self, text: str) -> str:
        """Return what shows that an operator with this key wrote a text."""
        return self.token(f"revision:{text}")

    def has_sealed(self, text: str, seal: object) -> bool:
        """Whether a seal is that of a text."""
        return isinstance(seal, str) and hmac.compare_digest(
            self.seal(text).encode(), seal.encode()
        )


def read_master_key(file: str) -> MasterKey:
    """Read the key from the file that the operator's Secret is mounted as.

    Raises:
        UserError: there is no such file, or what it holds is too short to be a key.
    """
    try:
        key = Path(file).read_bytes().strip()
    except OSError as error:
        raise UserError(
            f"the master key {file} (STEELYARD_MASTER_KEY_FILE) cannot be read: {error.strerror}"
        ) from None
    if len(key) < SHORTEST_KEY_BYTES:
        raise UserError(
            f"the master key {file} must have at least {SHORTEST_KEY_BYTES} bytes, "
            f"it has {len(key)}"
        )
    return MasterKey(key)
