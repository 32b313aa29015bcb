"""Reading what a tester asks of a cluster: assertions and partitions."""

from __future__ import annotations

import pytest

from gridtokenx.cluster import assertions, faults
from gridtokenx.cluster.processes import ClusterError


@pytest.mark.parametrize(
    "text",
    [
        "n0.finalized",
        "n0.finalized = 3",
        "n0.finalized >= three",
        "n0.state > live",
        "n0.weight == 1",
        "x0.finalized >= 1",
        "n0.finalized >= 1 within soon",
        "n0.finalized >= 1 within 5",
    ],
)
def test_assertions_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        assertions.parse(text)


def test_assertions_are_read() -> None:
    read = assertions.parse(" n0.MET.finalized>=10 within 1500ms ")
    assert (read.node, read.chain, read.property, read.operator) == ("n0", "MET", "finalized", ">=")
    assert (read.value, read.within_ms) == (10, 1500)
    assert read.holds(10)
    assert not read.holds(9)
    assert not read.holds(None)


@pytest.mark.parametrize("text", ["", "n0,n1|", "n0|n0", "n0,n0|n1", "n0,n7|n1"])
def test_partitions_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(ClusterError):
        faults.parse_groups(text, ["n0", "n1", "n2"])
