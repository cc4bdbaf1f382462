"""Kubernetes' objects become records. Nothing is decided here, and no shape of an object raises.

A field that is missing or of a foreign form reads as its default: the object may be half made, or
somebody else's.
"""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from ipaddress import ip_address
from typing import Any

from steelyard_operator.api.names import (
    ATTEMPT_ANNOTATION,
    DECODE_LABEL,
    DRAINING_SINCE_ANNOTATION,
    FINGERPRINT_LABEL,
    PREFILL_LABEL,
    REVISION_LABEL,
    SERVES,
    SERVICE_LABEL,
    Role,
)
from steelyard_operator.planning.observed import Pod, Revision, Router
from steelyard_operator.planning.untrusted import MOST

EPOCH = datetime.fromtimestamp(0, UTC)
LAST_YEAR = 9000
LONGEST_NUMBER = 10  # digits
LONGEST_TEXT = 1000
"""Of what kubelet, scheduler or container say; kept for each pod, told in a status."""
ROLE_LABELS = {PREFILL_LABEL: Role.PREFILL, DECODE_LABEL: Role.DECODE}


def pod_record(raw: Mapping[str, Any]) -> Pod:
    """Return the record of a worker's pod, as the API server describes it."""
    meta = _mapping(raw, "metadata")
    labels, annotations = _mapping(meta, "labels"), _mapping(meta, "annotations")
    status = _mapping(raw, "status")
    conditions = {str(c.get("type")): c for c in _items(status, "conditions")}
    ready = conditions.get("Ready", {})
    scheduled = conditions.get("PodScheduled", {})
    node = _mapping(raw, "spec").get("nodeName")
    waiting = _waiting(status)
    return Pod(
        name=str(meta.get("name", "")),
        uid=str(meta.get("uid", "")),
        resource_version=str(meta.get("resourceVersion", "")),
        slot=_slot(str(meta.get("name", ""))),
        revision=str(labels.get(REVISION_LABEL, "")),
        created_at=moment(meta.get("creationTimestamp")) or EPOCH,
        roles=frozenset(role for label, role in ROLE_LABELS.items() if labels.get(label) == SERVES),
        fingerprint=labels.get(FINGERPRINT_LABEL),
        draining_since=moment(annotations.get(DRAINING_SINCE_ANNOTATION)),
        attempt=_number(annotations.get(ATTEMPT_ANNOTATION)),
        phase=str(status.get("phase", "Pending")),
        ready=ready.get("status") == "True",
        ready_changed_at=moment(ready.get("lastTransitionTime")),
        deleting=meta.get("deletionTimestamp") is not None,
        scheduled=bool(node),
        unschedulable=_text(scheduled.get("message", ""))
        if not node and scheduled.get("reason") == "Unschedulable"
        else None,
        waiting_reason=waiting[0],
        waiting_message=_text(waiting[1]),
        crash_looping_since=_crashed_at(status),
        restarts=sum(_number(each.get("restartCount")) for each in _containers(status)),
        finished_at=_finished_at(status, meta),
        failure_message=_text(_failure(status)),
        node=str(node) if node else None,
        ip=_address(status.get("podIP")),
    )


def service_of(raw: Mapping[str, Any]) -> str | None:
    """Return the name of the service whose label an object carries."""
    name = _mapping(_mapping(raw, "metadata"), "labels").get(SERVICE_LABEL)
    return str(name) if name else None


