"""The nouns of governance: what may be proposed, ballots and tallies, what a passed vote does.

Times are market time in Unix ms (the `now_ms` of the national chain's blocks), money in ugtx.
Source: protocols/governance.md 2.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

from gridtokenx.primitives.codec import MAX_INT, Bytes32, Limit, wire
from gridtokenx.primitives.crypto import tagged_hash
from gridtokenx.primitives.places import TerritoryPrefix
from gridtokenx.primitives.quantities import BPS
from gridtokenx.primitives.state import Table
from gridtokenx.primitives.types import Address

DEPOSITS: bytes = tagged_hash("gtx.account", b"deposits")  # Holds the deposits of open proposals.

MAX_DESCRIPTION_BYTES = 10_000
DAY_MS = 86_400_000
Rate = Annotated[int, Limit(0, BPS)]
ChainName = Annotated[str, Limit(2, 8)]
Organisation = Annotated[str, Limit(1, 16)]
Title = Annotated[str, Limit(1, 140)]
Description = Annotated[str, Limit(0, MAX_DESCRIPTION_BYTES)]
Duration = Annotated[int, Limit(1, 365 * DAY_MS)]


@wire(180)
@dataclass(frozen=True, slots=True)
class GovernanceParameters:
    """Every number of governance, which governance may change. A proposal keeps its deposit.

    `quorum_bps` is the part of all that is bonded which must say yes, `approval_bps` that of all
    that say yes or no.
    """

    voting_period_ms: Duration = 7 * DAY_MS
    quorum_bps: Rate = 3334
    approval_bps: Rate = 6000
    execution_delay_ms: Annotated[int, Limit(0, 365 * DAY_MS)] = 2 * DAY_MS
    deposit_ugtx: int = 1_000_000_000
    fee_ugtx: int = 10_000_000
    max_active: Annotated[int, Limit(1, 100)] = 5


# -- What may be proposed --------------------------------------------------------------------------


@wire(181)
@dataclass(frozen=True, slots=True)
class ParameterChange:
    """A new value for one parameter, both as people write them: `carbon_credits.solar`, `0.7`."""

    parameter: Annotated[str, Limit(1, 64)]
    new_value: Annotated[str, Limit(1, 32)]


@wire(182)
@dataclass(frozen=True, slots=True)
class PricingRegulation:
    """A new price band (mTHB/kWh) and ceiling at peak, from `effective_ms` on but not earlier than
    the execution delay allows.
    """

    min_price_mthb: int
    max_price_mthb: int
    peak_multiplier_bps: int
    effective_ms: int


class AuthorityChange(StrEnum):
    """What becomes of an authority's node on a region chain."""

    ADD = "add"
    REMOVE = "remove"
    SUSPEND = "suspend"
    REINSTATE = "reinstate"
    ROTATE = "rotate"  # Another key for the same node and weight.


@wire(183)
@dataclass(frozen=True, slots=True)
class AuthorityManagement:
    """A change of a region chain's authorities; needs their own approval too.

    `public_key` is the node's consensus key; `new_key` only for ROTATE; `weight` only for ADD.
    """

    chain: ChainName
    change: AuthorityChange
    organisation: Organisation
    public_key: Bytes32
    new_key: Bytes32 | None
    weight: Annotated[int, Limit(0, 2**40)]


@wire(184)
@dataclass(frozen=True, slots=True)
class Emergency:
    """A halt of trade in a territory; passes with more than 2/3 of its region's authorities."""

    territory: TerritoryPrefix
    reason: Annotated[str, Limit(1, 200)]
    duration_ms: Annotated[int, Limit(1, 7 * DAY_MS)]


@wire(185)
@dataclass(frozen=True, slots=True)
class CarbonCreditRate:
    """Credits for a source, in milli-credit/kWh."""

    source: Annotated[str, Limit(1, 32)]
    mcr_per_kwh: int


@wire(186)
@dataclass(frozen=True, slots=True)
class CarbonCreditPolicy:
    """New credits for several sources at once."""

    rates: Annotated[tuple[CarbonCreditRate, ...], Limit(1, 16)]


@wire(187)
@dataclass(frozen=True, slots=True)
class InfrastructureFunding:
    """A payment of gtx from the treasury."""

    to: Address
    amount_ugtx: Annotated[int, Limit(1, MAX_INT)]


@wire(188)
@dataclass(frozen=True, slots=True)
class Upgrade:
    """The version of the program that blocks from `height` of the national chain on need."""

    version: Annotated[str, Limit(1, 32)]
    height: int


@wire(246)
@dataclass(frozen=True, slots=True)
class OperatorRotation:
    """Another key signs for an organisation, whatever became of the one before it.

    Needs the regulator's approval too; the regulator's own that of the other organisations.
    """

    organisation: Organisation
    new_operator: Address


