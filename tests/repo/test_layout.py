"""The layout's rules: nothing shadows the standard library, and no file holds two ideas."""

import importlib.util
import subprocess
import sys
import sysconfig
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
MAX_LINES = 400
SOURCES = sorted(
    path
    for folder in ("operator", "runtime", "kernels", "tests", "e2e")
    for suffix in ("*.py", "*.cpp", "*.h", "*.cu", "*.cuh")
    for path in (ROOT / folder).rglob(suffix)
)


@pytest.fixture
def guard() -> ModuleType:
    """The layout guard of tests/conftest.py."""
    spec = importlib.util.spec_from_file_location("guard", ROOT / "tests/conftest.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    "stray", ["operator/types.py", "runtime/__init__.py", "tests/operator/__init__.py"]
)
def test_the_guard_names_a_stray_module(guard: ModuleType, tmp_path: Path, stray: str) -> None:
    """A module where only package folders may stand is found before the tests start."""
    (tmp_path / stray).parent.mkdir(parents=True)
    (tmp_path / stray).touch()

    assert guard.strays(tmp_path) == [stray]


@pytest.mark.parametrize("folder", [".", "operator", "runtime", "kernels", "tests", "e2e"])
def test_the_standard_librarys_operator_is_not_shadowed(folder: str) -> None:
    """`import operator` is Python's own, wherever a command is started."""
    # -S: site hooks could hide the mistake.
    command = [sys.executable, "-S", "-c", "import operator; print(operator.__file__)"]
    (ROOT / folder).mkdir(exist_ok=True)
    found = subprocess.run(command, cwd=ROOT / folder, capture_output=True, text=True, check=True)

    assert Path(found.stdout.strip()).parent == Path(sysconfig.get_path("stdlib"))


def test_files_are_short() -> None:
    """A file of more than 400 lines holds two ideas."""
    lines = {str(p.relative_to(ROOT)): len(p.read_text().splitlines()) for p in SOURCES}

    assert {name: count for name, count in lines.items() if count > MAX_LINES} == {}


def test_tests_are_no_packages() -> None:
    """With importlib mode an `__init__.py` among the tests changes what names mean."""
    assert list((ROOT / "tests").rglob("__init__.py")) == []


def test_every_package_is_typed() -> None:
    """Each package carries `py.typed`, so users get real types."""
    packages = [path.parent for path in ROOT.glob("*/steelyard_*/__init__.py")]

    assert len(packages) == 3
    assert [path.name for path in packages if not (path / "py.typed").exists()] == []
