"""Names of places: substation `BKK-01-SUB001` lies in zone `BKK-01`, and that in territory `BKK`.

A territory is what one distributor serves; a region is the chain on which some of them trade.
"""

from __future__ import annotations

import re
from typing import Annotated, NamedTuple

from gridtokenx.primitives.codec import Limit

TERRITORY = "[A-Z]{3}"  # Patterns of whole names.
ZONE = rf"{TERRITORY}-[0-9]{{2}}"
SUBSTATION = rf"{ZONE}-SUB[0-9]{{3}}"
PLACE = rf"{TERRITORY}(?:-[0-9]{{2}}(?:-SUB[0-9]{{3}})?)?"  # Any of the three.

_BOUNDARY = re.compile(f"[xm]:{PLACE}")

TerritoryPrefix = Annotated[str, Limit(3, 3)]


class Boundary(NamedTuple):
    """What energy crosses that leaves or enters a place."""

    node: str
    is_export: bool


def parse_boundary(text: str) -> Boundary:
    """Read `x:NODE` of an export, `m:NODE` of an import. ValueError for anything else."""
    if _BOUNDARY.fullmatch(text) is None:
        raise ValueError(f"{text[:40]!r} is neither x:NODE nor m:NODE, such as x:BKK-01-SUB001")
    return Boundary(text[2:], text[0] == "x")


def territory_of(place: str) -> str:
    """The territory of a place whose name is known to be one: `BKK` of `BKK-01-SUB001`."""
    return place[:3]
