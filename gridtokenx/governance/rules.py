"""The verbs of governance: propose, vote, approve, and what time makes of a proposal.

A passed proposal yields actions; `chain/` carries them to where they act. Only payments from the
treasury happen here. Source: protocols/governance.md 2.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from gridtokenx.governance import parameters as voted
from gridtokenx.governance import tally as counting
from gridtokenx.governance.model import (
    BALLOTS,
    BALLOTS_OF,
    CLOCK,
    DAY_MS,
    DEPOSITS,
    DUE,
    ENDED,
    GOVERNANCE_PARAMETERS,
    MAX_DESCRIPTION_BYTES,
    NEWEST,
    OPEN,
    PROPOSALS,
    TEXTS,
    VOTED,
    Action,
    ApproveAsAuthority,
    AuthorityApproved,
    AuthorityManagement,
    Ballot,
    CancelProposal,
    CarbonCreditPolicy,
    Content,
    Emergency,
    GovernanceEvent,
    GovernanceParameters,
    InfrastructureFunding,
    OperatorRotation,
    ParameterChange,
    PricingRegulation,
    Proposal,
    ProposalConcluded,
    ProposalExecuted,
    ProposalFailed,
    ProposalReference,
    ProposalStatus,
    ProposalSubmitted,
    ProposalText,
    Propose,
    Reincarnation,
    SetParameter,
    Surroundings,
    Tally,
    Upgrade,
    Vote,
    VoteCast,
    VotePostponed,
    VotingClock,
    VotingPower,
)
from gridtokenx.ledger import rules as ledger
from gridtokenx.ledger.model import TREASURY, Asset, Transferred
from gridtokenx.primitives.codec import MAX_INT
from gridtokenx.primitives.errors import ErrorCode, Rejected
from gridtokenx.primitives.state import Overlay, Reader, u64

MAX_OPEN_BALLOTS = 16  # Of one account: each moves with every change of its stake.
MAX_DUE_PER_BLOCK = 4
MAX_FORGOTTEN_PER_BLOCK = 2000  # Ballots of votes that have ended.
LEAST_SUPPORT_BPS = 500  # Of all that is bonded: with less yes a proposal was noise.
_DEFAULT = GovernanceParameters()
_WAITING = (ProposalStatus.VOTING, ProposalStatus.QUEUED)
_FAILED = (ProposalStatus.NO_QUORUM, ProposalStatus.REJECTED)

Events = list[GovernanceEvent | Transferred]


@dataclass(frozen=True, slots=True)
class Change:
    """What a proposal would do to one parameter, as people write it."""

    parameter: str
    unit: str
    old: str
    new: str


# -- Questions -------------------------------------------------------------------------------------


def parameters(state: Reader) -> GovernanceParameters:
    """The numbers of governance that are in force."""
    return GOVERNANCE_PARAMETERS.get(state, b"") or _DEFAULT


def set_parameters(state: Overlay, value: GovernanceParameters) -> None:
    """Put them in force from the next rule on (genesis, governance)."""
    GOVERNANCE_PARAMETERS.put(state, b"", value)


def proposal(state: Reader, number: int) -> Proposal:
    """A proposal by number. Errors: PROPOSAL_NOT_FOUND."""
    found = PROPOSALS.get(state, u64(number))
    if found is None:
        newest = NEWEST.get(state, b"")
        known = f"the newest is {newest.number}" if newest else "there are none yet"
        raise Rejected(ErrorCode.PROPOSAL_NOT_FOUND, f"no proposal {number}; {known}")
    return found


def proposals(state: Reader) -> Iterable[Proposal]:
    """All proposals in the order of their numbers."""
    return (value for _, value in PROPOSALS.items(state))


def text(state: Reader, number: int) -> ProposalText:
    """Title and description. Errors: PROPOSAL_NOT_FOUND."""
    found = TEXTS.get(state, u64(number))
    if found is None:
        raise Rejected(ErrorCode.PROPOSAL_NOT_FOUND, f"no proposal {number}")
    return found


def current_tally(state: Reader, number: int, power: VotingPower) -> Tally:
    """How a vote stands; the final one once it has ended. Errors: PROPOSAL_NOT_FOUND."""
    entry = proposal(state, number)
    return entry.tally or counting.count(state, number, power)


def outcome(state: Reader, entry: Proposal, result: Tally, around: Surroundings) -> ProposalStatus:
    """What the vote ends as with this tally: QUEUED, REJECTED or NO_QUORUM."""
    numbers = parameters(state)
    if not counting.has_quorum(result, numbers.quorum_bps):  # Emergencies too: they get no votes.
        return ProposalStatus.NO_QUORUM
    if _has_passed(entry, result, numbers, around):
        return ProposalStatus.QUEUED
    return ProposalStatus.REJECTED


def preview(content: Content, around: Surroundings) -> tuple[Change, ...]:
    """Old and new value of each parameter that the content would set; () if it sets none.

    Errors: whatever `propose` would refuse the content with.
    """
    changes = []
    for action in _check_content(content, around):
        if isinstance(action, SetParameter):
            parameter = voted.find(action.name)
            old = voted.format_value(parameter, around.value_of(action.name))
            new = voted.format_value(parameter, action.value)
            changes.append(Change(action.name, parameter.unit, old, new))
    return tuple(changes)


# -- Commands --------------------------------------------------------------------------------------


def propose(
    state: Overlay, command: Propose, *, sender: bytes, now_ms: int, around: Surroundings
) -> Events:
    """Open a vote; the fee goes to the treasury, the deposit is held.

    Errors: TOO_LARGE for more than 10,000 bytes of description; TOO_MANY_PROPOSALS;
    INSUFFICIENT_BALANCE; for the content UNKNOWN_PARAMETER, VALUE_OUT_OF_RANGE, DUPLICATE (it
    changes nothing), OUT_OF_RANGE (a pricing regulation more than a year ahead), UNKNOWN_ZONE,
    UNKNOWN_SHARD and those of authority changes and rotations.
    """
    size = len(command.description.encode())
    if size > MAX_DESCRIPTION_BYTES:
        detail = f"the description has {size} bytes, at most {MAX_DESCRIPTION_BYTES} allowed"
        raise Rejected(ErrorCode.TOO_LARGE, detail)
    numbers = parameters(state)
    if len(list(OPEN.items(state, sender))) >= numbers.max_active:
        detail = f"an account has at most {numbers.max_active} proposals in the vote"
        raise Rejected(ErrorCode.TOO_MANY_PROPOSALS, detail)
    content = command.content
    if isinstance(content, PricingRegulation) and content.effective_ms > now_ms + 365 * DAY_MS:
        raise Rejected(ErrorCode.OUT_OF_RANGE, "a price band is decided at most a year ahead")
    _check_content(content, around)
    ledger.move(state, Asset.GTX, sender, TREASURY, numbers.fee_ugtx)
    ledger.move(state, Asset.GTX, sender, DEPOSITS, numbers.deposit_ugtx)
    newest = NEWEST.get(state, b"")
    number = newest.number + 1 if newest else 1
    NEWEST.put(state, b"", ProposalReference(number))
    ends_ms = now_ms + numbers.voting_period_ms
    entry = Proposal(number, sender, content, now_ms, ends_ms, numbers.deposit_ugtx)
    TEXTS.put(state, u64(number), ProposalText(command.title, command.description))
    OPEN.put(state, sender + u64(number), ProposalReference(number))
    _store(state, entry)
    return [ProposalSubmitted(number, sender, command.title, ends_ms)]


def vote(
    state: Overlay, command: Vote, *, sender: bytes, now_ms: int, power: VotingPower
) -> Events:
    """Cast or replace a ballot. It counts for the stake that its voter has when the vote ends, so
    whoever changes a delegation afterwards calls `tally.move_stake`.

    Errors: PROPOSAL_NOT_FOUND; VOTING_CLOSED; NOT_PERMITTED for an emergency, which authorities
    decide; NO_VOTING_POWER without stake; TOO_MANY_PROPOSALS with ballots in 16 other open votes.
    """
    entry = _open_proposal(state, command.proposal, now_ms)
    if isinstance(entry.content, Emergency):
        detail = "an emergency is decided by the region's authorities, not by stake"
        raise Rejected(ErrorCode.NOT_PERMITTED, detail)
    held = power.delegations_of(sender)
    own = counting.own_power(sender, held, power)
    if not own:
        raise Rejected(ErrorCode.NO_VOTING_POWER, "only bonded gtx votes; bond some to a validator")
    number = u64(entry.number)
    former = BALLOTS.get(state, number + sender)
    if former is None:
        _check_open_ballots(state, sender)
        PROPOSALS.put(state, number, replace(entry, ballots=entry.ballots + 1))
    if power.pool_of(sender) is not None:  # It speaks for others too, without stake of its own.
        counting.add(state, entry.number, sender, command.choice, 0)
    for validator, shares in held:
        if former is not None:
            counting.add(state, entry.number, validator, former.choice, -shares)
        counting.add(state, entry.number, validator, command.choice, shares)
    ballot = Ballot(command.choice, own)
    BALLOTS.put(state, number + sender, ballot)
    BALLOTS_OF.put(state, sender + number, ballot)
    return [VoteCast(entry.number, sender, command.choice, own)]


def approve_as_authority(
    state: Overlay,
    command: ApproveAsAuthority,
    *,
    organisation: str,
    now_ms: int,
    around: Surroundings,
) -> Events:
    """Enter the approval of an organisation, on behalf of which the caller saw the sender sign.

    An emergency passes and is executed with the approval that brings it over two thirds.
    Errors: PROPOSAL_NOT_FOUND; VOTING_CLOSED; NOT_PERMITTED when the proposal needs no approval or
    the organisation is no authority there; DUPLICATE.
    """
    entry = _open_proposal(state, command.proposal, now_ms)
    authorities = approvers(entry.content, around)
    if authorities is None:
        detail = f"proposal {entry.number} is decided by stake alone"
        raise Rejected(ErrorCode.NOT_PERMITTED, detail)
    names = [name for name, _ in authorities]
    if organisation not in names:
        detail = f"{', '.join(names)} may approve proposal {entry.number}, {organisation} may not"
        raise Rejected(ErrorCode.NOT_PERMITTED, detail)
    if organisation in entry.approvals:
        raise Rejected(ErrorCode.DUPLICATE, f"{organisation} has approved already")
    entry = replace(entry, approvals=(*entry.approvals, organisation))
    PROPOSALS.put(state, u64(entry.number), entry)
    approved = counting.approved_weight(entry.approvals, authorities)
    total = sum(weight for _, weight in authorities)
    events: Events = [AuthorityApproved(entry.number, organisation, approved, total)]
    if isinstance(entry.content, Emergency) and counting.has_two_thirds(approved, total):
        queued, concluded = _conclude(state, entry, ProposalStatus.QUEUED, None, now_ms)
        events += [*concluded, *_execute(state, queued, around)]
    return events


def cancel_proposal(
    state: Overlay, command: CancelProposal, *, sender: bytes, now_ms: int
) -> Events:
    """Take a proposal back; its deposit returns, its fee does not.

    Errors: PROPOSAL_NOT_FOUND; VOTING_CLOSED; NOT_PERMITTED for somebody else's, or after the first
    ballot or approval: then the vote decides about the deposit.
    """
    entry = _open_proposal(state, command.proposal, now_ms)
    if entry.proposer != sender:
        raise Rejected(ErrorCode.NOT_PERMITTED, "only its proposer may cancel a proposal")
    if entry.ballots or entry.approvals:
        detail = "somebody has voted already, so the vote goes on to its end"
        raise Rejected(ErrorCode.NOT_PERMITTED, detail)
    return _conclude(state, entry, ProposalStatus.CANCELLED, None, 0)[1]


# -- What every block does -------------------------------------------------------------------------


def begin_block(
    state: Overlay,
    *,
    now_ms: int,
    grace_ms: int,
    power: Callable[[], VotingPower],
    around: Surroundings,
) -> Events:
    """End the votes and execute the proposals whose time has come, at most four a block.

    At most one proposal is executed: the next is checked against what that one has changed. A vote
    that was to end while the chain stood still (no block for longer than `grace_ms`) has the time
    it had left then: nobody could vote.
    `power` is asked only when a vote ends. The caller carries out the actions of each
    `ProposalExecuted` before the block's transactions; where one cannot be, it calls `fail`.
    """
    clock = _clock_at(state, now_ms, grace_ms)
    _forget_ballots(state)
    due: list[int] = []
    for key, reference in DUE.items(state):
        if key > u64(now_ms) + u64(MAX_INT) or len(due) == MAX_DUE_PER_BLOCK:
            break
        due.append(reference.number)
    events: Events = []
    has_executed = False
    for number in due:
        entry = proposal(state, number)
        if entry.status is ProposalStatus.VOTING:
            if clock.still_since_ms < entry.due_ms <= clock.still_until_ms:
                events.append(_postpone(state, entry, clock))
            else:
                events += _end_vote(state, entry, now_ms, power(), around)
        elif not has_executed:
            has_executed = True
            events += _execute(state, entry, around)
    return events


def _clock_at(state: Overlay, now_ms: int, grace_ms: int) -> VotingClock:
    """Note the block's time, and the standstill before it if there was one."""
    before = CLOCK.get(state, b"") or VotingClock(now_ms)
    clock = replace(before, now_ms=now_ms)
    if now_ms - before.now_ms > grace_ms:
        clock = VotingClock(now_ms, before.now_ms, now_ms)
    CLOCK.put(state, b"", clock)
    return clock


