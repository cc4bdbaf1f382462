"""How the router remembers prompts: chained hashes, an LRU per worker, learned token counts."""

import subprocess
import sys

from hypothesis import given, settings
from hypothesis import strategies as st

from steelyard_runtime.router.affinity import (
    CHUNK_CHARACTERS,
    FEWEST_CHUNKS,
    PrefixMemory,
    TokenEstimator,
    chain_hashes,
    rendered_text,
    text_chunks,
    token_chunks,
    token_prompt,
)


@settings(max_examples=40)
@given(st.text(min_size=0, max_size=2000), st.text(max_size=600), st.text(max_size=600))
def test_equal_beginnings_give_equal_hashes(start: str, left: str, right: str) -> None:
    """Texts share exactly the hashes of the whole chunks that they share."""
    one, two = (chain_hashes(text_chunks(start + end)) for end in (left, right))
    shared = sum(a == b for a, b in zip(one, two, strict=False))

    assert shared >= len(start) // CHUNK_CHARACTERS
    assert all(a == b for a, b in zip(one[:shared], two, strict=False))


def test_a_changed_beginning_changes_all_hashes() -> None:
    """A chunk's hash covers everything before it, and the salt."""
    text = "x" * 1024
    plain = chain_hashes(text_chunks(text))

    assert set(plain).isdisjoint(chain_hashes(text_chunks("y" + text[1:])))
    assert set(plain).isdisjoint(chain_hashes(text_chunks(text), "tenant"))


def test_hashes_are_the_same_in_every_process() -> None:
    """Routers of one service agree: no hash depends on the process."""
    program = (
        "from steelyard_runtime.router.affinity import *;"
        "print(chain_hashes(text_chunks('abc' * 200)))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )

    assert ran.stdout.strip() == str(chain_hashes(text_chunks("abc" * 200)))


def test_next_turn_of_a_chat_begins_like_the_last() -> None:
    """The text of a longer conversation begins with the text of the shorter one."""
    turns = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "hi"}]
    tools = [{"type": "function", "function": {"name": "f"}}]
    short = rendered_text({"messages": turns[:1], "tools": tools})
    long = rendered_text({"messages": turns, "tools": tools})

    assert long.startswith(short)


def test_odd_bodies_do_not_break_the_rendering() -> None:
    """Wrong types are the worker's to refuse; here they only must not fail."""
    bodies = [{"messages": [3, {"content": {}}, {}]}, {"prompt": None}, {"messages": "x"}, {}]

    assert all(isinstance(rendered_text(body), str) for body in bodies)
    assert token_prompt({"prompt": [1, True]}) is None
    assert token_prompt({"prompt": [1, 2]}) == [1, 2]


def test_memory_is_bounded_and_forgets_the_oldest() -> None:
    """Each worker keeps the newest chunks; the beginning of a chain outlives its end."""
    memory = PrefixMemory(chunks_per_worker=4)
    memory.remember("a", [1, 2, 3])
    memory.remember("a", [7, 8])

    assert memory.size("a") == 4
    assert memory.warm_chunks("a", [1, 2, 3]) == 2
    assert memory.warm_chunks("a", [7, 8, 9]) == 2
    assert memory.warm_chunks("b", [1]) == 0
    memory.forget("a")
    assert memory.warm_chunks("a", [7]) == 0


def test_tokens_per_character_are_learned() -> None:
    """The estimate moves to what usage shows and ignores prompts that are too short to tell."""
    estimator = TokenEstimator()
    for _ in range(100):
        estimator.learn(3000, 1000)
        estimator.learn(20, 15)

    assert 990 <= estimator.estimate(3000) <= 1010


def test_token_chunks_are_counted_in_tokens() -> None:
    """A prompt of token ids is cut at fixed numbers of tokens."""
    assert len(list(token_chunks(list(range(200))))) == 3


def test_the_size_of_a_workers_cache_is_learned_from_its_answers() -> None:
    """Halved by each mistake down to a few chunks, and grown again by what was there."""
    memory = PrefixMemory(chunks_per_worker=100)
    for prompt in range(20):
        memory.remember("a", range(10 * prompt, 10 * prompt + 10))
        memory.remember("b", range(10 * prompt, 10 * prompt + 10))

    memory.confirm("a", 10, cached=False)
    assert (memory.size("a"), memory.size("b")) == (50, 100)
    assert memory.warm_chunks("a", range(190, 200)) == 10, "the newest stay"
    for _ in range(5):
        memory.confirm("a", 10, cached=False)
    assert memory.size("a") == FEWEST_CHUNKS

    for _ in range(3):
        memory.confirm("a", 10, cached=True)
    for prompt in range(20):
        memory.remember("a", range(10 * prompt, 10 * prompt + 10))
    assert memory.size("a") == FEWEST_CHUNKS + 30

    memory.forget("a")  # it has restarted, maybe with another cache
    for prompt in range(20):
        memory.remember("a", range(10 * prompt, 10 * prompt + 10))
    assert memory.size("a") == 100
