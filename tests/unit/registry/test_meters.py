"""A meter's life: one metering point, several devices, several owners of the last word."""

from dataclasses import replace
from functools import partial

import pytest

from gridtokenx.primitives.codec import decode, encode
from gridtokenx.primitives.errors import ErrorCode
from gridtokenx.primitives.quantities import MAX_REGISTER_WH, SLOT_MS, slot_at
from gridtokenx.primitives.state import MemoryReader, Overlay
from gridtokenx.registry import meters, rules
from gridtokenx.registry.model import (
    MAX_NAMEPLATE_W,
    ApproveMeter,
    Generation,
    LicenceClass,
    Meter,
    MeterApproved,
    MeterReinstated,
    MeterReplaced,
    MeterRetired,
    MeterStatus,
    MeterSuspended,
    Organisation,
    OrganisationKind,
    ProsumerClass,
    RegisterMeter,
    RegisterParticipant,
    ReinstateMeter,
    ReinstateParticipant,
    ReplaceMeter,
    RetireMeter,
    Role,
    SuspendMeter,
    SuspendParticipant,
    Territory,
)
from tests.support.refusals import refused

NOW_MS = 1_773_594_000_000
MEA, PEA, ERC, ANNA, PLANT, OTHER, DEVICE = (bytes([number]) * 32 for number in range(1, 8))
REGISTRATION = RegisterMeter(
    meter_id=PLANT,
    owner=ANNA,
    location="BKK-01-SUB001",
    nameplate_import_w=10_000,
    nameplate_export_w=5_000,
    source=Generation.SOLAR,
    prosumer_class=ProsumerClass.RESIDENTIAL,
    import_wh_cum=777,
    export_wh_cum=55,
)
EXCHANGE = ReplaceMeter(PLANT, DEVICE, 800, 60, 3, 4)


def make_state(*, regulated: bool = True) -> Overlay:
    fresh = Overlay(MemoryReader())
    kinds = {"MEA": (OrganisationKind.DISTRIBUTOR, MEA), "PEA": (OrganisationKind.DISTRIBUTOR, PEA)}
    if regulated:
        kinds["ERC"] = (OrganisationKind.REGULATOR, ERC)
    for name, (kind, key) in kinds.items():
        rules.add_organisation(fresh, Organisation(name, kind, key, key))
    rules.add_territory(fresh, Territory("BKK", "MEA", "", "M"))
    rules.add_territory(fresh, Territory("PTH", "PEA", "C1", "C"))
    participant = RegisterParticipant(
        ANNA, Role.PRODUCER, bytes(32), LicenceClass.GENERATION, NOW_MS + 1, False, "BKK", 1, 10**6
    )
    rules.register_participant(fresh, participant, sender=MEA, now_ms=NOW_MS)
    return fresh


@pytest.fixture
def state() -> Overlay:
    return make_state()


@pytest.fixture
def plant(state: Overlay) -> Overlay:
    register(state)
    return state


def register(state: Overlay, rating_va: int | None = None, **changes) -> Meter:
    command = replace(REGISTRATION, **changes)
    meters.register_meter(state, command, sender=MEA, now_ms=NOW_MS, rating_va=rating_va)
    return rules.meter(state, command.meter_id)


# -- Another device --------------------------------------------------------------------------------


def test_a_new_device_signs_and_the_old_one_never_again(plant: Overlay) -> None:
    assert rules.meter_of_key(plant, PLANT).meter_id == PLANT
    events = meters.replace_meter(plant, EXCHANGE, sender=MEA)
    assert events == [MeterReplaced(PLANT, ANNA, PLANT, DEVICE)]
    assert rules.meter_of_key(plant, DEVICE) == rules.meter(plant, PLANT)
    assert "replaced or retired" in refused(
        ErrorCode.UNKNOWN_METER, rules.meter_of_key, plant, PLANT
    )
    for key in (PLANT, DEVICE):  # Neither may begin another life.
        fresh = partial(register, plant, meter_id=key)
        refused(ErrorCode.ALREADY_REGISTERED, fresh)
        again = replace(EXCHANGE, new_key=key)
        refused(ErrorCode.ALREADY_REGISTERED, meters.replace_meter, plant, again, sender=MEA)
    entry = rules.meter(plant, PLANT)
    assert (entry.import_wh_cum, entry.export_wh_cum) == (777, 55)  # The grid's row goes on.


