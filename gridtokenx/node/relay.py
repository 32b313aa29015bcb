"""Brings decided region blocks to the national chain. Source: protocols/interchain.md 3.

Anybody may; validators do, so that messages flow without anybody's care. A region's authorities
take turns, and the next one takes over where the one before does not come: a second checkpoint is
refused as DUPLICATE and harms nobody. Checkpoints pay no fee, as they carry other people's
messages; what they can cost is bounded, because each must be certified and newer than the last.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

import structlog
import trio

from gridtokenx.chain.block import decode_block
from gridtokenx.chain.crossing import log_fields
from gridtokenx.chain.transaction import sign_transaction
from gridtokenx.interchain.checkpoints import region_of
from gridtokenx.interchain.log import messages_from
from gridtokenx.interchain.model import (
    MAX_CHECKPOINT_BYTES,
    MAX_CHECKPOINT_MESSAGES,
    Region,
    RegionStatus,
    SubmitCheckpoint,
)
from gridtokenx.node.executor import Executor
from gridtokenx.node.tip import Tip
from gridtokenx.primitives.codec import encode
from gridtokenx.primitives.crypto import SigningKey
from gridtokenx.primitives.errors import ErrorCode, Rejected
from gridtokenx.runtime.housekeeping import house
from gridtokenx.storage.database import ChainView

# National blocks.
LIVENESS_BLOCKS = 20  # Then a checkpoint goes without need: after 60 the region would be paused.
TAKE_OVER_BLOCKS = 2  # How long a validator waits for the one whose turn is before its own.
RETRY_BLOCKS = 6  # Until an own checkpoint that has come to nothing is sent again.

TAKEN_MESSAGES = 100  # So many that a region has taken need not stay in the national state.

log = structlog.get_logger(__name__)
Submit = Callable[[Sequence[bytes]], Awaitable[list[Rejected | None]]]


@dataclass(frozen=True, slots=True)
class _Turn:
    """Since which national height a checkpoint after region height `after` is due."""

    after: int
    since: int
    sent: int | None = None  # The national height at which this node sent its own.


class Relay:
    """Sends checkpoints of the regions that this node's validator signs."""

    def __init__(
        self,
        national: Executor,
        regions: Callable[[], Mapping[str, Tip]],
        validator: SigningKey,
        submit: Submit,
        next_national: Callable[[], trio.Event],
    ) -> None:
        """`regions`: the newest blocks of those that this node follows, each in its present
        incarnation; `submit` hands transactions to the national chain; `next_national` gives the
        event that its next block sets.
        """
        self._national = national
        self._regions = regions
        # The national chain knows an authority by this key alone. Transactions are signed under
        # another domain than votes, so neither can be taken for the other.
        self._key = validator
        self._submit = submit
        self._next_national = next_national
        self._turns: dict[str, _Turn] = {}
        self.sent: Counter[str] = Counter()

    async def run(self) -> None:
        """Look after every national block, until cancelled. Without them nothing is due."""
        while True:
            moved = self._next_national()
            with house.round("relay"):  # Others bring what this node does not.
                commands = await trio.to_thread.run_sync(self.due)
                if commands:
                    await self._send(commands)
            await moved.wait()

    async def _send(self, commands: Sequence[SubmitCheckpoint]) -> None:
        nonce = self._national.pending.next_nonce(self._key.public_key)
        chain_id = self._national.spec.chain_id
        signed = [
            sign_transaction(self._key, chain_id, nonce + number, command)
            for number, command in enumerate(commands)
        ]
        verdicts = await self._submit([one.encoded for one in signed])
        for command, verdict in zip(commands, verdicts, strict=True):
            if verdict is None:
                self.sent[command.region] += 1
                count = len(command.messages)
                log.debug("checkpoint.sent", chain=command.region, messages=count)
            elif verdict.code is not ErrorCode.DUPLICATE:  # Somebody else was faster.
                log.info("checkpoint.refused", chain=command.region, why=str(verdict))

    def due(self) -> list[SubmitCheckpoint]:
        """The checkpoints that this node should send at the national chain's newest block."""
        tip = self._national.tip
        national, height = tip.view, tip.height
        found = []
        for name, newest in self._regions().items():
            region = region_of(national, name)
            if not self._is_my_turn(region, newest, height):
                continue
            command = checkpoint_of(newest, region)
            if command is not None:
                self._turns[name] = _Turn(region.height, self._turns[name].since, height)
                found.append(command)
        return found

    def _is_my_turn(self, region: Region, newest: Tip, height: int) -> bool:
        """Whether a checkpoint is needed, and those before this validator have had their time."""
        members = newest.sets.at(newest.height).validators
        me = members.index_of(self._key.public_key)
        if me is None or not _is_needed(region, newest, height):
            self._turns.pop(region.name, None)
            return False
        turn = self._turns.get(region.name)
        if turn is None or turn.after != region.height:
            turn = self._turns[region.name] = _Turn(region.height, height)
        if turn.sent is not None:
            return height >= turn.sent + RETRY_BLOCKS
        rank = (me - region.height) % len(members.members)
        return height >= turn.since + rank * TAKE_OVER_BLOCKS


def _is_needed(region: Region, newest: Tip, height: int) -> bool:
    """Whether the national chain should hear of the region's newest block."""
    if region.status(height) in (RegionStatus.FROZEN, RegionStatus.HELD):
        return False
    if region.chain_id != newest.spec.chain_id or newest.height <= region.height:
        return False
    logs = log_fields(newest.view)
    following = newest.next_set.validators
    return (
        logs.outbox_count > region.outbox_count
        or logs.inbox_next >= region.inbox_next + TAKEN_MESSAGES
        or following != region.validators
        or height >= region.seen_height + LIVENESS_BLOCKS
    )


def checkpoint_of(newest: Tip, region: Region) -> SubmitCheckpoint | None:
    """The region's newest block as the national chain wants it, with all messages since the last.

    An older block where the messages up to the newest are too many for one checkpoint; None where
    this node has not what it takes, or has learned already that the messages were taken.
    """
    view, height = newest.view, newest.height
    while height > region.height:
        messages = _messages(view, newest.spec.national.name, region.outbox_count, height)
        fits = len(messages) <= MAX_CHECKPOINT_MESSAGES
        if fits and sum(map(len, messages)) <= MAX_CHECKPOINT_BYTES:
            return _command(view, region, height, messages)
        height = region.height + ((height - region.height) >> 1)
    return None


def _messages(view: ChainView, national: str, nonce: int, height: int) -> list[bytes]:
    most = MAX_CHECKPOINT_MESSAGES + 1
    return [encode(one) for one in messages_from(view, national, nonce, most, height)]


def _command(
    view: ChainView, region: Region, height: int, messages: list[bytes]
) -> SubmitCheckpoint | None:
    block, certificate = view.block(height), view.certificate(height)
    if not block or not certificate:
        return None
    header = decode_block(block).header
    if header.outbox_count != region.outbox_count + len(messages):
        return None
    return SubmitCheckpoint(region.name, encode(header), certificate, tuple(messages))
