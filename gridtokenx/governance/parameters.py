"""Every parameter that can be voted on: its name, unit, range and text form, and where it lives.

A value is an integer in the unit of the field that holds it; people read and write a decimal number
in the parameter's unit. The records themselves belong to other contexts, so they are handled here
as dataclasses whose fields are known by name. Source: protocols/governance.md 2.4.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from gridtokenx.primitives.errors import ErrorCode, Rejected
from gridtokenx.primitives.quantities import BPS

_NUMBER = re.compile(r"([0-9]{1,15})(?:\.([0-9]{1,9}))?")
_DAY_MS = 86_400_000
_MOST_UGTX = 10**17
# What two thirds of the stake want passes, whatever the others do: strictly more is 0.6667.
_TWO_THIRDS_BPS = 6666
_YEAR_BLOCKS = 3_153_600  # Of 10 s.


class Owner(StrEnum):
    """The record that holds a parameter. MARKET acts on every region chain, the others here."""

    MARKET = "market"
    STAKING = "staking"
    GOVERNANCE = "governance"
    INTERCHAIN = "interchain"


@dataclass(frozen=True, slots=True)
class Parameter:
    """One number. `low` and `high` are inclusive and, as `decimals`, about the integer value:
    text = value / 10**decimals. `part` picks an entry of a field that is a table or a list;
    `choices` are the texts of a field that is an enum, whose value is an index of them;
    `is_regulated` ones change only if the regulator approves too.
    """

    name: str
    owner: Owner
    field: str
    unit: str
    decimals: int
    low: int
    high: int
    part: str | int | None = None
    choices: tuple[str, ...] = ()
    is_regulated: bool = False


def _table(
    owner: Owner, *rows: tuple[str, str, tuple[str, int], int, int] | Parameter
) -> list[Parameter]:
    return [
        row
        if isinstance(row, Parameter)
        else Parameter(row[0], owner, row[1], row[2][0], row[2][1], row[3], row[4])
        for row in rows
    ]


# Units as (text, decimals).
_PRICE, _ENERGY, _GTX = ("THB/kWh", 3), ("kWh", 3), ("gtx", 6)
_PART, _CREDITS, _SECONDS = ("of 1", 4), ("credits/kWh", 3), ("s", 3)
_HOUR, _SLOTS, _BLOCKS = ("hour of the day", 0), ("slots of 15 min", 0), ("blocks", 0)
_COUNT, _HERTZ, _UNIX_MS = ("number", 0), ("Hz", 3), ("Unix ms, 0 for never", 0)
_BAHT = ("THB", 6)

_CARBON = [
    Parameter(
        *(f"carbon_credits.{source}", Owner.MARKET, "carbon_rates", *_CREDITS, 0, 5000),
        part=source,
    )
    for source in ("solar", "wind", "hydro", "biomass", "geothermal")
]
_WHEELING = [
    Parameter(f"wheeling.{tier}", Owner.MARKET, "wheeling_mthb", *_PRICE, 0, 10_000, part=number)
    for number, tier in enumerate(("substation", "zone", "territory", "national"))
]
_MODE = Parameter(
    *("market.matching_mode", Owner.MARKET, "matching_mode", "choice", 0, 0, 1),
    choices=("block", "gate"),
)

# Trade between territories is not what the law allows today: protocols/governance.md 2.3.
_TIER = Parameter(
    *("market.max_trade_tier", Owner.MARKET, "max_trade_tier", *_COUNT, 0, 3), is_regulated=True
)

# What its authority may bring to a chain in a day is money that people can take out.
# Source: protocols/market.md 1.
_DEPOSITS = Parameter(
    *("market.deposit_limit", Owner.MARKET, "deposit_limit_uthb", *_BAHT, 0, 10**18),
    is_regulated=True,
)

PARAMETERS: tuple[Parameter, ...] = (
    *_CARBON,
    *_WHEELING,
    *_table(
        Owner.MARKET,
        ("wheeling.transmission", "transmission_mthb", _PRICE, 0, 10_000),
        ("pricing.min", "min_price_mthb", _PRICE, 0, 100_000),
        ("pricing.max", "max_price_mthb", _PRICE, 1, 100_000),
        ("pricing.peak_multiplier", "peak_multiplier_bps", ("times", 4), BPS, 10 * BPS),
        ("pricing.peak_start", "peak_start_hour", _HOUR, 0, 24),
        ("pricing.peak_end", "peak_end_hour", _HOUR, 0, 24),
        ("pricing.buyback", "buyback_mthb", _PRICE, 0, 100_000),
        ("pricing.shortfall_penalty", "shortfall_penalty_mthb", _PRICE, 0, 100_000),
        ("fees.trade", "fee_bps", _PART, 0, 1000),
        ("fees.authority_share", "authority_fee_share_bps", _PART, 0, BPS),
        ("vat.rate", "vat_bps", _PART, 0, 3000),
        ("vat.end", "vat_end_ms", _UNIX_MS, 0, 4_102_444_800_000),
        ("vat.rate_after", "vat_after_bps", _PART, 0, 3000),
        _TIER,
        _MODE,
        _DEPOSITS,
        ("market.min_order", "min_order_wh", _ENERGY, 1, 1_000_000),
        ("market.max_order", "max_order_wh", _ENERGY, 1000, 1_000_000_000),
        ("market.dust", "dust_wh", _ENERGY, 1, 10_000),
        ("market.open_slots", "open_slots", _SLOTS, 1, 96),
        ("market.max_open_orders", "max_open_orders", _COUNT, 1, 1000),
        ("market.reading_deadline", "reading_deadline_slots", _SLOTS, 1, 672),
        ("market.redemptions_per_block", "redemptions_per_block", _COUNT, 1, 10_000),
        ("grid.alert_loading", "grid_alert_bps", _PART, 0, 10 * BPS),
        ("grid.congested_loading", "grid_congested_bps", _PART, 1, 10 * BPS),
        ("grid.stale_after", "grid_stale_slots", _SLOTS, 0, 96),
        ("grid.stale_rating", "grid_stale_rating_bps", _PART, 0, BPS),
        ("grid.frequency_min", "frequency_min_mhz", _HERTZ, 45_000, 50_000),
        ("grid.frequency_max", "frequency_max_mhz", _HERTZ, 50_000, 55_000),
    ),
    *_table(
        Owner.STAKING,
        ("staking.unit", "unit_ugtx", _GTX, 1, _MOST_UGTX),
        ("staking.min_bond", "min_bond_ugtx", _GTX, 10_000, _MOST_UGTX),
        ("staking.min_self_bond", "min_self_bond_ugtx", _GTX, 10_000, _MOST_UGTX),
        ("staking.max_validators", "max_validators", _COUNT, 1, 100),
        ("staking.min_validators", "min_validators", _COUNT, 1, 100),
        ("staking.weight_cap", "weight_cap_bps", _PART, 500, 3333),
        ("staking.unbonding", "unbonding_blocks", _BLOCKS, 1, _YEAR_BLOCKS),
        ("staking.jail", "jail_blocks", _BLOCKS, 1, _YEAR_BLOCKS // 12),
        ("staking.slash", "slash_bps", _PART, 100, BPS),
        ("staking.downtime", "downtime_blocks", _BLOCKS, 10, _YEAR_BLOCKS),
        ("staking.downtime_slash", "downtime_slash_bps", _PART, 0, 100),
        ("staking.block_reward", "block_reward_ugtx", _GTX, 0, 10**9),
        ("staking.treasury_fee_share", "treasury_fee_bps", _PART, 0, BPS),
    ),
    *_table(
        Owner.GOVERNANCE,
        ("governance.voting_period", "voting_period_ms", _SECONDS, 1000, 30 * _DAY_MS),
        ("governance.quorum", "quorum_bps", _PART, 2000, _TWO_THIRDS_BPS),
        ("governance.approval", "approval_bps", _PART, 5000, _TWO_THIRDS_BPS),
        ("governance.execution_delay", "execution_delay_ms", _SECONDS, 0, 30 * _DAY_MS),
        ("governance.deposit", "deposit_ugtx", _GTX, 0, _MOST_UGTX),
        ("governance.fee", "fee_ugtx", _GTX, 0, _MOST_UGTX),
        ("governance.max_active", "max_active", _COUNT, 1, 100),
    ),
    *_table(
        Owner.INTERCHAIN,
        ("interchain.daily_energy", "daily_energy_wh", _ENERGY, 1, 10**15),
        ("interchain.daily_thb", "daily_thb_uthb", _BAHT, 1, 10**18),
        ("interchain.daily_gtx", "daily_gtx_ugtx", _GTX, 1, _MOST_UGTX),
    ),
)
_BY_NAME = {parameter.name: parameter for parameter in PARAMETERS}

# The first may not exceed the second, whichever of them changes.
ORDERED: tuple[tuple[str, str], ...] = (
    ("pricing.min", "pricing.max"),
    ("pricing.peak_start", "pricing.peak_end"),
    ("market.dust", "market.min_order"),
    ("market.min_order", "market.max_order"),
    ("wheeling.substation", "wheeling.zone"),
    ("wheeling.zone", "wheeling.territory"),
    ("wheeling.territory", "wheeling.national"),
    ("wheeling.transmission", "wheeling.national"),
    ("grid.alert_loading", "grid.congested_loading"),
    ("staking.min_validators", "staking.max_validators"),
    ("staking.min_bond", "staking.min_self_bond"),
)


def find(name: str) -> Parameter:
    """A parameter by name. Errors: UNKNOWN_PARAMETER with the names that are nearest."""
    found = _BY_NAME.get(name)
    if found is not None:
        return found
    near = difflib.get_close_matches(name, _BY_NAME, 3)
    group = [one for one in _BY_NAME if one.partition(".")[0] == name.partition(".")[0]]
    offered = ", ".join(near or group) or f"names such as {PARAMETERS[0].name}"
    raise Rejected(ErrorCode.UNKNOWN_PARAMETER, f"no parameter {name!r}; there are {offered}")


def parse(parameter: Parameter, text: str) -> int:
    """The value of a text such as `0.7`, exact. Errors: VALUE_OUT_OF_RANGE with the valid range."""
    if parameter.choices:
        if text not in parameter.choices:
            raise _out_of_range(parameter, text)
        return parameter.choices.index(text)
    match = _NUMBER.fullmatch(text)
    if match is None or len((match[2] or "").rstrip("0")) > parameter.decimals:
        raise _out_of_range(parameter, text)
    decimals = (match[2] or "").rstrip("0").ljust(parameter.decimals, "0")
    value = int(match[1] + decimals)
    check_range(parameter, value)
    return value


def format_value(parameter: Parameter, value: int) -> str:
    """The shortest text that `parse` reads as this value."""
    if parameter.choices:
        return parameter.choices[value]
    digits = str(value).rjust(parameter.decimals + 1, "0")
    split = len(digits) - parameter.decimals
    decimals = digits[split:].rstrip("0")
    return f"{digits[:split]}.{decimals}" if decimals else digits[:split]


def valid_range(parameter: Parameter) -> str:
    """The range in words: `0 to 5 credits/kWh, at most 3 decimals`."""
    if parameter.choices:
        return " or ".join(parameter.choices)
    low, high = (format_value(parameter, edge) for edge in (parameter.low, parameter.high))
    places = f", at most {parameter.decimals} decimals" if parameter.decimals else ""
    return f"{low} to {high} ({parameter.unit}{places})"


def check_range(parameter: Parameter, value: int) -> None:
    """Errors: VALUE_OUT_OF_RANGE with the valid range."""
    if not parameter.low <= value <= parameter.high:
        raise _out_of_range(
            parameter, value if parameter.choices else format_value(parameter, value)
        )


def check_order(changes: Mapping[str, int], value_of: Callable[[str], int]) -> None:
    """Whether changed values fit those in force. Errors: VALUE_OUT_OF_RANGE naming the pair."""
    for lower, upper in ORDERED:
        if lower in changes or upper in changes:
            least = changes[lower] if lower in changes else value_of(lower)
            most = changes[upper] if upper in changes else value_of(upper)
            if least > most:
                shown = (format_value(find(lower), least), format_value(find(upper), most))
                detail = f"{lower} would be {shown[0]}, above {upper}, which would be {shown[1]}"
                raise Rejected(ErrorCode.VALUE_OUT_OF_RANGE, detail)


def check_record(owner: Owner, record: Any) -> None:
    """Whether a whole record, of a genesis, is one that votes could lead to.

    A row for what nobody can vote on has the range of the other rows of its table.
    Errors: VALUE_OUT_OF_RANGE with the valid range; DUPLICATE for two rows of one thing.
    """
    values: dict[str, int] = {}
    for parameter in PARAMETERS:
        if parameter.owner is owner and _has_row(record, parameter):
            values[parameter.name] = value_in(record, parameter)
            check_range(parameter, values[parameter.name])
    for lower, upper in ORDERED:
        if lower in values and upper in values:
            check_order({lower: values[lower]}, values.__getitem__)
    rows = {one.field: one for one in PARAMETERS if one.owner is owner and type(one.part) is str}
    for field, example in rows.items():
        names = [_row_name(entry) for entry in getattr(record, field)]
        if len(names) != len(set(names)):
            raise Rejected(ErrorCode.DUPLICATE, f"{field} names a thing twice: {', '.join(names)}")
        for name, entry in zip(names, getattr(record, field), strict=True):
            row = replace(example, name=f"{example.name.partition('.')[0]}.{name}", part=name)
            check_range(row, int(getattr(entry, _amount_field(entry))))


def value_in(record: Any, parameter: Parameter) -> int:
    """A parameter's value in the record of its owner. Errors: UNKNOWN_PARAMETER for no such row."""
    held = getattr(record, parameter.field)
    if parameter.choices:
        return parameter.choices.index(held.value)
    if parameter.part is None:
        return int(held)
    entry = held[_index(held, parameter)]
    return int(entry if isinstance(parameter.part, int) else getattr(entry, _amount_field(entry)))


