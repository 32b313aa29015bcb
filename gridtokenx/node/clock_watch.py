"""Watches this node's clock: what validators and decided blocks show, and what that stops.

A clock that is wrong keeps the node from proposing on the chains whose validators say so, and from
being ready. A machine that is too slow to tell is told that it is slow, not that its clock is off.
Source: protocols/networking.md 3.5.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import structlog
import trio

from gridtokenx.chain.transition import MAX_TIME_AHEAD_MS
from gridtokenx.node.witnesses import SLOW_MS, Opinion, Sample, judge, offset_ms
from gridtokenx.primitives.validators import ValidatorSet
from gridtokenx.views.status import Check

HINT = "enable chrony or systemd-timesyncd"
SLOW_FOR_S = 60.0  # Told once in an episode, which ends when the loop was in time for so long.

log = structlog.get_logger(__name__)


class ClockWatch:
    """Owned by the trio loop; `check` is for any thread.

    `me`: this node's validator key. `national`: the chain whose validators decide on readiness;
    None lets any chain's.
    """

    def __init__(
        self,
        now_ms: Callable[[], int],
        most_ms: int,
        me: bytes | None = None,
        national: str | None = None,
    ) -> None:
        self._now_ms = now_ms
        self._most_ms = most_ms
        self._me = me
        self._national = national
        self._blocks: dict[str, Sample] = {}  # The newest decided one of each chain.
        self._opinions: dict[str, Opinion] = {}
        self._believed_from_s = 0.0  # Samples before that are of a time when nothing was in time.
        self._lag_ms = 0
        self._slow_until_s = 0.0

    def note_block(self, chain: str, time_ms: int) -> None:
        """A block is decided: most of the weight has said that its time lies not ahead of them."""
        now_s = trio.current_time()
        origin = time_ms - MAX_TIME_AHEAD_MS - round(now_s * 1_000)
        self._blocks[chain] = Sample(origin, now_s)

    def look(
        self,
        samples: Mapping[bytes, Iterable[Sample]],
        sets: Mapping[str, ValidatorSet],
        lag_ms: int,
    ) -> None:
        """Judge anew. `samples` by validator key, `sets` by chain; `lag_ms`: how late our loop is.

        Call it each second: that is also what makes the clock follow the host's.
        """
        now_s = trio.current_time()
        origin = self._now_ms() - round(now_s * 1_000)
        self._note_lag(lag_ms, now_s)
        said = {}
        for key, some in samples.items():
            believed = [one for one in some if one.taken_s >= self._believed_from_s]
            offset = offset_ms(believed, origin, now_s)
            if offset is not None:
                said[key] = offset
        before = self._opinions
        self._opinions = {
            name: self._with_block(name, judge(members, self._me, said, self._most_ms), origin)
            for name, members in sets.items()
        }
        for name, opinion in self._opinions.items():
            self._tell(name, before.get(name, Opinion()), opinion)

    def is_right(self, chain: str) -> bool:
        """Whether this clock may give a block of the chain its time."""
        return not self._opinions.get(chain, Opinion()).is_wrong

    def check(self) -> Check:
        """For `/ready`."""
        opinion, slow = self._decisive(), self._lag_ms > SLOW_MS
        heard = f"{opinion.witnesses} validators heard"
        return Check(
            "clock",
            not opinion.is_wrong,
            f"{opinion.offset_ms} ms, {heard}" + ", this machine is slow" * slow,
            f"within {self._most_ms} ms",
            HINT,
        )

    # -- Inside ------------------------------------------------------------------------------------

    def _decisive(self) -> Opinion:
        opinions = self._opinions
        if self._national in opinions:
            return opinions[self._national]
        worst = lambda one: (one.is_wrong, abs(one.offset_ms), one.witnesses)  # noqa: E731
        return max(opinions.values(), key=worst, default=Opinion())

    def _with_block(self, chain: str, opinion: Opinion, origin: int) -> Opinion:
        """A decided block's time is the least that the time can be."""
        block = self._blocks.get(chain)
        behind_ms = 0 if block is None else block.origin_ms - origin
        if behind_ms <= self._most_ms:
            return opinion
        return Opinion(max(behind_ms, opinion.offset_ms), opinion.witnesses, is_wrong=True)

    def _note_lag(self, lag_ms: int, now_s: float) -> None:
        self._lag_ms = lag_ms
        if lag_ms <= SLOW_MS:
            return
        self._believed_from_s = now_s
        if now_s >= self._slow_until_s:
            log.warning(
                "clock.slow",
                code="GTX-CLK-002",
                hint=f"this machine is slow or stood still: the node's loop ran {lag_ms} ms late, "
                "so it cannot tell what others' clocks show. More or faster cores, or less beside "
                "the node",
            )
        self._slow_until_s = now_s + SLOW_FOR_S

    def _tell(self, chain: str, before: Opinion, now: Opinion) -> None:
        if self._is_odd(before) and not self._is_odd(now) and now.witnesses:
            log.info("clock.agrees", chain=chain, offset_ms=now.offset_ms)
        if not self._is_odd(now) or (self._is_odd(before) and before.is_wrong == now.is_wrong):
            return
        direction = "behind" if now.offset_ms > 0 else "ahead of"
        so = "stops proposing there" if now.is_wrong else "goes on, as they are too few to tell"
        log.warning(
            "clock.offset",
            code="GTX-CLK-001",
            chain=chain,
            hint=f"this clock is {abs(now.offset_ms)} ms {direction} that of {chain}'s validators "
            f"({now.witnesses} heard); this node {so}. Please {HINT}",
        )

    def _is_odd(self, opinion: Opinion) -> bool:
        return opinion.is_wrong or abs(opinion.offset_ms) > self._most_ms
