"""The nouns of trading: sides, sources, and what the auction takes and gives."""

from dataclasses import dataclass
from enum import IntEnum, StrEnum


class Side(IntEnum):
    """Which side of the book an order stands on."""

    BUY = 1
    SELL = 2


class Source(StrEnum):
    """What energy is made from; a buy order may also wish for ANY or RENEWABLE.

    Source: protocols/market.md sections 1 and 2.
    """

    ANY = "any"  # Buy orders only.
    RENEWABLE = "renewable"  # Buy orders only.
    SOLAR = "solar"
    WIND = "wind"
    HYDRO = "hydro"
    BIOMASS = "biomass"
    GEOTHERMAL = "geothermal"
    NATURAL_GAS = "natural_gas"
    COAL = "coal"

    @property
    def is_renewable(self) -> bool:
        """Whether a seller of this source serves a buyer who asks for renewable energy."""
        return self in RENEWABLE_SOURCES


RENEWABLE_SOURCES = (
    Source.SOLAR,
    Source.WIND,
    Source.HYDRO,
    Source.BIOMASS,
    Source.GEOTHERMAL,
)


@dataclass(frozen=True, slots=True)
class ClearingOrder:
    """One resting order as the auction sees it, for one slot.

    Units: energy_wh is what may still trade in this slot; limit_mthb is mTHB/kWh (a seller's
    least energy price, a buyer's most paid all-in); location is a substation, `BKK-01-SUB001`;
    height is the block that included the order. A sell order's source is its meter's.
    Source: protocols/market.md sections 2 and 3.
    """

    id: bytes
    owner: bytes
    side: Side
    energy_wh: int
    limit_mthb: int
    location: str
    source: Source
    require: bool
    height: int


@dataclass(frozen=True, slots=True)
class Fill:
    """A quantity that one buyer takes from one seller.

    Units: energy_wh in Wh; price_mthb and wheeling_mthb in mTHB/kWh (the buyer pays both);
    tier 0 substation, 1 zone, 2 region, 3 national; source is the seller's.
    """

    buy_id: bytes
    sell_id: bytes
    energy_wh: int
    price_mthb: int
    wheeling_mthb: int
    tier: int
    source: Source


@dataclass(frozen=True, slots=True)
class Clearing:
    """The auction's result for one slot.

    prices holds (tier, group, mTHB/kWh) where something traded; congested the ids of the orders
    that a grid limit kept from trading, in ascending order.
    """

    fills: tuple[Fill, ...]
    prices: tuple[tuple[int, str, int], ...]
    congested: tuple[bytes, ...]
