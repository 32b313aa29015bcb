"""Real hosts on 127.0.0.1 which know the bootnode's address and nothing else."""

import re
from collections.abc import Sequence
from hashlib import sha256

import pytest
import structlog
import trio
import trio.testing
from libp2p.peer.id import ID

from gridtokenx.network import discovery
from gridtokenx.network.clock import Clock
from gridtokenx.network.discovery import OUTCOME_WORDS, Discovery, describe_outcomes, region_key
from gridtokenx.network.host import REASONS, HostSettings, Network, format_peer_id, open_network
from gridtokenx.network.libp2p_overrides.providers import (
    MAX_PROVIDERS_PER_KEY,
    RECORD_TTL_S,
    ProviderRecords,
)
from gridtokenx.network.peers.peer import PeerId
from gridtokenx.network.peers.peer_book import PeerBook
from tests.support.patience import until

LOOPBACK = ("/ip4/127.0.0.1/tcp/0",)


class RunningNode:
    """A host with its discovery, in a task of its own that can be killed."""

    network: Network
    discovery: Discovery

    def __init__(self) -> None:
        self.scope = trio.CancelScope()

    async def run(self, number, bootstrap=(), *, task_status, **options) -> None:
        listen = options.pop("listen", LOOPBACK)
        settings = HostSettings(seed=bytes([number]) * 32, listen=listen)
        with self.scope:
            async with open_network(settings) as self.network, trio.open_nursery() as nursery:
                self.discovery = Discovery(self.network, bootstrap, **options)
                await nursery.start(self.discovery.run)
                task_status.started(self)
                await trio.sleep_forever()


async def start(nursery: trio.Nursery, number: int, bootstrap=(), **options) -> RunningNode:
    node = RunningNode()

    async def run(task_status) -> None:
        await node.run(number, bootstrap, task_status=task_status, **options)

    return await nursery.start(run)


def meshed(nodes: Sequence[RunningNode]) -> bool:
    return all(len(node.network.connected()) == len(nodes) - 1 for node in nodes)


async def test_six_nodes_that_know_only_the_bootnode_find_each_other() -> None:
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nodes = [await start(nursery, 1)]
            for number in range(2, 7):
                nodes.append(await start(nursery, number, nodes[0].network.listen_addresses))
            await until(lambda: meshed(nodes))
            nursery.cancel_scope.cancel()


async def test_a_late_node_joins_and_the_bootnode_may_then_die() -> None:
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            boot = await start(nursery, 1)
            bootstrap = boot.network.listen_addresses
            nodes = [await start(nursery, number, bootstrap) for number in (2, 3)]
            await until(lambda: meshed([boot, *nodes]))
            boot.scope.cancel()
            await until(lambda: meshed(nodes))

            # One of the others serves as well as the bootnode, which stays dead.
            known = (*bootstrap, *nodes[1].network.listen_addresses)
            nodes.append(await start(nursery, 4, known))
            await until(lambda: meshed(nodes))
            assert nodes[2].discovery.dial_outcomes["refused"] >= 1
            nursery.cancel_scope.cancel()


async def test_a_bootnode_that_starts_late_is_found() -> None:
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            probe = await start(nursery, 1)
            bootstrap = probe.network.listen_addresses
            probe.scope.cancel()
            node = await start(nursery, 2, bootstrap)
            await until(lambda: node.discovery.dial_outcomes["refused"] >= 1)
            listen = (bootstrap[0].partition("/p2p/")[0],)
            boot = await start(nursery, 1, listen=listen)
            await until(lambda: meshed([node, boot]))
            nursery.cancel_scope.cancel()


async def test_lost_connections_come_back() -> None:
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            a = await start(nursery, 1)
            b = await start(nursery, 2, persistent=a.network.listen_addresses, target_peers=0)
            await until(lambda: meshed([a, b]))
            await a.network.disconnect(b.network.peer_id)
            assert a.network.connected() == ()
            await until(lambda: meshed([a, b]))
            nursery.cancel_scope.cancel()


