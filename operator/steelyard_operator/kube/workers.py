"""What workers say and are told: GET /state, POST /drain, POST /role on their admin port.

Where an engine has no admin port its metrics say how many requests it has. Requests are short and
few at a time; a worker that does not answer is not asked again at once, nor waited for: one
service's workers that hang must not hold the pass over another. What an answer says is bounded in
`pod_http` and checked in `planning.untrusted`.
"""

import asyncio
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import aiohttp
import orjson

from steelyard_operator.api.names import Role
from steelyard_operator.backends.base import Drain
from steelyard_operator.errors import OperatorError
from steelyard_operator.kube.errors import words
from steelyard_operator.kube.metrics import WORKER_REQUESTS
from steelyard_operator.planning import untrusted
from steelyard_operator.planning.balance.fit import StepSums
from steelyard_operator.planning.balance.vllm_steps import Page, steps
from steelyard_operator.planning.observed import MOST_IN_FLIGHT, Pod, WorkerState
from steelyard_operator.pod_http import METRICS_BYTES, STATE_BYTES, ask, pod_session, pod_url
from steelyard_operator.render import ports

KEEP_ALIVE_SECONDS = 30.0
# A serving worker tells nothing that is urgent: its count in the status may be this old.
STEADY_SECONDS = 60.0
FIRST_SILENCE_SECONDS, LONGEST_SILENCE_SECONDS = 1.0, 60.0
# A worker that was silent before is given this long in a pass, and after this number of silences
# no time; one that is well needs less, and the next pass sees an answer that came in between.
SILENT_WAIT_SECONDS, WAITED_SILENCES = 0.25, 2
# An order to one that did not answer is sent again no sooner: each would hold its pass for 3 s.
ORDER_AGAIN_SECONDS = 5.0
# Of one service; the session has room for many.
AT_A_TIME = 16
# Longer pages of metrics are read in a thread: 1 MiB takes 60 ms.
SHORT_PAGE_BYTES = 128 * 1024
LONGEST_ERROR = 200

VLLM_COUNTS = ("vllm:num_requests_running", "vllm:num_requests_waiting")


class WorkerError(OperatorError):
    """A worker did not do what it was told."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


@dataclass(slots=True)
class _Known:
    state: WorkerState | None = None
    asked_at: float = float("-inf")
    silences: int = 0
    page: Page | None = None
    """What vLLM's metrics said last, and below the sums of all before."""
    steps: StepSums | None = None

    @property
    def patience(self) -> float:
        """How long not to ask after answers that did not come."""
        if self.silences == 0:
            return 0.0
        return min(FIRST_SILENCE_SECONDS * 2.0**self.silences, LONGEST_SILENCE_SECONDS)


