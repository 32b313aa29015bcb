"""The rate limiter: one bucket of tokens for each IPv4 address or IPv6 /64. Source: surface C 4."""

from __future__ import annotations

import math
from collections.abc import Callable

from gridtokenx.api.errors import ApiError, TransportCode
from gridtokenx.node.rate_limit import TokenBuckets
from gridtokenx.node.reputation import address_group
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
        self._buckets: TokenBuckets[str] = TokenBuckets(rate_per_second, self._burst, MAX_CLIENTS)

    def pay(self, client: str, price: int) -> None:
        """Take tokens. Errors: BUSY that tells when to come back; TOO_LARGE if it never can."""
        now_s = self._clock()
        client = address_group(client)
        if self._buckets.take(client, price, now_s):
            return
        wait_s = self._buckets.wait_s(client, price, now_s)
        if math.isinf(wait_s):
            detail = f"one request costs {price} calls, this node allows {self._burst} at once"
            hint = "send fewer items in a request, or raise api.rate_per_second on the node"
            raise ApiError(ErrorCode.TOO_LARGE, detail, hint=hint)
        retry_after_s = max(1, math.ceil(wait_s))
        raise ApiError(
            TransportCode.BUSY,
            f"more than {self._rate} calls a second from {client}",
            hint=f"wait {retry_after_s} s",
            retry_after_s=retry_after_s,
        )
