"""The verbs of the registry: who may do what, and where. A meter's life is in `meters`.

Source: protocols/market.md 5.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace

from gridtokenx.primitives.errors import ErrorCode, Rejected
from gridtokenx.primitives.places import PLACE, SUBSTATION, TERRITORY, territory_of
from gridtokenx.primitives.quantities import slot_at
from gridtokenx.primitives.state import Overlay, Reader, u64
from gridtokenx.primitives.types import format_address
from gridtokenx.registry.model import (
    ENROLMENT_COUNT,
    ENROLMENTS,
    METER_KEYS,
    METERS,
    OPERATORS,
    ORGANISATIONS,
    PARTICIPANTS,
    PAYMENT,
    TERRITORIES,
    Enrolment,
    EnrolmentCount,
    LicenceClass,
    LicenceRenewed,
    Meter,
    MeterStatus,
    OperatorRotated,
    Organisation,
    OrganisationKind,
    Participant,
    ParticipantRegistered,
    ParticipantReinstated,
    ParticipantSuspended,
    RegisterParticipant,
    RegistryEvent,
    ReinstateParticipant,
    RenewLicence,
    SuspendParticipant,
    Territory,
)

_SUBSTATION = re.compile(SUBSTATION)
_PLACE = re.compile(PLACE)
# At unity power factor; Royal Decree 2552 asks no generation licence below 1,000 kVA.
EXEMPT_BELOW_W = 1_000_000


# -- Genesis ---------------------------------------------------------------------------------------


def add_organisation(state: Overlay, organisation: Organisation) -> None:
    """Enter an authority.

    Errors: ALREADY_REGISTERED for a name or operator key used before, or a second payment
    authority.
    """
    name = organisation.name.encode()
    if ORGANISATIONS.get(state, name) or OPERATORS.get(state, organisation.operator):
        detail = f"organisation {organisation.name} or its operator key is there already"
        raise Rejected(ErrorCode.ALREADY_REGISTERED, detail)
    if organisation.kind is OrganisationKind.PAYMENT:
        if PAYMENT.get(state, b""):
            raise Rejected(ErrorCode.ALREADY_REGISTERED, "there is a payment authority already")
        PAYMENT.put(state, b"", organisation)
    ORGANISATIONS.put(state, name, organisation)
    OPERATORS.put(state, organisation.operator, organisation)


def add_territory(state: Overlay, territory: Territory) -> None:
    """Serve a territory.

    Errors: UNKNOWN_ZONE for a bad prefix; ALREADY_REGISTERED; NOT_REGISTERED unless its
    distributor is an organisation of that kind.
    """
    prefix = territory.prefix
    if re.fullmatch(TERRITORY, prefix) is None:
        raise Rejected(ErrorCode.UNKNOWN_ZONE, f"a territory has 3 capitals, not {prefix!r}")
    if TERRITORIES.get(state, prefix.encode()):
        raise Rejected(ErrorCode.ALREADY_REGISTERED, f"territory {prefix} is served already")
    distributor = ORGANISATIONS.get(state, territory.distributor.encode())
    if distributor is None or distributor.kind is not OrganisationKind.DISTRIBUTOR:
        detail = f"{territory.distributor} of territory {prefix} is not a registered distributor"
        raise Rejected(ErrorCode.NOT_REGISTERED, detail)
    TERRITORIES.put(state, prefix.encode(), territory)


# -- Governance ------------------------------------------------------------------------------------


def check_rotation(state: Reader, name: str, new_operator: bytes) -> Organisation:
    """The organisation whose operator key may become `new_operator`.

    Errors: NOT_REGISTERED; DUPLICATE where it is its key already; ALREADY_REGISTERED for a key that
    signs for another organisation or is a participant's account.
    """
    entry = organisation(state, name)
    if entry.operator == new_operator:
        detail = f"{format_address(new_operator)} is the operator key of {name} already"
        raise Rejected(ErrorCode.DUPLICATE, detail)
    _check_no_operator(state, new_operator)
    if PARTICIPANTS.get(state, new_operator):
        # The sentence begins with its point: what a region tells of a refusal is cut short.
        key = format_address(new_operator)
        detail = f"a participant's account is no operator key, take another than {key}"
        raise Rejected(ErrorCode.ALREADY_REGISTERED, detail)
    return entry


def rotate_operator(state: Overlay, name: str, new_operator: bytes) -> list[RegistryEvent]:
    """Let another key sign for an organisation, whose account stays; the old key is a stranger's.

    Errors: as `check_rotation`. Source: protocols/governance.md 2.6.
    """
    before = check_rotation(state, name, new_operator)
    after = replace(before, operator=new_operator)
    OPERATORS.delete(state, before.operator)
    OPERATORS.put(state, new_operator, after)
    ORGANISATIONS.put(state, name.encode(), after)
    if after.kind is OrganisationKind.PAYMENT:
        PAYMENT.put(state, b"", after)
    return [OperatorRotated(name, new_operator)]


# -- Questions -------------------------------------------------------------------------------------


def organisation(state: Reader, name: str) -> Organisation:
    """An organisation by name. Errors: NOT_REGISTERED."""
    found = ORGANISATIONS.get(state, name.encode())
    if found is None:
        raise Rejected(ErrorCode.NOT_REGISTERED, f"there is no organisation {name!r}")
    return found


def organisations(state: Reader) -> Iterable[Organisation]:
    """All organisations in name order."""
    return (value for _, value in ORGANISATIONS.items(state))


def organisation_of_operator(state: Reader, sender: bytes) -> Organisation:
    """The organisation that a key signs for. Errors: NOT_PERMITTED for any other key."""
    found = OPERATORS.get(state, sender)
    if found is None:
        detail = f"{format_address(sender)} signs for no organisation"
        raise Rejected(ErrorCode.NOT_PERMITTED, detail)
    return found


def payment_authority(state: Reader) -> bytes | None:
    """Operator key of the payment authority, if the chain has one."""
    found = PAYMENT.get(state, b"")
    return None if found is None else found.operator


def distributor_of(state: Reader, prefix: str) -> Organisation:
    """The distributor that serves a territory. Errors: UNKNOWN_ZONE."""
    territory = TERRITORIES.get(state, prefix.encode())
    if territory is None:
        served = ", ".join(key.decode() for key, _ in TERRITORIES.items(state))
        detail = f"territory {prefix!r} is not served here; this chain serves {served or 'none'}"
        raise Rejected(ErrorCode.UNKNOWN_ZONE, detail)
    return organisation(state, territory.distributor)


def distributor_account(state: Reader, prefix: str) -> bytes:
    """The account that is paid the wheeling of a territory. Errors: UNKNOWN_ZONE."""
    return distributor_of(state, prefix).account


def check_location(state: Reader, location: str) -> str:
    """The territory of a location `PPP-NN-SUBNNN` that this chain serves. Errors: UNKNOWN_ZONE."""
    if _SUBSTATION.fullmatch(location) is None:
        detail = f"a location looks like BKK-01-SUB001, not {location!r}"
        raise Rejected(ErrorCode.UNKNOWN_ZONE, detail)
    prefix = territory_of(location)
    if TERRITORIES.get(state, prefix.encode()) is None:
        distributor_of(state, prefix)
    return prefix


def territories(state: Reader) -> dict[str, str]:
    """Names of the distributors by the territories this chain serves, in their order."""
    return {key.decode(): value.distributor for key, value in TERRITORIES.items(state)}


def transmission_account(state: Reader) -> bytes | None:
    """The account that is paid for national transmission, if the chain has an operator for it."""
    for entry in organisations(state):
        if entry.kind is OrganisationKind.TRANSMISSION:
            return entry.account
    return None


def regulator(state: Reader) -> str | None:
    """The organisation that regulates the market: the first one by name, if there is any."""
    for entry in organisations(state):
        if entry.kind is OrganisationKind.REGULATOR:
            return entry.name
    return None


def overseer(state: Reader, prefix: str, sender: bytes) -> Organisation:
    """The organisation that acts on a territory: its distributor, or the regulator.

    Errors: UNKNOWN_ZONE; NOT_GRID_OPERATOR, WRONG_TERRITORY for anybody else.
    """
    found = OPERATORS.get(state, sender)
    if found is not None and found.kind is OrganisationKind.REGULATOR:
        distributor_of(state, prefix)
        return found
    return check_distributor(state, prefix, sender)


def status_publisher(state: Reader, node: str, sender: bytes) -> tuple[str, Organisation]:
    """(territory, organisation) for a status of a grid node `PPP`, `PPP-NN` or `PPP-NN-SUBNNN`.

    A territory is the distributor's and the transmission operator's, what is inside it the
    distributor's. Errors: UNKNOWN_ZONE; NOT_GRID_OPERATOR, WRONG_TERRITORY.
    """
    if _PLACE.fullmatch(node) is None:
        detail = f"a grid node looks like BKK, BKK-01 or BKK-01-SUB001, not {node!r}"
        raise Rejected(ErrorCode.UNKNOWN_ZONE, detail)
    prefix = territory_of(node)
    found = OPERATORS.get(state, sender)
    if node == prefix and found is not None and found.kind is OrganisationKind.TRANSMISSION:
        distributor_of(state, prefix)
        return prefix, found
    return prefix, check_distributor(state, prefix, sender)


def enrolment_count(state: Reader) -> int:
    """How many participants were ever registered."""
    found = ENROLMENT_COUNT.get(state, b"")
    return 0 if found is None else found.count


def enrolled(state: Reader, number: int) -> Participant:
    """The participant that was registered as number 0, 1, 2 .. `enrolment_count` - 1."""
    found = ENROLMENTS.get(state, u64(number))
    if found is None:
        raise LookupError(f"participant {number} is missing")
    return participant(state, found.account)


def participant(state: Reader, account: bytes) -> Participant:
    """A registered participant. Errors: NOT_REGISTERED."""
    found = PARTICIPANTS.get(state, account)
    if found is None:
        detail = f"{format_address(account)} is not registered; its distributor can register it"
        raise Rejected(ErrorCode.NOT_REGISTERED, detail)
    return found


def meter(state: Reader, meter_id: bytes) -> Meter:
    """A registered meter. Errors: UNKNOWN_METER."""
    found = METERS.get(state, meter_id)
    if found is None:
        detail = f"meter {meter_id.hex()} is not registered; its distributor can register it"
        raise Rejected(ErrorCode.UNKNOWN_METER, detail)
    return found


def meter_of_key(state: Reader, key: bytes) -> Meter:
    """The metering point that a device's key signs for. Errors: UNKNOWN_METER."""
    found = METER_KEYS.get(state, key)
    if found is None:
        detail = f"meter {key.hex()} is not registered; its distributor can register it"
        raise Rejected(ErrorCode.UNKNOWN_METER, detail)
    if not found.in_use:
        detail = f"device {key.hex()} was replaced or retired and signs for no meter any more"
        raise Rejected(ErrorCode.UNKNOWN_METER, detail)
    return meter(state, found.meter_id)


