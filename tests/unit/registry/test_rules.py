"""Who may register whom and what, and where."""

from dataclasses import replace
from functools import partial

import pytest

from gridtokenx.primitives.errors import ErrorCode
from gridtokenx.primitives.quantities import slot_at
from gridtokenx.primitives.state import MemoryReader, Overlay
from gridtokenx.registry import meters, rules
from gridtokenx.registry.model import (
    Generation,
    LicenceClass,
    MeterRegistered,
    MeterStatus,
    OperatorRotated,
    Organisation,
    OrganisationKind,
    ParticipantRegistered,
    ProsumerClass,
    RegisterMeter,
    RegisterParticipant,
    RenewLicence,
    RetireMeter,
    Role,
    Territory,
)
from tests.support.refusals import refused

NOW_MS = 1_773_594_000_000
MEA, PEA, ERC, PAY, ANNA, BOON, METER = (bytes([number]) * 32 for number in range(1, 8))
MEA_ACCOUNT = bytes([99]) * 32

PARTICIPANT = RegisterParticipant(
    account=ANNA,
    role=Role.PROSUMER,
    kyc_ref=bytes(32),
    licence_class=LicenceClass.EXEMPT_LT_1000KVA,
    licence_expiry_ms=NOW_MS + 1,
    vat_registered=False,
    territory="BKK",
    consent_version=1,
    daily_cap_wh=1_000_000,
)
METER_COMMAND = RegisterMeter(
    meter_id=METER,
    owner=ANNA,
    location="BKK-01-SUB001",
    nameplate_import_w=10_000,
    nameplate_export_w=5_000,
    source=Generation.SOLAR,
    prosumer_class=ProsumerClass.RESIDENTIAL,
    import_wh_cum=777,
    export_wh_cum=55,
)


@pytest.fixture
def state() -> Overlay:
    fresh = Overlay(MemoryReader())
    for name, kind, key, account in (
        ("MEA", OrganisationKind.DISTRIBUTOR, MEA, MEA_ACCOUNT),
        ("PEA", OrganisationKind.DISTRIBUTOR, PEA, PEA),
        ("ERC", OrganisationKind.REGULATOR, ERC, ERC),
        ("PAY", OrganisationKind.PAYMENT, PAY, PAY),
    ):
        rules.add_organisation(fresh, Organisation(name, kind, key, account))
    rules.add_territory(fresh, Territory("BKK", "MEA", "", "M"))
    rules.add_territory(fresh, Territory("PTH", "PEA", "C1", "C"))
    return fresh


def register_anna(state: Overlay, **changes) -> None:
    command = replace(PARTICIPANT, **changes)
    rules.register_participant(state, command, sender=MEA, now_ms=NOW_MS)


def test_genesis_names_authorities_once(state: Overlay) -> None:
    assert rules.payment_authority(state) == PAY
    assert rules.distributor_account(state, "BKK") == MEA_ACCOUNT
    assert [entry.name for entry in rules.organisations(state)] == ["ERC", "MEA", "PAY", "PEA"]
    for again in (
        Organisation("MEA", OrganisationKind.DISTRIBUTOR, BOON, BOON),
        Organisation("NEW", OrganisationKind.DISTRIBUTOR, MEA, BOON),
        Organisation("BAY", OrganisationKind.PAYMENT, BOON, BOON),
    ):
        refused(ErrorCode.ALREADY_REGISTERED, rules.add_organisation, state, again)
    for territory, code in (
        (Territory("BKK", "PEA", "", ""), ErrorCode.ALREADY_REGISTERED),
        (Territory("bkk", "MEA", "", ""), ErrorCode.UNKNOWN_ZONE),
        (Territory("HKT", "ERC", "", ""), ErrorCode.NOT_REGISTERED),
        (Territory("HKT", "XYZ", "", ""), ErrorCode.NOT_REGISTERED),
    ):
        refused(code, rules.add_territory, state, territory)
    assert rules.payment_authority(Overlay(MemoryReader())) is None


