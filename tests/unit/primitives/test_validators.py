"""Validator sets: order, indexes, and the strict two thirds."""

import pytest

from gridtokenx.primitives.codec import decode, encode
from gridtokenx.primitives.crypto import sha256
from gridtokenx.primitives.errors import Rejected
from gridtokenx.primitives.validators import Validator, ValidatorSet


def members(*weights: int) -> ValidatorSet:
    return ValidatorSet.of(
        Validator(sha256(b"%d" % number), weight) for number, weight in enumerate(weights)
    )


@pytest.mark.parametrize(
    ("weights", "quorum", "blocking"),
    [
        ((1,), 1, 1),
        ((1, 1, 1), 3, 2),
        ((1, 1, 1, 1), 3, 2),
        ((1,) * 7, 5, 3),
        ((2, 2, 2), 5, 3),
        ((100, 1, 1), 69, 35),
    ],
)
def test_quorums_are_more_than_two_thirds(
    weights: tuple[int, ...], quorum: int, blocking: int
) -> None:
    validators = members(*weights)
    assert [validators.is_quorum(weight) for weight in (quorum - 1, quorum)] == [False, True]
    assert [validators.is_blocking(weight) for weight in (blocking - 1, blocking)] == [False, True]


def test_exactly_two_thirds_is_not_enough() -> None:
    assert not members(1, 1, 1).is_quorum(2)
    assert not members(2, 2, 2).is_quorum(4)
    assert not members(1, 1, 1).is_blocking(1)


def test_two_quorums_share_more_than_a_third() -> None:
    for total in range(1, 40):
        validators = members(*[1] * total)
        least = next(weight for weight in range(total + 1) if validators.is_quorum(weight))
        assert validators.is_blocking(2 * least - total)


def test_members_stand_in_key_order() -> None:
    validators = members(1, 2, 3)
    keys = [member.public_key for member in validators.members]
    assert keys == sorted(keys)
    assert [validators.index_of(key) for key in keys] == [0, 1, 2]
    assert validators.index_of(bytes(32)) is None
    assert validators.weight_of([0, 2]) == sum(validators.members[index].weight for index in (0, 2))
    assert validators.total_weight == 6


def test_disorder_and_doubles_are_refused() -> None:
    one, two = members(1, 1).members
    for wrong in ((two, one), (one, one)):
        with pytest.raises(Rejected, match="sorted by public key, each named once"):
            ValidatorSet(wrong)


def test_a_set_has_members_with_weight() -> None:
    for wrong in (ValidatorSet(()), ValidatorSet((Validator(bytes(32), 0),))):
        with pytest.raises(Rejected, match="OUT_OF_RANGE"):
            decode(ValidatorSet, encode(wrong))


def test_the_hash_names_keys_and_weights() -> None:
    assert members(1, 2).hash == members(1, 2).hash
    assert members(1, 2).hash != members(2, 1).hash
    assert members(1, 2).hash != members(1, 2, 3).hash
