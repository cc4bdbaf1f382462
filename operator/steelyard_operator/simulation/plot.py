"""A picture of a simulation: the load, and the workers that each policy had for it."""

from collections.abc import Sequence
from pathlib import Path

from steelyard_operator.errors import UserError
from steelyard_operator.simulation.outcome import Outcome
from steelyard_operator.simulation.traces import Request

BIN_SECONDS = 60.0


def check(path: Path) -> None:
    """Refuse a file that could not be written, before anything is simulated.

    Raises:
        UserError: matplotlib is missing, or the folder.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise UserError(
            "--plot needs matplotlib, which is not installed: pip install 'steelyard[plot]'"
        ) from None
    if path.suffix != ".png":
        raise UserError(f"--plot must name a .png file, got '{path}'")
    if not path.parent.is_dir():
        raise UserError(f"--plot: there is no folder '{path.parent}'")


def plot(path: Path, requests: Sequence[Request], outcomes: Sequence[Outcome]) -> None:
    """Write one panel for the load and one a policy, over the minutes of the trace.

    Args:
        path: of the PNG.
        requests: in order of arrival.
        outcomes: one or more.

    Raises:
        UserError: the file cannot be written.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 2.2 * (1 + len(outcomes))), layout="constrained")
    panels = figure.subplots(1 + len(outcomes), 1, sharex=True, squeeze=False)[:, 0]
    minutes, input_rate, output_rate = load(requests)
    panels[0].plot(minutes, input_rate, label="input")
    panels[0].plot(minutes, output_rate, label="output")
    panels[0].set_ylabel("tokens/s")
    panels[0].set_title("arrivals")
    panels[0].legend(loc="upper right")
    for panel, outcome in zip(panels[1:], outcomes, strict=True):
        times = [time / 60 for time, _, _ in outcome.splits]
        panel.step(times, [prefill for _, prefill, _ in outcome.splits], label="prefill")
        panel.step(times, [decode for _, _, decode in outcome.splits], label="decode")
        panel.set_ylabel("workers")
        panel.set_ylim(bottom=0)
        panel.legend(loc="upper right")
        hours = outcome.worker_seconds / 3600
        panel.set_title(
            f"{outcome.policy}: {outcome.attainment:.1%} inside the objectives, "
            f"{hours:.1f} accelerator-hours, {outcome.moves} moves"
        )
    panels[-1].set_xlabel("minutes")
    try:
        figure.savefig(path, dpi=100)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None


def load(requests: Sequence[Request]) -> tuple[list[float], list[float], list[float]]:
    """Return minutes, and the input and output tokens/s that arrived in each minute."""
    count = int(requests[-1].at // BIN_SECONDS) + 1
    inputs, outputs = [0.0] * count, [0.0] * count
    for request in requests:
        place = int(request.at // BIN_SECONDS)
        inputs[place] += request.input_tokens / BIN_SECONDS
        outputs[place] += request.output_tokens / BIN_SECONDS
    return [place * BIN_SECONDS / 60 for place in range(count)], inputs, outputs
