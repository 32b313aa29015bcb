"""Elections, tallies and parameter texts that another implementation must reproduce."""

from __future__ import annotations

from typing import Any

from gridtokenx.governance import tally
from gridtokenx.governance.model import BALLOTS, Ballot, Choice, Pool, VotingPower
from gridtokenx.governance.parameters import PARAMETERS, find, format_value, parse
from gridtokenx.primitives.state import MemoryReader, Overlay, u64
from gridtokenx.primitives.validators import Validator, ValidatorSet
from gridtokenx.staking.weights import elect, step_towards

Vector = dict[str, Any]
UNIT = 1_000_000
CAP_BPS = 2000
STAKES = (
    [5 * UNIT, 9 * UNIT, UNIT - 1],
    [7 * UNIT, 3 * UNIT, 9 * UNIT, 9 * UNIT + 5],
    [100 * UNIT] + [10 * UNIT] * 5,
    [1000 * UNIT, 900 * UNIT] + [10 * UNIT] * 4,
    [1_000_000 * UNIT] * 6 + [5_999 * UNIT],
    [(number * number + 1) * UNIT for number in range(21)],
)
SETS = (
    ([1, 1, 1, 1], [0, 1, 1, 1, 1]),
    ([1, 1, 1, 1], [0, 0, 0, 0, 1, 1, 1, 1]),
    ([5, 5, 5, 5, 5], [1, 2, 3, 4, 5, 6, 7]),
    ([10, 10, 10, 10, 10], [10, 10, 10, 10, 10]),
)
# Pools by validator as (stake, shares), delegations by account as (validator, shares), votes by
# account. The last pool has gained: what a share is worth is rounded down once for each choice.
VOTES = (
    (
        {"a": (600, 600), "b": (400, 400)},
        {"a": [("a", 300)], "b": [("b", 350)]},
        {"a": "yes", "b": "no"},
    ),
    (
        {"a": (600, 600), "b": (400, 400)},
        {"a": [("a", 300)], "b": [("b", 350)], "c": [("a", 200), ("b", 50)]},
        {"a": "no", "c": "yes"},
    ),
    (
        {"a": (660, 660), "b": (460, 460)},
        {"a": [("a", 600), ("b", 60)], "b": [("b", 400)], "c": [("a", 60)]},
        {"a": "yes", "b": "abstain"},
    ),
    (
        {"a": (1000, 7)},
        {"a": [("a", 2)], "b": [("a", 1)], "c": [("a", 1)], "d": [("a", 1)]},
        {"a": "abstain", "b": "yes", "c": "yes", "d": "no"},
    ),
)


def governance_files() -> dict[str, Vector]:
    """File name to document."""
    return {"election.json": elections(), "governance.json": decisions()}


def elections() -> Vector:
    """Section 1.6 of protocols/governance.md, steps 2 to 4 and 6."""
    return {
        "what": "weights by stakes in the order of candidates, and steps from one set to another",
        "unit_ugtx": UNIT,
        "weight_cap_bps": CAP_BPS,
        "elections": [
            {"stakes_ugtx": stakes, "members": _rows(elected(stakes))} for stakes in STAKES
        ],
        "steps": [
            {
                "ordered": _rows(members(old)),
                "elected": _rows(members(new)),
                "next": _rows(step_towards(members(old), members(new))),
            }
            for old, new in SETS
        ],
    }


def decisions() -> Vector:
    """Tallies and parameter texts: sections 2.3 and 2.4."""
    return {
        "what": "tallies of votes by stake, and values of parameters' texts",
        "tallies": [
            {
                "pools": {name: list(pool) for name, pool in pools.items()},
                "delegations": {who: [list(row) for row in rows] for who, rows in held.items()},
                "votes": votes,
                **counted(pools, held, votes),
            }
            for pools, held, votes in VOTES
        ],
        "parameters": [
            {
                "name": row.name,
                "low": row.low,
                "high": row.high,
                "low_text": format_value(row, row.low),
                "high_text": format_value(row, row.high),
            }
            for row in PARAMETERS
        ],
        "texts": [
            {"name": name, "text": text, "value": parse(find(name), text)}
            for name, text in (
                ("carbon_credits.solar", "0.7"),
                ("carbon_credits.solar", "0.700"),
                ("vat.rate", "0.07"),
                ("governance.deposit", "1000"),
                ("market.matching_mode", "gate"),
            )
        ],
    }


def key(number: int) -> bytes:
    """Thirty-two equal bytes, from 1."""
    return bytes([number + 1]) * 32


def elected(stakes: list[int]) -> ValidatorSet:
    """The set that stakes elect, candidates having the keys 1, 2 .."""
    rows = [(key(number), stake) for number, stake in enumerate(stakes)]
    return ValidatorSet.of(elect(rows, unit=UNIT, cap_bps=CAP_BPS))


def members(weights: list[int]) -> ValidatorSet:
    """A set by weights of the keys 1, 2 ..; 0 for none."""
    return ValidatorSet.of(
        Validator(key(number), weight) for number, weight in enumerate(weights) if weight
    )


def counted(pools: Vector, held: Vector, votes: Vector) -> Vector:
    """The tally of a vote."""
    state = Overlay(MemoryReader())
    for who, choice in votes.items():
        BALLOTS.put(state, u64(1) + who.encode(), Ballot(Choice(choice), 0))
        if who in pools:
            tally.add(state, 1, who.encode(), Choice(choice), 0)
        for validator, shares in held.get(who, []):
            tally.add(state, 1, validator.encode(), Choice(choice), shares)
    by_name = {name.encode(): Pool(*pool) for name, pool in pools.items()}
    power = VotingPower(sum(one.stake_ugtx for one in by_name.values()), lambda _: [], by_name.get)
    result = tally.count(state, 1, power)
    return {"yes": result.yes_ugtx, "no": result.no_ugtx, "abstain": result.abstain_ugtx}


def _rows(validators: ValidatorSet) -> list[list[Any]]:
    return [[member.public_key.hex(), member.weight] for member in validators.members]
