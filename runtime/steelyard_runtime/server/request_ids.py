"""Request ids: the client's where it is usable, ours otherwise."""

import re
import uuid

_USABLE = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")


def request_id(given: str | None) -> str:
    """Return the id that is echoed, logged and a part of the answer's id."""
    if given is not None and _USABLE.fullmatch(given):
        return given
    return uuid.uuid4().hex
