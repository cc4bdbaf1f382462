"""Chat templates that take too long or too much: a sentence, and the next one is rendered."""

import asyncio
import random
import resource
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from steelyard_runtime.errors import CheckpointError, RequestError
from steelyard_runtime.server import template_renderer
from steelyard_runtime.server.template_renderer import RenderLimits, TemplateRenderer
from steelyard_runtime.testing.http_worker import Rig
from steelyard_runtime.tokenization.template_process import Render

pytestmark = pytest.mark.anyio

LIMITS = RenderLimits(seconds=1.0, memory_bytes=192 * 1024**2)
GOOD = "{% for m in messages %}[{{ m.content }}]{% endfor %}"
# Only where the conversation says so, so that the start is not concerned.
GUARDED = "{% if messages[0].content == 'bomb' %}BOMB{% endif %}" + GOOD
BOMBS = {
    "nested loops": "{% for a in range(9999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "a long range": "{% for a in range(10**9) %}{% endfor %}",
    "a long power": "{% set z = 9 %}{{ 10 ** (10 ** z) }}",
    "a long text": "{{ 'a' * 10**10 }}",
    "doubled": "{% set n = namespace(t='aa') %}{% for a in range(60) %}{% set n.t = n.t ~ n.t %}"
    "{% endfor %}{{ n.t }}",
    "doubled list": "{% set n = namespace(t=[1]) %}{% for a in range(60) %}"
    "{% set n.t = n.t + n.t %}{% endfor %}{{ n.t }}",
    "a wide format": "{{ '%10000000000d' | format(1) }}",
    "a wide text": "{{ 'a'.ljust(10000000000) }}",
    "replaced": "{% set n = namespace(t='aa') %}{% for a in range(40) %}"
    "{% set n.t = n.t.replace('a', 'aaaa') %}{% endfor %}{{ n.t }}",
    "itself": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "much output": "{% for a in range(99999) %}{{ 'a' * 99999 }}{% endfor %}",
    "captured": "{% set t %}{% for a in range(99999) %}{{ 'a' * 9999 }}{% endfor %}"
    "{% endset %}{{ t }}",
    "a cycle": "{% set n = namespace() %}{% set n.n = n %}{{ n | tojson }}",
    "joined": "{{ range(99999) | map('string') | join('a' * 9999) | length }}",
}


def conversation(text: str, number: int = 1, **more: Any) -> Render:
    messages = [{"role": "user", "content": text}] * number
    return Render(messages, None, True, False, None, more.get("max_characters", 100_000))


@pytest.fixture(scope="module")
async def bombs() -> AsyncIterator[dict[str, TemplateRenderer]]:
    """A renderer for each bomb, started when it is needed."""
    made = {
        name: TemplateRenderer({"default": GUARDED.replace("BOMB", bomb)}, {}, LIMITS)
        for name, bomb in BOMBS.items()
    }
    yield made
    for renderer in made.values():
        renderer.close()


@pytest.mark.parametrize("name", BOMBS)
async def test_a_bomb_ends_its_own_request(bombs: dict[str, TemplateRenderer], name: str) -> None:
    """What takes too long, too much or is too deep is a 400; the same template goes on after it."""
    renderer = bombs[name]
    assert await renderer.render(conversation("a")) == "[a]"
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(RequestError) as refused:
        await renderer.render(conversation("bomb"))

    assert refused.value.status == 400
    assert refused.value.param == "messages"
    assert len(refused.value.message) < 300
    assert await renderer.render(conversation("b")) == "[b]"
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 64 * 1024


@pytest.mark.parametrize("name", ["nested loops", "a long power", "a long text", "doubled"])
async def test_a_bomb_at_the_start_is_the_checkpoints(name: str) -> None:
    """A template that cannot render one message in time is refused at the start."""
    renderer = TemplateRenderer({"default": BOMBS[name] + GOOD}, {}, LIMITS)
    try:
        with pytest.raises(CheckpointError, match="chat template"):
            await renderer.start()
    finally:
        renderer.close()


async def test_long_conversations_hold_up_no_short_one() -> None:
    """While a long conversation is rendered, a short one has its answer."""
    quadratic = "{% for a in messages %}{% for b in messages %}{% endfor %}{% endfor %}" + GOOD
    renderer = TemplateRenderer({"default": quadratic}, {}, RenderLimits(seconds=60))
    try:
        await renderer.start()
        long = asyncio.create_task(renderer.render(conversation("a", 16_000)))
        short = [await renderer.render(conversation("b")) for _ in range(3)]
        was_done = long.done()
        long.cancel()
        await asyncio.wait([long])
    finally:
        renderer.close()

    assert (short, was_done) == (["[b]"] * 3, False)


async def test_a_prompt_beyond_the_models_length_is_not_made(
    bombs: dict[str, TemplateRenderer],
) -> None:
    """The output is counted while it is made."""
    renderer = bombs["itself"]
    with pytest.raises(RequestError) as refused:
        await renderer.render(conversation("aaaa", 100, max_characters=500))

    assert refused.value.code == "context_length_exceeded"


async def test_a_killed_process_is_replaced(bombs: dict[str, TemplateRenderer]) -> None:
    """The process is a convenience: the next request starts another."""
    renderer = bombs["itself"]
    assert await renderer.render(conversation("a")) == "[a]"
    process = renderer._short._process
    assert process is not None
    process.kill()
    process.wait()

    assert await renderer.render(conversation("b")) == "[b]"


async def test_no_process_no_rendering(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no process can be started the request is a 503."""
    monkeypatch.setattr(template_renderer, "COMMAND", ("/no/such/program",))
    renderer = TemplateRenderer({"default": GOOD}, {}, LIMITS)
    with pytest.raises(RequestError) as refused:
        await renderer.render(conversation("a"))

    assert refused.value.status == 503


async def test_the_process_knows_no_secret(own_rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys and tokens in the worker's environment are not in that of its templates."""
    monkeypatch.setenv("STEELYARD_API_KEY", "a secret")
    assert (await own_rig.chat()).status_code == 200
    text = own_rig.parts.worker.text
    assert text is not None
    process = text.templates._short._process
    assert process is not None

    environment = await asyncio.to_thread(Path(f"/proc/{process.pid}/environ").read_bytes)

    assert b"a secret" not in environment
    assert b"PATH=" in environment


async def test_damaged_templates_are_bounded() -> None:
    """Templates cut and spliced at random compile to an error, or render within the limits."""
    draw = random.Random(16)
    parts = [*BOMBS.values(), GOOD, "{{ messages | tojson }}", "{% if", "}}", "{#", "\0", "é" * 9]
    limits = RenderLimits(seconds=0.3, memory_bytes=192 * 1024**2)
    outcomes = set()
    for _ in range(8):
        text = "".join(draw.choice(parts) for _ in range(draw.randrange(1, 4)))
        at = draw.randrange(len(text))
        source = text[:at] + draw.choice(["", "{", "%}", "~", "'"]) + text[at + draw.randrange(3) :]
        renderer = TemplateRenderer({"default": source}, {}, limits)
        try:
            await renderer.start()
            outcomes.add(type(await renderer.render(conversation("a"))))
        except (CheckpointError, RequestError) as error:
            assert "\n" not in str(error)
            outcomes.add(type(error))
        finally:
            renderer.close()

    assert CheckpointError in outcomes