def _postpone(state: Overlay, entry: Proposal, clock: VotingClock) -> VotePostponed:
    DUE.delete(state, _due(entry))
    left_ms = entry.due_ms - clock.still_since_ms
    _store(state, replace(entry, due_ms=clock.still_until_ms + left_ms))
    return VotePostponed(entry.number, clock.still_until_ms + left_ms)


def fail(state: Overlay, number: int, reason: str) -> Events:
    """Note that an executed proposal's actions could not be carried out."""
    PROPOSALS.put(
        state, u64(number), replace(proposal(state, number), status=ProposalStatus.FAILED)
    )
    return [ProposalFailed(number, reason)]


# -- Steps -----------------------------------------------------------------------------------------


def _end_vote(
    state: Overlay, entry: Proposal, now_ms: int, power: VotingPower, around: Surroundings
) -> Events:
    numbers = parameters(state)
    result = counting.count(state, entry.number, power)
    status = outcome(state, entry, result, around)
    executes_ms = 0
    if status is ProposalStatus.QUEUED:
        executes_ms = now_ms + numbers.execution_delay_ms
        if isinstance(entry.content, PricingRegulation):
            executes_ms = max(executes_ms, entry.content.effective_ms)
    return _conclude(state, entry, status, result, executes_ms)[1]


