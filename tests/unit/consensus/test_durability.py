"""Persist before send, restart at every effect, one key one place: protocols/consensus.md 2.8."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gridtokenx.consensus.engine import Engine
from gridtokenx.consensus.events import (
    BlockBuilt,
    BlockChecked,
    Broadcast,
    BuildBlock,
    CheckBlock,
    Decide,
    Effect,
    Event,
    HeightStarted,
    Observe,
    Persist,
    Received,
    SafetyRecord,
    StopSigning,
    Tick,
    Verdict,
)
from gridtokenx.consensus.messages import (
    Phase,
    Proposal,
    Timeout,
    TimeoutCertificate,
    Vote,
)
from gridtokenx.consensus.state import Timing
from gridtokenx.primitives.codec import decode, encode
from tests.support.committee import BLOCK, CHAIN_ID, OTHER, Bench, Committee, messages, only

SIGNED = (Proposal, Vote, Timeout)


@pytest.fixture
def four() -> Committee:
    return Committee(1, 1, 1, 1)


def eventful_life(four: Committee) -> list[tuple[int, Event]]:
    """Member 1 leads view 0, commits, times out, prepares again in view 1, decides."""
    high = four.certificate(signers=(0, 1, 2))
    entry = four.timeouts(0, {0: None, 1: high, 3: None})
    repeat = four.proposal(1, BLOCK, entry, high)
    heard: list[tuple[int, Event]] = [(0, HeightStarted(1, four.validators, 0))]
    heard += [(5, BlockBuilt(1, 0, BLOCK))]
    heard += [(10, Received(four.prepare(index))) for index in (0, 2)]
    heard += [(6000, Tick())]
    heard += [(6010, Received(four.timeout(index))) for index in (0, 3)]
    heard += [(6020, Received(repeat))]
    heard += [(6030, Received(four.prepare(index, 1))) for index in (2, 3)]
    heard += [(6040, Received(four.commit(index, 1))) for index in (2, 3)]
    return heard


class Life:
    """Plays an eventful life, dying before effect number `dies_at` and living on."""

    def __init__(self, four: Committee, dies_at: int) -> None:
        self.four, self.dies_at, self.performed = four, dies_at, 0
        self.disk: SafetyRecord | None = None
        self.sent: list[object] = []
        self.decided: list[bytes] = []
        self.was_built = False
        self.engine = self.boot()

    def boot(self) -> Engine:
        return Engine(CHAIN_ID, self.four.keys[1], Timing(3000), record=self.disk)

    def play(self) -> Life:
        for now_ms, event in eventful_life(self.four):
            self.feed(event, now_ms)
            self.was_built = self.was_built or isinstance(event, BlockBuilt)
        return self

    def feed(self, event: Event, now_ms: int) -> None:
        for effect in self.engine.handle(event, now_ms):
            self.performed += 1
            if self.performed == self.dies_at:
                self.engine = self.boot()
                self.feed(HeightStarted(1, self.four.validators, 0), now_ms)
                return
            self.perform(effect, now_ms)

    def perform(self, effect: Effect, now_ms: int) -> None:
        match effect:
            case Persist(record):
                self.disk = decode(SafetyRecord, encode(record))
            case Broadcast(message):
                self.sent.append(message)
                if isinstance(message, SIGNED):
                    assert self.disk is not None
                    assert message in (*self.disk.own, self.disk.last_commit)
            case CheckBlock():
                self.feed(BlockChecked(effect, Verdict.VALID), now_ms)
            case BuildBlock(height, view) if self.was_built:  # After a crash: another block.
                self.feed(BlockBuilt(height, view, OTHER), now_ms)
            case Decide(_, block_hash):
                self.decided.append(block_hash)


def test_an_undisturbed_life_signs_each_statement_once(four: Committee) -> None:
    life = Life(four, dies_at=-1).play()
    signed = [message for message in life.sent if isinstance(message, SIGNED)]
    assert life.decided == [BLOCK]
    assert len(signed) == 6  # PROPOSE, PREPARE, COMMIT, TIMEOUT; PREPARE, COMMIT of view 1.
    assert life.performed < 30  # The crashes below reach every effect.


@pytest.mark.parametrize("dies_at", range(1, 30))
def test_a_crash_before_any_effect_never_leads_to_a_second_statement(
    four: Committee, dies_at: int
) -> None:
    life = Life(four, dies_at).play()
    statements: dict[object, bytes] = {}
    commits, timeouts = set(), set()
    for message in life.sent:
        if not isinstance(message, SIGNED):
            continue
        kind = message.phase if isinstance(message, Vote) else type(message)
        first = statements.setdefault((kind, message.view), message.signature)
        assert first == message.signature
        if kind is Phase.COMMIT:
            commits.add(message.view)
        if isinstance(message, Timeout):
            timeouts.add((message.view, message.high_view_plus_1))
    for view in commits:
        assert all(left < view or high > view for left, high in timeouts)


def test_restart_sends_the_same_bytes_again_without_writing(four: Committee) -> None:
    bench = Bench(four)
    bench.prepared()
    bench.hear(four.prepare(1), four.prepare(2))
    own = [encode(message) for message in bench.sent if isinstance(message, SIGNED)]
    bench.sent.clear()
    bench.boot()
    effects = bench.start_height()
    assert not only(effects, Persist)
    assert [encode(message) for message in messages(effects, SIGNED)] == own  # type: ignore[arg-type]
    assert bench.state.prepared == bench.state.committed == BLOCK
    assert bench.state.high_certificate == four.certificate()
    assert bench.state.deadline_ms == bench.now_ms + 3000


def test_a_record_after_a_restart_still_names_the_bodies_on_disk(four: Committee) -> None:
    """Nobody has asked about the block again when the view is left: it must not be forgotten."""
    bench = Bench(four)
    bench.prepared()
    bench.hear(four.prepare(1), four.prepare(2))
    assert bench.disk is not None
    assert (bench.disk.committed, bench.disk.candidates) == (BLOCK, (BLOCK,))
    bench.boot()
    bench.start_height()
    bench.time_out()
    assert bench.disk.timed_out
    assert bench.disk.candidates == (BLOCK,)


def test_restart_counts_own_messages(four: Committee) -> None:
    bench = Bench(four)
    bench.time_out()
    bench.boot()
    bench.start_height()
    effects = bench.hear(four.timeout(2), four.timeout(3))
    assert messages(effects, TimeoutCertificate)
    assert bench.state.view == 1


def test_restart_remembers_the_commit_of_an_earlier_view(four: Committee) -> None:
    bench = Bench(four)
    bench.prepared()
    bench.hear(four.certificate())
    bench.hear(four.timeouts(0))
    bench.time_out()
    bench.boot()
    bench.start_height()
    assert bench.state.view == 1
    bench.sent.clear()
    bench.wait(1001)
    assert four.commit(0) in bench.sent


def test_restart_with_a_record_of_an_earlier_height_starts_clean(four: Committee) -> None:
    bench = Bench(four)
    bench.prepared()
    bench.boot()
    bench.start_height(2)
    assert (bench.state.view, bench.state.prepared, bench.state.own) == (0, None, ())


def test_a_chain_behind_the_record_signs_nothing_until_it_has_caught_up() -> None:
    later = Committee(1, 1, 1, 1, height=5)
    bench = Bench(later)
    bench.prepared()
    record = bench.disk
    old = Bench(Committee(1, 1, 1, 1, height=3), record=record)
    assert not messages(old.time_out(), Timeout)
    old.start_height(5)
    assert messages(old.feed(Tick()), Vote) == []
    assert old.state.prepared == BLOCK


# -- Observing -------------------------------------------------------------------------------------


def test_an_observing_key_follows_but_signs_nothing(four: Committee) -> None:
    bench = Bench(four, me=1, observe_until_height=1)
    assert not only(bench.started, BuildBlock)
    effects = bench.answer(bench.hear(four.proposal()))
    effects += bench.hear(four.prepare(0), four.prepare(2), four.prepare(3))
    effects += bench.wait(60_000)
    assert not only(effects, Broadcast)
    assert not only(effects, Persist)
    assert only(bench.hear(four.certificate(Phase.COMMIT)), Decide)


def test_observing_ends_above_the_height_and_can_be_replaced(four: Committee) -> None:
    bench = Bench(four, observe_until_height=2**60)
    bench.feed(Observe(1))
    assert not messages(bench.time_out(), Timeout)
    bench.start_height(2)
    assert messages(bench.time_out(), Timeout)


def test_observing_goes_on_until_a_quorum_of_others_was_heard(four: Committee) -> None:
    """Who hears too few cannot know at which height its key has signed before."""
    bench = Bench(four, observe_until_height=2**60)
    bench.feed(Observe(2**60, hear_quorum=True))
    bench.feed(Observe(1))
    bench.start_height(2)
    later = Committee(1, 1, 1, 1, height=2)
    bench.hear(later.prepare(1), later.prepare(2), later.prepare(2, view=1))
    assert not messages(bench.time_out(), Timeout)
    ahead = Committee(1, 1, 1, 1, height=5).prepare(3)
    bench.hear(ahead)
    for height in (3, 4, 5, 6):  # It may have signed at 5 and, having decided that, at 6.
        bench.start_height(height)
        assert not messages(bench.time_out(), Timeout)
    bench.start_height(7)
    assert messages(bench.time_out(), Timeout)


def test_a_quorum_can_be_asked_for_at_any_time_and_only_hearing_it_ends_that(
    four: Committee,
) -> None:
    """An old record is found while the key signs; what it heard until then does not count."""
    bench = Bench(four)
    bench.prepared()
    bench.hear(four.prepare(1), four.prepare(2), four.prepare(3))
    for event in (Observe(2**60, hear_quorum=True), Observe(1), Observe(-1)):
        bench.feed(event)
        assert not messages(bench.time_out() if event.hear_quorum else bench.wait(9), Timeout)
    later = Committee(1, 1, 1, 1, height=2)
    bench.start_height(2)
    bench.hear(later.prepare(1), later.prepare(2))
    bench.feed(Observe(1, hear_quorum=True))  # Asked again, it goes on with whom it has heard.
    assert not messages(bench.time_out(), Timeout)
    bench.hear(later.prepare(3))
    bench.start_height(4)
    assert messages(bench.time_out(), Timeout)


def test_own_old_messages_are_nobody_heard(four: Committee) -> None:
    """Anybody may send a key its own past: its weight is none of the quorum's."""
    later = Committee(1, 1, 1, 1, height=2)
    bench = Bench(four, start=False)
    bench.feed(Observe(0, hear_quorum=True))
    bench.start_height(2)
    bench.hear(later.prepare(0), later.prepare(1), later.commit(0), later.prepare(2))
    bench.start_height(9)
    assert not messages(bench.time_out(), Timeout)
    bench.hear(Committee(1, 1, 1, 1, height=9).prepare(3))
    bench.start_height(11)
    assert messages(bench.time_out(), Timeout)


