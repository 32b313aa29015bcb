"""A chain re-executed from its blocks alone: same roots, same reports, nothing lost; lies found."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gridtokenx.chain.block import Block
from gridtokenx.chain.replay import Replay
from gridtokenx.cluster.devnet import dev_key, operator_key, validator_name
from gridtokenx.consensus.messages import (
    IndexedSignature,
    Phase,
    QuorumCertificate,
    vote_bytes,
)
from gridtokenx.ledger.model import Deposit, RetireCredits
from gridtokenx.primitives.codec import encode
from gridtokenx.primitives.errors import ErrorCode, Rejected
from gridtokenx.registry.model import Generation
from gridtokenx.trading.model import Redeem, Side
from tests.support.market_world import MarketWorld


def certificate(world: MarketWorld, block: Block) -> bytes:
    keys = [dev_key(validator_name(index)[1]) for index in range(4)]
    header = block.header
    vote = vote_bytes(Phase.COMMIT, world.spec.chain_id, header.height, 0, header.hash)
    index_of = world.spec.genesis_validators.index_of
    signatures = sorted(
        (IndexedSignature(index_of(key.public_key), key.sign(vote)) for key in keys),
        key=lambda one: one.index,
    )
    return encode(QuorumCertificate(Phase.COMMIT, header.height, 0, header.hash, tuple(signatures)))


@pytest.fixture(scope="module")
def world() -> MarketWorld:
    """A day with trade, a shortfall, a meter that is never read, redemption and retirement."""
    made = MarketWorld()
    seller = made.household("seller", source=Generation.SOLAR)
    buyer = made.household("buyer")
    silent = made.household("silent")
    made.block()
    first = made.slot + 3
    for slot in range(first, first + 4):
        made.send(seller.key, made.order(seller, Side.SELL, 3000, 3000, slot))
        made.send(buyer.key, made.order(buyer, Side.BUY, 2000, 4500, slot))
        made.send(silent.key, made.order(silent, Side.BUY, 1000, 4400, slot))
    while made.slot <= first + 4:
        if made.slot > first:
            made.send(seller.key, made.reading(seller, made.slot - 1, 2500, 0))
            made.send(buyer.key, made.reading(buyer, made.slot - 1, 0, 1500))
        assert made.block() == []
    mea = next(one.account for one in made.spec.genesis.organisations if one.name == "mea")
    made.send(operator_key("payment"), Deposit(mea, 10_000_000))
    made.send(buyer.key, Redeem(500))
    made.send(buyer.key, RetireCredits(1000))
    assert made.block() == []
    while made.parent.height < 110:
        made.block()
    made.check_conservation()
    return made


def raw(world: MarketWorld) -> list[tuple[bytes, bytes]]:
    return [
        (execution.block.encoded, certificate(world, execution.block))
        for execution in world.executions
    ]


def test_every_root_report_and_sum_comes_out_again(world: MarketWorld) -> None:
    replay = Replay(world.spec)
    closed = [report for one in raw(world) for report in replay.apply(*one)]
    assert replay.parent == world.parent
    assert {report.territory for report in closed} == {"BKK", "NTB", "SPK"}
    assert all(report.differences == () for report in closed)
    bangkok = next(report for report in closed if report.territory == "BKK").report
    assert bangkok.totals.missing_readings > 0
    assert bangkok.totals.participants == 3
    assert bangkok.totals.assumed_wh > 0
    assert bangkok.totals.redeemed_wh == 500
    assert 0 < sum(line.delivered_wh for line in bangkok.lines) <= 10_000
    assert replay.conservation().differences == ()


def test_a_report_that_is_not_what_happened_is_told(world: MarketWorld) -> None:
    replay = Replay(world.spec)
    for one in raw(world):
        hidden = replay._sums
        for key in [key for key in hidden.lines if key[0] == "BKK"]:
            hidden.lines[key].clear()
        closed = replay.apply(*one)
        if closed:
            break
    (bangkok,) = (report for report in closed if report.territory == "BKK")
    assert bangkok.differences == ("lines of trade are not what the settlements add up to",)


def refused(world: MarketWorld, block: bytes, proof: bytes) -> ErrorCode:
    with pytest.raises(Rejected) as error:
        Replay(world.spec).apply(block, proof)
    return error.value.code


def test_a_changed_block_or_certificate_is_refused(world: MarketWorld) -> None:
    (first, proof), (second, second_proof) = raw(world)[:2]
    assert refused(world, second, second_proof) is ErrorCode.INVALID_CERTIFICATE
    assert refused(world, first, second_proof) is ErrorCode.INVALID_CERTIFICATE
    block = world.executions[0].block
    lie = replace(block, header=replace(block.header, state_root=bytes(32)))
    assert refused(world, encode(lie), certificate(world, lie)) is ErrorCode.INVALID_BLOCK
    emptied = replace(block, transactions=())
    assert refused(world, encode(emptied), proof) is ErrorCode.INVALID_BLOCK