async def test_after_a_restart_no_bootnode_is_needed() -> None:
    book = PeerBook(Clock())
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            boot = await start(nursery, 1)
            bootstrap = boot.network.listen_addresses
            stays = await start(nursery, 2, bootstrap)
            leaves = await start(nursery, 3, bootstrap, book=book)
            await until(lambda: meshed([boot, stays, leaves]))
            await until(lambda: len(book.peers()) == 2)
            assert {met.agent for met in book.peers().values()} != {""}
            boot.scope.cancel()
            leaves.scope.cancel()
            await until(lambda: not stays.network.connected())

            kept = PeerBook(Clock())
            kept.load(book.dump())
            again = await start(nursery, 3, bootstrap, book=kept)
            await until(lambda: again.network.connected() == (stays.network.peer_id,))
            nursery.cancel_scope.cancel()


def gave_up(node: RunningNode, *others: RunningNode) -> bool:
    """Whether a node has failed to reach others as often as one that was never there."""
    failures = [node.discovery._candidates[other.network.peer_id].failures for other in others]
    return min(failures) >= discovery.GIVE_UP_AFTER_FAILURES


async def cut(nodes: Sequence[RunningNode], *others: RunningNode) -> None:
    for node in nodes:
        await node.network.block(frozenset(other.network.peer_id for other in others))


