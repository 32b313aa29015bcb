"""One budget for all strangers together. Source: protocols/networking.md 7."""

import pytest

from gridtokenx.network.peers.budget import IN_TIME_MS, MAX_PRICE, BudgetLimits, StrangersBudget

LIMITS = BudgetLimits(cpu_share=0.2, source_share=0.1, burst_s=0.4)


def test_a_source_goes_on_until_it_owes() -> None:
    budget = StrangersBudget(LIMITS)
    assert budget.wait_s("a", 0.0) == 0
    budget.charge("a", 0.3, 0.0)
    assert budget.wait_s("a", 0.0) == pytest.approx(1.0)  # it owes 0.1 s at 0.1 a second
    assert budget.wait_s("b", 0.0) == 0


def test_many_free_identities_share_one_budget() -> None:
    budget = StrangersBudget(LIMITS)
    for number in range(100):
        budget.charge(f"peer {number}", 0.01, 0.0)
    assert budget.wait_s("another", 0.0) == pytest.approx(2.0)  # owes no more than a burst
    assert budget.wait_s("another", 2.0) == pytest.approx(0.0)
    assert budget.spent_s == pytest.approx(1.0)


def test_on_a_late_loop_strangers_get_less() -> None:
    budget = StrangersBudget(LIMITS)
    budget.note_lag(0)
    assert budget.price == 1.0
    budget.note_lag(4 * IN_TIME_MS)
    budget.charge("a", 0.1, 0.0)
    assert budget.wait_s("b", 0.0) == 0
    assert budget.wait_s("a", 0.0) == pytest.approx(2.0)  # 0.4 s of its 0.2 s
    budget.note_lag(1_000 * IN_TIME_MS)
    assert budget.price == MAX_PRICE
    assert budget.spent_s == pytest.approx(0.1)  # as measured
