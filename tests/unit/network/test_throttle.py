"""Who pays for work and who waits, with made-up CPU times and trio's clock of tests."""

from contextlib import ExitStack
from itertools import pairwise

import pytest
import trio
import trio.testing

from gridtokenx.network import throttle as module
from gridtokenx.network.peers.admission import Admission, Limits
from gridtokenx.network.peers.budget import BudgetLimits, StrangersBudget
from gridtokenx.network.peers.reputation import Reputation
from gridtokenx.network.throttle import (
    HANDSHAKE_LIMITS,
    PAYER,
    Gate,
    Payer,
    holding,
    metered,
    unpaid,
)

LIMITS = BudgetLimits(cpu_share=0.2, source_share=0.1, burst_s=0.4)
A, B, C = "198.51.100.1", "198.51.100.2", "2001:db8::1"


def gate() -> Gate:
    admission = Admission(Limits(), Reputation(lambda: 1_800_000_000_000))
    admission.protected.add(b"friend")
    return Gate(admission, StrangersBudget(LIMITS))


def run(main, *arguments) -> None:
    trio.run(main, *arguments, clock=trio.testing.MockClock(autojump_threshold=0))


def test_a_stranger_waits_for_its_own_share_and_others_do_not() -> None:
    async def main() -> None:
        door = gate()
        heavy, light = Payer(door, A, b"heavy"), Payer(door, B, b"light")
        await door.admit(heavy)
        assert trio.current_time() == 0
        heavy.pay(0.25)  # it may cost 0.2 at once
        await door.admit(light)
        assert trio.current_time() == 0
        await door.admit(heavy)
        assert trio.current_time() == pytest.approx(0.5, abs=0.01)  # 0.05 at a tenth a second

    run(main)


def test_all_strangers_together_wait_and_a_trusted_peer_never() -> None:
    async def main() -> None:
        door = gate()
        payers = [Payer(door, f"203.0.113.{number}", bytes([number])) for number in range(6)]
        for payer in payers:
            payer.pay(0.1)  # none above its share, all above theirs: 0.2 too much
        friend = Payer(door, A, b"friend")
        friend.pay(100)
        await door.admit(friend)
        assert trio.current_time() == 0
        passed: list[float] = []

        async def go(payer: Payer) -> None:
            await door.admit(payer)
            passed.append(trio.current_time())
            payer.pay(0.02)

        async with trio.open_nursery() as nursery:
            for payer in payers:
                nursery.start_soon(go, payer)
        assert passed[0] == pytest.approx(1.0, abs=0.01)
        # One after the other, each when what the one before cost is earned.
        assert all(0.09 < after - before < 0.11 for before, after in pairwise(passed))

    run(main)


def test_who_becomes_trusted_while_it_waits_is_let_through() -> None:
    async def main() -> None:
        door = gate()
        payer = Payer(door, A, b"new")
        payer.pay(0.4)
        with trio.move_on_after(0.1):
            await door.admit(payer)
            pytest.fail("it owes")
        assert not payer.waits
        door.admission.authorities = frozenset([b"new"])
        await door.admit(payer)
        assert trio.current_time() == pytest.approx(0.1)

    run(main)


def test_handshakes_have_a_budget_of_their_own_but_where_trusted_peers_were_met() -> None:
    async def main() -> None:
        door = gate()
        flood = [Payer(door, f"2001:db8:{number:x}::1") for number in range(400)]
        for payer in flood:
            payer.pay(HANDSHAKE_LIMITS.burst_s / 100)
        newcomer = Payer(door, A)
        assert await door.admit_handshake(newcomer)
        assert trio.current_time() == pytest.approx(2, abs=0.01)  # what it owes at most
        door.admission.note_trusted(B)
        flood[0].pay(HANDSHAKE_LIMITS.burst_s)
        before_s = trio.current_time()
        assert await door.admit_handshake(Payer(door, B))
        assert trio.current_time() == before_s

    run(main)


