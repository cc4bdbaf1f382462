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
            return await request.read()
    except HTTPRequestEntityTooLarge:
        pass
    raise RequestError(
        f"The body may not be larger than {limit_bytes} bytes.", status=413, code="body_too_large"
    )
