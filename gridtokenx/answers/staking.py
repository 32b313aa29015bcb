"""Answers about stake: validators, delegations, and where all gtx lies."""

from __future__ import annotations

from typing import Annotated, Literal

from gridtokenx.answers.fields import (
    ADDRESS_EXAMPLE,
    HASH_EXAMPLE,
    Account,
    AsOf,
    NextCursor,
    answer,
    count,
)
from gridtokenx.answers.shapes import Rule
from gridtokenx.staking.model import Offence, StakingParameters

Moniker = Annotated[str, Rule("name that the validator gives itself", example="egat-0")]
Operator = Annotated[Account, Rule("account of the validator's operator", example=ADDRESS_EXAMPLE)]
StartedHeight = Annotated[int, Rule("block in which it began", unit="blocks", example="42")]


@answer
class ValidatorRow:
    """A validator of the national chain, or a candidate."""

    operator: Operator
    moniker: Moniker
    consensus_key: Annotated[Account, Rule("key that signs its votes", example=ADDRESS_EXAMPLE)]
    status: Annotated[
        Literal["active", "candidate", "jailed", "excluded"],
        Rule("active: its key is in the set of now", example="active"),
    ]
    weight: Annotated[int, Rule("votes it has in the set of now", example="100000")]
    stake_ugtx: Annotated[int, Rule("all that is bonded to it", example="100000000000")]
    self_bond_ugtx: Annotated[int, Rule("what its operator bonded", example="100000000000")]
    commission_bps: Annotated[int, count("its part of its delegators' rewards", "1/10000", 500)]
    jailed_until_height: Annotated[
        int | None,
        Rule(
            "first block in which it may ask to be released; null if it is not jailed, or for ever",
            unit="blocks",
            example="8640",
        ),
    ]


@answer
class ValidatorPage(AsOf):
    """Validators and candidates, the greatest pool first."""

    set_hash: Annotated[bytes, Rule("hash of the validator set of now", example=HASH_EXAMPLE)]
    total_weight: Annotated[int, Rule("votes of the whole set", unit="votes", example="400000")]
    items: tuple[ValidatorRow, ...]
    next_cursor: NextCursor


@answer
class ScheduledWeight:
    """What a validator weighs in a set that is decided."""

    first_height: Annotated[int, Rule("first block of that set", unit="blocks", example="60")]
    weight: Annotated[int, Rule("votes it has there", unit="votes", example="100000")]


@answer
class ValidatorDetail(ValidatorRow, AsOf):
    """A validator with its pool, its offences, and its weight in sets to come."""

    shares: Annotated[
        int,
        Rule(
            "shares of its pool, of which delegators hold parts",
            unit="shares",
            example="100000000000",
        ),
    ]
    changed_height: Annotated[
        int, Rule("block in which it was last declared or changed", unit="blocks", example="0")
    ]
    open_entries: Annotated[int, count("payments and redelegations on their way", "entries", 0)]
    slashed_bps: Annotated[int, count("taken from its pool in all", "1/10000", 0)]
    absent_blocks: Annotated[int, count("blocks in a row that it did not sign", "blocks", 0)]
    offences: Annotated[tuple[Offence, ...], Rule("what it did wrong, the oldest first")]
    weights: Annotated[tuple[ScheduledWeight, ...], Rule("its weight in the sets that are decided")]


@answer
class Delegation:
    """What an account has bonded to one validator."""

    validator: Operator
    moniker: Moniker
    amount_ugtx: Annotated[int, Rule("worth now, with rewards", example="30000000")]
    locked_ugtx: Annotated[
        int, Rule("part that was redelegated and cannot be yet again", example="0")
    ]
    shares: Annotated[int, Rule("its shares of the pool", unit="shares", example="30000000")]


@answer
class Unbonding:
    """What an account has taken out, and gets later."""

    validator: Operator
    amount_ugtx: Annotated[int, Rule("what is paid out", example="20000000")]
    started_height: StartedHeight
    matures_height: Annotated[int, Rule("block that pays it", unit="blocks", example="642")]


@answer
class Redelegation:
    """What an account has moved from one validator to another."""

    source: Operator
    destination: Operator
    amount_ugtx: Annotated[int, Rule("worth now", example="10000000")]
    started_height: StartedHeight
    free_height: Annotated[
        int, Rule("block from which on it may be moved again", unit="blocks", example="642")
    ]


@answer
class Delegations(AsOf):
    """All stake of an account."""

    address: Account
    bonded_ugtx: Annotated[int, Rule("worth of all that is bonded", example="30000000")]
    unbonding_ugtx: Annotated[int, Rule("what is on its way back", example="20000000")]
    unbonding_blocks: Annotated[int, Rule("how long that way takes", example="120960")]
    delegations: tuple[Delegation, ...]
    unbonding: Annotated[tuple[Unbonding, ...], Rule("the 100 that are paid first")]
    redelegating: Annotated[tuple[Redelegation, ...], Rule("the 100 that are free first")]


@answer
class StakePool(AsOf):
    """All stake together."""

    bonded_ugtx: Annotated[int, Rule("bonded to all validators", example="400000000000")]
    unbonding_ugtx: Annotated[int, Rule("on its way back to its owners", example="20000000")]
    reward_reserve_ugtx: Annotated[int, Rule("what pays rewards", example="9999987000000")]
    treasury_ugtx: Annotated[int, Rule("what votes spend", example="2030000000")]
    validators: Annotated[int, count("validators and candidates", "validators", 4)]
    jailed: Annotated[int, count("those that are jailed", "validators", 0)]
    in_set: Annotated[int, count("those that sign blocks now", "validators", 4)]
    epoch_blocks: Annotated[int, Rule("length of an epoch", example="60")]
    next_epoch_height: Annotated[int, Rule("first block of the next epoch", example="60")]
    next_set_height: Annotated[
        int | None, Rule("first block of the next set that is decided", example="120")
    ]
    parameters: Annotated[StakingParameters, Rule("numbers that governance may change")]
