"""Broken engines must be caught: otherwise the campaigns prove nothing."""

from __future__ import annotations

import pytest

from tests.support.simulator.mutants import MUTANTS, Mutant, hunt

REQUIRED = 12


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_broken_engine_is_caught(mutant: Mutant) -> None:
    caught = hunt(mutant)
    assert caught is not None, f"{mutant.seeds} seeds did not notice {mutant.name}"
    assert caught.invariant in mutant.invariants


def test_there_are_enough_of_them() -> None:
    assert len({mutant.broken for mutant in MUTANTS}) >= REQUIRED
    assert all(mutant.broken.__doc__ for mutant in MUTANTS)
