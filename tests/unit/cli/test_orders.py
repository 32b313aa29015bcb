"""`orders`: what is signed follows from what was asked, and mistakes are told before anything."""

import json
from pathlib import Path

import pytest
import typer

from gridtokenx.answers.chain import NodeStatus
from gridtokenx.cli.order_terms import Market, Window, Wish, parse_duration_ms, terms_of
from gridtokenx.cli.output import ExitCode
from gridtokenx.primitives.errors import ErrorCode, Rejected
from gridtokenx.primitives.quantities import SLOT_MS, slot_at, slot_start_ms
from gridtokenx.primitives.types import format_address
from gridtokenx.trading.model import Side, Source, TimeInForce
from tests.support.answers import whole

NOON_MS = 1_795_410_000_000  # 2026-11-23 12:00 in Bangkok
NOON = slot_at(NOON_MS)
MARKET = Market(now_ms=NOON_MS + 60_000, block_ms=1000, open_slots=96)
ROOF = {
    "kind": "meter",
    "meter_id": "aa" * 32,
    "owner": format_address(bytes(32)),
    "location": "BKK-01-SUB001",
    "source": "solar",
    "nameplate_import_w": "40000",
    "nameplate_export_w": "8000",
    "prosumer_class": "residential",
    "first_slot": "7",
    "import_wh_cum": None,
    "export_wh_cum": None,
    "key": "ab" * 32,
    "status": "active",
    "suspended_by": "",
    "restart_slot": "0",
}
MILL = {**ROOF, "meter_id": "bb" * 32, "source": "wind"}
HOME = {**ROOF, "meter_id": "cc" * 32, "location": "BKK-01-SUB002", "source": "none"}
HOME["nameplate_export_w"] = "0"
DEAD = {**ROOF, "meter_id": "00" * 32, "status": "retired"}
NOWHERE = "http://127.0.0.1:9"  # the discard port: nobody answers


def wish(**changes: object) -> Wish:
    asked = {
        "side": Side.SELL,
        "energy_wh": 100_000,
        "limit_mthb": 5000,
        "source": Source.SOLAR,
        "location": "BKK-01-SUB001",
        "window": Window(),
    }
    return Wish(**{**asked, **changes})


@pytest.mark.parametrize(
    ("window", "first", "last"),
    [
        (Window(), NOON + 1, NOON + 96),
        (Window(expires="7d"), NOON + 1, NOON + 96),
        (Window(expires="1h"), NOON + 1, NOON + 4),
        (Window(slot=NOON + 9), NOON + 9, NOON + 9),
        (Window(begin="13:00", end="14:30"), NOON + 4, NOON + 9),
        (Window(begin="23:45", end="00:15"), NOON + 47, NOON + 48),
        (Window(begin="08:00", end="2026-11-24T08:15"), NOON + 80, NOON + 80),
        (Window(begin="2026-11-23T13:00", end="2026-11-23 14:00"), NOON + 4, NOON + 7),
        (Window(begin="2026-11-23T06:00Z", end="13:15"), NOON + 4, NOON + 4),
        (Window(end="12:45"), NOON + 1, NOON + 2),
    ],
)
def test_the_slots_of_an_order(window: Window, first: int, last: int) -> None:
    found_first, found_last, expires_ms = window.resolve(MARKET)
    assert (found_first, found_last) == (first, last)
    assert expires_ms == MARKET.now_ms + parse_duration_ms(window.expires)


def test_a_slot_that_closes_before_the_order_can_be_in_a_block_is_left_out() -> None:
    last_second = Market(slot_start_ms(NOON + 1) - 1500, 1000, 96)
    assert Window().resolve(last_second)[0] == NOON + 2
    by_blocks = Market(NOON_MS, SLOT_MS, 96)
    assert Window().resolve(by_blocks)[:2] == (NOON + 3, NOON + 95)


@pytest.mark.parametrize(
    "window",
    [
        Window(slot=NOON + 1, begin="13:00"),
        Window(begin="13:05"),
        Window(begin="25:00"),
        Window(begin="tomorrow"),
        Window(expires="24"),
        Window(expires="0h"),
        Window(expires="31d"),
    ],
)
def test_times_that_mean_nothing_are_usage_errors(window: Window) -> None:
    with pytest.raises(typer.BadParameter):
        window.resolve(MARKET)


