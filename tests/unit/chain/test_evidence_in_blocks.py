"""Evidence in blocks: carried once an offence, checked by everybody, recorded in the state."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gridtokenx.chain.block import ValidatorConvicted
from gridtokenx.chain.transition import (
    CONVICTIONS,
    Execution,
    conviction_key,
    execute_block,
    propose_block,
)
from gridtokenx.chain.validator_sets import current_set
from gridtokenx.cluster.devnet import dev_key, validator_name
from gridtokenx.consensus.evidence import Evidence, double_vote
from gridtokenx.consensus.messages import Phase, Vote, vote_bytes
from gridtokenx.primitives.crypto import SigningKey, sha256
from gridtokenx.primitives.errors import ErrorCode, Rejected
from gridtokenx.primitives.state import Overlay
from tests.support.market_world import MarketWorld


@pytest.fixture
def world() -> MarketWorld:
    world = MarketWorld()
    world.block()
    return world


def offence(world: MarketWorld, height: int = 1, view: int = 0) -> Evidence:
    """One authority prepared two blocks in one view."""
    key = dev_key(validator_name(0)[1])
    index = world.spec.genesis_validators.index_of(key.public_key)
    assert index is not None
    votes = [vote(world, key, index, height, view, sha256(word)) for word in (b"one", b"two")]
    return double_vote(world.spec.genesis_validators, *votes)


def vote(
    world: MarketWorld, key: SigningKey, index: int, height: int, view: int, block_hash: bytes
) -> Vote:
    signed = vote_bytes(Phase.PREPARE, world.spec.chain_id, height, view, block_hash)
    return Vote(Phase.PREPARE, height, view, block_hash, index, key.sign(signed))


def propose(world: MarketWorld, *evidence: Evidence) -> Execution:
    execution, _ = propose_block(
        world.spec, world.values, world.tree, world.parent,
        view=0, proposer_index=0, time_ms=world.spec.opens_ms(world.parent.time_ms),
        candidates=(), last_commit=b"", evidence=evidence,
    )  # fmt: skip
    return execution


def execute(world: MarketWorld, execution: Execution) -> Execution:
    return execute_block(
        world.spec, world.values, world.tree, world.parent, execution.block, ()
    )  # fmt: skip


def test_an_offence_is_recorded_and_told(world: MarketWorld) -> None:
    evidence = offence(world)
    execution = execute(world, propose(world, evidence))
    assert execution.block.evidence == (evidence,)
    event = ValidatorConvicted(evidence.public_key, evidence.kind, 1, 0)
    assert event in execution.receipts[0].events
    assert CONVICTIONS.get(execution.overlay, conviction_key(evidence)) is not None


def test_one_offence_is_carried_once(world: MarketWorld) -> None:
    evidence = offence(world)
    first = propose(world, evidence, evidence)
    assert first.block.evidence == (evidence,)
    world._store(first.changes)
    assert propose(world, evidence).block.evidence == ()


def test_a_block_that_repeats_an_offence_is_invalid(world: MarketWorld) -> None:
    execution = propose(world, offence(world))
    block = replace(execution.block, evidence=execution.block.evidence * 2)
    with pytest.raises(Rejected) as refusal:
        execute(world, replace(execution, block=block))
    assert refusal.value.code is ErrorCode.DUPLICATE


def test_a_block_that_hides_its_evidence_is_invalid(world: MarketWorld) -> None:
    execution = propose(world, offence(world))
    block = replace(execution.block, evidence=())
    with pytest.raises(Rejected, match="INVALID_BLOCK"):
        execute(world, replace(execution, block=block))


def test_forged_or_early_evidence_is_left_out(world: MarketWorld) -> None:
    good = offence(world)
    forged = replace(good, second=replace(good.second, block_hash=sha256(b"three")))
    future = offence(world, height=99)
    assert propose(world, forged, future).block.evidence == ()


def test_evidence_outside_the_window_is_refused(world: MarketWorld) -> None:
    from gridtokenx.chain.transition import check_evidence, environment

    env = environment(world.spec, current_set(world.values, 0), world.parent, 0, 0)
    late = replace(env, height=world.spec.genesis.evidence_window_blocks + 2)
    with pytest.raises(Rejected) as refusal:
        check_evidence(Overlay(world.values), offence(world), late)
    assert refusal.value.code is ErrorCode.EXPIRED
