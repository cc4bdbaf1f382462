"""Cross-origin requests from browsers: allowed for configured origins only."""

from aiohttp import web

_METHODS = "GET, POST, OPTIONS"
_HEADERS = "Authorization, Content-Type"
_MAX_AGE_SECONDS = "600"


class CrossOrigin:
    """Answers preflights and marks answers for allowed origins; `*` allows all."""

    def __init__(self, allowed_origins: tuple[str, ...]) -> None:
        self._allowed = frozenset(allowed_origins)

    def headers(self, request: web.BaseRequest) -> dict[str, str]:
        """Return the headers of an answer to this request; none where CORS is off."""
        if not self._allowed:
            return {}
        origin = request.headers.get("Origin")
        if origin is None or not ("*" in self._allowed or origin in self._allowed):
            return {}
        if not _is_sendable(origin):
            return {}
        return {
            "Access-Control-Allow-Origin": origin,
            "Access-Control-Expose-Headers": "X-Request-Id, Retry-After",
            "Vary": "Origin",
        }

    def is_preflight(self, request: web.BaseRequest) -> bool:
        """Whether a browser asks before it sends the request itself."""
        return bool(self._allowed) and request.method == "OPTIONS"

    def preflight(self, request: web.BaseRequest) -> web.Response:
        """Answer a preflight: 204, with permission where the origin is allowed."""
        headers = self.headers(request)
        if headers:
            headers["Access-Control-Allow-Methods"] = _METHODS
            asked = request.headers.get("Access-Control-Request-Headers", _HEADERS)
            headers["Access-Control-Allow-Headers"] = asked if _is_sendable(asked) else _HEADERS
            headers["Access-Control-Max-Age"] = _MAX_AGE_SECONDS
        return web.Response(status=204, headers=headers)


def _is_sendable(value: str) -> bool:
    return value.isascii() and value.isprintable()
