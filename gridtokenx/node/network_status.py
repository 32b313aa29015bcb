"""Collects what people see of a node's place in the network: peers, addresses, dials, bans."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict

from gridtokenx.chain.genesis import Genesis
from gridtokenx.network.discovery import Discovery
from gridtokenx.network.gossip import Gossip
from gridtokenx.network.gossipsub.scores import PeerScore
from gridtokenx.network.host import Network, format_peer_id
from gridtokenx.network.peers.peer import PeerId
from gridtokenx.network.peers.reputation import Ban
from gridtokenx.node.contacts import Contact, Peers
from gridtokenx.views.status import BanStatus, NetworkStatus, PeerStatus


class NetworkWatch:
    """`peers` and `status` as of the last `look`: frozen, swapped whole, for any thread."""

    def __init__(
        self,
        network: Network,
        gossip: Gossip,
        peers: Peers,
        discovery: Discovery,
        organisations: Mapping[bytes, str],
    ) -> None:
        """`organisations` by validator key."""
        self.peer_id = format_peer_id(network.peer_id)
        self.peers: tuple[PeerStatus, ...] = ()
        self.status = NetworkStatus()
        self._network = network
        self._gossip = gossip
        self._contacts = peers
        self._discovery = discovery
        self._organisations = organisations

    def look(self) -> None:
        """Collect anew. In the trio thread."""
        scores = self._gossip.scores()
        self.peers = tuple(self._status_of(one, scores) for one in self._contacts.contacts())
        self.status = self._network_status()

    def _status_of(self, contact: Contact, scores: Mapping[PeerId, PeerScore]) -> PeerStatus:
        network, peer, status = self._network, contact.peer, contact.status
        known = self._contacts.acquaintance(peer)
        validator = known.validator
        return PeerStatus(
            peer_id=format_peer_id(peer),
            addresses=network.addresses_of(peer),
            direction=network.direction(peer),
            agent=status.agent,
            heights={head.name: head.height for head in status.heads},
            organisation=None if validator is None else self._organisations.get(validator),
            node_id=status.node_id,
            latency_ms=known.latency_ms,
            score=round(network.reputation.score(peer)),
            offences=network.reputation.offences(peer),
            gossip=asdict(scores[peer]) if peer in scores else {},
            links=tuple(format_peer_id(link) for link in known.links),
        )

    def _network_status(self) -> NetworkStatus:
        network = self._network
        directions = [network.direction(peer) for peer in network.connected()]
        return NetworkStatus(
            listen=network.listen_addresses,
            announced=network.announced_addresses,
            nat_ip=network.nat_ip,
            inbound=directions.count("inbound"),
            outbound=directions.count("outbound"),
            known_peers=self._discovery.known_peers,
            strangers_cpu_s=network.budget.spent_s,
            strangers_price=network.budget.price,
            dial_outcomes=dict(network.dial_outcomes),
            inbound_refused=dict(network.inbound_refused),
            gossip_events=self._gossip.counters,
            bans=tuple(_ban_status(ban) for ban in network.reputation.bans()),
            bans_made=dict(network.reputation.banned),
        )


def _ban_status(ban: Ban) -> BanStatus:
    target = ban.address or "" if ban.peer is None else format_peer_id(PeerId(ban.peer))
    return BanStatus(target, ban.reason, ban.since_ms, ban.until_ms)


def organisations_of(genesis: Genesis) -> dict[bytes, str]:
    """Names of the authorities by their validators' keys."""
    return {
        member.public_key: member.organisation
        for region in genesis.chains
        for member in region.validators
    }
