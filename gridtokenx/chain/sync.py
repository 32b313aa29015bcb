"""Fetching decided blocks from peers: which to ask, what to apply next. Sans-IO.

Blocks and certificates are opaque here: the shell applies them with the one function that also
serves consensus and tells the verdict. Requests go to different peers at once, answers may arrive
in any order, blocks are applied strictly in order, one at a time. Source:
protocols/consensus.md 2.8 (Sync).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from gridtokenx.chain.block import MAX_BLOCK_BYTES, MAX_COMMIT_BYTES
from gridtokenx.consensus.messages import QuorumCertificate

MAX_IN_FLIGHT = 8
BLOCKS_PER_REQUEST = 32
LOOKAHEAD_BLOCKS = MAX_IN_FLIGHT * BLOCKS_PER_REQUEST
MAX_BUFFER_BYTES = 32 * 1024 * 1024
MAX_PEERS = 256
MAX_BANNED = 1024
REQUEST_TIMEOUT_MS = 10_000
FIRST_PAUSE_MS = 1000
MAX_PAUSE_MS = 60_000
DOUBTED_FAILURES = 3
STRANGERS_MS = 2_000  # How long others wait for who is not known to deliver.
RESPONSE_BYTES = 7 * 1024 * 1024  # Source: protocols/networking.md 3.2.
FULL_RESPONSE_BYTES = RESPONSE_BYTES - MAX_BLOCK_BYTES - MAX_COMMIT_BYTES  # One more may not fit.

PeerKey = bytes


# -- Events ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PeerStatus:
    """A peer says its last committed height is `height`."""

    peer: PeerKey
    height: int


@dataclass(frozen=True, slots=True)
class PeerGone:
    """A peer disconnected."""

    peer: PeerKey


@dataclass(frozen=True, slots=True)
class BlocksReceived:
    """Answer to a `RequestBlocks`: consecutive blocks from `from_height`, maybe fewer."""

    peer: PeerKey
    from_height: int
    blocks: tuple[tuple[bytes, QuorumCertificate], ...]


@dataclass(frozen=True, slots=True)
class RequestFailed:
    """A `RequestBlocks` was refused, reset, timed out or answered with nonsense."""

    peer: PeerKey


@dataclass(frozen=True, slots=True)
class Committed:
    """The chain's tip is `height`, whether the block came from here or from consensus."""

    height: int


@dataclass(frozen=True, slots=True)
class Invalid:
    """The `ApplyBlock` of this height was refused: its block or certificate is bad."""

    height: int
    peer: PeerKey
    reason: str


@dataclass(frozen=True, slots=True)
class Surveyed:
    """Who is connected and follows the chain (anybody else is forgotten), and for whom of them the
    chain's present validators vouch.

    `shown`: the height that is decided for sure, by what validators have signed, or as those with
    more than a third of the weight say; -1 if nothing is known.
    """

    present: frozenset[PeerKey]
    vouched: frozenset[PeerKey] = frozenset()
    shown: int = -1


@dataclass(frozen=True, slots=True)
class Tick:
    """Time passed; send one every second."""


Event = (
    PeerStatus | PeerGone | BlocksReceived | RequestFailed | Committed | Invalid | Surveyed | Tick
)


# -- Effects ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RequestBlocks:
    """Ask `peer` for up to `count` blocks with certificates (the server also bounds bytes)."""

    peer: PeerKey
    from_height: int
    count: int


@dataclass(frozen=True, slots=True)
class ApplyBlock:
    """Verify, execute and commit; answer `Committed` (also if consensus was faster) or `Invalid`.

    Never two at a time.
    """

    height: int
    block: bytes
    certificate: QuorumCertificate
    peer: PeerKey


@dataclass(frozen=True, slots=True)
class PenalisePeer:
    """`peer` sent a bad block and is not asked again while this node runs."""

    peer: PeerKey
    reason: str


@dataclass(frozen=True, slots=True)
class NotDelivered:
    """`peer` said that it has blocks which it then answered it has not."""

    peer: PeerKey


