"""The national chain re-executed beside the regions that take messages of it.

A region's own validators judge what a block takes of the national chain, before they vote; whoever
reads the region's blocks alone has only their word for it. Here is what they judged it by, at any
height. Source: protocols/interchain.md 5.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from gridtokenx.chain.block import Header
from gridtokenx.chain.genesis import ChainSpec
from gridtokenx.chain.replay import Replay
from gridtokenx.interchain.model import (
    CHECKPOINTS,
    MAX_INBOX_MESSAGES,
    QUEUE,
    Downward,
    Incarnation,
    QueuedMessage,
    RegionReborn,
)
from gridtokenx.interchain.rules import take_due
from gridtokenx.primitives.errors import ErrorCode, Rejected


class NationalNotVerified(Exception):  # noqa: N818 - a verdict on what was fetched
    """A block of the national chain does not hold, or is not to be had; the text says which."""


class NationalReplay:
    """The national chain, executed as far as its regions' blocks ask for, and what it told them.

    Several regions share one: it only goes forward, and remembers by height what they may have
    taken. `blocks` are (block, certificate) from height 1 on, fetched as they are needed.
    """

    def __init__(self, spec: ChainSpec, blocks: Iterator[tuple[bytes, bytes]]) -> None:
        self.replay = Replay(spec)
        self._blocks = blocks
        self._queues: dict[str, list[QueuedMessage]] = {}
        self._accepted: dict[str, dict[int, bytes]] = {}
        self._born: dict[str, list[Incarnation]] = {}

    @property
    def hashes(self) -> Sequence[bytes]:
        """Of its blocks by height, as far as it is replayed; zeros for height 0."""
        return self.replay.hashes

    def advance(self, height: int) -> None:
        """Execute up to a height. Errors: NationalNotVerified."""
        while self.replay.parent.height < height:
            if not self.step():
                detail = (
                    f"block {height} of {self.replay.spec.name} is not to be had: the newest is "
                    f"{self.replay.parent.height}"
                )
                raise NationalNotVerified(detail)

    def step(self) -> bool:
        """Execute one more block; False where there is none. Errors: NationalNotVerified."""
        found = next(self._blocks, None)
        if found is None:
            return False
        try:
            execution = self.replay.execute(*found)
        except Rejected as error:
            height = self.replay.parent.height + 1
            detail = f"{self.replay.spec.name} block {height}: {error.detail}"
            raise NationalNotVerified(detail) from error
        for key, value in execution.overlay.changed():
            if value is not None and key.startswith(QUEUE.prefix):
                self._note_message(key.removeprefix(QUEUE.prefix), value)
            elif value is not None and key.startswith(CHECKPOINTS.prefix):
                name, _, height_bytes = key.removeprefix(CHECKPOINTS.prefix).partition(b"\x00")
                accepted = self._accepted.setdefault(name.decode(), {})
                accepted[int.from_bytes(height_bytes, "big")] = value.hash
        for receipt in execution.receipts:
            for event in receipt.events:
                if isinstance(event, RegionReborn):
                    self._note_birth(event.incarnation)
        return True

    def due(self, region: str, nonce: int, height: int) -> tuple[Downward, ...]:
        """What a region's block takes that names the national block at a height. By now its state
        may have forgotten that."""
        waiting = self._queues.get(region, [])[nonce : nonce + MAX_INBOX_MESSAGES]
        messages = [queued.message for queued in waiting if queued.height <= height]
        return take_due([message for message in messages if isinstance(message, Downward)])

    def accepted(self, region: str) -> dict[int, bytes]:
        """Hashes of a region's blocks that were accepted as checkpoints, by height; none of those
        that a later incarnation has made void."""
        return self._accepted.get(region, {})

    def spec_of(self, spec: ChainSpec, header: Header) -> ChainSpec:
        """The region with all incarnations that are known, that of a header among them: voters may
        have let it go on so in a national block that no header has named yet.

        Errors: WRONG_CHAIN for one that they never did; NationalNotVerified.
        """
        known = self.with_incarnations(spec)
        while known.at(header.height).chain_id != header.chain_id:
            if not self.step():
                detail = f"it is of chain {header.chain_id.hex()[:16]}, which is no {spec.name}"
                raise Rejected(ErrorCode.WRONG_CHAIN, detail)
            known = self.with_incarnations(spec)
        return known

    def with_incarnations(self, spec: ChainSpec) -> ChainSpec:
        """A region with all incarnations that are known so far."""
        known = replace(spec, incarnations=())
        for born in self._born.get(spec.name, []):
            known = known.with_incarnation(born)
        return spec if known.incarnations == spec.incarnations else known

    def _note_message(self, key: bytes, queued: QueuedMessage) -> None:
        name, _, nonce = key.partition(b"\x00")
        queue = self._queues.setdefault(name.decode(), [])
        if int.from_bytes(nonce, "big") == len(queue):  # Else it is marked as returned.
            queue.append(queued)

    def _note_birth(self, born: Incarnation) -> None:
        self._born.setdefault(born.region, []).append(born)
        accepted = self._accepted.get(born.region, {})
        self._accepted[born.region] = {
            height: block_hash for height, block_hash in accepted.items() if height <= born.height
        }
