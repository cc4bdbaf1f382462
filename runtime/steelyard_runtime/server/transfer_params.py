"""`kv_transfer_params` of a request: vLLM's NixlConnector exchange (docs/contract.md section 2)."""

from typing import Any

from steelyard_runtime.errors import RequestError
from steelyard_runtime.ipc.messages import RemotePrefill

_FIELD = "kv_transfer_params"
_MAX_BLOCK_ID = 2**31 - 1
# Two million tokens in blocks of 16.
_MAX_BLOCK_IDS = 131_072
_MAX_GROUPS = 64


def wants_export(params: dict[str, Any] | None) -> bool:
    """Whether this worker is to prefill for another one.

    Raises:
        RequestError: the flags are of a wrong type, or both directions are asked for.
    """
    if not params:
        return False
    for name in ("do_remote_decode", "do_remote_prefill"):
        if not isinstance(params.get(name, False), bool | None):
            raise _wrong(name, "must be true or false")
    if params.get("do_remote_decode") and params.get("do_remote_prefill"):
        raise _wrong("do_remote_decode", "may not be true when `do_remote_prefill` is")
    return bool(params.get("do_remote_decode"))


def remote_prefill(params: dict[str, Any] | None) -> RemotePrefill | None:
    """Return where the prompt's blocks are, or None where there is nothing to pull.

    Raises:
        RequestError: a field is missing or of a wrong type.
    """
    if not params or not params.get("do_remote_prefill"):
        return None
    own = params.get("steelyard")
    if own is not None and not isinstance(own, dict):
        raise _wrong("steelyard", "must be an object")
    fingerprint = (own or {}).get("fingerprint")
    if fingerprint is not None and not isinstance(fingerprint, str):
        raise _wrong("steelyard.fingerprint", "must be a text")
    num_tokens = params.get("remote_num_tokens")
    if num_tokens is not None:
        num_tokens = _integer("remote_num_tokens", num_tokens, 0, _MAX_BLOCK_ID)
    return RemotePrefill(
        engine_id=_text(params, "remote_engine_id"),
        request_id=_text(params, "remote_request_id"),
        host=_text(params, "remote_host"),
        port=_integer("remote_port", params.get("remote_port"), 1, 65535),
        block_ids=_block_ids(params.get("remote_block_ids")),
        num_tokens=num_tokens,
        fingerprint=fingerprint,
    )


def _text(params: dict[str, Any], name: str) -> str:
    value = params.get(name)
    if not isinstance(value, str) or not 1 <= len(value) <= 512:
        raise _wrong(name, "must be a text of 1 to 512 characters")
    return value


def _integer(name: str, value: Any, low: int, high: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise _wrong(name, f"must be an integer from {low} to {high}")
    return value


def _block_ids(value: Any) -> list[list[int]]:
    groups = value if isinstance(value, list) else None
    if groups is not None and groups and not isinstance(groups[0], list):
        groups = [groups]  # Older peers send the only group bare.
    if groups is None or not all(isinstance(group, list) for group in groups):
        raise _wrong("remote_block_ids", "must be an array of arrays of block ids")
    if len(groups) > _MAX_GROUPS or sum(map(len, groups)) > _MAX_BLOCK_IDS:
        raise _wrong(
            "remote_block_ids",
            f"may have at most {_MAX_BLOCK_IDS} block ids in at most {_MAX_GROUPS} arrays",
        )
    return [[_integer("remote_block_ids", i, 0, _MAX_BLOCK_ID) for i in group] for group in groups]


def _wrong(name: str, what: str) -> RequestError:
    path = f"{_FIELD}.{name}"
    return RequestError(f"`{path}` {what}", param=path, code="invalid_kv_transfer_params")
