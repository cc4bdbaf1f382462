"""The admin port: state, drain, role, epochs, token."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from steelyard_runtime.testing.byte_tokenizer import byte_ids
from steelyard_runtime.testing.fake_engine import Script
from steelyard_runtime.testing.http_worker import Rig, running_worker

pytestmark = pytest.mark.anyio


async def test_state_has_the_contracts_keys(rig: Rig) -> None:
    """`GET /state` tells role, phase, what is in flight, blocks and identity."""
    state = (await rig.admin.get("/state")).json()

    assert (state["role"], state["phase"], state["inFlight"], state["epoch"]) == (
        "both",
        "ready",
        0,
        0,
    )
    assert (state["fingerprint"], state["engineId"], state["scheme"]) == (
        "f" * 64,
        "engine-1",
        "http",
    )
    assert state["version"]
    assert set(state["blocks"]) == {
        "total",
        "free",
        "cached",
        "referenced",
        "leased",
        "quarantined",
    }
    assert (state["running"], state["waiting"], state["landing"]) == (0, 0, 0)
    assert "gauges" not in state


async def test_state_while_loading_tells_the_progress(model: Path) -> None:
    """Before the engine is ready the phase is `loading` and requests wait outside."""
    async with running_worker(model, start=False) as loading:
        state = (await loading.admin.get("/state")).json()
        answers = [
            await loading.http.get("/health"),
            await loading.http.get("/ready"),
            await loading.complete(),
            await loading.http.get("/v1/models"),
            await loading.http.post("/tokenize", json={"prompt": "a"}),
            await loading.admin.post("/drain"),
        ]

    assert state["phase"] == "loading"
    assert [answer.status_code for answer in answers] == [200, 503, 503, 503, 503, 503]
    assert answers[2].headers["retry-after"] == "1"


async def test_drain_ends_what_runs_and_refuses_the_rest(own_rig: Rig) -> None:
    """While draining, streams go on, new requests get 503, health stays 200."""
    own_rig.engine.script = lambda _: Script(byte_ids("abc"), hold_after=1)
    running = asyncio.create_task(own_rig.complete())
    await own_rig.until(lambda: own_rig.engine.added, "the request runs")

    drain = await own_rig.admin.post("/drain", json={"epoch": 3, "deadlineSeconds": 20})
    refused = await own_rig.complete()
    health, ready = await own_rig.http.get("/health"), await own_rig.http.get("/ready")
    own_rig.engine.gate.set()
    finished = await running
    after = (await own_rig.admin.get("/state")).json()

    assert drain.status_code == 202
    assert (drain.json()["phase"], drain.json()["inFlight"]) == ("draining", 1)
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
    assert refused.json()["error"]["code"] == "worker_draining"
    assert (health.status_code, ready.status_code) == (200, 503)
    assert finished.json()["choices"][0]["text"] == "abc"
    assert (after["phase"], after["inFlight"], after["epoch"]) == ("drained", 0, 3)
    assert own_rig.engine.calls[0].arguments == {"epoch": 3, "deadlineSeconds": 20.0}


async def test_leases_hold_a_drain_open(own_rig: Rig) -> None:
    """Blocks that a decode worker has not read yet are in flight."""
    own_rig.engine.leased = 2
    await own_rig.admin.post("/drain")
    draining = (await own_rig.admin.get("/state")).json()
    own_rig.engine.leased = 0
    drained = (await own_rig.admin.get("/state")).json()

    assert (draining["phase"], draining["inFlight"]) == ("draining", 2)
    assert (drained["phase"], drained["inFlight"]) == ("drained", 0)


async def test_role_changes_in_place_after_a_drain(own_rig: Rig) -> None:
    """A drained worker takes another role and requests again; the metrics carry the new role."""
    await own_rig.admin.post("/drain")
    changed = await own_rig.admin.post("/role", json={"role": "decode", "epoch": 1})
    answered = await own_rig.complete()
    text = (await own_rig.http.get("/metrics")).text

    assert changed.status_code == 200
    assert (changed.json()["role"], changed.json()["phase"]) == ("decode", "ready")
    assert answered.status_code == 200
    series = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert all('role="decode"' in line for line in series)


async def test_the_old_role_resumes(own_rig: Rig) -> None:
    """Posting the role that the worker has takes it back into service."""
    await own_rig.admin.post("/drain")
    resumed = await own_rig.admin.post("/role", json={"role": "both"})

    assert (resumed.status_code, resumed.json()["phase"]) == (200, "ready")
    assert (await own_rig.http.get("/ready")).status_code == 200


async def test_role_may_not_change_undrained(own_rig: Rig) -> None:
    """Another role without a drain, or with a request in flight, is a 409."""
    own_rig.engine.script = lambda _: Script(byte_ids("abc"), hold_after=1)
    undrained = await own_rig.admin.post("/role", json={"role": "decode"})
    running = asyncio.create_task(own_rig.complete())
    await own_rig.until(lambda: own_rig.engine.added, "the request runs")
    await own_rig.admin.post("/drain")
    busy = await own_rig.admin.post("/role", json={"role": "decode"})
    own_rig.engine.gate.set()
    await running

    assert (undrained.status_code, busy.status_code) == (409, 409)
    assert (await own_rig.admin.get("/state")).json()["role"] == "both"


async def test_lower_epochs_are_refused(own_rig: Rig) -> None:
    """An act of an older plan is a 409 and changes nothing; equal and absent epochs pass."""
    assert (await own_rig.admin.post("/drain", json={"epoch": 5})).status_code == 202
    stale = await own_rig.admin.post("/role", json={"role": "both", "epoch": 4})
    assert stale.status_code == 409
    assert (await own_rig.admin.get("/state")).json()["phase"] == "drained"
    assert (await own_rig.admin.post("/role", json={"role": "both", "epoch": 5})).status_code == 200
    assert (await own_rig.admin.post("/drain", json={})).status_code == 202


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/role", {}),
        ("/role", {"role": "draft"}),
        ("/role", {"role": 5}),
        ("/role", []),
        ("/drain", {"epoch": "5"}),
        ("/drain", {"epoch": -1}),
        ("/drain", {"deadlineSeconds": -1}),
    ],
    ids=str,
)
async def test_wrong_bodies_are_400(rig: Rig, path: str, body: Any) -> None:
    """Wrong bodies are told in one sentence and change nothing."""
    response = await rig.admin.post(path, json=body)

    assert response.status_code == 400
    assert response.json()["error"]["message"]
    assert rig.engine.calls == []


async def test_token_guards_the_admin_port(model: Path) -> None:
    """With a token every call needs it, and the serving port does not know it."""
    async with running_worker(model, service_token="s3cret") as guarded:  # a test's
        without = await guarded.admin.get("/state")
        wrong = await guarded.admin.get("/state", headers={"authorization": "Bearer s3cre"})
        right = await guarded.admin.get("/state", headers={"authorization": "Bearer s3cret"})
        unknown = await guarded.admin.get("/nothing")

    assert [r.status_code for r in (without, wrong, right, unknown)] == [401, 401, 200, 401]
    assert without.json()["error"]["code"] == "invalid_api_key"


async def test_without_a_token_only_loopback_is_open(model: Path) -> None:
    """A worker that other machines reach refuses admin calls until it has a token."""
    async with running_worker(model, host="0.0.0.0") as exposed:  # what is tested
        response = await exposed.admin.get("/state")

    assert response.status_code == 401
