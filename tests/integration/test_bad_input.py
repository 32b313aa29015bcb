"""Bad input to a running network: refused over every door with a code, and harmless.

Source: protocols/errors.md. Each test leaves the cluster as it was: `unharmed` compares every
node's processes, accounts, totals, blocks and log before and after.
"""

from __future__ import annotations

import os
import random
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import cbor2
import httpx
import pytest
import trio
from libp2p.peer.id import ID

from gridtokenx.chain.genesis import ChainSpec
from gridtokenx.chain.transaction import (
    MAX_TRANSACTION_BYTES,
    SIGNING_DOMAIN,
    Transaction,
    TransactionBatch,
    sign_deposit,
    sign_transaction,
    transaction_id,
)
from gridtokenx.client import RpcError
from gridtokenx.cluster import dev
from gridtokenx.cluster.devnet import NATIONAL, PAYMENT, dev_key, operator_key, peer_address
from gridtokenx.cluster.processes import Cluster
from gridtokenx.consensus.messages import Phase, Vote
from gridtokenx.grid.model import MeterReading, SubmitReadings, signed_bytes
from gridtokenx.ledger.model import Asset, Deposit, Transfer
from gridtokenx.network.gossip import Gossip
from gridtokenx.network.host import (
    HostSettings,
    Network,
    NetworkError,
    open_network,
    parse_address,
)
from gridtokenx.network.peers.peer import PeerId
from gridtokenx.network.requests import RequestRefused, Requests
from gridtokenx.node.protocol import (
    ChainHead,
    Status,
    Topics,
    topic_prefix,
    topic_priority,
)
from gridtokenx.primitives.codec import encode, encode_array
from gridtokenx.primitives.errors import ErrorCode
from gridtokenx.primitives.quantities import slot_at
from gridtokenx.primitives.types import format_address
from gridtokenx.trading.model import PlaceOrder, Side, Source, TimeInForce
from tests.support.live_cluster import (
    answered_heights,
    client_of,
    genesis_of,
    log_of,
    names_of,
    pids_of,
    wait_progress,
    wait_until,
)

CHAIN = "MET"
ERRORS_PAGE = Path(__file__).parents[2] / "protocols" / "errors.md"
DEV, STRANGER = dev_key("dev"), dev_key("stranger")
DEV_METER, NO_METER = dev_key("dev meter"), dev_key("meter of nobody")
NONCE_PLACE = 5 + 32 + 2 + 32  # Of a transaction: array, tag, chain id and sender come before.
HOUR_MS = 3_600_000


# -- The bad transactions --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Bad:
    """Bytes that must be refused; after gossip `tx_getStatus` says `gossiped`, and maybe why."""

    name: str
    raw: bytes
    code: ErrorCode
    gossiped: str = "unknown"
    explained: bool = False


def an_order(**changes: object) -> PlaceOrder:
    """A good order of the dev account but for the changes."""
    now_ms = time.time_ns() // 1_000_000
    slot = slot_at(now_ms) + 4
    good = PlaceOrder(
        side=Side.BUY,
        energy_wh=10_000,
        limit_mthb=4_000,
        location=dev.LOCATION,
        meter_id=DEV_METER.public_key,
        source=Source.ANY,
        require=False,
        first_slot=slot,
        last_slot=slot,
        max_wh_per_slot=10_000,
        time_in_force=TimeInForce.GOOD_TILL_CANCELLED,
        expires_ms=now_ms + 2 * HOUR_MS,
    )
    return replace(good, **changes)


