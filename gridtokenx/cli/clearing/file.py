"""A clearing as a JSON document: what `trade clear` reads and prints.

The spelling is that of `tests/vectors/market_vectors.json`, so that an auditor can write down the
orders of one slot and compare. The auction itself is the node's, `trading.clearing.clear`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from gridtokenx.primitives.codec import MAX_INT
from gridtokenx.primitives.errors import ErrorCode, Rejected
from gridtokenx.primitives.places import SUBSTATION, Boundary, parse_boundary
from gridtokenx.trading.clearing import clear
from gridtokenx.trading.model import Clearing, ClearingOrder, MarketParameters, Side, Source

T = TypeVar("T")
MAX_FILE_BYTES = 64 * 1024 * 1024
MAX_ORDERS = 200_000
TIERS = ("substation", "zone", "territory", "national")
_INPUTS = ("orders", "headroom", "max_tier", "wheeling", "name", "note")
_RESULTS = ("prices", "trades", "remaining", "congested")  # A vector has both; these are not read.
_ORDER_KEYS = frozenset(
    {
        *("id", "owner", "side", "wh", "limit", "loc", "source"),
        *("require", "height", "cap_wh"),
    }
)
_SUBSTATION = re.compile(SUBSTATION)
_ID_HEX = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class ClearingCase:
    """One slot's book as a file gives it. Units: Wh, mTHB/kWh; `names` are the ids as written."""

    name: str
    orders: tuple[ClearingOrder, ...]
    names: dict[bytes, str]
    original_wh: dict[str, int]
    headroom: dict[Boundary, int]
    max_tier: int
    wheeling_mthb: tuple[int, int, int, int]

    def clear(self) -> dict[str, Any]:
        """What the auction gives, in the vectors' spelling."""
        result = clear(
            self.orders,
            wheeling_mthb=self.wheeling_mthb,
            max_tier=self.max_tier,
            headroom=self.headroom,
        )
        return _document(self, result)


def read_cases(path: Path) -> list[ClearingCase]:
    """The clearings of a file: one object, or a list as the vectors are (entries without `orders`
    concern settlement and are left out).

    Errors: MALFORMED, OUT_OF_RANGE or TOO_LARGE with the file and the place in it; OSError.
    """
    with path.open("rb") as stream:
        data = stream.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise Rejected(ErrorCode.TOO_LARGE, f"{path} has more than {MAX_FILE_BYTES} bytes")
    try:
        document = json.loads(data)  # In any of Unicode's encodings, with a mark or without.
    except (ValueError, RecursionError) as error:
        raise Rejected(ErrorCode.MALFORMED, f"{path} is not JSON: {str(error)[:120]}") from None
    if isinstance(document, list):
        rows = [(f"[{at}]", row) for at, row in enumerate(document)]
        chosen = [(at, row) for at, row in rows if not isinstance(row, dict) or "orders" in row]
        if not chosen:
            raise Rejected(ErrorCode.MALFORMED, f"{path}: no entry of the list has 'orders'")
        return [_Place(path, at).case(row) for at, row in chosen]
    return [_Place(path, "").case(document)]


