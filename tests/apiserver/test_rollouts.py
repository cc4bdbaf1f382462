"""`steelyard rollout` beside an operator: a changed template is listed, compared and undone."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from steelyard_operator.cli import main
from steelyard_operator.testing.cluster import Cluster, environment, eventually, operating
from steelyard_operator.testing.life import life

Rollout = Callable[..., tuple[int, str, str]]


@pytest.fixture
def rollout(
    cluster: Cluster,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Rollout:
    """Calls the command as a user does; gives exit code, output and errors."""
    monkeypatch.setenv("KUBECONFIG", environment(cluster.api, tmp_path, {})["KUBECONFIG"])

    def call(*arguments: str) -> tuple[int, str, str]:
        code = main(["rollout", *arguments, "--namespace", cluster.namespace])
        said = capsys.readouterr()
        return code, said.out, said.err

    return call


def test_a_change_is_listed_compared_and_undone(
    cluster: Cluster, settings: dict[str, str], tmp_path: Path, rollout: Rollout
) -> None:
    """Every worker is replaced by one of the old revision; numbers of workers stay as they are."""

    def turn(value: str) -> None:
        env = [{"name": "TURN", "value": value}]
        cluster.edit({"spec": {"runtime": {"env": env}}})
        eventually(lambda: found.runs("TURN", value) and found.steady(1, 2), f"turn {value}")

    with life(cluster, 4) as found, operating(cluster.api, tmp_path, **settings):
        cluster.apply(capacity={"maxAccelerators": 4})
        cluster.edit({"spec": {"decode": {"replicas": 2}}})
        eventually(lambda: found.steady(1, 2), "three workers")
        turn("1")
        turn("2")

        code, said, _ = rollout("history", "demo", "--json")
        rows = json.loads(said)
        assert (code, [row["revision"] for row in rows]) == (0, [1, 2, 3])
        assert [row["pods"] for row in rows] == [0, 0, 3]
        assert rows[2]["current"] == ["Prefill", "Decode"]

        code, said, _ = rollout("diff", "demo")
        assert code == 0
        assert said.startswith("--- revision 2\n+++ revision 3\n")
        assert [line[1:].strip() for line in said.splitlines()[2:] if line[0] in "-+"] == [
            "value: '1'",
            "value: '2'",
        ]

        code, said, _ = rollout("undo", "demo")
        assert (code, said) == (
            0,
            "demo asks for revision 2 again; the operator rolls it out\n",
        )
        eventually(lambda: found.runs("TURN", "1") and found.steady(1, 2), "turn 1 again")

        code, said, _ = rollout("history", "demo")
        assert said.splitlines()[0].split() == [
            "REVISION",
            "HASH",
            "ROLES",
            "CURRENT",
            "PODS",
            "AGE",
        ]
        # The old one is the newest now, as with `kubectl rollout undo`.
        assert [line.split()[0] for line in said.splitlines()[1:]] == ["1", "3", "4"]

        code, said, _ = rollout("undo", "demo", "--to-revision", "1")
        assert code == 0
        eventually(lambda: found.steady(1, 2) and not found.runs("TURN", "1"), "the first again")
        names = {
            variable["name"]
            for pod in cluster.pods()
            for variable in pod["spec"]["containers"][0]["env"]
        }
        assert "TURN" not in names

        code, said, _ = rollout("undo", "demo", "--to-revision", "5")
        assert (code, said) == (
            0,
            "demo asks for revision 5 already; nothing is changed\n",
        )
        assert rollout("undo", "demo", "--to-revision", "9")[0::2] == (
            2,
            "steelyard: there is no revision 9; kept are: 3, 4, 5\n",
        )


def test_what_is_not_there_is_one_sentence(cluster: Cluster, rollout: Rollout) -> None:
    """No such service: it is named with its namespace."""
    code, _, said = rollout("history", "nobody")

    assert code == 2
    assert said == (
        f"steelyard: there is no InferenceService 'nobody' in namespace '{cluster.namespace}'\n"
    )


@pytest.mark.parametrize("given", ["0", "x"])
def test_a_revision_is_a_number(rollout: Rollout, given: str) -> None:
    """Anything else is refused before the cluster is asked."""
    code, _, said = rollout("undo", "demo", "--to-revision", given)

    assert code == 2
    assert f"--to-revision: must be a number from 1, got '{given}'" in said
