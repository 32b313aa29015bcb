"""The national chain's registry of who may validate which region.

Source: protocols/governance.md 2.5, protocols/interchain.md 7.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from gridtokenx.governance import authorities as changes
from gridtokenx.governance.model import AuthorityManagement, Reincarnation
from gridtokenx.primitives.codec import Limit, wire
from gridtokenx.primitives.errors import ErrorCode, Rejected
from gridtokenx.primitives.state import Overlay, Reader, Table
from gridtokenx.primitives.types import Address
from gridtokenx.primitives.validators import (
    MAX_VALIDATORS,
    MAX_WEIGHT,
    Validator,
    ValidatorSet,
)

MIN_MEMBERS = 4  # Or as many as there are, on a network that began with fewer.


@wire(250)
@dataclass(frozen=True, slots=True)
class AuthorityEntry:
    """A validating node of an organisation; a suspended one does not sign."""

    organisation: Annotated[str, Limit(1, 16)]
    public_key: Address
    weight: Annotated[int, Limit(1, MAX_WEIGHT)]
    suspended: bool = False


@wire(251)
@dataclass(frozen=True, slots=True)
class RegionAuthorities:
    """All authorities of a region, in the order of their keys."""

    entries: Annotated[tuple[AuthorityEntry, ...], Limit(1, MAX_VALIDATORS)]


AUTHORITIES = Table(b"ca", RegionAuthorities)  # key: the region's name


def install_authorities(state: Overlay, region: str, entries: Sequence[AuthorityEntry]) -> None:
    """Those of the genesis."""
    in_order = tuple(sorted(entries, key=lambda entry: entry.public_key))
    AUTHORITIES.put(state, region.encode(), RegionAuthorities(in_order))


def authorities_of(state: Reader, region: str) -> tuple[AuthorityEntry, ...]:
    """Errors: UNKNOWN_SHARD."""
    found = AUTHORITIES.get(state, region.encode())
    if found is None:
        raise Rejected(ErrorCode.UNKNOWN_SHARD, f"no region chain is named {region!r}")
    return found.entries


def active_weights(state: Reader, region: str) -> list[tuple[str, int]]:
    """(organisation, weight) of those that sign. Errors: UNKNOWN_SHARD."""
    return changes.weights(_plain(authorities_of(state, region)))


def changed(state: Reader, command: AuthorityManagement) -> tuple[AuthorityEntry, ...]:
    """All authorities of a region after a change. Errors: UNKNOWN_SHARD, `changed_authorities`."""
    before = authorities_of(state, command.chain)
    active = sum(not entry.suspended for entry in before)
    after = changes.changed_authorities(_plain(before), command, minimum=min(MIN_MEMBERS, active))
    return tuple(
        AuthorityEntry(one.organisation, one.public_key, one.weight, one.suspended) for one in after
    )


def reborn(state: Reader, command: Reincarnation) -> tuple[AuthorityEntry, ...]:
    """The authorities that a region begins again with, in the order of their keys.

    Errors: UNKNOWN_SHARD; DUPLICATE for a key that is named twice; `check_balance`.
    """
    before = authorities_of(state, command.chain)
    keys = [one.public_key for one in command.authorities]
    if len(keys) != len(set(keys)):
        raise Rejected(ErrorCode.DUPLICATE, "an authority's key is named twice")
    after = tuple(
        AuthorityEntry(one.organisation, one.public_key, one.weight)
        for one in sorted(command.authorities, key=lambda one: one.public_key)
    )
    active = sum(not entry.suspended for entry in before)
    changes.check_balance(_plain(before), _plain(after), min(MIN_MEMBERS, active))
    return after


def signing(entries: Sequence[AuthorityEntry]) -> ValidatorSet:
    """The validator set that a list of authorities makes."""
    return ValidatorSet.of(
        Validator(entry.public_key, entry.weight) for entry in entries if not entry.suspended
    )


def _plain(entries: Sequence[AuthorityEntry]) -> list[changes.Authority]:
    return [
        changes.Authority(one.organisation, one.public_key, one.weight, one.suspended)
        for one in entries
    ]
