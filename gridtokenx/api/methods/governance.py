"""Methods about governance: proposals, votes, and every parameter that can be voted on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from gridtokenx.api.context import Context
from gridtokenx.api.documents import document
from gridtokenx.api.errors import ApiError
from gridtokenx.api.kinds import address, choice, format_cursor, integer, json_object, text, words
from gridtokenx.api.paging import fill
from gridtokenx.api.table import CHAIN, CURSOR, LIMIT, Arguments, Method, Param, Route, shape
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
from gridtokenx.primitives.codec import MAX_INT
from gridtokenx.primitives.document import from_document, kind_of
from gridtokenx.primitives.errors import ErrorCode, Rejected
from gridtokenx.primitives.quantities import BPS
from gridtokenx.primitives.state import Overlay, Reader, u64
from gridtokenx.primitives.types import format_address
from gridtokenx.staking import pools
from gridtokenx.trading import rules as trading
from gridtokenx.views.status import ChainStatus

_WAITING = (ProposalStatus.VOTING, ProposalStatus.QUEUED)


def get_proposals(context: Context, arguments: Arguments) -> dict[str, Any]:
    """Numbers are dense from 1 on, so a page counts down from its cursor."""
    status = context.national()
    newest = NEWEST.get(status.view, b"")
    number = _place(arguments["cursor"], newest.number if newest else 0)
    wanted = arguments["status"]

    def rows() -> Iterator[tuple[bytes, dict[str, Any] | None]]:
        for one in range(number, 0, -1):
            entry = PROPOSALS.get(status.view, u64(one))
            is_asked = entry is not None and wanted in (None, entry.status.value)
            yield u64(one - 1), _proposal_document(status, entry) if entry and is_asked else None

    items, following = fill(rows(), arguments["limit"])
    return {**_as_of(status), "items": items, "next_cursor": format_cursor(following)}


def get_proposal(context: Context, arguments: Arguments) -> dict[str, Any]:
    status = context.national()
    entry = governance.proposal(status.view, arguments["id"])
    around = surroundings(status.view, status.spec)
    changes: list[dict[str, str]] = []
    why_not = None
    if entry.status in _WAITING:
        try:
            changes = _changes(entry.content, around)
        except Rejected as error:
            why_not = error.detail  # It no longer fits what is in force.
    return {
        **_as_of(status),
        **_proposal_document(status, entry),
        "description": governance.text(status.view, entry.number).description,
        "content": document(entry.content),
        "changes": changes,
        "would_fail": why_not,
        "lost": _lost(status.view, entry) if entry.status in _WAITING else None,
        "tally": _tally_document(context, status, entry, around),
    }


def get_tally(context: Context, arguments: Arguments) -> dict[str, Any]:
    status = context.national()
    entry = governance.proposal(status.view, arguments["id"])
    around = surroundings(status.view, status.spec)
    counted = _tally_document(context, status, entry, around)
    return {**_as_of(status), "proposal": str(entry.number), **counted}


def get_votes(context: Context, arguments: Arguments) -> dict[str, Any]:
    """In the order of the voters' addresses, so a page holds still while others vote."""
    status = context.national()
    entry = governance.proposal(status.view, arguments["id"])
    number = entry.number
    if entry.status is not ProposalStatus.VOTING:
        detail = (
            f"the vote on proposal {number} has ended; its ballots are forgotten, its tally is not"
        )
        raise ApiError(ErrorCode.VOTING_CLOSED, detail)
    after, limit = arguments["cursor"], arguments["limit"]
    if after and len(after) != 32:
        raise ApiError(ErrorCode.MALFORMED, "this cursor does not come from this list")
    items: list[dict[str, Any]] = []
    place = None
    prefix = BALLOTS.prefix + u64(number)
    for key, raw in status.view.scan(prefix, bytes):  # Most are not of this page: not decoded.
        voter = key[len(prefix) :]
        if voter <= after:
            continue
        if len(items) == limit:
            break
        ballot = BALLOTS.decode(raw)
        items.append(
            {
                "voter": format_address(voter),
                "choice": ballot.choice.value,
                "power_ugtx": str(ballot.power_ugtx),
            }
        )
        place = voter
    else:
        place = None
    return {
        **_as_of(status),
        "proposal": str(number),
        "items": items,
        "next_cursor": format_cursor(place),
    }


def get_params(context: Context, arguments: Arguments) -> dict[str, Any]:
    """What regions have in force may lie behind the national chain's vote by a few blocks."""
    wanted = arguments["name"]
    rows = voted.PARAMETERS if wanted is None else (voted.find(wanted),)
    chains = context.selected(arguments["chain"])
    records = {status.spec.name: _records(status) for status in chains}
    items = []
    for parameter in rows:
        values = {
            name: voted.format_value(parameter, voted.value_in(owned[parameter.owner], parameter))
            for name, owned in records.items()
            if parameter.owner in owned and _is_there(owned[parameter.owner], parameter)
        }
        if values or wanted is not None:
            items.append(_parameter_document(parameter, values))
    heights = {status.spec.name: str(status.head.height) for status in chains}
    return {"heights": heights, "finalized": True, "items": items}


