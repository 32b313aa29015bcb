"""A js-libp2p node in a live cluster: it joins, is found, reads, verifies, asks and trades.

Nothing of the JavaScript was made from our Python: it follows protocols/*.md and wire/*.cddl. One
cluster for the file; each test goes on where the one before has left it.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from gridtokenx.cluster import dev
from gridtokenx.cluster.devnet import (
    LICENCE_EXPIRY_MS,
    NETWORK_ID,
    PAYMENT,
    dev_key,
    operator_key,
    peer_address,
    peer_id,
)
from gridtokenx.cluster.processes import Cluster
from gridtokenx.ledger.model import Deposit
from gridtokenx.primitives.crypto import SigningKey, kyc_reference
from gridtokenx.primitives.quantities import UTHB_PER_THB
from gridtokenx.primitives.types import format_address
from gridtokenx.registry.model import (
    Generation,
    LicenceClass,
    ProsumerClass,
    RegisterMeter,
    RegisterParticipant,
    Role,
)
from gridtokenx.trading.model import PlaceOrder, Side, Source, TimeInForce
from tests.support import js_peer, live_cluster
from tests.support.js_peer import JsPeer, PeerError
from tests.support.live_cluster import (
    add_member,
    answered_heights,
    client_of,
    heights_of,
    wait_progress,
    wait_until,
)
from tests.support.patience import PATIENCE_S

AUTHORITIES = ("n0", "n1", "n2", "n3")
NEWCOMER = "n4"
CHAIN = "MET"
WIRE = Path(__file__).parents[2] / "protocols" / "wire"
TRADER_SEED = hashlib.sha256(b"a trader in a browser").digest()
TRADER = SigningKey(TRADER_SEED)
TRADER_METER = SigningKey(hashlib.sha256(b"its meter").digest())
SLOT_MS = 900_000


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("home") / "clusters" / "interop"
    with live_cluster.running(folder, observers=0) as made:
        yield made


def node_id(name: str) -> str:
    return peer_id(dev_key(f"{name} node").public_key)


def join(peer: JsPeer, cluster: Cluster, address: str) -> None:
    """Tell it the genesis file, the encodings and one address; nothing else."""
    known = peer.do(
        "network", genesis=str(cluster.home("n0") / "genesis.json"), wire=str(WIRE), chain=CHAIN
    )
    genesis = live_cluster.genesis_of(cluster)
    assert known["genesisHash"] == genesis.hash.hex()
    assert known["chainId"] == genesis.chain(CHAIN).chain_id.hex()
    peer.do("dial", address=address)


def topic(name: str) -> str:
    return f"/gridtokenx/{NETWORK_ID}/{CHAIN}/{name}"


@pytest.fixture(scope="module")
def peer(cluster: Cluster) -> Iterator[JsPeer]:
    """In the cluster; it may dial the bootnode alone, so whoever else comes has found it."""
    bootnode = cluster.node("n0").member
    listen = ["/ip4/127.0.0.1/tcp/0"]
    with js_peer.running("tcp", listen=listen, dials=[node_id("n0")]) as made:
        join(made, cluster, peer_address("n0", bootnode.p2p_port))
        yield made


def wait_found_by(peer: JsPeer, name: str) -> None:
    def found() -> bool:
        return any(
            (one["peer"], one["direction"]) == (node_id(name), "inbound")
            for one in list(peer.connections)
        )

    wait_until(f"{name} dials the JavaScript peer", found)


def start_newcomer(cluster: Cluster) -> str:
    """A fifth node, which also listens for WebSockets; returns that address."""
    add_member(cluster, NEWCOMER)
    port = live_cluster.more_ports(cluster)[1]
    path = cluster.home(NEWCOMER) / "config.toml"
    text = path.read_text(encoding="utf-8")
    own = f"/tcp/{cluster.node(NEWCOMER).member.p2p_port}"
    at = text.index('"', text.index(own))
    web = f'", "/ip4/127.0.0.1/tcp/{port}/ws'
    path.write_text(text[:at] + web + text[at:], encoding="utf-8")
    cluster.start(NEWCOMER)
    return f"/ip4/127.0.0.1/tcp/{port}/ws/p2p/{node_id(NEWCOMER)}"


def look_up(peer: JsPeer, command: str, /, **fields: str) -> dict:
    """What it finds in the DHT; a busy machine may take longer than the peer waits."""
    end = time.monotonic() + PATIENCE_S
    while True:
        try:
            return peer.do(command, **fields)
        except PeerError:
            if time.monotonic() > end:
                raise
        time.sleep(0.1)


def wait_told_or_none(peer: JsPeer, seconds: float = 5.0) -> list[str]:
    """Whom it could tell that it provides the region."""
    end, done = time.monotonic() + seconds, []
    while not done and time.monotonic() < end:
        with suppress(PeerError):  # as in `look_up`
            done = peer.do("provide", region=CHAIN)["told"]
        time.sleep(0.1)
    return done


@pytest.fixture(scope="module")
def provider(cluster: Cluster) -> Iterator[JsPeer]:
    """Serves the region, and nobody's DHT: only its provider record says that it is there."""
    listen = ["/ip4/127.0.0.1/tcp/0"]
    bootnode = peer_address("n0", cluster.node("n0").member.p2p_port)
    with js_peer.running("provider", listen=listen, serves=False, dials=[node_id("n0")]) as made:
        join(made, cluster, bootnode)

        def told() -> list[str]:
            """js-libp2p takes a peer into its routing table when it connects, or never."""
            done = wait_told_or_none(made)
            if not done:
                made.do("hang_up", peer=node_id("n0"))
                made.do("dial", address=bootnode)
            return done

        assert wait_until("n0 has its provider record", told) == [node_id("n0")]
        yield made


