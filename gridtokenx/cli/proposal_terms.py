"""The types of proposals: what each asks for, as options of its command, and its content.

Names, ranges and words are checked here, so a mistake costs no signature and needs no node. The
first line of a docstring is the command's help, what follows is an example of its options.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from gridtokenx.cli import remote
from gridtokenx.runtime import bangkok

if TYPE_CHECKING:
    from gridtokenx.governance.model import Content, NewAuthority

_DURATION = re.compile(r"([1-9][0-9]{0,5})(s|m|h|d)")
_MS_OF = {"s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_DAY = re.compile(r"\d{4}-\d{2}-\d{2}(?:[T ]\d{2}:\d{2})?")

Price = Annotated[str, typer.Option(metavar="THB", help="THB/kWh.")]
Region = Annotated[str, typer.Option(metavar="NAME", help="A chain: NOR.")]
Organisation = Annotated[str, typer.Option(metavar="NAME", help="Such as pea.")]


def parameter_change(
    parameter: Annotated[str, typer.Option(metavar="NAME", help="Such as carbon_credits.solar.")],
    new_value: Annotated[str, typer.Option(metavar="VALUE", help="In the parameter's unit: 0.7.")],
) -> Content:
    """One parameter of `governance params` gets another value.

    --parameter carbon_credits.solar --new-value 0.7
    """
    from gridtokenx.governance import parameters as voted
    from gridtokenx.governance.model import ParameterChange

    name, text = parameter.strip(), new_value.strip()
    voted.parse(voted.find(name), text)
    return ParameterChange(name, text)


def pricing_regulation(
    min_price: Price,
    max_price: Price,
    peak_multiplier: Annotated[str, typer.Option(metavar="N", help="Such as 1.5.")],
    effective: Annotated[
        str | None, typer.Option(metavar="DAY", help="2026-12-01[T06:00], Bangkok; else at once.")
    ] = None,
) -> Content:
    """Least price, highest price and peak multiplier together, from a day on.

    --min-price 1.5 --max-price 8 --peak-multiplier 1.5 --effective 2026-12-01
    """
    from gridtokenx.governance.model import PricingRegulation

    return PricingRegulation(
        _value("pricing.min", min_price),
        _value("pricing.max", max_price),
        _value("pricing.peak_multiplier", peak_multiplier),
        0 if effective is None else _moment_ms(effective),
    )


def carbon_credit_policy(
    rate: Annotated[
        list[str], typer.Option(metavar="SOURCE=N", help="Credits/kWh; may be repeated.")
    ],
) -> Content:
    """The carbon credits of several sources at once.

    --rate solar=0.7 --rate wind=0.65
    """
    from gridtokenx.governance.model import CarbonCreditPolicy, CarbonCreditRate

    pairs = [one.partition("=") for one in rate]
    return CarbonCreditPolicy(
        tuple(
            CarbonCreditRate(source, _value(f"carbon_credits.{source}", text))
            for source, _, text in pairs
        )
    )


def authority_management(
    region: Region,
    change: Annotated[
        str, typer.Option(metavar="WHAT", help="add, remove, suspend, reinstate or rotate.")
    ],
    organisation: Organisation,
    public_key: Annotated[str, typer.Option(metavar="KEY", help="The node's consensus key.")],
    new_public_key: Annotated[
        str | None, typer.Option(metavar="KEY", help="For rotate: the key after it.")
    ] = None,
    weight: Annotated[int | None, typer.Option(metavar="N", min=1, help="For add.")] = None,
) -> Content:
    """A node of an authority comes, goes, rests or gets another key.

    --region NOR --change add --organisation pea --public-key KEY --weight 1
    """
    from gridtokenx.governance.model import AuthorityChange, AuthorityManagement

    word = change.strip().lower()
    known = [one.value for one in AuthorityChange]
    if word not in known:
        detail = f"one of {', '.join(known)}, not {word[:40]!r}"
        raise typer.BadParameter(detail, param_hint="--change")
    for option, given, only in (
        ("--new-public-key", new_public_key, "rotate"),
        ("--weight", weight, "add"),
    ):
        if (given is not None) != (word == only):
            detail = f"needed for --change {only}, and for nothing else"
            raise typer.BadParameter(detail, param_hint=option)
    return AuthorityManagement(
        region.strip().upper(),
        AuthorityChange(word),
        organisation.strip().lower(),
        _public_key(public_key, "--public-key"),
        None if new_public_key is None else _public_key(new_public_key, "--new-public-key"),
        weight or 0,
    )


def emergency(
    territory: Annotated[str, typer.Option(metavar="PREFIX", help="Such as BKK.")],
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why trade halts.")],
    duration: Annotated[str, typer.Option(metavar="TIME", help="30m, 4h, at most 7d.")],
) -> Content:
    """Trade halts in a distributor's territory; the authorities alone decide.

    --territory BKK --reason "flood" --duration 4h
    """
    from gridtokenx.governance.model import Emergency

    match = _DURATION.fullmatch(duration.strip().lower())
    duration_ms = 0 if match is None else int(match[1]) * _MS_OF[match[2]]
    if not 0 < duration_ms <= 7 * _MS_OF["d"]:
        detail = f"such as 30m, 4h or 2d, at most 7d, not {duration[:40]!r}"
        raise typer.BadParameter(detail, param_hint="--duration")
    place = remote.place_name(territory)
    if len(place) != 3:
        raise typer.BadParameter(f"a territory such as BKK, not {place}", param_hint="--territory")
    return Emergency(place, remote.reason_text(reason), duration_ms)


def infrastructure_funding(
    to: Annotated[str, typer.Option(metavar="ADDRESS", help="Who is paid.")],
    amount: Annotated[str, typer.Option(metavar="GTX", help="What it is paid.")],
) -> Content:
    """The treasury pays gtx to an account.

    --to gtx1... --amount 2500
    """
    from gridtokenx.governance.model import InfrastructureFunding

    return InfrastructureFunding(remote.address_of(to), gtx_amount(amount))


def upgrade(
    release: Annotated[str, typer.Option(metavar="VERSION", help="Such as 0.2.0.")],
    height: Annotated[
        int, typer.Option(metavar="N", min=0, help="National block it is needed from.")
    ],
) -> Content:
    """The version of the program that is needed from a block on.

    --release 0.2.0 --height 90000
    """
    from gridtokenx.governance.model import Upgrade

    version = release.strip()
    if not re.fullmatch(r"[0-9A-Za-z.+-]{1,32}", version):
        detail = f"a version such as 0.2.0, not {version[:40]!r}"
        raise typer.BadParameter(detail, param_hint="--release")
    return Upgrade(version, height)


def operator_rotation(
    organisation: Organisation,
    new_operator: Annotated[
        str, typer.Option(metavar="ADDRESS", help="The account key that signs for it then.")
    ],
) -> Content:
    """Another key signs for an organisation on all chains.

    --organisation payment --new-operator gtx1...
    """
    from gridtokenx.governance.model import OperatorRotation

    name = organisation.strip().lower()
    if not 1 <= len(name.encode()) <= 16:
        detail = f"1 to 16 bytes such as erc, not {name[:40]!r}"
        raise typer.BadParameter(detail, param_hint="--organisation")
    return OperatorRotation(name, remote.address_of(new_operator))


def reincarnation(
    region: Region,
    authority: Annotated[
        list[str],
        typer.Option(metavar="ORG=KEY[:WEIGHT]", help="Who signs from then on; repeated for each."),
    ],
    height: Annotated[
        int | None,
        typer.Option(metavar="N", min=0, help="Block it goes on from; else the newest accepted."),
    ] = None,
    hash_: Annotated[
        str | None, typer.Option("--hash", metavar="HEX", help="Of that block.")
    ] = None,
) -> Content:
    """A frozen, dead or captured region goes on from one of its blocks under other authorities.

    --region MET --authority egat=KEY --authority mea=KEY:2
    """
    from gridtokenx.governance.model import Reincarnation

    name = region.strip().upper()
    if (height is None) != (hash_ is None):
        missing = "--height" if height is None else "--hash"
        raise typer.BadParameter("height and hash belong together", param_hint=missing)
    members = tuple(_new_authority(one) for one in authority)
    if height is None or hash_ is None:
        height, hash_ = _newest_base(name)
    text = hash_.strip()
    if not re.fullmatch(r"[0-9a-fA-F]{64}", text):
        raise typer.BadParameter(f"64 hex digits, not {text[:80]!r}", param_hint="--hash")
    return Reincarnation(name, height, bytes.fromhex(text), members)


TYPES: tuple[Callable[..., Content], ...] = (
    parameter_change,
    pricing_regulation,
    carbon_credit_policy,
    authority_management,
    emergency,
    infrastructure_funding,
    upgrade,
    operator_rotation,
    reincarnation,
)


def _newest_base(region: str) -> tuple[int, str]:
    """Height and hash of the newest block that the national chain has accepted of a region."""
    with remote.connect() as client:
        base = client.shard(region).checkpoint
    return base.height, base.hash.hex()


def _value(parameter: str, text: str) -> int:
    """The integer of a text, in a parameter's unit. Errors: VALUE_OUT_OF_RANGE."""
    from gridtokenx.governance import parameters as voted

    return voted.parse(voted.find(parameter), text.strip())


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
