"""What many tests of chains begin with."""

from __future__ import annotations

import pytest

from tests.support.chains_world import Chains


@pytest.fixture
def chains() -> Chains:
    """The national chain and its regions, each with a block."""
    chains = Chains()
    chains.round()
    return chains
