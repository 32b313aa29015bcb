"""Answers what peers ask of chains: decided blocks, a block's ancestry, bodies of transactions.

Looked up in worker threads, where strangers wait for others. No peer's question ends the node.
Source: protocols/networking.md 3.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

from gridtokenx.chain.sync import RESPONSE_BYTES
from gridtokenx.network.peers.peer import PeerId
from gridtokenx.network.requests import RequestRefused, Requests
from gridtokenx.node.candidates import decode_body_request
from gridtokenx.node.chain_runner import ChainRunner
from gridtokenx.node.protocol import (
    AncestryRequest,
    BlocksRequest,
    BlocksResponse,
    DecidedBlock,
)
from gridtokenx.node.strangers import Readers
from gridtokenx.primitives.codec import decode, encode
from gridtokenx.primitives.errors import ErrorCode, Rejected
from gridtokenx.runtime.housekeeping import house
from gridtokenx.runtime.stopping import DatabaseError, DiskFailed
from gridtokenx.storage.database import ChainStore


class Answers:
    """Out of the chains that this node follows."""

    def __init__(self, chains: Mapping[str, ChainRunner], readers: Readers) -> None:
        self._chains = chains
        self._readers = readers

    def serve(self, requests: Requests) -> None:
        """Answer from now on."""
        requests.serve("blocks", self._blocks)
        requests.serve("ancestry", self._ancestry)
        requests.serve("bodies", self._bodies)

    async def _blocks(self, peer: PeerId, payload: bytes) -> bytes:
        def store_of(chain: str, chain_id: bytes) -> ChainStore | None:
            runner = self._chains.get(chain)
            return None if runner is None else runner.life.history(chain_id)

        return await self._read(peer, partial(answer_blocks, payload, store_of))

    async def _ancestry(self, peer: PeerId, payload: bytes) -> bytes:
        def stores_of(chain: str) -> list[ChainStore]:
            runner = self._chains.get(chain)
            return [] if runner is None else runner.life.histories()

        return await self._read(peer, partial(answer_ancestry, payload, stores_of))

    async def _bodies(self, peer: PeerId, payload: bytes) -> bytes:
        try:
            request = decode_body_request(payload)
        except Rejected as error:
            raise RequestRefused(error.detail) from None
        runner = self._chains.get(request.chain)
        if runner is None:
            raise RequestRefused(f"this node does not follow {request.chain}")
        return await self._read(peer, partial(runner.answer_bodies, request))

    async def _read(self, peer: PeerId, answer: Callable[[], bytes]) -> bytes:
        try:
            return await self._readers.run(peer, answer)
        except Rejected as error:
            raise RequestRefused(error.detail) from None
        except (DatabaseError, DiskFailed) as error:
            house.note("answers", error)
            raise RequestRefused("this node cannot read that block") from None


def answer_blocks(payload: bytes, store_of: Callable[[str, bytes], ChainStore | None]) -> bytes:
    """Serve consecutive decided blocks with certificates, as many as fit. Errors: Rejected.

    `store_of` finds the blocks of a chain by its name and the chain id of an incarnation.
    """
    request = decode(BlocksRequest, payload)
    store = store_of(request.chain, request.chain_id)
    if store is None:
        detail = f"this node has not {request.chain} {request.chain_id.hex()[:16]}"
        raise Rejected(ErrorCode.UNKNOWN_SHARD, detail)
    heights = range(max(1, request.from_height), request.from_height + request.count)
    return encode(BlocksResponse(_blocks_at(store, heights)))


def answer_ancestry(payload: bytes, stores_of: Callable[[str], Sequence[ChainStore]]) -> bytes:
    """Serve a decided block and those before it, as many as fit. Errors: Rejected.

    `stores_of` finds all histories of a chain that are here: those of all its incarnations.
    """
    request = decode(AncestryRequest, payload)
    for store in stores_of(request.chain):
        height = store.height_of(request.block_hash)
        if height:
            heights = range(height, max(0, height - request.count), -1)
            return encode(BlocksResponse(_blocks_at(store, heights)))
    detail = f"no block {request.block_hash.hex()[:16]} of {request.chain} is here"
    raise Rejected(ErrorCode.BLOCK_NOT_FOUND, detail)


def _blocks_at(store: ChainStore, heights: Iterable[int]) -> tuple[DecidedBlock, ...]:
    """The blocks at these heights up to the first that is missing or does not fit."""
    blocks: list[DecidedBlock] = []
    size = 0
    for height in heights:
        block, certificate = store.block(height), store.certificate(height)
        if not block or not certificate:
            break
        size += len(block) + len(certificate) + 16
        if blocks and size > RESPONSE_BYTES:
            break
        blocks.append(DecidedBlock(block, certificate))
    return tuple(blocks)
