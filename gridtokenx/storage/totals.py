"""Sums of a chain since its genesis, as the index keeps them: they grow for ever.

Source: docs/api.md "REST".
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import astuple, dataclass


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums of one chain since its genesis. Energy in Wh, money in uTHB, carbon in micro-credits.

    `traded_uthb` is energy x price when matched, `energy_uthb` what was paid for delivered energy;
    `delivered_wh` + `shortfall_wh` is what has been settled of `traded_wh`; `congested` counts the
    orders that a grid limit kept back, once for each clearing of a slot.
    """

    blocks: int = 0
    transactions: int = 0
    orders: int = 0
    orders_filled: int = 0
    orders_cancelled: int = 0
    orders_expired: int = 0
    trades: int = 0
    traded_wh: int = 0
    traded_uthb: int = 0
    trades_settled: int = 0
    delivered_wh: int = 0
    shortfall_wh: int = 0
    energy_uthb: int = 0
    wheeling_uthb: int = 0
    vat_uthb: int = 0
    fee_uthb: int = 0
    penalty_uthb: int = 0
    readings: int = 0
    minted_wh: int = 0
    consumed_wh: int = 0
    carbon_ucr: int = 0
    deposited_uthb: int = 0
    withdrawn_uthb: int = 0
    carbon_retired_ucr: int = 0
    certificates: int = 0
    redeemed_wh: int = 0
    redeemed_uthb: int = 0
    congested: int = 0

    def pack(self) -> bytes:
        """The row; `unpack` reads the same numbers. OverflowError below 0 and from 2**2040 on."""
        return pack_numbers(*astuple(self))

    @classmethod
    def unpack(cls, raw: bytes) -> Totals:
        """Read a row."""
        return cls(*unpack_numbers(raw))


def merge_totals(many: Iterable[Totals]) -> Totals:
    """The sum over several chains."""
    rows = [astuple(one) for one in many]
    return Totals(*(sum(column) for column in zip(*rows, strict=True))) if rows else Totals()


def difference(later: Totals, earlier: Totals) -> Totals:
    """What was added between two totals of one chain."""
    pairs = zip(astuple(later), astuple(earlier), strict=True)
    return Totals(*(after - before for after, before in pairs))


def pack_numbers(*numbers: int) -> bytes:
    """Each as a byte that tells its length, then its bytes. OverflowError as for `Totals.pack`."""
    packed = []
    for number in numbers:
        length = (number.bit_length() + 7) // 8
        packed += [length.to_bytes(1, "big"), number.to_bytes(length, "big")]
    return b"".join(packed)


def unpack_numbers(raw: bytes) -> list[int]:
    """What `pack_numbers` packed."""
    numbers, at = [], 0
    while at < len(raw):
        end = at + 1 + raw[at]
        numbers.append(int.from_bytes(raw[at + 1 : end], "big"))
        at = end
    return numbers
