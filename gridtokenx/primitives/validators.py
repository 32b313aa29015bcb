"""Weighted validator sets and the strict two-thirds rule.

Source: protocols/consensus.md 2.1.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated

from gridtokenx.primitives.codec import Limit, encode_array, wire
from gridtokenx.primitives.crypto import tagged_hash
from gridtokenx.primitives.errors import ErrorCode, Rejected
from gridtokenx.primitives.types import Address

MAX_VALIDATORS = 128
MAX_WEIGHT = 2**40


@wire(1)
@dataclass(frozen=True, slots=True, order=True)
class Validator:
    """One member: Ed25519 key (32 bytes) and weight >= 1."""

    public_key: Address
    weight: Annotated[int, Limit(1, MAX_WEIGHT)]


@wire(2)
@dataclass(frozen=True)
class ValidatorSet:
    """Members sorted by public key; a member's position is its index in certificates."""

    members: Annotated[tuple[Validator, ...], Limit(1, MAX_VALIDATORS)]

    def __post_init__(self) -> None:
        keys = [member.public_key for member in self.members]
        if keys != sorted(set(keys)):
            detail = "validators must be sorted by public key, each named once"
            raise Rejected(ErrorCode.MALFORMED, detail)

    @classmethod
    def of(cls, members: Iterable[Validator]) -> ValidatorSet:
        """A set from members in any order."""
        return cls(tuple(sorted(members)))

    @cached_property
    def total_weight(self) -> int:
        """Sum of all weights."""
        return sum(member.weight for member in self.members)

    @cached_property
    def hash(self) -> bytes:
        """32-byte commitment `H("gtx.vset" || cbor(list))`, named by headers."""
        rows = tuple((member.public_key, member.weight) for member in self.members)
        return tagged_hash("gtx.vset", encode_array(rows))

    @cached_property
    def _index_by_key(self) -> dict[bytes, int]:
        return {member.public_key: index for index, member in enumerate(self.members)}

    def index_of(self, public_key: bytes) -> int | None:
        """Position of a key, or None for a stranger."""
        return self._index_by_key.get(public_key)

    def weight_of(self, indexes: Iterable[int]) -> int:
        """Summed weight of distinct members. The caller guarantees distinctness."""
        return sum(self.members[index].weight for index in indexes)

    def is_quorum(self, weight: int) -> bool:
        """Strictly more than two thirds. With `>=` a third of liars breaks agreement."""
        return 3 * weight > 2 * self.total_weight

    def is_blocking(self, weight: int) -> bool:
        """Strictly more than one third: at least one honest member among them."""
        return 3 * weight > self.total_weight
