"""The nouns of staking: validators with their pools of stake, delegations, what is being paid out.

gtx is in ugtx (10**6 ugtx = 1 gtx). Bonded gtx lies on ledger accounts that nobody has a key for,
so the supply of gtx never changes. Source: protocols/governance.md 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

from gridtokenx.primitives.codec import MAX_INT, Bytes32, Bytes64, Limit, wire
from gridtokenx.primitives.crypto import tagged_hash
from gridtokenx.primitives.quantities import BPS
from gridtokenx.primitives.state import Table
from gridtokenx.primitives.types import Address

BONDED: bytes = tagged_hash("gtx.account", b"bonded")  # Holds what all pools have.
UNBONDING: bytes = tagged_hash("gtx.account", b"unbonding")  # Holds what is being paid out.
REWARD_RESERVE: bytes = tagged_hash("gtx.account", b"reward reserve")  # Filled by genesis alone.
FEES: bytes = tagged_hash("gtx.account", b"fees")  # Fees of the block that is being executed.

KEY_DOMAIN = b"GTXv1 validator key"
FOR_EVER = MAX_INT  # `jailed_until_height` of a validator that was punished with all its stake.
# Each height of an offence takes this at least, so a hundred of them take everything.
LEAST_SLASH_BPS = 100
MAX_OFFENCES = BPS // LEAST_SLASH_BPS

Rate = Annotated[int, Limit(0, BPS)]
Amount = Annotated[int, Limit(1, MAX_INT)]
Blocks = Annotated[int, Limit(1, 10_000_000)]
Moniker = Annotated[str, Limit(1, 64)]


@wire(160)
@dataclass(frozen=True, slots=True)
class StakingParameters:
    """Every number of staking that governance may change.

    A validator weighs one for each `unit_ugtx` of its pool, at most `weight_cap_bps` of the set.
    `min_bond_ugtx` is the least that a single command may move; `min_self_bond_ugtx` what an
    operator must have in its own pool to be elected. Durations are in blocks of the national chain.
    """

    unit_ugtx: Amount = 1_000_000
    min_bond_ugtx: Amount = 1_000_000
    min_self_bond_ugtx: Amount = 10_000_000_000
    max_validators: Annotated[int, Limit(1, 100)] = 21
    min_validators: Annotated[int, Limit(1, 100)] = 4
    weight_cap_bps: Annotated[int, Limit(1, BPS)] = 2000
    unbonding_blocks: Blocks = 120_960  # 14 days of 10 s
    jail_blocks: Blocks = 8640
    slash_bps: Annotated[int, Limit(LEAST_SLASH_BPS, BPS)] = 500
    downtime_blocks: Blocks = 8640
    downtime_slash_bps: Annotated[int, Limit(0, 1000)] = 1
    block_reward_ugtx: int = 1_000_000
    treasury_fee_bps: Rate = 2000


@wire(162)
@dataclass(frozen=True, slots=True)
class Offence:
    """What a validator did in one epoch, the one that begins at `epoch_height`.

    It takes `slash_bps` of all that was bonded at `backed_since` or later. `own_bps` of that is for
    the validator's own `heights`; more is taken when others offended in the same epoch.
    `convicted_height` is that of the first conviction.
    """

    epoch_height: int
    backed_since: int
    convicted_height: int
    heights: Annotated[tuple[int, ...], Limit(1, MAX_OFFENCES)]
    own_bps: Rate
    slash_bps: Rate


@wire(161)
@dataclass(frozen=True, slots=True)
class Validator:
    """A candidate for the validator set, run by the account `operator`.

    A delegation of n shares is worth n * stake_ugtx // shares. `jailed_until_height` is 0 for a
    validator in good standing; `changed_height` is that of its last change of key or commission;
    `open_entries` of stake that left, by payment or by redelegation, are still within its reach.
    """

    operator: Address
    consensus_key: Bytes32
    moniker: Moniker
    commission_bps: Rate
    changed_height: int
    stake_ugtx: int = 0
    shares: int = 0
    open_entries: int = 0
    jailed_until_height: int = 0
    offences: Annotated[tuple[Offence, ...], Limit(0, MAX_OFFENCES)] = ()

    @property
    def is_jailed(self) -> bool:
        """Whether it may not be elected until its operator has it released."""
        return self.jailed_until_height > 0

    @property
    def slashed_bps(self) -> int:
        """What offences have taken of stake that was in the pool all the time."""
        return min(BPS, sum(one.slash_bps for one in self.offences))

    def reached_bps(self, height: int) -> int:
        """What offences take of stake that was in the pool until `height` and no longer."""
        reach = (one.slash_bps for one in self.offences if one.backed_since <= height)
        return min(BPS, sum(reach))

    def value_ugtx(self, shares: int) -> int:
        """What shares are worth. Rounded down: the rest stays with the pool."""
        return shares * self.stake_ugtx // self.shares if self.shares else 0


@wire(163)
@dataclass(frozen=True, slots=True)
class CreateValidator:
    """Command: become a candidate; the sender is its operator and bonds to itself.

    `proof` is the consensus key's signature over `proof_bytes`, so nobody can register a key of
    somebody else, whose offences would then be punished twice.
    """

    consensus_key: Bytes32
    moniker: Moniker
    commission_bps: Rate
    self_bond_ugtx: Amount
    proof: Bytes64


@wire(164)
@dataclass(frozen=True, slots=True)
class UpdateValidator:
    """Command of an operator: name, commission, and a new key with its proof, or None for both."""

    moniker: Moniker
    commission_bps: Rate
    consensus_key: Bytes32 | None
    proof: Bytes64 | None


@wire(165)
@dataclass(frozen=True, slots=True)
class Bond:
    """Command: add own gtx to the pool of a validator, named by its operator."""

    validator: Address
    amount_ugtx: Amount


@wire(166)
@dataclass(frozen=True, slots=True)
class Unbond:
    """Command: take gtx out of a pool; it is paid out `unbonding_blocks` later."""

    validator: Address
    amount_ugtx: Amount


@wire(64)
@dataclass(frozen=True, slots=True)
class Redelegate:
    """Command: move own gtx from one pool to another at once. Offences at the source reach it for
    `unbonding_blocks` more; until then it stays where it is.
    """

    source: Address
    destination: Address
    amount_ugtx: Amount


@wire(167)
@dataclass(frozen=True, slots=True)
class Unjail:
    """Command of a jailed validator's operator: its node is in order, elect it again."""


