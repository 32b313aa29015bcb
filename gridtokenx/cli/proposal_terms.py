"""What the options of `governance propose` say, as the content of a proposal.

Names, ranges and words are checked here, so a mistake costs no signature and needs no node.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import typer

from gridtokenx.cli import remote
from gridtokenx.runtime import bangkok

if TYPE_CHECKING:
    from gridtokenx.governance.model import Content, NewAuthority

Given = Mapping[str, Any]
_DURATION = re.compile(r"([1-9][0-9]{0,5})(s|m|h|d)")
_MS_OF = {"s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_DAY = re.compile(r"\d{4}-\d{2}-\d{2}(?:[T ]\d{2}:\d{2})?")

# Type -> (options it needs, options it may have)
OPTIONS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "parameter-change": (("parameter", "new-value"), ()),
    "pricing-regulation": (("min-price", "max-price", "peak-multiplier"), ("effective",)),
    "carbon-credit-policy": (("rate",), ()),
    "authority-management": (
        ("region", "change", "organisation", "public-key"),
        ("new-public-key", "weight"),
    ),
    "emergency": (("territory", "reason", "duration"), ()),
    "infrastructure-funding": (("to", "amount"), ()),
    "upgrade": (("release", "height"), ()),
    "operator-rotation": (("organisation", "new-operator"), ()),
    "reincarnation": (("region", "authority", "height", "hash"), ()),
}


def needs_base(kind: str, given: Given) -> bool:
    """Whether a node is to say which block a region goes on from."""
    named = given.get("height"), given.get("hash")
    return _word(kind) == "reincarnation" and bool(given.get("region")) and named == (None, None)


def _word(kind: str) -> str:
    return kind.strip().lower().replace("_", "-")


def content_of(kind: str, given: Given) -> Content:
    """The content that options describe; `given` has an option's value by its name, None if absent.

    Errors: BadParameter; Rejected UNKNOWN_PARAMETER, VALUE_OUT_OF_RANGE, BAD_ADDRESS.
    """
    wanted = _word(kind)
    if wanted not in OPTIONS:
        near = difflib.get_close_matches(wanted, OPTIONS, 1)
        also = f"; did you mean {near[0]}?" if near else ""
        detail = f"one of {', '.join(OPTIONS)}, not {kind[:40]!r}{also}"
        raise typer.BadParameter(detail, param_hint="--type")
    needed, allowed = OPTIONS[wanted]
    for name in needed:
        if given.get(name) in (None, []):
            raise typer.BadParameter(f"{wanted} needs it", param_hint=f"--{name}")
    for name, value in given.items():
        if value not in (None, []) and name not in (*needed, *allowed):
            raise typer.BadParameter(f"{wanted} does not take it", param_hint=f"--{name}")
    return _BUILDERS[wanted](given)


def _parameter_change(given: Given) -> Content:
    from gridtokenx.governance import parameters as voted
    from gridtokenx.governance.model import ParameterChange

    name, text = given["parameter"].strip(), given["new-value"].strip()
    voted.parse(voted.find(name), text)
    return ParameterChange(name, text)


def _value(parameter: str, text: str) -> int:
    """The integer of a text, in a parameter's unit. Errors: VALUE_OUT_OF_RANGE."""
    from gridtokenx.governance import parameters as voted

    return voted.parse(voted.find(parameter), text.strip())


def _pricing_regulation(given: Given) -> Content:
    from gridtokenx.governance.model import PricingRegulation

    effective = given.get("effective")
    return PricingRegulation(
        _value("pricing.min", given["min-price"]),
        _value("pricing.max", given["max-price"]),
        _value("pricing.peak_multiplier", given["peak-multiplier"]),
        0 if effective is None else _moment_ms(effective),
    )


def _carbon_credit_policy(given: Given) -> Content:
    from gridtokenx.governance.model import CarbonCreditPolicy, CarbonCreditRate

    rates: Sequence[str] = given["rate"]
    pairs = [one.partition("=") for one in rates]
    return CarbonCreditPolicy(
        tuple(
            CarbonCreditRate(source, _value(f"carbon_credits.{source}", text))
            for source, _, text in pairs
        )
    )


def _authority_management(given: Given) -> Content:
    from gridtokenx.governance.model import AuthorityChange, AuthorityManagement

    change = given["change"].strip().lower()
    known = [one.value for one in AuthorityChange]
    if change not in known:
        detail = f"one of {', '.join(known)}, not {change[:40]!r}"
        raise typer.BadParameter(detail, param_hint="--change")
    for option, only in (("new-public-key", "rotate"), ("weight", "add")):
        if (given.get(option) is not None) != (change == only):
            detail = f"needed for --change {only}, and for nothing else"
            raise typer.BadParameter(detail, param_hint=f"--{option}")
    new_key = given.get("new-public-key")
    return AuthorityManagement(
        given["region"].strip().upper(),
        AuthorityChange(change),
        given["organisation"].strip().lower(),
        _public_key(given["public-key"], "--public-key"),
        None if new_key is None else _public_key(new_key, "--new-public-key"),
        given.get("weight") or 0,
    )


