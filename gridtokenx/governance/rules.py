"""The verbs of governance: propose, vote, approve, and what time makes of a proposal.

A passed proposal yields actions; `chain/` carries them to where they act. Only payments from the
treasury happen here. Source: protocols/governance.md section 2.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from gridtokenx.governance import parameters as table
from gridtokenx.governance import tally as counting
from gridtokenx.governance.model import (
    BALLOT_RANKS,
    BALLOTS,
    CLOCK,
    DAY_MS,
    DEPOSITS,
    DUE,
    MAX_DESCRIPTION_BYTES,
    NEWEST,
    OPEN,
    PARAMETERS,
    PROPOSALS,
    TEXTS,
    Action,
    ApproveAsAuthority,
    AuthorityApproved,
    AuthorityManagement,
    Ballot,
    BallotReference,
    CancelProposal,
    CarbonCreditPolicy,
    Choice,
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

MAX_BALLOTS = 10_000  # Of one proposal; then the ballot with the least stake gives way.
MAX_DUE_PER_BLOCK = 4  # Counting 10,000 ballots of three delegations each takes 0.4 s.
_DEFAULT = GovernanceParameters()
_WAITING = (ProposalStatus.VOTING, ProposalStatus.QUEUED)

Events = list[GovernanceEvent | Transferred]


@dataclass(frozen=True, slots=True)
class Change:
    """What a proposal would do to one parameter, as people write it."""

    parameter: str
    unit: str
    old: str
    new: str


# Questions


def parameters(state: Reader) -> GovernanceParameters:
    """The numbers of governance that are in force."""
    return PARAMETERS.get(state, b"") or _DEFAULT


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
    return entry.tally or counting.count(_ballots(state, number), power)


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
            parameter = table.find(action.name)
            old = table.format_value(parameter, around.value_of(action.name))
            new = table.format_value(parameter, action.value)
            changes.append(Change(action.name, parameter.unit, old, new))
    return tuple(changes)


# Commands


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
    """Cast or replace a ballot. What it counts for is seen at the tally, from stake as it is then.

    Errors: PROPOSAL_NOT_FOUND; VOTING_CLOSED; NOT_PERMITTED for an emergency, which authorities
    decide; NO_VOTING_POWER without stake, or with the least when there are 10,000 ballots.
    """
    entry = _open_proposal(state, command.proposal, now_ms)
    if isinstance(entry.content, Emergency):
        detail = "an emergency is decided by the region's authorities, not by stake"
        raise Rejected(ErrorCode.NOT_PERMITTED, detail)
    own = counting.own_power(sender, power)
    if not own:
        raise Rejected(ErrorCode.NO_VOTING_POWER, "only bonded gtx votes; bond some to a validator")
    number = u64(entry.number)
    former = BALLOTS.get(state, number + sender)
    ballots = entry.ballots + 1
    if former is not None:
        _withdraw_ballot(state, number, sender, former)
        ballots -= 1
    elif entry.ballots >= MAX_BALLOTS:
        _displace(state, number, own)
        ballots -= 1
    BALLOTS.put(state, number + sender, Ballot(command.choice, own))
    BALLOT_RANKS.put(state, number + u64(own) + sender, BallotReference(sender))
    PROPOSALS.put(state, number, replace(entry, ballots=ballots))
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


# What every block does


def begin_block(
    state: Overlay,
    *,
    now_ms: int,
    grace_ms: int,
    power: Callable[[], VotingPower],
    around: Surroundings,
) -> Events:
    """End the votes and execute the proposals whose time has come, at most four a block.

    At most one vote is counted and one proposal executed: the next is checked against what that one
    has changed. A vote that was to end while the chain stood still (no block for longer than
    `grace_ms`) has the time it had left then: nobody could vote.
    `power` is asked only when a vote ends. The caller carries out the actions of each
    `ProposalExecuted` before the block's transactions; where one cannot be, it calls `fail`.
    """
    clock = _clock_at(state, now_ms, grace_ms)
    due: list[int] = []
    for key, reference in DUE.items(state):
        if key > u64(now_ms) + u64(MAX_INT) or len(due) == MAX_DUE_PER_BLOCK:
            break
        due.append(reference.number)
    events: Events = []
    has_counted = has_executed = False
    for number in due:
        entry = proposal(state, number)
        if entry.status is ProposalStatus.VOTING:
            if clock.still_since_ms < entry.due_ms <= clock.still_until_ms:
                events.append(_postpone(state, entry, clock))
            elif not has_counted:
                has_counted = True
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


# Steps


def _end_vote(
    state: Overlay, entry: Proposal, now_ms: int, power: VotingPower, around: Surroundings
) -> Events:
    numbers = parameters(state)
    result = counting.count(_ballots(state, entry.number), power)
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
    refund = 0 if status is ProposalStatus.NO_QUORUM else entry.deposit_ugtx
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
    table.check_order(changes, around.value_of)
    for action in actions:
        if isinstance(action, SetParameter):
            around.value_of(action.name)  # A row that this network has not is refused.
            around.check_value(action.name, action.value)
        elif isinstance(action, AuthorityManagement):
            around.check_authority_change(action)
        elif isinstance(action, OperatorRotation):
            around.check_rotation(action)
        elif isinstance(action, Reincarnation):
            around.check_reincarnation(action)


def _actions(content: Content) -> list[Action]:
    match content:
        case ParameterChange(name, written):
            return [SetParameter(name, table.parse(table.find(name), written))]
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
    table.check_range(table.find(name), value)
    return SetParameter(name, value)


def approvers(content: Content, around: Surroundings) -> Sequence[tuple[str, int]] | None:
    """(organisation, weight) of those who must approve with two thirds; None: stake alone decides.

    Errors: UNKNOWN_ZONE, UNKNOWN_SHARD; NOT_PERMITTED where the regulator must, and there is none.
    """
    match content:
        case AuthorityManagement():
            return around.authorities_of(content.chain)
        case Emergency():
            return around.authorities_of(content.region)
        case ParameterChange(name) if table.find(name).is_regulated:
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


def _ballots(state: Reader, number: int) -> list[tuple[bytes, Choice]]:
    return [(key[8:], ballot.choice) for key, ballot in BALLOTS.items(state, u64(number))]


def _withdraw_ballot(state: Overlay, number: bytes, voter: bytes, ballot: Ballot) -> None:
    BALLOTS.delete(state, number + voter)
    BALLOT_RANKS.delete(state, number + u64(ballot.power_ugtx) + voter)


def _displace(state: Overlay, number: bytes, power_ugtx: int) -> None:
    """Make room in a full vote: no crowd of tiny accounts can keep stake from voting."""
    key, least = next(iter(BALLOT_RANKS.items(state, number)))
    if int.from_bytes(key[8:16]) >= power_ugtx:
        detail = (
            f"{MAX_BALLOTS} accounts have voted with as much stake; your validator's vote holds"
        )
        raise Rejected(ErrorCode.NO_VOTING_POWER, detail)
    BALLOTS.delete(state, number + least.voter)
    BALLOT_RANKS.delete(state, key)


def _store(state: Overlay, entry: Proposal) -> None:
    PROPOSALS.put(state, u64(entry.number), entry)
    if entry.status in _WAITING:
        DUE.put(state, _due(entry), ProposalReference(entry.number))


def _due(entry: Proposal) -> bytes:
    return u64(entry.due_ms) + u64(entry.number)