@pytest.mark.parametrize(
    ("sender", "command", "code"),
    [
        (ANNA, EXCHANGE, ErrorCode.NOT_GRID_OPERATOR),
        (ERC, EXCHANGE, ErrorCode.NOT_GRID_OPERATOR),
        (PEA, EXCHANGE, ErrorCode.WRONG_TERRITORY),
        (MEA, replace(EXCHANGE, meter_id=OTHER), ErrorCode.UNKNOWN_METER),
    ],
)
def test_only_its_distributor_exchanges_and_retires_a_meter(
    plant: Overlay, sender: bytes, command: ReplaceMeter, code: ErrorCode
) -> None:
    before = plant.changes()
    refused(code, meters.replace_meter, plant, command, sender=sender)
    last = RetireMeter(command.meter_id, 800, 60)
    refused(code, meters.retire_meter, plant, last, sender=sender)
    assert plant.changes() == before


def test_a_meter_that_does_not_count_goes_on_from_the_new_devices_registers(plant: Overlay) -> None:
    meters.suspend_meter(plant, SuspendMeter(PLANT, "seal broken"), sender=MEA)
    meters.replace_meter(plant, EXCHANGE, sender=MEA)
    entry = rules.meter(plant, PLANT)
    assert (entry.key, entry.status) == (DEVICE, MeterStatus.SUSPENDED)
    assert (entry.import_wh_cum, entry.export_wh_cum) == (3, 4)


# -- The end ---------------------------------------------------------------------------------------


def test_a_retired_meter_leaves_its_owners_sum_and_is_dead(plant: Overlay) -> None:
    register(plant, meter_id=OTHER, nameplate_export_w=7_000)
    assert rules.participant(plant, ANNA).export_nameplate_w == 12_000
    assert meters.retire_meter(plant, RetireMeter(PLANT, 800, 60), sender=MEA) == [
        MeterRetired(PLANT, ANNA)
    ]
    assert rules.participant(plant, ANNA).export_nameplate_w == 7_000
    assert rules.meter(plant, PLANT).status is MeterStatus.RETIRED
    refused(ErrorCode.UNKNOWN_METER, rules.meter_of_key, plant, PLANT)
    send = partial(refused, ErrorCode.NOT_ACTIVE)
    send(meters.retire_meter, plant, RetireMeter(PLANT, 800, 60), sender=MEA)
    send(meters.replace_meter, plant, EXCHANGE, sender=MEA)
    send(meters.suspend_meter, plant, SuspendMeter(PLANT, "late"), sender=ERC)
    back = ReinstateMeter(PLANT, 0, 0, "please")
    send(meters.reinstate_meter, plant, back, sender=ERC, now_ms=NOW_MS)
    send(rules.check_counts, plant, rules.meter(plant, PLANT))
    refused(ErrorCode.ALREADY_REGISTERED, register, plant)


# -- Suspension ------------------------------------------------------------------------------------


