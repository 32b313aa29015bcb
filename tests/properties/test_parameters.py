"""Whatever numbers are voted in, the next vote can pass and a validator set can be elected."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from gridtokenx.chain.limits import TURNS_BEFORE_JAIL
from gridtokenx.chain.national import carry_to_votes, surroundings, voting_power
from gridtokenx.chain.validator_sets import sets_from
from gridtokenx.cluster.devnet import (
    EPOCH_BLOCKS,
    NATIONAL,
    account_address,
    local_genesis,
    stake_key,
    validator_name,
)
from gridtokenx.governance import model, rules
from gridtokenx.governance import parameters as voted
from gridtokenx.governance.model import (
    Choice,
    ParameterChange,
    ProposalExecuted,
    ProposalStatus,
    Propose,
    Vote,
)
from gridtokenx.interchain import checkpoints
from gridtokenx.interchain import model as interchain
from gridtokenx.primitives.errors import ErrorCode, Rejected
from gridtokenx.primitives.state import MemoryReader, Overlay
from gridtokenx.staking import model as stake
from gridtokenx.staking import pools
from gridtokenx.staking import rules as staking
from gridtokenx.trading import model as market
from gridtokenx.trading import rules as trading

SPEC = local_genesis(authorities=7).chain(NATIONAL)
OPERATORS = [stake_key(validator_name(index)[1]).public_key for index in range(7)]
PROPOSER = account_address("egat")
OWNERS = (voted.Owner.STAKING, voted.Owner.GOVERNANCE)
NUMBERS = [one for one in voted.PARAMETERS if one.owner in OWNERS]
EDGES = (0, 1, 2, 3, 4, 5, 20, 21, 61, 63, 100, 10**6, 10**9, 10**11, 5 * 10**10)


def begun() -> Overlay:
    state = Overlay(MemoryReader())
    SPEC.install(state)
    return state


def value_of(parameter: voted.Parameter) -> st.SearchStrategy[int]:
    low, high = parameter.low, parameter.high
    near = [low + edge for edge in EDGES] + [high - edge for edge in EDGES]
    return st.sampled_from([one for one in near if low <= one <= high]) | st.integers(low, high)


def changes_of(parameters: list[voted.Parameter]) -> st.SearchStrategy[ParameterChange]:
    return st.sampled_from(parameters).flatmap(
        lambda one: value_of(one).map(
            lambda value: ParameterChange(one.name, voted.format_value(one, value))
        )
    )


def put(state: Overlay, name: str, value: int) -> None:
    parameter = voted.find(name)
    target: Any
    target, record = {
        voted.Owner.MARKET: (market.MARKET_PARAMETERS, trading.parameters(state)),
        voted.Owner.STAKING: (stake.STAKING_PARAMETERS, pools.parameters(state)),
        voted.Owner.GOVERNANCE: (model.GOVERNANCE_PARAMETERS, rules.parameters(state)),
        voted.Owner.INTERCHAIN: (interchain.INTERCHAIN_PARAMETERS, checkpoints.parameters(state)),
    }[parameter.owner]
    target.put(state, b"", voted.with_value(record, parameter, value))


def check_votes_pass(state: Overlay, now_ms: int) -> int:
    """All stake says yes to a change that is not in force: it passes and is carried out."""
    around = surroundings(state, SPEC)
    solar = voted.value_in(trading.parameters(state), voted.find("carbon_credits.solar"))
    content = ParameterChange("carbon_credits.solar", "0.7" if solar != 700 else "0.6")
    rules.propose(state, Propose("t", "d", content), sender=PROPOSER, now_ms=now_ms, around=around)
    (number,) = [one.number for one in rules.proposals(state)][-1:]
    for operator in OPERATORS:
        vote, power = Vote(number, Choice.YES), voting_power(state)
        rules.vote(state, vote, sender=operator, now_ms=now_ms, power=power)
    for wanted in (ProposalStatus.QUEUED, ProposalStatus.EXECUTED):
        now_ms = rules.proposal(state, number).due_ms
        events = rules.begin_block(
            state,
            now_ms=now_ms,
            grace_ms=2**60,
            power=lambda: voting_power(state),
            around=surroundings(state, SPEC),
        )
        assert rules.proposal(state, number).status is wanted
    (executed,) = [one for one in events if isinstance(one, ProposalExecuted)]
    for action in executed.actions:
        put(state, action.name, action.value)
    return now_ms


def check_elections_go_on(state: Overlay) -> None:
    newest = sets_from(state, 1, EPOCH_BLOCKS).scheduled[-1].validators
    _, events = staking.order_validators(state, newest)
    assert not [one for one in events if one.reason is stake.RefusalReason.TOO_FEW]
    elected = staking.elected_by(state, pools.parameters(state))
    assert len(elected) >= max(4, pools.parameters(state).min_validators)
    numbers = pools.parameters(state)
    assert numbers.downtime_blocks >= TURNS_BEFORE_JAIL * len(elected)
    assert numbers.unbonding_blocks >= SPEC.genesis.unbonding_blocks_min


def is_accepted(change: ParameterChange, state: Overlay) -> bool:
    refusal = None
    try:
        rules.preview(change, surroundings(state, SPEC))
    except Rejected as error:
        refusal = error.code
    assert refusal in (None, ErrorCode.VALUE_OUT_OF_RANGE, ErrorCode.DUPLICATE)
    return refusal is None


@settings(max_examples=150, deadline=None)
@given(
    st.lists(changes_of(NUMBERS), min_size=1, max_size=12),
    st.dictionaries(st.sampled_from(OPERATORS), st.integers(1, 89_000), max_size=3),
)
def test_no_accepted_change_stops_votes_or_elections(changes, leaving) -> None:
    state, now_ms = begun(), SPEC.genesis.genesis_time_ms
    for operator, gtx in leaving.items():  # Pools differ.
        command = stake.Unbond(operator, gtx * 10**6)
        carry_to_votes(state, staking.unbond(state, command, sender=operator, height=1))
    for change in changes:
        if is_accepted(change, state):
            parameter = voted.find(change.parameter)
            put(state, change.parameter, voted.parse(parameter, change.new_value))
            check_elections_go_on(state)
            now_ms = check_votes_pass(state, now_ms)


@settings(max_examples=100, deadline=None)
@given(st.lists(changes_of(list(voted.PARAMETERS)), min_size=1, max_size=20))
def test_changes_of_the_market_and_of_messages_stop_neither(changes) -> None:
    """What they do to trade a vote can take back."""
    state, now_ms = begun(), SPEC.genesis.genesis_time_ms
    for change in changes:
        if is_accepted(change, state):
            parameter = voted.find(change.parameter)
            put(state, change.parameter, voted.parse(parameter, change.new_value))
    check_elections_go_on(state)
    check_votes_pass(state, now_ms)
