"""The processes that a document asks for: a pure function of the document and the machine."""

from decimal import Decimal
from pathlib import Path

import pytest

from steelyard_operator.api.load import load
from steelyard_operator.local.desired import (
    PORTS_PER_WORKER,
    Addresses,
    Desired,
    desired,
    worker_count,
)

TEXT = """
apiVersion: steelyard.dev/v1alpha1
kind: InferenceService
metadata: {{name: s}}
spec:
  model: {{uri: "file:///m.gguf"}}
  prefill: {{replicas: {prefill}}}
  decode: {{replicas: {decode}, tensorParallel: 2}}
  rebalancing: {{flip: Disabled}}
  cost: {{acceleratorHourly: "1.50", currency: EUR}}
"""


def processes(prefill: int, decode: int, cores: int = 8) -> Desired:
    """Return what a service of so many workers needs."""
    service = load(TEXT.format(prefill=prefill, decode=decode), "f.yaml")
    addresses = Addresses(
        host="127.0.0.1",
        router_port=8080,
        worker_ports=range(20000, 20000 + PORTS_PER_WORKER * worker_count(service)),
        token_file=Path("/scratch/token"),
        membership_file=Path("/scratch/members"),
    )
    return desired(service, addresses, cores=cores)


def flag(wanted: Desired, number: int, name: str) -> str:
    """Return the value of a flag of a worker."""
    command = wanted.workers[number].wanted.container.command
    return command[command.index(name) + 1]


def test_workers_are_named_as_budget_slots() -> None:
    """Names are `<service>-<n>`, prefill first, as the pods' will be."""
    wanted = processes(2, 1)

    assert [process.name for process in wanted.processes] == ["s-0", "s-1", "s-2", "s-router"]
    assert [flag(wanted, n, "--role") for n in range(3)] == ["prefill", "prefill", "decode"]


def test_no_two_processes_share_a_port() -> None:
    """Each worker has three ports of its own."""
    wanted = processes(2, 2)
    flags = ("--port", "--admin-port", "--kv-port")
    ports = [flag(wanted, number, name) for number in range(4) for name in flags]

    assert len(set(ports)) == 12


@pytest.mark.parametrize(("cores", "threads"), [(8, "2"), (7, "1"), (1, "1")])
def test_workers_share_the_cores(cores: int, threads: str) -> None:
    """Threads are the cores over the workers, and at least one."""
    assert flag(processes(2, 2, cores), 0, "--threads") == threads


def test_prefill_stops_last() -> None:
    """Streams end in the router, then in decode, whose pulls end in prefill."""
    assert processes(1, 2).stop_order == (("s-router",), ("s-1", "s-2"), ("s-0",))


def test_the_price_is_that_of_all_accelerators() -> None:
    """Idle workers and every rank of a worker count."""
    price = processes(1, 2).price

    assert price is not None
    assert price.hourly == Decimal("7.50")
    assert price.currency == "EUR"
