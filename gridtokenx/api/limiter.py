"""The rate limiter: one bucket of tokens for each IPv4 address or IPv6 /64.

A request pays before its body is read: one call, and one for each 16 KiB that it brings. What its
methods cost is then taken from that first. A call stands for a millisecond of CPU: what has taken
more is charged when it is done, and dearer while the node's loop runs late, for its threads share
one interpreter. Source: docs/api.md "Limits".
"""

from __future__ import annotations

import math
from collections.abc import Callable

from gridtokenx.api.errors import ApiError, TransportCode
from gridtokenx.network.peers.reputation import address_group
from gridtokenx.network.peers.token_buckets import TokenBuckets
from gridtokenx.primitives.errors import ErrorCode

BURST_SECONDS = 2
MAX_CLIENTS = 4096
BYTES_PER_TOKEN = 16 * 1024
CPU_S_PER_TOKEN = 0.001


class Limiter:
    """A client has `rate` calls a second and may save up two seconds' worth.

    Each item of a batch pays; a call that costs more than a full bucket is refused for good.
    """

    def __init__(self, rate_per_second: int, clock: Callable[[], float]) -> None:
        self._rate = rate_per_second
        self._burst = rate_per_second * BURST_SECONDS
        self._clock = clock
        self._buckets: TokenBuckets[str] = TokenBuckets(rate_per_second, self._burst, MAX_CLIENTS)

    @property
    def burst(self) -> int:
        """Tokens of a full bucket."""
        return self._burst

    def pay(self, client: str, price: int, paid: int = 0) -> None:
        """Take tokens, less what is paid already.

        Errors: BUSY that tells when to come back; TOO_LARGE if it never can be paid.
        """
        now_s = self._clock()
        client = address_group(client)
        left = price - paid
        if price > self._burst:
            detail = f"one request costs {price} calls, this node allows {self._burst} at once"
            hint = "send fewer items in a request, or raise api.rate_per_second on the node"
            raise ApiError(ErrorCode.TOO_LARGE, detail, hint=hint)
        if self._buckets.take(client, left, now_s):
            return
        retry_after_s = max(1, math.ceil(self._buckets.wait_s(client, left, now_s)))
        raise ApiError(
            TransportCode.BUSY,
            f"more than {self._rate} calls a second, or ms of CPU for them, from {client}",
            hint=f"wait {retry_after_s} s",
            retry_after_s=retry_after_s,
        )

    def charge(self, client: str, tokens: float) -> None:
        """Take tokens for what was done: the client may owe as much as a full bucket."""
        self._buckets.charge(address_group(client), tokens, self._clock())


class Bill:
    """What one HTTP request pays. Errors of `open`, `pay` and `pay_bytes`: as `Limiter.pay`."""

    def __init__(self, limiter: Limiter, client: str) -> None:
        self._limiter = limiter
        self._client = client
        self._bytes = 0
        self._prepaid = 0
        self._unused = 0
        self._paid = 0
        self._spent_s = 0.0

    def spend(self, cpu_s: float) -> None:
        """Note CPU that the request took."""
        self._spent_s += cpu_s

    def settle(self, price: float = 1.0) -> None:
        """The request is answered: charge what it took beyond what was paid. `price`: how dear a
        CPU second is now.
        """
        left = price * self._spent_s / CPU_S_PER_TOKEN - self._paid
        if left > 0:
            self._limiter.charge(self._client, left)

    def open(self) -> None:
        """Pay for being looked at."""
        self._prepay(1)

    def pay_bytes(self, size: int) -> None:
        """Pay for bytes that are about to arrive; at most a full bucket in all."""
        self._bytes += size
        wanted = min(1 + self._bytes // BYTES_PER_TOKEN, self._limiter.burst)
        if wanted > self._prepaid:
            self._prepay(wanted - self._prepaid)

    def pay(self, price: int) -> None:
        """Pay for a call, from what is prepaid first."""
        used = min(self._unused, price)
        self._limiter.pay(self._client, price, used)
        self._unused -= used
        self._paid += price - used

    def _prepay(self, tokens: int) -> None:
        self._limiter.pay(self._client, tokens)
        self._prepaid += tokens
        self._unused += tokens
        self._paid += tokens