def _has_passed(
    entry: Proposal, result: Tally, numbers: GovernanceParameters, around: Surroundings
) -> bool:
    """Whether stake agrees, and the authorities of the day where they must, with two thirds."""
    if not counting.is_approved(result, numbers.approval_bps):
        return False
    decided = result.yes_ugtx + result.no_ugtx
    if isinstance(entry.content, AuthorityManagement) and not counting.has_two_thirds(
        result.yes_ugtx, decided
    ):
        return False
    if isinstance(entry.content, Reincarnation) and not counting.has_two_thirds(
        result.yes_ugtx, result.bonded_ugtx
    ):
        return False
    try:
        authorities = approvers(entry.content, around)
    except Rejected:
        return False  # The chain has gone since.
    if authorities is None:
        return True
    approved = counting.approved_weight(entry.approvals, authorities)
    return counting.has_two_thirds(approved, sum(weight for _, weight in authorities))


def _conclude(
    state: Overlay, entry: Proposal, status: ProposalStatus, result: Tally | None, executes_ms: int
) -> tuple[Proposal, Events]:
    """End the vote: index entries, deposit, event."""
    OPEN.delete(state, entry.proposer + u64(entry.number))
    if entry.ballots:
        ENDED.put(state, u64(entry.number), ProposalReference(entry.number))
    refund = entry.deposit_ugtx
    if status in _FAILED and result is not None:
        quorum_bps = parameters(state).quorum_bps
        if counting.is_unwanted(result, quorum_bps, LEAST_SUPPORT_BPS):
            refund = 0
    ledger.move(state, Asset.GTX, DEPOSITS, entry.proposer, refund)
    ledger.move(state, Asset.GTX, DEPOSITS, TREASURY, entry.deposit_ugtx - refund)
    ended = replace(entry, status=status, due_ms=executes_ms, tally=result)
    DUE.delete(state, _due(entry))
    _store(state, ended)
    return ended, [ProposalConcluded(entry.number, status, result, refund, executes_ms)]