@wire(168)
@dataclass(frozen=True, slots=True)
class Delegation:
    """An account's part of a validator's pool. `locked_shares` of it came by redelegation and are
    still within the reach of offences elsewhere.
    """

    shares: int
    locked_shares: int = 0


@wire(169)
@dataclass(frozen=True, slots=True)
class UnbondingEntry:
    """gtx on its way out of a pool; offences that reach `started_height` still lessen it.

    `slashed_bps` is what offences had taken of the pool before.
    """

    validator: Address
    delegator: Address
    amount_ugtx: int
    started_height: int
    slashed_bps: Rate


@wire(65)
@dataclass(frozen=True, slots=True)
class RedelegationEntry:
    """`shares` of the destination's pool that still answer for offences at the source."""

    source: Address
    destination: Address
    delegator: Address
    shares: int
    started_height: int
    slashed_bps: Rate


@wire(98)
@dataclass(frozen=True, slots=True)
class EntryReference:
    """An index entry that leads to an open entry."""

    started_height: int


@wire(68)
@dataclass(frozen=True, slots=True)
class Offender:
    """Who offended in an epoch, with its weight in the set of that epoch."""

    weight: int


@wire(170)
@dataclass(frozen=True, slots=True)
class OperatorReference:
    """An index entry that leads to a validator."""

    operator: Address


@wire(171)
@dataclass(frozen=True, slots=True)
class Count:
    """A running number."""

    number: int


class JailReason(StrEnum):
    """Why a validator was jailed."""

    OFFENCE = "offence"
    DOWNTIME = "downtime"


class RefusalReason(StrEnum):
    """Why an epoch's validator set is not the one that stake alone would elect."""

    TOO_FEW = "too_few"  # The set stays as it is.
    TOO_MUCH_AT_ONCE = "too_much_at_once"  # A third of the weight moves, the rest next epoch.


@wire(172)
@dataclass(frozen=True, slots=True)
class ValidatorDeclared:
    """Event: a validator was created or updated; a new key signs from the epoch after next."""

    operator: Address
    consensus_key: Bytes32
    moniker: str
    commission_bps: int


