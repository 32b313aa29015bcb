"""Methods about governance: proposals, votes, and every parameter that can be voted on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

from gridtokenx.answers.fields import ADDRESS_EXAMPLE
from gridtokenx.answers.governance import (
    Approver,
    BallotPage,
    BallotRow,
    Change,
    ProposalDetail,
    ProposalPage,
    ProposalRow,
    ProposalTally,
    SimulatedProposal,
    TallyFigures,
    VotedParameter,
    VotedParameters,
)
from gridtokenx.answers.kinds import (
    address,
    choice,
    format_cursor,
    integer,
    json_object,
    text,
    words,
)
from gridtokenx.answers.shapes import Rule
from gridtokenx.api.context import Context
from gridtokenx.api.errors import ApiError
from gridtokenx.api.paging import fill
from gridtokenx.api.table import ChainName, Method, PageCursor, PageLimit, Route
from gridtokenx.chain.genesis import ChainSpec
from gridtokenx.chain.national import surroundings
from gridtokenx.governance import parameters as voted
from gridtokenx.governance import rules as governance
from gridtokenx.governance import tally as counting
from gridtokenx.governance.model import (
    BALLOTS,
    NEWEST,
    PROPOSALS,
    TEXTS,
    AuthorityManagement,
    Content,
    Emergency,
    OperatorRotation,
    PricingRegulation,
    Proposal,
    ProposalStatus,
    Propose,
    Reincarnation,
    Surroundings,
    Tally,
)
from gridtokenx.interchain import checkpoints
from gridtokenx.interchain.incarnations import check_base, lost_since
from gridtokenx.interchain.model import Escrow
from gridtokenx.primitives.codec import MAX_INT
from gridtokenx.primitives.document import from_document, kind_of, to_document
from gridtokenx.primitives.errors import ErrorCode, Rejected
from gridtokenx.primitives.quantities import BPS
from gridtokenx.primitives.state import Overlay, Reader, u64
from gridtokenx.staking import pools
from gridtokenx.trading import rules as trading
from gridtokenx.views.status import ChainStatus

ProposalId = Annotated[
    int,
    Rule("number of the proposal", integer(1, MAX_INT), unit="proposals", example=1),
]
_WAITING = (ProposalStatus.VOTING, ProposalStatus.QUEUED)


@dataclass(frozen=True, slots=True)
class ProposalsParameters:
    """Which proposals."""

    status: Annotated[
        str | None,
        Rule(
            "only those with this status",
            choice(*(one.value for one in ProposalStatus)),
            example="voting",
        ),
    ] = None
    limit: PageLimit = 50
    cursor: PageCursor = b""


def get_proposals(context: Context, asked: ProposalsParameters) -> ProposalPage:
    """Numbers are dense from 1 on, so a page counts down from its cursor."""
    status = context.national()
    newest = NEWEST.get(status.view, b"")
    number = _place(asked.cursor, newest.number if newest else 0)
    wanted = asked.status

    def rows() -> Iterator[tuple[bytes, ProposalRow | None]]:
        for one in range(number, 0, -1):
            entry = PROPOSALS.get(status.view, u64(one))
            is_asked = entry is not None and wanted in (None, entry.status.value)
            yield u64(one - 1), _proposal_row(status, entry) if entry and is_asked else None

    items, following = fill(rows(), asked.limit)
    return ProposalPage(
        chain=status.spec.name,
        height=status.head.height,
        items=tuple(items),
        next_cursor=format_cursor(following),
    )


def _proposal_row(status: ChainStatus, entry: Proposal) -> ProposalRow:
    return ProposalRow(**_in_short(status, entry))


@dataclass(frozen=True, slots=True)
class ProposalParameters:
    """One proposal."""

    id: ProposalId


def get_proposal(context: Context, asked: ProposalParameters) -> ProposalDetail:
    status = context.national()
    entry = governance.proposal(status.view, asked.id)
    around = surroundings(status.view, status.spec)
    changes: tuple[Change, ...] = ()
    why_not = None
    if entry.status in _WAITING:
        try:
            changes = _changes(entry.content, around)
        except Rejected as error:
            why_not = error.detail  # It no longer fits what is in force.
    return ProposalDetail(
        chain=status.spec.name,
        height=status.head.height,
        **_in_short(status, entry),
        description=governance.text(status.view, entry.number).description,
        content=entry.content,
        changes=changes,
        would_fail=why_not,
        lost=_lost(status.view, entry) if entry.status in _WAITING else None,
        tally=TallyFigures(**_figures(context, status, entry, around)),
    )


def get_tally(context: Context, asked: ProposalParameters) -> ProposalTally:
    status = context.national()
    entry = governance.proposal(status.view, asked.id)
    around = surroundings(status.view, status.spec)
    figures = _figures(context, status, entry, around)
    return ProposalTally(
        chain=status.spec.name, height=status.head.height, proposal=entry.number, **figures
    )


@dataclass(frozen=True, slots=True)
class VotesParameters:
    """Whose votes."""

    id: ProposalId
    limit: PageLimit = 50
    cursor: PageCursor = b""


def get_votes(context: Context, asked: VotesParameters) -> BallotPage:
    """In the order of the voters' addresses, so a page holds still while others vote."""
    status = context.national()
    entry = governance.proposal(status.view, asked.id)
    number = entry.number
    if entry.status is not ProposalStatus.VOTING:
        detail = (
            f"the vote on proposal {number} has ended; its ballots are forgotten, its tally is not"
        )
        raise ApiError(ErrorCode.VOTING_CLOSED, detail)
    after = asked.cursor
    if after and len(after) != 32:
        raise ApiError(ErrorCode.MALFORMED, "this cursor does not come from this list")
    items: list[BallotRow] = []
    place = None
    prefix = BALLOTS.prefix + u64(number)
    for key, raw in status.view.scan(prefix, bytes):  # Most are not of this page: not decoded.
        voter = key[len(prefix) :]
        if voter <= after:
            continue
        if len(items) == asked.limit:
            break
        ballot = BALLOTS.decode(raw)
        items.append(BallotRow(voter=voter, choice=ballot.choice, power_ugtx=ballot.power_ugtx))
        place = voter
    else:
        place = None
    return BallotPage(
        chain=status.spec.name,
        height=status.head.height,
        proposal=number,
        items=tuple(items),
        next_cursor=format_cursor(place),
    )