def _execute(state: Overlay, entry: Proposal, around: Surroundings) -> Events:
    """The state may have changed since the proposal was checked, so it is checked again."""
    DUE.delete(state, _due(entry))
    paid: Events = []
    try:
        actions = _actions(entry.content)
        _check_actions(actions, around)
        _check_payee(entry.content)
        if isinstance(entry.content, InfrastructureFunding):
            to, amount = entry.content.to, entry.content.amount_ugtx
            ledger.move(state, Asset.GTX, TREASURY, to, amount)
            paid = [Transferred(TREASURY, to, Asset.GTX, amount)]
    except Rejected as error:
        return fail(state, entry.number, str(error)[:256])
    PROPOSALS.put(state, u64(entry.number), replace(entry, status=ProposalStatus.EXECUTED))
    return [*paid, ProposalExecuted(entry.number, tuple(actions))]


def _check_content(content: Content, around: Surroundings) -> list[Action]:
    """The actions of a content that may be proposed now."""
    actions = _actions(content)
    _check_actions(actions, around)
    _check_payee(content)
    values = [action for action in actions if isinstance(action, SetParameter)]
    if values and all(around.value_of(one.name) == one.value for one in values):
        raise Rejected(ErrorCode.DUPLICATE, "it would change nothing: that is in force already")
    if isinstance(content, CarbonCreditPolicy):
        sources = [rate.source for rate in content.rates]
        if len(sources) != len(set(sources)):
            raise Rejected(ErrorCode.DUPLICATE, "a source is named twice")
    approvers(content, around)
    return actions


