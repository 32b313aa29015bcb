"""What of consensus' talk is let through, with real signatures and the time in the test's hand."""

import pytest

from gridtokenx.chain.validator_sets import ScheduledSet, SetsAhead
from gridtokenx.consensus.ballots import VIEW_WINDOW
from gridtokenx.consensus.messages import MAX_VIEW, Message, Phase, Proposal, message_bytes
from gridtokenx.node import vote_gate
from gridtokenx.node.vote_gate import Judgement, VoteGate
from gridtokenx.primitives.codec import encode
from gridtokenx.primitives.crypto import sha256, verify
from tests.support.committee import CHAIN_ID, Committee

HEIGHT, VIEW = 5, 0


MEMBERS = Committee(1, 1, 1, 1).validators
ACCOUNTS = tuple(member.public_key for member in MEMBERS.members)
SETS = SetsAhead((ScheduledSet(0, MEMBERS, ACCOUNTS),), epoch_blocks=1_000)


def at(height: int) -> Committee:
    return Committee(1, 1, 1, 1, height=height)


def judge(gate: VoteGate, message: Message, now_ms: int = 0) -> Judgement:
    return gate.judge(HEIGHT, VIEW, SETS, message, encode(message), now_ms)


def gate() -> VoteGate:
    return VoteGate(CHAIN_ID, 1_000, verify)


@pytest.mark.parametrize("height", [HEIGHT - 1, HEIGHT, HEIGHT + 1])
def test_signed_messages_of_the_height_and_its_neighbours_are_genuine(height: int) -> None:
    committee = at(height)
    for message in (
        committee.prepare(2),
        committee.timeout(1),
        committee.certificate(Phase.COMMIT),
        committee.timeouts(3),
        committee.proposal(signer=SETS.leader(height, 0)),
    ):
        assert judge(gate(), message) is Judgement.GENUINE


def test_forged_messages_are_blamed_only_where_the_members_are_known() -> None:
    strangers = [Committee(*[1] * 12, height=h) for h in (HEIGHT - 1, HEIGHT, HEIGHT + 1)]
    votes = [judge(gate(), one.prepare(3)) for one in strangers]
    assert votes == [Judgement.UNKNOWN, Judgement.FORGED, Judgement.FORGED]
    certificates = [judge(gate(), one.certificate(signers=range(9))) for one in strangers]
    assert certificates == [Judgement.UNKNOWN, Judgement.FORGED, Judgement.FORGED]
    assert judge(gate(), strangers[1].prepare(11)) is Judgement.FORGED  # No such member.


def test_messages_of_far_heights_are_not_even_verified() -> None:
    def never(*_: bytes) -> bool:
        raise AssertionError("a signature was verified")

    for height in (HEIGHT - 2, HEIGHT + 2):
        far = VoteGate(CHAIN_ID, 1_000, never)
        assert judge(far, at(height).prepare(0)) is Judgement.UNKNOWN


def test_equal_data_is_a_repeat_for_half_a_resend_interval_after_it_was_accepted() -> None:
    one, vote = gate(), at(HEIGHT).prepare(0)
    assert judge(one, vote, 0) is Judgement.GENUINE
    assert judge(one, vote, 0) is Judgement.GENUINE  # Judged is not accepted.
    one.note(encode(vote), 100)
    assert judge(one, vote, 599) is Judgement.REPEATED
    assert judge(one, vote, 600) is Judgement.GENUINE
    assert judge(one, at(HEIGHT).prepare(1), 100) is Judgement.GENUINE


