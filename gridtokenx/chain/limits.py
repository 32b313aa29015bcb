"""Values of the numbers of stake and votes that ranges alone cannot judge.

A change that would stop elections, votes or the watch over validators cannot be voted back, so it
is refused when it is proposed and when it is carried out, and a genesis that begins so as well.
Source: protocols/governance.md 2.8.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from gridtokenx.governance import parameters as voted
from gridtokenx.governance import rules as governance
from gridtokenx.governance.model import GovernanceParameters
from gridtokenx.governance.parameters import Owner
from gridtokenx.primitives.errors import ErrorCode, Rejected
from gridtokenx.primitives.quantities import BPS
from gridtokenx.primitives.state import Reader
from gridtokenx.primitives.validators import MAX_WEIGHT
from gridtokenx.staking import pools
from gridtokenx.staking import rules as staking
from gridtokenx.staking.model import StakingParameters

SAFE_MEMBERS = 4  # With fewer no validator may fail; a vote keeps them where they can be elected.
TURNS_BEFORE_JAIL = 3  # Whoever is there is seen at the latest when it leads.
# Of all that is bonded: deposit and fee together, so that who has that much can propose.
DEPOSIT_PART_BPS = 500
# A vote may be as short as that of the genesis, or as these, so that people have time.
VOTING_BLOCKS, DELAY_BLOCKS = 360, 60
# What a genesis may begin with.
LEAST_VOTING_BLOCKS, LEAST_DELAY_BLOCKS = 4, 1


@dataclass(frozen=True, slots=True)
class Times:
    """What a genesis says of time: blocks of an epoch, market time of a block, the first votes."""

    epoch_blocks: int
    block_ms: int
    governance: GovernanceParameters

    @property
    def least_voting_ms(self) -> int:
        """The shortest voting period that a vote may set."""
        return min(VOTING_BLOCKS * self.block_ms, self.governance.voting_period_ms)

    @property
    def least_delay_ms(self) -> int:
        """The shortest execution delay that a vote may set."""
        return min(DELAY_BLOCKS * self.block_ms, self.governance.execution_delay_ms)


def check_values(state: Reader, changes: Mapping[str, int], times: Times) -> None:
    """Whether elections and votes go on with new values by name. Those of the market pass: a vote
    can take back whatever they do. Errors: VALUE_OUT_OF_RANGE with what is possible now.
    """
    now, new = pools.parameters(state), pools.parameters(state)
    rules = governance.parameters(state)
    for name, value in changes.items():
        parameter = voted.find(name)
        if parameter.owner is Owner.STAKING:
            new = voted.with_value(new, parameter, value)
        elif parameter.owner is Owner.GOVERNANCE:
            rules = voted.with_value(rules, parameter, value)
    if new != now:
        elected = len(staking.elected_by(state, now))
        _check_elections(state, changes, new, min(SAFE_MEMBERS, elected))
        _check_watch(changes, new, times)
    _at_least(changes, "governance.voting_period", times.least_voting_ms)
    _at_least(changes, "governance.execution_delay", times.least_delay_ms)
    _check_deposit(state, changes, rules)


def check_genesis(state: Reader, times: Times) -> None:
    """`check_values` for what a genesis begins with; `state` is that before block 1.

    A small network may begin with few members and with short votes.
    """
    records = {Owner.STAKING: pools.parameters(state), Owner.GOVERNANCE: times.governance}
    values = {
        one.name: voted.value_in(records[one.owner], one)
        for one in voted.PARAMETERS
        if one.owner in records
    }
    _check_elections(state, values, pools.parameters(state), 1)
    _check_watch(values, pools.parameters(state), times)
    _at_least(values, "governance.voting_period", LEAST_VOTING_BLOCKS * times.block_ms)
    _at_least(values, "governance.execution_delay", LEAST_DELAY_BLOCKS * times.block_ms)
    _check_deposit(state, values, times.governance)


def _check_elections(
    state: Reader, changes: Mapping[str, int], new: StakingParameters, least: int
) -> None:
    """Enough members can be elected, and none weighs so much that weights are cut off."""
    if "staking.unit" in changes:
        smallest = -(-pools.total_bonded_ugtx(state) // MAX_WEIGHT)
        _at_least(changes, "staking.unit", smallest)
    _at_least(changes, "staking.min_validators", least)
    if changes.keys() & {"staking.weight_cap", "staking.max_validators"}:
        smallest = -(-BPS // new.weight_cap_bps)
        if new.max_validators < smallest:
            cap = voted.format_value(voted.find("staking.weight_cap"), new.weight_cap_bps)
            detail = (
                f"with a staking.weight_cap of {cap} staking.max_validators must be {smallest} or "
                f"more, or no set could keep to the cap; it would be {new.max_validators}"
            )
            raise Rejected(ErrorCode.VALUE_OUT_OF_RANGE, detail)
    needed = max(new.min_validators, least)
    elected = len(staking.elected_by(state, new))
    if elected >= needed:
        return
    if "staking.min_validators" in changes:
        _at_most(changes, "staking.min_validators", max(elected, least))
    _at_least(changes, "staking.max_validators", needed)
    candidates = pools.ranked(state, new.max_validators, 0)
    if len(candidates) >= needed:
        stakes = sorted((one.stake_ugtx for one in candidates), reverse=True)
        _at_most(changes, "staking.unit", stakes[needed - 1])
        own = sorted((pools.self_bond_ugtx(state, one) for one in candidates), reverse=True)
        _at_most(changes, "staking.min_self_bond", own[needed - 1])
    if changes.keys() & _ELECTING:
        detail = f"{elected} validators could be elected then, {needed} are needed; change it less"
        raise Rejected(ErrorCode.VALUE_OUT_OF_RANGE, detail)


_ELECTING = frozenset(
    f"staking.{name}"
    for name in ("unit", "min_self_bond", "max_validators", "min_validators", "weight_cap")
)


def _check_watch(changes: Mapping[str, int], new: StakingParameters, times: Times) -> None:
    """Nobody is jailed for absence that was there: all members lead in that time."""
    if not changes.keys() & {"staking.downtime", "staking.max_validators"}:
        return
    least = max(times.epoch_blocks, TURNS_BEFORE_JAIL * new.max_validators)
    if new.downtime_blocks < least:
        detail = (
            f"with epochs of {times.epoch_blocks} blocks and {new.max_validators} validators "
            f"staking.downtime must be {least} blocks or more, not {new.downtime_blocks}: a "
            "validator is seen at the latest when it leads"
        )
        raise Rejected(ErrorCode.VALUE_OUT_OF_RANGE, detail)


def _check_deposit(state: Reader, changes: Mapping[str, int], rules: GovernanceParameters) -> None:
    """What a proposal takes is within reach of a twentieth of the stake: it can unbond that much.
    The supply never falls, so that stays true when more is unbonded.
    """
    if not changes.keys() & {"governance.deposit", "governance.fee"}:
        return
    most = pools.total_bonded_ugtx(state) * DEPOSIT_PART_BPS // BPS
    taken = rules.deposit_ugtx + rules.fee_ugtx
    if taken > most:
        amounts = [voted.format_value(voted.find("governance.fee"), one) for one in (taken, most)]
        detail = (
            f"governance.deposit and governance.fee would be {amounts[0]} gtx together; they may "
            f"be {amounts[1]} now, a twentieth of all that is bonded"
        )
        raise Rejected(ErrorCode.VALUE_OUT_OF_RANGE, detail)


def _at_least(changes: Mapping[str, int], name: str, least: int) -> None:
    value = changes.get(name, least)
    if value < least:
        raise _out_of_range(name, value, "at least", least)


def _at_most(changes: Mapping[str, int], name: str, most: int) -> None:
    value = changes.get(name, most)
    if value > most:
        raise _out_of_range(name, value, "at most", most)


def _out_of_range(name: str, value: int, how: str, edge: int) -> Rejected:
    parameter = voted.find(name)
    shown, limit = (voted.format_value(parameter, one) for one in (value, edge))
    detail = f"{name} may be {how} {limit} {parameter.unit} now, not {shown}"
    return Rejected(ErrorCode.VALUE_OUT_OF_RANGE, detail)