def test_a_suspended_meter_counts_again_from_registers_that_are_given(plant: Overlay) -> None:
    suspend, back = SuspendMeter(PLANT, "seal broken"), ReinstateMeter(PLANT, 900, 70, "sealed")
    reinstate = partial(meters.reinstate_meter, plant, back, now_ms=NOW_MS + 5 * SLOT_MS)
    refused(ErrorCode.DUPLICATE, reinstate, sender=MEA)
    refused(ErrorCode.NOT_GRID_OPERATOR, meters.suspend_meter, plant, suspend, sender=ANNA)
    assert meters.suspend_meter(plant, suspend, sender=MEA) == [
        MeterSuspended(PLANT, ANNA, "MEA", "seal broken")
    ]
    detail = refused(ErrorCode.NOT_ACTIVE, rules.check_counts, plant, rules.meter(plant, PLANT))
    assert "suspended by MEA" in detail
    refused(ErrorCode.DUPLICATE, meters.suspend_meter, plant, suspend, sender=MEA)
    refused(ErrorCode.WRONG_TERRITORY, reinstate, sender=PEA)
    assert reinstate(sender=MEA) == [MeterReinstated(PLANT, ANNA, "MEA", "sealed")]
    entry = rules.meter(plant, PLANT)
    assert (entry.status, entry.suspended_by) == (MeterStatus.ACTIVE, "")
    assert (entry.first_slot, entry.import_wh_cum, entry.export_wh_cum) == (
        slot_at(NOW_MS) + 5,
        900,
        70,
    )
    assert rules.check_counts(plant, entry).account == ANNA


def test_what_the_regulator_suspended_the_regulator_ends(plant: Overlay) -> None:
    suspend, back = SuspendMeter(PLANT, "audit"), ReinstateMeter(PLANT, 900, 70, "fine")
    meters.suspend_meter(plant, suspend, sender=MEA)
    meters.suspend_meter(plant, suspend, sender=ERC)  # Takes over.
    reinstate = partial(meters.reinstate_meter, plant, back, now_ms=NOW_MS)
    assert "ERC suspended" in refused(ErrorCode.NOT_PERMITTED, reinstate, sender=MEA)
    reinstate(sender=ERC)
    assert rules.meter(plant, PLANT).status is MeterStatus.ACTIVE


def test_a_participants_suspension_stops_its_meters_and_leaves_a_mark(plant: Overlay) -> None:
    rules.suspend_participant(plant, SuspendParticipant(ANNA, "bills"), sender=MEA)
    assert not rules.counts(plant, rules.meter(plant, PLANT))
    refused(ErrorCode.NOT_ACTIVE, rules.check_counts, plant, rules.meter(plant, PLANT))
    later_ms = NOW_MS + 9 * SLOT_MS
    back = ReinstateParticipant(ANNA, "paid")
    rules.reinstate_participant(plant, back, sender=MEA, now_ms=later_ms)
    assert rules.participant(plant, ANNA).restart_slot == slot_at(later_ms)
    assert rules.counts(plant, rules.meter(plant, PLANT))


# -- Nameplates ------------------------------------------------------------------------------------


def test_a_large_plant_waits_for_the_regulator(state: Overlay) -> None:
    entry = register(state, nameplate_export_w=10_000_000)
    assert entry.status is MeterStatus.PENDING
    refused(ErrorCode.NOT_ACTIVE, rules.check_counts, state, entry)
    refused(ErrorCode.NOT_ACTIVE, meters.suspend_meter, state, SuspendMeter(PLANT, "x"), sender=MEA)
    approve = partial(meters.approve_meter, state, ApproveMeter(PLANT), now_ms=NOW_MS + SLOT_MS)
    for sender in (ANNA, MEA):
        refused(ErrorCode.NOT_PERMITTED, approve, sender=sender)
    assert approve(sender=ERC) == [MeterApproved(PLANT, ANNA, "ERC")]
    entry = rules.meter(state, PLANT)
    assert (entry.status, entry.restart_slot) == (MeterStatus.ACTIVE, slot_at(NOW_MS) + 1)
    refused(ErrorCode.DUPLICATE, approve, sender=ERC)


def test_a_large_plant_cannot_be_split(state: Overlay) -> None:
    assert register(state, nameplate_export_w=9_999_999).status is MeterStatus.ACTIVE
    rest = register(state, meter_id=OTHER, nameplate_export_w=1)
    assert rest.status is MeterStatus.PENDING
    load = register(state, meter_id=DEVICE, nameplate_export_w=0, source=Generation.NONE)
    assert load.status is MeterStatus.ACTIVE


