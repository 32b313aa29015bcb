"""What an attack is, and what one knows and spends while it runs."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import trio

from gridtokenx.chain.genesis import ChainSpec, Genesis, parse_genesis
from gridtokenx.chain.transaction import Payload, Transaction, sign_transaction
from gridtokenx.cluster.devnet import Member, peer_address
from gridtokenx.cluster.processes import RECORD_NAME
from gridtokenx.primitives.crypto import SigningKey, sha256

NEW = "new"
CHAIN, NATIONAL = "MET", "TH"
HOST = "127.0.0.1"
HOSTILE_IP = "127.0.0.66"  # Where attacks on the API come from: not the address of honest clients.
AGAIN_S = 0.2


@dataclass(frozen=True, slots=True)
class Target:
    """A running cluster as its attackers know it: public addresses and the genesis."""

    genesis: Genesis
    members: tuple[Member, ...]

    @classmethod
    def of(cls, folder: Path) -> Target:
        """The cluster recorded in a folder."""
        record = json.loads((folder / RECORD_NAME).read_text(encoding="utf-8"))
        members = tuple(Member(**one["member"]) for one in record["nodes"])
        genesis = parse_genesis((folder / members[0].name / "genesis.json").read_text("utf-8"))
        return cls(genesis, members)

    @property
    def specs(self) -> tuple[ChainSpec, ...]:
        """The attacked chains."""
        return tuple(self.genesis.chain(name) for name in self.genesis.chain_names)

    def address(self, member: Member) -> str:
        """What is dialled to reach a node."""
        return peer_address(member.name, member.p2p_port)


@dataclass(slots=True)
class Run:
    """One attack while it lasts. `sent` counts bytes that left; `outcomes` what became of tries."""

    target: Target
    go: trio.Event
    prepared: trio.Event = field(default_factory=trio.Event)
    sent: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)

    async def start(self) -> None:
        """All that can be made beforehand is made: wait until everybody begins."""
        self.prepared.set()
        await self.go.wait()


AttackFunction = Callable[[Run], Awaitable[None]]


@dataclass(frozen=True)
class Attack:
    """`source`: the finding of the security review, or NEW; `door`: what it attacks."""

    source: str
    door: str
    run: AttackFunction

    @cached_property
    def name(self) -> str:
        """Its name on the command line."""
        return self.run.__name__.replace("_", "-")

    @cached_property
    def what(self) -> str:
        """One sentence."""
        return " ".join((self.run.__doc__ or "").split())


def collect(attacks: list[Attack], door: str) -> Callable[..., Callable[..., AttackFunction]]:
    """A decorator `@attack(source)` that adds functions to a list; their docstrings are shown."""

    def attack(source: str = NEW, *, at: str = door) -> Callable[[AttackFunction], AttackFunction]:
        def add(function: AttackFunction) -> AttackFunction:
            attacks.append(Attack(source, at, function))
            return function

        return add

    return attack


@dataclass(slots=True)
class Pace:
    """Keeps what one sender sends below so much a second."""

    per_s: float
    _due: float = field(default_factory=trio.current_time)

    async def take(self, amount: float = 1.0) -> None:
        """Wait until so much more may go out."""
        now = trio.current_time()
        self._due = max(self._due, now - 1.0) + amount / self.per_s
        await trio.sleep(max(0.0, self._due - now))


async def everywhere(
    run: Run, per_node: int, one: Callable[[Member], Awaitable[Any]], *, nodes: int = 99
) -> None:
    """`one(member)` so many times for each of the first nodes, all at once, until cancelled."""
    async with trio.open_nursery() as nursery:
        for _ in range(per_node):
            for member in run.target.members[:nodes]:
                nursery.start_soon(one, member)


def stranger_key(name: str) -> SigningKey:
    """A key that nobody has registered or funded, another one in each run."""
    return SigningKey(sha256(f"hostile {name} {time.time_ns()}".encode()))


def hostile_keys(number: int) -> tuple[SigningKey, SigningKey]:
    """Account and meter of a hostile participant, whom `setting.enrol` registers and funds."""
    name = f"hostile {number}".encode()
    return SigningKey(sha256(name)), SigningKey(sha256(name + b" meter"))


def sign_all(
    key: SigningKey, spec: ChainSpec, nonce: int, payloads: Sequence[Payload]
) -> list[Transaction]:
    """Transactions of one sender from a nonce on."""
    return [
        sign_transaction(key, spec.chain_id, nonce + number, payload)
        for number, payload in enumerate(payloads)
    ]
