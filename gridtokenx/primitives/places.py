"""Names of places: substation `BKK-01-SUB001` lies in zone `BKK-01`, and that in territory `BKK`.

A territory is what one distributor serves; a region is the chain on which some of them trade.
"""

from __future__ import annotations

from typing import Annotated

from gridtokenx.primitives.codec import Limit

TERRITORY = "[A-Z]{3}"  # Patterns of whole names.
ZONE = rf"{TERRITORY}-[0-9]{{2}}"
SUBSTATION = rf"{ZONE}-SUB[0-9]{{3}}"
PLACE = rf"{TERRITORY}(?:-[0-9]{{2}}(?:-SUB[0-9]{{3}})?)?"  # Any of the three.

TerritoryPrefix = Annotated[str, Limit(3, 3)]


def territory_of(place: str) -> str:
    """The territory of a place whose name is known to be one: `BKK` of `BKK-01-SUB001`."""
    return place[:3]
