"""Changes of a region's authorities."""

import pytest

from gridtokenx.governance.authorities import Authority, changed_authorities, weights
from gridtokenx.governance.model import AuthorityChange, AuthorityManagement
from gridtokenx.primitives.errors import ErrorCode, Rejected

NAMES = ("EGAT", "MEA", "PEA", "ERC")
FOUR = tuple(Authority(name, bytes([number]) * 32, 1) for number, name in enumerate(NAMES, 1))
EIGHT = tuple(
    Authority(name, bytes([10 * number + node]) * 32, 1)
    for number, name in enumerate(NAMES, 1)
    for node in range(2)
)


def change(before, verb, organisation="MEA", key=2, *, new=None, weight=0, minimum=4):
    new_key = None if new is None else bytes([new]) * 32
    command = AuthorityManagement(
        "MET", AuthorityChange(verb), organisation, bytes([key]) * 32, new_key, weight
    )
    return changed_authorities(before, command, minimum=minimum)


def refused(code: ErrorCode, *arguments, **named) -> None:
    with pytest.raises(Rejected) as caught:
        change(*arguments, **named)
    assert caught.value.code is code


def test_a_key_is_rotated_in_one_step() -> None:
    after = change(FOUR, "rotate", new=9)
    assert [one.organisation for one in after] == ["EGAT", "PEA", "ERC", "MEA"]
    assert weights(after) == weights(FOUR)
    refused(ErrorCode.MALFORMED, FOUR, "rotate")
    refused(ErrorCode.DUPLICATE, FOUR, "rotate", new=1)


def test_nodes_are_added_and_removed_in_balance() -> None:
    grown = change(FOUR, "add", "NEW", 5, weight=1)
    assert len(grown) == 5
    assert change(grown, "remove", "NEW", 5) == FOUR
    refused(ErrorCode.DUPLICATE, FOUR, "add", "MEA", 2, weight=1)
    refused(ErrorCode.MALFORMED, FOUR, "add", "NEW", 5)
    refused(ErrorCode.NOT_PERMITTED, FOUR, "add", "MEA", 5, weight=1)  # It would have 2 of 5.
    refused(ErrorCode.NOT_PERMITTED, FOUR, "add", "NEW", 5, weight=2)  # A third.
    refused(ErrorCode.NOT_PERMITTED, FOUR, "remove", minimum=4)
    refused(ErrorCode.NOT_PERMITTED, FOUR, "remove", minimum=3)  # Each other gets a third.


def test_a_suspended_node_does_not_sign_until_reinstated() -> None:
    suspended = change(EIGHT, "suspend", "MEA", 20)
    assert dict(weights(suspended)) == {"EGAT": 2, "ERC": 2, "MEA": 1, "PEA": 2}
    assert change(suspended, "reinstate", "MEA", 20) == EIGHT
    refused(ErrorCode.DUPLICATE, suspended, "suspend", "MEA", 20)
    refused(ErrorCode.DUPLICATE, EIGHT, "reinstate", "MEA", 20)
    refused(ErrorCode.NOT_REGISTERED, EIGHT, "suspend", "MEA", 99)
    refused(ErrorCode.NOT_REGISTERED, EIGHT, "suspend", "PEA", 20)


def test_a_list_holds_as_many_as_the_state_can_suspended_ones_too() -> None:
    """Suspended ones do not sign, but their entries are stored like the others."""
    many = tuple(
        Authority(NAMES[number % 4], bytes([number]) * 32, 1, suspended=number >= 100)
        for number in range(127)
    )
    full = change(many, "add", "EGAT", 200, weight=1)
    assert len(full) == 128
    refused(ErrorCode.NOT_PERMITTED, full, "add", "EGAT", 201, weight=1)
    assert len(change(full, "reinstate", NAMES[101 % 4], 101)) == 128


def test_who_has_a_third_already_may_keep_it_but_not_gain() -> None:
    small = (Authority("MEA", b"\x01" * 32, 2), Authority("PEA", b"\x02" * 32, 1))
    assert change(small, "rotate", "MEA", 1, new=7, minimum=1)
    assert change(small, "add", "ERC", 3, weight=1, minimum=1)
    refused(ErrorCode.NOT_PERMITTED, small, "remove", "PEA", 2, minimum=1)
    refused(ErrorCode.NOT_PERMITTED, small, "suspend", "MEA", 1, minimum=1)


THREE = tuple(
    Authority(name, bytes([10 * number + node]) * 32, 1)
    for number, name in enumerate(("EGAT", "MEA", "PEA"), 1)
    for node in range(2)
)


def test_three_equal_organisations_can_change() -> None:
    """Each has a third already: it keeps that, whatever happens to the nodes of the others."""
    assert weights(change(THREE, "rotate", "MEA", 20, new=99)) == weights(THREE)
    suspended = change(THREE, "suspend", "MEA", 20)
    assert dict(weights(suspended)) == {"EGAT": 2, "MEA": 1, "PEA": 2}
    assert change(suspended, "reinstate", "MEA", 20) == THREE
    assert dict(weights(change(THREE, "remove", "MEA", 20)))["EGAT"] == 2
    assert len(change(THREE, "add", "ERC", 40, weight=1)) == 7


def test_three_equal_organisations_gain_nothing() -> None:
    refused(ErrorCode.NOT_PERMITTED, THREE, "add", "MEA", 22, weight=1)  # Three of seven.
    refused(ErrorCode.NOT_PERMITTED, THREE, "add", "ERC", 40, weight=3)  # A third.
    fewer = change(THREE, "suspend", "MEA", 20)
    refused(ErrorCode.NOT_PERMITTED, fewer, "suspend", "MEA", 21)  # The others would have halves.


def test_a_half_and_a_quorum_are_not_gained_by_others_leaving() -> None:
    two_to_one = change(THREE[:4], "remove", "MEA", 20, minimum=1)  # Two thirds are no quorum.
    refused(ErrorCode.NOT_PERMITTED, two_to_one, "remove", "MEA", 21, minimum=1)
    with_a_half = (Authority("MEA", b"\x01" * 32, 2), *THREE[:2])
    assert change(with_a_half, "rotate", "MEA", 1, new=7, minimum=1)
    refused(ErrorCode.NOT_PERMITTED, with_a_half, "add", "MEA", 3, weight=1, minimum=1)
