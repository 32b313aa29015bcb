"""Makes strangers wait: who pays for the work on a connection, and the gate before each read.

Every task of a connection carries its `Payer` in its context, and so does whatever those tasks
start. A trio instrument measures their steps and charges them; before the next bytes of a stranger
are taken from its socket, `Gate.admit` waits until the budget holds again, so that TCP makes the
stranger wait. Trusted peers pass without a look. Source: protocols/networking.md 7.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any, Protocol

import trio

from gridtokenx.network.peers.admission import Admission
from gridtokenx.network.peers.budget import BudgetLimits, StrangersBudget

READ_PRICE_S = 0.0001  # taken before a read, so that of many who wait not all go at once
LEAST_SLEEP_S = 0.001
SETTLED_AT_S = 0.001  # what less costs is not worth the bookkeeping of a charge
HANDSHAKE_LIMITS = BudgetLimits(cpu_share=0.1, source_share=0.05, burst_s=0.2)
HANDSHAKE_WAIT_S = 3.0
MAX_WAITING_HANDSHAKES = 64
MAX_HELD_BYTES = 16 << 20  # received of all strangers and not yet used
HELD_LOOK_BYTES = 1 << 20  # received between two looks at what is held
MAX_STREAMS = 1_024  # that strangers have open, all together
SURE_STREAMS = 8  # of each connection, however many the others have


class Payer:
    """Who pays for a connection: an address, and from its handshake on a peer."""

    __slots__ = ("_unpaid_s", "gate", "ip", "is_open", "peer", "waits")

    def __init__(self, gate: Gate, ip: str | None, peer: bytes | None = None) -> None:
        self.gate = gate
        self.ip = ip
        self.peer = peer
        self.is_open = False  # the handshake is over, so `peer` is proved
        self.waits = False  # for the gate: what the peer has sent is not being read
        self._unpaid_s = 0.0

    @property
    def source(self) -> str | None:
        """Whose share of the budget it is, None for a trusted peer."""
        return self.gate.admission.source_of(self.peer, self.ip)

    @property
    def is_trusted(self) -> bool:
        return self.gate.admission.trusts(self.peer)

    def pay(self, cpu_s: float) -> None:
        """Charge CPU seconds, a little later if they are few."""
        self._unpaid_s += cpu_s
        if self._unpaid_s >= SETTLED_AT_S:
            unpaid_s, self._unpaid_s = self._unpaid_s, 0.0
            self.gate.charge(self, unpaid_s)


PAYER: ContextVar[Payer | None] = ContextVar("payer", default=None)
"""Of the connection that the running task works for; None where nobody pays."""


@contextmanager
def unpaid() -> Iterator[None]:
    """Let nobody pay for the tasks that are started within: they are the node's own work, though
    something that a peer has sent was the occasion."""
    token = PAYER.set(None)
    try:
        yield
    finally:
        PAYER.reset(token)


class Holder(Protocol):
    """Something that keeps bytes of a stranger until they are used."""

    payer: Payer | None

    def open_streams(self) -> int:
        """How many streams of the peer's there are in it."""

    def held_bytes(self) -> int:
        """How many now."""

    def give_up(self) -> None:
        """Let go of them, and of the connection or stream they came by."""


@contextmanager
def holding(holder: Holder) -> Iterator[None]:
    """Let a holder count among those of its network that share `MAX_HELD_BYTES`."""
    holders = {} if holder.payer is None else holder.payer.gate.holders
    holders[holder] = None
    try:
        yield
    finally:
        del holders[holder]


