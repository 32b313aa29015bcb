"""Honest traders: orders at a steady rate over JSON-RPC, and how long each takes to be final."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from gridtokenx.chain.genesis import ChainSpec, Genesis
from gridtokenx.chain.transaction import Transaction, sign_transaction
from gridtokenx.client import Client, NodeUnreachable, RpcError
from gridtokenx.cluster.devnet import Member
from gridtokenx.primitives.errors import ErrorCode
from gridtokenx.primitives.quantities import slot_at
from gridtokenx.trading.model import PlaceOrder, Side, Source, TimeInForce
from scripts.hostile_fleet.attack import CHAIN
from scripts.hostile_fleet.measure import Decided
from scripts.hostile_fleet.setting import FAR_MS, LOCATION, enrol, honest_keys

ORDERS_PER_ACCOUNT = 80  # Fewer than it may have open.
TICK_S = 0.25
TIMEOUT_S = 10.0
NODES = 2  # Of the four: those that honest clients use.


@dataclass(slots=True)
class Sent:
    """An order: when it was due, where it went, and whether it was refused for good."""

    due: float
    node: str
    order: Transaction
    refused: str = ""


@dataclass(slots=True)
class Honest:
    """Traders of one phase; each has accounts of its own, so no phase waits for another's."""

    members: tuple[Member, ...]
    genesis: Genesis
    per_s: float
    sent: list[Sent] = field(default_factory=list)
    _streams: list[range] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def enrol(self, client: Client, first: int, seconds: float) -> int:
        """Register accounts for so many seconds from a number on; the next free number."""
        needed = math.ceil(seconds * self.per_s / NODES / ORDERS_PER_ACCOUNT)
        self._streams = [
            range(first + at * needed, first + (at + 1) * needed) for at in range(NODES)
        ]
        enrol(client, self.genesis, honest_keys, range(first, first + NODES * needed))
        return first + NODES * needed

    def start(self) -> None:
        """Begin now."""
        spec = self.genesis.chain(CHAIN)
        for member, numbers in zip(self.members, self._streams, strict=False):
            orders = sign_orders(spec, numbers)
            self._threads.append(
                threading.Thread(target=self._trade, args=(member, orders), daemon=True)
            )
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Send no more; what is on its way has its answer, or never gets one."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _trade(self, member: Member, orders: Iterator[Transaction]) -> None:
        """Each tick all that is due, in order, what was not taken before first."""
        pending: list[Sent] = []
        began, made = time.time(), 0
        with Client(member.api_url, timeout_s=TIMEOUT_S) as client:
            while not self._stop.wait(TICK_S):
                until = round((time.time() - began) * self.per_s / NODES)
                for number in range(made, until):
                    order = next(orders, None)
                    if order is None:
                        break
                    one = Sent(began + number / (self.per_s / NODES), member.name, order)
                    self.sent.append(one)
                    pending.append(one)
                made = until
                pending = self._deliver(client, pending)

    @staticmethod
    def _deliver(client: Client, pending: list[Sent]) -> list[Sent]:
        """What is to be sent again: all where no answer came, else what may yet be taken."""
        if not pending:
            return []
        try:
            errors = client.send_many([one.order for one in pending])
        except (RpcError, NodeUnreachable):
            return pending
        left = []
        for one, error in zip(pending, errors, strict=True):
            if error is None or error.code == ErrorCode.DUPLICATE:
                continue
            if error.retryable or error.code == ErrorCode.NONCE_GAP:
                left.append(one)
            else:
                one.refused = error.reason
        return left


def sign_orders(spec: ChainSpec, numbers: range) -> Iterator[Transaction]:
    """Account after account in turn: half buy and half sell, at prices that cross."""
    keys = [honest_keys(number) for number in numbers]
    slot = slot_at(time.time_ns() // 1_000_000) + 2
    for nonce in range(ORDERS_PER_ACCOUNT):
        for index, (owner, meter) in enumerate(keys):
            selling = index % 2 == 1
            order = PlaceOrder(
                Side.SELL if selling else Side.BUY,
                1_000,
                2_300 + nonce % 300 if selling else 4_300 + nonce % 300,
                LOCATION,
                meter.public_key,
                Source.SOLAR if selling else Source.ANY,
                False,
                slot,
                slot + 8,
                1_000,
                TimeInForce.IMMEDIATE_OR_CANCEL,
                FAR_MS,
            )
            yield sign_transaction(owner, spec.chain_id, nonce, order)


@dataclass(frozen=True, slots=True)
class Finality:
    """Of the orders due in a window: how many, how many never became final, and ms to finality."""

    orders: int
    lost: int
    refused: int
    p50_ms: int
    p99_ms: int


NEVER_MS = 999_999


def finality(
    client_of: Callable[[str], Client],
    honest: Honest,
    decided: Callable[[str], Decided],
    window: tuple[float, float],
    patience_s: float,
) -> Finality:
    """Look the orders up in the blocks of the node that took them, as its client would."""
    rows = [one for one in honest.sent if window[0] <= one.due < window[1]]
    late: list[int] = []
    lost = 0
    deadline = time.monotonic() + patience_s
    for name in sorted({one.node for one in rows}):
        wanted = {one.order.id.hex(): one.due for one in rows if one.node == name}
        found = _find(client_of(name), lambda name=name: decided(name), wanted, deadline)
        late += [round((at - wanted[key]) * 1_000) for key, at in found.items()]
        lost += len(wanted) - len(found)
    refused = sum(bool(one.refused) for one in rows)
    ordered = sorted(late) + [NEVER_MS] * lost
    if not ordered:
        return Finality(0, 0, refused, 0, 0)
    return Finality(
        len(rows), lost, refused, ordered[len(ordered) // 2], ordered[len(ordered) * 99 // 100]
    )


def _find(
    client: Client, decided: Callable[[], Decided], wanted: dict[str, float], deadline: float
) -> dict[str, float]:
    """When each wanted transaction's block was decided, of those that are final in time."""
    found: dict[str, float] = {}
    read: set[int] = set()
    while len(found) < len(wanted):
        for height, at in sorted(decided().get(CHAIN, {}).items()):
            if height in read:
                continue
            try:
                block = client.block(height, CHAIN)
            except (RpcError, NodeUnreachable):
                break
            read.add(height)
            ids = [one.hex() for one in block.transactions if isinstance(one, bytes)]
            found.update({key: at for key in ids if key in wanted})
        if time.monotonic() > deadline:
            break
        if len(found) < len(wanted):
            time.sleep(0.5)
    return found
