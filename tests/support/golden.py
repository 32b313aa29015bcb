"""What the API answers, to the byte: chains in known states, asked everything, and a file of it.

`python -m tests.support.golden` records `tests/unit/api/golden.txt` anew. Do so for a change of
the answers that is meant, and read the difference.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from gridtokenx.answers.signed_requests import request_bytes
from gridtokenx.api import access, jsonrpc, rest
from gridtokenx.api.calls import Calls, Reply
from gridtokenx.api.context import Context
from gridtokenx.api.limiter import Bill, Limiter
from gridtokenx.api.methods import METHODS
from gridtokenx.api.table import Method
from gridtokenx.cluster.devnet import GTX, dev_key, operator_key, validator_name
from gridtokenx.governance.model import (
    ApproveAsAuthority,
    AuthorityChange,
    AuthorityManagement,
    Choice,
    Emergency,
    NewAuthority,
    ParameterChange,
    Propose,
    Reincarnation,
    Vote,
)
from gridtokenx.grid.model import HaltTerritory, PublishGridStatus
from gridtokenx.interchain.model import CHECKPOINTS, TransferAbroad
from gridtokenx.ledger.model import Asset, RetireCredits, Transfer
from gridtokenx.primitives.crypto import SigningKey, sha256
from gridtokenx.primitives.document import to_document
from gridtokenx.primitives.types import format_address
from gridtokenx.registry.model import Generation, ReplaceMeter, RetireMeter, SuspendMeter
from gridtokenx.staking.model import Bond, Redelegate, Unbond
from gridtokenx.trading.model import CancelOrder, Side, Source
from gridtokenx.views.metrics import CallMetrics
from gridtokenx.views.status import BanStatus, NetworkStatus, PeerStatus
from tests.support.api_node import (
    BUYER,
    LOCATION,
    OPEN_API,
    SELLER,
    SELLER_METER,
    START_MS,
    MemoryNode,
    order,
    registration,
)

FILE = Path(__file__).parents[1] / "unit" / "api" / "golden.txt"
KEPT_CHARACTERS = 160
NOW_MS = START_MS + 86_400_000  # What the API's own clock shows.
SOLAR = {"kind": "parameter_change", "parameter": "carbon_credits.solar", "new_value": "0.7"}
SELLER_TEXT, BUYER_TEXT = format_address(SELLER.public_key), format_address(BUYER.public_key)
DEV = dev_key("dev")
DEV_TEXT = format_address(DEV.public_key)
STAKES = [dev_key(f"{validator_name(index)[1]} stake") for index in range(4)]
ORDER = {
    "order_type": "sell",
    "energy_amount": "1.5",
    "price_per_kwh": 4000,
    "energy_source": "solar",
    "grid_location": LOCATION,
}
BAD = ("zz", -1, [], True, 1.5, 10**30, "", "0" * 300, "คำ", ["zz"], {}, {"kind": "zz"})
"""Given for each parameter in turn."""

Wishes = Mapping[str, list[dict[str, Any]]]
"""Method -> sets of parameters that are good, or refused by a rule."""

Stage = tuple[str, MemoryNode, Callable[[], Wishes]]
Exchange = tuple[str, str]
"""(what is asked, what is answered), as in the file."""


# -- The worlds ------------------------------------------------------------------------------------


def market(folder: Path) -> Iterator[Stage]:
    """Two regions without a national chain; a local signer; peers and bans."""
    node = MemoryNode(
        folder,
        local_signer=SELLER,
        version="0.0",
        peer_list=(
            PeerStatus(
                "12D3KooWOne",
                ("/ip4/127.0.0.1/tcp/1",),
                direction="in",
                agent="gridtokenx/0.0",
                heights={"MET": 4, "NOR": 2},
                organisation="mea",
                node_id="mea-0",
                latency_ms=12,
                score=-3,
                offences={"late": 2},
                gossip={"total": 1.2345, "mesh": 1.0},
                links=("12D3KooWTwo", "12D3KooWTest"),
            ),
            PeerStatus("12D3KooWTwo"),
        ),
        network_status=NetworkStatus(
            listen=("/ip4/127.0.0.1/tcp/9000",),
            announced=("/ip4/127.0.0.2/tcp/9000",),
            nat_ip="127.0.0.2",
            inbound=1,
            outbound=1,
            known_peers=7,
            dial_outcomes={"refused": 2, "connected": 1},
            inbound_refused={"banned": 3},
            bans=(BanStatus("127.0.0.9", "flooding", START_MS, START_MS + 1000),),
        ),
    )
    try:
        yield "market before any block", node, dict
        node.populate()
        mark = node.current_slot() + 20
        resting = node.put(SELLER, order(Side.SELL, 1000, 4000, SELLER_METER, Source.SOLAR, mark))
        later = order(Side.SELL, 2000, 4100, SELLER_METER, Source.SOLAR, mark + 1)
        cancelled = node.put(SELLER, later)
        node.make_block()
        node.put(SELLER, CancelOrder(cancelled.id))
        node.make_block()
        waiting = node.put(SELLER, Transfer(BUYER.public_key, Asset.THB, 7))
        ids = [resting.id.hex(), cancelled.id.hex(), waiting.id.hex(), "00" * 32]
        yield "market with orders", node, lambda: _market_wishes(node, ids)
        sold, bought = node.trade()
        slot = sold.payload.first_slot
        while node.current_slot() <= slot:
            node.make_block()
        node.read_meters(slot, export_wh=2000, import_wh=1500)
        node.make_block()
        node.make_block()
        node.put(BUYER, RetireCredits(400_000, bytes(31) + b"\x01"))
        _live(node)
        ids = [sold.id.hex(), bought.id.hex()]
        yield "market with trades", node, lambda: _market_wishes(node, ids)
    finally:
        node.close()


def _live(node: MemoryNode) -> None:
    """A grid that is loaded, then halted; a meter suspended and exchanged, another one retired."""
    mea, second = operator_key("mea"), SigningKey(sha256(b"a second meter"))
    slot = node.current_slot()
    node.put(mea, PublishGridStatus(LOCATION, slot, 7325, 250_000, 50_000, 10_000))
    node.put(operator_key("erc"), HaltTerritory("BKK", "flood"))
    for command in (
        registration(SELLER, second, Generation.WIND),
        RetireMeter(second.public_key, 0, 0),
        SuspendMeter(SELLER_METER.public_key, "seal broken"),
        ReplaceMeter(
            SELLER_METER.public_key, SigningKey(sha256(b"another")).public_key, 11, 12, 13, 14
        ),
    ):
        node.put(mea, command)
    node.make_block()


def national(folder: Path) -> Iterator[Stage]:
    """The national chain and two of its regions: stake, votes, transfers, a new incarnation."""
    node = MemoryNode(folder, names=("TH", "MET", "NOR"), version="0.0")
    try:
        node.make_block("TH")
        node.put(DEV, Propose("More sun", "Why: because.", ParameterChange(*_SOLAR)), "TH")
        node.put(DEV, Propose("Flood", "", Emergency("BKK", "flood", 3_600_000)), "TH")
        node.put(DEV, Propose("Rotate", "", _rotation(node)), "TH")
        node.put(DEV, Bond(STAKES[0].public_key, 50 * GTX), "TH")
        node.make_block("TH")
        for key, choice in zip(STAKES, (Choice.YES, Choice.YES, Choice.NO), strict=False):
            node.put(key, Vote(1, choice), "TH")
        for name in ("egat", "mea", "erc"):
            node.put(operator_key(name), ApproveAsAuthority(2), "TH")
        node.put(DEV, Unbond(STAKES[0].public_key, 20 * GTX), "TH")
        node.put(DEV, Redelegate(STAKES[0].public_key, STAKES[1].public_key, 10 * GTX), "TH")
        node.make_block("TH")
        abroad = TransferAbroad("NOR", BUYER.public_key, Asset.GTX, 3 * GTX)
        sent = [node.put(DEV, abroad, "MET").id.hex()]
        yield "national with a vote", node, lambda: _national_wishes(node, sent)
        node.make_block("MET")
        node.relay("MET")
        yield "national with a transfer on its way", node, lambda: _national_wishes(node, sent)
        for _ in range(4):
            node.make_block("TH")
        node.make_block("NOR")
        for _ in range(2):
            node.put(DEV, TransferAbroad("TH", BUYER.public_key, Asset.GTX, GTX), "MET")
            node.make_block("MET")
            node.relay("MET")
        _begin_again(node)
        while node.make_block("NOR") < 90:
            pass
        node.relay("NOR")
        yield "national with a new incarnation", node, lambda: _national_wishes(node, sent)
    finally:
        node.close()


_SOLAR = ("carbon_credits.solar", "0.7")


def _rotation(node: MemoryNode) -> AuthorityManagement:
    name, key = validator_name(0)
    own = dev_key(key).public_key
    return AuthorityManagement("MET", AuthorityChange.ROTATE, name, own, bytes([7]) * 32, 0)


def _wish(node: MemoryNode) -> Reincarnation:
    """That MET goes on from its first checkpoint."""
    _, base = min(CHECKPOINTS.items(node.executors["TH"].store, b"MET\x00"))
    members = tuple(
        NewAuthority(name, dev_key(key).public_key, 1)
        for name, key in (validator_name(index) for index in range(4))
    )
    return Reincarnation("MET", 1, base.hash, members)


def _begin_again(node: MemoryNode) -> None:
    node.put(DEV, Propose("Go on", "", _wish(node)), "TH")
    node.make_block("TH")
    node.put(operator_key("erc"), ApproveAsAuthority(4), "TH")
    node.make_block("TH")
    for key in STAKES:
        node.put(key, Vote(4, Choice.YES), "TH")
    for _ in range(9):
        node.make_block("TH")


def silent(folder: Path) -> Iterator[Stage]:
    """A region that the national chain hears nothing of, so that what goes there comes back."""
    node = MemoryNode(folder, names=("TH", "MET", "NOR"), version="0.0")
    try:
        node.make_block("TH")
        abroad = TransferAbroad("NOR", BUYER.public_key, Asset.GTX, 3 * GTX)
        sent = [node.put(DEV, abroad, "MET").id.hex()]
        node.make_block("MET")
        node.relay("MET")
        followed = node.statuses.pop("NOR")
        yield "silent before anybody knows", node, lambda: _national_wishes(node, sent)
        sent.append(node.put(DEV, abroad, "MET").id.hex())
        node.make_block("MET")
        for _ in range(60):
            node.make_block("TH")
        node.relay("MET")
        yield "silent with a return on its way", node, lambda: _national_wishes(node, sent)
        node.make_block("MET")
        node.statuses = {**node.statuses, "NOR": followed}
        for value in ("0.7", "0.8"):
            change = ParameterChange(_SOLAR[0], value)
            node.put(DEV, Propose("More sun", "ขอแดดอีกนิด", change), "TH")
        node.make_block("TH")
        yield "silent with a return", node, lambda: {
            **_national_wishes(node, sent),
            "gov_getProposals": [{"limit": 1, "cursor": "AAAAAAAAAAE="}, {"status": "voting"}],
            "stake_getValidators": [_second_page(node, "stake_getValidators", limit=3)],
            "shard_getReceipts": [{"address": DEV_TEXT, "chain": "MET", "limit": 1},
                                  {"address": DEV_TEXT, "id": sent[0]}],
        }  # fmt: skip
    finally:
        node.close()


def _second_page(node: MemoryNode, method: str, **params: Any) -> dict[str, Any]:
    return {**params, "cursor": _answer_to(node, method, **params)["next_cursor"]}


WORLDS = {"market": market, "national": national, "silent": silent}


# -- What is asked ---------------------------------------------------------------------------------


def _market_wishes(node: MemoryNode, ids: list[str]) -> Wishes:
    waiting = node.sign(BUYER, Transfer(SELLER.public_key, Asset.THB, 1))
    poor = node.sign(BUYER, Transfer(SELLER.public_key, Asset.GTX, 10**15))
    sent, refused = waiting.encoded.hex(), poor.encoded.hex()
    places = [{"zone": "BKK-01"}, {"zone": "BKK-77"}, {"zone": "BKK-01", "slot": 1_963_584}]
    by_id = [{"id": one} for one in ids]
    accounts = [{"address": SELLER_TEXT}, {"address": BUYER_TEXT, "chain": "MET"}]
    stranger = [{"address": format_address(bytes(32))}]
    trades = _answer_to(node, "energy_getTrades")["items"]
    first = _answer_to(node, "account_getHistory", address=SELLER_TEXT, limit=1)
    buying = {**ORDER, "order_type": "buy", "price_per_kwh": "6000", "energy_source": "any"}
    return {
        "chain_getHead": [{"chain": "NOR"}, {"chain": "NEA"}, {"chain": "XYZ"}],
        "chain_getBlock": [{"block": 2, "full": True}, {"block": "1"}, {"block": 99},
                           {"block": "00" * 32}, {"block": 1, "full": True, "offset": 2}],
        "chain_getFinality": [{"block": "1"}, {"block": 0}],
        "chain_getRawBlocks": [{"from_height": 1, "limit": 2}, {"from_height": 999}],
        "tx_send": [{"transaction": refused}, {"transaction": "00"}, {"transaction": sent}],
        "tx_sendBatch": [{"transactions": [refused, "00"]}],
        "tx_get": [*by_id, {"id": poor.id.hex()}],
        "tx_getStatus": [{"id": "0x" + ids[0]}, *by_id, {"id": poor.id.hex()}],
        "tx_getStatuses": [{"ids": [*ids, poor.id.hex()]}],
        "tx_decode": [{"transaction": sent}],
        "energy_getOrders": [{"trader": SELLER_TEXT, "status": "all"}, {"limit": 1},
                             {"zone": "BKK-01", "side": "sell", "source": "solar"},
                             {"status": "closed"}, {"trader": SELLER_TEXT, "status": "closed"}],
        "energy_getOrder": by_id,
        "energy_getOrderBook": [{"zone": "BKK"}, {"zone": LOCATION, "depth": 1},
                                {"zone": "BKK", "slot": 1_963_604}, {"zone": "XYZ"}],
        "energy_getTrades": [{"trader": BUYER_TEXT}, {"limit": 1, "chain": "NOR"}],
        "energy_getTrade": [{"id": one["trade_id"]} for one in trades] + [{"id": "00" * 32}],
        "energy_getStats": [{"chain": "MET"}, {"window_slots": 2}],
        "energy_getMarket": [{"zone": "BKK"}, {"chain": "NOR"}],
        "energy_prepareOrder": [{**ORDER, "trader": SELLER_TEXT}, {**buying, "trader": BUYER_TEXT},
                                {**ORDER, "trader": BUYER_TEXT}],
        "energy_quote": [ORDER, buying, {**ORDER, "price_per_kwh": 999},
                         {**buying, "trader": BUYER_TEXT}, {**ORDER, "energy_source": "any"},
                         {**buying, "slot": 1_963_600, "vat_registered": True},
                         {**buying, "meter_id": "00" * 32}],
        "energy_getMeterReadings": [*accounts, _signed(node, SELLER, limit="1"),
                                    _signed(node, operator_key("erc"), chain="MET"),
                                    _signed(node, BUYER), _signed(node, SELLER, NOW_MS - 99_999)],
        "energy_getCarbon": accounts,
        "energy_getCertificate": [{"id": "MET-1"}, {"id": "MET-9"}],
        "audit_getReports": [{"territory": "mea", "day": "2026-01-01"}, {"territory": "BKK"},
                             {"territory": "XYZ"}, {"territory": "BKK", "day": "2025-12-01"}],
        "grid_getStatus": [{"chain": "MET", "slot": 1_963_584}],
        "grid_getZones": [{"chain": "MET"}],
        "grid_getZone": places,
        "grid_getMeter": [{"id": SELLER_METER.public_key.hex()}, {"id": "00" * 32}],
        "account_get": accounts + stranger,
        "account_getBalance": accounts + stranger,
        "account_getNonce": [*accounts, {"address": SELLER_TEXT, "pending": False}],
        "account_getHistory": [*accounts, {"address": SELLER_TEXT, "limit": 1,
                                           "cursor": first["next_cursor"]}],
        "account_getProof": [*accounts, *stranger, {"address": SELLER_TEXT, "since": 99}],
        "energy_submitOrder": [ORDER],
    }  # fmt: skip


def _national_wishes(node: MemoryNode, ids: list[str]) -> Wishes:
    accounts = [{"address": DEV_TEXT}, {"address": BUYER_TEXT, "chain": "NOR"}]
    numbers = [{"id": one} for one in (1, "2", 3, 4, 9)]
    shards = [{"id": one} for one in ("MET", "NOR", "NEA", "TH", "XYZ")]
    dry = [SOLAR, {**SOLAR, "parameter": "carbon_credit.solar"}, {**SOLAR, "new_value": "7"},
           {**SOLAR, "kind": "nonsense"}, {**SOLAR, "extra": 1},
           {**SOLAR, "parameter": "market.max_trade_tier", "new_value": "3"},
           to_document(Emergency("BKK", "flood", 3_600_000))]  # fmt: skip
    if any(True for _ in CHECKPOINTS.items(node.executors["TH"].store, b"MET\x00")):
        dry.append(to_document(_wish(node), text_integers=True))
    poor = {"content": SOLAR, "proposer": BUYER_TEXT}
    return {
        "gov_getProposals": [{"limit": 1}, {"status": "executed"}],
        "gov_getProposal": numbers,
        "gov_getTally": numbers,
        "gov_getVotes": [*numbers, {"id": 1, "limit": 1}, {"id": 1, "cursor": "AAAA"}],
        "gov_getParams": [{"chain": "MET"}, {"name": "governance.quorum"}, {"name": "nothing"}],
        "gov_simulateProposal": [*({"content": one} for one in dry), poor,
                                 {"content": SOLAR, "proposer": DEV_TEXT, "title": "Sun"}],
        "stake_getValidators": [{"limit": 2}],
        "stake_getValidator": [{"operator": format_address(STAKES[0].public_key)},
                               {"operator": BUYER_TEXT}],
        "stake_getDelegations": [*accounts[:1], {"address": BUYER_TEXT}],
        "shard_get": shards,
        "shard_getCheckpoints": [*shards, {"id": "MET", "limit": 1},
                                 {"id": "MET", "cursor": "eHg="}],
        "shard_getSettlements": [{"shard": "NOR", "limit": 1}, {"day": "2026-01-01"},
                                 {"shard": "XYZ"}],
        "shard_getTransfer": [{"id": one} for one in (*ids, "00" * 32)],
        "shard_getReceipts": [{"id": ids[0]}, {"address": BUYER_TEXT, "chain": "NOR"}],
        "shard_getProof": [*shards, {"id": "MET", "since": 2}],
        "chain_getBlock": [{"block": 3, "chain": "TH", "full": True}],
        "chain_getValidators": [{"chain": "TH"}],
        "chain_getSupply": [{"chain": "TH"}, {"chain": "MET"}],
        "account_get": accounts,
        "account_getNonce": [{"address": DEV_TEXT, "chain": "MET"}],
        "account_getHistory": [{"address": DEV_TEXT, "chain": "TH"}, *accounts],
    }  # fmt: skip


def _signed(
    node: MemoryNode, key: SigningKey, signed_ms: int = NOW_MS, **params: str
) -> dict[str, Any]:
    given = {"address": SELLER_TEXT, "limit": "50", **params}
    message = request_bytes(node.genesis.hash, "energy_getMeterReadings", given, signed_ms)
    return {
        **given,
        "signer": format_address(key.public_key),
        "signed_ms": signed_ms,
        "signature": key.sign(message).hex(),
    }


def requests(wishes: Wishes, *, with_bad: bool) -> Iterator[str]:
    """Each method without parameters, with those wished for, and with bad ones in turn."""
    for method in METHODS:
        if method.name == "rpc.discover":
            continue  # The schema is held against files of its own.
        wished = wishes.get(method.name, [])
        for params in [{}, *wished] if wished or not with_bad else [{}]:
            yield from _doors(method, params)
        if with_bad:
            for params in _bad(method, wished[0] if wished else {}):
                yield _by_rpc(method, params)


def _bad(method: Method, good: dict[str, Any]) -> Iterator[dict[str, Any] | list[Any]]:
    names = [param.name for param in method.params]
    yield {**good, "nonsense": 1}
    yield [1] * (len(names) + 1)
    for name in names:
        for value in BAD[:3] if name in ("chain", "limit", "cursor") else BAD:
            yield {**good, name: value}


def _by_rpc(method: Method, params: dict[str, Any] | list[Any]) -> str:
    body = {"jsonrpc": "2.0", "id": 1, "method": method.name, "params": params}
    return "POST /rpc " + json.dumps(body)


def _doors(method: Method, params: dict[str, Any]) -> Iterator[str]:
    yield _by_rpc(method, params)
    for route in method.routes:
        shown_as = {own: shown for shown, own in route.renames.items()}
        given = {shown_as.get(name, name): value for name, value in params.items()}
        if route.verb == "POST":
            yield f"POST {route.path} {json.dumps(given)}"
            continue
        texts = {name: str(value) for name, value in given.items() if type(value) in (int, str)}
        path = route.path
        for name in [one for one in texts if "{" + one + "}" in path]:
            path = path.replace("{" + name + "}", texts.pop(name) or "-")
        if "{" not in path:
            yield f"GET {path}?{urlencode(texts)}"


# -- Asking ----------------------------------------------------------------------------------------


@contextmanager
def asking(node: MemoryNode) -> Iterator[Callable[[str], str]]:
    """A function from what is asked to what is answered, as in the file."""
    metrics = CallMetrics(node.metrics)
    calls = Calls(Context(node), OPEN_API, metrics)
    own_time = access.time
    access.time = SimpleNamespace(time_ns=lambda: NOW_MS * 1_000_000)
    try:
        yield lambda line: _told(asyncio.run(_ask(calls, line)))
    finally:
        access.time = own_time
        metrics.close()


async def _ask(calls: Calls, line: str) -> Reply:
    verb, target, *rest_of_it = line.split(" ", 2)
    body, url = "".join(rest_of_it).encode(), urlsplit(target)
    bill = Bill(Limiter(10**6, lambda: 0.0), "test")
    if target == "/rpc":
        return await jsonrpc.handle(calls, body, bill)
    query = parse_qsl(url.query, keep_blank_values=True)
    return await rest.handle(calls, verb, url.path, query, body, bill)


def _told(reply: Reply) -> str:
    return f"{reply.status} {reply.body.decode()}"


def _answer_to(node: MemoryNode, method: str, **params: Any) -> Any:
    body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
    with asking(node) as ask:
        return json.loads(ask("POST /rpc " + json.dumps(body)).split(" ", 1)[1])["result"]


def record() -> dict[str, list[Exchange]]:
    """Stage -> exchanges, of all worlds."""
    found: dict[str, list[Exchange]] = {}
    for world in WORLDS.values():
        with tempfile.TemporaryDirectory() as folder:
            for name, node, wishes in world(Path(folder)):
                wished = wishes()
                lines = list(dict.fromkeys(requests(wished, with_bad="trades" in name)))
                with asking(node) as ask:
                    found[name] = [(line, shortened(ask(line))) for line in lines]
    return found


def shortened(told: str) -> str:
    """An answer as it is kept: of a long one the beginning, its length and its hash."""
    if len(told) <= KEPT_CHARACTERS:
        return told
    digest = hashlib.sha256(told.encode()).hexdigest()[:16]
    return f"{told[:KEPT_CHARACTERS]}... {len(told)} {digest}"


def dump(found: Mapping[str, list[Exchange]]) -> str:
    """The text of the file: `# stage`, then of each exchange two lines, `>` asked and `<` told."""
    lines = []
    for name, exchanges in found.items():
        lines.append(f"# {name}")
        for asked, told in exchanges:
            lines += [f"> {asked}", f"< {told}"]
    return "\n".join(lines) + "\n"


def load() -> dict[str, list[Exchange]]:
    """Stage -> exchanges, of the file."""
    found: dict[str, list[Exchange]] = {}
    lines = iter(FILE.read_text(encoding="utf-8").splitlines())
    for line in lines:
        if line.startswith("# "):
            exchanges = found.setdefault(line[2:], [])
        else:
            exchanges.append((line[2:], next(lines)[2:]))
    return found


if __name__ == "__main__":
    FILE.write_text(dump(record()), encoding="utf-8")
