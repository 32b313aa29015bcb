"""The token bucket, with a clock in the test's hand."""

from __future__ import annotations

import pytest

from gridtokenx.api import limiter as limiter_module
from gridtokenx.api.errors import ApiError, TransportCode
from gridtokenx.api.limiter import BYTES_PER_TOKEN, Bill, Limiter
from gridtokenx.primitives.errors import ErrorCode


def test_tokens_come_back_with_time_up_to_two_seconds_worth() -> None:
    now = [0.0]
    limiter = Limiter(10, lambda: now[0])
    limiter.pay("a", 20)
    with pytest.raises(ApiError) as error:
        limiter.pay("a", 15)
    assert error.value.code is TransportCode.BUSY
    assert error.value.retry_after_s == 2
    limiter.pay("b", 20)  # Another client has its own bucket.
    now[0] = 1.5
    limiter.pay("a", 15)
    now[0] = 1000.0
    limiter.pay("a", 20)
    with pytest.raises(ApiError):
        limiter.pay("a", 1)


def test_what_can_never_be_paid_is_refused_for_good() -> None:
    limiter = Limiter(10, lambda: 0.0)
    with pytest.raises(ApiError) as error:
        limiter.pay("a", 21)
    assert error.value.code is ErrorCode.TOO_LARGE
    assert not error.value.retryable
    limiter.pay("a", 20)


def test_the_table_of_clients_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limiter_module, "MAX_CLIENTS", 100)
    limiter = Limiter(1, lambda: 0.0)
    for number in range(1000):
        limiter.pay(f"client {number}", 1)
    assert len(limiter._buckets) == 100


def test_the_addresses_of_one_ipv6_network_are_one_client() -> None:
    limiter = Limiter(10, lambda: 0.0)
    limiter.pay("2001:db8::1", 20)
    with pytest.raises(ApiError):
        limiter.pay("2001:db8::2", 1)
    limiter.pay("2001:db8:0:1::1", 20)


def test_a_request_pays_first_for_being_read_and_a_call_takes_from_that() -> None:
    limiter = Limiter(50, lambda: 0.0)
    bill = Bill(limiter, "a")
    bill.open()
    bill.pay_bytes(10 * BYTES_PER_TOKEN)
    bill.pay_bytes(5)
    bill.pay(8)
    bill.pay(5)  # 11 were prepaid, 13 are due.
    limiter.pay("a", 87)
    with pytest.raises(ApiError):
        Bill(limiter, "a").open()
    other = Bill(limiter, "b")
    other.open()
    other.pay_bytes(10**9)  # Never more than a full bucket, or no large body could be sent.
    with pytest.raises(ApiError) as hopeless:
        other.pay(101)
    assert hopeless.value.code is ErrorCode.TOO_LARGE
    other.pay(100)


def test_a_request_that_took_more_than_it_paid_is_charged_when_it_is_done() -> None:
    now = [0.0]
    limiter = Limiter(50, lambda: now[0])
    bill = Bill(limiter, "a")
    bill.open()
    bill.pay(11)  # Calls, the first of them prepaid.
    bill.spend(0.031)
    bill.settle()  # 31 tokens in all.
    limiter.pay("a", 69)
    cheap = Bill(limiter, "b")
    cheap.open()
    cheap.spend(0.0005)
    cheap.settle()
    limiter.pay("b", 99)
    dear = Bill(limiter, "c")
    dear.open()
    dear.spend(0.030)
    dear.settle(price=4.0)  # 120 tokens: it owes 20.
    with pytest.raises(ApiError):
        limiter.pay("c", 1)
    now[0] = 0.5
    limiter.pay("c", 5)