def _check_actions(actions: list[Action], around: Surroundings) -> None:
    changes = {one.name: one.value for one in actions if isinstance(one, SetParameter)}
    voted.check_order(changes, around.value_of)
    for name in changes:
        around.value_of(name)  # A row that this network has not is refused.
    around.check_values(changes)
    for action in actions:
        if isinstance(action, AuthorityManagement):
            around.check_authority_change(action)
        elif isinstance(action, OperatorRotation):
            around.check_rotation(action)
        elif isinstance(action, Reincarnation):
            around.check_reincarnation(action)


def _check_payee(content: Content) -> None:
    if isinstance(content, InfrastructureFunding):
        ledger.check_has_key(content.to)


def _actions(content: Content) -> list[Action]:
    match content:
        case ParameterChange(name, written):
            return [SetParameter(name, voted.parse(voted.find(name), written))]
        case PricingRegulation():
            values = {
                "pricing.min": content.min_price_mthb,
                "pricing.max": content.max_price_mthb,
                "pricing.peak_multiplier": content.peak_multiplier_bps,
            }
            return [_set(name, value) for name, value in values.items()]
        case CarbonCreditPolicy():
            return [_set(f"carbon_credits.{one.source}", one.mcr_per_kwh) for one in content.rates]
        case InfrastructureFunding():
            return []
        case Emergency() | AuthorityManagement() | Upgrade() | OperatorRotation() | Reincarnation():
            return [content]


