"""Fetching decided blocks from real peers' answers: a liar among them is told of and left."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import trio

from gridtokenx.chain.block import decode_block
from gridtokenx.network.peers.peer import PeerId
from gridtokenx.node.contacts import Claim
from gridtokenx.node.executor import Executor
from gridtokenx.node.protocol import BlocksRequest, BlocksResponse, DecidedBlock
from gridtokenx.node.syncing import Syncing, height_of_third
from gridtokenx.primitives.codec import decode, encode
from gridtokenx.primitives.validators import Validator, ValidatorSet
from tests.support.patience import until
from tests.unit.node.test_driver import MET, Backup, decided, history

HEIGHT = 5
LIAR, HONEST = PeerId(b"liar"), PeerId(b"honest")


class Peers:
    """Two peers with the same history; one of them sends a block that nobody decided."""

    def __init__(self, path: Path) -> None:
        self.blocks = history(path, HEIGHT)
        self.asked: list[PeerId] = []
        self.offences: list[tuple[PeerId, str]] = []

    async def ask(self, peer: PeerId, kind: str, payload: bytes) -> bytes:
        assert kind == "blocks"
        self.asked.append(peer)
        request = decode(BlocksRequest, payload)
        answer = []
        for height in range(request.from_height, request.from_height + request.count):
            block, certificate = self.blocks[height - 1]
            if peer is LIAR and height == 3:
                block, certificate = self.lie(block)
            answer.append(DecidedBlock(block, encode(certificate)))
        return encode(BlocksResponse(tuple(answer)))

    def claims(self) -> dict[PeerId, Claim]:
        return {LIAR: Claim(HEIGHT), HONEST: Claim(HEIGHT)}

    @staticmethod
    def lie(raw: bytes):
        block = decode_block(raw)
        lie = replace(block, header=replace(block.header, state_root=bytes(32)))
        good = decided(3, lie.header.hash)
        return lie.encoded, replace(good, signatures=good.signatures[:2])

    def syncing(self, executor: Executor) -> Syncing:
        return Syncing(executor, self.ask, self.report, self.claims)

    def report(self, peer: PeerId, offence: str) -> None:
        self.offences.append((peer, offence))


@pytest.mark.parametrize(
    ("said", "height"),
    [
        ({}, -1),
        ({0: 10**9}, -1),  # One of four may lie.
        ({0: 10**9, 1: 70}, 70),
        ({0: 10**9, 1: 70, 2: 71, 3: 70}, 71),
        ({4: 80}, 80),  # It has more than a third by itself.
    ],
)
def test_validators_with_a_third_of_the_weight_show_a_height(
    said: dict[int, int], height: int
) -> None:
    weights = (1, 1, 1, 1) if 4 not in said else (1, 1, 1, 1, 4)
    members = ValidatorSet(tuple(Validator(bytes([n]) * 32, w) for n, w in enumerate(weights)))
    assert height_of_third(members, said) == height


async def test_only_whom_validators_vouch_for_makes_a_node_look_behind(tmp_path: Path) -> None:
    """Strangers and one validator say a billion; two validators say what is so."""
    claims = {PeerId(b"stranger %d" % number): Claim(10**9) for number in range(9)}
    one, two, three = (member.public_key for member in MET.genesis_validators.members[1:])
    claims |= {PeerId(b"liar"): Claim(10**9, one), PeerId(b"twin"): Claim(10**9, one)}

    async def silence(_peer: PeerId, _kind: str, _payload: bytes) -> bytes:
        await trio.sleep_forever()
        raise AssertionError

    def silent(executor: Executor) -> Syncing:
        return Syncing(executor, silence, lambda _peer, _offence: None, lambda: claims)

    node = Backup(tmp_path, None, silent)
    syncing = node.driver._syncing
    async with trio.open_nursery() as nursery:
        nursery.start_soon(syncing.run, node.driver.apply_decided)
        for peer, claim in claims.items():
            syncing.note_height(peer, claim.height)
        await until(lambda: syncing._syncer.peers == len(claims))
        assert (syncing.target, syncing.is_level) == (0, False)
        claims[PeerId(b"v")] = Claim(70, two)
        claims[PeerId(b"w")] = Claim(71, three)
        await until(lambda: syncing.target == 71)
        syncing.note_shown(90)
        await until(lambda: syncing.target == 90)
        nursery.cancel_scope.cancel()
    node.database.close()


async def test_a_peer_with_a_block_that_nobody_decided_is_reported_and_not_asked_again(
    tmp_path: Path,
) -> None:
    peers = Peers(tmp_path / "net")
    node = Backup(tmp_path / "me", None, peers.syncing)
    syncing = node.driver._syncing
    async with trio.open_nursery() as nursery:
        await nursery.start(node.driver.run)
        nursery.start_soon(syncing.run, node.driver.apply_decided)
        syncing.note_height(LIAR, HEIGHT)
        await until(lambda: peers.offences)
        assert peers.offences == [(LIAR, "invalid_block")]
        assert node.executor.tip.height == 2  # What it sent before the lie was good.
        syncing.note_height(LIAR, HEIGHT)
        syncing.note_height(HONEST, HEIGHT)
        await until(lambda: node.executor.tip.height == HEIGHT)
        assert peers.asked == [LIAR, HONEST]
        assert peers.offences == [(LIAR, "invalid_block")]
        nursery.cancel_scope.cancel()
    node.database.close()
