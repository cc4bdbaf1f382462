"""The decode side's view of its peers: who may be reached, connections, heartbeats.

Connections are authenticated once and then kept for the next pull; each is used by one task at a
time, so that a peer that stopped holds up its own pulls only. Runs on the transfer thread.
"""

import asyncio
import ipaddress
import socket
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from steelyard_runtime.errors import ConfigError, TransferError
from steelyard_runtime.transfer.channel import connect
from steelyard_runtime.transfer.codec import FrameError
from steelyard_runtime.transfer.messages import (
    PROTOCOL,
    Abort,
    Done,
    Ended,
    Failure,
    Greeting,
    Hello,
    Open,
    Renew,
    Reply,
    Welcome,
)
from steelyard_runtime.transfer.stats import TransferStats
from steelyard_runtime.transfer.transport import Link

# Pulls from one peer at a time; the others wait, their leases are kept.
MAX_PULLS_PER_PEER = 16
# Heartbeats a lease.
BEATS_PER_LEASE = 6
NOTIFY_SECONDS = 5.0
# A peer that nothing was asked of for so long is forgotten.
IDLE_SECONDS = 120.0

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Key = tuple[str, int]


def parse_networks(ranges: Sequence[str]) -> tuple[Network, ...]:
    """Return the address ranges that may be connected to.

    Raises:
        ConfigError: one of them is no address range.
    """
    try:
        return tuple(ipaddress.ip_network(each.strip(), strict=False) for each in ranges)
    except ValueError as error:
        raise ConfigError(
            f"--kv-peers must be address ranges such as 10.0.0.0/8,192.168.1.7/32: {error}"
        ) from None


@dataclass(slots=True, eq=False)
class Peer:
    """One prefill worker's side channel."""

    key: Key
    slots: asyncio.Semaphore
    lease_seconds: float
    idle: list[Link] = field(default_factory=list)
    held: Counter[str] = field(default_factory=Counter)
    users: int = 0
    tender: asyncio.Task[None] | None = None