def simulate_proposal(context: Context, arguments: Arguments) -> dict[str, Any]:
    """Refused with whatever `propose` would be; the proposer's money counts if it is named."""
    status = context.national()
    view, spec, now_ms = status.view, status.spec, status.head.market_ms
    command = from_document(
        Propose,
        {
            "title": arguments["title"],
            "description": arguments["description"],
            "content": arguments["content"],
        },
        "proposal",
    )
    around = surroundings(view, spec)
    changes = _changes(command.content, around)
    if arguments["proposer"] is not None:
        governance.propose(
            Overlay(view), command, sender=arguments["proposer"], now_ms=now_ms, around=around
        )
    numbers = governance.parameters(view)
    ends_ms = now_ms + numbers.voting_period_ms
    executes_ms = ends_ms + numbers.execution_delay_ms
    if isinstance(command.content, PricingRegulation):
        executes_ms = max(executes_ms, command.content.effective_ms)
    approvers = governance.approvers(command.content, around)
    is_emergency = isinstance(command.content, Emergency)
    return {
        **_as_of(status),
        "type": type_name(command.content),
        "summary": summary(command.content),
        "changes": changes,
        "fee_ugtx": str(numbers.fee_ugtx),
        "deposit_ugtx": str(numbers.deposit_ugtx),
        "voting_ends_ms": str(ends_ms),
        "executes_ms": None if is_emergency else str(executes_ms),
        "approvers": [name for name, _ in approvers or ()],
        "chains": _acts_on(command.content, spec),
        "lost": _lost(view, command),
    }


def _lost(state: Reader, asked: Proposal | Propose) -> dict[str, Any] | None:
    """What the senders of a region that begins again would have twice; null for all else."""
    content = asked.content
    if not isinstance(content, Reincarnation):
        return None
    try:
        base = check_base(state, content.chain, content.height, content.block_hash)
    except Rejected:
        return None  # It would fail.
    return document(lost_since(state, content.chain, base))


# -- Documents -------------------------------------------------------------------------------------


def type_name(content: Content) -> str:
    """The type as people type it: `parameter-change`."""
    return kind_of(type(content)).replace("_", "-")


def summary(content: Content) -> str:
    """What a proposal does, in a line."""
    fields = document(content)
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


def _proposal_document(status: ChainStatus, entry: Proposal) -> dict[str, Any]:
    title = TEXTS.get(status.view, u64(entry.number))
    is_voting = entry.status is ProposalStatus.VOTING
    is_queued = entry.status is ProposalStatus.QUEUED
    return {
        "proposal": str(entry.number),
        "type": type_name(entry.content),
        "status": entry.status.value,
        "title": "" if title is None else title.title,
        "summary": summary(entry.content),
        "proposer": format_address(entry.proposer),
        "submitted_ms": str(entry.submitted_ms),
        "voting_ends_ms": str(entry.due_ms) if is_voting else None,
        "executes_ms": str(entry.due_ms) if is_queued else None,
        "deposit_ugtx": str(entry.deposit_ugtx),
        "ballots": entry.ballots,
        "approvals": list(entry.approvals),
    }


def _tally_document(
    context: Context, status: ChainStatus, entry: Proposal, around: Surroundings
) -> dict[str, Any]:
    """Shares in basis points are rounded down; the verdict is the rules' own."""
    result = context.tally(status, entry.number)
    numbers = governance.parameters(status.view)
    took_part = result.yes_ugtx + result.no_ugtx + result.abstain_ugtx
    approvers = _approvers(entry, around)
    is_final = entry.status is not ProposalStatus.VOTING
    return {
        "yes_ugtx": str(result.yes_ugtx),
        "no_ugtx": str(result.no_ugtx),
        "abstain_ugtx": str(result.abstain_ugtx),
        "bonded_ugtx": str(result.bonded_ugtx),
        "turnout_bps": _share(took_part, result.bonded_ugtx),
        "support_bps": _share(result.yes_ugtx, result.bonded_ugtx),
        "quorum_bps": numbers.quorum_bps,
        "yes_bps": _share(result.yes_ugtx, result.yes_ugtx + result.no_ugtx),
        "approval_bps": numbers.approval_bps,
        "approvers": [
            {"organisation": name, "weight": str(weight), "approved": name in entry.approvals}
            for name, weight in approvers
        ],
        "outcome": entry.status.value if is_final else _outcome(status, entry, result, around),
        "final": is_final,
    }


def _outcome(status: ChainStatus, entry: Proposal, result: Tally, around: Surroundings) -> str:
    """What the vote would end as if it ended now."""
    if isinstance(entry.content, Emergency):
        weights = _approvers(entry, around)
        approved = counting.approved_weight(entry.approvals, weights)
        passed = counting.has_two_thirds(approved, sum(weight for _, weight in weights))
        return (ProposalStatus.QUEUED if passed else ProposalStatus.NO_QUORUM).value
    return governance.outcome(status.view, entry, result, around).value


def _approvers(entry: Proposal, around: Surroundings) -> list[tuple[str, int]]:
    try:
        return list(governance.approvers(entry.content, around) or ())
    except Rejected:
        return []  # Its region or regulator has gone since.


