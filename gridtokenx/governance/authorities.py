"""What a voted change makes of a region chain's authorities, and which changes are refused.

Pure functions; `chain/` keeps the list. Source: protocols/governance.md 2.5.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from gridtokenx.governance.model import AuthorityChange, AuthorityManagement
from gridtokenx.primitives.errors import ErrorCode, Rejected
from gridtokenx.primitives.validators import MAX_VALIDATORS


@dataclass(frozen=True, slots=True)
class Authority:
    """A validating node of an organisation. A suspended one keeps its entry, but does not sign."""

    organisation: str
    public_key: bytes
    weight: int
    suspended: bool = False


def changed_authorities(
    authorities: Sequence[Authority], command: AuthorityManagement, *, minimum: int
) -> tuple[Authority, ...]:
    """All authorities after the change, in the order of their keys.

    Errors: DUPLICATE for a key that is there, or a state that is so already; NOT_REGISTERED for an
    unknown key or another organisation's; MALFORMED for a change without its key or weight;
    NOT_PERMITTED for a 129th, when fewer than `minimum` would sign, or one organisation would gain
    control (`gained_part`).
    """
    by_key = {authority.public_key: authority for authority in authorities}
    if command.change is AuthorityChange.ADD:
        _check_new_key(by_key, command.public_key)
        if not command.weight:
            raise Rejected(ErrorCode.MALFORMED, "an authority to add needs a weight")
        added = Authority(command.organisation, command.public_key, command.weight)
        by_key[command.public_key] = added
    else:
        entry = by_key.get(command.public_key)
        if entry is None or entry.organisation != command.organisation:
            detail = f"{command.organisation} has no authority {command.public_key.hex()} there"
            raise Rejected(ErrorCode.NOT_REGISTERED, detail)
        _change(by_key, entry, command)
    after = tuple(by_key[key] for key in sorted(by_key))
    check_balance(authorities, after, minimum)
    return after


def weights(authorities: Sequence[Authority]) -> list[tuple[str, int]]:
    """(organisation, weight) of those that sign, summed by organisation, in name order."""
    totals: dict[str, int] = {}
    for one in authorities:
        if not one.suspended:
            totals[one.organisation] = totals.get(one.organisation, 0) + one.weight
    return sorted(totals.items())


def gained_part(before: int, total_before: int, after: int, total: int) -> str | None:
    """The part of the weight that an organisation would gain and must not: with a third it could
    stop the chain alone, with a quorum decide alone. None if there is no such.

    Who had a third already, as on a network of three organisations, keeps it; its part may grow
    because others leave, its own weight may not, and it comes to no half that it did not have.
    """
    if 3 * after > 2 * total and 3 * before <= 2 * total_before:
        return "more than two thirds"
    if 2 * after >= total and 2 * before < total_before:
        return "half"
    grows = after * total_before > before * total
    kept = 3 * before >= total_before and after <= before
    return "a third" if 3 * after >= total and grows and not kept else None


def _change(by_key: dict[bytes, Authority], entry: Authority, command: AuthorityManagement) -> None:
    match command.change:
        case AuthorityChange.REMOVE:
            del by_key[entry.public_key]
        case AuthorityChange.ROTATE:
            if command.new_key is None:
                raise Rejected(ErrorCode.MALFORMED, "a rotation needs the new key")
            _check_new_key(by_key, command.new_key)
            del by_key[entry.public_key]
            by_key[command.new_key] = replace(entry, public_key=command.new_key)
        case _:
            suspended = command.change is AuthorityChange.SUSPEND
            if entry.suspended is suspended:
                state = "suspended" if suspended else "active"
                raise Rejected(ErrorCode.DUPLICATE, f"that authority is {state} already")
            by_key[entry.public_key] = replace(entry, suspended=suspended)


def _check_new_key(by_key: dict[bytes, Authority], public_key: bytes) -> None:
    if public_key in by_key:
        raise Rejected(ErrorCode.DUPLICATE, f"{public_key.hex()} is an authority's key already")


def check_balance(before: Sequence[Authority], after: Sequence[Authority], minimum: int) -> None:
    """Whether those may sign a region after these.

    Errors: NOT_PERMITTED when fewer than `minimum` or more than 128 would, or one organisation
    would get a third of the weight or more.
    """
    if len(after) > MAX_VALIDATORS:
        detail = f"a region has at most {MAX_VALIDATORS} authorities, suspended ones included"
        raise Rejected(ErrorCode.NOT_PERMITTED, detail)
    signing = [one for one in after if not one.suspended]
    if not max(minimum, 1) <= len(signing) <= MAX_VALIDATORS:
        detail = f"{len(signing)} authorities would sign, {minimum}..{MAX_VALIDATORS} are allowed"
        raise Rejected(ErrorCode.NOT_PERMITTED, detail)
    # A suspended node is still its organisation's: it gains nothing when that signs again.
    was = dict(weights([replace(one, suspended=False) for one in before]))
    total_before, total = sum(was.values()), sum(one.weight for one in signing)
    for organisation, weight in weights(after):
        gained = gained_part(was.get(organisation, 0), total_before, weight, total)
        if gained is not None:
            detail = f"{organisation} would have {weight} of {total}, {gained} of the weight"
            raise Rejected(ErrorCode.NOT_PERMITTED, detail)