class Peers:
    """Connections to prefill workers."""

    def __init__(
        self,
        *,
        networks: tuple[Network, ...],
        token: str,
        greeting: Callable[[], Greeting],
        stats: TransferStats,
    ) -> None:
        self._networks = networks
        self._token = token
        self._greeting = greeting
        self._stats = stats
        self._peers: dict[Key, Peer] = {}

    def peer(self, host: str, port: int) -> Peer:
        """Return what is known of a peer; connects to nobody."""
        key = (host, port)
        peer = self._peers.get(key)
        if peer is None:
            peer = Peer(key, asyncio.Semaphore(MAX_PULLS_PER_PEER), self._greeting().lease_seconds)
            peer.tender = asyncio.get_running_loop().create_task(self._tend(peer))
            self._peers[key] = peer
        return peer

    def hold(self, peer: Peer, request_id: str) -> None:
        """Keep a lease alive with heartbeats until `unhold`."""
        peer.held[request_id] += 1

    def unhold(self, peer: Peer, request_id: str) -> None:
        """Stop the heartbeats of a lease."""
        peer.held[request_id] -= 1
        if peer.held[request_id] <= 0:
            del peer.held[request_id]

    @asynccontextmanager
    async def opened(self, peer: Peer, request: Open) -> AsyncIterator[tuple[Link, Reply]]:
        """Send `request` on a connection and lend that connection.

        A kept connection may have been closed by a peer that started anew; then a fresh one is
        made. On any error inside the block the connection is closed, else it is kept.

        Raises:
            TransferError: the peer cannot be reached, or is not one that we can read from.
        """
        async with peer.slots:
            link, reply = await self._ask(peer, request)
            try:
                yield link, reply
            except BaseException:
                link.channel.close()
                raise
            peer.idle.append(link)

    async def notify(self, peer: Peer, message: Done | Abort) -> bool:
        """Tell a peer that a lease may end; returns whether it heard it."""
        peer.users += 1
        try:
            async with asyncio.timeout(NOTIFY_SECONDS):
                link, _ = await self._ask(peer, message)
        except (TimeoutError, TransferError, FrameError, OSError):
            self._stats.count("vllm:nixl_num_failed_notifications_total")
            return False
        finally:
            peer.users -= 1
        peer.idle.append(link)
        return True

    async def close(self) -> None:
        """Close all connections."""
        tenders = [peer.tender for peer in self._peers.values() if peer.tender is not None]
        for tender in tenders:
            tender.cancel()
        await asyncio.gather(*tenders, return_exceptions=True)
        for peer in self._peers.values():
            _close_idle(peer)
        self._peers.clear()

    async def _ask(self, peer: Peer, request: Open | Renew | Done | Abort) -> tuple[Link, Reply]:
        while peer.idle:
            link = peer.idle.pop()
            try:
                return link, await _exchange(link, request)
            except (FrameError, OSError):
                _close_idle(peer)  # the peer went away; so did its other connections
        link = await self._connect(peer)
        return link, await _exchange(link, request)

    async def _connect(self, peer: Peer) -> Link:
        family, address = await self._resolve(*peer.key)
        where = f"{peer.key[0]}:{peer.key[1]}"
        try:
            channel = await connect(address, family, self._token)
        except (OSError, OverflowError) as error:  # the latter: no such port
            raise TransferError("connect", f"cannot connect to {where}: {error}") from None
        except FrameError as error:
            raise TransferError("handshake", f"no handshake with {where}: {error}") from None
        try:
            await channel.send(Hello(self._greeting()))
            reply = await channel.receive()
            if not isinstance(reply, Welcome) or reply.greeting.protocol != PROTOCOL:
                raise FrameError("protocol", f"no welcome of protocol {PROTOCOL}")
        except (FrameError, OSError) as error:
            channel.close()
            raise TransferError("handshake", f"no handshake with {where}: {error}") from None
        except BaseException:
            channel.close()
            raise
        theirs, ours = reply.greeting, self._greeting()
        if (theirs.fingerprint, theirs.block_bytes) != (ours.fingerprint, ours.block_bytes):
            channel.close()
            raise TransferError(
                "fingerprint",
                f"{where} has fingerprint {theirs.fingerprint[:16]} and blocks of"
                f" {theirs.block_bytes} bytes, here {ours.fingerprint[:16]} and"
                f" {ours.block_bytes}",
            )
        peer.lease_seconds = max(0.1, min(3600.0, theirs.lease_seconds))
        return Link(channel, theirs)

    async def _resolve(self, host: str, port: int) -> tuple[int, Key]:
        """Return an address of the peer that is allowed; that address is then connected to."""
        for ip in await _addresses(host):
            if any(ip in network for network in self._networks):
                family = socket.AF_INET if ip.version == 4 else socket.AF_INET6
                return family, (str(ip), port)
        allowed = ", ".join(str(network) for network in self._networks)
        raise TransferError("peer_not_allowed", f"'{host}' is not within --kv-peers {allowed}")

    async def _tend(self, peer: Peer) -> None:
        """Send heartbeats while leases are held; forget the peer when nothing was for long."""
        loop = asyncio.get_running_loop()
        quiet_since = loop.time()
        while True:
            await asyncio.sleep(peer.lease_seconds / BEATS_PER_LEASE)
            if peer.held:
                quiet_since = loop.time()
                await self._renew(peer)
            elif loop.time() - quiet_since > IDLE_SECONDS and not peer.users:
                _close_idle(peer)
                self._peers.pop(peer.key, None)
                return

    async def _renew(self, peer: Peer) -> None:
        try:
            # A slow peer must not make the next beat late.
            async with asyncio.timeout(peer.lease_seconds / BEATS_PER_LEASE):
                link, _ = await self._ask(peer, Renew(list(peer.held)[:4096]))
        except (TimeoutError, TransferError, FrameError, OSError):
            return
        peer.idle.append(link)


async def _exchange(link: Link, request: Open | Renew | Done | Abort) -> Reply:
    expected = Ended if not isinstance(request, Open) else None
    try:
        await link.channel.send(request)
        reply = await link.channel.receive()
        if expected is not None and not isinstance(reply, Ended | Failure):
            raise FrameError("protocol", "the peer answers something else than was asked")
    except BaseException:
        link.channel.close()
        raise
    return reply


async def _addresses(host: str) -> list[Address]:
    try:
        return [ipaddress.ip_address(host)]
    except ValueError:
        pass  # a name: resolving takes a thread
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, ValueError) as error:
        raise TransferError("connect", f"cannot resolve '{host}': {error}") from None
    return [ipaddress.ip_address(address[0]) for _, _, _, _, address in found]


def _close_idle(peer: Peer) -> None:
    while peer.idle:
        peer.idle.pop().channel.close()