def with_value(record: Any, parameter: Parameter, value: int) -> Any:
    """The record with one parameter changed; the caller has checked the value.

    Errors: UNKNOWN_PARAMETER when the record has no such row.
    """
    held = getattr(record, parameter.field)
    new: Any
    if parameter.choices:
        new = type(held)(parameter.choices[value])
    elif parameter.part is None:
        new = value
    else:
        index = _index(held, parameter)
        entry = held[index]
        is_row = not isinstance(parameter.part, int)
        changed = replace(entry, **{_amount_field(entry): value}) if is_row else value
        new = (*held[:index], changed, *held[index + 1 :])
    return replace(record, **{parameter.field: new})


def _index(held: Sequence[Any], parameter: Parameter) -> int:
    if isinstance(parameter.part, int):
        return parameter.part
    for index, entry in enumerate(held):
        if _row_name(entry) == parameter.part:
            return index
    detail = f"this network's genesis has no {parameter.field} of {parameter.part}"
    raise Rejected(ErrorCode.UNKNOWN_PARAMETER, detail)


def _has_row(record: Any, parameter: Parameter) -> bool:
    if type(parameter.part) is not str:
        return True
    return parameter.part in [_row_name(entry) for entry in getattr(record, parameter.field)]


def _row_name(entry: Any) -> str:
    return str(getattr(entry, next(iter(entry.__dataclass_fields__))))


def _amount_field(entry: Any) -> str:
    """A row is (what it is for, how much)."""
    _, amount = entry.__dataclass_fields__
    return str(amount)


def _out_of_range(parameter: Parameter, shown: object) -> Rejected:
    detail = f"{parameter.name} may be {valid_range(parameter)}, not {str(shown)[:32]}"
    return Rejected(ErrorCode.VALUE_OUT_OF_RANGE, detail)