@wire(119)
@dataclass(frozen=True, slots=True)
class NewAuthority:
    """A validating node that a region begins again with."""

    organisation: Organisation
    public_key: Bytes32
    weight: Annotated[int, Limit(1, 2**40)]


@wire(156)
@dataclass(frozen=True, slots=True)
class Reincarnation:
    """A frozen, dead or captured region goes on from its block `height`, which the national chain
    has accepted with this hash, and these alone sign it from then on.

    Needs more than two thirds of all bonded stake, and the regulator. Its approval holds the
    region: nothing passes to or from it until the vote has ended.
    """

    chain: ChainName
    height: int
    block_hash: Bytes32
    authorities: Annotated[tuple[NewAuthority, ...], Limit(1, 128)]


Content = (
    ParameterChange
    | PricingRegulation
    | AuthorityManagement
    | Emergency
    | CarbonCreditPolicy
    | InfrastructureFunding
    | Upgrade
    | OperatorRotation
    | Reincarnation
)


# -- Commands --------------------------------------------------------------------------------------


@wire(189)
@dataclass(frozen=True, slots=True)
class Propose:
    """Command: put something to the vote, for a deposit and a fee. At most 10,000 bytes of text."""

    title: Title
    description: Description
    content: Content


class Choice(StrEnum):
    """What a ballot says."""

    YES = "yes"
    NO = "no"
    ABSTAIN = "abstain"


@wire(190)
@dataclass(frozen=True, slots=True)
class Vote:
    """Command: vote with all own stake; a later vote replaces it."""

    proposal: int
    choice: Choice


@wire(191)
@dataclass(frozen=True, slots=True)
class ApproveAsAuthority:
    """Command of an authority: its organisation approves."""

    proposal: int


@wire(192)
@dataclass(frozen=True, slots=True)
class CancelProposal:
    """Command: take back an own proposal before anybody has voted on it."""

    proposal: int


GovernanceCommand = Propose | Vote | ApproveAsAuthority | CancelProposal


# -- State -----------------------------------------------------------------------------------------


class ProposalStatus(StrEnum):
    """Where a proposal stands."""

    VOTING = "voting"
    QUEUED = "queued"  # Passed, waits for its time.
    EXECUTED = "executed"
    FAILED = "failed"  # Passed, but could not be carried out.
    REJECTED = "rejected"
    NO_QUORUM = "no_quorum"
    CANCELLED = "cancelled"


@wire(193)
@dataclass(frozen=True, slots=True)
class Tally:
    """Bonded ugtx behind each choice, and all that was bonded."""

    yes_ugtx: int
    no_ugtx: int
    abstain_ugtx: int
    bonded_ugtx: int


@wire(194)
@dataclass(frozen=True, slots=True)
class Proposal:
    """A proposal without its text.

    `due_ms` is the end of the vote, then the time of execution; `ballots` counts accounts that
    voted; `approvals` are names of organisations; `tally` is made at the end of the vote.
    """

    number: int
    proposer: Address
    content: Content
    submitted_ms: int
    due_ms: int
    deposit_ugtx: int
    status: ProposalStatus = ProposalStatus.VOTING
    ballots: int = 0
    approvals: Annotated[tuple[Organisation, ...], Limit(0, 64)] = ()
    tally: Tally | None = None


@wire(195)
@dataclass(frozen=True, slots=True)
class ProposalText:
    """What people read."""

    title: Title
    description: Description


@wire(196)
@dataclass(frozen=True, slots=True)
class Ballot:
    """An account's vote. `power_ugtx` is its stake when it voted; that at the end counts."""

    choice: Choice
    power_ugtx: int


@wire(69)
@dataclass(frozen=True, slots=True)
class VotedShares:
    """Shares of a validator's pool whose owners voted themselves on a proposal, by their choice."""

    yes: int = 0
    no: int = 0
    abstain: int = 0

    @property
    def total(self) -> int:
        """All that do not vote by their validator."""
        return self.yes + self.no + self.abstain


@wire(197)
@dataclass(frozen=True, slots=True)
class ProposalReference:
    """An index entry that leads to a proposal; the last number given, under NEWEST."""

    number: int


# -- Effects and events ----------------------------------------------------------------------------


@wire(199)
@dataclass(frozen=True, slots=True)
class SetParameter:
    """Effect: the parameter has this value from now on, in the integer unit of its field."""

    name: str
    value: int


Action = SetParameter | Emergency | AuthorityManagement | Upgrade | OperatorRotation | Reincarnation


@wire(240)
@dataclass(frozen=True, slots=True)
class ProposalSubmitted:
    """Event: the vote is open."""

    proposal: int
    proposer: Address
    title: str
    voting_ends_ms: int


