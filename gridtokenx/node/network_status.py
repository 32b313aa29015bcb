"""Collects what people see of a node's place in the network: peers, addresses, dials, bans."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict

from gridtokenx.chain.genesis import Genesis
from gridtokenx.network.discovery import Discovery
from gridtokenx.network.gossip import Gossip
from gridtokenx.network.host import Network, format_peer_id
from gridtokenx.network.peers.peer import PeerId
from gridtokenx.network.peers.reputation import Ban
from gridtokenx.node.contacts import Contact, Peers
from gridtokenx.views.status import BanStatus, NetworkStatus, PeerStatus


def peer_statuses(
    network: Network, gossip: Gossip, peers: Peers, organisations: Mapping[bytes, str]
) -> tuple[PeerStatus, ...]:
    """The connected peers of this network. `organisations` by validator key."""
    scores = gossip.scores()

    def status_of(contact: Contact) -> PeerStatus:
        peer, status = contact.peer, contact.status
        known = peers.acquaintance(peer)
        validator = known.validator
        return PeerStatus(
            peer_id=format_peer_id(peer),
            addresses=network.addresses_of(peer),
            direction=network.direction(peer),
            agent=status.agent,
            heights={head.name: head.height for head in status.heads},
            organisation=None if validator is None else organisations.get(validator),
            node_id=status.node_id,
            latency_ms=known.latency_ms,
            score=round(network.reputation.score(peer)),
            offences=network.reputation.offences(peer),
            gossip=asdict(scores[peer]) if peer in scores else {},
            links=tuple(format_peer_id(link) for link in known.links),
        )

    return tuple(status_of(contact) for contact in peers.contacts())


def network_status(network: Network, gossip: Gossip, discovery: Discovery) -> NetworkStatus:
    """The rest of it."""
    directions = [network.direction(peer) for peer in network.connected()]
    return NetworkStatus(
        listen=network.listen_addresses,
        announced=network.announced_addresses,
        nat_ip=network.nat_ip,
        inbound=directions.count("inbound"),
        outbound=directions.count("outbound"),
        known_peers=discovery.known_peers,
        strangers_cpu_s=network.budget.spent_s,
        strangers_price=network.budget.price,
        dial_outcomes=dict(network.dial_outcomes),
        inbound_refused=dict(network.inbound_refused),
        gossip_events=gossip.counters,
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
