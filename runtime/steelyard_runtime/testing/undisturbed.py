"""Eight streams of a real engine that must not change, whatever runs or breaks beside them."""

from collections.abc import Callable
from typing import Any

from steelyard_runtime.core.params import Grammar, SamplingParams
from steelyard_runtime.ipc.messages import AddRequest
from steelyard_runtime.testing.engines import Answer, EngineRig

JSON = Grammar("json_object")
PROMPT_TOKENS = 20  # more than one block, so that some of it is published
MAX_TOKENS = 4

# The streams that must not change, one for each way through a step.
STREAMS: list[dict[str, Any]] = [
    {"temperature": 0.0},
    {"temperature": 0.0, "logprobs": 2},
    {"temperature": 0.8, "seed": 1},
    {"temperature": 1.0, "seed": 2, "top_p": 0.9},
    {"temperature": 1.0, "seed": 3, "min_p": 0.05, "top_k": 40},
    {"temperature": 0.0, "repetition_penalty": 1.2, "prompt_logprobs": 1},
    {"temperature": 0.7, "seed": 4, "presence_penalty": 0.5, "logit_bias": {7: 3.0}},
    {"temperature": 0.6, "seed": 5, "grammar": JSON},
]


class Panic(BaseException):
    """What a native library's panic is to Python: no `Exception`."""


class Streams:
    """One engine, and what eight streams get of it when nothing disturbs them."""

    def __init__(self, path: str) -> None:
        self.rig = EngineRig(
            path,
            threads=1,
            max_num_seqs=64,
            num_blocks=512,
            max_num_batched_tokens=512,
            max_model_len=64,
        )
        self.engine = self.rig.engine
        self._runs = 0
        self.expected = self.run(STREAMS)[0]
        self.expected_plain = self.run([{"temperature": 0.0}] * 8)[0]

    def run(
        self, streams: list[dict[str, Any]], *victims: AddRequest
    ) -> tuple[list[list[int] | None], dict[str, Answer]]:
        """Return the streams' tokens (None: failed) and the victims' answers, beside each other."""
        self._runs += 1
        self.engine.reset_prefix_cache()
        names = [f"{self._runs}-{index}" for index in range(len(streams))]
        for index, (name, fields) in enumerate(zip(names, streams, strict=True)):
            params = SamplingParams(**{"max_tokens": MAX_TOKENS, "ignore_eos": True, **fields})
            self.engine.add(AddRequest(name, prompt(index), params))
        for victim in victims:
            self.engine.add(victim)
        answers = self.rig.finish({*names, *(victim.request_id for victim in victims)})
        self.rig.wait_until_settled()
        tokens = [
            None if answers[name].last.finish_reason == "error" else answers[name].token_ids
            for name in names
        ]
        return tokens, answers


def prompt(index: int) -> list[int]:
    """A prompt of its own for each stream."""
    return [
        (index * 977 + 31 * position * position + 5) % 40000 for position in range(PROMPT_TOKENS)
    ]


def victim(name: str, fields: dict[str, Any], **more: Any) -> AddRequest:
    """A request that may harm itself alone."""
    token_ids = more.pop("token_ids", prompt(20))
    return AddRequest(name, token_ids, SamplingParams(**{"max_tokens": 3, **fields}), **more)


def raise_once(
    replace: Callable[[Any, str, Any], None],
    owner: Any,
    name: str,
    at_call: int,
    error: BaseException,
) -> Callable[[], int]:
    """Let the given call of a function raise; returns how often it was called.

    Args:
        replace: sets an attribute for the length of the test (`monkeypatch.setattr`).
        owner: the module or class that has the function.
        name: of the function.
        at_call: which of its calls raises; the first is 1.
        error: what it raises.
    """
    original = owner.__dict__[name] if isinstance(owner, type) else getattr(owner, name)
    calls = 0

    def wrapped(*arguments: Any, **more: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == at_call:
            raise error
        function = original.__func__ if isinstance(original, classmethod) else original
        return function(*arguments, **more)

    is_classmethod = isinstance(original, classmethod)
    replace(owner, name, classmethod(wrapped) if is_classmethod else wrapped)
    return lambda: calls