class Workers:
    """The workers' admin ports; `async with` opens and closes the connections."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._known: dict[str, _Known] = {}
        self._session: aiohttp.ClientSession | None = None
        self._background: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._session = pod_session(KEEP_ALIVE_SECONDS)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        if self._session is not None:
            await self._session.close()

    async def states(
        self, pods: Iterable[Pod], *, drain: Drain, token: str, fresh: bool = False
    ) -> dict[str, WorkerState]:
        """Return what the workers say, by pod uid; one that does not answer is missing.

        Workers that start, drain or were never asked are waited for. The others are asked in the
        background once in a while: a pass must not wait for what changes nothing.

        Args:
            pods: the workers' pods.
            drain: how they are asked.
            token: the service's.
            fresh: ask and wait for all of them: a decision hangs on how busy each is now.
        """
        running = [pod for pod in pods if pod.ip and pod.phase == "Running"]
        waited_for: list[asyncio.Task[None]] = []
        perhaps: list[asyncio.Task[None]] = []
        places = asyncio.Semaphore(AT_A_TIME)

        async def one(pod: Pod) -> None:
            async with places:
                await self._ask(pod, drain, token)

        for pod in running:
            urgent = (fresh or _urgent(pod, drain)) and self._may_ask(pod)
            if not urgent and not self._due(pod):
                continue
            silences = self._known.setdefault(pod.uid, _Known()).silences
            task = asyncio.create_task(one(pod))
            self._background.add(task)
            task.add_done_callback(self._background.discard)
            if urgent and silences <= WAITED_SILENCES:
                (perhaps if silences else waited_for).append(task)
        if waited_for:
            await asyncio.wait(waited_for)
            for task in waited_for:
                task.result()  # what is not the worker's silence is this pass' error
        if perhaps:
            await asyncio.wait(perhaps, timeout=SILENT_WAIT_SECONDS)
        found = {pod.uid: self._known[pod.uid].state for pod in running if pod.uid in self._known}
        return {uid: state for uid, state in found.items() if state is not None}

    async def drain(self, pod: Pod, *, deadline_seconds: int, epoch: int, token: str) -> None:
        """Tell a worker to finish what it has and to begin nothing.

        Raises:
            WorkerError: it did not answer, or refused: it has seen a higher epoch.
        """
        body = {"epoch": epoch, "deadlineSeconds": deadline_seconds}
        await self._tell(pod, "/drain", body, token)

    async def set_role(self, pod: Pod, *, role: Role, epoch: int, token: str) -> None:
        """Tell a worker to serve a role, also to serve its old one again.

        Raises:
            WorkerError: it did not answer, or refused.
        """
        await self._tell(pod, "/role", {"role": role.wire, "epoch": epoch}, token)

    def forget(self, uid: str) -> None:
        """Drop what is known of a worker that is gone."""
        self._known.pop(uid, None)

    def _may_ask(self, pod: Pod) -> bool:
        known = self._known.get(pod.uid)
        return known is None or self._clock() - known.asked_at >= known.patience

    def _due(self, pod: Pod) -> bool:
        known = self._known.setdefault(pod.uid, _Known())
        return self._clock() - known.asked_at >= max(known.patience, STEADY_SECONDS)

    async def _ask(self, pod: Pod, drain: Drain, token: str) -> None:
        known = self._known.setdefault(pod.uid, _Known())
        known.asked_at = self._clock()
        try:
            if drain is Drain.ADMIN:
                said = await self._request("GET", pod, ports.ADMIN, "/state", token=token)
                known.state = _state(pod, "/state", said)
            else:
                page = await self._request("GET", pod, ports.SERVING, "/metrics")
                known.state = await self._measured(page, pod, known)
        except WorkerError:
            known.state = None
            known.silences += 1
        else:
            known.silences = 0

    async def _measured(self, content: bytes, pod: Pod, known: _Known) -> WorkerState:
        """Read what vLLM's metrics say; a page without its requests is not vLLM's."""
        at = self._clock()
        try:
            if len(content) <= SHORT_PAGE_BYTES:
                in_flight, read = _page(content, at)
            else:
                in_flight, read = await asyncio.to_thread(_page, content, at)
        except ValueError as error:
            raise WorkerError(f"{pod.name}: /metrics: {_cut(str(error))}") from None
        came = steps(known.page, read) if known.page is not None and read is not None else None
        if came is not None:
            known.steps = came if known.steps is None else known.steps.added(came)
        known.page = read
        return WorkerState(
            phase="ready" if pod.ready else "loading",
            in_flight=in_flight,
            steps=known.steps,
        )

    async def _tell(self, pod: Pod, path: str, body: dict[str, Any], token: str) -> None:
        known = self._known.setdefault(pod.uid, _Known())
        if self._clock() - known.asked_at < min(known.patience, ORDER_AGAIN_SECONDS):
            raise WorkerError(f"{pod.name}: {path}: not sent, it did not answer a moment ago")
        try:
            answer = await self._request("POST", pod, ports.ADMIN, path, token=token, body=body)
        except WorkerError as error:
            if error.status is None:
                known.asked_at, known.silences = self._clock(), known.silences + 1
            raise
        known.state = _state(pod, path, answer)
        known.silences = 0

    async def _request(
        self,
        method: str,
        pod: Pod,
        port: int,
        path: str,
        *,
        token: str | None = None,
        body: dict[str, Any] | None = None,
    ) -> bytes:
        assert self._session is not None, "the workers are used outside of `async with`"
        try:
            answer = await ask(
                self._session,
                method,
                pod_url(pod.ip, port, path),
                most_bytes=METRICS_BYTES if path == "/metrics" else STATE_BYTES,
                body=body,
                headers={} if token is None else {"Authorization": f"Bearer {token}"},
            )
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            WORKER_REQUESTS.labels(path, "none").inc()
            raise WorkerError(f"{pod.name}: {path}: {_cut(words(error))}") from error
        WORKER_REQUESTS.labels(path, answer.code).inc()
        if not 200 <= answer.status < 300:
            said = _cut(answer.content[:LONGEST_ERROR].decode(errors="replace"))
            raise WorkerError(f"{pod.name}: {path}: HTTP {answer.status}: {said}", answer.status)
        return answer.content


def _urgent(pod: Pod, drain: Drain) -> bool:
    """Whether a decision may hang on what a worker says now."""
    leaving = pod.deleting or pod.draining_since is not None or not pod.roles
    if drain is Drain.METRICS:
        return leaving  # a start shows in its probes, and it has no fingerprint
    return leaving or not pod.ready or pod.fingerprint is None


def _state(pod: Pod, path: str, content: bytes) -> WorkerState:
    """Return what an answer says.

    Raises:
        WorkerError: it is not what a worker says.
    """
    try:
        return WorkerState.read(orjson.loads(content))
    except (KeyError, TypeError, ValueError) as error:
        raise WorkerError(
            f"{pod.name}: {path}: not a worker's state: {_cut(words(error))}"
        ) from None


def _page(content: bytes, at: float) -> tuple[int, Page | None]:
    """Return the requests that a page of vLLM's metrics tells, and its steps.

    Raises:
        ValueError: it is no such page.
    """
    page = content.decode("utf-8", "replace")
    counts: dict[str, float] = {}
    for line in page.split("\n"):
        name = line.partition("{")[0].partition(" ")[0]
        if name in VLLM_COUNTS:
            counts[name] = counts.get(name, 0.0) + untrusted.amount_of(line.rpartition(" ")[2])
    if len(counts) != len(VLLM_COUNTS):
        raise ValueError("no vLLM metrics")
    return untrusted.count(int(sum(counts.values())), MOST_IN_FLIGHT), Page.read(page, at)


def _cut(text: str) -> str:
    return untrusted.sentence(text, LONGEST_ERROR)
