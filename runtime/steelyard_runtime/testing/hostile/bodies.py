"""Requests that are well-formed HTTP and mean harm by what they say."""

import json
import random
import zlib
from functools import cache
from typing import Any

from steelyard_runtime.testing.hostile.target import Target, post

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
HELLO = [{"role": "user", "content": "Hello!"}]

NAN, INFINITY = float("nan"), float("inf")
TINY = (5e-324, 1e-46, 1e-45, 1e-39, 1e-30, 1e-8)
# Each field's edges, inside and just outside of what the contract allows.
EXTREMES: dict[str, tuple[Any, ...]] = {
    "repetition_penalty": (*TINY, 0, -0.0, 100, 100.1, 3.4e38, 1e308, NAN),
    "temperature": (*TINY, 0, -0.0, 2, 2.0000001, 1e308, -1, INFINITY),
    "top_p": (*TINY, 1, 0, 1.0000001, -1, NAN),
    "min_p": (*TINY, 0, 1, 1.0000001, -INFINITY),
    "top_k": (-1, 0, 1, 2**31 - 1, 2**31, -2, 10**400),
    "presence_penalty": (-2, 2, 5e-324, -2.0001, NAN),
    "frequency_penalty": (-2, 2, 5e-324, 2.0001, INFINITY),
    "seed": (-(2**63), 2**63 - 1, 2**63, 0, 10**400),
    "logit_bias": (
        {"0": 100},
        {str(token): -100 for token in range(2000)},
        {"0": 5e-324},
        {"4294967295": 1},
        {"-1": 1},
        {"0": NAN},
    ),
    "min_tokens": (0, 8, 2**31 - 1, 2**63, -1),
    "stop_token_ids": ([0], list(range(256)), [2**32 - 1], [-1], [2**31 - 1]),
    "stop": ("\x00", "\ud800", ["a"] * 16, "", "x" * 1000),
    "n": (1, 4, 0, 129, 2**63),
}
# What ended workers: small numbers that become infinities under a filter.
DEADLY: tuple[dict[str, Any], ...] = (
    {"repetition_penalty": 1e-45, "top_p": 0.9},
    {"repetition_penalty": 1e-39, "min_p": 0.1},
    {"repetition_penalty": 1e-46, "temperature": 0, "response_format": {"type": "json_object"}},
    {"temperature": 5e-324, "logit_bias": {"0": 100}},
    {"repetition_penalty": 1e-45, "temperature": 1e-45, "top_k": 1},
    {"logit_bias": {str(token): -100 for token in range(2000)}, "min_p": 1},
)


def poison(target: Target, choose: random.Random) -> str:
    """Sampling fields at their extremes, alone and together."""
    if choose.random() < 0.5:
        fields = choose.choice(DEADLY)
    else:
        names = choose.sample(list(EXTREMES), choose.randint(1, 3))
        fields = {name: choose.choice(EXTREMES[name]) for name in names}
    body: dict[str, Any] = {"max_tokens": 8, "stream": choose.random() < 0.5, **fields}
    if choose.random() < 0.5:
        body |= {"prompt": "One two three", "logprobs": choose.choice([None, 0, 20, 21])}
        return post(_port(target, choose), COMPLETIONS, body, seconds=20)
    return post(_port(target, choose), CHAT, {"messages": HELLO, **body}, seconds=20)


PRIMES = (999_983, 1_000_003, 999_979, 500_009, 99_991, 7_368_787)


def slow_grammar(target: Target, choose: random.Random) -> str:
    """Schemas that compile for long, or not at all, whose client leaves after a second."""
    mark = f"m{choose.getrandbits(40):x}"  # no cache may help
    schemas: list[dict[str, Any]] = [
        {"type": "integer", "multipleOf": choose.choice(PRIMES) + 2 * choose.randrange(1000)},
        {"type": "integer", "multipleOf": choose.choice(PRIMES)},
        {"type": "object", "properties": {f"{mark}{i}": {"type": "string"} for i in range(10_000)}},
        {"allOf": [{"pattern": f".*{mark}{i}.*"} for i in range(30)]},
        {"type": "string", "pattern": f"({mark}a{{1,900}}){{1,900}}"},
        {"enum": [f"{mark}{i}" for i in range(50_000)]},
        {"anyOf": [{"const": f"{mark}{i}"} for i in range(5000)]},
        {"type": "array", "items": {"const": mark}, "minItems": 100_000},
        {"type": "string", "minLength": 100_000, "maxLength": 1_000_000, "title": mark},
    ]
    return post(_port(target, choose), CHAT, _schema(choose.choice(schemas)), seconds=1)