@pytest.fixture(scope="module")
def web_address(cluster: Cluster, peer: JsPeer, provider: JsPeer) -> str:
    """After the peers have joined, so that nobody can have told the newcomer of them."""
    return start_newcomer(cluster)


def test_it_is_found_through_the_dht_by_all_who_were_never_told_of_it(
    cluster: Cluster, peer: JsPeer, web_address: str
) -> None:
    for name in ("n1", "n2", "n3", NEWCOMER):
        wait_found_by(peer, name)
    told = look_up(peer, "find", peer=node_id("n2"))
    assert any(f"/tcp/{cluster.node('n2').member.p2p_port}" in one for one in told["addresses"])
    for name in AUTHORITIES:

        def listed(name: str = name) -> list[str]:
            with client_of(cluster, name) as client:
                return [one.agent for one in client.peers() if one.peer_id == peer.peer_id]

        assert wait_until(f"{name} has its status", listed)[0].startswith("js-libp2p")


def test_who_serves_a_region_is_found_by_its_provider_record(
    cluster: Cluster, peer: JsPeer, provider: JsPeer, web_address: str
) -> None:
    wait_found_by(provider, NEWCOMER)
    wanted = {node_id(name) for name in ("n1", "n2", "n3")} | {provider.peer_id}

    def found() -> dict[str, list[str]]:
        known = look_up(peer, "providers", region=CHAIN)
        return known if wanted <= known.keys() else {}

    known = wait_until("the providers of the region", found)
    assert any(f"/tcp/{cluster.node('n2').member.p2p_port}" in one for one in known[node_id("n2")])
    assert look_up(peer, "providers", region="XXX") == {}


def test_it_reads_and_verifies_the_votes_and_blocks_of_one_region(
    cluster: Cluster, peer: JsPeer
) -> None:
    for name in ("votes", "blocks"):
        peer.do("subscribe", topic=topic(name))
    seen: list[dict] = []

    def blocks_of(kind: str) -> set[str]:
        return {one["blockHash"] for one in seen if one.get("kind") == kind}

    def enough() -> bool:
        seen.extend(peer.do("messages")["messages"])
        kinds = [one.get("kind") for one in seen]
        have_all = kinds.count("compact") >= 2 and {"proposal", "prepare", "commit"} <= set(kinds)
        return have_all and not blocks_of("compact").isdisjoint(blocks_of("commit"))

    wait_until("votes, blocks, and a commit vote for one of these blocks", enough)
    assert [one for one in seen if "invalid" in one] == []
    assert {one["topic"] for one in seen} == {topic("votes"), topic("blocks")}
    assert {one["from"] for one in seen} <= {node_id(name) for name in (*AUTHORITIES, NEWCOMER)}
    for name in ("votes", "blocks"):
        peer.do("unsubscribe", topic=topic(name))


def test_it_asks_for_blocks_and_verifies_them_with_their_certificates(
    cluster: Cluster, peer: JsPeer
) -> None:
    height = min(answered_heights(cluster, name)[CHAIN] for name in AUTHORITIES)
    assert height >= 3
    status = peer.do("status", peer=node_id("n3"))
    assert status["heights"][CHAIN] >= height
    assert status["genesisHash"] == live_cluster.genesis_of(cluster).hash.hex()
    fetched = peer.do("blocks", peer=node_id("n3"), **{"from": 1, "count": 3})["blocks"]
    assert [one["height"] for one in fetched] == [1, 2, 3]
    with client_of(cluster, "n1") as client:
        for one in fetched:
            block = client.block(one["height"], CHAIN)
            assert (one["hash"], one["state_root"]) == (
                block.hash.hex(),
                block.header.state_root.hex(),
            )
    doubted = peer.do("doubt", peer=node_id("n3"), height=2)
    assert doubted["tried"] > 50
    assert doubted["believed"] == []
    with pytest.raises(PeerError, match="refused"):
        peer.do("blocks", peer=node_id("n3"), **{"from": 1, "count": 0})


# -- Trading ---------------------------------------------------------------------------------------


def now_slot() -> int:
    return time.time_ns() // 1_000_000 // SLOT_MS


def an_order(side: Side, account_meter: bytes, limit_mthb: int, slot: int) -> PlaceOrder:
    return PlaceOrder(
        side=side,
        energy_wh=2_000,
        limit_mthb=limit_mthb,
        location=dev.LOCATION,
        meter_id=account_meter,
        source=Source.SOLAR if side is Side.SELL else Source.ANY,
        require=False,
        first_slot=slot,
        last_slot=slot,
        max_wh_per_slot=2_000,
        time_in_force=TimeInForce.GOOD_TILL_CANCELLED,
        expires_ms=(slot + 1) * SLOT_MS,
    )