@wire(241)
@dataclass(frozen=True, slots=True)
class VoteCast:
    """Event: an account voted with the stake that it has now."""

    proposal: int
    voter: Address
    choice: Choice
    power_ugtx: int


@wire(242)
@dataclass(frozen=True, slots=True)
class AuthorityApproved:
    """Event: organisations of `approved_weight` of `total_weight` approve."""

    proposal: int
    organisation: str
    approved_weight: int
    total_weight: int


@wire(243)
@dataclass(frozen=True, slots=True)
class ProposalConcluded:
    """Event: the vote ended; a passed proposal is executed by the first block from `executes_ms`.

    `refund_ugtx` of its deposit returned to the proposer, the rest went to the treasury.
    """

    proposal: int
    status: ProposalStatus
    tally: Tally | None
    refund_ugtx: int
    executes_ms: int


@wire(244)
@dataclass(frozen=True, slots=True)
class ProposalExecuted:
    """Event: these actions are in force; an infrastructure funding was paid and has none."""

    proposal: int
    actions: tuple[Action, ...]


@wire(245)
@dataclass(frozen=True, slots=True)
class ProposalFailed:
    """Event: a passed proposal could not be carried out, and changed nothing."""

    proposal: int
    reason: str


@wire(254)
@dataclass(frozen=True, slots=True)
class VotePostponed:
    """Event: the chain stood still when this vote was to end; it goes on until `due_ms`."""

    proposal: int
    due_ms: int


@wire(255)
@dataclass(frozen=True, slots=True)
class VotingClock:
    """When the newest block was, and the newest standstill of the chain (market time, Unix ms)."""

    now_ms: int
    still_since_ms: int = 0
    still_until_ms: int = 0


GovernanceEvent = (
    ProposalSubmitted
    | VoteCast
    | AuthorityApproved
    | ProposalConcluded
    | ProposalExecuted
    | ProposalFailed
    | VotePostponed
)

GOVERNANCE_PARAMETERS = Table(b"vp", GovernanceParameters)  # key: b""
PROPOSALS = Table(b"vv", Proposal)  # key: number u64, from 1
TEXTS = Table(b"vt", ProposalText)  # key: number u64
NEWEST = Table(b"vn", ProposalReference)  # key: b""
DUE = Table(b"vd", ProposalReference)  # key: due_ms u64, number u64; voting and queued ones
CLOCK = Table(b"vs", VotingClock)  # key: b""
OPEN = Table(b"vo", ProposalReference)  # key: proposer, number u64; voting ones
BALLOTS = Table(b"vb", Ballot)  # key: number u64, voter
BALLOTS_OF = Table(b"vu", Ballot)  # key: voter, number u64; the same by voter
VOTED = Table(b"vw", VotedShares)  # key: number u64, validator
ENDED = Table(b"ve", ProposalReference)  # key: number u64; of what ballots are still kept


# -- What the rules must be told by their caller ---------------------------------------------------


@dataclass(frozen=True, slots=True)
class Pool:
    """All stake that is bonded to a validator; n shares of it are n * stake_ugtx // shares."""

    stake_ugtx: int
    shares: int

    def value_ugtx(self, shares: int) -> int:
        """What shares are worth, rounded down."""
        return shares * self.stake_ugtx // self.shares if self.shares else 0


@dataclass(frozen=True, slots=True)
class VotingPower:
    """Bonded stake: in ugtx of all, by delegator as (validator, shares), and of one validator.

    A validator is named by its operator's account; its pool contains all delegations to it.
    """

    bonded_ugtx: int
    delegations_of: Callable[[bytes], Sequence[tuple[bytes, int]]]
    pool_of: Callable[[bytes], Pool | None]


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Where a proposal acts.

    `value_of` gives a parameter's value in force by name (integer, as in SetParameter);
    `region_of` the region of a territory, or UNKNOWN_ZONE; `authorities_of` the (organisation,
    weight) of a region's active authorities, or UNKNOWN_SHARD; `check_authority_change` raises what
    a change of them would be refused with, `check_values` what new values by name would, where
    their ranges alone do not say, `check_rotation` what another operator key would,
    `check_reincarnation` what a region's new beginning would; `regulator` is the organisation that
    regulates the market, if any, and `organisations` are the names of all.
    """

    value_of: Callable[[str], int]
    region_of: Callable[[str], str]
    authorities_of: Callable[[str], Sequence[tuple[str, int]]]
    check_authority_change: Callable[[AuthorityManagement], None]
    check_values: Callable[[Mapping[str, int]], None]
    check_rotation: Callable[[OperatorRotation], None]
    check_reincarnation: Callable[[Reincarnation], None]
    organisations: Sequence[str]
    regulator: str | None = None