def wide_grammar(target: Target, choose: random.Random) -> str:
    """A tool and a schema of 500 properties, and a constant of a megabyte."""
    mark = f"m{choose.getrandbits(40):x}"
    names = [f"{mark}{i}" for i in range(choose.choice([300, 450, 500, 600, 1000]))]
    wide = {"type": "object", "properties": {name: {"type": "string"} for name in names}}
    tool = {"type": "function", "function": {"name": "f", "parameters": wide}}
    bodies: list[dict[str, Any]] = [
        _schema(wide),
        {"messages": HELLO, "max_tokens": 8, "tools": [tool], "tool_choice": "required"},
        _schema({"const": mark + "x" * 1_000_000}),
    ]
    return post(_port(target, choose), CHAT, choose.choice(bodies), seconds=5)


def _schema(schema: dict[str, Any]) -> dict[str, Any]:
    given = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
    return {"messages": HELLO, "max_tokens": 8, "response_format": given}


@cache
def _many_messages() -> bytes:
    message = '{"role":"user","content":""}'
    return ('{"messages":[' + ",".join([message] * 340_000) + '],"max_tokens":1}').encode()


@cache
def _many_parts() -> bytes:
    part = '{"type":"text","text":""}'
    parts = ",".join([part] * 370_000)
    return f'{{"messages":[{{"role":"user","content":[{parts}]}}],"max_tokens":1}}'.encode()


def many_messages(target: Target, choose: random.Random) -> str:
    """340,000 empty messages or parts in a body just below its limit."""
    body = choose.choice([_many_messages, _many_parts])()
    return post(_port(target, choose), CHAT, body, seconds=60)


@cache
def _bomb() -> bytes:
    packed = zlib.compressobj(9, wbits=31)
    head = packed.compress(b"") + packed.flush(zlib.Z_FULL_FLUSH)
    # After a full flush a block stands alone, so one may be sent again and again.
    block = packed.compress(b" " * (1 << 20)) + packed.flush(zlib.Z_FULL_FLUSH)
    return head + block * 2000 + packed.flush()


def compressed_bomb(target: Target, choose: random.Random) -> str:
    """Two gigabytes of blanks in two megabytes, without a key."""
    headers = {"Content-Encoding": choose.choice(["gzip", "gzip", "deflate"])}
    return post(_port(target, choose), COMPLETIONS, _bomb(), seconds=30, headers=headers)


def nested_body(target: Target, choose: random.Random) -> str:
    """Arrays and objects in one another, to both sides of the parsers' depths."""
    depth = choose.choice([60, 127, 200, 254, 255, 256, 1000, 10_000])
    opening, closing = choose.choice([("[", "]"), ('{"a":', "}"), ('[{"a":', "}]")])
    nested = opening * depth + "1" + closing * depth
    field = choose.choice(["metadata", "prompt", "stop", "logit_bias", "kv_transfer_params", "x"])
    schema = '"response_format":{"type":"json_schema","json_schema":{"name":"a","schema":%s}}'
    content = choose.choice([f'"{field}":{nested}', schema % nested, f'"tools":{nested}'])
    body = f'{{"messages":[{{"role":"user","content":"Hi"}}],"max_tokens":1,{content}}}'
    if choose.random() < 0.2:
        body = nested
    return post(_port(target, choose), CHAT, body.encode(), seconds=20)


