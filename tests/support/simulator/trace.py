"""What happened, in words for people and in bytes for the hash of a run."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable

from gridtokenx.consensus.events import (
    BlockBuilt,
    BlockChecked,
    Broadcast,
    CheckBlock,
    Decide,
    HeightStarted,
    Observe,
    Penalise,
    Persist,
    Received,
    ReportEvidence,
    RequestSync,
    SendDecided,
    SetTimer,
    StopSigning,
    Tick,
)
from gridtokenx.consensus.messages import (
    Proposal,
    QuorumCertificate,
    Timeout,
    TimeoutCertificate,
    Vote,
)
from tests.support.simulator.chain import Block

LAST_EVENTS = 100


class Trace:
    """Hash of everything, and the last hundred happenings in readable form."""

    def __init__(self) -> None:
        self._recent: deque[tuple[int, str, object]] = deque(maxlen=LAST_EVENTS)
        self._hash = hashlib.sha256()
        self.stream: Callable[[str], None] | None = None

    def note(self, now_ms: int, who: int, what: object) -> None:
        self._hash.update(b"%d %d " % (now_ms, who) + fingerprint(what))
        entry = (now_ms, f"n{who}", what)
        self._recent.append(entry)
        if self.stream is not None:
            self.stream(line(entry))

    def digest(self) -> str:
        return self._hash.hexdigest()

    def lines(self) -> list[str]:
        return [line(entry) for entry in self._recent]


def line(entry: tuple[int, str, object]) -> str:
    now_ms, who, what = entry
    return f"{now_ms:>8} ms {who:>3} {describe(what)}"


def fingerprint(what: object) -> bytes:
    """Bytes that differ whenever it matters, cheaply."""
    match what:
        case Received(message, peer):
            return b"<" + (peer or b"") + fingerprint(message)
        case Broadcast(message):
            return b">" + fingerprint(message)
        case Vote() | Timeout() | Proposal():
            return what.signature
        case QuorumCertificate(phase, height, view, block_hash):
            return b"Q%d %d %d" % (phase, height, view) + block_hash
        case TimeoutCertificate(height, view, entries):
            return b"T%d %d %d" % (height, view, len(entries))
        case BlockChecked(check, verdict):
            return b"C%d" % verdict + check.block_hash
        case BlockBuilt(_, _, block_hash) | Decide(_, block_hash) | CheckBlock(_, _, block_hash):
            return b"B" + block_hash
        case str():
            return what.encode()
    return type(what).__name__.encode()


def short(digest: bytes | None) -> str:
    return "none" if digest is None else digest.hex()[:6]


def describe(what: object) -> str:
    """One readable line without the time."""
    match what:
        case str():
            return what
        case Received(message, peer):
            sender = "itself" if peer is None else f"n{peer[0]}"
            return f"<- {sender}: {_message(message)}"
        case Broadcast(message):
            return f"=> {_message(message)}"
        case Persist(record):
            done = f"prepared {short(record.prepared)} committed {short(record.committed)}"
            high = "none" if record.high_certificate is None else record.high_certificate.view
            left = " left" if record.timed_out else ""
            return f"writes h{record.height} v{record.view} {done} high {high}{left}"
        case Vote() | Timeout() | Proposal() | QuorumCertificate() | TimeoutCertificate():
            return _message(what)
        case _:
            return _event(what)


def _event(what: object) -> str:
    match what:
        case HeightStarted(height, _, open_ms):
            return f"starts height {height}, which opens at {open_ms} ms"
        case Tick():
            return "wakes up"
        case SetTimer(at_ms):
            return f"wants to wake at {at_ms} ms"
        case BlockBuilt(height, view, block_hash):
            return f"built {short(block_hash)} for h{height} v{view}"
        case CheckBlock(_, view, block_hash, _, fresh):
            return f"asks about {short(block_hash)}" + (f" as fresh in v{view}" if fresh else "")
        case BlockChecked(check, verdict):
            return f"finds {short(check.block_hash)} {verdict.name}"
        case Decide(height, block_hash, certificate):
            return f"DECIDES h{height} {short(block_hash)} by v{certificate.view}"
        case RequestSync(height, peer):
            return f"is behind: asks n{peer[0]} from height {height}"
        case SendDecided(peer, height):
            return f"helps n{peer[0]} with height {height}"
    return _accusation(what)


def _accusation(what: object) -> str:
    match what:
        case ReportEvidence(evidence):
            return f"CONVICTS {short(evidence.public_key)} of {evidence.kind.name}"
        case Penalise(peer, reason):
            return f"blames n{peer[0]}: {reason}"
        case StopSigning(reason):
            return f"STOPS SIGNING: {reason}"
        case Observe(until_height, hear_quorum):
            return f"may sign above height {until_height}" + ", a quorum heard" * hear_quorum
    return type(what).__name__


def _message(message: object) -> str:
    match message:
        case Vote(phase, height, view, block_hash, index):
            return f"{phase.name} h{height} v{view} {short(block_hash)} by {index}"
        case Timeout(height, view, high_plus_1, high_hash, index):
            high = f"{short(high_hash)}@{high_plus_1 - 1}" if high_plus_1 else "none"
            return f"TIMEOUT h{height} v{view} high {high} by {index}"
        case Proposal(height, view, block_hash, _, certificate):
            again = "" if certificate is None else f" again, certified in v{certificate.view}"
            return f"PROPOSE h{height} v{view} {short(block_hash)}{again}"
        case QuorumCertificate(phase, height, view, block_hash, signatures):
            signers = ",".join(str(one.index) for one in signatures)
            return f"{phase.name} certificate h{height} v{view} {short(block_hash)} of {signers}"
        case TimeoutCertificate(height, view, entries):
            signers = ",".join(str(one.index) for one in entries)
            return f"TIMEOUT certificate h{height} v{view} of {signers}"
        case Block(height):
            return f"body of {short(message.hash)} h{height}"
    return type(message).__name__
