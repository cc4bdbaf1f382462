"""Errors of the API server's client.

OperatorError
└── ApiError            any answer that is no success, or none
    ├── NotFound        404
    ├── Conflict        409: the name is taken, or the object is newer than we thought
    ├── Expired         410: the resource version is too old to watch from
    ├── Changed         a JSON patch whose `test` did not hold
    ├── Refused         400, 403, 422: it will not have it (quota, policy, schema, rights)
    ├── Throttled       429: asked too often; says when to come again
    ├── Unreachable     no answer, or 5xx: the same request may work later
    └── NotLeading      not sent: the Lease may be another's by now
"""

# ruff: noqa: N818 -- the names are the API server's own reasons, which all end without "Error".

from typing import Any

from steelyard_operator.errors import OperatorError


class ApiError(OperatorError):
    """The API server did not do what was asked."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class NotFound(ApiError):
    """There is no such object, or no such kind."""


class Conflict(ApiError):
    """The name is taken, or a precondition on uid or resource version failed."""


class Expired(ApiError):
    """The resource version is too old: list again."""


class Changed(ApiError):
    """A value that a JSON patch tests is another by now."""


class Refused(ApiError):
    """The API server will not have this object; asking again brings the same answer."""


class Throttled(ApiError):
    """The API server wants fewer requests."""

    def __init__(self, message: str, retry_after_seconds: float) -> None:
        super().__init__(message, 429)
        self.retry_after_seconds = retry_after_seconds


class Unreachable(ApiError):
    """No answer, or an error inside the API server."""


class NotLeading(ApiError):
    """A write that was not sent: another operator may hold the Lease by now."""


# What the API server says where a JSON patch's `test` failed; it has no reason of its own.
PATCH_FAILED = "the server rejected our request due to an error in our request"


def error_of(status: int, body: Any, retry_after: str | None, what: str) -> ApiError:
    """Return the error that an answer means.

    Args:
        status: the HTTP status.
        body: the `Status` object, if it is one.
        retry_after: the header of that name.
        what: the request, for the message: verb, kind and name.
    """
    said = body.get("message") if isinstance(body, dict) else None
    message = f"{what}: {said or f'HTTP {status}'}"
    if status == 404:
        return NotFound(message, status)
    if status == 409:
        return Conflict(message, status)
    if status == 410:
        return Expired(message, status)
    if status == 429:
        seconds = float(retry_after) if retry_after and retry_after.isdigit() else 1.0
        return Throttled(message, seconds)
    if status == 422 and said == PATCH_FAILED:
        return Changed(message, status)
    if 400 <= status < 500 and status != 401:
        return Refused(message, status)
    return Unreachable(message, status)


def words(error: BaseException) -> str:
    """Return what an error says, or its kind where it says nothing."""
    return str(error) or type(error).__name__