@dataclass(frozen=True, slots=True)
class Unfounded:
    """`peer` says a height that nothing shows, and failed again and again to bring a block while
    the chain moved on.
    """

    peer: PeerKey


Effect = RequestBlocks | ApplyBlock | PenalisePeer | NotDelivered | Unfounded


@dataclass(slots=True)
class _Peer:
    """`is_proved`: all that it was asked for last it has sent. `tip_before`: the tip when it was
    asked first since then, -1 for not at all.
    """

    height: int
    failures: int = 0
    is_proved: bool = False
    tip_before: int = -1
    rests_until_ms: int = 0
    asked_at_ms: int = -1
    request: RequestBlocks | None = None


@dataclass(frozen=True, slots=True)
class _Buffered:
    block: bytes
    certificate: QuorumCertificate
    peer: PeerKey


class Syncer:
    """One chain's block fetcher. `tip`: last committed height at start.

    `grace_ms`: how long to be a single block behind before asking; consensus usually delivers it.
    """

    def __init__(self, tip: int, grace_ms: int = 1000) -> None:
        self.tip = tip
        self._grace_ms = grace_ms
        self._peers: dict[PeerKey, _Peer] = {}
        self._banned: dict[PeerKey, None] = {}  # Ordered: the oldest ban is forgotten first.
        self._vouched: frozenset[PeerKey] = frozenset()
        self._shown = -1
        self._failed: dict[PeerKey, _Peer] = {}  # Gone, and owed us something when it left.
        self._buffer: dict[int, _Buffered] = {}
        self._buffer_bytes = 0
        self._full = False  # A block found no room; ask for no more before some is freed.
        self._applying: int | None = None
        self._level_at_ms = 0  # When the chain was last at the target, or moved.
        self._now_ms = 0
        self._out: list[Effect] = []

    @property
    def target(self) -> int:
        """Highest height a usable peer says it has; the tip if nobody is ahead. What is fetched."""
        return max([self.tip, *(peer.height for peer in self._peers.values())])

    @property
    def claimed_target(self) -> int:
        """`target` without those that failed to deliver again and again: nobody is ahead of it
        unless all who say so have been tried.
        """
        claims = [one.height for one in self._peers.values() if one.failures < DOUBTED_FAILURES]
        return max([self.tip, *claims])

    @property
    def credible_target(self) -> int:
        """What is shown, and what peers say that have sent all that they were asked for last.

        Peer ids are free: who has shown nothing yet is asked, but must not make us look behind.
        """
        claims = [one.height for one in self._peers.values() if one.is_proved]
        return max([self.tip, self._shown, *claims])

    @property
    def peers(self) -> int:
        """How many usable peers are known."""
        return len(self._peers)

    def handle(self, event: Event, now_ms: int) -> list[Effect]:
        """Apply one event at `now_ms` (any clock that never goes back); return what to do."""
        self._now_ms = max(self._now_ms, now_ms)
        if self.target <= self.tip:
            self._level_at_ms = self._now_ms
        match event:
            case PeerStatus(peer, height):
                self._note_peer(peer, height)
            case PeerGone(peer):
                self._forget(peer)
            case BlocksReceived():
                self._receive(event)
            case RequestFailed(peer):
                self._fail(peer)
            case Committed(height):
                self._advance(height)
            case Invalid(height, peer, reason):
                self._refuse(height, peer, reason)
            case Surveyed():
                self._survey(event)
            case Tick():
                self._expire()
        self._apply_next()
        self._ask()
        effects, self._out = self._out, []
        return effects

    # -- Events ------------------------------------------------------------------------------------

    def _note_peer(self, key: PeerKey, height: int) -> None:
        if key in self._banned:
            return
        peer = self._peers.get(key)
        if peer is not None:
            peer.height = max(peer.height, height)
        elif len(self._peers) < MAX_PEERS or self._make_room(key):
            known = self._failed.pop(key, None)
            if known is None:
                self._peers[key] = _Peer(height)
            else:  # Coming back buys no new trust, or a liar could make us look behind for ever.
                self._peers[key] = _Peer(
                    height, known.failures, False, known.tip_before, known.rests_until_ms
                )

    def _make_room(self, key: PeerKey) -> bool:
        """Put out who has failed most; for one that is vouched for also one that has not."""
        others = [one for one in self._peers if one not in self._vouched]
        worst = max(others, key=lambda one: self._peers[one].failures, default=None)
        if worst is None or not (self._peers[worst].failures or key in self._vouched):
            return False
        self._forget(worst)
        return True

    def _survey(self, event: Surveyed) -> None:
        self._vouched, self._shown = event.vouched, event.shown
        for gone in [key for key in self._peers if key not in event.present]:
            self._forget(gone)

    def _forget(self, key: PeerKey) -> None:
        """The peer has left. Its failures are remembered, those of the latest MAX_BANNED."""
        self._fail(key)  # What it was asked for it will not deliver.
        peer = self._peers.pop(key, None)
        if peer is not None and peer.failures:
            while len(self._failed) >= MAX_BANNED:
                del self._failed[next(iter(self._failed))]
            self._failed[key] = peer

    def _receive(self, event: BlocksReceived) -> None:
        """Keep what was asked for. An answer without blocks is a failure: the peer lacks them."""
        peer = self._peers.get(event.peer)
        request = None if peer is None else peer.request
        if peer is None or request is None or request.from_height != event.from_height:
            return
        if not event.blocks:
            peer.height = min(peer.height, event.from_height - 1)
            self._fail(event.peer)
            self._out.append(NotDelivered(event.peer))
            return
        peer.request, peer.failures, peer.tip_before = None, 0, -1
        size = sum(len(block) for block, _ in event.blocks)
        peer.is_proved = len(event.blocks) >= request.count or size > FULL_RESPONSE_BYTES
        for offset, (block, certificate) in enumerate(event.blocks[: request.count]):
            height = event.from_height + offset
            self._keep(height, _Buffered(block, certificate, event.peer))

    def _keep(self, height: int, arrived: _Buffered) -> None:
        """Buffer a block that is still wanted and fits; the next one always fits."""
        if not self.tip < height <= self.tip + LOOKAHEAD_BLOCKS or height in self._buffer:
            return
        size = len(arrived.block)
        if self._buffer_bytes + size <= MAX_BUFFER_BYTES or height == self.tip + 1:
            self._buffer[height] = arrived
            self._buffer_bytes += size
        else:
            self._full = True

    def _fail(self, key: PeerKey) -> None:
        """Let the peer rest, twice as long after every failure in a row."""
        peer = self._peers.get(key)
        if peer is None or peer.request is None:
            return
        pause_ms = min(FIRST_PAUSE_MS << min(peer.failures, 6), MAX_PAUSE_MS)
        peer.request, peer.rests_until_ms = None, self._now_ms + pause_ms
        peer.is_proved = False
        peer.failures += 1
        doubted = peer.failures >= DOUBTED_FAILURES and peer.height > self.credible_target
        if doubted and self.tip > peer.tip_before:  # Blocks come, so our line is not bad.
            self._out.append(Unfounded(key))

    def _advance(self, height: int) -> None:
        if height <= self.tip:
            return
        for done in range(self.tip + 1, min(height, self.tip + LOOKAHEAD_BLOCKS) + 1):
            self._drop(done)
        self.tip, self._level_at_ms = height, self._now_ms
        if self._applying is not None and self._applying <= height:
            self._applying = None

    def _refuse(self, height: int, key: PeerKey, reason: str) -> None:
        """Ban the author and forget all it sent; others are asked again."""
        if self._applying == height:
            self._applying = None
        self._peers.pop(key, None)
        if key not in self._banned:
            if len(self._banned) >= MAX_BANNED:
                del self._banned[next(iter(self._banned))]
            self._banned[key] = None
            self._out.append(PenalisePeer(key, reason))
        for tainted in [at for at, held in self._buffer.items() if held.peer == key]:
            self._drop(tainted)

    def _drop(self, height: int) -> None:
        held = self._buffer.pop(height, None)
        if held is not None:
            self._buffer_bytes -= len(held.block)
            self._full = False

    def _expire(self) -> None:
        for key, peer in self._peers.items():
            if peer.request is not None and self._now_ms - peer.asked_at_ms >= REQUEST_TIMEOUT_MS:
                self._fail(key)

    # -- What follows ------------------------------------------------------------------------------

    def _apply_next(self) -> None:
        """Hand over the next block, if it is here and none is being applied."""
        height = self.tip + 1
        held = self._buffer.get(height)
        if held is not None and self._applying is None:
            self._applying = height
            self._out.append(ApplyBlock(height, held.block, held.certificate, held.peer))

    def _ask(self) -> None:
        """Spread the missing ranges over rested peers, the least recently asked first.

        Those that validators vouch for and those that have delivered come before strangers, and do
        not wait for these, or a few silent ones with ever new names would have all places.
        """
        behind = self.target - self.tip
        if behind < 1 or (behind == 1 and self._now_ms - self._level_at_ms < self._grace_ms):
            return
        busy = [(key, one) for key, one in self._peers.items() if one.request is not None]
        free = sorted(
            (peer.failures, peer.asked_at_ms, key)
            for key, peer in self._peers.items()
            if peer.request is None and peer.rests_until_ms <= self._now_ms
        )
        since_ms = self._now_ms - STRANGERS_MS
        known = [key for *_, key in free if not self._is_doubtful(key)]
        awaited = [
            one for key, one in busy if not self._is_doubtful(key) or one.asked_at_ms > since_ms
        ]
        asked = self._spread(known, awaited)
        strangers = [key for *_, key in free if self._is_doubtful(key)]
        self._spread(strangers, [*(one for _, one in busy), *asked])

    def _spread(self, idle: list[PeerKey], busy: list[_Peer]) -> list[_Peer]:
        """Ask idle peers for what is missing beside that for which others are waited for."""
        asked: list[_Peer] = []
        for start, count in self._missing(busy):
            if len(busy) + len(asked) >= MAX_IN_FLIGHT:
                break
            key = next((one for one in idle if self._peers[one].height >= start), None)
            if key is not None:
                idle.remove(key)
                self._request(key, start, count)
                asked.append(self._peers[key])
        return asked

    def _is_doubtful(self, key: PeerKey) -> bool:
        peer = self._peers[key]
        is_known = peer.is_proved or key in self._vouched
        return not is_known or peer.failures >= DOUBTED_FAILURES

    def _request(self, key: PeerKey, start: int, count: int) -> None:
        peer = self._peers[key]
        request = RequestBlocks(key, start, min(count, peer.height - start + 1))
        peer.request, peer.asked_at_ms = request, self._now_ms
        if peer.tip_before < 0:
            peer.tip_before = self.tip
        self._out.append(request)

    def _missing(self, busy: list[_Peer]) -> Iterator[tuple[int, int]]:
        """Ranges within the look-ahead that are neither here nor awaited of these, lowest first."""
        first = self.tip + 1
        last = first if self._full else min(self.target, self.tip + LOOKAHEAD_BLOCKS)
        asked = sorted(
            (peer.request.from_height, peer.request.count)
            for peer in busy
            if peer.request is not None
        )
        covered = [False] * (last - first + 1)
        for start, count in asked:
            for height in range(max(start, first), min(start + count - 1, last) + 1):
                covered[height - first] = True
        start = first
        while start <= last:
            count = 0
            while count < BLOCKS_PER_REQUEST and start + count <= last:
                if covered[start + count - first] or start + count in self._buffer:
                    break
                count += 1
            if count:
                yield start, count
            start += max(count, 1)