@dataclass(frozen=True, slots=True)
class ParametersParameters:
    """Which parameters, on which chain."""

    chain: ChainName = None
    name: Annotated[
        str | None,
        Rule(
            "only this one, such as carbon_credits.solar", text(64), example="carbon_credits.solar"
        ),
    ] = None


def get_params(context: Context, asked: ParametersParameters) -> VotedParameters:
    """What regions have in force may lie behind the national chain's vote by a few blocks."""
    wanted = asked.name
    rows = voted.PARAMETERS if wanted is None else (voted.find(wanted),)
    chains = context.selected(asked.chain)
    records = {status.spec.name: _records(status) for status in chains}
    items = []
    for parameter in rows:
        values = {
            name: voted.format_value(parameter, voted.value_in(owned[parameter.owner], parameter))
            for name, owned in records.items()
            if parameter.owner in owned and _is_there(owned[parameter.owner], parameter)
        }
        if values or wanted is not None:
            items.append(_voted_parameter(parameter, values))
    heights = {status.spec.name: status.head.height for status in chains}
    return VotedParameters(heights=heights, items=tuple(items))


@dataclass(frozen=True, slots=True)
class SimulationParameters:
    """What would be proposed, and by whom."""

    content: Annotated[
        dict[str, Any],
        Rule(
            'such as {"kind": "parameter_change", "parameter": "carbon_credits.solar", '
            '"new_value": "0.7"}',
            json_object(),
            shows=Content,
            example={
                "kind": "parameter_change",
                "parameter": "carbon_credits.solar",
                "new_value": "0.7",
            },
        ),
    ]
    proposer: Annotated[
        bytes | None,
        Rule(
            "with it, its balance and proposals are looked at too",
            address(),
            example=ADDRESS_EXAMPLE,
        ),
    ] = None
    title: Annotated[str, Rule("title", words(140), example="More sun")] = "a proposal"
    description: Annotated[str, Rule("description", words(10_000), example="Because.")] = ""


def simulate_proposal(context: Context, asked: SimulationParameters) -> SimulatedProposal:
    """Refused with whatever `propose` would be; the proposer's money counts if it is named."""
    status = context.national()
    view, spec, now_ms = status.view, status.spec, status.head.market_ms
    command = from_document(
        Propose,
        {
            "title": asked.title,
            "description": asked.description,
            "content": asked.content,
        },
        "proposal",
    )
    around = surroundings(view, spec)
    changes = _changes(command.content, around)
    if asked.proposer is not None:
        governance.propose(
            Overlay(view), command, sender=asked.proposer, now_ms=now_ms, around=around
        )
    numbers = governance.parameters(view)
    ends_ms = now_ms + numbers.voting_period_ms
    executes_ms = ends_ms + numbers.execution_delay_ms
    if isinstance(command.content, PricingRegulation):
        executes_ms = max(executes_ms, command.content.effective_ms)
    approvers = governance.approvers(command.content, around)
    is_emergency = isinstance(command.content, Emergency)
    return SimulatedProposal(
        chain=status.spec.name,
        height=status.head.height,
        type=type_name(command.content),
        summary=summary(command.content),
        changes=changes,
        fee_ugtx=numbers.fee_ugtx,
        deposit_ugtx=numbers.deposit_ugtx,
        voting_ends_ms=ends_ms,
        executes_ms=None if is_emergency else executes_ms,
        approvers=tuple(name for name, _ in approvers or ()),
        chains=tuple(_acts_on(command.content, spec)),
        lost=_lost(view, command),
    )