@pytest.mark.parametrize(
    "window",
    [Window(begin="14:00", end="2026-11-23T13:00"), Window(expires="5m")],
)
def test_a_time_without_a_slot_is_refused(window: Window) -> None:
    with pytest.raises(Rejected) as refused:
        window.resolve(MARKET)
    assert refused.value.code is ErrorCode.INTERVAL_CLOSED


def test_the_meter_and_its_limit_are_looked_up() -> None:
    terms = terms_of(wish(), MARKET, [HOME, MILL, ROOF])
    assert terms.meter_id == bytes.fromhex("aa" * 32)
    assert terms.max_wh_per_slot == 2000  # 8 kW for a quarter of an hour
    assert terms.time_in_force is TimeInForce.GOOD_TILL_CANCELLED
    bought = terms_of(wish(side=Side.BUY, energy_wh=500, source=Source.ANY), MARKET, [HOME, MILL])
    assert terms_of(wish(), MARKET, [DEAD, ROOF]).meter_id == bytes.fromhex("aa" * 32)
    assert (bought.meter_id, bought.max_wh_per_slot) == (bytes.fromhex("bb" * 32), 500)
    chosen = wish(meter_id=bytes.fromhex("bb" * 32), max_wh_per_slot=300, immediate=True)
    terms = terms_of(chosen, MARKET, [ROOF, MILL])
    assert (terms.meter_id, terms.max_wh_per_slot) == (bytes.fromhex("bb" * 32), 300)
    assert terms.time_in_force is TimeInForce.IMMEDIATE_OR_CANCEL


def test_a_seller_who_names_no_source_sells_what_the_plant_makes() -> None:
    assert terms_of(wish(source=Source.ANY), MARKET, [HOME, MILL]).source is Source.WIND
    assert terms_of(wish(source=Source.COAL), MARKET, [HOME, MILL]).source is Source.COAL
    consumer = wish(source=Source.ANY, location="BKK-01-SUB002")
    assert terms_of(consumer, MARKET, [HOME]).source is Source.ANY  # for the chain to refuse
    buyer = wish(side=Side.BUY, source=Source.ANY)
    assert terms_of(buyer, MARKET, [ROOF]).source is Source.ANY


def test_a_meter_that_is_not_the_accounts_is_refused_unless_it_may_just_not_be_listed() -> None:
    for asked in (wish(location="BKK-01-SUB009"), wish(meter_id=bytes(32))):
        with pytest.raises(Rejected) as refused:
            terms_of(asked, MARKET, [ROOF, HOME])
        assert refused.value.code is ErrorCode.UNKNOWN_METER
    unlisted = wish(meter_id=bytes(32), max_wh_per_slot=100)
    assert terms_of(unlisted, MARKET, [ROOF], unlisted=1).meter_id == bytes(32)


def test_which_of_several_meters_is_asked_for_not_guessed() -> None:
    anything = wish(source=Source.ANY)
    for asked, listed, unlisted, code, told in (
        (anything, [DEAD, ROOF, MILL], 0, ErrorCode.METER_NOT_NAMED, "aa" * 32),
        (wish(side=Side.BUY), [ROOF, MILL], 0, ErrorCode.METER_NOT_NAMED, "bb" * 32),
        (anything, [ROOF], 3, ErrorCode.METER_NOT_NAMED, "has 4 meters"),
        (anything, [DEAD], 0, ErrorCode.NOT_ACTIVE, "retired"),
        (wish(meter_id=bytes(32)), [DEAD, ROOF], 0, ErrorCode.NOT_ACTIVE, "retired"),
    ):
        with pytest.raises(Rejected) as refused:
            terms_of(asked, MARKET, listed, unlisted)
        assert refused.value.code is code
        assert told in refused.value.detail
    lie = {**ROOF, "status": "great"}
    with pytest.raises(Rejected) as refused:
        terms_of(anything, MARKET, [lie])
    assert refused.value.code is ErrorCode.OUT_OF_RANGE


