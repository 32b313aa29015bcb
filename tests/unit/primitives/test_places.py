"""How places are named."""

import re

import pytest

from gridtokenx.primitives.places import (
    PLACE,
    SUBSTATION,
    ZONE,
    Boundary,
    parse_boundary,
    territory_of,
)


@pytest.mark.parametrize("place", ["BKK", "BKK-01", "BKK-01-SUB001"])
def test_a_place_lies_in_a_territory(place: str) -> None:
    assert re.fullmatch(PLACE, place)
    assert territory_of(place) == "BKK"
    assert bool(re.fullmatch(ZONE, place)) == (place == "BKK-01")
    assert bool(re.fullmatch(SUBSTATION, place)) == (place == "BKK-01-SUB001")


@pytest.mark.parametrize(
    ("text", "boundary"),
    [("x:BKK", Boundary("BKK", True)), ("m:BKK-01-SUB001", Boundary("BKK-01-SUB001", False))],
)
def test_a_boundary_is_crossed_one_way(text: str, boundary: Boundary) -> None:
    assert parse_boundary(text) == boundary


@pytest.mark.parametrize("text", ["", "x:", "BKK", "e:BKK", "x:bkk", "x:BKK-1", "x:BKK-01 "])
def test_what_is_no_boundary_is_told(text: str) -> None:
    with pytest.raises(ValueError, match="neither x:NODE nor m:NODE"):
        parse_boundary(text)
