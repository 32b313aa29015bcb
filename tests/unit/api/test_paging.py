"""Pages from which rows are left out: filled or gone on with, in bounded work."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gridtokenx.api import paging
from gridtokenx.api.context import Context
from gridtokenx.api.methods import METHOD_BY_NAME
from gridtokenx.primitives.types import format_address
from gridtokenx.trading.model import CancelOrder, Side, Source
from tests.support.api_node import SELLER, SELLER_METER, MemoryNode, order


@given(asked=st.lists(st.booleans(), max_size=60), limit=st.integers(1, 5), most=st.integers(1, 9))
def test_following_the_pages_gives_every_row_once(asked: list[bool], limit: int, most: int) -> None:
    """And a page ends early only where it has looked at as many rows as it may."""
    rows = [(bytes([at]), at if is_asked else None) for at, is_asked in enumerate(asked)]
    looked = 0

    def after(place: bytes) -> Iterator[tuple[bytes, int | None]]:
        nonlocal looked
        for row in rows:
            if row[0] > place or not place:
                looked += 1
                yield row

    found: list[int] = []
    place = b""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paging, "MAX_LOOKED_AT", most)
        for _ in itertools.count():
            looked = 0
            items, following = paging.fill(after(place), limit)
            found += items
            assert looked <= most + 1
            if following is None:
                break
            assert following > place
            assert len(items) == limit or looked == most + 1
            place = following
    assert found == [at for at, is_asked in enumerate(asked) if is_asked]


def test_closed_orders_behind_open_ones_are_found(
    node: MemoryNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One cancelled order and five newer open ones: the page of closed ones is not empty."""
    first = node.current_slot() + 4
    placed = [
        node.put(SELLER, order(Side.SELL, 1000, 4000 + at, SELLER_METER, Source.SOLAR, first))
        for at in range(6)
    ]
    node.make_block()
    node.put(SELLER, CancelOrder(placed[0].id))
    node.make_block()
    seller = format_address(SELLER.public_key)

    def page(**more: Any) -> tuple[list[str], str | None]:
        method = METHOD_BY_NAME["energy_getOrders"]
        asked = method.arguments({"trader": seller, "limit": 2, **more})
        got = method.handler(Context(node), asked)
        return [row.order_id.hex() for row in got.items], got.next_cursor

    assert page(status="closed") == ([placed[0].id.hex()], None)
    ids, cursor = page(status="all")
    assert len(ids) == 2
    seen = list(ids)
    while cursor is not None:
        ids, cursor = page(status="all", cursor=cursor)
        seen += ids
    assert sorted(seen) == sorted(one.id.hex() for one in placed)
    monkeypatch.setattr(paging, "MAX_LOOKED_AT", 3)
    assert page(status="closed")[0] == []
    ids, cursor = page(status="closed", cursor=page(status="closed")[1])
    assert ids == [placed[0].id.hex()]
