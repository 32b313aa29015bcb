"""The nouns of the registry: organisations, territories, participants and meters."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

from gridtokenx.primitives.codec import MAX_INT, Bytes32, Limit, wire
from gridtokenx.primitives.places import TerritoryPrefix
from gridtokenx.primitives.quantities import MAX_REGISTER_WH
from gridtokenx.primitives.state import Table
from gridtokenx.primitives.types import Address

MAX_NAMEPLATE_W = 10**10  # 10 GW: three times the country's greatest plant.
Nameplate = Annotated[int, Limit(0, MAX_NAMEPLATE_W)]
Register = Annotated[int, Limit(0, MAX_REGISTER_WH)]
Reason = Annotated[str, Limit(1, 200)]  # Why an authority acts; no personal data.


class OrganisationKind(StrEnum):
    """What an organisation does in the market."""

    DISTRIBUTOR = "distributor"  # MEA, PEA: distribution, retail, metering
    TRANSMISSION = "transmission"  # EGAT
    REGULATOR = "regulator"  # ERC
    PAYMENT = "payment"  # licensed payment authority: deposits and withdrawals


class Role(StrEnum):
    """What a participant does in the market."""

    CONSUMER = "consumer"
    PROSUMER = "prosumer"
    PRODUCER = "producer"
    RETAILER = "retailer"


class LicenceClass(StrEnum):
    """Energy Industry Act licence; generation under 1,000 kVA needs none."""

    EXEMPT_LT_1000KVA = "exempt_lt_1000kva"
    GENERATION = "generation"
    RETAIL = "retail"


class ProsumerClass(StrEnum):
    """The customer class of a metering point."""

    NONE = "none"  # a consumer or a plant without own load
    RESIDENTIAL = "residential"
    COMMERCIAL = "commercial"
    INDUSTRIAL = "industrial"
    PUBLIC = "public"


class Generation(StrEnum):
    """What the plant behind a meter makes energy from; the market's names of sources."""

    NONE = "none"
    SOLAR = "solar"
    WIND = "wind"
    HYDRO = "hydro"
    BIOMASS = "biomass"
    GEOTHERMAL = "geothermal"
    NATURAL_GAS = "natural_gas"
    COAL = "coal"


@wire(70)
@dataclass(frozen=True, slots=True)
class Organisation:
    """An authority. `operator` is the key that signs for it, `account` receives its money."""

    name: Annotated[str, Limit(1, 16)]
    kind: OrganisationKind
    operator: Address
    account: Address


@wire(71)
@dataclass(frozen=True, slots=True)
class Territory:
    """A territory that this chain serves. Source: protocols/market.md 5."""

    prefix: TerritoryPrefix
    distributor: Annotated[str, Limit(1, 16)]  # an organisation's name
    distributor_area: Annotated[str, Limit(0, 8)]  # PEA's N1..S3, empty for MEA
    transmission_area: Annotated[str, Limit(0, 8)]  # EGAT's M C N NE S


@wire(72)
@dataclass(frozen=True, slots=True)
class Participant:
    """A person or company that may trade. No name, address or ID number is on the chain.

    `kyc_ref` is HMAC(salt, id) with the salt off chain; `daily_cap_wh` bounds what the account
    may order in one Bangkok day; `export_nameplate_w` is the sum over its meters; `suspended_by`
    names the organisation that suspended it (empty while active). What its meters counted before
    `restart_slot`, the slot of its last reinstatement, is not minted.
    """

    account: Address
    role: Role
    kyc_ref: Bytes32
    licence_class: LicenceClass
    licence_expiry_ms: int
    vat_registered: bool
    territory: TerritoryPrefix
    consent_version: int
    daily_cap_wh: int
    active: bool
    export_nameplate_w: int
    suspended_by: Annotated[str, Limit(0, 16)] = ""
    restart_slot: int = 0


class MeterStatus(StrEnum):
    """What a meter's readings do."""

    ACTIVE = "active"
    PENDING = "pending"  # A large plant that waits for the regulator.
    SUSPENDED = "suspended"  # By its distributor or the regulator: nothing counts.
    RETIRED = "retired"  # Gone for good.


