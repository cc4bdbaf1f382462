"""Damages tiny checkpoints at random and loads them as a worker does: a sentence or a model.

    python -m steelyard_runtime.testing.checkpoint_fuzz --cases 300 --seed 1

Each case is one to three changes: of JSON by its structure, of headers by their bytes and numbers.
The process has bounds of memory and, for each case, of time; whatever is no CheckpointError is
printed with what makes it again, and the exit code is 1.
"""

import argparse
import contextlib
import copy
import faulthandler
import json
import logging
import random
import resource
import shutil
import signal
import struct
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from steelyard_runtime.checkpoint_files.architectures import check_architecture
from steelyard_runtime.checkpoint_files.digest import model_digest
from steelyard_runtime.checkpoint_files.sources import resolve
from steelyard_runtime.engine.assembly import check_vocabulary
from steelyard_runtime.errors import CheckpointError
from steelyard_runtime.models.checkpoint import open_checkpoint
from steelyard_runtime.models.registry import load_model
from steelyard_runtime.testing.smallest_checkpoints import WRITERS
from steelyard_runtime.tokenization.loading import load_tokenizer

MEMORY_BYTES = 6 * 1024**3  # of address space; torch takes 3 GiB of it before anything is loaded
CASE_SECONDS = 10
TEMPLATES = ("chat_template", "tokenizer.chat_template")  # what a template does is not tried here

# In place of any value of a JSON document.
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 3, 7, 255, 256, 2**31 - 1, 2**31, 2**32 - 1, 2**53, 2**63),
    *(2**64, 10**30, -(2**63), 0.0, -0.0, 0.5, 1e-45, 1e-300, 1e300, -1e300, float("nan")),
    *(float("inf"), float("-inf"), "", "a", "0", "default", "yarn", "llama3", "linear", "\0"),
    *("\ud800", "..", "../config.json", "/dev/zero", "a" * 300, "<|im_end|>", [], [1], [[]], {}),
    *([None], ["a"], {"a": 1}, {"": {}}, [2**63], [-1], list(range(100))),
)
NUMBERS = (0, 1, 2, 8, 9, 2**31, 2**32 - 1, 2**40, 2**62, 2**63, 2**64 - 1)


def load(path: Path) -> None:
    """Do what a worker does with a checkpoint before it serves.

    Raises:
        CheckpointError: it is damaged.
    """
    found = resolve(str(path))
    check_architecture(found)
    tokenizer = load_tokenizer(found)
    for token_id in range(tokenizer.vocab_size):
        tokenizer.token_bytes(token_id)
    tokenizer.encode("Hello, world")
    assert tokenizer.digest
    checkpoint = open_checkpoint(found)
    check_vocabulary(checkpoint, tokenizer)
    load_model(checkpoint, torch.device("cpu"), torch.float32, 16)
    model_digest(found, found.parent / "cache")


def mutate(target: Path, chance: random.Random) -> str:
    """Damage a checkpoint; returns what was done."""
    files = [target] if target.is_file() else sorted(p for p in target.iterdir() if p.is_file())
    done = []
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        file = chance.choice(files)
        if not file.exists():
            continue
        if file.suffix == ".json" and chance.random() < 0.9:
            done.append(_mutate_json(file, chance))
        else:
            done.append(_mutate_bytes(file, chance))
    return "; ".join(done)


def _mutate_json(file: Path, chance: random.Random) -> str:
    try:
        document = json.loads(file.read_bytes())
        places = list(_places(document, ()))
        place = chance.choice(places)
    except (ValueError, IndexError, RecursionError):
        return _mutate_bytes(file, chance)
    parent = document
    for key in place[:-1]:
        parent = parent[key]
    last, kind = place[-1], chance.random()
    if kind < 0.1:
        del parent[last]
        what = "removed"
    elif kind < 0.2 and isinstance(parent, dict):
        parent[chance.choice(("", "a\0b", "\ud800", "x" * 500))] = parent.pop(last)
        what = "renamed"
    elif kind < 0.25:
        parent[last] = "DEEP"
        what = "nested"
    elif kind < 0.35 and isinstance(parent[last], list | dict):
        parent[last] = copy.deepcopy(parent)
        what = "copied into itself"
    else:
        parent[last] = copy.deepcopy(chance.choice(VALUES))
        what = repr(parent[last])[:60]
    text = json.dumps(document).replace('"DEEP"', "[" * 5000 + "]" * 5000)
    file.write_text(text)
    return f"{file.name} {'.'.join(map(str, place))[:80]}: {what}"


