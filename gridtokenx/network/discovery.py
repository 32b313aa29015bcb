"""Finding peers from the bootnodes' addresses alone, and keeping the connections.

Source: protocols/networking.md 2. A node knows bootnodes; it dials them, asks the
Kademlia DHT who else there is (FIND_NODE for its own id, then for random ids), dials what it
learns up to a target, and dials again, with a growing pause, what it lost. Once others are known
a dead bootnode matters no more.
"""

import hashlib
import itertools
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import structlog
import trio
from libp2p.kad_dht.common import PROTOCOL_ID as DHT_PROTOCOL_ID
from libp2p.peer.id import ID

from gridtokenx.network.clock import Clock
from gridtokenx.network.host import (
    Network,
    NetworkError,
    PeerConnected,
    PeerDisconnected,
    format_peer_id,
    parse_address,
)
from gridtokenx.network.libp2p_overrides import NodeDHT
from gridtokenx.network.mdns import LocalPeers
from gridtokenx.network.mdns_wire import service_name
from gridtokenx.network.peers.peer import PeerId
from gridtokenx.network.peers.peer_book import PeerBook
from gridtokenx.runtime.housekeeping import house

FIRST_BACKOFF_S = 1.0
LAST_BACKOFF_S = 30.0
LAST_BACKOFF_AMONG_PEERS_S = 600.0
FAST_REFRESH_S = 1.0
FAST_PERIOD_S = 20.0
SLOW_REFRESH_S = 30.0
LEAST_REFRESH_S = 0.2
LOOKUP_TIMEOUT_S = 30.0
KEEPER_PAUSE_S = 0.25
FIRST_REGION_PAUSES_S = (2.0, 10.0, 30.0)  # while the first peers come
REGION_PAUSE_S = 600.0
MAX_CONCURRENT_DIALS = 8
MAX_CANDIDATES = 500
MIN_CHOSEN_PEERS = 4
GIVE_UP_AFTER_FAILURES = 8
ALONE_HINT_AFTER_S = 60.0

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Candidate:
    """A peer worth connecting to. `address` is given for configured peers, None for found ones."""

    address: str | None = None
    failures: int = 0
    not_before_s: float = 0.0
    dialling: bool = False
    serves: bool = False  # a region that this node serves too

    def backoff_s(self, last_s: float) -> float:
        """How long to leave it alone after its latest failure."""
        doublings = max(0, min(self.failures - 1, 10))
        return min(FIRST_BACKOFF_S * float(1 << doublings), last_s)


def region_key(network_id: int, region: str) -> bytes:
    """The provider key of a region: SHA-256 multihash of `/gridtokenx/<network id>/<region>`.

    js-libp2p's `contentRouting.provide` and `findProviders` use the multihash of their CID.
    """
    text = f"/gridtokenx/{network_id}/{region}"
    return b"\x12\x20" + hashlib.sha256(text.encode()).digest()


OUTCOME_WORDS = {
    "timeout": "timed out",
    "refused": "refused",
    "security": "with another identity than expected",
    "protocol": "without a common protocol",
    "unreachable": "unreachable",
    "self": "to ourselves",
    "full": "above our own limit",
    "banned": "to banned peers",
    "closed": "closed by the peer",
    "not_allowed": "to peers that are not allowed",
}


def describe_outcomes(outcomes: Mapping[str, int]) -> str:
    """`12 dials — 9 timed out, 3 refused`: failed dials by reason, the most frequent first."""
    failed = {reason: count for reason, count in outcomes.items() if reason != "connected"}
    ranked = sorted(failed.items(), key=lambda item: (-item[1], item[0]))
    reasons = ", ".join(f"{count} {OUTCOME_WORDS[reason]}" for reason, count in ranked)
    return f"{sum(outcomes.values())} dials — {reasons or 'none failed'}"


