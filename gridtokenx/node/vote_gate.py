"""Which of consensus' messages are genuine, and how many are let through, whoever publishes them.

Anybody may publish again what a member has signed, under as many gossip identities as they like,
and a member may sign without end. So equal data is let through once in half a resend interval,
and each member's own messages, once its signature is known to be good, only at a rate.
Pure: times are the driver's milliseconds. Source: protocols/networking.md 4, 4.2.
"""

from __future__ import annotations

from enum import Enum, auto

from gridtokenx.chain.validator_sets import SetsAhead
from gridtokenx.consensus.ballots import VIEW_WINDOW
from gridtokenx.consensus.certificates import CertificateChecker, Verify
from gridtokenx.consensus.messages import (
    Message,
    Proposal,
    QuorumCertificate,
    Timeout,
    TimeoutCertificate,
    Vote,
    message_bytes,
)
from gridtokenx.network.peers.token_buckets import TokenBuckets
from gridtokenx.primitives.crypto import sha256
from gridtokenx.primitives.errors import Rejected

MEMBER_MESSAGES_PER_S = 50
MEMBER_BURST = 500
CERTIFICATES_PER_S = 200  # Of nobody in particular: every member may build its own.
CERTIFICATES_BURST = 2_000
UNKNOWN_PER_S = 16  # Of one trusted peer: it may be behind, or tell us that we are.
UNKNOWN_BURST = 64
STRANGERS_PER_S = 8  # Of all strangers together.
ANSWERS_PER_S = 16  # Certificates of old heights, each height once a second; one for strangers.
MAX_ANSWERED = 64  # Heights and peers.
MAX_REMEMBERED = 4_096
MAX_MEMBERS = 1_024


class Judgement(Enum):
    """What a message is worth."""

    GENUINE = auto()
    FORGED = auto()  # Whoever forwards it has not checked it.
    REPEATED = auto()
    TOO_MANY = auto()  # Genuine, but its member talks too much.
    UNKNOWN = auto()  # Too far ahead or behind to tell.


class VoteGate:
    """One chain's. A member resends equal data at most every `resend_ms`."""

    def __init__(self, chain_id: bytes, resend_ms: int, verify: Verify) -> None:
        self._chain_id = chain_id
        self._verify = verify
        self._checker = CertificateChecker(chain_id, verify)
        self._interval_ms = resend_ms // 2
        self._accepted: dict[bytes, int] = {}  # hash of the data -> when, ms; oldest first
        # What is new and what is said again apart: whoever publishes a member's old words again,
        # as anybody can, takes nothing from its next vote.
        self._members: TokenBuckets[tuple[bytes, bool]] = TokenBuckets(
            MEMBER_MESSAGES_PER_S, MEMBER_BURST, 2 * MAX_MEMBERS
        )
        self._certificates: TokenBuckets[bool] = TokenBuckets(
            CERTIFICATES_PER_S, CERTIFICATES_BURST, 2
        )
        self._unknown: TokenBuckets[bytes] = TokenBuckets(
            UNKNOWN_PER_S, UNKNOWN_BURST, MAX_ANSWERED
        )
        self._strangers: TokenBuckets[None] = TokenBuckets(STRANGERS_PER_S, STRANGERS_PER_S, 1)
        self._answers: TokenBuckets[bool] = TokenBuckets(ANSWERS_PER_S, ANSWERS_PER_S, 2)
        self._answered: TokenBuckets[int] = TokenBuckets(1, 1, MAX_ANSWERED)

    def __len__(self) -> int:
        return len(self._accepted)

    def judge(
        self, height: int, view: int, sets: SetsAhead, message: Message, data: bytes, now_ms: int
    ) -> Judgement:
        """Judge a message, encoded as `data`, while `height` is being decided, in `view`.

        `sets` are the sets from the newest block on, so also those of the next height.
        """
        at_ms = self._accepted.get(sha256(data))
        if at_ms is not None and now_ms - at_ms < self._interval_ms:
            return Judgement.REPEATED
        if abs(message.height - height) > 1:
            return Judgement.UNKNOWN
        near = VIEW_WINDOW + (view if message.height == height else 0)
        if isinstance(message, Proposal) and message.view > near:
            return Judgement.UNKNOWN  # To find out its leader may take as long as the view is high.
        if not self._is_genuine(sets, message):
            # Of the height before, the set may have gone while the message was on its way.
            return Judgement.FORGED if message.height >= height else Judgement.UNKNOWN
        author = signer_key(sets, message)
        is_new = at_ms is None
        if author is None:
            admitted = self._certificates.take(is_new, 1, now_ms / 1_000)
        else:
            admitted = self._members.take((author, is_new), 1, now_ms / 1_000)
        return Judgement.GENUINE if admitted else Judgement.TOO_MANY

    def note(self, data: bytes, now_ms: int) -> None:
        """Remember data that was accepted now."""
        digest = sha256(data)
        self._accepted.pop(digest, None)
        self._accepted[digest] = now_ms
        if len(self._accepted) > MAX_REMEMBERED:
            del self._accepted[next(iter(self._accepted))]

    def admits_unknown(self, peer: bytes, *, is_stranger: bool, now_ms: int) -> bool:
        """Whether the engine should hear what `peer` has brought and nobody can judge here."""
        now_s = now_ms / 1_000
        if is_stranger:
            return self._strangers.take(None, 1, now_s)
        return self._unknown.take(peer, 1, now_s)

    def may_answer(self, height: int, *, is_stranger: bool, now_ms: int) -> bool:
        """Whether to publish the certificate of an old height, which all will hear, for a peer."""
        now_s = now_ms / 1_000
        price = ANSWERS_PER_S if is_stranger else 1
        if not self._answered.holds(height, 1, now_s):
            return False
        if not self._answers.take(is_stranger, price, now_s):
            return False
        return self._answered.take(height, 1, now_s)

    def _is_genuine(self, sets: SetsAhead, message: Message) -> bool:
        if isinstance(message, QuorumCertificate | TimeoutCertificate):
            try:
                self._checker.check(message, sets.at(message.height).validators)
            except Rejected:
                return False
            return True
        author = signer_key(sets, message)
        signed = message_bytes(self._chain_id, message)
        return author is not None and self._verify(author, signed, message.signature)


def signer_key(sets: SetsAhead, message: Message) -> bytes | None:
    """Key of who must have signed a message; None for a certificate, or where it is no member."""
    if isinstance(message, QuorumCertificate | TimeoutCertificate):
        return None
    if isinstance(message, Vote | Timeout):
        index = message.index
    else:
        index = sets.leader(message.height, message.view)
    members = sets.at(message.height).validators.members
    return members[index].public_key if index < len(members) else None
