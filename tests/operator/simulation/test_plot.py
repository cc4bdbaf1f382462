"""`steelyard simulate --plot`: a picture of the load and of each policy's workers."""

import sys
from pathlib import Path

import pytest

from steelyard_operator.cli import main
from steelyard_operator.simulation.plot import load
from steelyard_operator.simulation.traces import Request

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    """Ten minutes of even arrivals."""
    lines = [
        f'{{"timestamp": {second * 1000}, "input_length": 500, "output_length": 50}}'
        for second in range(600)
    ]
    path = tmp_path / "trace.jsonl"
    path.write_text("\n".join(lines))
    return path


def simulate(trace: Path, plot: Path) -> int:
    profile = ["--profile", "gpt-oss-20b-h100", "--policy", "static,steelyard", "--start", "1+1"]
    return main(["simulate", "--trace", str(trace), *profile, "--plot", str(plot)])


def test_a_picture_is_written(trace: Path, tmp_path: Path) -> None:
    """As PNG, taller the more policies there are."""
    assert simulate(trace, tmp_path / "split.png") == 0

    written = (tmp_path / "split.png").read_bytes()
    assert written.startswith(PNG)
    width, height = int.from_bytes(written[16:20]), int.from_bytes(written[20:24])
    assert (width, height) == (1000, 660)


def test_the_load_is_in_tokens_a_second() -> None:
    """Of each minute, by the minute of arrival."""
    requests = [Request(0.0, 600, 60), Request(59.0, 600, 60), Request(60.0, 1200, 0)]

    assert load(requests) == ([0.0, 1.0], [20.0, 20.0], [2.0, 0.0])


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("split.pdf", "--plot must name a .png file, got '"),
        ("nowhere/split.png", "--plot: there is no folder '"),
    ],
)
def test_a_file_that_cannot_be_is_refused_before_the_simulation(
    trace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, sentence: str
) -> None:
    """One sentence, exit code 2, and nothing was played."""
    assert simulate(trace, tmp_path / name) == 2

    said = capsys.readouterr().err
    assert said.startswith(f"steelyard: {sentence}")
    assert said.count("\n") == 1


def test_a_missing_library_is_named(
    trace: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With the way to get it."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)

    assert simulate(trace, tmp_path / "split.png") == 2
    assert "pip install 'steelyard[plot]'" in capsys.readouterr().err
