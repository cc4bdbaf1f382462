"""Reading a request's body, up to a limit."""

from aiohttp import web
from aiohttp.web_exceptions import HTTPRequestEntityTooLarge

from steelyard_runtime.errors import RequestError


async def read_body(request: web.BaseRequest, limit_bytes: int) -> bytes:
    """Return the body; one that says its length is refused before it is read.

    Raises:
        RequestError: 413, it is larger than the limit.
    """
    length = request.content_length
    try:
        if length is None or length <= limit_bytes:
            _continue(request)
            return await request.read()
    except HTTPRequestEntityTooLarge:
        pass
    raise RequestError(
        f"The body may not be larger than {limit_bytes} bytes.", status=413, code="body_too_large"
    )


def _continue(request: web.BaseRequest) -> None:
    """Tell a client that waits for it (curl, from 1 MiB) to send its body."""
    if request.headers.get("Expect", "").lower() == "100-continue" and request.transport:
        request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
