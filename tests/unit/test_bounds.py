"""The table of bounds in protocols/networking.md 7 says what the code does."""

import importlib
import re
from dataclasses import fields
from functools import reduce
from pathlib import Path

import pytest

from gridtokenx.network.gossipsub.events import Parameters, ScoreParameters

PAGE = Path(__file__).parents[2] / "protocols" / "networking.md"
UNITS = {"": 1, "s": 1, "ms": 1, "min": 60, "h": 3_600, "KiB": 1 << 10, "MiB": 1 << 20}
BOUNDED = (
    "network.peers.admission",
    "network.peers.budget",
    "network.throttle",
    "network.libp2p_overrides.sockets",
    "network.libp2p_overrides.negotiation",
    "network.libp2p_overrides.swarm",
    "network.libp2p_overrides.yamux",
    "network.libp2p_overrides.host",
    "network.libp2p_overrides.dht",
    "network.libp2p_overrides.providers",
    "network.dialling",
    "network.discovery",
    "network.peers.peer_book",
    "network.mdns",
    "network.mdns_wire",
    "network.requests",
    "node.strangers",
    "node.bodies",
    "node.candidates",
    "node.executor",
    "node.vote_gate",
    "network.gossip",
    "network.gossipsub.wire",
    "network.peers.reputation",
)
"""Modules each of whose `MAX_` constants has a row."""


def rows() -> list[tuple[str, str, str]]:
    """(what, limit, constant) of each row."""
    section = PAGE.read_text(encoding="utf-8").partition("\n## 7. ")[2].partition("\n## ")[0]
    cells = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in section.splitlines()
        if line.startswith("|")
    ]
    return [(row[0], row[1], row[-1].strip("`")) for row in cells[2:]]


def limit(text: str) -> float:
    """The number that a limit such as `1,024`, `16 MiB` or `0.4 s` stands for."""
    found = re.fullmatch(r"([\d,.]+) ?(\w*)", text)
    assert found, text
    return float(found[1].replace(",", "")) * UNITS[found[2]]


def constant(path: str) -> float:
    """The value of `package.module.NAME`, or of `package.module.Class.field`, its default."""
    names = path.split(".")
    depth = next(i for i, name in enumerate(names) if not name.islower())
    module = importlib.import_module(".".join(["gridtokenx", *names[:depth]]))

    def step(value: object, name: str) -> object:
        return getattr(value() if isinstance(value, type) else value, name)

    found = reduce(step, names[depth:], module)
    assert isinstance(found, int | float), path
    return found


@pytest.mark.parametrize(("what", "said", "path"), rows(), ids=lambda value: value)
def test_a_bound_is_what_the_code_has(what: str, said: str, path: str) -> None:
    assert constant(path) == limit(said), what


def test_every_bound_has_one_row() -> None:
    listed = [path for _, _, path in rows()]
    assert len(listed) == len(set(listed))
    missing = [
        f"{name}.{constant}"
        for name in BOUNDED
        for constant in re.findall(r"^(MAX_\w+) = ", source_of(name), re.MULTILINE)
        if f"{name}.{constant}" not in listed
    ]
    missing += [
        f"network.gossipsub.events.{kind.__name__}.{field.name}"
        for kind in (Parameters, ScoreParameters)
        for field in fields(kind)
        if field.name.startswith("max_")
        and f"network.gossipsub.events.{kind.__name__}.{field.name}" not in listed
    ]
    assert not missing, f"protocols/networking.md 7 has no row for {missing}"


def source_of(name: str) -> str:
    path = importlib.import_module(f"gridtokenx.{name}").__file__
    assert path is not None
    return Path(path).read_text(encoding="utf-8")
