"""Answers over HTTP in one form, streamed or not, so that two ways of asking can be compared.

A stream's chunks are added up to the document that would have come without `stream`.
"""

import json
import urllib.request
from typing import Any

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
# What may differ between two equal answers: names, moments, and what a cache had.
_INCIDENTAL = ("created", "id", "kv_transfer_params", "system_fingerprint")

Json = dict[str, Any]


def ask(url: str, path: str, body: Json, key: str = "", headers: Json | None = None) -> Json:
    """Post a request, streaming if the body says so, and return the comparable document.

    Raises:
        urllib.error.HTTPError: a status that is not 2xx.
    """
    raw = post(url + path, body, key=key, headers=headers)
    document = added_up(events(raw)) if body.get("stream") else json.loads(raw)
    return comparable(document)


def post(url: str, body: Json, *, key: str = "", headers: Json | None = None) -> bytes:
    """Post JSON and return the answer's bytes.

    Raises:
        urllib.error.HTTPError: a status that is not 2xx.
    """
    request = urllib.request.Request(url, json.dumps(body).encode(), headers or {})  # noqa: S310  # loopback
    request.add_header("Content-Type", "application/json")
    if key:
        request.add_header("Authorization", f"Bearer {key}")
    with urllib.request.urlopen(request, timeout=120) as answer:  # noqa: S310
        return bytes(answer.read())


def events(raw: bytes) -> list[Json]:
    """Return the chunks of a stream.

    Raises:
        ValueError: it does not end with `[DONE]`.
    """
    found = [part[6:] for part in raw.split(b"\n\n") if part.startswith(b"data: ")]
    if not found or found[-1] != b"[DONE]":
        raise ValueError(f"the stream does not end with [DONE]: {raw[-300:]!r}")
    return [json.loads(part) for part in found[:-1]]


def added_up(chunks: list[Json]) -> Json:
    """Return the document that the chunks of one stream amount to."""
    choices: dict[int, Json] = {}
    usage: Json | None = None
    for chunk in chunks:
        if "error" in chunk:
            raise ValueError(f"an error in the stream: {chunk['error']}")
        usage = chunk.get("usage") or usage
        for part in chunk["choices"]:
            _add(choices.setdefault(part["index"], _empty(part)), part)
    ordered = [choices[index] for index in sorted(choices)]
    for choice in ordered:
        message = choice.get("message")
        if message is not None and not message["content"] and message.get("tool_calls"):
            message["content"] = None
    return {**chunks[0], "choices": ordered, "usage": usage}


def _empty(part: Json) -> Json:
    choice: Json = {"index": part["index"], "logprobs": None, "stop_reason": None}
    if "delta" in part:
        return {**choice, "message": {"role": "assistant", "content": "", "refusal": None}}
    return {**choice, "text": ""}


def _add(choice: Json, part: Json) -> None:
    choice["finish_reason"] = part["finish_reason"] or choice.get("finish_reason")
    choice["stop_reason"] = part.get("stop_reason") or choice["stop_reason"]
    if part.get("logprobs"):
        so_far = choice["logprobs"]
        choice["logprobs"] = _joined(so_far, part["logprobs"]) if so_far else part["logprobs"]
    if "text" in part:
        choice["text"] += part["text"]
        return
    delta, message = part["delta"], choice["message"]
    message["content"] += delta.get("content") or ""
    for piece in delta.get("tool_calls") or ():
        calls = message.setdefault("tool_calls", [])
        if piece["index"] == len(calls):
            first = {key: value for key, value in piece.items() if key != "index"}
            calls.append({**first, "function": {"arguments": "", **piece["function"]}})
        else:
            calls[piece["index"]]["function"]["arguments"] += piece["function"]["arguments"]


def _joined(one: Json, other: Json) -> Json:
    return {key: [*(one[key] or ()), *(other[key] or ())] or None for key in one}


def comparable(document: Json) -> Json:
    """Drop what may differ between equal answers."""
    kept = {key: value for key, value in document.items() if key not in _INCIDENTAL}
    kept.pop("object")
    usage = dict(kept.get("usage") or {})
    usage.pop("prompt_tokens_details", None)
    return {**kept, "usage": usage}


def without_logprobs(document: Json) -> Json:
    """Return the document with its log probabilities' numbers taken out."""
    return {
        **document,
        "choices": [{**choice, "logprobs": None} for choice in document["choices"]],
    }


def logprob_numbers(document: Json) -> list[dict[str, float]]:
    """Return, per position of all choices, the candidates and their log probabilities.

    A chosen token is kept apart, because among the alternatives ties may change places.
    """
    rows: list[dict[str, float]] = []
    for choice in document["choices"]:
        given = choice["logprobs"] or {}
        for entry in given.get("content") or ():
            top = {other["token"]: other["logprob"] for other in entry["top_logprobs"]}
            rows.append({**top, f"chosen {entry['token']}": entry["logprob"]})
        tops = given.get("top_logprobs") or [None] * len(given.get("tokens") or ())
        for token, value, top in zip(
            given.get("tokens") or (), given.get("token_logprobs") or (), tops, strict=True
        ):
            rows.append({**(top or {}), f"chosen {token}": 0.0 if value is None else value})
    return rows