class Gate:
    """What strangers must pass, one for each network.

    `held_over` counts holders that had to give up their bytes.
    """

    def __init__(self, admission: Admission, budget: StrangersBudget | None = None) -> None:
        self.admission = admission
        self.budget = budget or StrangersBudget()
        self.handshakes = StrangersBudget(HANDSHAKE_LIMITS)
        self.held_over = 0
        self._turn = trio.Lock()
        self._waiting_handshakes = 0
        self.holders: dict[Holder, None] = {}
        self._unlooked_bytes = 0

    # -- CPU ---------------------------------------------------------------------------------------

    def charge(self, payer: Payer, cpu_s: float) -> None:
        """Take what was done for a payer; of a trusted one nothing."""
        source = payer.source
        if source is None:
            return
        now_s = trio.current_time()
        self.budget.charge(source, cpu_s, now_s)
        if not payer.is_open:
            self.handshakes.charge(source, cpu_s, now_s)

    async def admit(self, payer: Payer) -> None:
        """Wait until the payer may cost something: as long as its own share owes beside the
        others', then in turn for what all strangers have."""
        if payer.peer is None or self._passes(payer):
            return
        payer.waits = True
        try:
            while await self._wait_for_share(payer):
                async with self._turn:
                    await _sleep_off(self.budget.wait_all_s)
                    if self._pay_to_pass(payer):
                        return
        finally:
            payer.waits = False

    def _passes(self, payer: Payer) -> bool:
        return payer.is_trusted or (not self._turn.locked() and self._pay_to_pass(payer))

    def _pay_to_pass(self, payer: Payer) -> bool:
        source = payer.source
        if source is None:
            return True
        if self._wait_s(source):
            return False
        self.budget.charge(source, READ_PRICE_S, trio.current_time())
        return True

    async def _wait_for_share(self, payer: Payer) -> bool:
        """Wait while the payer's own share owes; False if it is trusted by now."""
        while (source := payer.source) is not None:
            wait_s = self._wait_s(source)
            if wait_s <= self.budget.wait_all_s(trio.current_time()):
                return True
            await trio.sleep(max(wait_s, LEAST_SLEEP_S))
        return False

    def _wait_s(self, source: str) -> float:
        return self.budget.wait_s(source, trio.current_time())

    async def admit_handshake(self, payer: Payer) -> bool:
        """Wait for a place among the handshakes of those not known yet; False: there is none.

        Where trusted peers were met nobody waits, so that strangers do not keep them out.
        """
        source = payer.source
        if source is None or self.admission.has_met_trusted(payer.ip):
            return True
        if not self.handshakes.wait_s(source, trio.current_time()):
            return True
        if self._waiting_handshakes >= MAX_WAITING_HANDSHAKES:
            return False
        self._waiting_handshakes += 1
        try:
            with trio.move_on_after(HANDSHAKE_WAIT_S):
                await _sleep_off(partial(self.handshakes.wait_s, source))
                self.handshakes.charge(source, READ_PRICE_S, trio.current_time())
                return True
        finally:
            self._waiting_handshakes -= 1
        return False

    # -- Bytes and streams -------------------------------------------------------------------------

    def may_open_stream(self, payer: Payer, open_streams: int) -> bool:
        """Whether a connection that has so many streams of its peer may have one more."""
        if open_streams < SURE_STREAMS or payer.is_trusted:
            return True
        return sum(holder.open_streams() for holder in self._strangers()) < MAX_STREAMS

    def received(self, payer: Payer | None, size: int) -> None:
        """Bytes of a payer came in: from time to time, see whether strangers hold too many.

        Who holds most gives up first, until the rest is within the limit.
        """
        if payer is None or payer.is_trusted:
            return
        self._unlooked_bytes += size
        if self._unlooked_bytes < HELD_LOOK_BYTES:
            return
        self._unlooked_bytes = 0
        held = {holder: holder.held_bytes() for holder in self._strangers()}
        excess = sum(held.values()) - MAX_HELD_BYTES
        for holder in sorted(held, key=held.__getitem__, reverse=True):
            if excess <= 0:
                return
            excess -= held[holder]
            self.held_over += 1
            holder.give_up()

    def _strangers(self) -> Iterator[Holder]:
        for holder in self.holders:
            if holder.payer is not None and not holder.payer.is_trusted:
                yield holder


async def _sleep_off(owed_s: Callable[[float], float]) -> None:
    """Sleep until nothing is owed: others may cost more meanwhile."""
    while True:
        wait_s = owed_s(trio.current_time())
        if not wait_s:
            return
        await trio.sleep(max(wait_s, LEAST_SLEEP_S))


class _Meter(trio.abc.Instrument):
    """Charges each step of a task to the payer in its context, by the thread's CPU time."""

    def __init__(self, cpu_s: Callable[[], float] = time.thread_time) -> None:
        self._cpu_s = cpu_s
        self._payer: Payer | None = None
        self._since_s = 0.0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        payer = task.context.get(PAYER)
        if payer is not None and not payer.is_trusted:
            self._payer = payer
            self._since_s = self._cpu_s()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        if self._payer is not None:
            payer, self._payer = self._payer, None
            payer.pay(self._cpu_s() - self._since_s)


_METER: trio.lowlevel.RunVar[tuple[Any, int]] = trio.lowlevel.RunVar("meter", (None, 0))


@contextmanager
def metered() -> Iterator[None]:
    """Have the steps of paying tasks measured; networks of one trio run share one meter."""
    meter, users = _METER.get()
    if meter is None:
        meter = _Meter()
        trio.lowlevel.add_instrument(meter)
    _METER.set((meter, users + 1))
    try:
        yield
    finally:
        meter, users = _METER.get()
        if users == 1:
            trio.lowlevel.remove_instrument(meter)
        _METER.set((meter if users > 1 else None, users - 1))
