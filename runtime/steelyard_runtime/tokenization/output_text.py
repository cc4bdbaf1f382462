"""The text of one output as the client sees it: detokenised, and cut at stop strings."""

from collections.abc import Sequence
from dataclasses import dataclass

from steelyard_runtime.tokenization.detokenizer import Detokenizer
from steelyard_runtime.tokenization.stop_strings import StopChecker
from steelyard_runtime.tokenization.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class OutputDelta:
    """New text, and how many of the pushed tokens were read before a stop string matched.

    `stop` is the matched stop string: the engine is then told to abort, later tokens are ignored.
    """

    text: str
    num_tokens: int
    stop: str | None = None


class OutputText:
    """Detokenises one sequence's output and looks for its stop strings.

    Built from the ids that were already sent, it goes on exactly where the text stopped.
    """

    __slots__ = ("_detokenizer", "_stops", "_unchecked", "stopped")

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        stop: Sequence[str] = (),
        include_stop_str_in_output: bool = False,
        skip_special_tokens: bool = True,
        min_tokens: int = 0,
        resumed: Sequence[int] = (),
    ) -> None:
        self._detokenizer = Detokenizer(tokenizer, skip_special_tokens=skip_special_tokens)
        self._stops = StopChecker(stop, include_stop_str_in_output=include_stop_str_in_output)
        self._unchecked = min_tokens  # tokens that no stop string may end
        self.stopped: str | None = None
        self.push(resumed)

    def push(self, token_ids: Sequence[int], final: bool = False) -> OutputDelta:
        """Return the text that these tokens bring; `final`: nothing follows, hold nothing back."""
        pieces: list[str] = []
        for count, token_id in enumerate(token_ids, 1):
            if self.stopped is not None:
                return OutputDelta("", 0, self.stopped)
            text = self._detokenizer.push(token_id)
            if self._unchecked > 0:
                self._unchecked -= 1
                pieces.append(text)
                continue
            checked = self._stops.push(text)
            pieces.append(checked.text)
            if checked.stop is not None:
                self.stopped = checked.stop
                return OutputDelta("".join(pieces), count, checked.stop)
        if final and self.stopped is None:
            checked = self._stops.push(self._detokenizer.finish())
            pieces.append(checked.text)
            self.stopped = checked.stop
            if checked.stop is None:
                pieces.append(self._stops.finish())
        return OutputDelta("".join(pieces), len(token_ids), self.stopped)
