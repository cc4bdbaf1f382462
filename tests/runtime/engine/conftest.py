"""An engine whose model is arithmetic, and a transfer that does what the test says."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from steelyard_runtime.core.batch import StepPlan
from steelyard_runtime.core.blocks import BlockManager
from steelyard_runtime.core.limits import SchedulerConfig
from steelyard_runtime.core.scheduler import Scheduler
from steelyard_runtime.engine.engine import Engine
from steelyard_runtime.ipc.messages import Output, RemotePrefill
from steelyard_runtime.structured.service import GrammarService
from steelyard_runtime.testing.tiny_checkpoint import write_tiny_checkpoint
from steelyard_runtime.testing.undisturbed import Streams
from steelyard_runtime.transfer.interface import TransferEvent

VOCABULARY = 64
END = 0


def following(token: int, position: int) -> int:
    """The arithmetic model's likeliest token after `token` at `position`; never the end."""
    return 1 + (token * 5 + position * 3) % (VOCABULARY - 1)


class ArithmeticRunner:
    """Logits that depend on a token and its position alone."""

    runs_ahead = False

    def __init__(self) -> None:
        self.plans: list[StepPlan] = []

    def is_usable(self) -> bool:
        """Arithmetic always works."""
        return True

    def run(self, plan: StepPlan) -> Tensor:
        """Return one row a wanted position."""
        self.plans.append(plan)
        rows = []
        for item in plan.scheduled:
            for position in item.logit_positions:
                row = torch.linspace(0.0, 1.0, VOCABULARY)
                row[following(item.sequence.tokens[position], position)] = 3.0
                rows.append(row)
        return torch.stack(rows) if rows else torch.empty(0, VOCABULARY)


class Tokens:
    """A step's tokens; a test sees whether they were asked for."""

    def __init__(self, tokens: list[int]) -> None:
        self._tokens = tokens
        self.device_tokens = torch.tensor(tokens)
        self.read = False

    def tokens(self) -> list[int]:
        """Return them."""
        self.read = True
        return self._tokens


class AheadRunner(ArithmeticRunner):
    """One that launches steps whose tokens the host does not know."""

    runs_ahead = True

    def __init__(self) -> None:
        super().__init__()
        self.launched: list[tuple[StepPlan, Tokens]] = []

    def launch(self, plan: StepPlan, fed: Tensor | None) -> Tokens:
        """Compute the tokens at once, from what was fed."""
        known = (
            [item.sequence.tokens[item.start] for item in plan.scheduled]
            if fed is None
            else fed.tolist()
        )
        pending = Tokens(
            [
                following(token, item.start)
                for token, item in zip(known, plan.scheduled, strict=True)
            ]
        )
        self.plans.append(plan)
        self.launched.append((plan, pending))
        return pending


class ScriptedTransfer:
    """Records calls; the test puts the events."""

    port = 5600

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.pending: list[TransferEvent] = []

    def start(self) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""

    def export(self, request_id: str, block_ids: Sequence[int], num_tokens: int) -> dict[str, Any]:
        """Note the export."""
        self.calls.append(("export", request_id, tuple(block_ids), num_tokens))
        return {"remote_request_id": request_id}

    def hold(self, remote: RemotePrefill) -> None:
        """Note the hold."""
        self.calls.append(("hold", remote.request_id))

    def pull(
        self,
        request_id: str,
        remote: RemotePrefill,
        first_block: int,
        block_ids: Sequence[int],
        num_tokens: int,
    ) -> None:
        """Note the pull."""
        self.calls.append(("pull", request_id, first_block, tuple(block_ids), num_tokens))

    def cancel(self, request_id: str) -> None:
        """Note the cancellation."""
        self.calls.append(("cancel", request_id))

    def end_leases(self) -> None:
        """Note it; the test puts the events."""
        self.calls.append(("end_leases",))

    def release(self, remote: RemotePrefill) -> None:
        """Note the release."""
        self.calls.append(("release", remote.request_id))

    def events(self) -> list[TransferEvent]:
        """Return what the test put."""
        taken, self.pending = self.pending, []
        return taken

    def stats(self) -> tuple[dict[str, float], dict[str, float], dict[str, list[float]]]:
        """Return nothing."""
        return {}, {}, {}


class Rig:
    """An engine and what surrounds it."""

    def __init__(
        self, num_blocks: int = 64, max_num_batched_tokens: int = 32, *, ahead: bool = False
    ) -> None:
        self.runner = AheadRunner() if ahead else ArithmeticRunner()
        self.transfer = ScriptedTransfer()
        self.now_ns = 0
        self.scheduler = Scheduler(
            SchedulerConfig(
                max_num_seqs=8,
                max_num_batched_tokens=max_num_batched_tokens,
                max_waiting_requests=16,
                block_size=4,
                max_model_len=128,
                eos_token_ids=frozenset({END}),
            ),
            BlockManager(num_blocks),
        )
        self.engine = Engine(
            scheduler=self.scheduler,
            runner=self.runner,
            grammars=GrammarService(self._no_vocabulary),
            transfer=self.transfer,
            eos_token_ids=frozenset({END}),
            vocab_size=VOCABULARY,
            fingerprint="f" * 64,
            clock_ns=self._clock_ns,
        )

    @staticmethod
    def _no_vocabulary() -> Any:
        raise AssertionError("no grammar is used here")

    def _clock_ns(self) -> int:
        self.now_ns += 1
        return self.now_ns

    def run(self, max_steps: int = 200) -> dict[str, list[Output]]:
        """Step until nothing runs; returns all outputs by request."""
        outputs: dict[str, list[Output]] = {}
        for _ in range(max_steps):
            items = self.engine.step()
            for item in items:
                outputs.setdefault(item.request_id, []).append(item)
            if not items and not self.engine.ran:
                return outputs
        raise AssertionError("the engine does not come to rest")


@pytest.fixture(params=[False, True], ids=["in-step", "ahead"])
def make_rig(request: pytest.FixtureRequest) -> Callable[..., Rig]:
    """A maker of engines, such as wait for each step and such as launch the next one before."""
    return partial(Rig, ahead=request.param)


@pytest.fixture
def make_ahead() -> Callable[..., Rig]:
    """A maker of engines that launch the next step before they read the last."""
    return partial(Rig, ahead=True)


@pytest.fixture
def rig(make_rig: Callable[..., Rig]) -> Rig:
    """An engine with 64 blocks of 4 tokens."""
    return make_rig()


@pytest.fixture
def expected_tokens() -> Callable[[list[int], int], list[int]]:
    """What the arithmetic model generates greedily."""

    def generate(prompt: list[int], count: int) -> list[int]:
        tokens = list(prompt)
        for _ in range(count):
            tokens.append(following(tokens[-1], len(tokens) - 1))
        return tokens[len(prompt) :]

    return generate


@pytest.fixture(scope="session")
def streams(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Streams]:
    """A real engine with a tiny model; what eight streams get of it is known."""
    path = tmp_path_factory.mktemp("tiny")
    write_tiny_checkpoint(path)
    made = Streams(str(path))
    yield made
    made.rig.close()
