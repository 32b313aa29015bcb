"""The composition root: builds a node's parts, runs them in one nursery, ends them in order.

Any part that fails ends the nursery and with it the process, whose exit code says why; a restart
continues from the last synced batch.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import structlog
import trio

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
    HostSettings,
    Network,
    open_network,
    parse_address,
    parse_peer_id,
)
from gridtokenx.network.peers.peer import PeerId
from gridtokenx.network.peers.peer_book import PeerBook
from gridtokenx.network.peers.reputation import Reputation
from gridtokenx.network.requests import Requests
from gridtokenx.node.admin import Admin
from gridtokenx.node.answers import Answers
from gridtokenx.node.chain_runner import ChainRunner, Surroundings
from gridtokenx.node.clock_watch import ClockWatch
from gridtokenx.node.contacts import Peers
from gridtokenx.node.credentials import Authorities
from gridtokenx.node.disk_watch import DiskWatch
from gridtokenx.node.handle import Handle
from gridtokenx.node.life import VouchRefused
from gridtokenx.node.network_status import NetworkWatch, organisations_of
from gridtokenx.node.protocol import (
    ChainHead,
    Credential,
    Status,
    credential_bytes,
    topic_prefix,
    topic_priority,
)
from gridtokenx.node.strangers import Readers
from gridtokenx.node.upkeep import Upkeep
from gridtokenx.node.wiring import Wiring
from gridtokenx.primitives.crypto import SigningKey
from gridtokenx.runtime.descriptors import Plan, provide
from gridtokenx.runtime.loop_lag import LoopLag
from gridtokenx.storage.database import MAX_TABLES, Database
from gridtokenx.storage.kept_file import KeptFile
from gridtokenx.views.metrics import configure_logging
from gridtokenx.views.stages import Stages

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
    """A node's parts, and its life. `chains`: those that are followed, in genesis order."""

    def __init__(self, config: Config, genesis: Genesis, keys: Keys) -> None:
        self.chains: dict[str, ChainRunner] = {}
        self._config = config
        self._genesis = genesis
        self._keys = keys
        self._now_ms = clock = Clock()
        self._clock_watch = ClockWatch(
            clock,
            config.consensus.max_clock_offset_ms,
            None if keys.validator is None else keys.validator.public_key,
            None if genesis.national is None else genesis.national.name,
        )
        self._disk_watch = DiskWatch(config.data_path, config.node.min_free_disk_mib)
        self._lag = LoopLag()
        self._stages = Stages()

    async def run(self, task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
        """Run until cancelled. Errors: Ending; ApiServerError; OSError for what cannot be bound."""
        self._disk_watch.look()
        config, folder = self._config, self._config.data_path
        plan = provide(Plan(MAX_CONNECTIONS, config.network.max_peers, MAX_TABLES))
        database = await trio.to_thread.run_sync(Database, folder, plan.tables)
        try:
            exempt = not config.network.limit_loopback
            reputation = Reputation(self._now_ms.steady_ms, exempt_loopback=exempt)
            book = PeerBook(self._now_ms)
            bans, met = (
                KeptFile(folder / BANS_FILE, reputation),
                KeptFile(folder / PEERS_FILE, book),
            )
            settings = network_settings(config, self._keys, plan)
            async with (
                open_network(settings, reputation) as network,
                trio.open_nursery() as nursery,
            ):
                nursery.start_soon(self._lag.run)
                nursery.start_soon(bans.run)
                nursery.start_soon(met.run)
                await self._start(nursery, network, database, plan, book)
                task_status.started()
        finally:
            database.close()

    def heights(self) -> dict[str, int]:
        """Of the newest blocks, by chain."""
        return {name: runner.status.head.height for name, runner in self.chains.items()}

    async def _start(
        self,
        nursery: trio.Nursery,
        network: Network,
        database: Database,
        plan: Plan,
        book: PeerBook,
    ) -> None:
        """Start all that needs peers, each when what it stands on runs."""
        config, genesis = self._config, self._genesis
        persistent = dialable(network, config.network.persistent)
        named = [parse_address(address)[0] for address in persistent]
        authorities = Authorities(self._keys.validator, named)
        network.reputation.trust(*named)
        gossip = new_gossip(network, genesis.network_id)
        gossip.set_direct_peers(named)
        requests = Requests(
            network,
            genesis.network_id,
            on_offence=network.report,
            is_stranger=lambda peer: network.source_of(peer) is not None,
        )
        peers = Peers(
            network,
            requests,
            genesis,
            self._own_status,
            self._on_height,
            self._on_gone,
            self._credential(network.peer_id),
        )
        discovery = self._new_discovery(network, persistent, plan, book)
        await self._open_chains(self._surroundings(database, network, gossip, requests, peers))
        Answers(self.chains, Readers(network.budget, network.source_of)).serve(requests)
        await nursery.start(gossip.run)
        await nursery.start(peers.run)
        for runner in self.chains.values():
            await nursery.start(runner.run)
        await nursery.start(discovery.run)
        watch = NetworkWatch(network, gossip, peers, discovery, organisations_of(genesis))
        self._new_upkeep(network, gossip, peers, authorities, watch).start(nursery)
        await nursery.start(self._new_admin(network).run)
        handle = self._new_handle(watch, nursery)
        url = await nursery.start(serve, handle, config.api, plan.api)
        self._tell_started(handle, network, url)

    # -- Chains ------------------------------------------------------------------------------------

    async def _open_chains(self, around: Surroundings) -> None:
        """Errors: Damaged; NotPresent for the operator's word on an incarnation that is over."""
        for name in followed(self._config, self._genesis):
            self.chains[name] = await ChainRunner.open(name, around)
        if self._keys.validator is not None and self._keys.never_signed:
            # A new key gets its first safety records, then its mark goes: in this order.
            for runner in self.chains.values():
                runner.life.begin_record()
            self._keys.mark_signing()
        warn_overruled(self._config, {name: one.status.view for name, one in self.chains.items()})

    def _surroundings(
        self,
        database: Database,
        network: Network,
        gossip: Gossip,
        requests: Requests,
        peers: Peers,
    ) -> Surroundings:
        wiring = Wiring(
            gossip=gossip,
            ask=requests.request,
            now_ms=self._now_ms,
            timer_ms=self._now_ms.elapsed_ms,
            budget=network.budget,
            source_of=network.source_of,
        )
        return Surroundings(
            genesis=self._genesis,
            database=database,
            sync=self._config.sync,
            stages=self._stages,
            wiring=wiring,
            validator=self._keys.validator,
            resume_above=dict(self._keys.resume_above),
            vote=self._config.consensus.vote,
            report=network.report,
            claims=peers.claims,
            neighbours=peers.neighbours,
            may_propose=self._may_propose,
            on_block=self._clock_watch.note_block,
            chains=self.chains,
        )

    def _may_propose(self, chain: str) -> bool:
        """Not with a clock that others would refuse: the leader's time is the block's."""
        return self._config.consensus.propose and self._clock_watch.is_right(chain)

    def _vouch(self, chain: str) -> str:
        runner = self.chains.get(chain)
        if runner is None:
            raise VouchRefused(f"this node follows {', '.join(self.chains)}, not {chain}")
        return runner.vouch()

    # -- Peers -------------------------------------------------------------------------------------

    def _own_status(self) -> Status:
        """What this node tells peers of itself."""
        return Status(
            self._genesis.network_name,
            self._genesis.hash,
            self._config.node.node_id,
            f"gridtokenx/{__version__}",
            self._now_ms(),
            tuple(runner.head for runner in self.chains.values()),
        )

    def _on_height(self, peer: PeerId, head: ChainHead) -> None:
        runner = self.chains.get(head.name)
        if runner is not None:
            runner.note_height(peer, head)

    def _on_gone(self, peer: PeerId) -> None:
        for runner in self.chains.values():
            runner.note_gone(peer)

    def _credential(self, peer: PeerId) -> Credential | None:
        key = self._keys.validator
        if key is None:
            return None
        return Credential(key.public_key, key.sign(credential_bytes(self._genesis.hash, peer)))

    def _new_discovery(
        self, network: Network, persistent: Sequence[str], plan: Plan, book: PeerBook
    ) -> Discovery:
        settings, network_id = self._config.network, self._genesis.network_id
        ours = followed(self._config, self._genesis)
        return Discovery(
            network,
            dialable(network, settings.bootstrap),
            persistent=persistent,
            target_peers=min(settings.max_outbound, plan.peers),
            book=book,
            local_network_id=network_id if settings.mdns else None,
            regions={
                region_key(network_id, name): name in ours for name in self._genesis.chain_names
            },
        )

    # -- Those who look at it ----------------------------------------------------------------------

    def _new_upkeep(
        self,
        network: Network,
        gossip: Gossip,
        peers: Peers,
        authorities: Authorities,
        watch: NetworkWatch,
    ) -> Upkeep:
        return Upkeep(
            chains=self.chains,
            network=network,
            gossip=gossip,
            peers=peers,
            authorities=authorities,
            watch=watch,
            clock=self._clock_watch,
            disk=self._disk_watch,
            lag=self._lag,
        )

    def _new_handle(self, watch: NetworkWatch, nursery: trio.Nursery) -> Handle:
        return Handle(
            self._config,
            self._genesis,
            chains=self.chains,
            network=watch,
            lag=self._lag,
            stages=self._stages,
            checks=(self._disk_watch.check, self._clock_watch.check),
            local_signer=self._keys.local_signer,
            nursery=nursery,
        )

    def _new_admin(self, network: Network) -> Admin:
        def set_level(level: str) -> None:
            logging = replace(self._config.logging, level=level)
            configure_logging(logging, self._config.log_path)

        folder, allow_faults = self._config.data_path, self._config.node.admin_faults
        return Admin(folder, network, set_level, self._vouch, allow_faults=allow_faults)

    def _tell_started(self, handle: Handle, network: Network, url: str) -> None:
        log.info(
            "node.started",
            node_id=handle.node_id,
            role=handle.role,
            network=self._genesis.network_name,
            genesis=self._genesis.hash.hex()[:16],
            chains=",".join(self.chains),
            api=url,
            peer_id=handle.peer_id,
            listen=list(network.listen_addresses),
        )


def followed(config: Config, genesis: Genesis) -> tuple[str, ...]:
    """Names of the chains that a node follows, in genesis order: the national one always, for what
    regions take of it.
    """
    wanted, national = config.network.regions, genesis.national
    always = () if national is None else (national.name,)
    return tuple(name for name in genesis.chain_names if not wanted or name in (*wanted, *always))


def dialable(network: Network, addresses: Sequence[str]) -> tuple[str, ...]:
    """Configured addresses without this node's own."""
    return tuple(one for one in addresses if parse_address(one)[0] != network.peer_id)


def network_settings(config: Config, keys: Keys, plan: Plan) -> HostSettings:
    """The configured network, within what the process may open."""
    network = config.network
    return HostSettings(
        seed=keys.network_seed,
        listen=tuple(network.listen),
        announce=tuple(network.announce),
        max_peers=plan.peers,
        max_inbound=network.max_inbound or max(1, plan.peers * 4 // 5),
        max_outbound=network.max_outbound,
        max_connections_per_ip=network.max_connections_per_ip,
        limit_loopback=network.limit_loopback,
        allow_private={"yes": True, "no": False}.get(network.dial_private),
        psk=keys.private_network,
        allow=tuple(parse_peer_id(peer) for peer in network.allow),
    )


def new_gossip(network: Network, network_id: int) -> Gossip:
    """Gossip of this network's topics."""
    return Gossip(
        network,
        topic_prefix=topic_prefix(network_id),
        priority=topic_priority,
        seed=int.from_bytes(os.urandom(8), "big"),
        first_seqno=time.time_ns(),
        application_score=network.reputation.score,
        on_offence=lambda peer, offence: network.report(peer, f"gossip_{offence}"),
    )
