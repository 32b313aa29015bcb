"""The token bucket, with the time in the test's hand."""

import math

from gridtokenx.network.peers.token_buckets import TokenBuckets


def test_a_bucket_begins_full_refills_at_its_rate_and_holds_no_more_than_its_burst() -> None:
    buckets: TokenBuckets[str] = TokenBuckets(10, 20, max_keys=4)
    assert buckets.take("a", 20, 0.0)
    assert not buckets.take("a", 1, 0.0)
    assert buckets.take("b", 20, 0.0)
    assert buckets.take("a", 15, 1.5)
    assert not buckets.holds("a", 1, 1.5)
    assert buckets.take("a", 20, 1_000.0)
    assert not buckets.take("a", 1, 1_000.0)


def test_what_is_refused_takes_nothing() -> None:
    buckets: TokenBuckets[str] = TokenBuckets(1, 10, max_keys=4)
    assert not buckets.take("a", 11, 0.0)
    assert buckets.take("a", 10, 0.0)


def test_a_charge_may_leave_a_debt_of_at_most_one_burst() -> None:
    buckets: TokenBuckets[str] = TokenBuckets(1, 10, max_keys=4)
    buckets.charge("a", 1_000, 0.0)
    assert buckets.wait_s("a", 1, 0.0) == 11
    assert not buckets.take("a", 1, 10.9)
    assert buckets.take("a", 1, 11.0)


def test_waiting_tells_when_a_take_would_succeed_or_that_it_never_will() -> None:
    buckets: TokenBuckets[str] = TokenBuckets(4, 8, max_keys=4)
    assert buckets.wait_s("a", 8, 0.0) == 0
    buckets.take("a", 8, 0.0)
    assert buckets.wait_s("a", 6, 0.0) == 1.5
    assert buckets.take("a", 6, 1.5)
    assert math.isinf(buckets.wait_s("a", 9, 0.0))


def test_the_table_is_bounded_and_forgets_whom_it_has_not_heard_of_for_longest() -> None:
    buckets: TokenBuckets[int] = TokenBuckets(1, 1, max_keys=3)
    for key in (1, 2, 3, 1, 4):
        buckets.take(key, 1, 0.0)
    assert len(buckets) == 3
    assert not buckets.take(1, 1, 0.0)
    assert buckets.take(2, 1, 0.0)  # Forgotten, so it begins anew.
