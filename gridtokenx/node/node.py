"""The composition root: one nursery that holds everything a node runs.

Any service that fails ends the nursery and with it the process, whose exit code says why; a restart
continues from the last synced batch.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

import structlog
import trio
from prometheus_client import CollectorRegistry

from gridtokenx import __version__
from gridtokenx.api.connections import MAX_CONNECTIONS
from gridtokenx.api.server import serve
from gridtokenx.chain.genesis import Genesis
from gridtokenx.home.config import Config
from gridtokenx.home.overruled import warn_overruled
from gridtokenx.network.clock import Clock
from gridtokenx.network.discovery import Discovery, region_key
from gridtokenx.network.gossip import Gossip
from gridtokenx.network.host import (
    Network,
    NetworkSettings,
    format_peer_id,
    open_network,
    parse_address,
    parse_peer_id,
)
from gridtokenx.network.peers.peer import PeerId
from gridtokenx.network.peers.peer_book import PeerBook
from gridtokenx.network.peers.reputation import Reputation
from gridtokenx.network.requests import RequestRefused, Requests
from gridtokenx.node.admin import Admin
from gridtokenx.node.candidates import decode_body_request
from gridtokenx.node.chain_runner import ChainRunner, Surroundings, VouchRefused
from gridtokenx.node.clock_watch import ClockWatch
from gridtokenx.node.contacts import Peers
from gridtokenx.node.credentials import Authorities
from gridtokenx.node.executor import Committed, Executor
from gridtokenx.node.network_status import network_status, organisations_of, peer_statuses
from gridtokenx.node.protocol import (
    ChainHead,
    Credential,
    Status,
    credential_bytes,
    topic_limit,
    topic_prefix,
    topic_priority,
)
from gridtokenx.node.relay import Relay
from gridtokenx.node.strangers import Readers
from gridtokenx.node.syncing import answer_ancestry, answer_blocks
from gridtokenx.primitives.crypto import SigningKey
from gridtokenx.primitives.errors import Rejected
from gridtokenx.runtime.descriptors import Plan, provide
from gridtokenx.runtime.housekeeping import house, keep
from gridtokenx.runtime.loop_lag import LoopLag
from gridtokenx.runtime.stopping import DatabaseError, DiskFailed, DiskFull
from gridtokenx.storage.database import MAX_TABLES, ChainStore, Database
from gridtokenx.storage.kept_file import KeptFile
from gridtokenx.views.metrics import NodeCollector, configure_logging
from gridtokenx.views.stages import StageCollector, Stages
from gridtokenx.views.status import ChainStatus, Check, Health, NetworkStatus, PeerStatus

MEBIBYTE = 1024 * 1024
HOUSEKEEPING_SECONDS = 1.0
DISK_SECONDS = 30.0
BANS_FILE = "bans.json"
PEERS_FILE = "peers.json"
log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Keys:
    """Unlocked keys. `network_seed` is the libp2p identity.

    `never_signed` tells that the validator key is new, so it may sign without a safety record;
    `mark_signing` makes durable that this is over. `resume_above` is the operator's word, by chain
    (`MET`) or later incarnation (`MET@2`), above which height a key without its safety record has
    not signed.
    """

    network_seed: bytes
    validator: SigningKey | None = None
    local_signer: SigningKey | None = None
    never_signed: bool = False
    private_network: bytes | None = None
    mark_signing: Callable[[], None] = lambda: None
    resume_above: Mapping[str, int] = field(default_factory=dict)


class Node:
    """A running node; also the `NodeHandle` that the API reads from its own thread."""

    def __init__(self, config: Config, genesis: Genesis, keys: Keys) -> None:
        self.config = config
        self.genesis = genesis
        self.node_id = config.node.node_id
        self.role = config.node.node_type
        self.version = __version__
        self.peer_id = ""
        self.local_signer = keys.local_signer
        self._keys = keys
        self._now_ms = clock = Clock()
        national = genesis.national
        self._clock_watch = ClockWatch(
            clock,
            config.consensus.max_clock_offset_ms,
            None if keys.validator is None else keys.validator.public_key,
            None if national is None else national.name,
        )
        self._statuses: dict[str, ChainStatus] = {}
        self._peer_statuses: tuple[PeerStatus, ...] = ()
        self._network_status = NetworkStatus()
        self._runners: dict[str, ChainRunner] = {}  # Of the followed chains, in genesis order.
        self._relay: Relay | None = None
        self._national_moves = trio.Event()  # The next national block sets it.
        self._loop_lag = LoopLag()
        self._free_disk_mib = _free_disk_mib(config)
        self._stages = Stages()
        self.metrics = CollectorRegistry()
        self.metrics.register(NodeCollector(self))

    # -- Life --------------------------------------------------------------------------------------

    async def run(self, task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
        """Run until cancelled. Errors: Ending; ApiServerError; OSError for what cannot be bound."""
        self._check_disk()
        self._token = trio.lowlevel.current_trio_token()
        self.metrics.register(StageCollector(self._stages))
        self._plan = provide(Plan(MAX_CONNECTIONS, self.config.network.max_peers, MAX_TABLES))
        database = await trio.to_thread.run_sync(Database, self.config.data_path, self._plan.tables)
        try:
            exempt = not self.config.network.limit_loopback
            reputation = Reputation(self._now_ms.steady_ms, exempt_loopback=exempt)
            self._bans = KeptFile(
                self.config.data_path / BANS_FILE, reputation.dump, reputation.load
            )
            self._bans.load()
            reputation.on_change = self._bans.changed
            self._book = PeerBook(self._now_ms)
            self._met = KeptFile(
                self.config.data_path / PEERS_FILE, self._book.dump, self._book.load
            )
            self._met.load()
            self._book.on_change = self._met.changed
            async with open_network(self._network_settings(), reputation) as network:
                self._network = network
                self.peer_id = format_peer_id(network.peer_id)
                await self._serve(network, database, task_status)
        finally:
            database.close()

    async def _serve(self, network: Network, database: Database, task_status: Any) -> None:
        network_id = self.genesis.network_id
        self._requests = requests = Requests(
            network,
            network_id,
            on_offence=network.report,
            is_stranger=lambda peer: network.source_of(peer) is not None,
        )
        self._readers = Readers(network.budget, network.source_of)
        self._gossip = gossip = Gossip(
            network,
            topic_prefix=topic_prefix(network_id),
            max_bytes=topic_limit,
            priority=topic_priority,
            seed=int.from_bytes(os.urandom(8), "big"),
            first_seqno=time.time_ns(),
            application_score=network.reputation.score,
            on_offence=lambda peer, offence: network.report(peer, f"gossip_{offence}"),
        )
        persistent = self._dialable(self.config.network.persistent)
        named = [parse_address(address)[0] for address in persistent]
        self._authorities = Authorities(self._keys.validator, named)
        gossip.set_direct_peers(named)
        self._peers = Peers(
            network,
            requests,
            self.genesis,
            self.own_status,
            self._on_height,
            self._on_gone,
            self._credential(network.peer_id),
        )
        discovery = Discovery(
            network,
            self._dialable(self.config.network.bootstrap),
            persistent=persistent,
            target_peers=min(self.config.network.max_outbound, self._plan.peers),
            book=self._book,
            local_network_id=network_id if self.config.network.mdns else None,
            regions={
                region_key(network_id, name): name in self.followed()
                for name in self.genesis.chain_names
            },
        )
        await self._open_chains(database)
        requests.serve("blocks", self._answer_blocks)
        requests.serve("ancestry", self._answer_ancestry)
        requests.serve("bodies", self._answer_bodies)
        network.reputation.trust(*named)
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(self._loop_lag.run)
            nursery.start_soon(self._bans.run)
            nursery.start_soon(self._met.run)
            await nursery.start(gossip.run)
            await nursery.start(self._peers.run)
            for runner in self._runners.values():
                await nursery.start(runner.run)
            self._relay = self._new_relay()
            if self._relay is not None:
                nursery.start_soon(self._relay.run)
            await nursery.start(discovery.run)
            self._keep_house(nursery, discovery)
            await nursery.start(self._admin(network).run)
            url = await nursery.start(serve, self, self.config.api, self._plan.api)
            log.info(
                "node.started",
                node_id=self.node_id,
                role=self.role,
                network=self.genesis.network_name,
                genesis=self.genesis.hash.hex()[:16],
                chains=",".join(self.followed()),
                api=url,
                peer_id=self.peer_id,
                listen=list(network.listen_addresses),
            )
            task_status.started()

    def _credential(self, peer: PeerId) -> Credential | None:
        key = self._keys.validator
        if key is None:
            return None
        return Credential(key.public_key, key.sign(credential_bytes(self.genesis.hash, peer)))

    def _admin(self, network: Network) -> Admin:
        def set_level(level: str) -> None:
            configure_logging(replace(self.config.logging, level=level), self.config.log_path)

        def vouch(chain: str) -> str:
            runner = self._runners.get(chain)
            if runner is None:
                raise VouchRefused(f"this node follows {', '.join(self._runners)}, not {chain}")
            return runner.vouch()

        allow_faults = self.config.node.admin_faults
        folder = self.config.data_path
        return Admin(folder, network, set_level, vouch, allow_faults=allow_faults)

    def followed(self) -> tuple[str, ...]:
        """Names of the chains this node follows, in genesis order: the national one always, for
        what regions take of it.
        """
        wanted, national = self.config.network.regions, self.genesis.national
        always = () if national is None else (national.name,)
        names = self.genesis.chain_names
        return tuple(name for name in names if not wanted or name in (*wanted, *always))

    async def _open_chains(self, database: Database) -> None:
        """Errors: Damaged; NotPresent for the operator's word on an incarnation that is over."""
        around = self._surroundings(database)
        for name in self.followed():
            runner = self._runners[name] = ChainRunner(name, around)
            await runner.open()
            runner.check_resumed()
        if self._keys.validator is not None and self._keys.never_signed:
            # A new key gets its first safety records, then its mark goes: in this order.
            for runner in self._runners.values():
                runner.begin_record()
            self._keys.mark_signing()
        stores = {name: one.executor.store for name, one in self._runners.items()}
        warn_overruled(self.config, stores)

    def _surroundings(self, database: Database) -> Surroundings:
        return Surroundings(
            genesis=self.genesis,
            database=database,
            sync=self.config.sync,
            stages=self._stages,
            now_ms=self._now_ms,
            timer_ms=self._now_ms.elapsed_ms,
            validator=self._keys.validator,
            resume_above=dict(self._keys.resume_above),
            vote=self.config.consensus.vote,
            gossip=self._gossip,
            ask=self._ask,
            report=self._network.report,
            claims=self._peers.claims,
            neighbours=self._peers.neighbours,
            may_propose=self._may_propose,
            next_national=self._next_national,
            on_status=self._on_status,
            on_committed=self._on_committed,
            checkpoints_sent=lambda name: self._relay.sent[name] if self._relay else 0,
            budget=self._network.budget,
            source_of=self._network.source_of,
        )

    def _network_settings(self) -> NetworkSettings:
        network = self.config.network
        return NetworkSettings(
            seed=self._keys.network_seed,
            listen=tuple(network.listen),
            announce=tuple(network.announce),
            max_peers=self._plan.peers,
            max_inbound=network.max_inbound or max(1, self._plan.peers * 4 // 5),
            max_outbound=network.max_outbound,
            max_connections_per_ip=network.max_connections_per_ip,
            limit_loopback=network.limit_loopback,
            allow_private={"yes": True, "no": False}.get(network.dial_private),
            psk=self._keys.private_network,
            allow=tuple(parse_peer_id(peer) for peer in network.allow),
        )

    def _dialable(self, addresses: Sequence[str]) -> tuple[str, ...]:
        """Configured addresses without this node's own."""
        own = self._network.peer_id
        return tuple(address for address in addresses if parse_address(address)[0] != own)

    # -- Peers -------------------------------------------------------------------------------------

    def own_status(self) -> Status:
        """What this node tells peers of itself."""
        heads = tuple(runner.head for runner in self._runners.values())
        return Status(
            self.genesis.network_name,
            self.genesis.hash,
            self.node_id,
            f"gridtokenx/{self.version}",
            self._now_ms(),
            heads,
        )

    async def _ask(self, peer: PeerId, kind: str, payload: bytes) -> bytes:
        return await self._requests.request(peer, kind, payload)

    def _on_height(self, peer: PeerId, head: ChainHead) -> None:
        runner = self._runners.get(head.name)
        if runner is not None:
            runner.note_height(peer, head)

    def _on_gone(self, peer: PeerId) -> None:
        for runner in self._runners.values():
            runner.note_gone(peer)

    async def _answer_blocks(self, peer: PeerId, payload: bytes) -> bytes:
        def store_of(chain: str, chain_id: bytes) -> ChainStore | None:
            runner = self._runners.get(chain)
            return None if runner is None else runner.history(chain_id)

        return await self._read(peer, partial(answer_blocks, payload, store_of))

    async def _answer_ancestry(self, peer: PeerId, payload: bytes) -> bytes:
        def stores_of(chain: str) -> list[ChainStore]:
            runner = self._runners.get(chain)
            return [] if runner is None else runner.histories()

        return await self._read(peer, partial(answer_ancestry, payload, stores_of))

    async def _read(self, peer: PeerId, answer: Callable[[], bytes]) -> bytes:
        try:
            return await self._readers.run(peer, answer)
        except Rejected as error:
            raise RequestRefused(error.detail) from None
        except (DatabaseError, DiskFailed) as error:  # No peer's question ends the node.
            house.note("answers", error)
            raise RequestRefused("this node cannot read that block") from None

    async def _answer_bodies(self, peer: PeerId, payload: bytes) -> bytes:
        try:
            request = decode_body_request(payload)
        except Rejected as error:
            raise RequestRefused(error.detail) from None
        runner = self._runners.get(request.chain)
        if runner is None:
            raise RequestRefused(f"this node does not follow {request.chain}")
        return await self._read(peer, partial(runner.answer_bodies, request))

    # -- What the API sees -------------------------------------------------------------------------

    def chains(self) -> Mapping[str, ChainStatus]:
        """Followed chains by name; replaced whole after each block."""
        return self._statuses

    def peers(self) -> tuple[PeerStatus, ...]:
        """Connected peers of this network."""
        return self._peer_statuses

    def network(self) -> NetworkStatus:
        """Addresses, dials and bans."""
        return self._network_status

    def health(self) -> Health:
        """Loop delay and the checks that only the node can make."""
        limit = self.config.node.min_free_disk_mib
        free = Check(
            "disk",
            self._free_disk_mib >= limit,
            f"{self._free_disk_mib} MiB",
            f"{limit} MiB",
            f"free disk space on {self.config.data_path}",
        )
        checks = (free, self._clock_watch.check())
        return Health({"trio": self._loop_lag.recent_ms}, checks, self._loop_lag.worst_ms)

    def submit(self, chain: str, transactions: list[bytes]) -> Future[list[Rejected | None]]:
        """Cross into trio and admit, in order. From any thread; the future always resolves."""
        future: Future[list[Rejected | None]] = Future()
        runner = self._runners[chain]

        def start() -> None:
            try:
                self._nursery.start_soon(runner.submit_to, transactions, future)
            except RuntimeError as error:  # The nursery closed while this call was under way.
                future.set_exception(error)

        try:
            self._token.run_sync_soon(start)
        except trio.RunFinishedError:
            future.set_exception(RuntimeError("the node is stopping"))
        return future

    def pending_status(
        self, chain: str, transaction_id: bytes
    ) -> Literal["pending", "queued"] | Rejected | None:
        """What the executor knows of a transaction. From any thread."""
        return self._runners[chain].executor.pending_status(transaction_id)

    def turned_away(self, chain: str, transaction_id: bytes) -> Rejected | None:
        """Why the executor did not take what it heard. From any thread."""
        return self._runners[chain].executor.turned_away(transaction_id)

    def pending_nonce(self, chain: str, address: bytes) -> int:
        """The next nonce of an account, counting what waits. From any thread."""
        return self._runners[chain].executor.pending_nonce(address)

    def _on_committed(self, name: str, committed: Committed) -> None:
        if self._runners[name].is_national:
            for runner in self._runners.values():
                runner.note_national()
            moved, self._national_moves = self._national_moves, trio.Event()
            moved.set()
        header = committed.execution.block.header
        self._clock_watch.note_block(name, header.time_ms)
        log.info(
            "block.finalized",
            chain=name,
            height=header.height,
            hash=header.hash.hex()[:16],
            transactions=len(committed.execution.transactions),
            view=header.view0,
            finality_ms=committed.finality_ms,
            commit_ms=round(committed.seconds * 1000),
        )
        if committed.dropped:
            why = str(committed.dropped[0][1])
            log.info("pool.dropped", chain=name, transactions=len(committed.dropped), first=why)

    def _new_relay(self) -> Relay | None:
        """What brings this validator's regions to the national chain, if there is one."""
        national, validator = self.genesis.national, self._keys.validator
        if national is None or validator is None or not self.config.consensus.vote:
            return None
        home = self._runners[national.name]
        submit, moves = home.submit, self._next_national
        return Relay(home.executor, self._regions, validator, submit, moves)

    def _regions(self) -> dict[str, Executor]:
        """What runs of regions now: each in its present incarnation."""
        runners = self._runners.items()
        return {name: one.executor for name, one in runners if not one.is_national}

    def _next_national(self) -> trio.Event:
        return self._national_moves

    def _on_status(self, name: str) -> None:
        """Swap in what the API reads; a new dict, so a reader never sees half of it."""
        self._statuses = {**self._statuses, name: self._runners[name].status}

    # -- Housekeeping ------------------------------------------------------------------------------

    def _keep_house(self, nursery: trio.Nursery, discovery: Discovery) -> None:
        """Once a second: chains, peers, clock; every 30 s the disk."""
        names = organisations_of(self.genesis)
        for task, step, every_s in (
            ("chain_figures", self._show_chains, HOUSEKEEPING_SECONDS),
            ("peer_figures", partial(self._show_peers, discovery, names), HOUSEKEEPING_SECONDS),
            ("authorities", self._meet_authorities, HOUSEKEEPING_SECONDS),
            ("strangers", self._price_strangers, HOUSEKEEPING_SECONDS),
            ("clock", self._check_clock, HOUSEKEEPING_SECONDS),
            ("disk", self._check_disk, DISK_SECONDS),
        ):
            nursery.start_soon(keep, task, step, every_s)

    def _show_chains(self) -> None:
        for runner in self._runners.values():
            runner.beat()
        self._statuses = {name: one.status for name, one in self._runners.items()}

    def _show_peers(self, discovery: Discovery, names: Mapping[bytes, str]) -> None:
        self._peer_statuses = peer_statuses(self._network, self._gossip, self._peers, names)
        self._network_status = network_status(self._network, self._gossip, discovery)

    def _meet_authorities(self) -> None:
        sets = [status.validators for status in self._statuses.values()]
        members = {member.public_key for each in sets for member in each.members}
        if self._authorities.note(self._peers.proved(), members):
            self._network.set_authorities(self._authorities.peers)
            self._gossip.set_direct_peers(self._authorities.direct)

    def _price_strangers(self) -> None:
        self._network.budget.note_lag(self._loop_lag.recent_ms)

    def _check_clock(self) -> None:
        sets = {name: status.validators for name, status in self._statuses.items()}
        self._clock_watch.look(self._peers.clocks(), sets, self._loop_lag.recent_ms)

    def _check_disk(self) -> None:
        """Stop before the disk is full: a full disk is what corrupts databases."""
        self._free_disk_mib = _free_disk_mib(self.config)
        limit = self.config.node.min_free_disk_mib
        if self._free_disk_mib < limit:
            raise DiskFull(
                f"GTX-DSK-001: {self._free_disk_mib} MiB free on {self.config.data_path} "
                f"(limit {limit}): stopping cleanly. Free some space or lower "
                "node.min_free_disk_mib"
            )

    def _may_propose(self, chain: str) -> bool:
        """Not with a clock that others would refuse: the leader's time is the block's."""
        return self.config.consensus.propose and self._clock_watch.is_right(chain)


def _free_disk_mib(config: Config) -> int:
    path = config.data_path
    while not path.exists():
        path = path.parent
    usage = os.statvfs(path)
    return usage.f_bavail * usage.f_frsize // MEBIBYTE