def check_active(entry: Meter) -> None:
    """Errors: NOT_ACTIVE for a meter that waits for approval, is suspended or retired."""
    if entry.status is not MeterStatus.ACTIVE:
        by = f" by {entry.suspended_by}" if entry.suspended_by else ""
        detail = f"meter {entry.meter_id.hex()} is {entry.status}{by}: it neither counts nor trades"
        raise Rejected(ErrorCode.NOT_ACTIVE, detail)


def counts(state: Reader, entry: Meter) -> bool:
    """Whether what a meter counts now is minted."""
    return entry.status is MeterStatus.ACTIVE and participant(state, entry.owner).active


def check_counts(state: Reader, entry: Meter) -> Participant:
    """The owner of a meter whose readings count now.

    Errors: NOT_ACTIVE for a meter that waits for approval, is suspended or retired, or whose owner
    is suspended: then nothing is minted.
    """
    check_active(entry)
    owner = participant(state, entry.owner)
    if not owner.active:
        detail = (
            f"{format_address(owner.account)} is suspended by {owner.suspended_by}: readings of "
            "its meters do not count"
        )
        raise Rejected(ErrorCode.NOT_ACTIVE, detail)
    return owner


def check_known(state: Reader, account: bytes) -> None:
    """Errors: NOT_REGISTERED unless the account is a participant's or an organisation's."""
    if OPERATORS.get(state, account) is None:
        participant(state, account)


