"""API keys and their limits: who may ask, how often and how much at once. No I/O, no clock."""

import asyncio
import hashlib
import hmac
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import ceil

import msgspec

from steelyard_runtime.core.params import SALT_OWNER_DIGITS
from steelyard_runtime.errors import ConfigError, RequestError


class ApiKey(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """One key and what it allows; no limit where a field is absent."""

    name: str
    key: str
    requests_per_minute: int | None = None
    max_concurrent: int | None = None
    cache_group: str | None = None  # keys of one group may see that a prompt was cached

    @property
    def cache_owner(self) -> str:
        """What its cached prompts belong to: outlives a key that is replaced under its name."""
        return f"name:{self.name}" if self.cache_group is None else f"group:{self.cache_group}"


class _LineKey(ApiKey, frozen=True):
    """A key of a file with one a line: its number changes with the lines before it."""

    @property
    def cache_owner(self) -> str:
        """What its cached prompts belong to."""
        return f"line:{_digest(self.key).hex()}"


class _KeyFile(msgspec.Struct, forbid_unknown_fields=True):
    keys: list[ApiKey]


def parse_api_keys(text: str, source: str) -> tuple[ApiKey, ...]:
    """Read keys from JSON (`{"keys": [...]}`) or from one key a line.

    Raises:
        ConfigError: the text is neither; keys are never quoted in the message.
    """
    keys: list[ApiKey]
    if text.lstrip().startswith("{"):
        try:
            keys = msgspec.json.decode(text, type=_KeyFile).keys
        except msgspec.DecodeError as error:
            raise ConfigError(
                f'{source} must be JSON of the form {{"keys": [{{"name", "key"}}]}}: {error}'
            ) from None
    else:
        lines = [line.strip() for line in text.splitlines()]
        keys = [
            _LineKey(name=f"key-{number}", key=line)
            for number, line in enumerate(lines, 1)
            if line and not line.startswith("#")
        ]
    if not keys:
        raise ConfigError(f"{source} must hold at least one key, got none")
    _check(keys, source)
    return tuple(keys)


def _check(keys: list[ApiKey], source: str) -> None:
    for label, values in (("name", [key.name for key in keys]), ("key", [key.key for key in keys])):
        if len(set(values)) != len(values):
            raise ConfigError(f"{source} must not give the same {label} twice")
    for key in keys:
        limits = (key.requests_per_minute, key.max_concurrent)
        if not key.key or any(limit is not None and limit < 1 for limit in limits):
            raise ConfigError(
                f"{source}: key '{key.name[:64]}' must not be empty and its limits must be at "
                "least 1"
            )
        if key.cache_group == "":
            raise ConfigError(
                f"{source}: cacheGroup of key '{key.name[:64]}' must not be empty; without it the "
                "key shares with no other"
            )


@dataclass(slots=True, eq=False)
class Account:
    """A key in use: a token bucket of requests and a count of those that run."""

    key: ApiKey
    digest: bytes
    running: int = 0
    revoked: bool = False
    _scopes: set[asyncio.Timeout] = field(default_factory=set)
    _tokens: float = field(init=False)
    _filled_at: float = 0.0

    def __post_init__(self) -> None:
        self._tokens = float(self.key.requests_per_minute or 0)

    def change(self, key: ApiKey) -> None:
        """Take new limits; what was used of the old ones stays used."""
        if key.requests_per_minute != self.key.requests_per_minute:
            rate = float(key.requests_per_minute or 0)
            had = self.key.requests_per_minute is not None
            self._tokens = min(self._tokens, rate) if had else rate
        self.key = key

    def enter(self, now_seconds: float) -> None:
        """Admit one request; `leave` must follow.

        Raises:
            RequestError: 429 with the seconds after which a request is allowed again.
        """
        limit = self.key.max_concurrent
        if limit is not None and self.running >= limit:
            raise _over(f"at most {limit} requests at once", 1)
        rate = self.key.requests_per_minute
        if rate is not None:
            gained = (now_seconds - self._filled_at) * rate / 60
            self._tokens = min(float(rate), self._tokens + gained)
            self._filled_at = now_seconds
            if self._tokens < 1:
                raise _over(
                    f"at most {rate} requests per minute", ceil((1 - self._tokens) * 60 / rate)
                )
            self._tokens -= 1
        self.running += 1

    def leave(self) -> None:
        """End one admitted request."""
        self.running -= 1

    @contextmanager
    def ended_with(self, scope: asyncio.Timeout) -> Iterator[None]:
        """Let the scope, which the block is entered in, time out when the key is revoked."""
        self._scopes.add(scope)
        try:
            yield
        finally:
            self._scopes.discard(scope)

    def revoke(self, now_seconds: float) -> None:
        """End what runs."""
        self.revoked = True
        for scope in self._scopes:
            if not scope.expired():
                scope.reschedule(now_seconds)


def _over(limit: str, retry_after_seconds: int) -> RequestError:
    return RequestError(
        f"This API key allows {limit}; retry after {retry_after_seconds} s.",
        status=429,
        code="rate_limit_exceeded",
        kind="rate_limit_error",
        retry_after_seconds=retry_after_seconds,
    )


class KeyRing:
    """Finds the account of a request by the digest of its key, so that no comparison leaks one."""

    def __init__(self, keys: Iterable[ApiKey]) -> None:
        self._accounts = {one.digest: one for one in map(_account, keys)}

    def replace(self, keys: Iterable[ApiKey], now_seconds: float) -> None:
        """Take a new list: a key that stays keeps its account, one that is gone ends what runs."""
        old = self._accounts
        self._accounts = {}
        for key in keys:
            fresh = _account(key)
            account = old.pop(fresh.digest, fresh)
            account.change(key)
            self._accounts[account.digest] = account
        for account in old.values():
            account.revoke(now_seconds)

    @property
    def known(self) -> bool:
        """Whether any keys are configured."""
        return bool(self._accounts)

    def account(self, authorization: str | None) -> Account | None:
        """Return the account that `Authorization` names; None where no keys are configured.

        Raises:
            RequestError: 401, the header is missing or names no key.
        """
        if not self._accounts:
            return None
        scheme, _, given = (authorization or "").partition(" ")
        digest = _digest(given.strip())
        account = self._accounts.get(digest)
        if (
            scheme.lower() != "bearer"
            or account is None
            or not hmac.compare_digest(account.digest, digest)
        ):
            raise wrong_key()
        return account


def wrong_key() -> RequestError:
    """Return the refusal of a request without a key, or with one that is not valid (any more)."""
    return RequestError(
        "The API key must be given as 'Authorization: Bearer KEY' and be one of this "
        "service's keys.",
        status=401,
        code="invalid_api_key",
        kind="authentication_error",
    )


def cache_salt(secret: str, owner: str, given: str) -> str:
    """Return the salt that workers get for a key's prompts: 64 hex digits, 16 of them its owner's.

    By those a worker tells one key's requests from another's, whatever salts the client gives.

    Args:
        secret: what the workers' key is, so that no client can compute a salt; may be empty.
        owner: `ApiKey.cache_owner`.
        given: the client's own `cache_salt`, empty without one.
    """
    prefix = f"cache-salt:{len(owner)}:{owner}"
    owners, whole = (
        hmac.digest(secret.encode(), text.encode("utf-8", "surrogatepass"), "sha256").hex()
        for text in (prefix, f"{prefix}:{given}")
    )
    return owners[:SALT_OWNER_DIGITS] + whole[SALT_OWNER_DIGITS:]


def _account(key: ApiKey) -> Account:
    return Account(key, _digest(key.key))


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
