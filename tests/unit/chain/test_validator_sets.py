"""Which set signs which height: orders, refusals, forgetting, and a chain that changes its set."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from gridtokenx.chain.transition import check_evidence, environment, execute_block
from gridtokenx.chain.validator_sets import (
    MAX_PRUNED_AT_ONCE,
    SCHEDULE,
    SETS_BEYOND_WINDOW,
    current_set,
    forget_sets,
    install_set,
    order_set,
    refuse_change,
    set_at,
    sets_from,
)
from gridtokenx.consensus.evidence import double_vote
from gridtokenx.consensus.messages import Phase, Vote, vote_bytes
from gridtokenx.primitives.crypto import SigningKey, sha256
from gridtokenx.primitives.errors import ErrorCode, Rejected
from gridtokenx.primitives.state import MemoryReader, Overlay
from gridtokenx.primitives.validators import Validator, ValidatorSet
from tests.support.market_world import MarketWorld

EPOCH = 10
KEYS = sorted(
    (SigningKey(sha256(b"set %d" % number)) for number in range(8)), key=lambda key: key.public_key
)


def members(*weights: int) -> ValidatorSet:
    return ValidatorSet.of(
        Validator(key.public_key, weight)
        for key, weight in zip(KEYS, weights, strict=False)
        if weight
    )


def accounts(validators: ValidatorSet) -> list[bytes]:
    return [sha256(one.public_key) for one in validators.members]


@pytest.fixture
def state() -> Overlay:
    overlay = Overlay(MemoryReader())
    install_set(overlay, members(1, 1, 1, 1), accounts(members(1, 1, 1, 1)))
    return overlay


def order(state: Overlay, height: int, validators: ValidatorSet) -> int | None:
    ordered = order_set(state, validators, accounts(validators), height=height, epoch_blocks=EPOCH)
    return None if ordered is None else ordered.first_height


def test_a_change_begins_with_the_epoch_after_the_next(state: Overlay) -> None:
    five = members(1, 1, 1, 1, 1)
    assert order(state, 13, five) == 30
    assert current_set(state, 29).validators == members(1, 1, 1, 1)
    assert current_set(state, 30).validators == five
    assert current_set(state, 30).accounts == tuple(accounts(five))


def test_the_last_order_of_an_epoch_counts(state: Overlay) -> None:
    order(state, 13, members(1, 1, 1, 1, 1))
    assert order(state, 19, members(1, 1, 1, 1, 2)) == 30
    assert current_set(state, 30).validators.total_weight == 6


def test_an_order_taken_back_leaves_no_trace(state: Overlay) -> None:
    before = dict(state.changes())
    order(state, 13, members(1, 1, 1, 1, 1))
    assert order(state, 14, members(1, 1, 1, 1)) is None
    left = {key: raw for key, raw in state.changes() if raw is not None}
    assert left == before


def test_orders_of_two_epochs_stand_beside_each_other(state: Overlay) -> None:
    assert [order(state, 9, members(1, 1, 1, 1, 1)), order(state, 10, members(1, 1, 1, 1, 2))] == [
        20,
        30,
    ]
    ahead = sets_from(state, 19, EPOCH)
    assert [ahead.at(height).validators.total_weight for height in (19, 20, 29, 30)] == [4, 5, 5, 6]


def test_leaders_are_counted_from_the_epoch(state: Overlay) -> None:
    order(state, 0, members(1, 1, 1, 1, 3))
    ahead = sets_from(state, 18, EPOCH)
    assert [ahead.leader(height, 0) for height in (18, 19)] == [0, 1]  # Positions 8 and 9 of 4.
    assert ahead.leader(20, 0) == 4  # Position 0 of the new set: its heaviest.
    assert [ahead.epoch_start(height) for height in (19, 20, 25)] == [10, 20, 20]


def test_sets_leave_with_the_evidence_window(state: Overlay) -> None:
    order(state, 0, members(1, 1, 1, 1, 1))
    forget_sets(state, 69, 50)
    assert set_at(state, 19) is not None  # Height 19, the last it signed, is in the window.
    forget_sets(state, 70, 50)
    assert set_at(state, 19) is None
    assert current_set(state, 20).validators.total_weight == 5


def test_forgetting_is_a_few_a_block_and_never_the_present(state: Overlay) -> None:
    for epoch in range(8):
        order(state, epoch * EPOCH, members(1, 1, 1, 1, epoch + 1))
    forget_sets(state, 10_000, 50)
    kept = [height for height in range(100) if set_at(state, height) is not None]
    assert kept[0] == 20 + (MAX_PRUNED_AT_ONCE - 1) * EPOCH
    for _ in range(9):
        forget_sets(state, 10_000, 50)
    assert set_at(state, 89) is None
    assert current_set(state, 90).validators.total_weight == 12


@pytest.mark.parametrize("window", [4, 10, 19, 57])
def test_no_more_sets_are_kept_than_a_genesis_allows(state: Overlay, window: int) -> None:
    most = 0
    for height in range(1, 200):
        forget_sets(state, height, window)
        order(state, height, members(1, 1, 1, 1, height))
        schedule = SCHEDULE.get(state, b"")
        assert schedule is not None
        most = max(most, len(schedule.first_heights))
    assert window // EPOCH + 3 <= most <= window // EPOCH + SETS_BEYOND_WINDOW


@pytest.mark.parametrize(
    ("weights", "because"),
    [
        ((1, 1, 1), "3 members are fewer than 4"),
        ((1, 1, 1, 1, 2), "alpha would have a third"),
        ((0, 0, 1, 1, 1, 1, 1), "more than a third of the weight would move"),
        ((1, 1, 1, 1, 1), None),
        ((0, 1, 1, 1, 1), None),
    ],
)
def test_what_may_be_ordered(weights: Sequence[int], because: str | None) -> None:
    organisation_of = {KEYS[0].public_key: "beta", KEYS[4].public_key: "alpha"}
    told = refuse_change(
        members(1, 1, 1, 1),
        members(*weights),
        organisation_of=organisation_of,
        minimum_members=4,
    )
    assert told == because or (because is not None and told is not None and because in told)


def test_who_has_a_third_already_may_keep_it() -> None:
    same = dict.fromkeys((key.public_key for key in KEYS), "egat")
    old, new = members(1, 1, 1, 1), members(1, 1, 1, 1, 1)
    assert refuse_change(old, new, organisation_of=same, minimum_members=4) is None


@pytest.mark.parametrize("nodes", [1, 2])
def test_three_equal_organisations_rotate_their_keys(nodes: int) -> None:
    """A key that leaves counts for its organisation, too: it gains nothing by the new one."""
    weights = (1,) * (3 * nodes)
    organisation_of = {
        key.public_key: ("egat", "mea", "pea")[at % 3] for at, key in enumerate(KEYS[:-1])
    }
    organisation_of[KEYS[-1].public_key] = "egat"
    old = members(*weights)
    after = [one for one in old.members if one.public_key != KEYS[0].public_key]
    new = ValidatorSet.of([*after, Validator(KEYS[-1].public_key, 1)])
    named = {"organisation_of": organisation_of, "minimum_members": 1}
    assert refuse_change(old, new, **named) is None
    del organisation_of[KEYS[0].public_key]
    told = refuse_change(old, new, **named)
    assert told is not None
    assert "egat would have a third" in told


# -- A chain whose set changes ---------------------------------------------------------------------


@pytest.fixture
def world() -> MarketWorld:
    """Its authorities are replaced one by one: the fifth key joins with the third epoch."""
    world = MarketWorld()
    overlay = Overlay(world.values)
    old = current_set(overlay, 0).validators
    wider = ValidatorSet.of((*old.members, Validator(KEYS[0].public_key, 1)))
    order_set(
        overlay,
        wider,
        accounts(wider),
        height=1,
        epoch_blocks=world.spec.genesis.epoch_blocks,
    )
    world._store(overlay.changes())
    return world


def test_headers_commit_to_the_set_that_signs_next(world: MarketWorld) -> None:
    old, new = (current_set(world.values, height).validators for height in (1, 120))
    while world.parent.height < 121:
        world.block()
    sets = {one.block.header.height: one.block.header for one in world.executions}
    assert (sets[118].set_hash, sets[118].next_set_hash) == (old.hash, old.hash)
    assert (sets[119].set_hash, sets[119].next_set_hash) == (old.hash, new.hash)
    assert (sets[120].set_hash, sets[120].next_set_hash) == (new.hash, new.hash)


def test_a_stranger_to_the_heights_set_cannot_propose(world: MarketWorld) -> None:
    world.block()
    block = world.executions[-1].block
    forged = MarketWorld()
    with pytest.raises(Rejected, match="there is no validator 4"):
        execute_block(
            forged.spec, forged.values, forged.tree, forged.parent,
            _with_proposer(block, 4), [],
        )  # fmt: skip


def _with_proposer(block, index):  # type: ignore[no-untyped-def]
    from dataclasses import replace

    return replace(block, header=replace(block.header, proposer_index=index))


def test_evidence_is_judged_by_the_set_of_its_height(world: MarketWorld) -> None:
    joined = KEYS[0]
    new = current_set(world.values, 120).validators
    index = new.index_of(joined.public_key)
    assert index is not None

    def offence(height: int):  # type: ignore[no-untyped-def]
        votes = []
        for word in (b"one", b"two"):
            digest = sha256(word)
            signed = vote_bytes(Phase.PREPARE, world.spec.chain_id, height, 0, digest)
            votes.append(Vote(Phase.PREPARE, height, 0, digest, index, joined.sign(signed)))
        return double_vote(new, *votes)

    while world.parent.height < 121:
        world.block()
    env = environment(world.spec, current_set(world.values, 122), world.parent, 0, 0)
    check_evidence(world.values, offence(120), env)
    with pytest.raises(Rejected) as refusal:
        check_evidence(world.values, offence(119), env)
    assert refusal.value.code is ErrorCode.NOT_PERMITTED
