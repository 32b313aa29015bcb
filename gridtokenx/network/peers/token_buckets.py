"""Token buckets: the one way in which a node limits what others make it do.

Pure: the caller passes the time. Nothing is kept of a key that has been quiet long enough to be
full again only because the table is bounded: the key quiet for longest is forgotten first.
"""

from __future__ import annotations

from typing import Generic, TypeVar

Key = TypeVar("Key")


class TokenBuckets(Generic[Key]):
    """A bucket for each key: it refills at `rate_per_s` and holds at most `burst` tokens.

    At most `max_keys` are remembered; one that is forgotten begins anew with a full bucket. Times
    are seconds of any clock that does not go back.
    """

    def __init__(self, rate_per_s: float, burst: float, max_keys: int) -> None:
        self._rate = rate_per_s
        self._burst = float(burst)
        self._max_keys = max_keys
        self._buckets: dict[Key, tuple[float, float]] = {}  # tokens, as of when; by last use

    def __len__(self) -> int:
        return len(self._buckets)

    def holds(self, key: Key, tokens: float, now_s: float) -> bool:
        """Whether `take` would succeed; takes nothing."""
        return tokens <= self._refilled(key, now_s)

    def take(self, key: Key, tokens: float, now_s: float) -> bool:
        """Take the tokens if the bucket has them all; otherwise take none."""
        left = self._refilled(key, now_s)
        enough = tokens <= left
        self._keep(key, left - tokens if enough else left, now_s)
        return enough

    def charge(self, key: Key, tokens: float, now_s: float) -> None:
        """Take tokens for what was done already: the bucket may owe up to `burst`."""
        self._keep(key, max(-self._burst, self._refilled(key, now_s) - tokens), now_s)

    def wait_s(self, key: Key, tokens: float, now_s: float) -> float:
        """Seconds until `take` would succeed, infinite where the bucket can never hold so much."""
        if tokens > self._burst:
            return float("inf")
        return max(0.0, (tokens - self._refilled(key, now_s)) / self._rate)

    def _refilled(self, key: Key, now_s: float) -> float:
        found = self._buckets.get(key)
        if found is None:
            return self._burst
        tokens, then_s = found
        return min(self._burst, tokens + (now_s - then_s) * self._rate)

    def _keep(self, key: Key, tokens: float, now_s: float) -> None:
        self._buckets.pop(key, None)
        if len(self._buckets) >= self._max_keys:
            del self._buckets[next(iter(self._buckets))]
        self._buckets[key] = (tokens, now_s)