def _places(document: Any, way: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
    """Every place of a document; of long lists and objects some."""
    items: list[tuple[Any, Any]] = []
    if isinstance(document, dict):
        items = list(document.items())
    elif isinstance(document, list):
        items = list(enumerate(document))
    for key, value in items[:40]:
        if key not in TEMPLATES:
            yield (*way, key)
            yield from _places(value, (*way, key))


def _mutate_bytes(file: Path, chance: random.Random) -> str:
    content = bytearray(file.read_bytes())
    # Headers stand first and are where the meaning is.
    reach = min(len(content), chance.choice((16, 64, 1024, 8192, len(content)))) or 1
    at = chance.randrange(reach)
    kind = chance.choice(("flip", "number", "number", "cut", "insert", "json", "empty"))
    if kind == "flip" and content:
        content[at] ^= 1 << chance.randrange(8)
    elif kind == "number":
        layout, size = chance.choice((("<Q", 2**64), ("<I", 2**32), ("<H", 2**16)))
        content[at : at + struct.calcsize(layout)] = struct.pack(
            layout, chance.choice(NUMBERS) % size
        )
    elif kind == "cut":
        del content[at:]
    elif kind == "insert":
        content[at:at] = chance.randbytes(chance.choice((1, 8, 64)))
    elif kind == "json" and file.suffix == ".safetensors":
        return _mutate_table(file, content, chance)
    elif kind == "empty" and chance.random() < 0.2:
        content.clear()
    file.write_bytes(content)
    return f"{file.name} at {at}: {kind}"


def _mutate_table(file: Path, content: bytearray, chance: random.Random) -> str:
    """Change the table of a safetensors file and keep its length right."""
    try:
        (length,) = struct.unpack_from("<Q", content)
        table = file.with_suffix(".table.json")
        table.write_bytes(content[8 : 8 + length])
        what = _mutate_json(table, chance)
        header = table.read_bytes()
        table.unlink()
    except struct.error:
        return "nothing"
    file.write_bytes(struct.pack("<Q", len(header)) + header + content[8 + length :])
    return f"{file.name}'s table: {what}"


class _TooSlowError(BaseException):
    """A case took longer than it may."""


@contextlib.contextmanager
def _within(seconds: float) -> Iterator[None]:
    def late(*_: Any) -> None:
        raise _TooSlowError

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    # A library that holds on to the process hears no signal; then the whole run ends here.
    faulthandler.dump_traceback_later(3 * seconds, exit=True)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def run(cases: int, seed: int, *, verbose: bool = False) -> int:
    """Try cases; returns how many were neither a sentence nor a model."""
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)  # one line for each kernel that is not used
    bad = loaded = 0
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        whole = Path(scratch) / "whole"
        whole.mkdir()
        originals = [write(whole) for write in WRITERS]
        for original in originals:
            load(original)
        for case in range(seed, seed + cases):
            chance = random.Random(case)  # noqa: S311  # no secret
            original = chance.choice(originals)
            target = Path(scratch) / "case" / original.name
            shutil.rmtree(target.parent, ignore_errors=True)
            target.parent.mkdir()
            (shutil.copytree if original.is_dir() else shutil.copy)(original, target)
            done = mutate(target, chance)
            if verbose:
                say(f"case {case}")
            wrong = _try(target)
            loaded += wrong is None
            if wrong:
                bad += 1
                say(f"case {case} ({original.name}): {done}\n{wrong}")
    seconds = time.monotonic() - started
    say(f"{cases} cases in {seconds:.1f} s: {loaded} loaded, {bad} neither loaded nor refused")
    return bad


def say(line: str) -> None:
    """Print at once: the next case may end the process."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _try(target: Path) -> str | None:
    """Load one; returns None where it loads, nothing where it is refused, else what is wrong."""
    try:
        with _within(CASE_SECONDS):
            load(target)
    except CheckpointError as error:
        sentence = str(error)
        shown = sentence.isprintable() and len(sentence) < 2000
        return "" if shown else f"no sentence: {sentence[:300]!r} ({len(sentence)} characters)"
    except _TooSlowError:
        return f"it took more than {CASE_SECONDS} s\n{traceback.format_exc(limit=-3)}"
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        return traceback.format_exc(limit=-6)
    return None


def main() -> int:
    """Parse flags; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cases", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1, help="of the first case; the others follow")
    parser.add_argument("--verbose", action="store_true", help="tell each case before it is tried")
    given = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    return 1 if run(given.cases, given.seed, verbose=given.verbose) else 0


if __name__ == "__main__":
    sys.exit(main())