# -- Commands --------------------------------------------------------------------------------------


def register_participant(
    state: Overlay, command: RegisterParticipant, *, sender: bytes, now_ms: int
) -> list[RegistryEvent]:
    """Let an account trade.

    Errors: UNKNOWN_ZONE; NOT_GRID_OPERATOR unless a distributor sends it; WRONG_TERRITORY unless
    it is the territory's; ALREADY_REGISTERED, also for an organisation's operator key;
    LICENCE_EXPIRED at or before now_ms.
    """
    check_distributor(state, command.territory, sender)
    _check_no_operator(state, command.account)
    if PARTICIPANTS.get(state, command.account):
        detail = f"{format_address(command.account)} is a participant already"
        raise Rejected(ErrorCode.ALREADY_REGISTERED, detail)
    _check_licence_end(command.licence_expiry_ms, now_ms)
    entry = Participant(
        account=command.account,
        role=command.role,
        kyc_ref=command.kyc_ref,
        licence_class=command.licence_class,
        licence_expiry_ms=command.licence_expiry_ms,
        vat_registered=command.vat_registered,
        territory=command.territory,
        consent_version=command.consent_version,
        daily_cap_wh=command.daily_cap_wh,
        active=True,
        export_nameplate_w=0,
    )
    PARTICIPANTS.put(state, command.account, entry)
    number = enrolment_count(state)
    ENROLMENTS.put(state, u64(number), Enrolment(command.account))
    ENROLMENT_COUNT.put(state, b"", EnrolmentCount(number + 1))
    return [ParticipantRegistered(command.account, command.role, command.territory)]


