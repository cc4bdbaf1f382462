"""Grammars of requests: tried, compiled, cached, handed over ready for their first token.

The step thread asks (`request`), goes on, and takes what is done (`take`); what costs time is done
in the trial process (`trials.py`) and on threads (`lanes.py`). A request waits here, outside the
scheduler. Requests of one grammar share its trial and its compiling.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from steelyard_runtime.core.params import Grammar, check_length
from steelyard_runtime.errors import RequestError
from steelyard_runtime.structured import bounds
from steelyard_runtime.structured.compiled import Compiled, CompiledCache, LiveMemory
from steelyard_runtime.structured.grammar import GrammarState
from steelyard_runtime.structured.lanes import Lanes, Strand
from steelyard_runtime.structured.matchers import GrammarVocabulary, make_matcher
from steelyard_runtime.structured.refusals import Refusals, refusal, unavailable
from steelyard_runtime.structured.trial import TrialOutcome
from steelyard_runtime.structured.trial_queue import Digest, NewGrammar, TrialLane, digest_of
from steelyard_runtime.structured.trials import TRIAL_COMMAND, Trials
from steelyard_runtime.structured.vocabulary import Vocabulary


@dataclass(frozen=True, slots=True)
class _Waiting:
    digest: Digest
    since_seconds: float


class GrammarService:
    """All grammars of one engine; `request`, `cancel` and `take` are the step thread's."""

    def __init__(
        self,
        read_vocabulary: Callable[[], GrammarVocabulary],
        *,
        wake: Callable[[], None] = lambda: None,
        clock_seconds: Callable[[], float] = time.monotonic,
        trial_command: Sequence[str] = TRIAL_COMMAND,
    ) -> None:
        """Read and start nothing yet.

        Args:
            read_vocabulary: called once.
            wake: called from other threads when there is something to `take`, and when a mask is
                there that a step found missing.
            clock_seconds: a clock.
            trial_command: the trial process's.
        """
        self._wake = wake
        self._clock_seconds = clock_seconds
        self._vocabulary = Vocabulary(read_vocabulary)
        self._lanes = Lanes()
        self.trials = Trials(self._vocabulary, self._on_outcome, trial_command)
        # Over what follows; held for bookkeeping alone, and taken again under itself.
        self._lock = threading.RLock()
        self._quick = TrialLane(bounds.QUICK_CPU_SECONDS)
        self._slow = TrialLane(bounds.TRIAL_CPU_SECONDS)
        self._new: dict[Digest, NewGrammar] = {}
        self._waiting: dict[str, _Waiting] = {}
        self._cache = CompiledCache()
        self._memory = LiveMemory()
        self._refusals = Refusals(clock_seconds)
        self._made: dict[str, GrammarState | RequestError] = {}
        self._results: Counter[str] = Counter()
        self._cache_hits = 0
        self._seconds: list[float] = []

    def prepare(self) -> None:
        """Read the vocabulary now, so that no stream meets that later."""
        self._vocabulary.prepare()

    def close(self) -> None:
        """End the threads and the trial process."""
        self.trials.close()
        self._lanes.close()

    # --- the step thread --------------------------------------------------------------------------

    def request(
        self, request_id: str, grammar: Grammar, *, client: str, token_ids: Sequence[int] = ()
    ) -> None:
        """Ask for a grammar that has taken `token_ids` in; `take` brings it.

        Args:
            request_id: under which it comes.
            grammar: what the output must match.
            client: whose it is; clients take turns.
            token_ids: output that another worker made.

        Raises:
            RequestError: it is too long or was refused before (400), or too many wait (429).
        """
        check_length(grammar)
        self._vocabulary.check(grammar.field)
        digest = digest_of(grammar)
        with self._lock:
            try:
                self._refusals.check(digest)
            except RequestError:
                self._results["remembered"] += 1
                raise
            new = self._new.get(digest)
            compiled = self._cache.get(digest)
            if new is None and compiled is None:
                self._quick.check_room(client)
                new = self._new[digest] = NewGrammar(digest, grammar, client)
                self._quick.put(new)
            self._waiting[request_id] = _Waiting(digest, self._clock_seconds())
            if compiled is not None:
                self._cache_hits += 1
                self._hand_over(request_id, compiled, token_ids)
            elif new is not None:
                new.requests[request_id] = token_ids
                self._start_trials()

    def cancel(self, request_id: str) -> None:
        """Forget a request; a trial that no other request waits for is killed."""
        with self._lock:
            self._made.pop(request_id, None)
            waiting = self._waiting.pop(request_id, None)
            new = None if waiting is None else self._new.get(waiting.digest)
            if new is None:
                return
            new.requests.pop(request_id, None)
            if new.requests:
                return
            for lane in (self._quick, self._slow):
                if lane.running is new:
                    lane.running = None
                    assert new.trial_id is not None
                    self.trials.cancel(new.trial_id)
                elif not lane.remove(new):
                    continue
                del self._new[new.digest]
                self._results["cancelled"] += 1
            self._start_trials()

    def take(self) -> dict[str, GrammarState | RequestError]:
        """Return what is done since the last call, by request id; states have their first mask."""
        with self._lock:
            if self._waiting:
                self._end_overdue()
            made, self._made = self._made, {}
            return made

    def stats(self) -> tuple[dict[str, float], dict[str, float], dict[str, list[float]]]:
        """Return gauges, counters and observations, in the form of `EngineStats`."""
        with self._lock:
            seconds, self._seconds = self._seconds, []
            gauges = {
                "steelyard:grammars_waiting": float(len(self._waiting)),
                "steelyard:grammar_bytes": float(self._memory.num_bytes),
            }
            counters = {
                f'steelyard:grammar_compiles{{result="{result}"}}': float(count)
                for result, count in self._results.items()
            }
            counters["steelyard:grammar_cache_hits"] = float(self._cache_hits)
        return gauges, counters, {"steelyard:grammar_seconds": seconds}

    # --- other threads ----------------------------------------------------------------------------

    def _on_outcome(self, outcome: TrialOutcome) -> None:
        with self._lock:
            for lane in (self._quick, self._slow):
                new = lane.running
                if new is not None and new.trial_id == outcome.trial_id:
                    lane.running = None
                    self._tried(new, outcome, lane)
            self._start_trials()

    def _tried(self, new: NewGrammar, outcome: TrialOutcome, lane: TrialLane) -> None:
        if outcome.end == "cpu" and lane is self._quick:
            try:
                self._slow.check_room(new.client)
            except RequestError as error:
                self._fail(new, error)
                return
            self._slow.put(new)
            return
        self._results[outcome.end] += 1
        if outcome.end == "passed":
            is_slow = outcome.compile_cpu_seconds > bounds.SLOW_CPU_SECONDS
            self._lanes.submit(lambda: self._compile(new, outcome), is_slow=is_slow)
        elif outcome.end == "failed":
            self._fail(new, unavailable(new.grammar.field))
        else:
            refused = refusal(outcome, new.grammar.field)
            self._refusals.add(new.digest, refused)
            self._fail(new, refused)

    def _compile(self, new: NewGrammar, outcome: TrialOutcome) -> None:
        """Compile what its trial has bounded; on a lane."""

        def make() -> Any:
            return make_matcher(self._vocabulary.tokenizer(), outcome.source, new.grammar.field)

        try:
            matcher = make()
        except RequestError as error:
            with self._lock:
                self._fail(new, error)
            return
        compiled = Compiled(
            new.digest,
            matcher,
            make,
            Strand(self._lanes),
            new.grammar.field,
            max(bounds.MIN_GRAMMAR_BYTES, outcome.grown_bytes),
            outcome.step_cpu_seconds,
        )
        with self._lock:
            del self._new[new.digest]
            self._cache.put(compiled)
            for request_id, token_ids in new.requests.items():
                self._hand_over(request_id, compiled, token_ids)

    def _hand_over(self, request_id: str, compiled: Compiled, token_ids: Sequence[int]) -> None:
        """Let its strand make a state of the compiled grammar and its first mask."""
        compiled.strand.submit(
            lambda: self._make(request_id, compiled, token_ids),
            is_slow=compiled.is_slow or len(token_ids) > bounds.MANY_TOKENS,
        )

    def _make(self, request_id: str, compiled: Compiled, token_ids: Sequence[int]) -> None:
        """Copy a compiled grammar for one request; on its strand."""
        try:
            with self._lock:
                if request_id not in self._waiting:
                    return
            self._memory.take(compiled)
            try:
                state = GrammarState(
                    compiled,
                    vocab_size=self._vocabulary().vocab_size,
                    on_late=self._wake,
                    on_dear=lambda error: self._drop(compiled, error),
                    on_spent=lambda: self._drop(compiled, None),
                )
            except RequestError:
                self._memory.free(compiled)
                raise
            self._memory.free_with(state, compiled)
            state.advance_here(token_ids)
            result: GrammarState | RequestError = state.error or state
        except RequestError as error:
            result = error
        with self._lock:
            self._finish(request_id, result)

    def _drop(self, compiled: Compiled, refused: RequestError | None) -> None:
        """Forget a grammar that used up its states, or that cost too much after its trial."""
        with self._lock:
            self._cache.drop(compiled)
            if refused is not None:
                self._refusals.add(compiled.digest, refused)

    # --- under the lock ---------------------------------------------------------------------------

    def _start_trials(self) -> None:
        for lane in (self._quick, self._slow):
            new = lane.take()
            if new is not None:
                new.started_at_seconds = self._clock_seconds()
                new.trial_id = self.trials.start(new.grammar, lane.cpu_seconds)

    def _fail(self, new: NewGrammar, error: RequestError) -> None:
        self._new.pop(new.digest, None)
        for request_id in new.requests:
            self._finish(request_id, error)

    def _finish(self, request_id: str, result: GrammarState | RequestError) -> None:
        waiting = self._waiting.pop(request_id, None)
        if waiting is not None:
            self._made[request_id] = result
            self._seconds.append(self._clock_seconds() - waiting.since_seconds)
            self._wake()

    def _end_overdue(self) -> None:
        """Send requests away that waited too long; kill a trial process that does not answer."""
        now = self._clock_seconds()
        for request_id, waiting in list(self._waiting.items()):
            if now - waiting.since_seconds > bounds.QUEUE_SECONDS:
                new = self._new.get(waiting.digest)
                field = "response_format" if new is None else new.grammar.field
                self._results["overdue"] += 1
                self.cancel(request_id)
                self._made[request_id] = unavailable(field)
        for lane in (self._quick, self._slow):
            running = lane.running
            if running is not None and now - running.started_at_seconds > bounds.ANSWER_SECONDS:
                self.trials.kill()  # its trials fail
