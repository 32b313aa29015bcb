"""The rate limiter: one bucket of tokens for each remote address. Source: surface C 4."""

from __future__ import annotations

from collections.abc import Callable

from gridtokenx.api.errors import ApiError, TransportCode
from gridtokenx.primitives.errors import ErrorCode

BURST_SECONDS = 2
MAX_CLIENTS = 4096


class Limiter:
    """A client has `rate` calls a second and may save up two seconds' worth.

    Each item of a batch pays; a call that costs more than a full bucket is refused for good.
    """

    def __init__(self, rate_per_second: int, clock: Callable[[], float]) -> None:
        self._rate = rate_per_second
        self._burst = rate_per_second * BURST_SECONDS
        self._clock = clock
        self._buckets: dict[str, tuple[float, float]] = {}  # client: tokens, as of when

    def pay(self, client: str, price: int) -> None:
        """Take tokens. Errors: BUSY that tells when to come back; TOO_LARGE if it never can."""
        now = self._clock()
        tokens, then = self._buckets.pop(client, (float(self._burst), now))
        tokens = min(float(self._burst), tokens + (now - then) * self._rate)
        if price > self._burst:
            self._keep(client, tokens, now)
            detail = f"one request costs {price} calls, this node allows {self._burst} at once"
            hint = "send fewer items in a request, or raise api.rate_per_second on the node"
            raise ApiError(ErrorCode.TOO_LARGE, detail, hint=hint)
        if price > tokens:
            self._keep(client, tokens, now)
            wait_s = -(-(price - tokens) // self._rate)
            detail = f"more than {self._rate} calls a second from {client}"
            raise ApiError(
                TransportCode.BUSY,
                detail,
                hint=f"wait {max(1, int(wait_s))} s",
                retry_after_s=max(1, int(wait_s)),
            )
        self._keep(client, tokens - price, now)

    def _keep(self, client: str, tokens: float, now: float) -> None:
        """The table is ordered by last call; the client quiet for longest is forgotten first."""
        if len(self._buckets) >= MAX_CLIENTS:
            del self._buckets[next(iter(self._buckets))]
        self._buckets[client] = (tokens, now)