def test_the_territorys_distributor_registers_a_participant(state: Overlay) -> None:
    events = rules.register_participant(state, PARTICIPANT, sender=MEA, now_ms=NOW_MS)
    assert events == [ParticipantRegistered(ANNA, Role.PROSUMER, "BKK")]
    entry = rules.participant(state, ANNA)
    assert entry.active
    assert entry.daily_cap_wh == 1_000_000
    rules.check_known(state, ANNA)
    rules.check_known(state, PEA)
    refused(ErrorCode.NOT_REGISTERED, rules.check_known, state, BOON)


@pytest.mark.parametrize(
    ("sender", "changes", "code"),
    [
        (ANNA, {}, ErrorCode.NOT_GRID_OPERATOR),
        (ERC, {}, ErrorCode.NOT_GRID_OPERATOR),
        (PEA, {}, ErrorCode.WRONG_TERRITORY),
        (MEA, {"territory": "HKT"}, ErrorCode.UNKNOWN_ZONE),
        (MEA, {"licence_expiry_ms": NOW_MS}, ErrorCode.LICENCE_EXPIRED),
    ],
)
def test_a_participant_is_refused(state: Overlay, sender: bytes, changes: dict, code) -> None:
    command = replace(PARTICIPANT, **changes)
    refused(code, rules.register_participant, state, command, sender=sender, now_ms=NOW_MS)
    refused(ErrorCode.NOT_REGISTERED, rules.participant, state, ANNA)


def test_an_account_is_registered_once(state: Overlay) -> None:
    register_anna(state)
    refused(
        ErrorCode.ALREADY_REGISTERED,
        rules.register_participant,
        state,
        PARTICIPANT,
        sender=MEA,
        now_ms=NOW_MS,
    )


def test_a_meter_keeps_its_registers_of_the_day(state: Overlay) -> None:
    register_anna(state)
    events = meters.register_meter(state, METER_COMMAND, sender=MEA, now_ms=NOW_MS)
    assert events == [MeterRegistered(METER, ANNA, "BKK-01-SUB001", MeterStatus.ACTIVE)]
    entry = rules.meter(state, METER)
    assert (entry.import_wh_cum, entry.export_wh_cum) == (777, 55)
    assert entry.first_slot == slot_at(NOW_MS)
    assert rules.participant(state, ANNA).export_nameplate_w == 5_000


@pytest.mark.parametrize(
    ("sender", "changes", "code"),
    [
        (ANNA, {}, ErrorCode.NOT_GRID_OPERATOR),
        (PEA, {}, ErrorCode.WRONG_TERRITORY),
        (MEA, {"location": "PTH-01-SUB001"}, ErrorCode.WRONG_TERRITORY),
        (MEA, {"location": "HKT-01-SUB001"}, ErrorCode.UNKNOWN_ZONE),
        (MEA, {"location": "BKK-1-SUB001"}, ErrorCode.UNKNOWN_ZONE),
        (MEA, {"location": "BKK-01-SUB001\n"}, ErrorCode.UNKNOWN_ZONE),
        (MEA, {"location": "BKK-๐๑-SUB001"}, ErrorCode.UNKNOWN_ZONE),
        (MEA, {"owner": BOON}, ErrorCode.NOT_REGISTERED),
        (MEA, {"source": Generation.NONE}, ErrorCode.UNKNOWN_SOURCE),
        (MEA, {"nameplate_export_w": 0}, ErrorCode.UNKNOWN_SOURCE),
        (MEA, {"nameplate_export_w": 1_000_000}, ErrorCode.NOT_PERMITTED),
    ],
)
def test_a_meter_is_refused(state: Overlay, sender: bytes, changes: dict, code) -> None:
    register_anna(state)
    command = replace(METER_COMMAND, **changes)
    refused(code, meters.register_meter, state, command, sender=sender, now_ms=NOW_MS)
    refused(ErrorCode.UNKNOWN_METER, rules.meter, state, METER)