def test_a_clock_that_goes_back_holds_no_timer_up(four: Committee) -> None:
    bench = Bench(four)
    bench.time_out()
    deadline_ms = bench.state.deadline_ms
    bench.now_ms -= 10_000
    bench.hear(four.timeouts(0))
    assert bench.state.view == 1
    assert bench.state.deadline_ms >= deadline_ms


def test_an_observing_key_tolerates_its_own_past(four: Committee) -> None:
    bench = Bench(four, observe_until_height=5)
    assert not only(bench.hear(four.prepare(0)), StopSigning)
    assert not bench.engine.stopped


def test_the_highest_signed_height_is_known(four: Committee) -> None:
    bench = Bench(four)
    ahead = Committee(1, 1, 1, 1, height=40)
    bench.hear(replace(ahead.prepare(1), height=90), four.prepare(1))
    assert bench.engine.highest_height == 1
    bench.hear(ahead.prepare(1))
    assert bench.engine.highest_height == 40


def test_a_keyless_node_follows_silently(four: Committee) -> None:
    bench = Bench(four, me=None)
    effects = bench.answer(bench.hear(four.proposal()))
    effects += bench.hear(four.timeout(2), four.timeout(3), four.timeout(1))
    assert bench.state.view == 1
    effects += bench.hear(four.certificate(Phase.COMMIT))
    assert len(only(effects, Decide)) == 1
    assert bench.sent == []