def test_each_member_has_its_own_rate_which_forgers_cannot_use_up() -> None:
    one, committee = gate(), at(HEIGHT)
    forged = Committee(*[1] * 12, height=HEIGHT).prepare(0)
    assert forged.signature != committee.prepare(0).signature
    assert message_bytes(CHAIN_ID, forged) == message_bytes(CHAIN_ID, committee.prepare(0))
    for _ in range(600):
        assert judge(one, forged) is Judgement.FORGED
    flood = [judge(one, committee.prepare(0)) for _ in range(600)]
    assert flood.count(Judgement.GENUINE) == vote_gate.MEMBER_BURST
    assert flood.count(Judgement.TOO_MANY) == 600 - vote_gate.MEMBER_BURST
    assert judge(one, committee.prepare(1)) is Judgement.GENUINE
    later = [judge(one, committee.prepare(0), 1_000) for _ in range(60)]
    assert later.count(Judgement.GENUINE) == vote_gate.MEMBER_MESSAGES_PER_S


def test_what_is_remembered_is_bounded() -> None:
    one = gate()
    for number in range(10_000):
        one.note(sha256(b"%d" % number), 0)
    assert len(one) == vote_gate.MAX_REMEMBERED


def test_a_far_view_does_not_make_us_look_for_its_leader() -> None:
    """Weights of stake take long to repeat: each view up to it would have to be gone through."""
    members = Committee(10**9 + 7, 10**9 + 9, 10**9 + 21).validators
    accounts = tuple(member.public_key for member in members.members)
    sets = SetsAhead((ScheduledSet(0, members, accounts),), epoch_blocks=1_000)
    for height in (HEIGHT - 1, HEIGHT, HEIGHT + 1):
        proposal = Proposal(height, MAX_VIEW, bytes(32), None, None, bytes(64))
        found = gate().judge(HEIGHT, VIEW, sets, proposal, encode(proposal), 0)
        assert found is Judgement.UNKNOWN
    schedule = sets._schedules.get(0)
    assert schedule is None or len(schedule._sequence) < 10_000
    near = Proposal(HEIGHT, 40 + VIEW_WINDOW, bytes(32), None, None, bytes(64))
    assert gate().judge(HEIGHT, 40, sets, near, encode(near), 0) is Judgement.FORGED


def test_what_nobody_can_judge_is_heard_at_a_rate() -> None:
    one = gate()
    strangers = [
        one.admits_unknown(b"%d" % number, is_stranger=True, now_ms=0) for number in range(100)
    ]
    assert strangers.count(True) == vote_gate.STRANGERS_PER_S  # Of all of them together.
    for peer in (b"a", b"b"):
        heard = [one.admits_unknown(peer, is_stranger=False, now_ms=0) for _ in range(100)]
        assert heard.count(True) == vote_gate.UNKNOWN_BURST


def test_an_old_height_is_answered_once_a_second_and_strangers_after_the_others() -> None:
    one = gate()

    def answers(heights: range, now_ms: int, *, is_stranger: bool) -> list[int]:
        return [
            height
            for height in heights
            if one.may_answer(height, is_stranger=is_stranger, now_ms=now_ms)
        ]

    assert answers(range(1, 9), 0, is_stranger=True) == [1]  # All hear the answer.
    assert answers(range(1, 9), 0, is_stranger=False) == [2, 3, 4, 5, 6, 7, 8]
    assert answers(range(1, 9), 500, is_stranger=False) == []
    assert answers(range(1, 9), 1_000, is_stranger=False) == [1, 2, 3, 4, 5, 6, 7, 8]
    assert answers(range(1, 100), 1_000, is_stranger=True) == [9]
    assert len(answers(range(1, 100), 2_000, is_stranger=False)) == vote_gate.ANSWERS_PER_S


def test_what_others_say_again_of_a_member_takes_nothing_from_its_next_vote() -> None:
    one, committee = gate(), at(HEIGHT)
    old = [at(height).prepare(0) for height in (HEIGHT - 1, HEIGHT, HEIGHT + 1)]
    for message in old:
        assert judge(one, message, 0) is Judgement.GENUINE
        one.note(encode(message), 0)
    replays = [judge(one, old[number % 3], 10_000) for number in range(1_000)]
    assert replays.count(Judgement.GENUINE) == vote_gate.MEMBER_BURST
    assert judge(one, committee.timeout(0), 10_000) is Judgement.GENUINE