def a_reading(spec: ChainSpec, meter: bytes, signer=DEV_METER, seq: int = 1) -> SubmitReadings:
    """A reading of the last full slot."""
    slot = slot_at(time.time_ns() // 1_000_000) - 1
    bare = MeterReading(meter, slot, 0, 1_000, seq, bytes(64))
    signature = signer.sign(signed_bytes(spec.genesis_id, bare))
    return SubmitReadings((replace(bare, signature=signature),))


def bad_transactions(spec: ChainSpec, fee_ugtx: int) -> list[Bad]:
    """One of each kind; a fee of its own gives each door its own transaction ids."""
    code = ErrorCode
    sign = partial(sign_transaction, chain_id=spec.chain_id, nonce=0, fee_ugtx=fee_ugtx)
    stranger = STRANGER.public_key
    good = sign(DEV, payload=Transfer(stranger, Asset.THB, 5))
    raw = good.encoded
    fields = list(cbor2.loads(raw))
    kind = cbor2.dumps([999, 1])
    head = encode_array(spec.chain_id, DEV.public_key, 0, fee_ugtx)
    signature = DEV.sign(SIGNING_DOMAIN + head + kind)
    unknown_kind = cbor2.dumps([*fields[:5], [999, 1], signature])
    over_long = cbor2.dumps([*fields[:6], bytes(MAX_TRANSACTION_BYTES)])
    bank = operator_key(PAYMENT)
    first_deposit = sign_transaction(
        bank,
        spec.chain_id,
        0,
        sign_deposit(bank, spec.genesis_id, DEV.public_key, dev.DEPOSIT_UTHB, so_far_uthb=0),
    )
    slots = an_order().first_slot
    dear = an_order(
        energy_wh=10_000_000,
        limit_mthb=9_000,
        last_slot=slots + 89,
        max_wh_per_slot=125_000,
        expires_ms=time.time_ns() // 1_000_000 + 24 * HOUR_MS,
    )
    undecodable = [
        Bad("unsigned", replace(good, signature=bytes(64)).encoded, code.BAD_SIGNATURE),
        Bad("no signature", cbor2.dumps([*fields[:6], b""]), code.OUT_OF_RANGE),
        Bad("changed", replace(good, fee_ugtx=fee_ugtx + 1_000).encoded, code.BAD_SIGNATURE),
        Bad("of another", replace(good, sender=stranger).encoded, code.BAD_SIGNATURE),
        Bad("random bytes", random.Random(fee_ugtx).randbytes(200), code.MALFORMED_TX),
        Bad("cut short", raw[:-1], code.MALFORMED_TX),
        Bad("cut in the chain id", raw[:20], code.MALFORMED_TX),
        Bad("with more behind", raw + b"\0", code.MALFORMED_TX),
        Bad("long nonce", _respelled(raw, b"\x18\x00"), code.MALFORMED_TX),
        Bad("float nonce", _respelled(raw, b"\xf9\x00\x00"), code.MALFORMED_TX),
        Bad("endless array", b"\x9f" + raw[1:] + b"\xff", code.MALFORMED_TX),
        Bad("negative nonce", _respelled(raw, b"\x20"), code.OUT_OF_RANGE),
        Bad("unknown kind", unknown_kind, code.UNKNOWN_KIND),
        Bad("over-long", over_long, code.TOO_LARGE),
    ]
    other_chain = replace(spec.genesis, network_name="gridtokenx-other").chain(CHAIN).chain_id
    elsewhere = sign_transaction(
        DEV, other_chain, 0, Transfer(stranger, Asset.THB, 5), fee_ugtx=fee_ugtx
    )
    refused: list[tuple[str, Transaction, ErrorCode]] = [
        ("wrong chain", elsewhere, code.WRONG_CHAIN),
        (
            "replayed nonce",
            sign(operator_key(PAYMENT), payload=Deposit(stranger, 10**9)),
            code.NONCE_TOO_LOW,
        ),
        (
            "unregistered meter",
            sign(DEV, payload=an_order(meter_id=NO_METER.public_key)),
            code.UNKNOWN_METER,
        ),
        (
            "unknown region",
            sign(DEV, payload=an_order(location="ZZZ-01-SUB001")),
            code.UNKNOWN_ZONE,
        ),
        (
            "another substation",
            sign(DEV, payload=an_order(location="BKK-09-SUB009")),
            code.UNKNOWN_ZONE,
        ),
        ("dear order", sign(DEV, payload=dear), code.INSUFFICIENT_BALANCE),
        (
            "large transfer",
            sign(DEV, payload=Transfer(stranger, Asset.THB, 10**15)),
            code.INSUFFICIENT_BALANCE,
        ),
        ("above the band", sign(DEV, payload=an_order(limit_mthb=50_000)), code.PRICE_OUT_OF_BAND),
        ("below the band", sign(DEV, payload=an_order(limit_mthb=1)), code.PRICE_OUT_OF_BAND),
        (
            "forged reading",
            sign(DEV, payload=a_reading(spec, DEV_METER.public_key, STRANGER)),
            code.BAD_SIGNATURE,
        ),
        (
            "reading of no meter",
            sign(DEV, payload=a_reading(spec, NO_METER.public_key, NO_METER)),
            code.UNKNOWN_METER,
        ),
        ("own money", sign(DEV, payload=Deposit(DEV.public_key, 10**9)), code.NOT_PERMITTED),
    ]
    # A stranger has no gtx for a fee; what it says makes the ids differ instead.
    free = partial(sign_transaction, STRANGER, spec.chain_id, 0)
    ahead = Transfer(DEV.public_key, Asset.THB, 1)
    gap = sign_transaction(DEV, spec.chain_id, 1_000, ahead, fee_ugtx=fee_ugtx)
    return [
        *undecodable,
        *(Bad(name, one.encoded, why, explained=True) for name, one, why in refused),
        Bad("nonce gap", gap.encoded, code.NONCE_GAP),  # Held, and soon forgotten.
        Bad(
            "order of a stranger", free(an_order()).encoded, code.ACCOUNT_NOT_FOUND, explained=True
        ),
        Bad(
            "reading from a stranger",
            free(a_reading(spec, DEV_METER.public_key, seq=fee_ugtx)).encoded,
            code.ACCOUNT_NOT_FOUND,
            explained=True,
        ),
        Bad("replayed", first_deposit.encoded, code.DUPLICATE, "finalized"),
    ]


def _respelled(raw: bytes, nonce: bytes) -> bytes:
    """The same transaction with its nonce, the one byte 00, spelled otherwise."""
    assert raw[NONCE_PLACE] == 0
    return raw[:NONCE_PLACE] + nonce + raw[NONCE_PLACE + 1 :]


# -- What must not change --------------------------------------------------------------------------


def holdings_of(cluster: Cluster, name: str) -> dict[str, object]:
    """All that a node's API says of money, energy, nonces and the market, without heights and what
    the national chain counts of checkpoints.
    """
    keys = [DEV, STRANGER, *(operator_key(one) for one in (PAYMENT, "mea", "pea", "egat"))]
    accounts = [*(key.public_key for key in keys), dev_key("mea account").public_key]
    calls = [("account_get", {"address": format_address(one)}) for one in accounts]
    with client_of(cluster, name) as client:
        answers = [
            answer.reason if isinstance(answer, RpcError) else _without_heights(answer)
            for answer in client.call_many(calls)
        ]
        return {"accounts": answers, "stats": _without_heights(client.call("energy_getStats"))}


def _without_heights(document: object) -> object:
    if isinstance(document, dict):
        return {
            key: _without_heights(value)
            for key, value in document.items()
            if key not in ("height", "blocks", "window_slots", "transactions")
        }
    return [_without_heights(one) for one in document] if isinstance(document, list) else document


def transactions_between(cluster: Cluster, low: dict[str, int], high: dict[str, int]) -> int:
    """Transactions in the blocks above `low` up to `high`, over all regions."""
    with client_of(cluster, "n4") as client:
        return sum(
            client.block(height, chain).transaction_count
            for chain in low
            if chain != NATIONAL
            for height in range(low[chain] + 1, high[chain] + 1)
        )


@pytest.fixture(autouse=True)
def unharmed(shared_cluster: Cluster) -> Iterator[None]:
    """Same processes, same holdings, empty blocks, no fault in a log; all nodes finalize and are
    live."""
    cluster = shared_cluster
    pids = pids_of(cluster)
    assert len(pids) == 5
    holdings = {name: holdings_of(cluster, name) for name in pids}
    heights = answered_heights(cluster, "n4")
    logs = {name: len(log_of(cluster, name)) for name in pids}
    yield
    goal = wait_progress(cluster)
    assert pids_of(cluster) == pids
    assert {name: holdings_of(cluster, name) for name in pids} == holdings
    assert transactions_between(cluster, heights, goal) == 0
    for name in pids:
        new = log_of(cluster, name)[logs[name] :]
        assert "Traceback" not in new, new[-4_000:]
        assert "[error" not in new, new[-4_000:]
        with client_of(cluster, name) as client:
            wait_until(
                f"{name} is live again",
                lambda client=client: client.status().sync.state == "live",
            )


def check_refusal(bad: Bad, error: dict[str, object], reason: str, message: str) -> None:
    """The right code, its reason as in the table of errors, and a sentence."""
    told = (bad.name, error)
    assert (error["code"], reason) == (bad.code, bad.code.reason), told
    assert f"</a>{int(bad.code)} | {reason} |" in ERRORS_PAGE.read_text(encoding="utf-8")
    assert len(message.split()) >= 3, told


# -- HTTP ------------------------------------------------------------------------------------------


def rpc(http: httpx.Client, method: str, **params: object) -> dict[str, object]:
    body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
    return http.post("/rpc", json=body).json()


def by_tx_send(http: httpx.Client, bad: list[Bad]) -> list[dict[str, object]]:
    return [rpc(http, "tx_send", transaction=one.raw.hex())["error"] for one in bad]


def by_tx_send_batch(http: httpx.Client, bad: list[Bad]) -> list[dict[str, object]]:
    answer = rpc(http, "tx_sendBatch", transactions=[one.raw.hex() for one in bad])
    return [row["error"] for row in answer["result"]["results"]]


def by_rpc_batch(http: httpx.Client, bad: list[Bad]) -> list[dict[str, object]]:
    body = [
        {"jsonrpc": "2.0", "id": at, "method": "tx_send", "params": [one.raw.hex()]}
        for at, one in enumerate(bad)
    ]
    answers = http.post("/rpc", json=body).json()
    return [one["error"] for one in sorted(answers, key=lambda one: one["id"])]


def by_rest(path: str, http: httpx.Client, bad: list[Bad]) -> list[dict[str, object]]:
    answers = [http.post(f"/api/v1/{path}", json={"tx": one.raw.hex()}) for one in bad]
    assert all(400 <= one.status_code < 500 for one in answers)
    return [one.json()["error"] for one in answers]


@pytest.mark.parametrize(
    ("fee_ugtx", "node", "send"),
    [
        (1, "n0", by_tx_send),
        (2, "n1", by_tx_send_batch),
        (3, "n2", by_rpc_batch),
        (4, "n3", partial(by_rest, "transactions")),
        (5, "n4", partial(by_rest, "energy/orders")),
    ],
    ids=["tx_send", "tx_sendBatch", "batch of tx_send", "transactions", "energy orders"],
)
def test_bad_transactions_are_refused_over_http(
    shared_cluster: Cluster, fee_ugtx: int, node: str, send: Callable[..., list[dict]]
) -> None:
    bad = bad_transactions(genesis_of(shared_cluster).chain(CHAIN), fee_ugtx)
    url = shared_cluster.node(node).member.api_url
    with httpx.Client(base_url=url, trust_env=False, timeout=60) as http:
        for one, error in zip(bad, send(http, bad), strict=True):
            reason = error["data"]["reason"] if "data" in error else error["reason"]
            check_refusal(one, error, reason, error["message"])


SEED_ORDER = {
    "order_type": "sell",
    "energy_amount": 100.0,
    "price_per_kwh": 5000,
    "energy_source": "solar",
    "grid_location": dev.LOCATION,
    "expiration_hours": 24,
}


@pytest.mark.parametrize("door", ["rest", "rpc"])
def test_bad_orders_of_the_seed_are_refused(shared_cluster: Cluster, door: str) -> None:
    code = ErrorCode
    cases = [
        ("n1", {}, code.SIGNATURE_REQUIRED),
        ("n4", {}, code.SIGNATURE_REQUIRED),
        ("n0", {"grid_location": "ZZZ-01-SUB001"}, code.UNKNOWN_ZONE),
        ("n0", {"grid_location": "BKK-09-SUB009"}, code.UNKNOWN_METER),
        ("n0", {"price_per_kwh": 50_000}, code.PRICE_OUT_OF_BAND),
        ("n0", {"price_per_kwh": 1}, code.PRICE_OUT_OF_BAND),
        ("n0", {"energy_amount": 0.001}, code.AMOUNT_OUT_OF_RANGE),
        ("n0", {"energy_source": "coal"}, code.UNKNOWN_SOURCE),
        (
            "n0",
            {"order_type": "buy", "energy_amount": 9_000, "price_per_kwh": 9_000},
            code.INSUFFICIENT_BALANCE,
        ),
    ]
    for name, change, expected in cases:
        url = shared_cluster.node(name).member.api_url
        with httpx.Client(base_url=url, trust_env=False, timeout=60) as http:
            error, reason = refusal_of_seed_order(http, door, {**SEED_ORDER, **change})
            if error["code"] == code.INTERVAL_CLOSED:  # The slot has ended in between.
                error, reason = refusal_of_seed_order(http, door, {**SEED_ORDER, **change})
        check_refusal(Bad(str(change), b"", expected), error, reason, error["message"])


def refusal_of_seed_order(http: httpx.Client, door: str, order: dict) -> tuple[dict, str]:
    """The error of an order in the seed's words, and its reason."""
    if door == "rpc":
        error = rpc(http, "energy_submitOrder", **order)["error"]
        return error, error["data"]["reason"]
    answer = http.post("/api/v1/energy/orders", json=order)
    assert 400 <= answer.status_code < 500, answer.text
    error = answer.json()["error"]
    return error, error["reason"]


# -- A peer of our own -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Peer:
    """Connected to every node of the cluster, and taken by them for one of the network."""

    network: Network
    gossip: Gossip
    requests: Requests
    nodes: dict[str, PeerId]


@asynccontextmanager
async def our_peer(
    cluster: Cluster, seed: int, status: Status | None = None
) -> AsyncIterator[Peer]:
    """A genuine libp2p peer that follows no chain; each node is connected and in its mesh."""
    genesis = genesis_of(cluster)
    own = status or Status(genesis.network_name, genesis.hash, "stranger", "test/1", 0, ())

    async def tell_status(_peer: PeerId, _payload: bytes) -> bytes:
        return encode(own)

    settings = HostSettings(seed=seed.to_bytes(32, "big"), listen=())
    async with open_network(settings) as net, trio.open_nursery() as nursery:
        requests = Requests(net, genesis.network_id)
        requests.serve("status", tell_status)
        gossip = Gossip(
            net,
            topic_prefix=topic_prefix(genesis.network_id),
            priority=topic_priority,
            seed=seed,
            first_seqno=time.time_ns(),
        )
        await nursery.start(gossip.run)
        nodes = {}
        for member in cluster.members:
            nodes[member.name] = await net.dial(address_of(cluster, member.name))
        with trio.fail_after(60):
            for topic in topics_of(cluster):
                while set(gossip.peers(topic)) != set(nodes.values()):  # noqa: ASYNC110 - a poll
                    await trio.sleep(0.05)
        yield Peer(net, gossip, requests, nodes)
        nursery.cancel_scope.cancel()


def address_of(cluster: Cluster, name: str) -> str:
    """Where a node listens for peers."""
    return peer_address(name, cluster.node(name).member.p2p_port)


def topics_of(cluster: Cluster) -> list[str]:
    """Every topic of the network."""
    genesis = genesis_of(cluster)
    found = []
    for name in genesis.chain_names:
        topics = Topics(genesis.network_id, name)
        found += [topics.votes, topics.blocks, topics.orders]
    return found


def statuses_of(cluster: Cluster, name: str, transactions: list[Bad]) -> list[tuple[str, object]]:
    """By transaction what a node knows of it, and the code of its refusal."""
    ids = [transaction_id(one.raw).hex() for one in transactions]
    with client_of(cluster, name) as client:
        rows = client.call("tx_getStatuses", ids=ids)["items"]
    return [(row["status"], row["error"] and row["error"]["code"]) for row in rows]


async def test_bad_transactions_as_gossip_get_nowhere(shared_cluster: Cluster) -> None:
    genesis = genesis_of(shared_cluster)
    bad = bad_transactions(genesis.chain(CHAIN), 6)
    wellformed = [one for one in bad if one.explained or one.gossiped != "unknown"]
    garbage = [one for one in bad if one not in wellformed]
    topic = Topics(genesis.network_id, CHAIN).orders
    async with our_peer(shared_cluster, 6) as rude, our_peer(shared_cluster, 60) as peer:
        for one in garbage:  # After some of it nobody listens to this peer any more.
            rude.gossip.publish(topic, encode(TransactionBatch((one.raw,))))
        peer.gossip.publish(topic, encode(TransactionBatch(tuple(one.raw for one in wellformed))))
        wanted = [(one.gossiped, one.code if one.explained else None) for one in wellformed]
        for name in peer.nodes:
            said = partial(statuses_of, shared_cluster, name, wellformed)
            with trio.fail_after(90):
                while await trio.to_thread.run_sync(said) != wanted:
                    # A node with too much to do drops what strangers bring: they say it again.
                    for one in wellformed:
                        peer.gossip.publish(topic, encode(TransactionBatch((one.raw,))))
                        await trio.sleep(0.1)
            # Why is told of some: a sender that nobody knows is noticed before its signature.
            await trio.to_thread.run_sync(
                wait_until,
                f"{name} keeps none of the garbage",
                lambda name=name: (
                    [status for status, _ in statuses_of(shared_cluster, name, garbage)]
                    == [one.gossiped for one in garbage]
                ),
            )


async def test_bad_transactions_as_requests_are_refused_with_a_sentence(
    shared_cluster: Cluster,
) -> None:
    made = bad_transactions(genesis_of(shared_cluster).chain(CHAIN), 7)
    bad = [one for one in made if len(one.raw) <= MAX_TRANSACTION_BYTES]  # Or it is no request.
    async with our_peer(shared_cluster, 7) as peer:
        for node in peer.nodes.values():
            for kind in ("status", "blocks", "bodies"):
                for one in bad:
                    with pytest.raises(RequestRefused, match=r"\w+ \w+"):
                        await peer.requests.request(node, kind, one.raw)
                stream = await peer.network.open_stream(node, [peer.requests.protocol(kind)])
                await stream.write(b"\x81\x80\x04" + bytes(1_000))  # announces 64 KiB and a byte
                with pytest.raises(NetworkError, match="closed"), trio.fail_after(30):
                    await stream.read_exactly(1)


async def test_a_peer_that_lies_about_its_height_does_not_hold_a_node_up(
    shared_cluster: Cluster,
) -> None:
    genesis = genesis_of(shared_cluster)
    heads = tuple(
        ChainHead(name, genesis.chain(name).chain_id, 2**62, bytes(32))
        for name in genesis.chain_names
    )
    lie = Status(genesis.network_name, genesis.hash, "liar", "test/1", 2**62, heads)
    async with our_peer(shared_cluster, 8, lie) as peer:
        for node in peer.nodes.values():
            await peer.requests.request(node, "status", encode(lie))
        await trio.to_thread.run_sync(partial(wait_progress, shared_cluster, blocks=4))
        for name in peer.nodes:  # While the liar stays, which cannot deliver what it tells of.
            await trio.to_thread.run_sync(
                wait_until, f"{name} is ready", partial(is_ready, shared_cluster, name)
            )


def is_ready(cluster: Cluster, name: str) -> bool:
    """Whether a node says that it can be used."""
    url = f"{cluster.node(name).member.api_url}/ready"
    try:
        return httpx.get(url, trust_env=False, timeout=60).status_code == 200
    except httpx.HTTPError:
        return False


# -- Garbage ---------------------------------------------------------------------------------------

CHANCE_BYTES = random.Random(5).randbytes(65_536)
STREAM_GARBAGE = (
    b"",
    b"\0",
    CHANCE_BYTES[:1],
    CHANCE_BYTES[:1_000],
    CHANCE_BYTES,
    b"\xff" * 100,  # a length without an end
    b"\xff\xff\xff\xff\x0f" + bytes(100),  # 4 GiB to come
    b"\x05abc",  # less than announced
    b"\x13/multistream/1.0.0\n",
    cbor2.dumps([221, "x" * 300]),
    b"GET / HTTP/1.1\r\n\r\n",
)


async def test_garbage_on_a_stream_of_every_protocol(shared_cluster: Cluster) -> None:
    async with our_peer(shared_cluster, 9) as peer:
        for name, node in peer.nodes.items():
            protocols = await protocols_of(peer.network, node)
            ours = {peer.requests.protocol(one) for one in ("status", "blocks", "bodies")}
            assert ours <= protocols, f"{name} told {protocols}"
            assert len(protocols) >= 8
    for number, garbage in enumerate(STREAM_GARBAGE):  # Each from a peer that is not banned yet.
        settings = HostSettings(seed=bytes([9, number]) * 16, listen=())
        async with open_network(settings) as net:
            for name in peer.nodes:
                for protocol in sorted(protocols):
                    await spill(net, address_of(shared_cluster, name), protocol, garbage)


async def protocols_of(net: Network, node: PeerId) -> set[str]:
    """What a peer said it speaks, once it said it."""
    store = net.host.get_peerstore()
    with trio.fail_after(60):
        while not (told := set(store.get_protocols(ID(node)))):  # noqa: ASYNC110 - a poll
            await trio.sleep(0.05)
    return told


async def spill(net: Network, address: str, protocol: str, garbage: bytes) -> None:
    """Write to a new stream and abandon it; a node may end it, or the connection, before."""
    node = parse_address(address)[0]
    if not net.is_connected(node):
        await net.dial(address)
    with suppress(NetworkError):
        stream = await net.open_stream(node, [protocol], timeout_s=5)
        with trio.move_on_after(0.02):
            await stream.write(garbage)
            await stream.close_write()
            await stream.read_some(1_000)
        await stream.reset()


async def test_garbage_as_gossip_on_every_topic(shared_cluster: Cluster) -> None:
    spec = genesis_of(shared_cluster).chain(CHAIN)
    now = answered_heights(shared_cluster, "n0")[CHAIN]
    forged = [
        Vote(Phase.COMMIT, height, 0, bytes(32), index, bytes(64))
        for height in (0, now, now + 1, now + 2, 2**63 - 1)
        for index in (0, 3, 60_000)
    ]
    head = ChainHead(CHAIN, spec.chain_id, 1, bytes(32))
    payloads = [
        *(CHANCE_BYTES[:size] for size in (1, 100, 60_000)),
        *(b"\xff" * 10, b"\x9f", cbor2.dumps([[[[1]]]]), cbor2.dumps({1: 2})),
        *map(encode, forged),
        encode(TransactionBatch(())),
        encode(TransactionBatch((b"\0",) * 4_000)),
        encode(Status("x", bytes(32), "x", "x", 0, (head,))),
    ]
    async with our_peer(shared_cluster, 10) as peer:
        for topic in topics_of(shared_cluster):
            for payload in payloads:
                peer.gossip.publish(topic, payload)
                await trio.lowlevel.checkpoint()
        await trio.to_thread.run_sync(partial(wait_progress, shared_cluster))


def test_garbage_on_the_ports(shared_cluster: Cluster) -> None:
    idle: list[socket.socket] = []
    try:
        for member in shared_cluster.members:
            for port in (member.p2p_port, member.api_port):
                for garbage in STREAM_GARBAGE:
                    with suppress(ConnectionError):
                        throw(port, garbage)
                for _ in range(5):
                    idle.append(socket.create_connection(("127.0.0.1", port), timeout=30))
                idle[-1].send(b"\x13")  # the beginning of a handshake, and then nothing
        wait_progress(shared_cluster)
        assert len(names_of(shared_cluster)) == 5
    finally:
        for one in idle:
            one.close()


def throw(port: int, garbage: bytes) -> None:
    """Connect, send, and leave in the rudest way: a reset for what is not read."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as rude:
        rude.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0" + bytes(4))
        rude.sendall(garbage + os.linesep.encode())
