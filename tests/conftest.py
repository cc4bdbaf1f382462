"""Stops pytest before a stray module can shadow the standard library; calms property tests."""

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

ROOT = Path(__file__).parent.parent

CONTAINERS = ("operator", "runtime", "kernels")
TEST_FOLDERS = ("tests/operator", "tests/runtime", "tests/kernels")


def strays(root: Path) -> list[str]:
    """Return the modules that stand where only package folders may."""
    found = [path for name in CONTAINERS for path in (root / name).glob("*.py")]
    found += [path for name in TEST_FOLDERS for path in (root / name).glob("__init__.py")]
    return sorted(str(path.relative_to(root)) for path in found)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options of `tests/chaos`; pytest reads options of this file only."""
    group = parser.getgroup("chaos")
    group.addoption("--repetitions", type=int, default=2, help="how often each fault strikes")
    group.addoption(
        "--chaos-setups",
        default="tiny-tcp,tiny-nixl",
        help="checkpoint and transport of each service: {tiny,smollm2}-{tcp,nixl,nixl_over_tcp}",
    )
    group.addoption(
        "--hostile-minutes", type=float, default=2.0, help="for how long hostile clients attack"
    )
    group.addoption("--hostile-attacks", help="some of the attacks, with commas; all if not given")
    group.addoption("--hostile-seed", type=int, help="of the attackers' choices; printed")
    group.addoption("--chaos-report", help="where to write what each fault did, as JSON")


def pytest_configure() -> None:
    """Fail before collection, with a message that names the offending file."""
    # As in the engine process: threads that wait by spinning stop each other on a busy machine.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    # A busy machine is no failure; nothing here asserts on time.
    calm = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.register_profile("calm", calm)
    settings.load_profile("calm")
    if names := strays(ROOT):
        raise pytest.UsageError(
            f"container folders must not hold modules (stdlib shadowing): {', '.join(names)}"
        )
