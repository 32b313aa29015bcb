"""What operators publish decides what may cross a node, and when a territory stands still."""

import pytest

from gridtokenx.grid import operation
from gridtokenx.grid.model import (
    STATUSES,
    GridLimits,
    HaltTerritory,
    NodeState,
    PublishGridStatus,
    ResumeTerritory,
)
from gridtokenx.primitives.errors import ErrorCode, Rejected
from gridtokenx.primitives.quantities import SLOT_MS
from gridtokenx.primitives.state import MemoryReader, Overlay
from tests.support.refusals import refused

LIMITS = GridLimits(8_000, 10_000, 2, 5_000, 49_500, 50_500, 96)
SLOT = 1_970_660
NOW_MS = SLOT * SLOT_MS
NODE = "BKK-01-SUB001"


@pytest.fixture
def state() -> Overlay:
    return Overlay(MemoryReader())


def publish(state: Overlay, loading_bps: int = 5_000, *, slot: int = SLOT, **changes):
    named = {"rating_va": 400_000, "frequency_mhz": 50_000, "voltage_bps": 10_000, **changes}
    command = PublishGridStatus(node=NODE, slot=slot, loading_bps=loading_bps, **named)
    (event,) = operation.publish_status(
        state, command, territory="BKK", publisher="MEA", now_ms=NOW_MS, limits=LIMITS
    )
    return event


def headroom(state: Overlay, node: str = NODE, slot: int = SLOT, now_ms: int = NOW_MS):
    status = operation.status_in(operation.statuses_of(state, node), slot)
    return None if status is None else operation.node_headroom_wh(status, now_ms, LIMITS)


@pytest.mark.parametrize(
    ("loading_bps", "expected", "headroom_wh"),
    [
        (0, NodeState.NORMAL, 100_000),
        (7_999, NodeState.NORMAL, 20_010),
        (8_000, NodeState.ALERT, 20_000),
        (9_999, NodeState.ALERT, 10),
        (10_000, NodeState.CONGESTED, 0),
        (11_850, NodeState.CONGESTED, 0),
    ],
)
def test_loading_decides_state_and_headroom(state, loading_bps, expected, headroom_wh) -> None:
    event = publish(state, loading_bps)
    assert (event.state, event.headroom_wh) == (expected, headroom_wh)
    assert headroom(state) == headroom_wh
    assert headroom(state, "BKK-01-SUB002") is None


def test_a_congested_node_has_no_headroom_even_below_a_generous_limit(state) -> None:
    assert publish(state, 10_000, limit_bps=12_000).headroom_wh == 0
    assert publish(state, 9_000, limit_bps=8_000).headroom_wh == 0


@pytest.mark.parametrize(("age", "headroom_wh"), [(0, 50_000), (2, 50_000), (3, 25_000)])
def test_an_old_status_counts_as_half_the_rating(state, age, headroom_wh) -> None:
    publish(state)
    assert headroom(state, slot=SLOT + age, now_ms=NOW_MS + age * SLOT_MS) == headroom_wh
    assert headroom(state, slot=SLOT + 50) == 50_000  # Its age is that at the clearing.


def test_a_status_counts_from_its_own_slot_on_until_the_next_one(state) -> None:
    publish(state, 9_000, slot=SLOT + 8)
    assert [headroom(state, slot=slot) for slot in (SLOT, SLOT + 7, SLOT + 8, SLOT + 90)] == [
        *(None, None, 10_000, 10_000)
    ]
    publish(state, 0, slot=SLOT)
    publish(state, 11_000, slot=SLOT + 4)
    assert [headroom(state, slot=SLOT + ahead) for ahead in (0, 3, 4, 7, 8)] == [
        *(100_000, 100_000, 0, 0, 10_000)
    ]
    publish(state, 5_000, slot=SLOT + 4)  # A correction.
    assert [headroom(state, slot=SLOT + ahead) for ahead in (3, 4, 8)] == [100_000, 50_000, 10_000]