def _changes(content: Content, around: Surroundings) -> list[dict[str, str]]:
    return [
        {"parameter": one.parameter, "unit": one.unit, "old": one.old, "new": one.new}
        for one in governance.preview(content, around)
    ]


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


def _parameter_document(parameter: voted.Parameter, values: dict[str, str]) -> dict[str, Any]:
    return {
        "parameter": parameter.name,
        "acts_on": "regions" if parameter.owner is voted.Owner.MARKET else "national",
        "unit": parameter.unit,
        "low": voted.format_value(parameter, parameter.low),
        "high": voted.format_value(parameter, parameter.high),
        "decimals": parameter.decimals,
        "choices": list(parameter.choices),
        "range": voted.valid_range(parameter),
        "needs_regulator": parameter.is_regulated,
        "values": values,
    }


def _share(part: int, whole: int) -> int:
    return part * BPS // whole if whole else 0


def _place(cursor: bytes, newest: int) -> int:
    if not cursor:
        return newest
    if len(cursor) != 8:
        raise ApiError(ErrorCode.MALFORMED, "this cursor does not come from this list")
    return min(int.from_bytes(cursor), newest)


def _as_of(status: ChainStatus) -> dict[str, Any]:
    return {"chain": status.spec.name, "height": str(status.head.height), "finalized": True}


_ID = Param("id", integer(1, MAX_INT), "number of the proposal", required=True)
_HEAD = {"chain": "text", "height": "decimal", "finalized": "bool"}
_PAGE = {**_HEAD, "items": "list", "next_cursor": "text?"}
_PROPOSAL = {
    "proposal": "decimal",
    "type": "text",
    "status": "text",
    "title": "text",
    "summary": "text",
    "proposer": "text",
    "submitted_ms": "decimal",
    "voting_ends_ms": "decimal?",
    "executes_ms": "decimal?",
    "deposit_ugtx": "decimal",
    "ballots": "number",
    "approvals": "list",
}
_TALLY = {
    "yes_ugtx": "decimal",
    "no_ugtx": "decimal",
    "abstain_ugtx": "decimal",
    "bonded_ugtx": "decimal",
    "turnout_bps": "number",
    "support_bps": "number",
    "quorum_bps": "number",
    "yes_bps": "number",
    "approval_bps": "number",
    "approvers": "list",
    "outcome": "text",
    "final": "bool",
}

METHODS = (
    Method(
        "gov_getProposals",
        get_proposals,
        "Proposals, newest first; a page with `status` may hold few and still go on.",
        shape(**_PAGE),
        (
            Param(
                "status",
                choice(*(one.value for one in ProposalStatus)),
                "only those with this status",
            ),
            LIMIT,
            CURSOR,
        ),
        (Route("GET", "/governance/proposals"),),
        cost=10,
    ),
    Method(
        "gov_getProposal",
        get_proposal,
        "A proposal with its text, what it would change, and how the vote stands.",
        shape(
            **_HEAD,
            **_PROPOSAL,
            description="text",
            content="object",
            changes="list",
            would_fail="text?",
            lost="object?",
            tally="object",
        ),
        (_ID,),
        (Route("GET", "/governance/proposals/{id}"),),
        cost=10,
    ),
    Method(
        "gov_getTally",
        get_tally,
        "How a vote stands by the stake of now, or how it ended; `outcome` says what comes of it.",
        shape(**_HEAD, proposal="decimal", **_TALLY),
        (_ID,),
        (Route("GET", "/governance/proposals/{id}/tally"),),
        cost=10,
    ),
    Method(
        "gov_getVotes",
        get_votes,
        "The ballots of an open vote, with the stake that voters had when they voted.",
        shape(**_HEAD, proposal="decimal", items="list", next_cursor="text?"),
        (_ID, LIMIT, CURSOR),
        (Route("GET", "/governance/proposals/{id}/votes"),),
        cost=10,
    ),
    Method(
        "gov_getParams",
        get_params,
        "Every parameter that can be voted on: unit, range, and the value in force by chain.",
        shape(heights="object", finalized="bool", items="list"),
        (CHAIN, Param("name", text(64), "only this one, such as carbon_credits.solar")),
        (Route("GET", "/governance/params"),),
        cost=5,
    ),
    Method(
        "gov_simulateProposal",
        simulate_proposal,
        "What a proposal would change, or what it would be refused with. Submits nothing.",
        shape(
            **_HEAD,
            type="text",
            summary="text",
            changes="list",
            fee_ugtx="decimal",
            deposit_ugtx="decimal",
            voting_ends_ms="decimal",
            executes_ms="decimal?",
            approvers="list",
            chains="list",
            lost="object?",
        ),
        (
            Param(
                "content",
                json_object(),
                'such as {"kind": "parameter_change", "parameter": "carbon_credits.solar", '
                '"new_value": "0.7"}',
                required=True,
            ),
            Param("proposer", address(), "with it, its balance and proposals are looked at too"),
            Param("title", words(140), "title", default="a proposal"),
            Param("description", words(10_000), "description", default=""),
        ),
        cost=10,
    ),
)