def wrong_tokens(target: Target, choose: random.Random) -> str:
    """Token ids that there are not, wherever one may be given, and options of a wrong kind."""
    wrong = choose.choice([2**32 - 1, 2**31 - 1, 2**31, 2**32, -1, 49_152, 10**30, 0.5, True])
    prompt = {"prompt": "One two three", "max_tokens": 1}
    paths_bodies: list[tuple[str, dict[str, Any]]] = [
        (COMPLETIONS, {"prompt": [wrong], "max_tokens": 1}),
        (COMPLETIONS, {"prompt": [[1, 2], [wrong]], "max_tokens": 1}),
        (COMPLETIONS, {**prompt, "stop_token_ids": [wrong]}),
        (COMPLETIONS, {**prompt, "logit_bias": {str(wrong): 1}}),
        (COMPLETIONS, {**prompt, "steelyard": {"resume_token_ids": [wrong]}}),
        (COMPLETIONS, {**prompt, "stream": True, "stream_options": wrong}),
        (COMPLETIONS, {**prompt, "stream": True, "stream_options": {"include_usage": wrong}}),
        ("/detokenize", {"tokens": [1, wrong]}),
    ]
    path, body = choose.choice(paths_bodies)
    return post(_port(target, choose), path, body, seconds=20)


def dear_logprobs(target: Target, choose: random.Random) -> str:
    """Twenty alternatives for each of 3,000 tokens of a prompt that is given back."""
    text = " ".join(str(choose.randrange(10)) for _ in range(1500))
    body = {"prompt": text, "max_tokens": 1, "echo": True, "logprobs": 20}
    return post(_port(target, choose), COMPLETIONS, body, seconds=30)


TRANSFERS: tuple[Any, ...] = (
    {"do_remote_prefill": True},
    {"do_remote_prefill": True, "remote_host": "127.0.0.1", "remote_port": 1},
    {"do_remote_prefill": True, "remote_host": "10.255.255.1", "remote_port": 5600},
    {"do_remote_prefill": True, "remote_block_ids": [[2**63]], "remote_port": -1},
    {"do_remote_decode": True, "do_remote_prefill": True},
    {"do_remote_decode": "yes", "remote_engine_id": None},
    {"do_remote_prefill": True, "remote_request_id": "x" * 100_000, "remote_num_tokens": 2**62},
    [],
    "x",
)


def wrong_transfer(target: Target, choose: random.Random) -> str:
    """`kv_transfer_params` that a router would never send, also straight to workers."""
    given = choose.choice(TRANSFERS)
    if isinstance(given, dict) and choose.random() < 0.5:
        worker = choose.choice(target.workers)
        given = {
            "remote_block_ids": [[1, 2, 3]],
            "remote_engine_id": "nobody",
            "remote_request_id": f"{choose.getrandbits(64)}",
            "remote_host": "127.0.0.1",
            "remote_port": choose.choice([worker.kv, worker.serving]),
            "remote_num_tokens": 48,
            "tp_size": 1,
            "steelyard": {"fingerprint": "f" * 64},
            **given,
        }
    body = {"prompt": "One two three " * 20, "max_tokens": 1, "kv_transfer_params": given}
    ports = [*target.routers, *(worker.serving for worker in target.workers)]
    return post(choose.choice(ports), COMPLETIONS, body, seconds=20)


def resumed(target: Target, choose: random.Random) -> str:
    """A worker's own field `resume_token_ids` with what no router would send."""
    ids = choose.choice([[0] * 100_000, [2**32 - 1], [1], ["a"], None, [], list(range(3000))])
    body = {"prompt": "One two", "max_tokens": 4, "steelyard": {"resume_token_ids": ids}}
    return post(choose.choice(target.workers).serving, COMPLETIONS, body, seconds=20)


def broken_json(target: Target, choose: random.Random) -> str:
    """Bodies that are no JSON, or no text at all."""
    bodies = [
        b"",
        b"null",
        b"{" * 1000,
        b'{"prompt": "\xff\xfe"}',
        b'{"prompt": "\\ud800", "max_tokens": 1}',
        b'{"prompt": NaN, "max_tokens": Infinity}',
        b'{"max_tokens": ' + b"9" * 100_000 + b"}",
        choose.randbytes(1000),
        json.dumps({"prompt": ["a"] * 2049, "max_tokens": 1}).encode(),
        json.dumps({"messages": HELLO, "tools": [{"type": "function"}] * 129}).encode(),
    ]
    path = choose.choice([CHAT, COMPLETIONS, "/tokenize", "/detokenize"])
    return post(_port(target, choose), path, choose.choice(bodies), seconds=20)


def _port(target: Target, choose: random.Random) -> int:
    """Return mostly the port of the router without keys, now and then another."""
    if (drawn := choose.random()) < 0.9:
        return target.routers[0 if drawn < 0.75 else -1]
    return choose.choice(target.workers).serving
