"""Bytes that participants, meters, orders, trades and blocks take in the state and on disk.

Counted on real blocks of a region chain: what each kind adds to the state (keys and values, and 64
bytes a key of the state tree), to the history index, and to the block.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass

from gridtokenx.consensus.messages import IndexedSignature, Phase, QuorumCertificate
from gridtokenx.grid.model import MAX_READINGS, SubmitReadings
from gridtokenx.primitives.codec import encode
from gridtokenx.registry.model import Generation
from gridtokenx.storage.index import index_rows
from gridtokenx.storage.totals import Totals
from gridtokenx.trading.model import Side
from tests.support.market_world import Household, MarketWorld

TREE_BYTES_PER_KEY = 64
PLACE_BYTES = 32 + 12  # Transaction id -> height and position.
COUNT = 200


@dataclass(frozen=True, slots=True)
class Growth:
    """Bytes one of a kind adds; `block_bytes` are its transactions, `index_bytes` all history rows.

    State that is gone again (a closed order) is not in `state_bytes`.
    """

    state_keys: float
    state_bytes: float
    tree_bytes: float
    block_bytes: float
    index_bytes: float


def measure() -> dict[str, dict[str, float]]:
    """Growth of each kind, by name."""
    world = MarketWorld(ms_per_block=60_000)
    meter = _Meter(world)
    houses: list[Household] = []

    def settle_in() -> None:
        for number in range(COUNT):
            source = Generation.SOLAR if number % 2 else Generation.NONE
            houses.append(world.household(f"house {number}", source=source, baht=1_000_000))

    found = {"participant_with_meter_and_deposit": meter.grown(settle_in)}
    slot = world.slot + 4
    found["resting_order_1_slot"] = meter.grown(lambda: _orders(world, houses, slot, 1, 900))
    found["resting_order_8_slots"] = meter.grown(lambda: _orders(world, houses, slot + 1, 8, 900))
    found["matched_order"] = meter.grown(lambda: _orders(world, houses, slot + 20, 1, 0), blocks=2)
    while world.slot <= slot + 20:
        world.block()
    for house in houses:  # So that the next ones are each of one slot alone.
        world.send(house.key, world.reading(house, slot + 19, 0, 0))
    meter.grown(list)  # Their block is not counted.
    found["reading_that_settles_a_trade"] = meter.grown(lambda: _read(world, houses, slot + 20))
    while world.slot <= slot + 21:
        world.block()
    batched = meter.grown(lambda: _read_together(world, houses, slot + 21))
    found["reading_in_a_batch_of_24"] = batched
    return {name: asdict(growth) for name, growth in found.items()}


def _orders(
    world: MarketWorld, houses: list[Household], first: int, slots: int, apart_mthb: int
) -> None:
    """One order of each household: buys and sells `apart_mthb` from meeting, or (0) crossing."""
    for number, house in enumerate(houses):
        selling = bool(number % 2)
        side, limit = (Side.SELL, 3_000 + apart_mthb) if selling else (Side.BUY, 3_000)
        if not apart_mthb:
            limit = 2_500 if selling else 4_000
        terms = {"last_slot": first + slots - 1, "max_wh_per_slot": 1_000}
        world.send(house.key, world.order(house, side, 1_000, limit, first, **terms))


def _read(world: MarketWorld, houses: list[Household], slot: int) -> None:
    """What each household's meter shows after a slot in which all delivered."""
    for number, house in enumerate(houses):
        export_wh, import_wh = (1_000, 0) if number % 2 else (0, 1_000)
        world.send(house.key, world.reading(house, slot, export_wh, import_wh))


def _read_together(world: MarketWorld, houses: list[Household], slot: int) -> None:
    """A gateway sends the meters of a street in full transactions."""
    readings = [world.reading(house, slot, 0, 500).readings[-1] for house in houses]
    for start in range(0, len(readings), MAX_READINGS):
        part = tuple(readings[start : start + MAX_READINGS])
        world.send(houses[0].key, SubmitReadings(part))


class _Meter:
    """Compares a chain's state, index and blocks before and after."""

    def __init__(self, world: MarketWorld) -> None:
        self._world = world
        self._totals = Totals()

    def grown(self, work: Callable[[], object], blocks: int = 1) -> Growth:
        """Bytes that `work`'s transactions added, each, after some blocks."""
        state = self._world.values.values
        keys, size = len(state), _size(state)
        work()
        block_bytes = sum(len(one.encoded) for one in self._world.waiting)
        index_bytes = 0
        for _ in range(blocks):
            if refused := self._world.block():
                raise RuntimeError(f"refused: {refused[0][1]}")
            index_bytes += self._index_bytes()
        grown = len(state) - keys
        return Growth(
            round(grown / COUNT, 2),
            round((_size(state) - size) / COUNT, 1),
            round(grown * TREE_BYTES_PER_KEY / COUNT, 1),
            round(block_bytes / COUNT, 1),
            round(index_bytes / COUNT, 1),
        )

    def _index_bytes(self) -> int:
        execution = self._world.executions[-1]
        header = execution.block.header
        rows, self._totals = index_rows(
            header.height,
            header.time_ms,
            self._world.spec.market_time_ms(header.height, header.time_ms),
            list(execution.transactions),
            list(execution.receipts),
            self._totals,
        )
        rows_bytes = sum(len(key) + len(value) for key, value in rows)
        return rows_bytes + PLACE_BYTES * len(execution.transactions)


def _size(state: dict[bytes, bytes]) -> int:
    return sum(len(key) + len(value) for key, value in state.items())


def empty_block_bytes(validators: int) -> int:
    """An empty block with its parent's certificate and its own, which are kept beside it."""
    world = MarketWorld()
    world.block()
    block = world.executions[-1].block
    quorum = 2 * validators // 3 + 1
    signatures = tuple(IndexedSignature(index, bytes(64)) for index in range(quorum))
    certificate = QuorumCertificate(Phase.COMMIT, 10**6, 0, bytes(32), signatures)
    return len(block.encoded) + 2 * len(encode(certificate))