def test_exempt_plants_add_up_over_meters_and_a_licence_lifts_the_limit(state: Overlay) -> None:
    register_anna(state)
    first = replace(METER_COMMAND, nameplate_export_w=600_000)
    second = replace(first, meter_id=bytes([8]) * 32, nameplate_export_w=400_000)
    meters.register_meter(state, first, sender=MEA, now_ms=NOW_MS)
    refused(
        ErrorCode.NOT_PERMITTED, meters.register_meter, state, second, sender=MEA, now_ms=NOW_MS
    )
    licensed = replace(PARTICIPANT, account=BOON, licence_class=LicenceClass.GENERATION)
    rules.register_participant(state, licensed, sender=MEA, now_ms=NOW_MS)
    theirs = replace(second, owner=BOON, nameplate_export_w=2_000_000)
    meters.register_meter(state, theirs, sender=MEA, now_ms=NOW_MS)
    refused(
        ErrorCode.ALREADY_REGISTERED,
        meters.register_meter,
        state,
        theirs,
        sender=MEA,
        now_ms=NOW_MS,
    )


def test_locations_are_served_or_refused(state: Overlay) -> None:
    assert rules.check_location(state, "PTH-07-SUB123") == "PTH"
    detail = refused(ErrorCode.UNKNOWN_ZONE, rules.check_location, state, "CNX-01-SUB001")
    assert "BKK, PTH" in detail


# -- Licence classes -------------------------------------------------------------------------------


def test_a_retail_licence_is_for_no_plant(state: Overlay) -> None:
    register_anna(state, licence_class=LicenceClass.RETAIL)
    register = partial(meters.register_meter, state, sender=MEA, now_ms=NOW_MS)
    assert "5000 W" in refused(ErrorCode.NOT_PERMITTED, register, METER_COMMAND)
    register(replace(METER_COMMAND, nameplate_export_w=0, source=Generation.NONE))


def test_a_licence_follows_the_plants_that_are_there(state: Overlay) -> None:
    register_anna(state, licence_class=LicenceClass.GENERATION)
    big = replace(METER_COMMAND, nameplate_export_w=2_000_000)
    meters.register_meter(state, big, sender=MEA, now_ms=NOW_MS)
    renew = partial(rules.renew_licence, state, sender=MEA, now_ms=NOW_MS)
    for licence_class in (LicenceClass.EXEMPT_LT_1000KVA, LicenceClass.RETAIL):
        refused(ErrorCode.NOT_PERMITTED, renew, RenewLicence(ANNA, licence_class, NOW_MS + 5))
    meters.retire_meter(state, RetireMeter(METER, 777, 55), sender=MEA)
    renew(RenewLicence(ANNA, LicenceClass.RETAIL, NOW_MS + 5))


# -- Operators -------------------------------------------------------------------------------------


def test_an_operators_key_is_changed_everywhere_or_nowhere(state: Overlay) -> None:
    register_anna(state)
    for name, key, code in (
        ("MEA", MEA, ErrorCode.DUPLICATE),
        ("MEA", PEA, ErrorCode.ALREADY_REGISTERED),
        ("MEA", ANNA, ErrorCode.ALREADY_REGISTERED),
        ("XYZ", BOON, ErrorCode.NOT_REGISTERED),
    ):
        before = state.changes()
        refused(code, rules.rotate_operator, state, name, key)
        assert state.changes() == before
    for name, key in (("MEA", BOON), ("PAY", METER), ("ERC", bytes([50]) * 32)):
        old = rules.organisation(state, name)
        assert rules.rotate_operator(state, name, key) == [OperatorRotated(name, key)]
        now = rules.organisation_of_operator(state, key)
        assert now == rules.organisation(state, name) == replace(old, operator=key)
        refused(ErrorCode.NOT_PERMITTED, rules.organisation_of_operator, state, old.operator)
    assert rules.payment_authority(state) == METER
    assert rules.distributor_account(state, "BKK") == MEA_ACCOUNT
    stranger = partial(rules.register_participant, state, now_ms=NOW_MS)
    theirs = replace(PARTICIPANT, account=bytes([60]) * 32)
    refused(ErrorCode.NOT_GRID_OPERATOR, stranger, theirs, sender=MEA)
    stranger(theirs, sender=BOON)


def test_an_operator_is_no_participant(state: Overlay) -> None:
    theirs = replace(PARTICIPANT, account=ERC)
    register = partial(rules.register_participant, state, sender=MEA, now_ms=NOW_MS)
    refused(ErrorCode.ALREADY_REGISTERED, register, theirs)