def controller_of(raw: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the owner reference of the object's controller, where it has one."""
    for reference in _items(_mapping(raw, "metadata"), "ownerReferences"):
        if reference.get("controller") is True:
            return reference
    return None


def router_record(deployment: Mapping[str, Any]) -> Router:
    """Return the record of the router's Deployment."""
    meta, status = _mapping(deployment, "metadata"), _mapping(deployment, "status")
    replicas = _number(status.get("replicas"))
    observed = _number(status.get("observedGeneration")) >= _number(meta.get("generation"))
    updated = _number(status.get("updatedReplicas"))
    message = ""
    for condition in _items(status, "conditions"):
        failed = condition.get("type") == "ReplicaFailure" and condition.get("status") == "True"
        stuck = condition.get("type") == "Progressing" and condition.get("status") == "False"
        if failed or stuck:
            message = _text(condition.get("message", ""))
    return Router(
        replicas=replicas,
        ready=_number(status.get("readyReplicas")),
        updated=observed and updated == replicas,
        message=message,
    )


def revision_record(raw: Mapping[str, Any]) -> Revision:
    """Return the record of a ControllerRevision."""
    meta = _mapping(raw, "metadata")
    return Revision(
        name=str(meta.get("name", "")),
        hash=str(_mapping(meta, "labels").get(REVISION_LABEL, "")),
        number=_number(raw.get("revision")),
    )


def moment(text: object) -> datetime | None:
    """Return the time that an RFC 3339 text says, or None."""
    if not isinstance(text, str):
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    if not EPOCH.year <= found.year <= LAST_YEAR:
        return None  # An annotation is anybody's; a deadline after it must still be a date.
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _mapping(raw: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = raw.get(key)
    return found if isinstance(found, Mapping) else {}


def _items(raw: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    found = raw.get(key)
    return [each for each in found if isinstance(each, Mapping)] if isinstance(found, list) else []


def _number(value: object) -> int:
    if isinstance(value, int):
        return min(value, MOST)
    return min(_digits(value), MOST) if isinstance(value, str) else 0


def _digits(text: str) -> int:
    """Return a number of at most ten digits, or 0."""
    good = text.isascii() and text.isdigit() and len(text) <= LONGEST_NUMBER
    return int(text) if good else 0


def _text(value: object) -> str:
    return str(value)[:LONGEST_TEXT]


def _address(value: object) -> str | None:
    """Return an IP address; a name would be looked up, and might lead anywhere."""
    try:
        return str(ip_address(value)) if isinstance(value, str) else None
    except ValueError:
        return None


def _slot(name: str) -> int:
    number = name.rpartition("-")[2]
    good = number.isascii() and number.isdigit() and len(number) <= LONGEST_NUMBER
    return int(number) if good else -1


def _containers(status: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield from _items(status, "initContainerStatuses")
    yield from _items(status, "containerStatuses")


def _waiting(status: Mapping[str, Any]) -> tuple[str | None, str]:
    for container in _containers(status):
        waiting = _mapping(_mapping(container, "state"), "waiting")
        reason = waiting.get("reason")
        # Every container waits with these while its pod is made.
        if reason and reason not in ("PodInitializing", "ContainerCreating"):
            return str(reason), str(waiting.get("message", ""))
    return None, ""


def _crashed_at(status: Mapping[str, Any]) -> datetime | None:
    for container in _containers(status):
        waiting = _mapping(_mapping(container, "state"), "waiting")
        if waiting.get("reason") == "CrashLoopBackOff":
            ended = _mapping(_mapping(container, "lastState"), "terminated")
            return moment(ended.get("finishedAt"))
    return None


def _finished_at(status: Mapping[str, Any], meta: Mapping[str, Any]) -> datetime | None:
    if status.get("phase") not in ("Failed", "Succeeded"):
        return None
    ends = [
        found
        for container in _containers(status)
        if (found := moment(_mapping(_mapping(container, "state"), "terminated").get("finishedAt")))
    ]
    # A pod that was evicted or refused by its node has no container that ended.
    return max(ends, default=None) or moment(meta.get("creationTimestamp"))


def _failure(status: Mapping[str, Any]) -> str:
    if status.get("message"):
        return str(status["message"])
    for container in _containers(status):
        for state in ("state", "lastState"):
            ended = _mapping(_mapping(container, state), "terminated")
            if ended and ended.get("exitCode"):
                why = ended.get("message") or ended.get("reason") or ""
                return f"container {container.get('name')} ended with {ended['exitCode']}: {why}"
    return str(status.get("reason", ""))
