"""The sequences that an engine has, from their messages to their last outputs.

Whatever one of them raises ends that one (docs/adr/0017-what-ends-a-sequence.md).
"""

from typing import Any

import msgspec
from torch import Tensor

from steelyard_runtime.core.scheduler import Scheduler
from steelyard_runtime.core.sequence import Sequence
from steelyard_runtime.engine.failure import Failure, Stage
from steelyard_runtime.engine.flight import is_plain
from steelyard_runtime.engine.grammar_requests import GrammarRequests
from steelyard_runtime.engine.output import output
from steelyard_runtime.engine.request import LiveRequest, check_numbers
from steelyard_runtime.engine.statistics import Statistics
from steelyard_runtime.errors import ENDS_PROCESS, RequestError
from steelyard_runtime.ipc.messages import AddRequest, Output, RemotePrefill
from steelyard_runtime.structured.grammar import GrammarState
from steelyard_runtime.structured.service import GrammarService
from steelyard_runtime.transfer.interface import Transfer


class LiveRequests:
    """Every request that has not had its last output. `live` is by request id."""

    def __init__(
        self,
        scheduler: Scheduler,
        grammars: GrammarService,
        transfer: Transfer,
        statistics: Statistics,
        *,
        vocab_size: int,
        fingerprint: str,
    ) -> None:
        self._scheduler = scheduler
        self.grammars = GrammarRequests(grammars)
        self._transfer = transfer
        self._statistics = statistics
        self._vocab_size = vocab_size
        self._fingerprint = fingerprint
        self._outbox: list[Output] = []
        self.live: dict[str, LiveRequest] = {}

    def add(self, message: AddRequest) -> None:
        """Start a sequence; a refusal becomes an output with `finish_reason` "error"."""
        try:
            check_numbers(message, self._vocab_size)
            if message.params.grammar is None:
                self._add(message, None)
            else:
                self._await_grammar(message)
        except ENDS_PROCESS:
            raise
        except BaseException as error:
            self._refuse(message, error)

    def _await_grammar(self, message: AddRequest) -> None:
        """Let a request's grammar be made; `take_grammars` goes on with it."""
        self.grammars.ask(message)
        if message.remote_prefill is not None:
            try:
                self._transfer.hold(message.remote_prefill)
            except BaseException:
                self.grammars.cancel(message.request_id)
                raise

    def take_grammars(self) -> None:
        """Start the sequences whose grammars are there."""
        for message, grammar in self.grammars.take():
            try:
                if isinstance(grammar, RequestError):
                    raise grammar
                self._add(message, grammar)
                self.grammars.follow(self.live[message.request_id])
            except ENDS_PROCESS:
                raise
            except BaseException as error:
                self._refuse(message, error)

    def _refuse(self, message: AddRequest, error: BaseException) -> None:
        if message.remote_prefill is not None:
            self.release(message.remote_prefill)
        failure = Failure("admission", error)
        if not isinstance(error, RequestError):
            self._tell(message.request_id, failure)
        self._outbox.append(failure.output(message.request_id))

    def _add(self, message: AddRequest, grammar: GrammarState | None) -> None:
        params = message.params
        if grammar is not None:
            # After the end nothing may follow, so "ignore the end" has no meaning here.
            params = msgspec.structs.replace(params, ignore_eos=False)
        sequence = Sequence(
            request_id=message.request_id,
            tokens=[*message.prompt_token_ids, *message.resume_token_ids],
            num_prompt_tokens=len(message.prompt_token_ids),
            params=params,
            group_id=message.group_id,
            cache_salt=message.cache_salt,
            export_kv=message.export_kv,
        )
        self._scheduler.add(sequence, remote=message.remote_prefill is not None)
        if message.remote_prefill is not None and grammar is None:
            try:
                self._transfer.hold(message.remote_prefill)
            except BaseException:
                self._scheduler.abort(message.request_id)
                raise
        self.live[message.request_id] = LiveRequest(
            message, sequence, grammar, is_plain=is_plain(message)
        )

    def abort(self, request_id: str) -> None:
        """Free a sequence's blocks at once; its last output says "abort"."""
        live = self.live.pop(request_id, None)
        waiting = self.grammars.cancel(request_id)
        if waiting is not None:
            if waiting.remote_prefill is not None:
                self.release(waiting.remote_prefill)
            self._outbox.append(Output(request_id, [], finish_reason="abort"))
        if live is not None:
            self._drop(live)
            self._outbox.append(Output(request_id, [], finish_reason="abort"))

    def fail_all(self, message: str, status: int) -> None:
        """End every sequence with an error, so that a router replays it elsewhere."""
        for waiting in self.grammars.cancel_all():
            self._refuse(waiting, RequestError(message, status=status))
        for request_id, live in list(self.live.items()):
            del self.live[request_id]
            self._drop(live)
            self._outbox.append(
                Output(request_id, [], finish_reason="error", error=message, error_status=status)
            )

    def take_outputs(self) -> list[Output]:
        """Return what is to be told since the last call."""
        outputs, self._outbox = self._outbox, []
        return outputs

    def fail(self, request_id: str, stage: Stage, error: BaseException) -> None:
        """End one sequence with an error; its blocks, grammar and lease go with it."""
        live = self.live.pop(request_id, None)
        if live is None:
            return
        failure = Failure(stage, error)
        self._tell(request_id, failure)
        # Damaged keys and values give damaged logits to whoever finds them.
        self._drop(live, distrusts_kv=failure.cause == "logits")
        self._outbox.append(failure.output(request_id))

    def _tell(self, request_id: str, failure: Failure) -> None:
        self._statistics.sequence_errors[failure.cause] += 1
        failure.write_to_log(request_id)

    def fail_scheduled(self, sequence: Sequence, stage: Stage) -> None:
        """End a sequence that the scheduler has dropped already."""
        live = self.live.get(sequence.request_id)
        remote = None if live is None else live.message.remote_prefill
        if remote is not None and sequence.wants_remote:
            self.release(remote)
        error = sequence.error
        assert error is not None
        self.fail(sequence.request_id, stage, error)

    def _drop(self, live: LiveRequest, *, distrusts_kv: bool = False) -> None:
        request_id = live.sequence.request_id
        aborted = self._scheduler.abort(request_id, distrusts_kv=distrusts_kv)
        if aborted is None:
            return
        if aborted.cancel_pull:
            try:
                self._transfer.cancel(request_id)
            except ENDS_PROCESS:
                raise
            except BaseException as error:
                self._tell(request_id, Failure("transfer", error))
        elif aborted.release_remote and live.message.remote_prefill is not None:
            self.release(live.message.remote_prefill)

    def release(self, remote: RemotePrefill) -> None:
        """Give a remote lease back; without that it ends by its time."""
        try:
            self._transfer.release(remote)
        except ENDS_PROCESS:
            raise
        except BaseException as error:
            self._tell(remote.request_id, Failure("transfer", error))

    def emit(
        self, sequence: Sequence, first_new: int, raw_logits: Tensor | None, logits_at_ns: int
    ) -> None:
        """Tell a sequence's new tokens, from index `first_new` on, and its end."""
        request_id = sequence.request_id
        live = self.live.get(request_id)
        if live is None:
            return  # it failed in the commit
        stage: Stage = "output"
        try:
            message = output(live, first_new, raw_logits, logits_at_ns=logits_at_ns)
            if sequence.finish_reason is not None and sequence.export_kv:
                stage = "transfer"
                message = msgspec.structs.replace(
                    message, kv_transfer_params=self._exported(sequence)
                )
        except ENDS_PROCESS:
            raise
        except BaseException as error:
            self.fail(request_id, stage, error)
            self._scheduler.end_lease(request_id)  # of which no reader has heard
            return
        if sequence.finish_reason is not None:
            del self.live[request_id]
        self._outbox.append(message)

    def _exported(self, sequence: Sequence) -> dict[str, Any]:
        """Offer a finished prompt's blocks to a reader; returns its `kv_transfer_params`."""
        kv_params = self._transfer.export(
            sequence.request_id,
            self._scheduler.blocks.leased(sequence.request_id),
            sequence.num_prompt_tokens,
        )
        kv_params.setdefault("steelyard", {})["fingerprint"] = self._fingerprint
        return kv_params
