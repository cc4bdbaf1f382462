"""Each patch tests what it believes, so that a pod that has changed is left alone."""

from dataclasses import replace

from steelyard_operator.api.names import Role
from steelyard_operator.kube import patches
from steelyard_operator.testing import NOON, pod

UID = {"op": "test", "path": "/metadata/uid", "value": "uid-0"}
DECODE = "/metadata/labels/steelyard.dev~1decode"
PREFILL = "/metadata/labels/steelyard.dev~1prefill"
SINCE = "/metadata/annotations/steelyard.dev~1draining-since"
FINGERPRINT = "/metadata/labels/steelyard.dev~1kv-fingerprint"


def test_a_drain_takes_all_role_labels_off() -> None:
    """A worker of both roles leaves both Services with one write."""
    both = replace(pod(0), roles=frozenset((Role.PREFILL, Role.DECODE)))

    assert patches.start_drain(both, NOON) == [
        UID,
        {"op": "test", "path": DECODE, "value": "true"},
        {"op": "remove", "path": DECODE},
        {"op": "test", "path": PREFILL, "value": "true"},
        {"op": "remove", "path": PREFILL},
        {"op": "add", "path": SINCE, "value": "2026-01-01T12:00:00.000+00:00"},
    ]


def test_a_worker_that_serves_again_drains_no_more() -> None:
    """Label and annotation change together."""
    assert patches.serve(pod(0, None), Role.DECODE) == [
        UID,
        {"op": "remove", "path": SINCE},
        {"op": "add", "path": DECODE, "value": "true"},
    ]


def test_a_worker_that_never_drained_gets_its_label_alone() -> None:
    """Removing an annotation that is not there would fail the whole patch."""
    fresh = replace(pod(0), roles=frozenset())

    assert patches.serve(fresh, Role.PREFILL) == [
        UID,
        {"op": "add", "path": PREFILL, "value": "true"},
    ]


def test_a_fingerprint_replaces_the_one_that_was_seen() -> None:
    """Another writer's value is not overwritten."""
    assert patches.fingerprint(replace(pod(0), fingerprint="old"), "new") == [
        UID,
        {"op": "test", "path": FINGERPRINT, "value": "old"},
        {"op": "add", "path": FINGERPRINT, "value": "new"},
    ]
