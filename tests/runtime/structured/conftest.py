"""A byte-level vocabulary, grammars over it, and schemas that cost more than they look."""

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from steelyard_runtime.core.params import Grammar
from steelyard_runtime.errors import RequestError
from steelyard_runtime.structured.grammar import GrammarState
from steelyard_runtime.structured.matchers import GrammarVocabulary
from steelyard_runtime.structured.service import GrammarService

END = 256
DEADLINE_SECONDS = 60.0


class Rig:
    """A service and its wake-ups."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.woken = threading.Event()
        self.service = GrammarService(
            # Padded, as models pad theirs.
            lambda: GrammarVocabulary(tokenizer.to_str(), 260, (END,)),
            wake=self.woken.set,
        )
        self.made: dict[str, GrammarState | RequestError] = {}

    def ask(self, request_id: str, grammar: Grammar, client: str = "") -> None:
        """Request a grammar."""
        self.service.request(request_id, grammar, client=client)

    def wait_for(self, *request_ids: str) -> list[GrammarState | RequestError]:
        """Return what became of these requests."""
        ends_at = time.monotonic() + DEADLINE_SECONDS
        while True:
            self.made |= self.service.take()
            if all(each in self.made for each in request_ids):
                return [self.made.pop(each) for each in request_ids]
            assert time.monotonic() < ends_at, "no answer came"
            self.woken.wait(0.05)
            self.woken.clear()

    def state(self, grammar: Grammar, token_ids: Sequence[int] = ()) -> GrammarState:
        """Return a state that has taken the tokens in.

        Raises:
            RequestError: the grammar was refused.
        """
        name = f"state-{time.monotonic_ns()}"
        self.service.request(name, grammar, client="", token_ids=token_ids)
        (result,) = self.wait_for(name)
        if isinstance(result, RequestError):
            raise result
        return result


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    """256 byte tokens and an end of sequence."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE({letter: index for index, letter in enumerate(alphabet)}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken("<end>", special=True)])
    return made


@pytest.fixture(scope="session")
def rig(tokenizer: Tokenizer) -> Iterator[Rig]:
    """A service that all tests share: its process starts once."""
    made = Rig(tokenizer)
    yield made
    made.service.close()


@pytest.fixture
def make_rig(tokenizer: Tokenizer) -> Iterator[Callable[[], Rig]]:
    """A maker of services of a test's own."""
    rigs: list[Rig] = []

    def make() -> Rig:
        rigs.append(Rig(tokenizer))
        return rigs[-1]

    yield make
    for each in rigs:
        each.service.close()


def chain(links: int) -> str:
    """Return a schema of references, one to the next: compiling it recurses as deeply."""
    definitions = {f"a{i}": {"allOf": [{"$ref": f"#/$defs/a{i + 1}"}]} for i in range(links)}
    definitions[f"a{links}"] = {"type": "string"}  # type: ignore[dict-item]
    return json.dumps({"$defs": definitions, "$ref": "#/$defs/a0"})


@pytest.fixture(scope="session")
def hostile() -> dict[str, str]:
    """Schemas that cost seconds, gigabytes or the process, by what they do."""
    return {
        "multiple": json.dumps({"type": "integer", "multipleOf": 999_983}),
        "wide": json.dumps(
            {"type": "object", "properties": {f"k{i}": {"type": "string"} for i in range(10_000)}}
        ),
        "patterns": json.dumps(
            {
                "type": "string",
                "allOf": [{"type": "string", "pattern": f".*a{{{i + 1}}}.*b"} for i in range(30)],
            }
        ),
        "long": json.dumps({"const": "x" * 1_000_000}),
        "const": json.dumps({"const": "x" * 400_000}),
        "chain": chain(8_000),
        "nested": "[" * 100_000,
        "itself": json.dumps({"$ref": "#"}),
    }