def _lost(state: Reader, asked: Proposal | Propose) -> Escrow | None:
    """What the senders of a region that begins again would have twice; null for all else."""
    content = asked.content
    if not isinstance(content, Reincarnation):
        return None
    try:
        base = check_base(state, content.chain, content.height, content.block_hash)
    except Rejected:
        return None  # It would fail.
    return lost_since(state, content.chain, base)


# -- Documents -------------------------------------------------------------------------------------


def type_name(content: Content) -> str:
    """The type as people type it: `parameter-change`."""
    return kind_of(type(content)).replace("_", "-")


def summary(content: Content) -> str:
    """What a proposal does, in a line."""
    fields = to_document(content, text_integers=True)
    match fields.pop("kind"):
        case "parameter_change":
            return f"{fields['parameter']} = {fields['new_value']}"
        case "pricing_regulation":
            low, high = (_thousandths(fields[f"{one}_price_mthb"]) for one in ("min", "max"))
            peak = voted.format_value(
                voted.find("pricing.peak_multiplier"), int(fields["peak_multiplier_bps"])
            )
            return f"price band {low} to {high} THB/kWh, peak x {peak}"
        case "carbon_credit_policy":
            rates = (f"{r['source']} {_thousandths(r['mcr_per_kwh'])}" for r in fields["rates"])
            return f"credits/kWh: {', '.join(rates)}"
        case "authority_management":
            return f"{fields['change']} a node of {fields['organisation']} on {fields['chain']}"
        case "emergency":
            minutes = int(fields["duration_ms"]) // 60_000
            return f"halt {fields['territory']} for {minutes} min: {fields['reason']}"
        case "infrastructure_funding":
            whole, rest = divmod(int(fields["amount_ugtx"]), 10**6)
            amount = f"{whole}.{rest:06d}".rstrip("0").rstrip(".")
            return f"{amount} gtx to {fields['to']}"
        case "reincarnation":
            named = ", ".join(one["organisation"] for one in fields["authorities"])
            where = f"block {fields['height']} {fields['block_hash'][:16]}"
            return f"{fields['chain']} goes on from {where}, signed by {named}"
        case "operator_rotation":
            return f"{fields['new_operator']} signs for {fields['organisation']}"
        case _:
            return f"version {fields['version']} from block {fields['height']}"


def _thousandths(value: str) -> str:
    return voted.format_value(voted.find("pricing.min"), int(value))


def _in_short(status: ChainStatus, entry: Proposal) -> dict[str, Any]:
    """Fields of a `ProposalRow`."""
    title = TEXTS.get(status.view, u64(entry.number))
    is_voting = entry.status is ProposalStatus.VOTING
    is_queued = entry.status is ProposalStatus.QUEUED
    return {
        "proposal": entry.number,
        "type": type_name(entry.content),
        "status": entry.status,
        "title": "" if title is None else title.title,
        "summary": summary(entry.content),
        "proposer": entry.proposer,
        "submitted_ms": entry.submitted_ms,
        "voting_ends_ms": entry.due_ms if is_voting else None,
        "executes_ms": entry.due_ms if is_queued else None,
        "deposit_ugtx": entry.deposit_ugtx,
        "ballots": entry.ballots,
        "approvals": entry.approvals,
    }


def _figures(
    context: Context, status: ChainStatus, entry: Proposal, around: Surroundings
) -> dict[str, Any]:
    """Fields of `TallyFigures`. Shares are rounded down; the verdict is the rules' own."""
    result = context.tally(status, entry.number)
    numbers = governance.parameters(status.view)
    took_part = result.yes_ugtx + result.no_ugtx + result.abstain_ugtx
    is_final = entry.status is not ProposalStatus.VOTING
    return {
        "yes_ugtx": result.yes_ugtx,
        "no_ugtx": result.no_ugtx,
        "abstain_ugtx": result.abstain_ugtx,
        "bonded_ugtx": result.bonded_ugtx,
        "turnout_bps": _share(took_part, result.bonded_ugtx),
        "support_bps": _share(result.yes_ugtx, result.bonded_ugtx),
        "quorum_bps": numbers.quorum_bps,
        "yes_bps": _share(result.yes_ugtx, result.yes_ugtx + result.no_ugtx),
        "approval_bps": numbers.approval_bps,
        "approvers": tuple(
            Approver(organisation=name, weight=weight, approved=name in entry.approvals)
            for name, weight in _approvers(entry, around)
        ),
        "outcome": entry.status if is_final else _outcome(status, entry, result, around),
        "final": is_final,
    }


