"""The model's vocabulary as llguidance wants it, read once for the engine and its trial process."""

import logging
import threading
from collections.abc import Callable

import llguidance

from steelyard_runtime.errors import RequestError
from steelyard_runtime.structured.matchers import GrammarVocabulary, make_tokenizer, one_line

log = logging.getLogger(__name__)


class Vocabulary:
    """Read at the first use, or before by `prepare`; any thread."""

    def __init__(self, read: Callable[[], GrammarVocabulary]) -> None:
        self._read = read
        self._lock = threading.Lock()
        self._known: GrammarVocabulary | None = None
        self._tokenizer: llguidance.LLTokenizer | None = None
        self._unusable = ""  # why it cannot be read

    def prepare(self) -> None:
        """Read it: 0.3 s with the GIL held, which no stream should meet later.

        Where llguidance cannot, grammars are refused from now on.
        """
        try:
            self.tokenizer()
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            self._unusable = one_line(str(error))
            log.warning("grammars are refused", extra={"fields": {"reason": self._unusable}})

    def check(self, field: str) -> None:
        """Refuse a grammar where the vocabulary cannot be read.

        Raises:
            RequestError: it cannot (400).
        """
        if self._unusable:
            raise RequestError(
                f"`{field}` is not supported with this model's tokenizer: {self._unusable}",
                param=field,
            )

    def __call__(self) -> GrammarVocabulary:
        """Return it."""
        with self._lock:
            if self._known is None:
                self._known = self._read()
            return self._known

    def tokenizer(self) -> llguidance.LLTokenizer:
        """Return llguidance's view of it."""
        vocabulary = self()
        with self._lock:
            if self._tokenizer is None:
                self._tokenizer = make_tokenizer(vocabulary)
            return self._tokenizer