class Discovery:
    """Runs the DHT and keeps up to `target_peers` connections.

    `bootstrap` and `persistent` are full multiaddrs. Persistent peers (authorities) are always
    dialled again, whatever the target; bootnodes while fewer peers than the target are connected.
    `book`: whom an earlier process met; they are dialled as the DHT's are. `regions`: by
    `region_key`, whether this node serves the region and so seeks others that do.
    `local_network_id`: the network whose nodes find each other by mDNS; None: without.
    """

    def __init__(
        self,
        network: Network,
        bootstrap: Sequence[str],
        *,
        persistent: Sequence[str] = (),
        target_peers: int = 20,
        regions: Mapping[bytes, bool] | None = None,
        book: PeerBook | None = None,
        local_network_id: int | None = None,
    ) -> None:
        self._network = network
        self._target_peers = target_peers
        self._regions = dict(regions or {})
        self.providers: dict[bytes, tuple[PeerId, ...]] = {}  # by region_key, who serves it
        self._dht = NodeDHT(network.host, self._wants_more, tuple(self._regions))
        self.faults: Counter[str] = Counter()  # errors of ours by task; none are expected
        self._candidates: dict[PeerId, _Candidate] = {}
        self._persistent: set[PeerId] = set()
        self._wake = trio.Event()
        self._news = trio.Event()
        self._dials = trio.CapacityLimiter(MAX_CONCURRENT_DIALS)
        for address in (*bootstrap, *persistent):
            peer, _ = parse_address(address)
            if peer != network.peer_id:
                self._candidates[peer] = _Candidate(address)
                network.protect(peer)
        for address in persistent:
            self._persistent.add(parse_address(address)[0])
        self._persistent.discard(network.peer_id)
        self._book = book or PeerBook(Clock())
        for peer, met in self._book.peers().items():
            if peer != network.peer_id and peer not in self._candidates:
                network.remember(peer, met.addresses)
                self._candidates[peer] = _Candidate()
        self._local = self._local_peers(local_network_id)
        network.host.on_identified = self._on_identified
        self._identified_send, self._identified = trio.open_memory_channel[PeerId](256)

    @property
    def dial_outcomes(self) -> Counter[str]:
        """How dials ended, by reason; `connected` for those that succeeded."""
        return self._network.dial_outcomes

    @property
    def known_peers(self) -> int:
        """How many peers the DHT's routing table holds."""
        return len(self._dht.table.get_peer_ids())

    def hint(self) -> str:
        """What to tell an operator whose node is alone (GTX-NET-001)."""
        foreign = sum(one.reason == "wrong_genesis" for one in self._network.reputation.bans())
        if foreign:
            return (
                f"no peers for {ALONE_HINT_AFTER_S:.0f} s: {foreign} have another genesis. "
                "Compare genesis.hash with the network's operator (GTX-NET-002)."
            )
        ports = [where.split("/tcp/")[1].split("/")[0] for where in self._network.listen_addresses]
        parts = [
            f"no peers for {ALONE_HINT_AFTER_S:.0f} s: {describe_outcomes(self.dial_outcomes)}.",
            *(f"Is TCP {port} open?" for port in dict.fromkeys(ports)),
        ]
        if self._network.nat_ip is not None and not self._network.announces:
            parts.append(
                f"announce is empty and you are behind NAT (peers saw {self._network.nat_ip})."
            )
        if self.dial_outcomes["security"]:
            parts.append("Another node answers at an address of network.bootstrap than it names.")
        return " ".join(
            [*parts, "Check network.bootstrap and the firewall; gridtokenx net doctor says more."]
        )

    async def run(self, task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
        """Serve the DHT and keep connections until cancelled."""
        self._network.handle_raw(str(DHT_PROTOCOL_ID), self._dht.handle_stream)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._follow_events)
            nursery.start_soon(self._follow_identified)
            nursery.start_soon(self._refresh)
            nursery.start_soon(self._meet_regions)
            nursery.start_soon(self._warn_when_alone)
            nursery.start_soon(self._keep_connections, nursery)
            if self._local is not None:
                nursery.start_soon(self._local.run)
            task_status.started()

    def _wants_more(self) -> bool:
        return self._wanted() > 0

    def _wanted(self) -> int:
        """How many more peers to dial: up to the target, and always some of our own choice.

        Else whoever fills our slots by dialling us decides what we hear (an eclipse).
        """
        connected = self._network.connected()
        own = sum(self._network.direction(peer) == "outbound" for peer in connected)
        chosen = min(MIN_CHOSEN_PEERS, self._target_peers)
        return max(self._target_peers - len(connected), chosen - own)

    # -- Learning who there is ---------------------------------------------------------------------

    def _local_peers(self, network_id: int | None) -> LocalPeers | None:
        if network_id is None:
            return None
        network, service = self._network, service_name(network_id)
        return LocalPeers(
            network.peer_id, service, lambda: network.listen_addresses, self._on_local_peer
        )

    def _on_local_peer(self, peer: PeerId, addresses: Sequence[str]) -> None:
        self._network.remember(peer, addresses, is_local=True)
        self._add_candidates([ID(peer)])

    def _on_identified(self, peer_id: ID) -> None:
        try:
            self._identified_send.send_nowait(PeerId(peer_id.to_bytes()))
        except trio.WouldBlock:
            return  # the next refresh learns it from the list of connections

    async def _follow_identified(self) -> None:
        async for peer in self._identified:
            await self._learn(peer)
            self._book.note(peer, self._network.addresses_of(peer), self._network.agent_of(peer))
            if self._wants_more():
                self._news.set()  # it may know others: ask at once

    async def _follow_events(self) -> None:
        async for event in self._network.subscribe():
            match event:
                case PeerConnected(peer):
                    candidate = self._candidates.setdefault(peer, _Candidate())
                    if candidate.failures >= GIVE_UP_AFTER_FAILURES:
                        self._dial_all_again()
                    candidate.failures, candidate.not_before_s = 0, 0.0
                case PeerDisconnected(peer):
                    log.debug("peer.left", peer=format_peer_id(peer))
                    self._postpone(peer)
            self._wake.set()

    async def _refresh(self) -> None:
        """Look up our own id, then random ones: often at first, seldom later or when settled."""
        started_s = trio.current_time()
        target = self._network.peer_id
        while True:
            self._news = trio.Event()  # Who is identified during this round is asked in the next.
            self._book.see(self._network.connected())
            for peer in self._network.connected():
                await self._learn(peer)
            if self._network.connected():
                with trio.move_on_after(LOOKUP_TIMEOUT_S):
                    await self._look_up(target)
                # Unpredictable keys are not needed: any spread finds all parts of the network.
                target = PeerId(random.randbytes(32))
            fast = trio.current_time() - started_s < FAST_PERIOD_S
            alone = not self._network.connected()
            await trio.sleep(LEAST_REFRESH_S)
            with trio.move_on_after(FAST_REFRESH_S if fast or alone else SLOW_REFRESH_S):
                await self._news.wait()

    async def _meet_regions(self) -> None:
        """Tell the DHT which regions this node serves and learn who else does, now and then."""
        served = [key for key, serves in self._regions.items() if serves]
        pauses = itertools.chain(FIRST_REGION_PAUSES_S, itertools.repeat(REGION_PAUSE_S))
        while served:
            # Whoever is alone has nobody to tell, and asks again as soon as the first ones do.
            if not self._network.connected():
                await trio.sleep(FAST_REFRESH_S)
                continue
            await trio.sleep(next(pauses))
            try:
                with trio.move_on_after(LOOKUP_TIMEOUT_S):
                    self._note_providers(await self._dht.exchange_providers(served, served))
            except Exception as error:  # noqa: BLE001 - works on what peers say: must be total
                self._count_fault("regions", error)

    def _note_providers(self, found: Mapping[bytes, Sequence[ID]]) -> None:
        for key, peer_ids in found.items():
            self._add_candidates(peer_ids)
            peers = [PeerId(each.to_bytes()) for each in peer_ids]
            self.providers[key] = tuple(sorted({*peers} - {self._network.peer_id}))
            for peer in peers:
                if peer in self._candidates:
                    self._candidates[peer].serves = True

    async def _learn(self, peer: PeerId) -> None:
        try:
            await self._dht.learn(ID(peer))
        except Exception as error:  # noqa: BLE001 - works on what peers say: must be total
            self._count_fault("learn", error)

    async def _look_up(self, target: PeerId) -> None:
        try:
            self._add_candidates(await self._dht.find_closest(target))
        except Exception as error:  # noqa: BLE001 - works on what peers say: must be total
            self._count_fault("lookup", error)

    def _count_fault(self, task: str, error: Exception) -> None:
        self.faults[task] += 1
        house.note(f"discovery_{task}", error)

    def _add_candidates(self, found: Sequence[ID]) -> None:
        """Others tell of them. One that does not answer us may be back: it waits less again."""
        soon_s = trio.current_time() + LAST_BACKOFF_S
        for peer_id in found:
            peer = PeerId(peer_id.to_bytes())
            if peer in self._candidates:
                candidate = self._candidates[peer]
                candidate.not_before_s = min(candidate.not_before_s, soon_s)
            elif peer != self._network.peer_id:
                if len(self._candidates) >= MAX_CANDIDATES:
                    self._drop_worst_candidate()
                self._candidates[peer] = _Candidate()
        self._wake.set()

    def _drop_worst_candidate(self) -> None:
        """Make room: the found peer that failed most often is the least likely to exist."""
        droppable = [
            (candidate.failures, peer)
            for peer, candidate in self._candidates.items()
            if candidate.address is None and not candidate.dialling
        ]
        if droppable:
            del self._candidates[max(droppable)[1]]

    # -- Keeping connections -----------------------------------------------------------------------

    async def _keep_connections(self, nursery: trio.Nursery) -> None:
        while True:
            for peer in self._due():
                self._candidates[peer].dialling = True
                nursery.start_soon(self._dial, peer)
            with trio.move_on_after(KEEPER_PAUSE_S):
                await self._wake.wait()
            self._wake = trio.Event()

    def _due(self) -> list[PeerId]:
        """The peers to dial now: persistent ones first, then, while below the target, those that
        serve a region of ours, then others; of equals who failed least."""
        now_s = trio.current_time()
        wanted = self._wanted()
        wanted -= sum(candidate.dialling for candidate in self._candidates.values())
        due: list[PeerId] = []
        ordered = sorted(
            self._candidates.items(),
            key=lambda item: (
                item[0] not in self._persistent,
                not item[1].serves,
                item[1].failures,
            ),
        )
        for peer, candidate in ordered:
            if candidate.dialling or candidate.not_before_s > now_s:
                continue
            if self._network.is_connected(peer) or self._network.refuses(peer):
                continue
            if peer in self._persistent or wanted > len(due):
                due.append(peer)
        return due

    async def _dial(self, peer: PeerId) -> None:
        candidate = self._candidates[peer]
        try:
            async with self._dials:
                if candidate.address is not None:
                    await self._network.dial(candidate.address)
                else:
                    self._network.remember(peer, self._book.addresses(peer))
                    await self._network.dial_peer(peer)
        except NetworkError as error:
            log.debug("peer.dial_failed", peer=format_peer_id(peer), why=error.reason)
            self._postpone(peer)
        finally:
            candidate.dialling = False

    def _postpone(self, peer: PeerId) -> None:
        """Wait longer after each failure; forget a found peer that fails and was never met.

        Whoever was met may be behind the same outage as all others, and come back when it ends.
        """
        candidate = self._candidates.get(peer)
        if candidate is None:
            return
        candidate.failures += 1
        self._book.note_failure(peer)
        patient = candidate.address is None and self._network.connected()
        last_s = LAST_BACKOFF_AMONG_PEERS_S if patient else LAST_BACKOFF_S
        candidate.not_before_s = trio.current_time() + candidate.backoff_s(last_s)
        if candidate.address is None and candidate.failures >= GIVE_UP_AFTER_FAILURES:
            self._dht.table.remove_peer(ID(peer))  # Others shall not hear of it from us.
            if not self._book.addresses(peer):
                del self._candidates[peer]

    def _dial_all_again(self) -> None:
        """An outage has ended: who did not answer during it may answer now."""
        for candidate in self._candidates.values():
            candidate.not_before_s = 0.0

    async def _warn_when_alone(self) -> None:
        """Print one hint for each time the node has had no peer for ALONE_HINT_AFTER_S."""
        alone_since_s: float | None = trio.current_time()
        warned = False
        while True:
            await trio.sleep(1)
            if self._network.connected():
                alone_since_s, warned = None, False
                continue
            alone_since_s = trio.current_time() if alone_since_s is None else alone_since_s
            if not warned and trio.current_time() - alone_since_s >= ALONE_HINT_AFTER_S:
                warned = True
                with house.round("hint_when_alone"):
                    log.warning("network.no_peers", code="GTX-NET-001", hint=self.hint())
