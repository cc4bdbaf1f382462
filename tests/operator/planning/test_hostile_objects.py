"""Objects that somebody else wrote on: absurd values read as none, and planning goes on."""

from typing import Any

import pytest

from steelyard_operator.api.names import (
    ATTEMPT_ANNOTATION,
    DECODE_LABEL,
    DRAINING_SINCE_ANNOTATION,
    REVISION_LABEL,
)
from steelyard_operator.planning.desired import Desired
from steelyard_operator.planning.observed import Observed
from steelyard_operator.planning.observing import LONGEST_TEXT, pod_record
from steelyard_operator.planning.planner import plan
from steelyard_operator.testing import NOON

WANT = Desired(prefill=0, decode=1, prefill_revision="a", decode_revision="a")


def pod(**changes: Any) -> dict[str, Any]:
    """A worker's pod as the API server has it."""
    meta = {
        "name": changes.get("name", "demo-0"),
        "uid": "u",
        "resourceVersion": "1",
        "creationTimestamp": changes.get("created", "2026-01-01T00:00:00Z"),
        "labels": {DECODE_LABEL: "true", REVISION_LABEL: "a"},
        "annotations": changes.get("annotations", {}),
    }
    return {"metadata": meta, "status": {"phase": "Running", **changes.get("status", {})}}


@pytest.mark.parametrize(
    "raw",
    [
        pod(annotations={DRAINING_SINCE_ANNOTATION: "9999-12-31T23:59:59Z"}),
        pod(annotations={DRAINING_SINCE_ANNOTATION: "0001-01-01T00:00:00+23:59"}),
        pod(annotations={ATTEMPT_ANNOTATION: "9" * 200_000}),
        pod(name="demo-" + "9" * 240),
        pod(status={"phase": "Failed", "message": "m" * 1_000_000}),
        pod(
            status={
                "phase": "Failed",
                "containerStatuses": [
                    {"state": {"terminated": {"finishedAt": "9999-12-31T23:59:59Z"}}}
                ],
            }
        ),
    ],
)
def test_a_plan_is_made_whatever_is_written_on_a_pod(raw: dict[str, Any]) -> None:
    """Annotations are anybody's who may write pods; a message is the container's own."""
    record = pod_record(raw)

    assert -1 <= record.slot < 10**10
    assert len(record.failure_message) <= LONGEST_TEXT
    plan(WANT, Observed(pods=(record,)), NOON)


@pytest.mark.parametrize("ip", ["metadata.internal", "127.0.0.1@elsewhere", "", None, 5, ["::1"]])
def test_a_pods_address_is_an_address(ip: object) -> None:
    """A name would be looked up; the token is for the pod's own address."""
    assert pod_record(pod(status={"podIP": ip})).ip is None


@pytest.mark.parametrize("ip", ["10.0.0.1", "fd00::1"])
def test_both_families_are_addresses(ip: str) -> None:
    """As the kubelet writes them."""
    assert pod_record(pod(status={"podIP": ip})).ip == ip
