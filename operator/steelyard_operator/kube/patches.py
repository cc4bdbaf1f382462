"""JSON patches of a worker's pod: each tests what it believes before it changes anything. Pure."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from steelyard_operator.api.names import (
    DRAINING_SINCE_ANNOTATION,
    FINGERPRINT_LABEL,
    SERVES,
    Role,
)
from steelyard_operator.planning.observed import Pod
from steelyard_operator.render.labels import LABEL_OF, role_labels

Operations = list[Mapping[str, Any]]


def start_drain(pod: Pod, now: datetime) -> Operations:
    """Take the role labels off, and write when: the worker leaves the Services with this."""
    return [
        _test_uid(pod),
        *(
            each
            for role in sorted(pod.roles)
            for each in (
                _operation("test", _label(LABEL_OF[role]), SERVES),
                {"op": "remove", "path": _label(LABEL_OF[role])},
            )
        ),
        _operation(
            "add", _annotation(DRAINING_SINCE_ANNOTATION), now.isoformat(timespec="milliseconds")
        ),
    ]


def serve(pod: Pod, role: Role) -> Operations:
    """Give the labels of a role, and end the drain if there was one."""
    return [
        _test_uid(pod),
        *_end_drain(pod),
        *(_operation("add", _label(name), value) for name, value in role_labels(role).items()),
    ]


def fingerprint(pod: Pod, digits: str) -> Operations:
    """Write the fingerprint's first digits."""
    path = _label(FINGERPRINT_LABEL)
    old = [_operation("test", path, pod.fingerprint)] if pod.fingerprint is not None else []
    return [_test_uid(pod), *old, _operation("add", path, digits)]


def _end_drain(pod: Pod) -> Iterable[Mapping[str, Any]]:
    if pod.draining_since is not None:
        yield {"op": "remove", "path": _annotation(DRAINING_SINCE_ANNOTATION)}


def _test_uid(pod: Pod) -> Mapping[str, Any]:
    return _operation("test", "/metadata/uid", pod.uid)


def _operation(op: str, path: str, value: object) -> Mapping[str, Any]:
    return {"op": op, "path": path, "value": value}


def _label(name: str) -> str:
    return f"/metadata/labels/{_escaped(name)}"


def _annotation(name: str) -> str:
    return f"/metadata/annotations/{_escaped(name)}"


def _escaped(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")
