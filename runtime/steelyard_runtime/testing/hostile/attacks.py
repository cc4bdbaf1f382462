"""Every attack, with the rate that bounds it."""

import random
from collections.abc import Callable
from dataclasses import dataclass

from steelyard_runtime.testing.hostile import bodies, connections, held, worker_ports
from steelyard_runtime.testing.hostile.target import Target

Attempt = Callable[[Target, random.Random], str]


@dataclass(frozen=True, slots=True)
class Attack:
    """One kind of harm: at most one attempt in an interval, one at a time for each client."""

    every_seconds: float
    make: Callable[[], Attempt]
    clients: int = 1  # processes that do it


def _stateless(attempt: Attempt, every_seconds: float, clients: int = 1) -> Attack:
    return Attack(every_seconds, lambda: attempt, clients)


ATTACKS: dict[str, Attack] = {
    "poison": _stateless(bodies.poison, 0.5, clients=3),
    "slow-grammar": _stateless(bodies.slow_grammar, 2.0, clients=2),
    "wide-grammar": _stateless(bodies.wide_grammar, 3.0),
    "many-messages": _stateless(bodies.many_messages, 10.0),
    "compressed-bomb": _stateless(bodies.compressed_bomb, 5.0),
    "nested-body": _stateless(bodies.nested_body, 0.5),
    "wrong-tokens": _stateless(bodies.wrong_tokens, 0.5),
    "dear-logprobs": _stateless(bodies.dear_logprobs, 20.0),
    "wrong-transfer": _stateless(bodies.wrong_transfer, 2.0),
    "resumed": _stateless(bodies.resumed, 2.0),
    "broken-json": _stateless(bodies.broken_json, 0.5),
    "idle-connections": Attack(1.0, held.idle_connections),
    "endless-bodies": Attack(1.0, held.endless_bodies),
    "half-headers": Attack(1.0, held.half_headers),
    "dripping-headers": Attack(1.0, held.dripping_headers),
    "dripping-bodies": Attack(1.0, held.dripping_bodies),
    "unread-streams": Attack(2.0, held.unread_streams),
    "half-closed": Attack(2.0, held.half_closed_clients),
    "long-header": _stateless(connections.long_header, 5.0),
    "many-headers": _stateless(connections.many_headers, 2.0),
    "resets": _stateless(connections.resets, 1.0),
    "odd-paths": _stateless(connections.odd_paths, 0.5),
    "odd-hosts": _stateless(connections.odd_hosts, 0.5),
    "odd-framing": _stateless(connections.odd_framing, 1.0),
    "admin-calls": _stateless(worker_ports.admin_calls, 0.5),
    "admin-noise": _stateless(worker_ports.admin_noise, 1.0),
    "kv-garbage": _stateless(worker_ports.kv_garbage, 0.5),
    "kv-silence": Attack(1.0, worker_ports.kv_silence),
}
