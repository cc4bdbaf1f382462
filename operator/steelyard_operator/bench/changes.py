"""Changes of services at a steady rate, and when the first pod of each is seen.

A change begins before its request is sent and ends when a watch of pods tells of the new pod, so
both ways through the API server count.
"""

import asyncio
import time
from dataclasses import dataclass

from steelyard_operator.api.names import SERVICE_LABEL
from steelyard_operator.bench.options import Options
from steelyard_operator.bench.setting import where
from steelyard_operator.kube.client import Client
from steelyard_operator.kube.informer import Held, Store
from steelyard_operator.kube.kinds import INFERENCE_SERVICE
from steelyard_operator.planning.observed import Pod
from steelyard_operator.planning.observing import pod_record


class Sightings:
    """The workers' pods, as a watch of the bench's own tells of them."""

    def __init__(self) -> None:
        self.store: Store[Pod] = Store(pod_record, label=SERVICE_LABEL, changed=self._changed)
        self.latencies: list[float] = []
        """Of the changes whose pod was seen."""
        self._awaited: dict[str, float] = {}
        self._seen: set[str] = set()

    @property
    def ready(self) -> int:
        """How many workers are ready and known by their fingerprint."""
        return sum(
            held.record.ready and held.record.fingerprint is not None for held in self.store.every()
        )

    @property
    def awaited(self) -> int:
        """How many changes have no pod yet."""
        return len(self._awaited)

    def expect(self, service: str) -> None:
        """A change begins now that makes a pod."""
        self._awaited[service] = time.monotonic()

    def _changed(self, held: Held[Pod]) -> None:
        if held.uid in self._seen:
            return
        self._seen.add(held.uid)
        if (began := self._awaited.pop(held.service, None)) is not None:
            self.latencies.append(time.monotonic() - began)


@dataclass(slots=True)
class Changes:
    """Gives each service in turn one prefill worker more, and in a second round takes it away."""

    client: Client
    sightings: Sightings
    options: Options
    made: int = 0
    behind: float = 0.0
    """How late the latest change was, in seconds: this program was too slow."""

    async def run(self) -> None:
        """Make changes for the time that the options say; returns when all were answered."""
        began = time.monotonic()
        # One that came a third time would find the worker of the first, which drains.
        count = min(round(self.options.rate * self.options.seconds), 2 * self.options.services)
        async with asyncio.TaskGroup() as group:
            for number in range(count):
                due = began + number / self.options.rate
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                self.behind = max(self.behind, time.monotonic() - due)
                group.create_task(self._change(number))

    async def _change(self, number: int) -> None:
        round_, index = divmod(number, self.options.services)
        more = round_ == 0
        name = self.options.name(index)
        if more:
            self.sightings.expect(name)
        value = self.options.prefill + more
        await self.client.patch(
            INFERENCE_SERVICE,
            where(index),
            name,
            [{"op": "replace", "path": "/spec/prefill/replicas", "value": value}],
        )
        self.made += 1
