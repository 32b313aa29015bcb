"""The day's player against the real rules, mempool and store of each chain, without consensus:
every transaction it sends is good, all of it settles, and two runs are equal to the unit."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import fields, replace
from types import SimpleNamespace

import pytest

from gridtokenx.answers.chain import DepositTotals
from gridtokenx.api.context import Context
from gridtokenx.api.methods import METHOD_BY_NAME
from gridtokenx.api.methods.energy import StatsParameters
from gridtokenx.chain.transaction import sign_transaction
from gridtokenx.client import Client, NodeUnreachable, RpcError
from gridtokenx.cluster.devnet import operator_key
from gridtokenx.consensus.messages import IndexedSignature, Phase, QuorumCertificate
from gridtokenx.demo.day import (
    AWAY_SLOTS,
    DEADLINE_SLOTS,
    READING_DELAY_SLOTS,
    SETUP_BLOCKS,
    DayError,
    Region,
    RegionPlayer,
    chain_totals,
    day_genesis,
)
from gridtokenx.demo.profile import TRANSFORMER, load_profile, transformer_loading_bps
from gridtokenx.demo.sending import Refused, Sender
from gridtokenx.grid.model import PublishGridStatus
from gridtokenx.ledger.model import ACCOUNTS, SUPPLY
from gridtokenx.ledger.rules import deposits
from gridtokenx.node.executor import Executor
from gridtokenx.primitives.errors import Rejected
from gridtokenx.storage.database import Database
from tests.support.api_node import MemoryNode

PROFILE = load_profile()
SLOTS = PROFILE.slots(44, 6)


class OneNode:
    """A chain with its mempool and store; `certify` makes a block of what waits."""

    url = "memory"

    def __init__(self, executor):
        self.executor = executor

    def send_many(self, transactions):
        verdicts, _ = self.executor.pending.admit(transactions, heard=False)
        return [self._error(verdict) for verdict in verdicts]

    def supply(self, chain):
        total = deposits(self.executor.store).total_uthb
        return SimpleNamespace(deposits=DepositTotals(total_uthb=total, stated_uthb=total))

    def wait_for(self, transaction_ids, timeout_s):
        self.certify()

    def close(self):
        pass

    def transaction_status(self, transaction_id):
        in_block = self.executor.store.place_of(bytes.fromhex(transaction_id)) is not None
        return SimpleNamespace(status="finalized" if in_block else "pending")

    def certify(self):
        header = self.executor.build(0, 0).header
        signature = IndexedSignature(0, bytes(64))
        certificate = QuorumCertificate(Phase.COMMIT, header.height, 0, header.hash, (signature,))
        self.executor.commit(header.hash, certificate)

    @staticmethod
    def _error(verdict):
        if verdict is None:
            return None
        assert isinstance(verdict, Rejected)
        return RpcError(verdict.code, verdict.code.reason, verdict.detail)


@contextmanager
def one_node(path, chain, started_ms):
    genesis = day_genesis(SLOTS, authorities=4, block_time_ms=1000, now_ms=started_ms)
    database = Database(path)
    try:
        times = iter(range(started_ms, started_ms + 10**9, 1000))
        yield OneNode(Executor(genesis.chain(chain), database.chain(chain), lambda: next(times)))
    finally:
        database.close()


BLOCKS = SETUP_BLOCKS + AWAY_SLOTS + DEADLINE_SLOTS  # Nothing is open after them.


def play(node):
    spec = node.executor.spec
    region = Region(spec.name, next_order=SLOTS.start, next_reading=SLOTS.start)
    player = RegionPlayer(PROFILE, SLOTS, spec, [Sender([node]), Sender([node])])
    player.set_up()
    while region.height < BLOCKS:
        node.certify()
        parent = node.executor.tip.parent
        region.height = parent.height
        region.market_ms = spec.market_time_ms(parent.height, parent.time_ms)
        player.play(region)
    return player, region, node.executor.tip.totals


@pytest.mark.parametrize("chain", ["MET", "NOR", "NEA"])
def test_every_slot_is_traded_and_settled_and_nothing_is_lost(tmp_path, chain):
    with one_node(tmp_path, chain, 1_700_000_000_000) as node:
        player, region, totals = play(node)
        accounts = [account for _, account in ACCOUNTS.items(node.executor.store)]
        supply = SUPPLY.get(node.executor.store, b"")
    assert region.next_order == region.next_reading == SLOTS.stop
    assert totals.readings == (1 + len(SLOTS)) * len(player.traders)
    assert not player.has_waiting
    assert totals.trades == totals.trades_settled > 0
    assert totals.traded_wh == totals.delivered_wh + totals.shortfall_wh
    assert sum(one.escrow_uthb + one.bond_uthb for one in accounts) == 0
    assert sum(one.thb_uthb for one in accounts) == supply.thb_uthb == totals.deposited_uthb
    held_wh = sum(one.energy_wh + one.energy_held_wh for one in accounts)
    assert held_wh == totals.minted_wh - totals.consumed_wh
    assert set(player.refusals) == {f"{chain} forged reading", f"{chain} unregistered seller"}


def test_two_runs_at_different_times_are_equal_to_the_unit(tmp_path):
    results = []
    for number, started_ms in enumerate((1_700_000_000_000, 1_800_000_012_345)):
        with one_node(tmp_path / str(number), "MET", started_ms) as node:
            results.append(play(node)[2])
    assert results[0] == results[1]


def test_orders_that_come_after_their_gate_end_the_day_with_the_reason(tmp_path):
    with one_node(tmp_path, "NOR", 1_700_000_000_000) as node:
        spec = node.executor.spec
        player = RegionPlayer(PROFILE, SLOTS, spec, [Sender([node]), Sender([node])])
        player.set_up()
        late = Region("NOR", next_order=SLOTS.start, next_reading=SLOTS.start)
        late.height = SETUP_BLOCKS
        late.market_ms = spec.market_time_ms(SETUP_BLOCKS, 0)
        with pytest.raises(DayError, match=f"gate of slot {SLOTS.start} at block {SETUP_BLOCKS}"):
            player.play(late)


class Dying(OneNode):
    """A node that admits one batch, tells nobody, and is gone."""

    def __init__(self):
        self.batches = 0

    def send_many(self, transactions):
        self.batches += 1
        if self.batches == 1:
            return [None] * len(transactions)
        raise NodeUnreachable(self.url, "gone")


def registrations(spec):
    key = operator_key("pea")
    traders = [each for each in PROFILE.traders if each.location.startswith("CNX")]
    return [
        sign_transaction(key, spec.chain_id, nonce, trader.registration())
        for nonce, trader in enumerate(traders)
    ]


def test_what_only_a_dead_node_knew_reaches_the_next_one(tmp_path):
    with one_node(tmp_path, "NOR", 1_700_000_000_000) as node:
        first, *rest = registrations(node.executor.spec)
        sender = Sender([Dying(), node])
        sender.send([first])
        sender.send(rest)
        assert sender.client is node
        assert len(node.executor.pending) == 1 + len(rest)
        sender.send([first])  # A duplicate is no refusal.
        with pytest.raises(Refused, match="nonce_gap"):
            sender.send([replace(rest[-1], nonce=99)])


def test_a_network_without_a_living_node_is_told(tmp_path):
    with one_node(tmp_path, "NOR", 1_700_000_000_000) as node:
        batch = registrations(node.executor.spec)
    with (
        Client("http://127.0.0.1:1") as closed,
        pytest.raises(NodeUnreachable, match=r"127\.0\.0\.1:1"),
    ):
        Sender([closed]).send(batch)


def test_the_first_gate_closes_after_the_set_up():
    genesis = day_genesis(SLOTS, authorities=4, block_time_ms=1000, now_ms=0)
    spec = genesis.chain("MET")
    assert spec.market_time_ms(SETUP_BLOCKS, 0) == SLOTS.start * 900_000
    assert genesis.parameters.reading_deadline_slots > READING_DELAY_SLOTS + 4


def test_totals_are_whole_numbers_of_one_chain(tmp_path):
    node = MemoryNode(tmp_path)
    node.populate()
    stats = METHOD_BY_NAME["energy_getStats"].handler(Context(node), StatsParameters())
    node.close()
    totals = chain_totals(stats, "MET")
    assert (totals["height"], totals["trades"], totals["deposited_uthb"]) == (1, 0, 10**10)
    assert not {"chain", "average_price_mthb"} & set(totals)


class Slow(OneNode):
    """A node through which what the transformer will carry is a block late."""

    def __init__(self, executor):
        super().__init__(executor)
        self.held = []

    def send_many(self, transactions):
        if not isinstance(transactions[0].payload, PublishGridStatus):
            return super().send_many(transactions)
        due, self.held = self.held, list(transactions)
        assert all(one is None for one in super().send_many(due))
        return [None]


def test_a_status_that_reaches_the_next_but_one_block_changes_nothing(tmp_path):
    results = []
    for number, kind in enumerate((OneNode, Slow)):
        with one_node(tmp_path / str(number), "MET", 1_700_000_000_000) as node:
            results.append(play(kind(node.executor))[2])
    assert results[0].congested > 0
    names = [field.name for field in fields(results[0]) if field.name != "transactions"]
    assert [getattr(results[0], name) for name in names] == [
        getattr(results[1], name) for name in names
    ]


def test_the_transformer_is_full_at_eleven_and_clear_at_one():
    assert transformer_loading_bps(43) is None
    assert [transformer_loading_bps(index) for index in (44, 47, 48, 51, 52, 95)] == [
        *(11_850, 11_850, 9_600, 9_600, 2_000, 2_000)
    ]
    behind = [trader for trader in PROFILE.traders if trader.location == TRANSFORMER]
    assert any(one.order(43, PROFILE.slot0 + 43) is not None for one in behind)
    assert any(one.order(44, PROFILE.slot0 + 44) is not None for one in behind)
