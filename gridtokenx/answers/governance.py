"""Answers about proposals, votes, and the parameters that can be voted on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from gridtokenx.answers.fields import (
    TIME_EXAMPLE,
    Account,
    AsOf,
    Finalized,
    NextCursor,
    answer,
    count,
)
from gridtokenx.answers.shapes import Rule
from gridtokenx.governance.model import Choice, Content, ProposalStatus
from gridtokenx.interchain.model import Escrow

_SHARE = "1/10000, rounded down"

ProposalNumber = Annotated[int, Rule("number of the proposal", unit="proposals", example="1")]
ProposalType = Annotated[str, Rule("its type, as people type it", example="parameter-change")]
Summary = Annotated[str, Rule("what it does, in a line", example="carbon_credits.solar = 0.7")]
ParameterName = Annotated[str, Rule("name of the parameter", example="carbon_credits.solar")]
ParameterUnit = Annotated[str, Rule("what its value is in; may be empty", example="credits/kWh")]
Deposit = Annotated[
    int, Rule("what the proposer leaves in pledge until the end", example="1000000000")
]
VotingEnds = Annotated[
    int | None,
    Rule("when the vote ends; null after it", unit="ms since 1970 UTC", example=TIME_EXAMPLE),
]
Executes = Annotated[
    int | None,
    Rule(
        "when it is carried out; null where no time is set",
        unit="ms since 1970 UTC",
        example=TIME_EXAMPLE,
    ),
]
Lost = Annotated[
    Escrow | None,
    Rule("what senders would have twice if a region begins again; null for all else"),
]


@answer
class Change:
    """What a proposal sets."""

    parameter: ParameterName
    unit: ParameterUnit
    old: Annotated[str, Rule("value in force", example="0.5")]
    new: Annotated[str, Rule("value that is proposed", example="0.7")]


Changes = Annotated[tuple[Change, ...], Rule("what it would set; empty once it is decided")]


@answer
class Approver:
    """An organisation that must approve too, beside the stake."""

    organisation: Annotated[str, Rule("its name", example="erc")]
    weight: Annotated[int, Rule("what its word weighs", unit="votes", example="1")]
    approved: Annotated[bool, Rule("whether it has approved", example=False)]


@answer
class TallyFigures:
    """How a vote stands by the stake of now, or how it ended."""

    yes_ugtx: Annotated[int, Rule("stake for it", example="300000000000")]
    no_ugtx: Annotated[int, Rule("stake against it", example="100000000000")]
    abstain_ugtx: Annotated[int, Rule("stake that abstains", example="0")]
    bonded_ugtx: Annotated[int, Rule("all stake", example="400000000000")]
    turnout_bps: Annotated[int, count("part of all stake that took part", _SHARE, 10_000)]
    support_bps: Annotated[int, count("part of all stake that is for it", _SHARE, 7500)]
    quorum_bps: Annotated[int, count("turnout that it needs", "1/10000", 3334)]
    yes_bps: Annotated[int, count("part for it of yes and no", _SHARE, 7500)]
    approval_bps: Annotated[int, count("part for it that it needs", "1/10000", 6000)]
    approvers: Annotated[tuple[Approver, ...], Rule("who must approve; empty for nobody")]
    outcome: Annotated[
        ProposalStatus, Rule("its end, or what it would be if the vote ended now", example="queued")
    ]
    final: Annotated[bool, Rule("whether the vote has ended", example=False)]


@answer
class _OfProposal(AsOf):
    proposal: ProposalNumber


@answer
class ProposalTally(TallyFigures, _OfProposal):
    """How the vote on one proposal stands."""


@answer
class ProposalRow:
    """A proposal in short."""

    proposal: ProposalNumber
    type: ProposalType
    status: Annotated[ProposalStatus, Rule("where it stands", example="voting")]
    title: Annotated[str, Rule("the proposer's title", example="More sun")]
    summary: Summary
    proposer: Account
    submitted_ms: Annotated[
        int, Rule("when it was made", unit="ms since 1970 UTC", example=TIME_EXAMPLE)
    ]
    voting_ends_ms: VotingEnds
    executes_ms: Executes
    deposit_ugtx: Deposit
    ballots: Annotated[int, count("accounts that voted", "ballots")]
    approvals: Annotated[tuple[str, ...], Rule("organisations that have approved", example=["erc"])]


@answer
class ProposalPage(AsOf):
    """Proposals, newest first."""

    items: tuple[ProposalRow, ...]
    next_cursor: NextCursor


@answer
class ProposalDetail(ProposalRow, AsOf):
    """A proposal with all there is to know before a vote."""

    description: Annotated[str, Rule("the proposer's reasons", example="Why: because.")]
    content: Annotated[Content, Rule("what it proposes, as it is signed")]
    changes: Changes
    would_fail: Annotated[
        str | None,
        Rule(
            "why it could not be carried out now; null if it could, or is decided",
            example="it would change nothing: that is in force already",
        ),
    ]
    lost: Lost
    tally: TallyFigures


@answer
class BallotRow:
    """A vote on an open proposal."""

    voter: Account
    choice: Annotated[Choice, Rule("what it says", example="yes")]
    power_ugtx: Annotated[int, Rule("stake it had when it voted", example="100000000000")]


@answer
class BallotPage(_OfProposal):
    """Ballots of an open vote, in the order of the voters' addresses."""

    items: tuple[BallotRow, ...]
    next_cursor: NextCursor


@answer
class VotedParameter:
    """A parameter that can be voted on."""

    parameter: ParameterName
    acts_on: Annotated[str, Rule("`regions` or `national`", example="regions")]
    unit: ParameterUnit
    low: Annotated[str, Rule("least value", example="0")]
    high: Annotated[str, Rule("greatest value", example="5")]
    decimals: Annotated[int, count("most decimals of a value", "digits")]
    choices: Annotated[
        tuple[str, ...], Rule("its values, if they are words", example=["block", "gate"])
    ]
    range: Annotated[
        str,
        Rule("what it may be, in words", example="0 to 5 (credits/kWh, at most 3 decimals)"),
    ]
    needs_regulator: Annotated[
        bool, Rule("whether the regulator must approve a change", example=False)
    ]
    values: Annotated[
        Mapping[str, str], Rule("value in force, by chain", example={"TH": "0.5", "MET": "0.5"})
    ]


@answer
class VotedParameters:
    """Parameters that can be voted on."""

    heights: Annotated[
        Mapping[str, int],
        Rule("newest decided block, by chain", unit="blocks", example={"TH": "42"}),
    ]
    finalized: Finalized = True
    items: tuple[VotedParameter, ...]


@answer
class SimulatedProposal(AsOf):
    """What a proposal would do and cost."""

    type: ProposalType
    summary: Summary
    changes: Annotated[tuple[Change, ...], Rule("what it would set")]
    fee_ugtx: Annotated[int, Rule("what it costs in any case", example="10000000")]
    deposit_ugtx: Deposit
    voting_ends_ms: Annotated[
        int,
        Rule("when its vote would end", unit="ms since 1970 UTC", example=TIME_EXAMPLE),
    ]
    executes_ms: Executes
    approvers: Annotated[
        tuple[str, ...], Rule("organisations that must approve too", example=["erc"])
    ]
    chains: Annotated[tuple[str, ...], Rule("where something changes", example=["TH", "MET"])]
    lost: Lost
