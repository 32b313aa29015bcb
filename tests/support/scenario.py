"""What the scenarios share: looking at a world, and networks that do one thing on purpose."""

from __future__ import annotations

from collections.abc import Callable

from gridtokenx.consensus.messages import QuorumCertificate
from tests.support.simulator.campaigns import PRODUCTION
from tests.support.simulator.chain import slots
from tests.support.simulator.network import Endpoint, Network
from tests.support.simulator.node import Node
from tests.support.simulator.world import Setup, World

SLOT_MS = 10_000


def equal(members: int, **more: object) -> World:
    """A calm world of equal members."""
    return World(1, Setup(weights=(1,) * members, **more))  # type: ignore[arg-type]


def production(members: int = 4, **more: object) -> World:
    """Ten-second slots and production's timeouts."""
    return equal(members, timing=PRODUCTION, opens=slots(SLOT_MS), **more)


def reach(
    world: World, height: int, nodes: list[Node] | None = None, limit_ms: int = 10**7
) -> None:
    """Run until these, or all honest nodes, have decided `height`."""
    watched = world.honest if nodes is None else nodes
    reached = world.run_until(lambda: min(node.height for node in watched) >= height, limit_ms)
    assert reached, [node.height for node in world.nodes]


def certificates(node: Node) -> list[QuorumCertificate]:
    """Of heights 1, 2, ..."""
    return [one.certificate for one in node.disk.chain[1:] if one.certificate is not None]


def views(node: Node) -> list[int]:
    """In which view each height was decided."""
    return [one.view for one in certificates(node)]


def committed(node: Node) -> bytes | None:
    """Block of the COMMIT in the node's safety record."""
    return None if node.disk.record is None else node.disk.record.committed


def times(node: Node) -> list[int]:
    return [one.block.time_ms for one in node.disk.chain[1:]]


def punished(world: World) -> set[tuple[bytes, int]]:
    """(key, kind of evidence) that blocks carry."""
    state = world.honest[0].disk.tip.state
    return {(key, kind) for key, _, kind in state.punished}


def obeying(rule: Callable[[World, int, int, object], bool]) -> type[Network]:
    """A network that carries a packet iff `rule(world, source, target, packet)`."""

    class Obeying(Network):
        def passes(self, source: Endpoint, target: Endpoint, packet: object) -> bool:
            world = self.clock
            assert isinstance(world, World)
            return rule(world, source.name, target.name, packet)

    return Obeying
