"""Fetching decided blocks from real peers' answers: a liar among them is told of and left."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import trio
from patience import until

from gridtokenx.chain.block import decode_block
from gridtokenx.node.network import PeerId
from gridtokenx.node.protocol import BlocksRequest, BlocksResponse, DecidedBlock
from gridtokenx.node.syncing import Syncing
from gridtokenx.primitives.codec import decode, encode
from tests.unit.node.test_driver import Backup, decided, history

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

    @staticmethod
    def lie(raw: bytes):
        block = decode_block(raw)
        lie = replace(block, header=replace(block.header, state_root=bytes(32)))
        good = decided(3, lie.header.hash)
        return lie.encoded, replace(good, signatures=good.signatures[:2])

    def report(self, peer: PeerId, offence: str) -> None:
        self.offences.append((peer, offence))


async def test_a_peer_with_a_block_that_nobody_decided_is_reported_and_not_asked_again(
    tmp_path: Path,
) -> None:
    peers = Peers(tmp_path / "net")
    node = Backup(tmp_path / "me", None)
    syncing = Syncing(node.driver, peers.ask, peers.report)
    node.driver._wiring.on_committed = lambda one: syncing.note_committed(one.parent.height)
    async with trio.open_nursery() as nursery:
        await nursery.start(node.driver.run)
        nursery.start_soon(syncing.run)
        syncing.note_height(LIAR, HEIGHT)
        await until(lambda: peers.offences)
        assert peers.offences == [(LIAR, "invalid_block")]
        assert node.executor.parent.height == 2  # What it sent before the lie was good.
        syncing.note_height(LIAR, HEIGHT)
        syncing.note_height(HONEST, HEIGHT)
        await until(lambda: node.executor.parent.height == HEIGHT)
        assert peers.asked == [LIAR, HONEST]
        assert peers.offences == [(LIAR, "invalid_block")]
        nursery.cancel_scope.cancel()
    node.database.close()
