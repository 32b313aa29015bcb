"""A trader who asks a real node why his order did not trade: its blocks are executed again here."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import pytest

from gridtokenx.chain.genesis import BlockClock
from gridtokenx.client import Client
from gridtokenx.cluster import devnet
from gridtokenx.cluster.devnet import dev_key
from gridtokenx.home import keystore
from gridtokenx.primitives.quantities import SLOT_MS
from gridtokenx.runtime import private_files
from tests.integration.test_cli import CHAIN, LOCATION, NAMES, PASSWORD, Desk, register
from tests.support import live_cluster

BLOCKS_PER_SLOT = 3  # So that a gate closes while one waits.
SLOTS_AHEAD = 8


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    home = tmp_path_factory.mktemp("desk") / "home"
    home.mkdir()
    private_files.write_private(home / "password", f"{PASSWORD}\n")
    for name in NAMES:
        seed = dev_key(name).seed
        keystore.create(home / "keys", name, "account", PASSWORD, seed, development=True)
    start_ms = time.time_ns() // 1_000_000 // SLOT_MS * SLOT_MS
    clock = BlockClock(start_ms, SLOT_MS // BLOCKS_PER_SLOT)
    # Votes run by market time as well: theirs are as long as such a clock needs.
    block_ms = live_cluster.BLOCK_TIME_MS
    national = devnet.local_genesis(clock=clock, block_time_ms=block_ms).national
    folder, changes = home / "clusters" / "clearing", {"market_clock": clock, "national": national}
    with live_cluster.running(folder, CHAIN, observers=0, **changes) as cluster:
        url = cluster.members[0].api_url
        with Client(url) as client:
            register(client)
        yield Desk(home, url)


def place(desk: Desk, name: str, side: str, kwh: str, price: str, slot: int) -> str:
    words = ("orders", "place", "--side", side, "--kwh", kwh, "--price", price)
    placed = desk.sign(name, *words, "--location", LOCATION, "--slot", slot)
    order_id: str = placed["order_id"]
    return order_id


def test_a_slot_of_a_running_network_is_recomputed_and_explained(desk: Desk) -> None:
    with Client(desk.url) as client:
        slot = client.market(CHAIN).first_open_slot + SLOTS_AHEAD
        sold = place(desk, "cli-seller", "sell", "2", "4", slot)
        bought = place(desk, "cli-buyer", "buy", "1.5", "6", slot)
        cheap = place(desk, "cli-buyer", "buy", "0.5", "4.1", slot)
        words = ("trade", "clear", "--slot", slot, "--region", CHAIN)
        early = desk.run("--json", *words)
        assert early.exit_code == 75
        assert json.loads(early.stdout)["error"]["reason"] == "slot_not_cleared"
        live_cluster.wait_until("the slot began", lambda: client.market(CHAIN).current_slot >= slot)
        listed = client.trades(trader=None, chain=CHAIN).items
    document = desk.ask(*words)
    assert (document["verified"], document["differences"]) == (True, [])
    told = [(one["trade_id"], one["energy_wh"], one["price_mthb"]) for one in document["trades"]]
    assert told == [(one.trade_id.hex(), str(one.energy_wh), str(one.price_mthb)) for one in listed]
    assert [one[1:] for one in told] == [("1500", "4000")]
    order = desk.ask(*words, "--order", cheap)["order"]
    assert (order["reason"], order["status"]) == ("price", "expired")
    assert order["clearing"]["remedy"]["limit_mthb"] == "4300"
    assert desk.ask(*words, "--order", bought)["order"]["reason"] == "traded"
    text = desk.shown(*words, "--order", sold)
    assert f"met order {bought}, 1.500 kWh of solar at 4.000 THB/kWh" in text
    unknown = desk.run("--json", *words, "--order", "ab" * 32)
    assert json.loads(unknown.stdout)["error"]["reason"] == "order_not_found"
