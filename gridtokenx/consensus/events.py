"""The engine's boundary: events in, effects out, and the record that survives a crash.

Effects are one-way and strictly ordered: the shell performs them one after another, and a
`Persist` is synced to disk before the next effect starts. Answers return as later events.
Source: protocols/consensus.md 2.13.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Annotated

from gridtokenx.consensus.evidence import Evidence
from gridtokenx.consensus.messages import (
    Message,
    Proposal,
    QuorumCertificate,
    Timeout,
    TimeoutCertificate,
    View,
    Vote,
)
from gridtokenx.primitives.codec import Bytes32, Limit, wire
from gridtokenx.primitives.validators import ValidatorSet

MAX_CANDIDATES = 4


@wire(19)
@dataclass(frozen=True, slots=True)
class SafetyRecord:
    """All that a restarted validator must not forget (2.4, the durable fields).

    `own` are the messages signed in `view`, verbatim; `last_commit` the last own COMMIT of an
    earlier view. The shell stores the bodies of `candidates` in the same synced write.
    """

    height: int
    view: View
    prepared: Bytes32 | None
    committed: Bytes32 | None
    timed_out: bool
    high_certificate: QuorumCertificate | None
    entry: TimeoutCertificate | None
    own: Annotated[tuple[Proposal | Vote | Timeout, ...], Limit(0, 4)]
    last_commit: Vote | None
    candidates: Annotated[tuple[Bytes32, ...], Limit(0, MAX_CANDIDATES)]


# -- Events ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class HeightStarted:
    """The chain's tip is `height - 1`, durably. Sent at start and after every committed block,
    whether it came from consensus or from sync. Heights at or below the current are ignored.

    `open_ms`: before that no block of the height may be proposed (2.7). Times here and below are
    those of the clock that `handle` is given: milliseconds that never jump.
    `epoch_start`: first height of the epoch; the leader schedule counts from it.
    """

    height: int
    validators: ValidatorSet
    open_ms: int
    epoch_start: int = 0


@dataclass(frozen=True, slots=True)
class OpeningMoved:
    """The clock that headers carry was set: the height opens at another time than was told."""

    height: int
    open_ms: int


@dataclass(frozen=True, slots=True)
class Received:
    """A decoded message; `peer` is whom to answer (None: nobody)."""

    message: Message
    peer: bytes | None = None


@dataclass(frozen=True, slots=True)
class BlockBuilt:
    """Answer to `BuildBlock`: built, executed, and held by the shell under its hash."""

    height: int
    view: int
    block_hash: bytes


class Verdict(IntEnum):
    """What the shell found out about a block."""

    VALID = 1
    INVALID = 2
    NOT_YET = 3  # Only for fresh blocks: its time lies ahead of our clock; ask again later.


@dataclass(frozen=True, slots=True)
class BlockChecked:
    """Answer to a `CheckBlock`, which is handed back. `until_ms` only with NOT_YET."""

    check: CheckBlock
    verdict: Verdict
    until_ms: int = 0


@dataclass(frozen=True, slots=True)
class Tick:
    """The timer fired (an early or late tick does no harm)."""


@dataclass(frozen=True, slots=True)
class Observe:
    """Sign nothing at heights <= `until_height` (2.8). Replaces the value before.

    `hear_quorum`: nor at any before members with a quorum of the weight, oneself not counted, were
    heard from now on, and up to the highest height they spoke of, plus one. Only hearing ends that:
    a later event without it does not.
    """

    until_height: int
    hear_quorum: bool = False


Event = HeightStarted | OpeningMoved | Received | BlockBuilt | BlockChecked | Tick | Observe


# -- Effects ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Persist:
    """Sync the record and its candidates' bodies to disk before performing the next effect."""

    record: SafetyRecord


@dataclass(frozen=True, slots=True)
class Broadcast:
    """Publish to the chain's consensus topic. Identical bytes are broadcast again by RESEND, so
    the transport must not swallow them. With an own fresh `Proposal` (`message.fresh`) publish
    the compact block too."""

    message: Message


@dataclass(frozen=True, slots=True)
class SetTimer:
    """Send `Tick` at this millisecond; replaces the timer set before."""

    at_ms: int


@dataclass(frozen=True, slots=True)
class BuildBlock:
    """Build and execute a block with first view `view`; its time is the wall clock's, but not
    before the height opens.
    """

    height: int
    view: int


@dataclass(frozen=True, slots=True)
class CheckBlock:
    """Get the body (compact block, peers), execute it, answer `BlockChecked` when known.

    fresh: also require header.view0 == view, header.proposer == proposer_index and the vote-time
    rules (clock, root height). Not fresh: nothing that depends on our clock or local data.
    Idempotent: repeated while unanswered, as a reminder to ask other peers for the body.
    """

    height: int
    view: int
    block_hash: bytes
    proposer_index: int
    fresh: bool


@dataclass(frozen=True, slots=True)
class Decide:
    """Commit block, certificate and state in one synced batch, then send `HeightStarted`.

    Only for blocks that were answered VALID. A no-op if sync has committed the height already.
    """

    height: int
    block_hash: bytes
    certificate: QuorumCertificate


@dataclass(frozen=True, slots=True)
class RequestSync:
    """`peer` is ahead: fetch blocks from `height` on. `shown`: the height that a certificate of the
    present members shows to be decided, -1 where it is a single member's word.
    """

    height: int
    peer: bytes
    shown: int = -1


@dataclass(frozen=True, slots=True)
class SendDecided:
    """`peer` is behind: send it the COMMIT certificate of `height` (it fetches the body)."""

    peer: bytes
    height: int


@dataclass(frozen=True, slots=True)
class ReportEvidence:
    """A validator is convicted; keep, alarm, later include in a block."""

    evidence: Evidence


@dataclass(frozen=True, slots=True)
class Penalise:
    """`peer` authored an invalid message."""

    peer: bytes
    reason: str


@dataclass(frozen=True, slots=True)
class StopSigning:
    """The key is used elsewhere, or this node disagrees with a decided block. The engine signs
    nothing any more; the shell raises an alarm and exits with its own code."""

    reason: str
    key_in_use: bool = False  # Else it disagrees.


Effect = (
    Persist
    | Broadcast
    | SetTimer
    | BuildBlock
    | CheckBlock
    | Decide
    | RequestSync
    | SendDecided
    | ReportEvidence
    | Penalise
    | StopSigning
)
