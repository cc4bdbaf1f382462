"""What a page in a browser may send to ports without a key, and who may when there is none."""

from pathlib import Path

import pytest

from steelyard_runtime.testing.http_worker import Rig, running_worker

pytestmark = pytest.mark.anyio

EVIL = "https://evil.example"


CALLS = [
    ("admin", "POST", "/drain"),
    ("admin", "POST", "/role"),
    ("admin", "GET", "/state"),
    ("serving", "POST", "/v1/completions"),
    ("serving", "POST", "/tokenize"),
    ("serving", "GET", "/v1/models"),
    ("serving", "GET", "/metrics"),
]
FORBIDDEN: list[dict[str, str]] = [
    {"origin": EVIL},
    {"origin": "null"},
    {"origin": "http://localhost.evil.example"},
    {"origin": "["},
    {"host": "evil.example:8000"},
    {"host": "127.0.0.1.evil.example"},
    {"host": "localhost@evil.example"},
    {"host": "["},
    {"host": "[::1", "origin": "null"},
    {"host": "evil.example", "origin": "http://evil.example"},
]


@pytest.mark.parametrize("headers", FORBIDDEN, ids=str)
@pytest.mark.parametrize("call", CALLS, ids=str)
async def test_pages_are_refused_on_loopback(
    rig: Rig, call: tuple[str, str, str], headers: dict[str, str]
) -> None:
    """A foreign origin or a foreign name of this machine is a 403 on every path of both ports."""
    port, method, path = call
    encoded = {name: value.encode("latin-1") for name, value in headers.items()}
    client = rig.admin if port == "admin" else rig.http
    request = client.build_request(
        method, path, content=b"{}", headers={"content-type": "application/json"}
    )
    request.headers.update(encoded)
    response = await client.send(request)

    assert response.status_code == 403
    assert response.json()["error"]["code"] in ("origin_not_allowed", "host_not_allowed")
    assert rig.engine.calls == []
    assert rig.engine.added == []


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3:9", "localhost", "LOCALHOST:80", "[::1]"])
async def test_tools_of_this_machine_are_served(rig: Rig, host: str) -> None:
    """Every loopback name is served, and an origin of the port itself is no foreign one."""
    json = {"prompt": "a", "max_tokens": 1}
    answers = [
        await rig.http.post("/v1/completions", json=json, headers={"host": host}),
        await rig.http.post(
            "/v1/completions", json=json, headers={"host": host, "origin": f"http://{host}"}
        ),
        await rig.admin.get("/state", headers={"host": host}),
    ]

    assert [answer.status_code for answer in answers] == [200] * 3


async def test_without_a_token_drain_takes_json_alone(own_rig: Rig) -> None:
    """A body of another type is a 415, none at all is as an empty object."""
    text = await own_rig.admin.post("/drain", content=b"{}", headers={"content-type": "text/plain"})
    bare = await own_rig.admin.post("/role", content=b'{"role": "both"}')
    calls = list(own_rig.engine.calls)
    empty = await own_rig.admin.post("/drain")

    assert (text.status_code, bare.status_code, calls) == (415, 415, [])
    assert empty.status_code == 202


async def test_allowed_origins_and_their_hosts_are_served(model: Path) -> None:
    """An origin that is allowed may ask without a key, also under its own name."""
    json = {"prompt": "a", "max_tokens": 1}
    async with running_worker(model, allowed_origins=("https://chat.example",)) as rig:
        statuses = [
            (await rig.http.post("/v1/completions", json=json, headers=headers)).status_code
            for headers in (
                {"origin": "https://chat.example"},
                {"origin": "https://chat.example", "host": "chat.example"},
                {"origin": EVIL},
            )
        ]

    assert statuses == [200, 200, 403]


async def test_with_a_key_or_a_token_pages_may_ask(model: Path) -> None:
    """Where a key is asked for, it decides, whatever name or origin a request has."""
    headers = {"origin": EVIL, "host": "evil.example", "authorization": "Bearer k"}
    json = {"prompt": "a", "max_tokens": 1}
    async with running_worker(model, api_keys=("k",), service_token="k") as rig:  # a test's
        asked = await rig.http.post("/v1/completions", json=json, headers=headers)
        state = await rig.admin.get("/state", headers=headers)

    assert (asked.status_code, state.status_code) == (200, 200)


async def test_other_machines_may_use_any_name(model: Path) -> None:
    """A worker that other machines reach knows not all its names; origins are checked there too."""
    json = {"prompt": "a", "max_tokens": 1}
    async with running_worker(model, host="0.0.0.0") as rig:  # what is tested
        named = await rig.http.post("/v1/completions", json=json, headers={"host": "worker.ns.svc"})
        page = await rig.http.post("/v1/completions", json=json, headers={"origin": EVIL})

    assert (named.status_code, page.status_code) == (200, 403)


async def test_state_tells_whether_kv_moves(model: Path) -> None:
    """Without a token no KV moves where other machines reach the worker."""
    token = {"authorization": "Bearer t"}
    async with (
        running_worker(model, host="0.0.0.0", service_token="t") as guarded,  # what is tested
        running_worker(model) as local,
    ):
        states = [
            (await guarded.admin.get("/state", headers=token)).json(),
            (await local.admin.get("/state")).json(),
        ]
    async with running_worker(model, host="0.0.0.0") as exposed:  # what is tested
        states.append(exposed.parts.state.snapshot())

    assert [state["kvTransfer"] for state in states] == [True, True, False]