def test_a_key_outside_the_set_is_silent(four: Committee) -> None:
    larger = Committee(1, 1, 1, 1, 1)
    outsider = next(i for i, key in enumerate(larger.keys) if key not in four.keys)
    bench = Bench(larger, me=outsider, start=False)
    bench.feed(HeightStarted(1, four.validators, 0))
    assert bench.state.me is None
    bench.hear(four.proposal())
    bench.wait(30_000)
    assert bench.sent == []


# -- One key in two places -------------------------------------------------------------------------


def test_a_foreign_message_under_our_key_stops_signing(four: Committee) -> None:
    bench = Bench(four)
    assert len(only(bench.hear(four.prepare(0, block=OTHER)), StopSigning)) == 1
    assert not messages(bench.time_out(), Timeout)
    assert not only(bench.hear(four.commit(0)), StopSigning)  # Said once.


def test_our_own_echo_does_not_stop_us(four: Committee) -> None:
    bench = Bench(four)
    bench.prepared()
    bench.hear(four.prepare(1), four.prepare(2))
    own = list(bench.sent)
    bench.hear(four.timeouts(0))
    bench.hear(*own)
    bench.time_out()
    bench.boot()
    bench.start_height()
    bench.hear(*own)  # Of a view before the record: we cannot know, so we do not judge.
    assert not bench.engine.stopped
    bench.hear(four.prepare(0, 1, OTHER))
    assert bench.engine.stopped


def test_a_forged_message_under_our_key_does_nothing(four: Committee) -> None:
    bench = Bench(four)
    forged = replace(four.prepare(1), index=0)
    bench.hear(forged)
    assert not bench.engine.stopped