def place(**changes: str) -> list[str]:
    given = {
        "side": "sell",
        "kwh": "100",
        "price": "5.00",
        "source": "solar",
        "location": "BKK-01-SUB001",
        "key": "me",
    }
    options = {**given, **changes}
    return ["orders", "place", *(word for name in options for word in (f"--{name}", options[name]))]


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (place(side="hold"), 2, "buy or sell, not 'hold'"),
        (place(source="magic"), 2, "one of any, renewable, solar"),
        (place(location="Bangkok"), 2, "a substation such as BKK-01-SUB001"),
        (place(kwh="1.0005"), 1, "at most 3 decimals"),
        (place(kwh="lots"), 1, "must be a number"),
        (place(price="-1"), 1, "must not be negative"),
        (place(price="5.00001"), 1, "at most 3 decimals"),
        (place(expires="soon"), 2, "a time such as 90m, 24h or 7d"),
        (place(meter="ab"), 2, "a meter id is 64 hex digits"),
        (place(key="nobody"), 1, "there is no key file"),
        (["orders", "cancel", "12", "--key", "me"], 2, "an order id is 64 hex digits"),
        (["orders", "get", "12"], 2, "an order id is 64 hex digits"),
        (["orders", "list", "--trader", "gtx1q"], 65, "an address has 62 characters"),
        (["orders", "book"], 2, "gridtokenx orders book --zone BKK-01"),
        (["orders", "book", "BKK-01", "--zone", "BKK-02"], 2, "one zone"),
        (["orders", "book", "B"], 2, "a territory, zone or substation"),
    ],
)
def test_mistakes_are_told_without_asking_a_node(run, words, code: int, told: str) -> None:
    ran = run("--rpc", NOWHERE, "--json", *words)
    assert ran.code == code, ran.stderr
    assert told in ran.document["error"]["message"]


@pytest.mark.parametrize("kind", ["node", "validator", "meter"])
def test_only_an_account_key_signs_orders(run, fast_keys, password_file, kind: str) -> None:
    run("keys", "new", "me", "--kind", kind, "--password-file", password_file)
    ran = run("--rpc", NOWHERE, *place())
    assert ran.code == ExitCode.USAGE
    assert f"me is a {kind} key; only an account key signs" in ran.stderr


def test_an_absent_node_is_told_before_a_password_is_asked_for(
    run, fast_keys, password_file
) -> None:
    run("keys", "new", "me", "--password-file", password_file)
    ran = run("--rpc", NOWHERE, *place())
    assert ran.code == ExitCode.UNREACHABLE
    assert f"no node answers at {NOWHERE}" in ran.stderr


def test_a_node_of_another_network_is_refused(
    run, home: Path, fast_keys, password_file, canned_node
) -> None:
    from gridtokenx.chain.genesis import format_genesis
    from gridtokenx.cluster.devnet import local_genesis

    run("keys", "new", "me", "--password-file", password_file)
    (home / "genesis.json").write_text(format_genesis(local_genesis()))
    theirs = {"name": "elsewhere", "id": 7, "genesis_hash": "ab" * 32}
    canned_node.results["chain_getStatus"] = whole(NodeStatus, network=theirs)
    ran = run("--rpc", canned_node.url, *place())
    assert ran.code == ExitCode.CONFIG
    ours = local_genesis().hash.hex()
    assert f"theirs {'ab' * 32} (elsewhere), ours {ours} (gridtokenx-local)" in ran.stderr


def test_a_refused_order_has_its_code_reason_and_a_hint_in_commands(run, canned_node) -> None:
    hint = "energy_getMarket tells the open slots"
    canned_node.refuse("energy_getOrders", 3008, "interval_closed", hint=hint)
    ran = run("--rpc", canned_node.url, "orders", "list")
    assert ran.code == ExitCode.REFUSED
    assert ran.stderr.splitlines() == [
        "error [3008/interval_closed]: because of interval_closed",
        "hint: gridtokenx orders market tells the open slots",
    ]
    canned_node.refuse("energy_getOrders", 2007, "mempool_full", retryable=True)
    ran = run("--rpc", canned_node.url, "orders", "list", "--json")
    assert ran.code == ExitCode.RETRY_LATER
    assert ran.document["error"]["retryable"] is True


def test_the_hint_names_the_commands_that_exist(run) -> None:
    from gridtokenx.cli.remote import COMMAND_OF_METHOD

    for command in COMMAND_OF_METHOD.values():
        assert run(*command.split()[1:], "--help").code == 0


def test_an_empty_book_is_one_line(run, canned_node) -> None:
    canned_node.results["energy_getOrderBook"] = {
        "zone": "BKK-01",
        "chain": "MET",
        "height": "5",
        "slot": None,
        "bids": [],
        "asks": [],
    }
    ran = run("--rpc", canned_node.url, "orders", "book", "bkk-01")
    assert ran.stdout == "BKK-01 on MET at block 5: no open orders\n"
    assert json.dumps(canned_node.asked[0]["params"]) == '{"zone": "BKK-01", "depth": 10}'
