"""The parser of answers that are nothing but content."""

from steelyard_runtime.tokenization.parsers.base import ParsedDelta


class PlainParser:
    """Passes text through."""

    def push(self, text: str) -> ParsedDelta:
        """Take new text."""
        return ParsedDelta(content=text)

    def finish(self) -> ParsedDelta:
        """Return nothing: nothing is held back."""
        return ParsedDelta()