async def test_a_long_outage_makes_nobody_forget_whom_they_met(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(discovery, "FIRST_BACKOFF_S", 0.01)
    monkeypatch.setattr(discovery, "LAST_BACKOFF_S", 0.1)
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            boot = await start(nursery, 1)
            bootstrap = boot.network.listen_addresses
            a, b, c, d = [await start(nursery, number, bootstrap) for number in (2, 3, 4, 5)]
            await until(lambda: all(len(one.discovery._book.peers()) == 4 for one in (a, b, c, d)))
            boot.scope.cancel()  # For good: only their memory leads them back.
            await cut((c, d), a, b)
            await until(lambda: gave_up(a, c, d) and gave_up(b, c, d))
            for node in (a, b, c, d):  # As after hours, when pauses are long.
                for candidate in node.discovery._candidates.values():
                    candidate.not_before_s = trio.current_time() + 3_600
            await cut((c, d))
            a.discovery._candidates[c.network.peer_id].not_before_s = 0
            # Who comes back shows that the others are worth a dial again.
            await until(lambda: meshed([a, b, c, d]))
            nursery.cancel_scope.cancel()


async def test_nodes_find_those_that_serve_their_region(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discovery, "FIRST_REGION_PAUSES_S", (0.2,) * 50)
    met, nor = region_key(7, "MET"), region_key(7, "NOR")
    assert met == bytes.fromhex("1220") + sha256(b"/gridtokenx/7/MET").digest()
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            boot = await start(nursery, 1, regions={met: False, nor: True})
            bootstrap = boot.network.listen_addresses
            alike = [
                await start(nursery, number, bootstrap, regions={met: True, nor: False})
                for number in (2, 3)
            ]
            other = await start(nursery, 4, bootstrap, regions={met: False, nor: True})
            a, b = (node.network.peer_id for node in alike)
            await until(lambda: alike[0].discovery.providers.get(met) == (b,))
            await until(lambda: alike[1].discovery.providers.get(met) == (a,))
            await until(lambda: other.discovery.providers.get(nor) == (boot.network.peer_id,))
            assert met not in other.discovery.providers  # It did not look for what it serves not.
            assert alike[0].discovery._candidates[b].serves
            assert not any(node.discovery.faults for node in (boot, other, *alike))
            nursery.cancel_scope.cancel()


async def test_provider_records_are_bounded_and_end(autojump_clock: trio.testing.MockClock) -> None:
    records = ProviderRecords([b"known"])
    assert not records.add(b"unknown", ID(b"x"))
    for number in range(100):
        assert records.add(b"known", ID(b"peer %d" % number))
    kept = records.of(b"known")
    assert len(kept) == MAX_PROVIDERS_PER_KEY
    assert kept[0] == ID(b"peer 99")
    await trio.sleep(RECORD_TTL_S - 1)
    records.add(b"known", ID(b"peer 50"))
    await trio.sleep(1)
    assert records.of(b"known") == [ID(b"peer 50")]
    assert records.of(b"unknown") == []


async def test_the_target_bounds_what_is_dialled() -> None:
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            boot = await start(nursery, 1)
            bootstrap = boot.network.listen_addresses
            others = [await start(nursery, number, bootstrap) for number in (2, 3, 4)]
            await until(lambda: meshed([boot, *others]))
            modest = await start(nursery, 5, bootstrap, target_peers=1)
            await until(lambda: len(modest.discovery.dial_outcomes) > 0)
            await until(lambda: len(modest.network.connected()) == 4)  # the others dial it
            assert modest.discovery.dial_outcomes["connected"] == 1
            nursery.cancel_scope.cancel()


def test_outcomes_are_told_by_frequency() -> None:
    outcomes = {"connected": 1, "refused": 3, "timeout": 9}
    assert describe_outcomes(outcomes) == "13 dials — 9 timed out, 3 refused"
    assert describe_outcomes({}) == "0 dials — none failed"
    assert OUTCOME_WORDS.keys() == REASONS


async def test_a_lonely_node_says_why_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discovery, "ALONE_HINT_AFTER_S", 1)
    with trio.fail_after(60), structlog.testing.capture_logs() as logs:
        async with trio.open_nursery() as nursery:
            gone = await start(nursery, 1)
            bootstrap = gone.network.listen_addresses
            gone.scope.cancel()
            regions = {region_key(7, name): True for name in ("MET", "NOR", "NEA", "SOU")}
            node = await start(nursery, 2, bootstrap, regions=regions)
            node.network.host.observed_ip = "203.0.113.7"
            port = node.network.listen_addresses[0].split("/tcp/")[1].split("/")[0]
            await until(lambda: any(entry.get("code") == "GTX-NET-001" for entry in logs))
            await trio.sleep(1.2)
            assert node.network.dial_outcomes.total() <= 4  # it dials again after 1, 2, 4 s
            nursery.cancel_scope.cancel()
    hints = [entry["hint"] for entry in logs if entry.get("code") == "GTX-NET-001"]
    assert len(hints) == 1
    dials = r"[1-4] dials — [1-4] refused"
    nat = r"announce is empty and you are behind NAT \(peers saw 203\.0\.113\.7\)\."
    way_out = r"Check network\.bootstrap and the firewall; gridtokenx net doctor says more\."
    expected = rf"no peers for 1 s: {dials}\. Is TCP {port} open\? {nat} {way_out}"
    assert re.fullmatch(expected, hints[0])


async def test_a_flood_of_invented_peers_is_bounded_and_fades() -> None:
    async with open_network(HostSettings(seed=bytes(32), listen=LOOPBACK)) as network:
        real = "/ip4/127.0.0.1/tcp/1/p2p/" + format_peer_id(network.peer_id)[:-1] + "x"
        finder = Discovery(network, [real])
        invented = [ID(b"\x12\x20" + number.to_bytes(32, "big")) for number in range(2_000)]
        finder._add_candidates(invented)
        assert len(finder._candidates) <= discovery.MAX_CANDIDATES
        assert any(candidate.address == real for candidate in finder._candidates.values())
        peer = PeerId(invented[-1].to_bytes())
        for _ in range(discovery.GIVE_UP_AFTER_FAILURES):
            finder._postpone(peer)
        assert peer not in finder._candidates


@pytest.mark.parametrize("address", ["", "/ip4/127.0.0.1/tcp/1", "/p2p/12D3KooW", "nonsense"])
async def test_a_malformed_bootnode_is_named(address: str) -> None:
    async with open_network(HostSettings(seed=bytes(32), listen=LOOPBACK)) as network:
        with pytest.raises(ValueError, match="is not an address like"):
            Discovery(network, [address])
