"""How equal orders share what does not suffice for all of them.

Nothing is drawn by lot: an order's id decides over single Wh, and over who trades at all only where
the shares would otherwise be too small to be worth a trade. Source: protocols/market.md 3.2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gridtokenx.primitives.places import Boundary

# So one large order cannot be cut into thousands of trades by as many small ones.
LEAST_SHARE_WH = 100


def share(total_wh: int, wanted_wh: Sequence[int]) -> list[int]:
    """Share `total_wh` in proportion to what each wanted, to the Wh.

    `wanted_wh` is in order of id. Everybody gets all he wanted if there is that much. Otherwise
    those whose share would be under both 100 Wh and what they wanted leave, the least first (of
    equals the last id), as long as the others still want the whole; each of the others gets
    floor(total x wanted / sum), and the Wh that remain go one each to the largest remainders of
    these divisions, of equal ones to the first ids.
    Source: protocols/market.md 3.2 step 2.
    """
    sum_wh = sum(wanted_wh)
    if total_wh >= sum_wh:
        return list(wanted_wh)
    shares_wh = [0] * len(wanted_wh)
    if not total_wh:
        return shares_wh
    staying, sum_wh = _staying(total_wh, wanted_wh, sum_wh)
    remainders = []
    left_wh = total_wh
    for position in staying:
        shares_wh[position], remainder = divmod(total_wh * wanted_wh[position], sum_wh)
        left_wh -= shares_wh[position]
        remainders.append((-remainder, position))
    if left_wh:
        remainders.sort()
        for _, position in remainders[:left_wh]:
            shares_wh[position] += 1
    return shares_wh


def _staying(total_wh: int, wanted_wh: Sequence[int], sum_wh: int) -> tuple[list[int], int]:
    """The positions of those whose share is large enough, and the sum of what they wanted."""
    positions = [position for position, each_wh in enumerate(wanted_wh) if each_wh]
    least_wh = min(wanted_wh[position] for position in positions)
    if total_wh * least_wh // sum_wh >= min(LEAST_SHARE_WH, least_wh):
        return positions, sum_wh
    positions.sort(key=lambda position: (wanted_wh[position], -position))
    first = 0
    for position in positions:
        each_wh = wanted_wh[position]
        is_enough = total_wh * each_wh // sum_wh >= min(LEAST_SHARE_WH, each_wh)
        if is_enough or sum_wh - each_wh < total_wh:
            break
        sum_wh -= each_wh
        first += 1
    return positions[first:], sum_wh


def within_headroom(
    wanted_wh: Sequence[int],
    crossed: Sequence[tuple[Boundary, ...]],
    room_wh: Mapping[Boundary, int],
) -> list[int]:
    """What the grid lets each order of a level move of what it wants, node by node from below.

    `crossed` names for each order the limited boundaries that it crosses; `room_wh` what may still
    cross them. Where those inside one want more than that, they share it.
    Source: protocols/market.md 3.2 step 3.
    """
    weights_wh = list(wanted_wh)
    inside: dict[Boundary, list[int]] = {}
    for position, boundaries in enumerate(crossed):
        for boundary in boundaries:
            inside.setdefault(boundary, []).append(position)
    for boundary in sorted(inside, key=_depth, reverse=True):
        positions = inside[boundary]
        parts_wh = share(room_wh[boundary], [weights_wh[position] for position in positions])
        for position, part_wh in zip(positions, parts_wh, strict=True):
            weights_wh[position] = part_wh
    return weights_wh


def _depth(boundary: Boundary) -> int:
    """Of a substation 2, of a zone 1, of a territory 0."""
    return boundary.node.count("-")