def suspend_participant(
    state: Overlay, command: SuspendParticipant, *, sender: bytes
) -> list[RegistryEvent]:
    """Take a participant off the market; the caller cancels its open orders.

    Errors: NOT_REGISTERED; NOT_GRID_OPERATOR, WRONG_TERRITORY unless its distributor or the
    regulator sends it; DUPLICATE for one that is suspended. The regulator may take over a
    distributor's suspension, so that the distributor cannot end it.
    """
    entry = participant(state, command.account)
    by = overseer(state, entry.territory, sender)
    check_may_suspend(by, entry.suspended_by, what=format_address(command.account))
    suspended = replace(entry, active=False, suspended_by=by.name)
    PARTICIPANTS.put(state, command.account, suspended)
    return [ParticipantSuspended(command.account, by.name, command.reason)]


def reinstate_participant(
    state: Overlay, command: ReinstateParticipant, *, sender: bytes, now_ms: int
) -> list[RegistryEvent]:
    """Let a suspended participant trade again; its meters start anew with their next readings.

    Errors: as for the suspension; DUPLICATE for one that is active; NOT_PERMITTED when the
    regulator suspended it and somebody else would reinstate it.
    """
    entry = participant(state, command.account)
    by = overseer(state, entry.territory, sender)
    check_may_reinstate(state, by, entry.suspended_by, what=format_address(command.account))
    reinstated = replace(entry, active=True, suspended_by="", restart_slot=slot_at(now_ms))
    PARTICIPANTS.put(state, command.account, reinstated)
    return [ParticipantReinstated(command.account, by.name, command.reason)]


