"""How a node's end is told."""

from __future__ import annotations

import pytest

from gridtokenx.cli import node_start, output
from gridtokenx.node.driver import StopNode


def test_two_chains_that_stop_for_one_reason_are_told_as_one() -> None:
    one, other = StopNode("GTX-KEY-002: MET: taken"), StopNode("GTX-KEY-002: NOR: taken")
    with pytest.raises(output.Failure) as end:
        node_start._explain(BaseExceptionGroup("", [one, BaseExceptionGroup("", [other])]))
    assert end.value.code == "GTX-KEY-002"
    assert end.value.detail == "MET: taken"
    assert end.value.exit_code is output.ExitCode.INTERNAL


def test_a_fault_of_ours_beside_a_known_end_is_not_hidden() -> None:
    known = StopNode("GTX-KEY-002: MET: taken")
    node_start._explain(BaseExceptionGroup("", [known, ZeroDivisionError()]))  # returns