@wire(73)
@dataclass(frozen=True, slots=True)
class Meter:
    """A metering point. `meter_id` names it for life: the key of its first device; orders name it.

    `key` is the Ed25519 key of the device that signs its readings today (ReplaceMeter changes it).
    `first_slot` is the slot in which its registers stood at import_wh_cum and export_wh_cum and
    from which on readings count; `suspended_by` names the organisation that suspended it. What it
    counted before `restart_slot`, the slot of its approval, is not minted.
    """

    meter_id: Bytes32
    owner: Address
    location: str
    nameplate_import_w: int
    nameplate_export_w: int
    source: Generation
    prosumer_class: ProsumerClass
    first_slot: int
    import_wh_cum: int
    export_wh_cum: int
    key: Bytes32
    status: MeterStatus = MeterStatus.ACTIVE
    suspended_by: Annotated[str, Limit(0, 16)] = ""
    restart_slot: int = 0


@wire(86)
@dataclass(frozen=True, slots=True)
class MeterKey:
    """Which metering point a device's key signs for; one that is not in use never signs again."""

    meter_id: Bytes32
    in_use: bool


@wire(74)
@dataclass(frozen=True, slots=True)
class RegisterParticipant:
    """Command of the territory's distributor. `daily_cap_wh` is in Wh a Bangkok day."""

    account: Address
    role: Role
    kyc_ref: Bytes32
    licence_class: LicenceClass
    licence_expiry_ms: int
    vat_registered: bool
    territory: TerritoryPrefix
    consent_version: Annotated[int, Limit(1, 2**31)]
    daily_cap_wh: Annotated[int, Limit(1, MAX_INT)]


@wire(75)
@dataclass(frozen=True, slots=True)
class RegisterMeter:
    """Command of the distributor of the meter's territory.

    Nameplates in W; the two registers are what the meter shows on the day (Wh), so that what it
    counted before is never minted.
    """

    meter_id: Bytes32
    owner: Address
    location: Annotated[str, Limit(1, 32)]
    nameplate_import_w: Nameplate
    nameplate_export_w: Nameplate
    source: Generation
    prosumer_class: ProsumerClass
    import_wh_cum: Register = 0
    export_wh_cum: Register = 0


@wire(76)
@dataclass(frozen=True, slots=True)
class ParticipantRegistered:
    """Event: the account may trade from now on."""

    account: Address
    role: Role
    territory: str


@wire(77)
@dataclass(frozen=True, slots=True)
class MeterRegistered:
    """Event: the meter's readings count from now on, unless it is `pending`: then once approved."""

    meter_id: Bytes32
    owner: Address
    location: str
    status: MeterStatus


@wire(78)
@dataclass(frozen=True, slots=True)
class SuspendParticipant:
    """Command of the participant's distributor or the regulator: no trade until reinstated."""

    account: Address
    reason: Reason


@wire(79)
@dataclass(frozen=True, slots=True)
class ReinstateParticipant:
    """Command that ends a suspension; one by the regulator is ended by the regulator alone."""

    account: Address
    reason: Reason


@wire(80)
@dataclass(frozen=True, slots=True)
class RenewLicence:
    """Command of the participant's distributor: a licence's new class and end."""

    account: Address
    licence_class: LicenceClass
    licence_expiry_ms: int


@wire(81)
@dataclass(frozen=True, slots=True)
class ParticipantSuspended:
    """Event: the account may not trade; `by` is the organisation's name."""

    account: Address
    by: str
    reason: str


@wire(82)
@dataclass(frozen=True, slots=True)
class ParticipantReinstated:
    """Event: the account may trade again."""

    account: Address
    by: str
    reason: str


@wire(83)
@dataclass(frozen=True, slots=True)
class LicenceRenewed:
    """Event: the account's licence has a new class or end."""

    account: Address
    licence_class: LicenceClass
    licence_expiry_ms: int


@wire(84)
@dataclass(frozen=True, slots=True)
class Enrolment:
    """Who was registered as the n-th participant, so that all can be visited in bounded steps."""

    account: Address


@wire(85)
@dataclass(frozen=True, slots=True)
class EnrolmentCount:
    """How many participants were ever registered."""

    count: int


