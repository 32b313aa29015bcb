"""The verbs of the registry: who may do what, and where.

Source: protocols/market.md section 5.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace

from gridtokenx.primitives.errors import ErrorCode, Rejected
from gridtokenx.primitives.quantities import slot_at
from gridtokenx.primitives.state import Overlay, Reader
from gridtokenx.primitives.types import format_address
from gridtokenx.registry.model import (
    METERS,
    OPERATORS,
    ORGANISATIONS,
    PARTICIPANTS,
    PAYMENT,
    TERRITORIES,
    Generation,
    LicenceClass,
    Meter,
    MeterRegistered,
    Organisation,
    OrganisationKind,
    Participant,
    ParticipantRegistered,
    RegisterMeter,
    RegisterParticipant,
    RegistryEvent,
    Territory,
)

LOCATION = re.compile(r"([A-Z]{3})-[0-9]{2}-SUB[0-9]{3}")
# At unity power factor; Royal Decree 2552 asks no generation licence below 1,000 kVA.
EXEMPT_BELOW_W = 1_000_000


# Genesis


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
    """Serve a region prefix.

    Errors: UNKNOWN_ZONE for a bad prefix; ALREADY_REGISTERED; NOT_REGISTERED unless its
    distributor is an organisation of that kind.
    """
    prefix = territory.prefix
    if re.fullmatch(r"[A-Z]{3}", prefix) is None:
        raise Rejected(ErrorCode.UNKNOWN_ZONE, f"a region prefix has 3 capitals, not {prefix!r}")
    if TERRITORIES.get(state, prefix.encode()):
        raise Rejected(ErrorCode.ALREADY_REGISTERED, f"region {prefix} is served already")
    distributor = ORGANISATIONS.get(state, territory.distributor.encode())
    if distributor is None or distributor.kind is not OrganisationKind.DISTRIBUTOR:
        detail = f"{territory.distributor} of region {prefix} is not a registered distributor"
        raise Rejected(ErrorCode.NOT_REGISTERED, detail)
    TERRITORIES.put(state, prefix.encode(), territory)


# Questions


def organisation(state: Reader, name: str) -> Organisation:
    """An organisation by name. Errors: NOT_REGISTERED."""
    found = ORGANISATIONS.get(state, name.encode())
    if found is None:
        raise Rejected(ErrorCode.NOT_REGISTERED, f"there is no organisation {name!r}")
    return found


def organisations(state: Reader) -> Iterable[Organisation]:
    """All organisations in name order."""
    return (value for _, value in ORGANISATIONS.items(state))


def organisation_of_operator(state: Reader, operator: bytes) -> Organisation | None:
    """The organisation an account signs for, if any."""
    return OPERATORS.get(state, operator)


def payment_authority(state: Reader) -> bytes | None:
    """Operator key of the payment authority, if the chain has one."""
    found = PAYMENT.get(state, b"")
    return None if found is None else found.operator


def distributor_of(state: Reader, prefix: str) -> Organisation:
    """The distributor that serves a region prefix. Errors: UNKNOWN_ZONE."""
    territory = TERRITORIES.get(state, prefix.encode())
    if territory is None:
        served = ", ".join(key.decode() for key, _ in TERRITORIES.items(state))
        detail = f"region {prefix!r} is not served by this chain, which serves {served or 'none'}"
        raise Rejected(ErrorCode.UNKNOWN_ZONE, detail)
    return organisation(state, territory.distributor)


def distributor_account(state: Reader, prefix: str) -> bytes:
    """The account that is paid the wheeling of a region prefix. Errors: UNKNOWN_ZONE."""
    return distributor_of(state, prefix).account


def region_of(location: str) -> str:
    """The prefix of a location `PPP-NN-SUBNNN`. Errors: UNKNOWN_ZONE for another syntax."""
    match = LOCATION.fullmatch(location)
    if match is None:
        detail = f"a location looks like BKK-01-SUB001, not {location!r}"
        raise Rejected(ErrorCode.UNKNOWN_ZONE, detail)
    return match[1]


def check_location(state: Reader, location: str) -> str:
    """The region prefix of a location this chain serves. Errors: UNKNOWN_ZONE."""
    prefix = region_of(location)
    if TERRITORIES.get(state, prefix.encode()) is None:
        distributor_of(state, prefix)
    return prefix


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


def check_known(state: Reader, account: bytes) -> None:
    """Errors: NOT_REGISTERED unless the account is a participant's or an organisation's."""
    if OPERATORS.get(state, account) is None:
        participant(state, account)


# Commands


def register_participant(
    state: Overlay, command: RegisterParticipant, *, sender: bytes, now_ms: int
) -> list[RegistryEvent]:
    """Let an account trade.

    Errors: UNKNOWN_ZONE; NOT_GRID_OPERATOR unless a distributor sends it; WRONG_TERRITORY unless
    it is the territory's; ALREADY_REGISTERED; LICENCE_EXPIRED at or before now_ms.
    """
    _check_distributor(state, command.territory, sender)
    if PARTICIPANTS.get(state, command.account):
        detail = f"{format_address(command.account)} is a participant already"
        raise Rejected(ErrorCode.ALREADY_REGISTERED, detail)
    if command.licence_expiry_ms <= now_ms:
        detail = f"the licence ended at {command.licence_expiry_ms}, it is {now_ms} (Unix ms)"
        raise Rejected(ErrorCode.LICENCE_EXPIRED, detail)
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
    return [ParticipantRegistered(command.account, command.role, command.territory)]


def register_meter(
    state: Overlay, command: RegisterMeter, *, sender: bytes, now_ms: int
) -> list[RegistryEvent]:
    """Let a meter's readings count.

    Errors: UNKNOWN_ZONE; NOT_GRID_OPERATOR, WRONG_TERRITORY as for participants, by the meter's
    location; NOT_REGISTERED for its owner; ALREADY_REGISTERED; UNKNOWN_SOURCE when plant and export
    nameplate contradict each other; NOT_PERMITTED when an exempt owner would reach 1,000 kVA.
    """
    _check_distributor(state, region_of(command.location), sender)
    owner = participant(state, command.owner)
    if METERS.get(state, command.meter_id):
        detail = f"meter {command.meter_id.hex()} is registered already"
        raise Rejected(ErrorCode.ALREADY_REGISTERED, detail)
    exports = command.nameplate_export_w > 0
    if exports != (command.source is not Generation.NONE):
        detail = f"source {command.source} with an export nameplate {command.nameplate_export_w} W"
        raise Rejected(ErrorCode.UNKNOWN_SOURCE, detail)
    total_w = owner.export_nameplate_w + command.nameplate_export_w
    if owner.licence_class is LicenceClass.EXEMPT_LT_1000KVA and total_w >= EXEMPT_BELOW_W:
        detail = f"{total_w} W of generation needs a licence; the owner is exempt below 1,000 kVA"
        raise Rejected(ErrorCode.NOT_PERMITTED, detail)
    METERS.put(state, command.meter_id, _meter(command, now_ms))
    if exports:
        PARTICIPANTS.put(state, command.owner, replace(owner, export_nameplate_w=total_w))
    return [MeterRegistered(command.meter_id, command.owner, command.location)]


def _meter(command: RegisterMeter, now_ms: int) -> Meter:
    return Meter(
        meter_id=command.meter_id,
        owner=command.owner,
        location=command.location,
        nameplate_import_w=command.nameplate_import_w,
        nameplate_export_w=command.nameplate_export_w,
        source=command.source,
        prosumer_class=command.prosumer_class,
        first_slot=slot_at(now_ms),
        import_wh_cum=command.import_wh_cum,
        export_wh_cum=command.export_wh_cum,
    )


def _check_distributor(state: Reader, prefix: str, sender: bytes) -> None:
    distributor = distributor_of(state, prefix)
    if sender == distributor.operator:
        return
    found = OPERATORS.get(state, sender)
    if found is None or found.kind is not OrganisationKind.DISTRIBUTOR:
        detail = f"only {distributor.name} registers in {prefix}, not {format_address(sender)}"
        raise Rejected(ErrorCode.NOT_GRID_OPERATOR, detail)
    detail = f"{found.name} is not the distributor of {prefix}, {distributor.name} is"
    raise Rejected(ErrorCode.WRONG_TERRITORY, detail)