def _outcome(
    status: ChainStatus, entry: Proposal, result: Tally, around: Surroundings
) -> ProposalStatus:
    """What the vote would end as if it ended now."""
    if isinstance(entry.content, Emergency):
        weights = _approvers(entry, around)
        approved = counting.approved_weight(entry.approvals, weights)
        passed = counting.has_two_thirds(approved, sum(weight for _, weight in weights))
        return ProposalStatus.QUEUED if passed else ProposalStatus.NO_QUORUM
    return governance.outcome(status.view, entry, result, around)


def _approvers(entry: Proposal, around: Surroundings) -> list[tuple[str, int]]:
    try:
        return list(governance.approvers(entry.content, around) or ())
    except Rejected:
        return []  # Its region or regulator has gone since.


def _changes(content: Content, around: Surroundings) -> tuple[Change, ...]:
    return tuple(
        Change(parameter=one.parameter, unit=one.unit, old=one.old, new=one.new)
        for one in governance.preview(content, around)
    )


def _acts_on(content: Content, spec: ChainSpec) -> list[str]:
    """Names of the chains where something changes."""
    regions = [region.name for region in spec.genesis.chains]
    match content:
        case AuthorityManagement(chain=name):
            return [name]
        case Emergency(territory=territory):
            return [spec.genesis.chain_of_location(territory).name]
        case OperatorRotation():
            return [spec.name, *regions]
        case Reincarnation(chain=name):
            return [spec.name, name]
    parameter = getattr(content, "parameter", None)
    if parameter is not None and voted.find(parameter).owner is not voted.Owner.MARKET:
        return [spec.name]
    return [spec.name, *regions] if governed(content) else [spec.name]


def governed(content: Content) -> bool:
    """Whether the content sets parameters of the market."""
    return type_name(content) in ("parameter-change", "pricing-regulation", "carbon-credit-policy")


def _records(status: ChainStatus) -> dict[voted.Owner, Any]:
    """The records that hold parameters on a chain."""
    view: Reader = status.view
    found: dict[voted.Owner, Any] = {voted.Owner.MARKET: trading.parameters(view)}
    if status.spec.is_national:
        found[voted.Owner.STAKING] = pools.parameters(view)
        found[voted.Owner.GOVERNANCE] = governance.parameters(view)
        found[voted.Owner.INTERCHAIN] = checkpoints.parameters(view)
    return found


def _is_there(record: Any, parameter: voted.Parameter) -> bool:
    try:
        voted.value_in(record, parameter)
    except Rejected:
        return False  # This network's genesis has no such row.
    return True


def _voted_parameter(parameter: voted.Parameter, values: dict[str, str]) -> VotedParameter:
    return VotedParameter(
        parameter=parameter.name,
        acts_on="regions" if parameter.owner is voted.Owner.MARKET else "national",
        unit=parameter.unit,
        low=voted.format_value(parameter, parameter.low),
        high=voted.format_value(parameter, parameter.high),
        decimals=parameter.decimals,
        choices=parameter.choices,
        range=voted.valid_range(parameter),
        needs_regulator=parameter.is_regulated,
        values=values,
    )


def _share(part: int, whole: int) -> int:
    return part * BPS // whole if whole else 0


def _place(cursor: bytes, newest: int) -> int:
    if not cursor:
        return newest
    if len(cursor) != 8:
        raise ApiError(ErrorCode.MALFORMED, "this cursor does not come from this list")
    return min(int.from_bytes(cursor), newest)


METHODS = (
    Method(
        "gov_getProposals",
        get_proposals,
        "Proposals, newest first; a page with `status` may hold few and still go on.",
        routes=(Route("GET", "/governance/proposals"),),
        cost=10,
    ),
    Method(
        "gov_getProposal",
        get_proposal,
        "A proposal with its text, what it would change, and how the vote stands.",
        routes=(Route("GET", "/governance/proposals/{id}"),),
        cost=10,
    ),
    Method(
        "gov_getTally",
        get_tally,
        "How a vote stands by the stake of now, or how it ended; `outcome` says what comes of it.",
        routes=(Route("GET", "/governance/proposals/{id}/tally"),),
        cost=10,
    ),
    Method(
        "gov_getVotes",
        get_votes,
        "The ballots of an open vote, with the stake that voters had when they voted.",
        routes=(Route("GET", "/governance/proposals/{id}/votes"),),
        cost=10,
    ),
    Method(
        "gov_getParams",
        get_params,
        "Every parameter that can be voted on: unit, range, and the value in force by chain.",
        routes=(Route("GET", "/governance/params"),),
        cost=5,
    ),
    Method(
        "gov_simulateProposal",
        simulate_proposal,
        "What a proposal would change, or what it would be refused with. Submits nothing.",
        cost=10,
    ),
)