def test_a_status_is_of_an_open_slot_and_never_goes_behind_the_one_in_force(state) -> None:
    for slot in (SLOT - 3, SLOT + 97):
        refused(ErrorCode.INTERVAL_CLOSED, publish, state, slot=slot)
    for slot in range(SLOT - 2, SLOT + 97):
        publish(state, slot=slot)
    refused(ErrorCode.READING_OUT_OF_ORDER, publish, state, slot=SLOT - 1)
    kept = STATUSES.get(state, NODE.encode()).statuses
    assert [status.slot for status in kept] == list(range(SLOT, SLOT + 97))
    command = PublishGridStatus(NODE, SLOT + 50, 0, 1, 50_000, 10_000)
    operation.publish_status(
        state,
        command,
        territory="BKK",
        publisher="MEA",
        now_ms=NOW_MS + 40 * SLOT_MS,
        limits=LIMITS,
    )
    kept = STATUSES.get(state, NODE.encode()).statuses
    assert [status.slot for status in kept] == list(range(SLOT + 40, SLOT + 97))


@pytest.mark.parametrize(("frequency", "off"), [(49_499, 1), (49_500, 0), (50_500, 0), (50_501, 1)])
def test_a_frequency_out_of_bounds_is_an_emergency_until_it_is_back(state, frequency, off) -> None:
    event = publish(state, frequency_mhz=frequency)
    assert (event.state is NodeState.EMERGENCY) == bool(off)
    reason = operation.emergency_of(state, "BKK", NOW_MS + 100 * SLOT_MS, LIMITS)
    assert (reason is not None) == bool(off)
    assert operation.emergency_of(state, "NTB", NOW_MS, LIMITS) is None
    publish(state, slot=SLOT + 2)  # A forecast says nothing of the frequency now.
    reason = operation.emergency_of(state, "BKK", NOW_MS, LIMITS)
    assert (reason is not None) == bool(off)
    publish(state)
    operation.check_operating(state, "BKK", NOW_MS, LIMITS)


def test_a_frequency_counts_at_once_whatever_was_published_for_the_next_slot(state) -> None:
    publish(state, slot=SLOT + 1)
    assert publish(state, frequency_mhz=49_000, slot=SLOT).state is NodeState.EMERGENCY


def halt(state: Overlay, by: str = "MEA", until_ms: int = 0, now_ms: int = NOW_MS) -> None:
    operation.halt_territory(
        state,
        HaltTerritory("BKK", "flood", until_ms),
        by=by,
        by_regulator=by == "ERC",
        now_ms=now_ms,
    )


def resume(state: Overlay, by: str = "MEA") -> None:
    command = ResumeTerritory("BKK", "dry")
    operation.resume_territory(state, command, by=by, by_regulator=by == "ERC", now_ms=NOW_MS)


def test_a_halt_holds_until_it_is_ended(state) -> None:
    refused(ErrorCode.DUPLICATE, resume, state)
    halt(state)
    with pytest.raises(Rejected, match="MEA halted territory BKK: flood") as caught:
        operation.check_operating(state, "BKK", NOW_MS, LIMITS)
    assert caught.value.code is ErrorCode.GRID_EMERGENCY
    assert publish(state).state is NodeState.EMERGENCY
    resume(state)
    operation.check_operating(state, "BKK", NOW_MS, LIMITS)


def test_a_halt_ends_by_itself_at_its_time(state) -> None:
    refused(ErrorCode.EXPIRED, halt, state, until_ms=NOW_MS)
    halt(state, until_ms=NOW_MS + 1)
    assert operation.halt_in_force(state, "BKK", NOW_MS) is not None
    assert operation.halt_in_force(state, "BKK", NOW_MS + 1) is None


def test_only_the_regulator_ends_its_own_halt(state) -> None:
    halt(state, "ERC")
    refused(ErrorCode.NOT_PERMITTED, resume, state)
    refused(ErrorCode.NOT_PERMITTED, halt, state)
    resume(state, "ERC")
    halt(state)
    resume(state, "ERC")