def _set(name: str, value: int) -> SetParameter:
    voted.check_range(voted.find(name), value)
    return SetParameter(name, value)


def approvers(content: Content, around: Surroundings) -> Sequence[tuple[str, int]] | None:
    """(organisation, weight) of those who must approve with two thirds; None: stake alone decides.

    Errors: UNKNOWN_ZONE, UNKNOWN_SHARD; NOT_PERMITTED where the regulator must, and there is none.
    """
    match content:
        case AuthorityManagement():
            return around.authorities_of(content.chain)
        case Emergency():
            return around.authorities_of(around.region_of(content.territory))
        case ParameterChange(name) if voted.find(name).is_regulated:
            return _the_regulator(name, around)
        case OperatorRotation(organisation) if organisation == around.regulator:
            return [(name, 1) for name in around.organisations if name != organisation]
        case OperatorRotation(organisation):
            return _the_regulator(f"another key of {organisation}", around)
        case Reincarnation(chain):
            return _the_regulator(f"a new incarnation of {chain}", around)
        case _:
            return None


def _the_regulator(what: str, around: Surroundings) -> Sequence[tuple[str, int]]:
    if around.regulator is None:
        detail = f"{what} needs a regulator's approval, and this network has none"
        raise Rejected(ErrorCode.NOT_PERMITTED, detail)
    return [(around.regulator, 1)]


def _open_proposal(state: Reader, number: int, now_ms: int) -> Proposal:
    entry = proposal(state, number)
    if entry.status is not ProposalStatus.VOTING or now_ms >= entry.due_ms:
        detail = f"the vote on proposal {number} has ended: {entry.status}"
        raise Rejected(ErrorCode.VOTING_CLOSED, detail)
    return entry


def _check_open_ballots(state: Overlay, voter: bytes) -> None:
    """Errors: TOO_MANY_PROPOSALS. Forgets the voter's index entries of votes that have ended."""
    still_open = []
    for key, _ in list(BALLOTS_OF.items(state, voter)):
        found = PROPOSALS.get(state, key[32:])
        if found is not None and found.status is ProposalStatus.VOTING:
            still_open.append(found.number)
        else:
            BALLOTS_OF.delete(state, key)
    if len(still_open) >= MAX_OPEN_BALLOTS:
        detail = (
            f"this account has ballots in {MAX_OPEN_BALLOTS} open votes, the most that it may have;"
            f" wait for one of {', '.join(map(str, still_open))} to end"
        )
        raise Rejected(ErrorCode.TOO_MANY_PROPOSALS, detail)


def _forget_ballots(state: Overlay) -> None:
    """Drop ballots of votes that have ended, and what they were counted in; so many a block."""
    left = MAX_FORGOTTEN_PER_BLOCK
    for number, _ in list(islice(ENDED.items(state), MAX_FORGOTTEN_PER_BLOCK)):
        ballots = list(islice(BALLOTS.items(state, number), left))
        for key, _ in ballots:
            BALLOTS.delete(state, key)
            BALLOTS_OF.delete(state, key[8:] + number)
        left -= len(ballots)
        cast = list(islice(VOTED.items(state, number), left))
        for key, _ in cast:
            VOTED.delete(state, key)
        left -= len(cast)
        if left <= 0:
            return
        ENDED.delete(state, number)


def _store(state: Overlay, entry: Proposal) -> None:
    PROPOSALS.put(state, u64(entry.number), entry)
    if entry.status in _WAITING:
        DUE.put(state, _due(entry), ProposalReference(entry.number))


def _due(entry: Proposal) -> bytes:
    return u64(entry.due_ms) + u64(entry.number)