def test_without_a_regulator_there_are_no_large_plants() -> None:
    state = make_state(regulated=False)
    assert "10000000 W" in refused(
        ErrorCode.NOT_PERMITTED, register, state, nameplate_export_w=10_000_000
    )
    assert register(state, nameplate_export_w=9_999_999).status is MeterStatus.ACTIVE


def test_no_nameplate_exceeds_what_its_substation_is_built_for(state: Overlay) -> None:
    for way in ("import", "export"):
        named = {f"nameplate_{way}_w": 400_001}
        detail = refused(ErrorCode.OUT_OF_RANGE, register, state, 400_000, **named)
        assert "400001 W" in detail
        assert "400000 VA" in detail
    register(state, 400_000, nameplate_import_w=400_000, nameplate_export_w=400_000)


@pytest.mark.parametrize(
    "changes",
    [
        {"nameplate_import_w": MAX_NAMEPLATE_W + 1},
        {"nameplate_export_w": MAX_NAMEPLATE_W + 1},
        {"import_wh_cum": MAX_REGISTER_WH + 1},
        {"export_wh_cum": MAX_REGISTER_WH + 1},
        {"import_wh_cum": -1},
    ],
)
def test_what_no_meter_shows_is_not_even_read(changes: dict) -> None:
    refused(ErrorCode.OUT_OF_RANGE, lambda: decode(RegisterMeter, spelled(**changes)))


def spelled(**changes) -> bytes:
    """The bytes of a registration as somebody else's program writes them."""
    return encode(replace(REGISTRATION, **changes))


# -- Which meter -----------------------------------------------------------------------------------


def test_the_only_meter_that_can_serve_an_order_is_taken(plant: Overlay) -> None:
    roof = rules.meter(plant, PLANT)
    mill = replace(roof, meter_id=OTHER, source=Generation.WIND)
    load = replace(roof, meter_id=DEVICE, source=Generation.NONE, nameplate_export_w=0)
    there = roof.location
    assert meters.choose([load, roof], location=there, selling=True, source="any") == roof
    assert meters.choose([mill, roof], location=there, selling=True, source="wind") == mill
    gone = replace(mill, status=MeterStatus.RETIRED)
    assert meters.choose([gone, roof], location=there, selling=False, source="any") == roof
    named = meters.choose([mill, roof], location=there, selling=True, source="any", named=OTHER)
    assert named == mill


def test_whoever_means_one_of_several_meters_must_say_which(plant: Overlay) -> None:
    roof = rules.meter(plant, PLANT)
    mill = replace(roof, meter_id=OTHER, source=Generation.WIND)
    there = roof.location
    for selling, source in ((True, "any"), (False, "any"), (False, "solar")):
        choose = partial(meters.choose, location=there, selling=selling, source=source)
        detail = refused(ErrorCode.METER_NOT_NAMED, choose, [roof, mill])
        assert f"{PLANT.hex()} (BKK-01-SUB001, solar)" in detail
        assert f"{OTHER.hex()} (BKK-01-SUB001, wind)" in detail
    choose = partial(meters.choose, location=there, selling=True, source="any")
    refused(ErrorCode.UNKNOWN_METER, choose, [replace(roof, location="BKK-01-SUB002")])
    refused(ErrorCode.UNKNOWN_METER, choose, [roof], named=OTHER)
    out = replace(roof, status=MeterStatus.SUSPENDED, suspended_by="ERC")
    assert "suspended by ERC" in refused(ErrorCode.NOT_ACTIVE, choose, [out])
    assert "suspended by ERC" in refused(ErrorCode.NOT_ACTIVE, choose, [out, mill], named=PLANT)
    assert len(refused(ErrorCode.METER_NOT_NAMED, choose, [roof] * 5000)) < 1000
