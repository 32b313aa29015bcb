"""The state of one height and the timing parameters. Source: protocols/consensus.md 2.4, 2.6."""

from __future__ import annotations

from dataclasses import dataclass, field

from gridtokenx.consensus.ballots import VIEW_WINDOW, Ballots
from gridtokenx.consensus.events import CheckBlock, SafetyRecord, Verdict
from gridtokenx.consensus.leader import LeaderSchedule
from gridtokenx.consensus.messages import (
    Phase,
    Proposal,
    QuorumCertificate,
    Timeout,
    TimeoutCertificate,
    Vote,
)
from gridtokenx.primitives.validators import ValidatorSet

MAX_CHECKS = 64
MAX_QUIET = 4  # Resend intervals between two repetitions of the same words.


@dataclass(frozen=True, slots=True)
class Timing:
    """Milliseconds, from genesis: 5000 for 10 s blocks, less for faster ones.

    The cap of 8 bases must exceed the worst proposal, execution and two hops.
    """

    base_ms: int = 5000
    resend_ms: int = 1000
    build_ahead_ms: int = 0  # How long before `open_ms` the leader starts building.

    def __post_init__(self) -> None:
        if self.base_ms < 1 or self.resend_ms < 1 or self.build_ahead_ms < 0:
            raise ValueError(f"timing must be positive: {self}")

    def timeout_ms(self, view: int) -> int:
        """T(v): the base up to view 2, then half as much again per view, at most 8 bases."""
        timeout_ms = self.base_ms
        for _ in range(min(view - 2, 6)):
            timeout_ms = timeout_ms * 3 // 2
        return min(timeout_ms, 8 * self.base_ms)


@dataclass(slots=True)
class Check:
    """How far the shell is with a block."""

    request: CheckBlock
    verdict: Verdict | None = None
    until_ms: int = 0


