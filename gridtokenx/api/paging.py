"""Pages of lists from which some rows are left out: filled, or gone on with, never ended early."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

Row = TypeVar("Row")
MAX_LOOKED_AT = 200  # Rows that one page looks at: some 20 ms where each is a transaction.


def fill(rows: Iterable[tuple[bytes, Row | None]], limit: int) -> tuple[list[Row], bytes | None]:
    """(at most `limit` rows, the place to go on from), of (place, row or None if left out).

    There is a place to go on from exactly while another such row is known, or not all have been
    looked at: a page may be short, even empty, and still have one.
    """
    items: list[Row] = []
    last = b""
    for looked_at, (place, row) in enumerate(rows):
        if looked_at == MAX_LOOKED_AT:
            return items, last
        if row is not None:
            if len(items) == limit:
                return items, last
            items.append(row)
        if len(items) < limit or row is not None:
            last = place
    return items, None
