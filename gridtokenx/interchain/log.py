"""Append-only logs of messages with a running head. Source: protocols/interchain.md 2.

Each link commits to the whole log before it, so whoever knows one head and count can check any
continuation: nothing can be left out, added, replaced, or taken twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from gridtokenx.interchain.model import (
    OUTBOXES,
    QUEUE,
    Credit,
    Message,
    Outbox,
    QueuedMessage,
    row_key,
)
from gridtokenx.primitives.codec import encode
from gridtokenx.primitives.crypto import ZERO_HASH, sha256, tagged_hash
from gridtokenx.primitives.errors import ErrorCode, Rejected
from gridtokenx.primitives.merkle import merkle_root
from gridtokenx.primitives.state import Overlay, Reader, u64

MAX_FORGOTTEN_AT_ONCE = 1_000


def open_log(state: Overlay, destination: str, destination_id: bytes) -> None:
    """Begin an empty log; genesis does."""
    OUTBOXES.put(state, destination.encode(), Outbox(destination_id, 0, ZERO_HASH, 0, 0))


def log_to(state: Reader, destination: str) -> Outbox:
    """The log to a chain, which genesis opened."""
    found = OUTBOXES.get(state, destination.encode())
    if found is None:
        raise ValueError(f"no log leads to {destination}")
    return found


def next_head(
    head: bytes, source_id: bytes, destination_id: bytes, nonce: int, raw: bytes
) -> bytes:
    """The head after an encoded message. Ids are those of the chains' first incarnations."""
    return tagged_hash("gtx.msg", head, source_id, destination_id, u64(nonce), sha256(raw))


def append(
    state: Overlay,
    message: Message,
    *,
    source_id: bytes,
    destination: str,
    height: int,
    origin: tuple[int, int] = (0, 0),
) -> int:
    """Put a message at the end of a log; its nonce. `origin`: see `QueuedMessage`."""
    log = log_to(state, destination)
    nonce = log.count
    head = next_head(log.head, source_id, log.destination_id, nonce, encode(message))
    QUEUE.put(state, row_key(destination, nonce), QueuedMessage(height, message, *origin))
    grown = Outbox(log.destination_id, nonce + 1, head, log.acknowledged, log.forgotten)
    OUTBOXES.put(state, destination.encode(), grown)
    return nonce


def acknowledge(state: Overlay, destination: str, nonce: int) -> None:
    """The destination has taken all messages below `nonce`: forget them, a thousand at a time."""
    log = log_to(state, destination)
    acknowledged = max(log.acknowledged, min(nonce, log.count))
    forgotten = min(acknowledged, log.forgotten + MAX_FORGOTTEN_AT_ONCE)
    for old in range(log.forgotten, forgotten):
        QUEUE.delete(state, row_key(destination, old))
    shorter = Outbox(log.destination_id, log.count, log.head, acknowledged, forgotten)
    OUTBOXES.put(state, destination.encode(), shorter)


def messages_from(
    state: Reader, destination: str, nonce: int, count: int, up_to_height: int
) -> list[Message]:
    """At most `count` messages from `nonce` on that blocks up to a height have appended."""
    end = min(nonce + count, log_to(state, destination).count)
    found = []
    for at in range(nonce, end):
        queued = QUEUE.get(state, row_key(destination, at))
        if queued is None or queued.height > up_to_height:
            break
        found.append(queued.message)
    return found


def mark_returned(
    state: Overlay, destination: str, nonce: int, credit: Credit, incarnation: int
) -> QueuedMessage:
    """Note that an incarnation of the destination sends this credit back; what was noted before.

    Errors: MALFORMED unless it was sent there, and has not come back from this incarnation before.
    """
    key = row_key(destination, nonce)
    queued = QUEUE.get(state, key)
    if queued is None or queued.message != credit or queued.returned_in == incarnation:
        detail = f"{destination} returns message {nonce}, which is no such credit or came back"
        raise Rejected(ErrorCode.MALFORMED, detail)
    QUEUE.put(state, key, replace(queued, returned_in=incarnation))
    return queued


def total_count(state: Reader) -> int:
    """How many messages the chain has ever sent: a header's `outbox_count`."""
    return sum(log.count for _, log in OUTBOXES.items(state))


def outbox_root(state: Reader) -> bytes:
    """What a header says of all logs, in the order of their destinations' names."""
    logs = [log for _, log in OUTBOXES.items(state)]
    return logs_root([(log.destination_id, log.count, log.head) for log in logs])


def logs_root(logs: Sequence[tuple[bytes, int, bytes]]) -> bytes:
    """Merkle root over `destination id || u64 count || head`; H of nothing without logs."""
    return merkle_root([identity + u64(count) + head for identity, count, head in logs])
