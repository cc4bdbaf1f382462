"""What the API server writes: JSON documents, and watches of one document a line."""

from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import orjson

from steelyard_operator.kube.errors import ApiError, Expired, Unreachable, error_of

Raw = dict[str, Any]


async def lines(content: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    """Yield lines of any length; aiohttp's own reader refuses those longer than its buffer."""
    rest: list[bytes] = []
    async for chunk in content.iter_any():
        first, *others = chunk.split(b"\n")
        rest.append(first)
        for next_line in others:
            line = b"".join(rest)
            rest = [next_line]
            if line:
                yield line


def change(line: bytes, what: str) -> tuple[str, Raw]:
    """Return type and object of one line of a watch.

    Raises:
        Expired: the resource version that the watch began at is too old.
        ApiError: the server ended the watch with another error.
        Unreachable: the line is no change.
    """
    found = decoded(line)
    if not isinstance(found, dict) or "type" not in found:
        raise Unreachable(f"{what}: a line is no JSON object")
    if found["type"] != "ERROR":
        return found["type"], found["object"]
    status = found["object"]
    error: ApiError = error_of(int(status.get("code") or 500), status, None, what)
    # An old resource version is also said as "too old resource version" with other codes.
    raise Expired(str(error), 410) if status.get("reason") in ("Expired", "Gone") else error


def decoded(content: bytes) -> Any:
    """Return what JSON says, or None where it is none."""
    try:
        return orjson.loads(content)
    except orjson.JSONDecodeError:
        return None
