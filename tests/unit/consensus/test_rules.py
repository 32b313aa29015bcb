"""Each rule of protocols/consensus.md 2.6, by name."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gridtokenx.consensus.events import (
    BlockBuilt,
    BlockChecked,
    Broadcast,
    BuildBlock,
    CheckBlock,
    Decide,
    HeightStarted,
    Observe,
    OpeningMoved,
    Penalise,
    Persist,
    Received,
    RequestSync,
    SendDecided,
    SetTimer,
    StopSigning,
    Tick,
    Verdict,
)
from gridtokenx.consensus.messages import (
    Phase,
    Proposal,
    QuorumCertificate,
    Timeout,
    TimeoutCertificate,
    Vote,
)
from gridtokenx.consensus.state import Timing
from gridtokenx.primitives.codec import encode
from tests.support.committee import BASE_MS, BLOCK, OTHER, Bench, Committee, messages, only


@pytest.fixture
def four() -> Committee:
    return Committee(1, 1, 1, 1)


# -- ENTER_HEIGHT ----------------------------------------------------------------------------------


def test_enter_height_waits_for_the_opening_before_its_first_deadline(four: Committee) -> None:
    bench = Bench(four, open_ms=14_000)
    assert bench.state.deadline_ms == 14_000 + BASE_MS
    assert only(bench.started, SetTimer) == [SetTimer(15_000)]
    assert Bench(four, open_ms=3).state.deadline_ms == 10_000 + BASE_MS


def test_enter_height_moves_its_opening_when_the_clock_was_set(four: Committee) -> None:
    """The wall clock went back and forth by hours while timers ran on."""
    leader = Bench(four, me=1, open_ms=50_000)
    leader.feed(OpeningMoved(1, 3_600_000))
    assert (leader.state.open_ms, leader.state.deadline_ms) == (3_600_000, 3_600_000 + BASE_MS)
    leader.feed(OpeningMoved(2, 60_000))  # Of another height than this one.
    assert leader.state.open_ms == 3_600_000
    effects = leader.feed(OpeningMoved(1, 9_000))  # Long open, by the right clock.
    assert (leader.state.open_ms, leader.state.deadline_ms) == (10_000, 10_000 + BASE_MS)
    assert only(effects, BuildBlock) == [BuildBlock(1, 0)]
    leader.now_ms += 1_000
    leader.feed(OpeningMoved(1, 5_000))  # Open by either clock: the view does not begin again.
    assert leader.state.deadline_ms == 10_000 + BASE_MS
    leader.time_out()
    leader.hear(four.timeouts(0))
    deadline_ms = leader.state.deadline_ms
    leader.feed(OpeningMoved(1, 3_600_000))
    assert (leader.state.view, leader.state.deadline_ms) == (1, deadline_ms)


def test_enter_height_ignores_heights_that_are_not_ahead(four: Committee) -> None:
    bench = Bench(four)
    before = bench.state
    bench.start_height(1)
    bench.start_height(0)
    assert bench.state is before
    bench.start_height(2)
    assert bench.state.height == 2


def test_nothing_happens_before_the_first_height(four: Committee) -> None:
    bench = Bench(four, start=False)
    check = CheckBlock(1, 0, BLOCK, 1, fresh=True)
    events = (Tick(), BlockBuilt(1, 0, BLOCK), BlockChecked(check, Verdict.VALID), Observe(3))
    for event in (*events, Received(four.prepare(1), b"peer")):
        assert bench.feed(event) == []


# -- PROPOSE ---------------------------------------------------------------------------------------


def test_propose_builds_ahead_but_sends_at_the_opening(four: Committee) -> None:
    timing = Timing(base_ms=BASE_MS, build_ahead_ms=1500)
    bench = Bench(four, me=1, open_ms=14_000, timing=timing)
    assert not only(bench.started, BuildBlock)
    assert only(bench.started, SetTimer) == [SetTimer(12_500)]
    ahead = bench.wait(2500)
    assert only(ahead, SetTimer) == [SetTimer(14_000)]
    assert not only(bench.build(ahead), Broadcast)
    opened = bench.wait(1500)
    (proposal,) = messages(opened, Proposal)
    assert proposal == four.proposal()
    assert messages(opened, Vote) == [four.prepare(1)]  # Its own block needs no second check.


def test_propose_only_asks_once_and_only_the_leader(four: Committee) -> None:
    leader = Bench(four, me=1)
    assert only(leader.started, BuildBlock) == [BuildBlock(1, 0)]
    assert not only(leader.wait(1), BuildBlock)
    assert not only(Bench(four, me=0).started, BuildBlock)


def test_propose_ignores_a_block_built_too_late(four: Committee) -> None:
    bench = Bench(four, me=1)
    bench.time_out()
    assert not messages(bench.feed(BlockBuilt(1, 0, BLOCK)), Proposal)
    bench.hear(four.timeouts(0))
    assert not messages(bench.feed(BlockBuilt(1, 0, BLOCK)), Proposal)


def test_propose_in_a_later_view_carries_the_entry_certificate(four: Committee) -> None:
    bench = Bench(four, me=2)
    entry = four.timeouts(0)
    (proposal,) = messages(bench.build(bench.hear(entry)), Proposal)
    assert proposal == four.proposal(1, BLOCK, entry)


def test_propose_repeats_the_prepared_block_by_hash(four: Committee) -> None:
    bench = Bench(four, me=2)
    high = four.certificate()
    entry = four.timeouts(0, {0: None, 1: high, 3: None})
    effects = bench.hear(entry)
    assert not only(effects, BuildBlock)
    assert messages(effects, Proposal) == [four.proposal(1, BLOCK, entry, high)]


def test_propose_prefers_a_certificate_that_arrives_while_building(four: Committee) -> None:
    bench = Bench(four, me=2)
    entry = four.timeouts(0)
    bench.hear(entry)
    high = four.certificate()
    assert messages(bench.hear(high), Proposal) == [four.proposal(1, BLOCK, entry, high)]
    assert not messages(bench.feed(BlockBuilt(1, 1, OTHER)), Proposal)


# -- ACCEPT ----------------------------------------------------------------------------------------


def test_accept_asks_for_the_fresh_block_of_the_leader(four: Committee) -> None:
    bench = Bench(four)
    effects = bench.hear(four.proposal())
    assert only(effects, CheckBlock) == [CheckBlock(1, 0, BLOCK, 1, fresh=True)]
    assert bench.hear(four.proposal()) == []  # Once.


def test_accept_refuses_another_author(four: Committee) -> None:
    bench = Bench(four)
    assert only(bench.hear(four.proposal(signer=3)), Penalise)
    assert bench.state.proposal is None


def test_accept_refuses_a_justification_in_view_zero(four: Committee) -> None:
    bench = Bench(four)
    high = four.certificate()
    assert only(bench.hear(four.proposal(0, BLOCK, None, high)), Penalise)


def test_accept_needs_the_timeouts_of_the_view_before(four: Committee) -> None:
    for timeouts in (None, four.timeouts(1)):
        bench = Bench(four)
        assert only(bench.hear(four.proposal(1, BLOCK, timeouts)), Penalise)
        assert bench.state.view == 0


def test_accept_refuses_timeouts_of_any_earlier_view(four: Committee) -> None:
    """An old certificate forgets the lock that the view between has proved."""
    bench = Bench(four)
    bench.hear(four.timeouts(0), four.timeouts(1))
    assert bench.state.view == 2
    assert only(bench.hear(four.proposal(2, BLOCK, four.timeouts(0))), Penalise)
    assert bench.state.proposal is None
    assert not only(bench.hear(four.proposal(2, BLOCK, four.timeouts(1))), Penalise)
    assert bench.state.proposal is not None


def test_accept_refuses_timeouts_of_another_height(four: Committee) -> None:
    elsewhere = Committee(1, 1, 1, 1, height=2).timeouts(0)
    bench = Bench(four)
    assert only(bench.hear(four.proposal(1, BLOCK, elsewhere)), Penalise)


def test_accept_is_the_safety_check(four: Committee) -> None:
    """A leader that ignores the lock the timeouts prove is refused by everybody."""
    high = four.certificate(view=1)
    low = four.certificate(view=0)
    locked = four.timeouts(2, {0: None, 1: high, 2: None})
    for block, certificate in ((OTHER, None), (BLOCK, low)):
        bench = Bench(four, me=1)
        assert only(bench.hear(four.proposal(3, block, locked, certificate)), Penalise)
        assert bench.state.view == 0
    bench = Bench(four, me=1)
    effects = bench.hear(four.proposal(3, BLOCK, locked, high))
    assert bench.state.view == 3
    assert bench.state.high_certificate == high
    assert only(effects, CheckBlock) == [CheckBlock(1, 3, BLOCK, 0, fresh=False)]


def test_accept_refuses_a_certificate_of_another_block_or_a_later_view(four: Committee) -> None:
    entry = four.timeouts(0)
    for certificate in (
        four.certificate(block=OTHER),
        four.certificate(view=1),
        four.certificate(Phase.COMMIT),
    ):
        bench = Bench(four)
        assert only(bench.hear(four.proposal(1, BLOCK, entry, certificate)), Penalise)


def test_accept_keeps_the_first_proposal_of_a_view(four: Committee) -> None:
    bench = Bench(four)
    bench.hear(four.proposal(), four.proposal(block=OTHER))
    assert bench.state.proposal.block_hash == BLOCK


def test_accept_ignores_past_views_and_far_views(four: Committee) -> None:
    bench = Bench(four)
    bench.hear(four.timeouts(0))
    assert bench.hear(four.proposal()) == []
    far = four.proposal(90, BLOCK, four.timeouts(89))
    assert bench.hear(far) == []


# -- PREPARE ---------------------------------------------------------------------------------------


def test_prepare_persists_before_it_sends(four: Committee) -> None:
    bench = Bench(four)
    effects = bench.prepared()
    persist, broadcast = effects[0], effects[1]
    assert isinstance(persist, Persist)
    assert persist.record.prepared == BLOCK
    assert persist.record.candidates == (BLOCK,)
    assert broadcast == Broadcast(four.prepare(0))


def test_prepare_leaves_the_view_at_once_when_the_block_is_invalid(four: Committee) -> None:
    bench = Bench(four)
    effects = bench.answer(bench.hear(four.proposal()), Verdict.INVALID)
    assert messages(effects, Timeout) == [four.timeout(0)]
    assert bench.state.prepared is None


def test_prepare_waits_for_the_clock_and_asks_again(four: Committee) -> None:
    bench = Bench(four)
    early = bench.answer(bench.hear(four.proposal()), Verdict.NOT_YET, until_ms=10_300)
    assert only(early, SetTimer) == [SetTimer(10_300)]
    assert not only(bench.wait(299), CheckBlock)
    again = bench.wait(1)
    assert only(again, CheckBlock) == [CheckBlock(1, 0, BLOCK, 1, fresh=True)]
    assert messages(bench.answer(again), Vote) == [four.prepare(0)]


def test_prepare_never_after_timeout(four: Committee) -> None:
    bench = Bench(four)
    bench.time_out()
    assert not messages(bench.answer(bench.hear(four.proposal())), Vote)


def test_prepare_of_a_repeated_block_does_not_ask_for_its_clock(four: Committee) -> None:
    bench = Bench(four)
    high = four.certificate()
    entry = four.timeouts(0, {1: high, 2: None, 3: None})
    effects = bench.hear(four.proposal(1, BLOCK, entry, high))
    assert [check.fresh for check in only(effects, CheckBlock)] == [False]
    assert messages(bench.answer(effects), Vote) == [four.prepare(0, 1)]


def test_invalid_as_fresh_is_not_invalid_for_ever(four: Committee) -> None:
    """A liar offers an old block as its own; later the block comes back with a certificate."""
    bench = Bench(four)
    entry = four.timeouts(0)
    bench.answer(bench.hear(four.proposal(1, BLOCK, entry)), Verdict.INVALID)
    assert bench.state.timed_out
    high = four.certificate()
    locked = four.timeouts(1, {1: high, 2: None, 3: None})
    effects = bench.answer(bench.hear(four.proposal(2, BLOCK, locked, high)))
    assert messages(effects, Vote) == [four.prepare(0, 2)]


# -- COMMIT ----------------------------------------------------------------------------------------


def test_commit_follows_a_quorum_of_prepares(four: Committee) -> None:
    bench = Bench(four)
    bench.prepared()
    assert not messages(bench.hear(four.prepare(1)), Vote)
    effects = bench.hear(four.prepare(2))
    persist, broadcast = effects[:2]
    assert isinstance(persist, Persist)
    assert persist.record.committed == BLOCK
    assert persist.record.high_certificate == four.certificate()
    assert broadcast == Broadcast(four.commit(0))


def test_commit_never_after_timeout_in_any_order(four: Committee) -> None:
    bench = Bench(four)
    bench.prepared()
    bench.time_out()
    assert not messages(bench.hear(four.certificate()), Vote)
    assert bench.state.high_certificate == four.certificate()
    assert messages(bench.wait(5000), QuorumCertificate) == [four.certificate()]
    assert bench.state.committed is None


def test_commit_never_after_timeout_in_a_restarted_node(four: Committee) -> None:
    bench = Bench(four)
    bench.prepared()
    bench.time_out()
    bench.boot()
    effects = bench.start_height() + bench.hear(four.certificate())
    effects += bench.answer(effects)
    assert four.commit(0) not in messages(effects, Vote)


def test_commit_waits_for_the_body(four: Committee) -> None:
    bench = Bench(four)
    effects = bench.hear(four.certificate(signers=(1, 2, 3)))
    assert only(effects, CheckBlock) == [CheckBlock(1, 0, BLOCK, 0, fresh=False)]
    assert not messages(effects, Vote)
    assert messages(bench.answer(effects), Vote) == [four.commit(0)]


def test_commit_only_in_the_view_of_the_certificate(four: Committee) -> None:
    bench = Bench(four)
    bench.prepared()
    bench.hear(four.timeouts(0))
    assert not messages(bench.hear(four.certificate()), Vote)


# -- DECIDE ----------------------------------------------------------------------------------------


def test_decide_on_a_quorum_of_commits_of_any_view(four: Committee) -> None:
    bench = Bench(four)
    bench.prepared()
    bench.hear(four.timeouts(0))
    effects = bench.hear(four.commit(1), four.commit(2), four.commit(3))
    certificate = four.certificate(Phase.COMMIT, signers=(1, 2, 3))
    assert only(effects, Decide) == [Decide(1, BLOCK, certificate)]
    assert bench.hear(four.commit(0)) == []  # Decided: the height is over.


def test_decide_waits_for_the_body(four: Committee) -> None:
    bench = Bench(four)
    certificate = four.certificate(Phase.COMMIT)
    effects = bench.hear(certificate)
    assert not only(effects, Decide)
    assert only(bench.answer(effects), Decide) == [Decide(1, BLOCK, certificate)]


def test_decide_stops_a_node_that_finds_the_decided_block_invalid(four: Committee) -> None:
    bench = Bench(four)
    effects = bench.answer(bench.hear(four.certificate(Phase.COMMIT)), Verdict.INVALID)
    assert len(only(effects, StopSigning)) == 1
    assert bench.engine.stopped
    assert bench.time_out() == [] or not bench.sent


def test_a_committee_of_one_decides_alone() -> None:
    alone = Committee(5)
    bench = Bench(alone)
    effects = bench.build(bench.started)
    assert only(effects, Decide)[0].block_hash == BLOCK
    assert len(only(effects, Persist)) == 3


# -- TIMEOUT ---------------------------------------------------------------------------------------


def test_timeout_at_the_deadline_names_the_highest_certificate(four: Committee) -> None:
    bench = Bench(four)
    bench.prepared()
    high = four.certificate()
    bench.hear(high)
    effects = bench.time_out()
    assert messages(effects, Timeout) == [four.timeout(0, 0, high)]
    assert bench.disk is not None
    assert bench.disk.timed_out
    assert not messages(bench.wait(10), Timeout)


def test_timeout_joins_a_blocking_third(four: Committee) -> None:
    bench = Bench(four)
    assert not messages(bench.hear(four.timeout(1)), Timeout)
    assert messages(bench.hear(four.timeout(2)), Timeout) == [four.timeout(0)]


def test_timeout_with_a_high_view_needs_its_certificate(four: Committee) -> None:
    high = four.certificate()
    bare = replace(four.timeout(1, 0, high), certificate=None)
    bench = Bench(four)
    bench.hear(bare)
    assert bench.state.ballots.timeout_weight(0) == 0
    bench.hear(high)  # Once known, it need not ride along.
    bench.hear(bare)
    assert bench.state.ballots.timeout_weight(0) == 1


def test_timeout_with_a_wrong_certificate_is_refused(four: Committee) -> None:
    high = four.certificate()
    honest = four.timeout(1, 0, high)
    forged = replace(high, signatures=four.certificate(block=OTHER).signatures)
    for wrong in (four.certificate(block=OTHER), forged, four.certificate(Phase.COMMIT)):
        bench = Bench(four)
        assert only(bench.hear(replace(honest, certificate=wrong)), Penalise)
        assert bench.state.ballots.timeout_weight(0) == 0


def test_timeout_does_not_stop_listening(four: Committee) -> None:
    bench = Bench(four)
    bench.prepared()
    bench.time_out()
    bench.hear(four.prepare(1), four.prepare(2))
    assert bench.state.high_certificate == four.certificate()


def test_timeouts_grow_by_half_after_view_two_up_to_eight_bases() -> None:
    timing = Timing(base_ms=5000)
    assert [timing.timeout_ms(view) for view in range(8)] == [
        *(5000, 5000, 5000, 7500, 11250, 16875, 25312, 37968)
    ]
    assert timing.timeout_ms(8) == timing.timeout_ms(2**31) == 40_000
    with pytest.raises(ValueError, match="positive"):
        Timing(base_ms=0)


# -- VIEW, JUMP ------------------------------------------------------------------------------------


def test_view_is_entered_on_assembled_timeouts_and_told_once(four: Committee) -> None:
    bench = Bench(four)
    effects = bench.hear(four.timeout(1), four.timeout(2))  # The second makes us join: quorum.
    assert bench.state.view == 1
    assert messages(effects, TimeoutCertificate) == [four.timeouts(0, dict.fromkeys((0, 1, 2)))]
    assert bench.state.deadline_ms == bench.now_ms + BASE_MS
    assert not messages(bench.hear(four.timeout(3)), TimeoutCertificate)


def test_view_is_entered_on_a_received_certificate_of_any_later_view(four: Committee) -> None:
    bench = Bench(four)
    bench.prepared()
    high = four.certificate(view=3, block=OTHER)
    bench.hear(four.timeouts(200, {1: high, 2: None, 3: None}))
    state = bench.state
    assert (state.view, state.prepared, state.timed_out) == (201, None, False)
    assert state.high_certificate == high
    assert bench.hear(four.timeouts(100)) == []


def test_view_keeps_the_timeouts_of_the_maximum(four: Committee) -> None:
    bench = Bench(four)
    low, high = four.certificate(view=0), four.certificate(view=2)
    for view in range(2):
        bench.hear(four.timeouts(view))
    bench.hear(four.timeouts(2))
    effects = bench.hear(four.timeout(1, 3, low), four.timeout(2, 3, high))
    (certificate,) = messages(effects, TimeoutCertificate)
    assert certificate.certificate is not None
    assert certificate.high_view == certificate.certificate.view == 2


def test_jump_on_a_prepare_certificate_of_a_later_view(four: Committee) -> None:
    bench = Bench(four)
    high = four.certificate(view=5)
    effects = bench.hear(high)
    assert bench.state.view == 5
    assert bench.state.entry is None
    assert messages(bench.answer(effects), Vote) == [four.commit(0, 5)]


def test_jump_comes_before_the_timeout_of_the_view_it_leaves(four: Committee) -> None:
    """At the very moment of the deadline, too: no TIMEOUT may name a later view."""
    bench = Bench(four)
    bench.now_ms = bench.state.deadline_ms
    assert not messages(bench.hear(four.certificate(view=2)), Timeout)
    assert bench.state.view == 2
    refused = Bench(four)
    check = only(refused.hear(four.proposal()), CheckBlock)[0]
    refused.hear(four.certificate(view=1))
    assert not messages(refused.feed(BlockChecked(check, Verdict.INVALID)), Timeout)


def test_a_lower_certificate_changes_nothing(four: Committee) -> None:
    bench = Bench(four)
    bench.hear(four.certificate(view=5))
    assert bench.hear(four.certificate(view=5, signers=(1, 2, 3)), four.certificate()) == []
    bench.hear(four.timeout(1, 5, four.certificate(view=2, block=OTHER)))
    assert bench.state.high_certificate == four.certificate(view=5)


def test_jump_does_not_let_the_leader_propose_without_an_entry(four: Committee) -> None:
    bench = Bench(four, me=0)  # Leader of view 3.
    effects = bench.hear(four.certificate(view=3, signers=(1, 2, 3)))
    assert bench.state.view == 3
    assert not messages(effects, Proposal)
    assert not only(effects, BuildBlock)


# -- RESEND, BEHIND --------------------------------------------------------------------------------


def test_resend_repeats_the_same_bytes_every_second(four: Committee) -> None:
    bench = Bench(four)
    bench.prepared()
    bench.hear(four.prepare(1), four.prepare(2))
    first = [encode(message) for message in bench.sent]
    bench.hear(four.timeouts(0))
    bench.sent.clear()
    bench.wait(1001)
    again = [encode(message) for message in bench.sent]
    assert encode(four.timeouts(0)) in again  # entry
    assert encode(four.certificate()) in again  # highest certificate
    assert encode(four.commit(0)) in again  # last COMMIT of an earlier view
    assert encode(four.commit(0)) in first
    bench.sent.clear()
    bench.wait(999)
    assert not any(isinstance(message, TimeoutCertificate) for message in bench.sent)


def test_resend_backs_off_within_a_view_until_something_new_is_said(four: Committee) -> None:
    """So that those who are slow need not read the more the slower they are."""
    bench = Bench(four, timing=Timing(base_ms=100_000))
    bench.prepared()

    def seconds_with_repetitions(count: int) -> list[int]:
        said = []
        for second in range(1, count + 1):
            bench.sent.clear()
            bench.wait(1_000)
            said += [second] if bench.sent else []
        return said

    assert seconds_with_repetitions(16) == [1, 3, 7, 11, 15]
    bench.hear(four.prepare(1), four.prepare(2))  # Its own COMMIT is new,
    assert seconds_with_repetitions(8) == [1, 3, 7]
    bench.hear(four.timeouts(0))  # and so is the next view.
    assert seconds_with_repetitions(4) == [1, 3]


def test_resend_asks_for_missing_bodies_each_second(four: Committee) -> None:
    bench = Bench(four, timing=Timing(base_ms=100_000))
    asked = only(bench.hear(four.proposal()), CheckBlock)
    for _ in range(9):
        assert only(bench.wait(1_000), CheckBlock) == asked


def test_resend_asks_again_for_missing_bodies(four: Committee) -> None:
    bench = Bench(four)
    asked = only(bench.hear(four.proposal()), CheckBlock)
    assert only(bench.wait(1000), CheckBlock) == asked


def test_resend_is_silent_before_the_opening_and_spread_by_index(four: Committee) -> None:
    assert Bench(four, open_ms=50_000).state.resend_at_ms == 51_000
    assert Bench(four, me=2, open_ms=50_000).state.resend_at_ms == 51_062


def test_behind_asks_for_blocks_once_a_second(four: Committee) -> None:
    ahead = Committee(1, 1, 1, 1, height=7)
    bench = Bench(four)
    assert only(bench.hear(ahead.prepare(1), ahead.prepare(2)), RequestSync) == [
        RequestSync(1, b"peer")
    ]
    bench.wait(1000)
    assert only(bench.hear(ahead.certificate()), RequestSync)
    assert not only(bench.hear(ahead.prepare(3), peer=None), RequestSync)


def test_behind_asks_nobody_for_what_is_not_signed(four: Committee) -> None:
    """Whoever makes up a message of a later height would else choose whom we ask."""
    ahead = Committee(1, 1, 1, 1, height=7)
    bench = Bench(four)
    forged = replace(ahead.prepare(1), signature=bytes(64))
    few = replace(ahead.certificate(), signatures=ahead.certificate().signatures[:2])
    stranger = replace(ahead.timeout(1), index=99)
    for message in (forged, few, stranger):
        bench.wait(1000)
        assert not only(bench.hear(message), RequestSync)
    bench.wait(1000)
    assert only(bench.hear(ahead.certificate()), RequestSync) == [
        RequestSync(1, b"peer", shown=6)  # A PREPARE certificate is of a height not yet decided.
    ]
    bench.wait(1000)
    commit = ahead.certificate(Phase.COMMIT)
    assert only(bench.hear(commit), RequestSync) == [RequestSync(1, b"peer", shown=7)]


def test_behind_answers_a_lagging_validator_once_a_second(four: Committee) -> None:
    bench = Bench(Committee(1, 1, 1, 1, height=2))
    assert bench.hear(four.timeout(1), four.timeout(1)) == [SendDecided(b"peer", 1)]
    bench.now_ms += 1000
    assert only(bench.hear(four.prepare(1)), SendDecided)


def test_behind_never_answers_certificates_or_nobody(four: Committee) -> None:
    bench = Bench(Committee(1, 1, 1, 1, height=2))
    assert bench.hear(four.certificate(Phase.COMMIT), four.timeouts(0)) == []
    assert bench.hear(four.timeout(1), peer=None) == []


def test_messages_of_the_next_height_wait_for_it(four: Committee) -> None:
    following = Committee(1, 1, 1, 1, height=2)
    bench = Bench(four)
    bench.hear(following.proposal(), following.prepare(1), following.prepare(3))
    effects = bench.feed(HeightStarted(2, four.validators, 0))
    assert only(effects, CheckBlock) == [CheckBlock(2, 0, BLOCK, 2, fresh=True)]
    assert Phase.COMMIT in [vote.phase for vote in messages(bench.answer(effects), Vote)]


def test_forged_messages_of_the_next_height_do_not_wait(four: Committee) -> None:
    following = Committee(1, 1, 1, 1, height=2)
    bench = Bench(four)
    bench.hear(replace(following.prepare(1), index=3), replace(following.prepare(1), index=9))
    bench.hear(following.proposal(signer=0))
    bench.hear(Committee(1, 1, 1, 1, height=3).proposal())
    assert bench.engine._early == {}