@wire(173)
@dataclass(frozen=True, slots=True)
class Bonded:
    """Event: gtx joined a pool for `shares` of it."""

    validator: Address
    delegator: Address
    amount_ugtx: int
    shares: int


@wire(174)
@dataclass(frozen=True, slots=True)
class UnbondingStarted:
    """Event: `shares` left a pool; what they were worth is paid out in the block `matures_height`.

    Shares of a pool that was slashed whole are worth nothing, and nothing will be paid.
    """

    validator: Address
    delegator: Address
    amount_ugtx: int
    shares: int
    matures_height: int


@wire(175)
@dataclass(frozen=True, slots=True)
class UnbondingFinished:
    """Event: gtx was paid out, less what offences took of it."""

    validator: Address
    delegator: Address
    paid_ugtx: int
    slashed_ugtx: int


@wire(66)
@dataclass(frozen=True, slots=True)
class Redelegated:
    """Event: `source_shares` became `shares` of another pool, where they are locked until the block
    `matures_height`.
    """

    source: Address
    destination: Address
    delegator: Address
    amount_ugtx: int
    source_shares: int
    shares: int
    matures_height: int


@wire(67)
@dataclass(frozen=True, slots=True)
class RedelegationFinished:
    """Event: the shares are free, less those that offences at the source took."""

    source: Address
    destination: Address
    delegator: Address
    slashed_shares: int
    slashed_ugtx: int


@wire(63)
@dataclass(frozen=True, slots=True)
class PenaltyRaised:
    """Event: an offence of before costs more, because others offended in the same epoch."""

    validator: Address
    slashed_ugtx: int
    slash_bps: int


@wire(176)
@dataclass(frozen=True, slots=True)
class ValidatorJailed:
    """Event: the validator lost gtx and will not be elected before it is released."""

    validator: Address
    reason: JailReason
    slashed_ugtx: int
    until_height: int


@wire(177)
@dataclass(frozen=True, slots=True)
class ValidatorReleased:
    """Event: the validator may be elected again."""

    validator: Address


@wire(178)
@dataclass(frozen=True, slots=True)
class RewardPaid:
    """Event: a proposer's pool earned a block's reward and its part of the fees.

    `commission_ugtx` of `reward_ugtx` was bonded for the operator alone, for `commission_shares`.
    """

    validator: Address
    reward_ugtx: int
    commission_ugtx: int
    treasury_ugtx: int
    commission_shares: int


@wire(179)
@dataclass(frozen=True, slots=True)
class ValidatorSetRefused:
    """Event: this epoch does not order the set that stake elects; `elected` counts its members."""

    reason: RefusalReason
    elected: int


StakingCommand = CreateValidator | UpdateValidator | Bond | Unbond | Redelegate | Unjail
StakingEvent = (
    ValidatorDeclared
    | Bonded
    | UnbondingStarted
    | UnbondingFinished
    | Redelegated
    | RedelegationFinished
    | PenaltyRaised
    | ValidatorJailed
    | ValidatorReleased
    | RewardPaid
    | ValidatorSetRefused
)

STAKING_PARAMETERS = Table(b"sp", StakingParameters)  # key: b""
VALIDATORS = Table(b"sv", Validator)  # key: operator
POOLED = Table(b"st", Count)  # key: b""; ugtx that all pools have
RANKING = Table(b"sr", OperatorReference)  # key: MAX_INT - stake u64, operator; not the jailed
CONSENSUS_KEYS = Table(b"sk", OperatorReference)  # key: consensus key; former ones too
DELEGATIONS = Table(b"sd", Delegation)  # key: delegator, operator
UNBONDINGS = Table(b"su", UnbondingEntry)  # key: matures u64, started u64, delegator, operator
LEAVING = Table(b"sl", EntryReference)  # key: delegator, operator, matures u64, started u64
# key: matures u64, started u64, delegator, destination, source
REDELEGATIONS = Table(b"sm", RedelegationEntry)
ARRIVING = Table(b"si", EntryReference)  # delegator, destination, matures, started, source
OFFENDERS = Table(b"so", Offender)  # key: first height of an epoch u64, operator
ABSENCES = Table(b"sa", Count)  # key: operator; blocks in a row without a sign of it


def proof_bytes(chain_id: bytes, operator: bytes, consensus_key: bytes) -> bytes:
    """What a consensus key signs to show that `operator` holds it."""
    return KEY_DOMAIN + chain_id + operator + consensus_key
