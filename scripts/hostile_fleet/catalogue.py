"""All attacks, by name."""

from __future__ import annotations

from collections.abc import Sequence

from scripts.hostile_fleet import (
    chain_attacks,
    gossip_attacks,
    http_attacks,
    peer_attacks,
    request_attacks,
)
from scripts.hostile_fleet.attack import Attack

ATTACKS: dict[str, Attack] = {
    one.name: one
    for module in (peer_attacks, request_attacks, gossip_attacks, http_attacks, chain_attacks)
    for one in module.ATTACKS
}


def chosen(names: Sequence[str]) -> list[Attack]:
    """The named attacks, or all. Errors: ValueError that names what is unknown."""
    unknown = sorted(set(names) - ATTACKS.keys())
    if unknown:
        raise ValueError(f"no such attack: {', '.join(unknown)}; --list shows all")
    return [ATTACKS[name] for name in dict.fromkeys(names)] or list(ATTACKS.values())


def table() -> str:
    """The attacks as a table in Markdown."""
    rows = [
        f"| `{one.name}` | {one.door} | {one.source} | {one.what} |" for one in ATTACKS.values()
    ]
    return (
        "\n".join(["| attack | door | review | what it does |", "|---|---|---|---|", *rows]) + "\n"
    )