def _emergency(given: Given) -> Content:
    from gridtokenx.governance.model import Emergency

    match = _DURATION.fullmatch(given["duration"].strip().lower())
    duration_ms = 0 if match is None else int(match[1]) * _MS_OF[match[2]]
    if not 0 < duration_ms <= 7 * _MS_OF["d"]:
        detail = f"such as 30m, 4h or 2d, at most 7d, not {given['duration'][:40]!r}"
        raise typer.BadParameter(detail, param_hint="--duration")
    place = remote.place_name(given["territory"])
    if len(place) != 3:
        raise typer.BadParameter(f"a territory such as BKK, not {place}", param_hint="--territory")
    return Emergency(place, remote.reason_text(given["reason"]), duration_ms)


def _infrastructure_funding(given: Given) -> Content:
    from gridtokenx.governance.model import InfrastructureFunding

    return InfrastructureFunding(remote.address_of(given["to"]), gtx_amount(given["amount"]))


def _upgrade(given: Given) -> Content:
    from gridtokenx.governance.model import Upgrade

    release = given["release"].strip()
    if not re.fullmatch(r"[0-9A-Za-z.+-]{1,32}", release):
        detail = f"a version such as 0.2.0, not {release[:40]!r}"
        raise typer.BadParameter(detail, param_hint="--release")
    return Upgrade(release, given["height"])


def _operator_rotation(given: Given) -> Content:
    from gridtokenx.governance.model import OperatorRotation

    name = given["organisation"].strip().lower()
    if not 1 <= len(name.encode()) <= 16:
        detail = f"1 to 16 bytes such as erc, not {name[:40]!r}"
        raise typer.BadParameter(detail, param_hint="--organisation")
    return OperatorRotation(name, remote.address_of(given["new-operator"]))


def _reincarnation(given: Given) -> Content:
    from gridtokenx.governance.model import Reincarnation

    text = given["hash"].strip()
    if not re.fullmatch(r"[0-9a-fA-F]{64}", text):
        raise typer.BadParameter(f"64 hex digits, not {text[:80]!r}", param_hint="--hash")
    return Reincarnation(
        given["region"].strip().upper(),
        given["height"],
        bytes.fromhex(text),
        tuple(_new_authority(one) for one in given["authority"]),
    )


def _new_authority(text: str) -> NewAuthority:
    """`egat=KEY` or `egat=KEY:WEIGHT`."""
    from gridtokenx.governance.model import NewAuthority

    name, _, rest = text.strip().partition("=")
    key, _, weight = rest.partition(":")
    is_number = weight.isascii() and weight.isdecimal() and len(weight) <= 13
    if not name or not key or (weight and not is_number):
        detail = f"ORG=KEY[:WEIGHT] such as egat=gtx1...:1, not {text[:80]!r}"
        raise typer.BadParameter(detail, param_hint="--authority")
    return NewAuthority(name.lower(), _public_key(key, "--authority"), int(weight or 1))


_BUILDERS: dict[str, Callable[[Given], Content]] = {
    "parameter-change": _parameter_change,
    "pricing-regulation": _pricing_regulation,
    "carbon-credit-policy": _carbon_credit_policy,
    "authority-management": _authority_management,
    "emergency": _emergency,
    "infrastructure-funding": _infrastructure_funding,
    "upgrade": _upgrade,
    "operator-rotation": _operator_rotation,
    "reincarnation": _reincarnation,
}


def gtx_amount(text: str) -> int:
    """ugtx of gtx with at most six decimals. Errors: AMOUNT_OUT_OF_RANGE."""
    from gridtokenx.primitives.errors import ErrorCode, Rejected
    from gridtokenx.primitives.quantities import parse_thb

    try:
        amount = parse_thb(text)  # gtx has six decimals as baht has.
    except Rejected as error:
        raise Rejected(error.code, error.detail.replace("THB", "GTX")) from None
    if not amount:
        raise Rejected(ErrorCode.AMOUNT_OUT_OF_RANGE, "0 GTX do nothing")
    return amount


def _public_key(text: str, option: str) -> bytes:
    from gridtokenx.primitives.types import parse_address

    if text.startswith("gtx1"):
        return parse_address(text)
    if not re.fullmatch(r"[0-9a-fA-F]{64}", text):
        raise typer.BadParameter(f"gtx1... or 64 hex digits, not {text[:80]!r}", param_hint=option)
    return bytes.fromhex(text)


def _moment_ms(text: str) -> int:
    """Unix ms of a day or a minute in Bangkok."""
    if _DAY.fullmatch(text) is None:
        detail = f"such as 2026-12-01 or 2026-12-01T06:00, Bangkok time, not {text[:40]!r}"
        raise typer.BadParameter(detail, param_hint="--effective")
    try:
        return bangkok.parse_ms(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--effective") from None
