"""Builders for tests: a service, a pod, what was seen. Everything has a plain default."""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from steelyard_operator.api.names import API_VERSION, KIND, Role
from steelyard_operator.api.v1alpha1 import InferenceService
from steelyard_operator.planning.desired import Desired
from steelyard_operator.planning.observed import Observed, Pod, Revision, Router, WorkerState

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def a_service(name: str = "demo", **spec: Any) -> InferenceService:
    """Return a service; keyword arguments are fields of its spec in JSON's names."""
    return InferenceService.model_validate(
        {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "metadata": {"name": name},
            "spec": {"model": {"uri": "file:///model"}, **spec},
        }
    )


def wanted(prefill: int = 1, decode: int = 1, revision: str = "new", **more: Any) -> Desired:
    """Return a target with one revision for both roles."""
    return Desired(
        prefill=prefill,
        decode=decode,
        prefill_revision=revision,
        decode_revision=revision,
        **more,
    )


def pod(slot: int, role: Role | None = Role.DECODE, **more: Any) -> Pod:
    """Return a ready worker in a slot; role None is one that drains since a moment ago."""
    age: float = more.pop("age_seconds", 600.0)
    draining = {"draining_since": NOON} if role is None else {}
    fields: dict[str, Any] = {
        "name": f"demo-{slot}",
        "uid": f"uid-{slot}",
        "resource_version": "1",
        "revision": "new",
        "created_at": NOON - timedelta(seconds=age),
        "roles": frozenset() if role is None else frozenset((role,)),
        "fingerprint": "f" * 16,
        "phase": "Running",
        "ready": True,
        "scheduled": True,
        **draining,
        **more,
    }
    return Pod(slot=slot, **fields)


def state(role: Role | None = Role.DECODE, phase: str = "ready", in_flight: int = 0) -> WorkerState:
    """Return what a worker says of itself."""
    return WorkerState(phase=phase, in_flight=in_flight, role=role, fingerprint="f" * 64)


def saw(
    *pods: Pod,
    states: Mapping[int, WorkerState] | None = None,
    revisions: Iterable[str] = ("new", "old"),
    **more: Any,
) -> Observed:
    """Return what was observed; `states` are by slot."""
    by_slot = {each.slot: each.uid for each in pods}
    return Observed(
        pods=pods,
        states={by_slot[slot]: found for slot, found in (states or {}).items()},
        revisions=tuple(
            Revision(f"demo-{hash}", hash, number) for number, hash in enumerate(revisions)
        ),
        router=more.pop("router", Router(replicas=2, ready=2, updated=True)),
        **more,
    )