def register_trader(cluster: Cluster) -> None:
    """The distributor knows the JavaScript trader, and it has money: on every node."""
    participant = RegisterParticipant(
        account=TRADER.public_key,
        role=Role.CONSUMER,
        kyc_ref=kyc_reference(b"gridtokenx interop", b"trader"),
        licence_class=LicenceClass.EXEMPT_LT_1000KVA,
        licence_expiry_ms=LICENCE_EXPIRY_MS,
        vat_registered=False,
        territory="BKK",
        consent_version=1,
        daily_cap_wh=1_000_000,
    )
    meter = RegisterMeter(
        meter_id=TRADER_METER.public_key,
        owner=TRADER.public_key,
        location=dev.LOCATION,
        nameplate_import_w=40_000,
        nameplate_export_w=0,
        source=Generation.NONE,
        prosumer_class=ProsumerClass.RESIDENTIAL,
    )
    with client_of(cluster, "n0") as client:
        dev.fund_dev_account(client)
        operator = operator_key(dev.DISTRIBUTOR)
        nonce = client.nonce(operator.public_key, CHAIN)
        money = Deposit(TRADER.public_key, 1_000 * UTHB_PER_THB)
        sent = [
            client.sign(operator, CHAIN, participant, nonce),
            client.sign(operator, CHAIN, meter, nonce + 1),
            client.sign(operator_key(PAYMENT), CHAIN, money, None),
        ]
        assert client.send_many(sent) == [None, None, None]
        client.wait_for([one.id.hex() for one in sent], timeout_s=60)
    heights = answered_heights(cluster, "n0")
    live_cluster.wait_heights(cluster, heights, *live_cluster.names_of(cluster))


def test_its_signed_order_is_traded(cluster: Cluster, peer: JsPeer) -> None:
    register_trader(cluster)
    slot = now_slot() + 4
    buy = an_order(Side.BUY, TRADER_METER.public_key, 6_000, slot)
    document = {
        "kind": "place_order",
        "side": "buy",
        "energy_wh": buy.energy_wh,
        "limit_mthb": buy.limit_mthb,
        "location": buy.location,
        "meter_id": buy.meter_id.hex(),
        "source": "any",
        "require": False,
        "first_slot": slot,
        "last_slot": slot,
        "max_wh_per_slot": buy.max_wh_per_slot,
        "time_in_force": "gtc",
        "expires_ms": buy.expires_ms,
    }
    peer.do("subscribe", topic=topic("orders"))
    peer.wait(f"subscribers|{topic('orders')}")
    placed = peer.do("order", seed=TRADER_SEED.hex(), nonce=0, document=document)
    assert placed["recipients"]
    with client_of(cluster, "n2") as client:
        client.wait_for([placed["id"]], timeout_s=60)
        dev_meter = dev_key(f"{dev.DEV_ACCOUNT} meter").public_key
        sell = an_order(Side.SELL, dev_meter, 3_000, slot)
        sold = client.sign(dev_key(dev.DEV_ACCOUNT), CHAIN, sell, None)
        assert client.send_many([sold]) == [None]

        def traded() -> list[dict]:
            found = client.call("energy_getTrades", trader=format_address(TRADER.public_key))
            return [one for one in found["items"] if one["buy_order_id"] == placed["id"]]

        trade = wait_until("the trade", traded)[0]
        assert (trade["sell_order_id"], trade["energy_wh"]) == (sold.id.hex(), "2000")
        found = client.call("tx_get", id=placed["id"])
    height = int(found["height"])
    block = peer.do("blocks", peer=node_id("n2"), **{"from": height, "count": 1})["blocks"][0]
    assert placed["id"] in block["ids"]


# -- As a browser ----------------------------------------------------------------------------------


def test_a_peer_with_nothing_but_websockets_reads_and_asks(
    cluster: Cluster, web_address: str
) -> None:
    wait_until("the newcomer follows", lambda: heights_of(cluster, NEWCOMER).get(CHAIN, 0) >= 3)
    with js_peer.running("web", web=True, dials=[node_id(NEWCOMER)]) as browser:
        join(browser, cluster, web_address)
        assert browser.connections[0]["address"].startswith(web_address.partition("/p2p/")[0])
        got = browser.do("blocks", peer=node_id(NEWCOMER), **{"from": 1, "count": 3})["blocks"]
        assert [one["height"] for one in got] == [1, 2, 3]
        for name in ("votes", "blocks"):
            browser.do("subscribe", topic=topic(name))
        seen: list[dict] = []

        def read_a_block() -> bool:
            seen.extend(browser.do("messages")["messages"])
            return {"compact", "commit"} <= {one.get("kind") for one in seen}

        wait_until("a block over WebSockets", read_a_block)
        assert [one for one in seen if "invalid" in one] == []
    wait_progress(cluster)
