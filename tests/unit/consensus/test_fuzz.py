"""Whatever arrives, in whatever order: no crash, no contradiction, nothing sent undurable."""

from __future__ import annotations

import random
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from gridtokenx.consensus.events import (
    BlockBuilt,
    BlockChecked,
    Event,
    HeightStarted,
    Observe,
    Received,
    Tick,
    Verdict,
)
from gridtokenx.consensus.events import CheckBlock as Check
from gridtokenx.consensus.evidence import is_amnesia
from gridtokenx.consensus.messages import Message, Phase, Proposal, Timeout, Vote
from tests.support.committee import BLOCK, OTHER, Bench, Committee

FOUR, NEXT = Committee(1, 1, 1, 1), Committee(1, 1, 1, 1, height=2)


def heard(four: Committee) -> list[Message]:
    """Genuine and forged messages of one height; member 0 listens and is never quoted."""
    others = (1, 2, 3)
    pool: list[Message] = []
    for view in (0, 1, 2):
        for block in (BLOCK, OTHER):
            high = four.certificate(view=view, block=block, signers=others)
            pool += [four.vote(index, phase, view, block) for index in others for phase in VOTES]
            pool += [high, four.certificate(Phase.COMMIT, view, block, others)]
            pool += [four.timeout(index, view, high) for index in others]
            locked = four.timeouts(view, {1: high, 2: None, 3: None})
            pool += [locked, four.proposal(view + 1, block, locked, high, signer=1)]
            if four.leader(view + 1) in others:
                pool += [four.proposal(view + 1, block, locked, high)]
                pool += [four.proposal(view + 1, block, four.timeouts(view))]
            if four.leader(view) in others and view == 0:
                pool += [four.proposal(0, block)]
        pool += [four.timeout(index, view) for index in others]
        pool += [four.timeouts(view), replace(four.timeouts(view), height=9)]
    return pool


VOTES = (Phase.PREPARE, Phase.COMMIT)
MESSAGES = heard(FOUR) + heard(NEXT)
CHECKS = [
    Check(height, view, block, leader, fresh)
    for height in (1, 2)
    for view in (0, 1, 2)
    for block in (BLOCK, OTHER)
    for leader in (1,)
    for fresh in (True, False)
]
EVENTS: list[Event] = [
    *(Received(message, b"peer") for message in MESSAGES),
    *(BlockChecked(check, verdict, 12_000) for check in CHECKS for verdict in Verdict),
    *(BlockBuilt(height, view, BLOCK) for height in (1, 2) for view in (0, 1, 2, 3)),
    *[Tick()] * 40,
    *[HeightStarted(2, FOUR.validators, 15_000)] * 3,
    *[Observe(1), Observe(-1)] * 2,
    Observe(1, hear_quorum=True),
]


@settings(max_examples=150)
@given(seed=st.integers(0, 2**32))
def test_no_schedule_makes_it_contradict_itself(seed: int) -> None:
    draw = random.Random(seed)
    bench = Bench(FOUR)  # Checks that what leaves is in the record.
    height = 1
    for _ in range(60):
        bench.now_ms += draw.choice((0, 5, 900))
        if draw.random() < 0.03:
            bench.boot()
            bench.start_height(height)
        event = draw.choice(EVENTS)
        if isinstance(event, HeightStarted):
            height = event.height
        bench.feed(event)
    signed: dict[object, bytes] = {}
    for message in bench.sent:
        if isinstance(message, Proposal | Vote | Timeout):
            kind = message.phase if isinstance(message, Vote) else type(message)
            place = (message.height, message.view, kind)
            assert signed.setdefault(place, message.signature) == message.signature
    commits = [one for one in bench.sent if isinstance(one, Vote) and one.phase is Phase.COMMIT]
    timeouts = [one for one in bench.sent if isinstance(one, Timeout)]
    for commit in commits:
        for timeout in timeouts:
            assert commit.height != timeout.height or not is_amnesia(commit, timeout)