def renew_licence(
    state: Overlay, command: RenewLicence, *, sender: bytes, now_ms: int
) -> list[RegistryEvent]:
    """Enter a participant's new licence.

    The caller cancels open orders that would outlast it. Errors: NOT_REGISTERED; NOT_GRID_OPERATOR,
    WRONG_TERRITORY; LICENCE_EXPIRED at or before now_ms; NOT_PERMITTED for a class whose limit the
    participant's plants exceed.
    """
    entry = participant(state, command.account)
    check_distributor(state, entry.territory, sender)
    _check_licence_end(command.licence_expiry_ms, now_ms)
    check_class(command.licence_class, entry.export_nameplate_w)
    renewed = replace(
        entry,
        licence_class=command.licence_class,
        licence_expiry_ms=command.licence_expiry_ms,
    )
    PARTICIPANTS.put(state, command.account, renewed)
    return [LicenceRenewed(command.account, command.licence_class, command.licence_expiry_ms)]


# -- Checks ----------------------------------------------------------------------------------------


def check_distributor(state: Reader, prefix: str, sender: bytes) -> Organisation:
    """The distributor of a territory, if it signs. Errors: UNKNOWN_ZONE; NOT_GRID_OPERATOR,
    WRONG_TERRITORY for anybody else.
    """
    distributor = distributor_of(state, prefix)
    if sender == distributor.operator:
        return distributor
    found = OPERATORS.get(state, sender)
    if found is None or found.kind is not OrganisationKind.DISTRIBUTOR:
        detail = f"only {distributor.name} acts in {prefix}, not {format_address(sender)}"
        raise Rejected(ErrorCode.NOT_GRID_OPERATOR, detail)
    detail = f"{found.name} is not the distributor of {prefix}, {distributor.name} is"
    raise Rejected(ErrorCode.WRONG_TERRITORY, detail)


def check_may_suspend(by: Organisation, suspended_by: str, *, what: str) -> None:
    """The regulator may take over another's suspension. Errors: DUPLICATE for any other second."""
    takes_over = by.kind is OrganisationKind.REGULATOR and suspended_by != by.name
    if suspended_by and not takes_over:
        raise Rejected(ErrorCode.DUPLICATE, f"{what} is suspended by {suspended_by} already")


def check_may_reinstate(state: Reader, by: Organisation, suspended_by: str, *, what: str) -> None:
    """Errors: DUPLICATE where nothing is suspended; NOT_PERMITTED where the regulator did it and
    another would end it.
    """
    if not suspended_by:
        raise Rejected(ErrorCode.DUPLICATE, f"{what} is not suspended")
    suspender = organisation(state, suspended_by)
    if suspender.kind is OrganisationKind.REGULATOR and by.name != suspender.name:
        detail = f"{suspender.name} suspended {what} and must end it"
        raise Rejected(ErrorCode.NOT_PERMITTED, detail)


def check_class(licence_class: LicenceClass, export_nameplate_w: int) -> None:
    """Whether a licence covers all plants of its holder. Errors: NOT_PERMITTED."""
    exempt = licence_class is LicenceClass.EXEMPT_LT_1000KVA
    if exempt and export_nameplate_w >= EXEMPT_BELOW_W:
        detail = (
            f"{export_nameplate_w} W of generation needs a licence; "
            "the owner is exempt below 1,000 kVA"
        )
        raise Rejected(ErrorCode.NOT_PERMITTED, detail)
    if licence_class is LicenceClass.RETAIL and export_nameplate_w:
        detail = (
            f"a retail licence is for no plant, and this would be {export_nameplate_w} W; "
            "generation needs a licence of its own"
        )
        raise Rejected(ErrorCode.NOT_PERMITTED, detail)


def _check_no_operator(state: Reader, account: bytes) -> None:
    found = OPERATORS.get(state, account)
    if found is not None:
        detail = f"{found.name} signs with this key, take another than {format_address(account)}"
        raise Rejected(ErrorCode.ALREADY_REGISTERED, detail)


def _check_licence_end(licence_expiry_ms: int, now_ms: int) -> None:
    if licence_expiry_ms <= now_ms:
        detail = f"the licence ended at {licence_expiry_ms}, it is {now_ms} (Unix ms)"
        raise Rejected(ErrorCode.LICENCE_EXPIRED, detail)