def test_of_too_many_handshakes_that_wait_the_rest_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def main() -> None:
        door = gate()
        Payer(door, C).pay(1)
        Payer(door, A).pay(1)
        answers: list[bool] = []

        async def knock(number: int) -> None:
            answers.append(await door.admit_handshake(Payer(door, f"192.0.2.{number}")))

        async with trio.open_nursery() as nursery:
            for number in range(4):
                nursery.start_soon(knock, number)
            await trio.testing.wait_all_tasks_blocked()
            assert answers == [False] * 2
        assert answers == [False] * 2 + [True] * 2

    monkeypatch.setattr(module, "MAX_WAITING_HANDSHAKES", 2)
    run(main)


def test_loopback_does_not_become_an_address_of_trusted_peers() -> None:
    door = gate()
    door.admission.note_trusted("127.0.0.1")
    assert not door.admission.has_met_trusted("127.0.0.1")
    door.admission.note_trusted("2001:db8::7")
    assert door.admission.has_met_trusted("2001:db8::8")  # of the same /64


class Keeper:
    """Holds so many bytes, and streams, for a payer."""

    def __init__(self, payer: Payer, held: int, streams: int = 0) -> None:
        self.payer: Payer | None = payer
        self.held = held
        self.streams = streams

    def open_streams(self) -> int:
        return self.streams

    def held_bytes(self) -> int:
        return self.held

    def give_up(self) -> None:
        self.held = 0


def test_whoever_holds_most_of_the_strangers_bytes_gives_up_first() -> None:
    door = gate()
    mib = 1 << 20
    keepers = [Keeper(Payer(door, A, bytes([number])), number * mib) for number in range(8)]
    friend = Keeper(Payer(door, A, b"friend"), 100 * mib)
    with ExitStack() as stack:
        for keeper in [*keepers, friend]:
            stack.enter_context(holding(keeper))
        door.received(keepers[0].payer, module.HELD_LOOK_BYTES)
    assert [keeper.held // mib for keeper in keepers] == [0, 1, 2, 3, 4, 5, 0, 0]
    assert (friend.held, door.held_over) == (100 * mib, 2)
    assert sum(keeper.held for keeper in keepers) <= module.MAX_HELD_BYTES


def test_streams_of_strangers_are_bounded_but_for_a_few_that_each_may_have() -> None:
    door = gate()
    payers = [Payer(door, A, bytes([number])) for number in range(17)]
    with ExitStack() as stack:
        for payer in payers[:16]:
            stack.enter_context(holding(Keeper(payer, 0, module.MAX_STREAMS // 16)))
        assert door.may_open_stream(payers[16], module.SURE_STREAMS - 1)
        assert not door.may_open_stream(payers[16], module.SURE_STREAMS)
        assert door.may_open_stream(Payer(door, A, b"friend"), 100)
    assert door.may_open_stream(payers[16], module.SURE_STREAMS)


def test_the_steps_of_a_payers_tasks_and_of_those_they_start_are_charged() -> None:
    clock = [0.0]

    async def main() -> None:
        door = gate()

        def work(cpu_s: float) -> None:
            clock[0] += cpu_s

        async def child() -> None:
            work(0.02)
            await trio.lowlevel.checkpoint()
            work(0.03)

        async def own_work() -> None:
            work(7)

        async def connection(peer: bytes) -> None:
            PAYER.set(Payer(door, A, peer))
            await trio.lowlevel.checkpoint()
            work(0.01)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(child)
                with unpaid():
                    nursery.start_soon(own_work)

        with metered(), metered():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(connection, b"stranger")
                nursery.start_soon(connection, b"friend")
                nursery.start_soon(child)
        assert door.budget.spent_s == pytest.approx(0.06)

    original = module._Meter.__init__
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module._Meter, "__init__", lambda self: original(self, lambda: clock[0]))
        trio.run(main)
