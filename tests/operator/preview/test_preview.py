"""`steelyard render` and `steelyard plan --empty`, as people call them."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from steelyard_operator.api.names import Role
from steelyard_operator.cli import main
from steelyard_operator.preview.differences import both_ways, differences
from steelyard_operator.preview.planning import next_step
from steelyard_operator.preview.situation import Situation
from steelyard_operator.render.revision import revision_hash
from steelyard_operator.testing import NOON, a_service, pod, saw

SAMPLE = Path(__file__).parents[3] / "manifests/samples/smollm2.yaml"


def test_a_file_is_rendered_as_yaml(capsys: pytest.CaptureFixture[str]) -> None:
    """Every object of the service is printed, in the namespace that is asked for."""
    assert main(["render", str(SAMPLE), "--namespace", "team"]) == 0

    objects = list(yaml.safe_load_all(capsys.readouterr().out))
    assert [one["metadata"]["name"] for one in objects if one["kind"] == "Pod"] == [
        "smollm2-0",
        "smollm2-1",
    ]
    assert {one["metadata"]["namespace"] for one in objects} == {"team"}


def test_images_are_the_operators_settings(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same variables as those of the operator's Deployment."""
    monkeypatch.setenv("STEELYARD_WORKER_IMAGE", "mine:1")
    main(["render", str(SAMPLE)])

    assert "image: mine:1" in capsys.readouterr().out


def test_an_empty_cluster_gets_everything(capsys: pytest.CaptureFixture[str]) -> None:
    """The plan names each pod that is made, and each object."""
    assert main(["plan", str(SAMPLE), "--empty"]) == 0

    shown = capsys.readouterr().out
    pods = [line.split(", ")[:2] for line in shown.splitlines() if "worker in slot" in line]
    assert sorted(name for name, _ in pods) == ["  + smollm2-0", "  + smollm2-1"]
    assert sorted(role for _, role in pods) == ["Decode", "Prefill"]
    assert "+ Deployment smollm2-router" in shown
    assert "nothing" not in shown


@pytest.mark.parametrize("command", ["render", "plan"])
def test_a_file_that_is_not_there_is_one_sentence(
    capsys: pytest.CaptureFixture[str], command: str
) -> None:
    """Wrong input, exit code 2."""
    assert main([command, "nowhere.yaml"]) == 2
    assert capsys.readouterr().err == (
        "steelyard: nowhere.yaml: cannot be read: No such file or directory\n"
    )


CASES: dict[str, tuple[Any, Any, list[str]]] = {
    "equal": ({"a": 1}, {"a": 1}, []),
    "more in the cluster": ({"a": {"b": 1}}, {"a": {"b": 1, "c": 2}}, []),
    "another value": ({"a": {"b": 1}}, {"a": {"b": 2}}, ["a.b: 2 becomes 1"]),
    "a new field": ({"a": 1}, {}, ["a: added, 1"]),
    "nothing new": ({"a": {}}, {}, []),
    "in a list": ({"a": [{"b": 1}]}, {"a": [{"b": 2, "c": 3}]}, ["a[0].b: 2 becomes 1"]),
    "a shorter list": ({"a": [1]}, {"a": [1, 2]}, ["a: 2 items become 1"]),
}


@pytest.mark.parametrize(("wanted", "found", "lines"), CASES.values(), ids=CASES)
def test_only_what_is_wanted_is_compared(wanted: Any, found: Any, lines: list[str]) -> None:
    """What the API server or somebody else added is no difference."""
    assert list(differences(wanted, found)) == lines


def test_inputs_are_compared_both_ways() -> None:
    """A field that is gone from the resource is a change, too, at any depth."""
    new, old = {"a": {"b": 1}}, {"a": {"b": 2, "c": 3}, "d": 4}

    assert list(both_ways(new, old)) == [
        "a.b: 2 becomes 1",
        "a.c: removed, was 3",
        "d: removed, was 4",
    ]


def test_a_new_split_is_shown_as_a_flip() -> None:
    """The preview decides as the operator does: the worker's pod stays."""
    service = a_service(prefill={"replicas": 2}, decode={"replicas": 1})
    hashes = {role: revision_hash(service, role) for role in (Role.PREFILL, Role.DECODE)}
    pods = [
        pod(slot, role, revision=hashes[role])
        for slot, role in enumerate((Role.DECODE, Role.DECODE, Role.PREFILL))
    ]
    resource = {"metadata": {"uid": "u"}, "status": {}}

    made = next_step(service, Situation(resource, saw(*pods)), NOON)

    (step,) = made.actions
    assert getattr(step, "reason", "") == "Flipping"