@wire(87)
@dataclass(frozen=True, slots=True)
class ReplaceMeter:
    """Command of the distributor of the meter's territory: another device at the metering point.

    The old device's last registers and the new one's first (Wh). `new_key` signs from now on; the
    key before it never signs again.
    """

    meter_id: Bytes32
    new_key: Bytes32
    old_import_wh_cum: Register
    old_export_wh_cum: Register
    new_import_wh_cum: Register
    new_export_wh_cum: Register


@wire(88)
@dataclass(frozen=True, slots=True)
class RetireMeter:
    """Command of the distributor of the meter's territory: the metering point is no more.

    Its last registers (Wh): the rest since its last reading is minted.
    """

    meter_id: Bytes32
    import_wh_cum: Register
    export_wh_cum: Register


@wire(89)
@dataclass(frozen=True, slots=True)
class SuspendMeter:
    """Command of the distributor or the regulator: nothing the meter counts is minted."""

    meter_id: Bytes32
    reason: Reason


@wire(90)
@dataclass(frozen=True, slots=True)
class ReinstateMeter:
    """Command that ends a meter's suspension; one by the regulator is ended by the regulator alone.

    Its registers as they stand now (Wh): what it counted meanwhile is never minted.
    """

    meter_id: Bytes32
    import_wh_cum: Register
    export_wh_cum: Register
    reason: Reason


@wire(91)
@dataclass(frozen=True, slots=True)
class ApproveMeter:
    """Command of the regulator: a large plant's meter counts from now on."""

    meter_id: Bytes32


@wire(92)
@dataclass(frozen=True, slots=True)
class MeterReplaced:
    """Event: another device signs for the metering point."""

    meter_id: Bytes32
    owner: Address
    old_key: Bytes32
    new_key: Bytes32


@wire(93)
@dataclass(frozen=True, slots=True)
class MeterRetired:
    """Event: the metering point is no more; its open orders are cancelled."""

    meter_id: Bytes32
    owner: Address


@wire(94)
@dataclass(frozen=True, slots=True)
class MeterSuspended:
    """Event: the meter's readings do not count; `by` is the organisation's name."""

    meter_id: Bytes32
    owner: Address
    by: str
    reason: str


@wire(95)
@dataclass(frozen=True, slots=True)
class MeterReinstated:
    """Event: the meter's readings count again."""

    meter_id: Bytes32
    owner: Address
    by: str
    reason: str


@wire(96)
@dataclass(frozen=True, slots=True)
class MeterApproved:
    """Event: a large plant's readings count from now on."""

    meter_id: Bytes32
    owner: Address
    by: str


@wire(97)
@dataclass(frozen=True, slots=True)
class OperatorRotated:
    """Event: another key signs for an organisation; the one before it for nobody."""

    organisation: str
    operator: Address


MeterCommand = (
    RegisterMeter | ReplaceMeter | RetireMeter | SuspendMeter | ReinstateMeter | ApproveMeter
)
ParticipantCommand = RegisterParticipant | SuspendParticipant | ReinstateParticipant | RenewLicence
RegistryCommand = ParticipantCommand | MeterCommand
RegistryEvent = (
    ParticipantRegistered
    | MeterRegistered
    | ParticipantSuspended
    | ParticipantReinstated
    | LicenceRenewed
    | MeterReplaced
    | MeterRetired
    | MeterSuspended
    | MeterReinstated
    | MeterApproved
    | OperatorRotated
)

ORGANISATIONS = Table(b"ro", Organisation)  # key: name
PAYMENT = Table(b"ra", Organisation)  # key: b""; the one payment authority
OPERATORS = Table(b"rk", Organisation)  # key: the operator's 32-byte address
TERRITORIES = Table(b"rt", Territory)  # key: prefix
PARTICIPANTS = Table(b"rp", Participant)  # key: 32-byte address
METERS = Table(b"rm", Meter)  # key: 32-byte meter id
METER_KEYS = Table(b"rd", MeterKey)  # key: a device's 32-byte key, for ever
ENROLMENTS = Table(b"rn", Enrolment)  # key: number u64, from 0
ENROLMENT_COUNT = Table(b"rc", EnrolmentCount)  # key: b""
