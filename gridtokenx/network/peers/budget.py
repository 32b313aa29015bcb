"""What all strangers together may cost this node: CPU seconds a second, of one budget.

A stranger is a peer that no validator's key vouches for and that the operator has not named.
Peer ids are free, so limits for each peer add up to more than any machine has; this one does not.
Work of strangers is measured when it is done and charged; while the budget owes, nothing more is
read from them, so that TCP makes them wait. On a machine that has too much to do already they get
less: their work has a price, which rises with the delay of the node's loop. Pure: the caller passes
the time. Source: protocols/networking.md 7.
"""

from __future__ import annotations

from dataclasses import dataclass

from gridtokenx.network.peers.token_buckets import TokenBuckets

MAX_SOURCES = 1_024
IN_TIME_MS = 40  # A loop that is later than this is late because of work, not of the clock's grain.
MAX_PRICE = 8.0
_ALL = "all strangers"


@dataclass(frozen=True, slots=True)
class BudgetLimits:
    """`cpu_share`: CPU seconds a second for all strangers; `source_share`: for one of them.

    A source is an address group, or a peer id on loopback. `burst_s` holds for all, half of it for
    one source.
    """

    cpu_share: float = 0.12
    source_share: float = 0.06
    burst_s: float = 0.4


class StrangersBudget:
    """One bucket for all strangers and one for each source; both may owe, neither beyond a burst.

    Used from the trio thread only.
    """

    def __init__(self, limits: BudgetLimits | None = None) -> None:
        limits = self.limits = limits or BudgetLimits()
        self._all: TokenBuckets[str] = TokenBuckets(limits.cpu_share, limits.burst_s, 1)
        self._sources: TokenBuckets[str] = TokenBuckets(
            limits.source_share, limits.burst_s / 2, MAX_SOURCES
        )
        self.spent_s = 0.0
        self.price = 1.0

    def note_lag(self, lag_ms: int) -> None:
        """How late the node's loop runs: the later, the dearer is what strangers make it do."""
        self.price = min(MAX_PRICE, max(1.0, lag_ms / IN_TIME_MS))

    def wait_s(self, source: str, now_s: float) -> float:
        """Seconds until the source may cost anything; 0 where it may go on now."""
        return max(self.wait_all_s(now_s), self._sources.wait_s(source, 0.0, now_s))

    def wait_all_s(self, now_s: float) -> float:
        """Seconds until strangers together may cost anything, whatever one of them owes."""
        return self._all.wait_s(_ALL, 0.0, now_s)

    def charge(self, source: str, cpu_s: float, now_s: float) -> None:
        """Take what work for a source has cost, measured by `time.thread_time`."""
        self.spent_s += cpu_s
        self._all.charge(_ALL, cpu_s * self.price, now_s)
        self._sources.charge(source, cpu_s * self.price, now_s)