@dataclass
class HeightState:
    """Everything the engine knows of the height being decided. Volatile but for `record()`."""

    height: int
    validators: ValidatorSet
    schedule: LeaderSchedule
    epoch_start: int
    open_ms: int
    me: int | None  # Own index in the set; None: no key, or not a member.
    deadline_ms: int
    resend_at_ms: int = 0
    ballots: Ballots = field(init=False)
    checks: dict[tuple[bytes, int], Check] = field(default_factory=dict)
    convicted: dict[tuple[int, bytes], None] = field(default_factory=dict)
    high_certificate: QuorumCertificate | None = None
    commit_certificate: QuorumCertificate | None = None
    decided: bool = False
    last_commit: Vote | None = None
    # Signatures made since `complete_from`; another one under our key there is a stranger's.
    own_signatures: dict[bytes, int] = field(default_factory=dict)
    complete_from: int = 0
    stored: tuple[bytes, ...] = ()  # Candidates of the record we started from: on disk, unchecked.
    # -- Of the view -------------------------------------------------------------------------------
    view: int = 0
    prepared: bytes | None = None
    committed: bytes | None = None
    timed_out: bool = False
    entry: TimeoutCertificate | None = None
    own: tuple[Proposal | Vote | Timeout, ...] = ()
    proposal: Proposal | None = None
    building: bool = False
    built: bytes | None = None
    quiet: int = 1  # How many intervals before own messages leave again,
    waited: int = 0  # and how many have passed.

    def __post_init__(self) -> None:
        self.ballots = Ballots(self.validators)

    @property
    def high_view(self) -> int:
        """View of the highest PREPARE certificate, -1 for none."""
        return -1 if self.high_certificate is None else self.high_certificate.view

    @property
    def proposed(self) -> bool:
        """Whether this node sent its proposal in the view."""
        return any(isinstance(message, Proposal) for message in self.own)

    def leader(self, height: int, view: int) -> int:
        """Index of the leader; the height may be this one or the next of the same epoch."""
        return self.schedule.leader(height - self.epoch_start + view)

    def verdict(self, block_hash: bytes, fresh_view: int = -1) -> Verdict | None:
        """What is known of a block: in general, or as the fresh block of a view."""
        check = self.checks.get((block_hash, fresh_view))
        return None if check is None else check.verdict

    def is_valid(self, block_hash: bytes) -> bool:
        """Whether the body is here and executed without complaint."""
        return self.verdict(block_hash) is Verdict.VALID

    def set_check(self, check: Check) -> None:
        """Record a verdict or a question; valid as fresh means valid in general."""
        request = check.request
        key = (request.block_hash, request.view if request.fresh else -1)
        self.checks[key] = check
        if request.fresh and check.verdict is Verdict.VALID:
            self.checks[request.block_hash, -1] = check
        while len(self.checks) > MAX_CHECKS:
            del self.checks[next(iter(self.checks))]

    def enter_view(self, view: int, entry: TimeoutCertificate | None, deadline_ms: int) -> None:
        """Reset what belongs to the view; what was signed in it stays known as ours."""
        for message in self.own:
            if isinstance(message, Vote) and message.phase is Phase.COMMIT:
                self.last_commit = message
        self.view, self.entry, self.deadline_ms = view, entry, deadline_ms
        self.prepared = self.committed = self.built = self.proposal = None
        self.timed_out = self.building = False
        self.own = ()
        self.said_new()
        self.checks = {key: check for key, check in self.checks.items() if key[1] < 0}
        self.ballots.prune(view)
        low = view - VIEW_WINDOW
        self.complete_from = max(self.complete_from, low)
        self.own_signatures = {
            signature: signed for signature, signed in self.own_signatures.items() if signed >= low
        }

    def said_new(self) -> None:
        """A new view or own message: if it gets lost it is repeated after one interval."""
        self.quiet, self.waited = 1, 0

    def says_again(self) -> bool:
        """At the end of an interval: after 1, 2, 4, 4, ... of them, or those who are slow would
        have to read the more the slower they are.
        """
        self.waited += 1
        if self.waited < self.quiet:
            return False
        self.quiet, self.waited = min(2 * self.quiet, MAX_QUIET), 0
        return True

    def note_own(self, message: Proposal | Vote | Timeout) -> None:
        """Append an own message of the current view and set what it decides."""
        self.own = (*self.own, message)
        self.own_signatures[message.signature] = message.view
        if isinstance(message, Timeout):
            self.timed_out = True
        elif isinstance(message, Vote) and message.phase is Phase.PREPARE:
            self.prepared = message.block_hash
        elif isinstance(message, Vote):
            self.committed = message.block_hash

    def record(self) -> SafetyRecord:
        """The durable part. Candidates are the blocks we hold and may have to serve or commit.

        What an earlier record named is still held, also before it is executed again.
        """
        high = None if self.high_certificate is None else self.high_certificate.block_hash
        named = (self.prepared, self.committed, high, self.built)
        candidates = dict.fromkeys(
            block
            for block in named
            if block is not None and (block in self.stored or self.is_valid(block))
        )
        return SafetyRecord(
            self.height,
            self.view,
            self.prepared,
            self.committed,
            self.timed_out,
            self.high_certificate,
            self.entry,
            self.own,
            self.last_commit,
            tuple(candidates),
        )

    def restore(self, record: SafetyRecord, deadline_ms: int) -> None:
        """Take up the height where the record left it; `own` is re-applied by the engine."""
        self.view, self.entry, self.deadline_ms = record.view, record.entry, deadline_ms
        self.prepared, self.committed = record.prepared, record.committed
        self.timed_out = record.timed_out
        self.high_certificate = record.high_certificate
        self.own, self.last_commit = record.own, record.last_commit
        self.complete_from, self.stored = record.view, record.candidates
        signed = record.own if record.last_commit is None else (*record.own, record.last_commit)
        self.own_signatures = {message.signature: message.view for message in signed}
        if record.high_certificate is not None:
            self.ballots.remember(record.high_certificate)
