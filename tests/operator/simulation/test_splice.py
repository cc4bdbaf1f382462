"""A spliced trace: whose turn it is, how one kind of traffic fades into the other."""

from pathlib import Path

import pytest

from steelyard_operator.errors import UserError
from steelyard_operator.simulation.splice import main, splice, write
from steelyard_operator.simulation.traces import Request, read_trace


def test_a_splice_takes_parts_of_two_traces_by_turns() -> None:
    """Each trace goes on where its last part ended."""
    first = [Request(float(at), 10, 1) for at in range(240)]
    second = [Request(float(at), 1000, 1) for at in range(0, 240, 2)]

    made = splice(first, second, 60.0, 4)

    lengths = [each.input_tokens for each in made]
    assert lengths == [10] * 60 + [1000] * 30 + [10] * 60 + [1000] * 30
    assert [each.at for each in made] == sorted(each.at for each in made)
    assert made[60].at == 60.0
    with pytest.raises(UserError, match="too short for 3 parts of 100 s"):
        splice(first, second, 100.0, 5)


def test_a_written_splice_is_a_trace(tmp_path: Path) -> None:
    """It is read again as it was."""
    made = [Request(0.0, 5, 6), Request(1.5, 7, 8)]
    file = tmp_path / "splice.csv"
    with file.open("w", encoding="utf-8") as target:
        write(made, target)

    assert read_trace(file) == made


def test_one_trace_fades_into_the_other() -> None:
    """Around a turn both come, together about as often as each alone; the ends are whole."""
    first = [Request(at / 10, 10, 1) for at in range(2400)]
    second = [Request(at / 10, 1000, 1) for at in range(2400)]

    made = splice(first, second, 60.0, 4, fade_seconds=20.0)

    def came(begin: float, end: float) -> tuple[int, int]:
        lengths = [each.input_tokens for each in made if begin <= each.at < end]
        return lengths.count(10), lengths.count(1000)

    assert [each.at for each in made] == sorted(each.at for each in made)
    assert came(0, 50) == (500, 0)
    assert came(70, 110) == (0, 400)
    assert came(190, 240) == (0, 500)
    before, after = came(50, 60), came(60, 70)
    assert 60 <= before[0] <= 90
    assert 10 <= before[1] <= 40
    assert after[0] < 50 < after[1]


def test_writing_has_long_answers_and_reading_long_prompts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`--first-writes` and `--second-reads` leave the others out."""
    for name, requests in (
        ("first", [Request(float(at), 10, 20 if at % 2 else 5) for at in range(130)]),
        ("second", [Request(float(at), 800, 100 if at % 2 else 101) for at in range(130)]),
    ):
        with (tmp_path / name).open("w", encoding="utf-8") as file:
            write(requests, file)

    traces = [str(tmp_path / name) for name in ("first", "second")]
    code = main([*traces, "--first-writes", "--second-reads", "--minutes", "1", "--parts", "2"])

    assert code == 0
    (tmp_path / "made").write_text(capsys.readouterr().out)
    made = read_trace(tmp_path / "made")
    assert {each.output_tokens for each in made} == {20, 100}