@dataclass(frozen=True, slots=True)
class _Place:
    """Where in which file something is read, for messages."""

    path: Path
    at: str

    def inner(self, name: str) -> _Place:
        return _Place(self.path, f"{self.at}.{name}" if self.at else name)

    def refuse(self, detail: str, code: ErrorCode = ErrorCode.MALFORMED) -> NoReturn:
        where = f"{self.path}: {self.at} " if self.at else f"{self.path}: the document "
        raise Rejected(code, where + detail)

    def case(self, raw: Any) -> ClearingCase:
        if not isinstance(raw, dict):
            self.refuse("must be an object with 'orders'")
        self._check_keys(raw, (*_INPUTS, *_RESULTS), ("orders",))
        names, original_wh, orders = self._orders(raw["orders"])
        parameters = MarketParameters()
        return ClearingCase(
            name=str(raw.get("name", "")),
            orders=tuple(orders),
            names=names,
            original_wh=original_wh,
            headroom=self._headroom(raw.get("headroom", {})),
            max_tier=self.inner("max_tier")._integer(
                raw.get("max_tier", parameters.max_trade_tier), 0, 3
            ),
            wheeling_mthb=self._wheeling(raw.get("wheeling", list(parameters.wheeling_mthb))),
        )

    def _check_keys(self, raw: dict[str, Any], known: Sequence[str], needed: Sequence[str]) -> None:
        for name in raw:
            if name not in known:
                self.refuse(f"has an unknown key {name[:40]!r}; known are {', '.join(known)}")
        for name in needed:
            if name not in raw:
                self.refuse(f"lacks {name!r}")

    def _orders(self, raw: Any) -> tuple[dict[bytes, str], dict[str, int], list[ClearingOrder]]:
        place = self.inner("orders")
        if not isinstance(raw, list):
            place.refuse("must be a list")
        if len(raw) > MAX_ORDERS:
            place.refuse(f"has {len(raw)} orders, at most {MAX_ORDERS}", ErrorCode.TOO_LARGE)
        names: dict[bytes, str] = {}
        original_wh: dict[str, int] = {}
        orders = []
        for at, row in enumerate(raw):
            own = _Place(self.path, f"{place.at}[{at}]")
            order = own._order(row)
            if order.id in names:
                own.refuse(f"has the id {row['id']!r} of an earlier order")
            names[order.id], original_wh[row["id"]] = row["id"], row["wh"]
            orders.append(order)
        return names, original_wh, orders

    def _order(self, raw: Any) -> ClearingOrder:
        if not isinstance(raw, dict):
            self.refuse("must be an object")
        needed = ("id", "side", "wh", "limit", "loc", "source")
        self._check_keys(raw, sorted(_ORDER_KEYS), needed)
        side = self.inner("side")._one_of(raw["side"], {"buy": Side.BUY, "sell": Side.SELL})
        sources = {source.value: source for source in Source}
        if side is Side.SELL:
            del sources["any"], sources["renewable"]
        energy_wh = self.inner("wh")._integer(raw["wh"], 0, MAX_INT)
        cap_wh = self.inner("cap_wh")._integer(raw.get("cap_wh", energy_wh), 0, MAX_INT)
        if type(raw.get("require", False)) is not bool:
            self.inner("require").refuse(f"must be true or false, not {_shown(raw['require'])}")
        return ClearingOrder(
            id=_id_bytes(self.inner("id")._text(raw["id"])),
            owner=self.inner("owner")._text(raw.get("owner", raw["id"])).encode(),
            side=side,
            energy_wh=min(energy_wh, cap_wh),
            limit_mthb=self.inner("limit")._integer(raw["limit"], 0, MAX_INT),
            location=self.inner("loc")._location(raw["loc"]),
            source=self.inner("source")._one_of(raw["source"], sources),
            require=raw.get("require", False),
            height=self.inner("height")._integer(raw.get("height", 0), 0, MAX_INT),
        )

    def _headroom(self, raw: Any) -> dict[Boundary, int]:
        place = self.inner("headroom")
        if not isinstance(raw, dict):
            place.refuse("must be an object")
        found: dict[Boundary, int] = {}
        for key, value in raw.items():
            try:
                boundary = parse_boundary(key)
            except ValueError:
                place.refuse(
                    f"has the key {key[:40]!r}; keys are x:NODE for export and m:NODE for "
                    "import, such as x:BKK-01-SUB001"
                )
            found[boundary] = place.inner(key)._integer(value, 0, MAX_INT)
        return found

    def _wheeling(self, raw: Any) -> tuple[int, int, int, int]:
        place = self.inner("wheeling")
        if not isinstance(raw, list) or len(raw) != len(TIERS):
            place.refuse(f"must list four mTHB/kWh, by tier: {', '.join(TIERS)}")
        first, second, third, fourth = (place._integer(value, 0, MAX_INT) for value in raw)
        return first, second, third, fourth

    def _integer(self, raw: Any, low: int, high: int) -> int:
        if type(raw) is not int:
            self.refuse(f"must be a whole number, not {_shown(raw)}")
        if not low <= raw <= high:
            self.refuse(f"must be {low}..{high}, not {_shown(raw)}", ErrorCode.OUT_OF_RANGE)
        return raw

    def _text(self, raw: Any) -> str:
        if not isinstance(raw, str) or not 1 <= len(raw) <= 128 or not raw.isprintable():
            self.refuse(f"must be text of 1..128 characters, not {_shown(raw)}")
        return raw

    def _location(self, raw: Any) -> str:
        if not isinstance(raw, str) or _SUBSTATION.fullmatch(raw) is None:
            self.refuse(f"must be a substation such as BKK-01-SUB001, not {_shown(raw)}")
        return raw

    def _one_of(self, raw: Any, known: dict[str, T]) -> T:
        if not isinstance(raw, str) or raw not in known:
            self.refuse(f"must be one of {', '.join(known)}, not {_shown(raw)}")
        return known[raw]


def _document(case: ClearingCase, result: Clearing) -> dict[str, Any]:
    name: Callable[[bytes], str] = case.names.__getitem__
    remaining = dict(case.original_wh)
    for fill in result.fills:
        remaining[name(fill.buy_id)] -= fill.energy_wh
        remaining[name(fill.sell_id)] -= fill.energy_wh
    return {
        "prices": {f"{TIERS[tier]}:{group}": price for tier, group, price in result.prices},
        "trades": [
            [
                name(fill.buy_id),
                name(fill.sell_id),
                fill.energy_wh,
                fill.price_mthb,
                fill.wheeling_mthb,
                TIERS[fill.tier],
                fill.source.value,
            ]
            for fill in result.fills
        ],
        "remaining": remaining,
        "congested": [name(order_id) for order_id in result.congested],
    }


def _id_bytes(text: str) -> bytes:
    """An id of the chain (64 hex digits) as its bytes: single Wh go by their order."""
    return bytes.fromhex(text) if _ID_HEX.fullmatch(text) else text.encode()


def _shown(raw: Any) -> str:
    return ascii(raw)[:60]
