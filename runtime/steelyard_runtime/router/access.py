"""Who may ask what: keys where there are any, and what a browser may send where there are none."""

import asyncio
from collections.abc import Awaitable
from typing import Any

from aiohttp import web

from steelyard_runtime.errors import RequestError
from steelyard_runtime.router.browsers import BrowserGuard
from steelyard_runtime.router.client_stream import ClientStream
from steelyard_runtime.router.keys import Account, KeyRing, cache_salt, wrong_key
from steelyard_runtime.router.replies import error_document, error_event
from steelyard_runtime.router.settings import RouterSettings
from steelyard_runtime.router.validation import json_type
from steelyard_runtime.router.worker_client import WorkerKey

OPEN_PATHS = frozenset(
    ("/health", "/ready", "/metrics", "/router/signals")
)  # probes and scrapers have no key


class Access:
    """Lets requests in or refuses them, before a byte of their bodies is read."""

    def __init__(self, settings: RouterSettings, worker_key: WorkerKey) -> None:
        self.keys = KeyRing(settings.api_keys)
        self._worker_key = worker_key
        self._guard = BrowserGuard(
            host=settings.host,
            allowed_hosts=settings.allowed_hosts,
            allowed_origins=settings.allowed_origins,
        )

    def check_browser(self, request: web.BaseRequest) -> None:
        """Refuse what a foreign web page sends; with keys it cannot have one.

        Raises:
            RequestError: 403 or 415.
        """
        if not self.keys.known:
            self._guard.check(request)

    def account(self, request: web.BaseRequest) -> Account | None:
        """Return whose request it is; None where no key is needed.

        Raises:
            RequestError: 401, its key is missing or wrong.
        """
        if request.path in OPEN_PATHS:
            return None
        return self.keys.account(request.headers.get("Authorization"))

    def separate(self, account: Account, fields: dict[str, Any]) -> None:
        """Salt a body, so that what workers cache of one key's prompts is hidden from others.

        Raises:
            RequestError: 400, the client's own salt is no string.
        """
        given = fields.get("cache_salt")
        if not isinstance(given, str | None):
            raise RequestError(
                f"`cache_salt` must be a string, got {json_type(given)}.", param="cache_salt"
            )
        owner = account.key.cache_owner
        fields["cache_salt"] = cache_salt(self._worker_key.value, owner, given or "")


async def while_valid(
    account: Account | None, answering: Awaitable[web.StreamResponse], client: ClientStream | None
) -> web.StreamResponse:
    """Answer while the account's key is valid; once it is revoked the answer ends with 401.

    Raises:
        RequestError: 401, revoked, and nothing has been sent to the client.
    """
    if account is None:
        return await answering
    try:
        async with asyncio.timeout(None) as scope:
            with account.ended_with(scope):
                return await answering
    except TimeoutError:
        if not scope.expired():
            raise
        if client is None or not client.opened:
            raise wrong_key() from None
        await client.send(error_event(error_document(wrong_key())))
        return await client.finish()
