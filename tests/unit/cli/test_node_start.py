"""How a node's end is told."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest
import typer

from gridtokenx.cli import node_start, output
from gridtokenx.cluster.network import local_genesis
from gridtokenx.node.chain_runner import NotPresent
from gridtokenx.node.stopping import StopNode, Untrusted


def test_two_chains_that_stop_for_one_reason_are_told_as_one() -> None:
    one, other = StopNode("GTX-KEY-002: MET: taken"), StopNode("GTX-KEY-002: NOR: taken")
    with pytest.raises(output.Failure) as end:
        node_start._explain(BaseExceptionGroup("", [one, BaseExceptionGroup("", [other])]))
    assert end.value.code == "GTX-KEY-002"
    assert end.value.detail == "MET: taken"
    assert end.value.exit_code is output.ExitCode.INTERNAL


def test_a_node_that_must_not_believe_its_blocks_is_not_started_again() -> None:
    with pytest.raises(output.Failure) as end:
        node_start._explain(Untrusted("GTX-SYNC-002: the newest block is old"))
    assert end.value.code == "GTX-SYNC-002"
    assert end.value.exit_code is output.ExitCode.CONFIG


def test_a_fault_of_ours_beside_a_known_end_is_not_hidden() -> None:
    known = StopNode("GTX-KEY-002: MET: taken")
    node_start._explain(BaseExceptionGroup("", [known, ZeroDivisionError()]))  # returns


def test_the_operators_word_names_an_incarnation() -> None:
    genesis = local_genesis()
    given = node_start._resume_above(["MET=7", "NOR@3=9"], genesis)
    assert given == {"MET": 7, "NOR@3": 9}
    for wrong in ("MET@1=7", "TH@2=7", "MET@2", "MET@2=x"):
        with pytest.raises(typer.BadParameter, match="is CHAIN=HEIGHT"):
            node_start._resume_above([wrong], genesis)
    with pytest.raises(output.Failure) as end:
        node_start._explain(NotPresent("MET is MET@2 now: say MET@2=HEIGHT"))
    assert end.value.code == "GTX-KEY-004"


LARGE_BUFFERS = """
import ctypes
from gridtokenx.cli.node_start import give_back_memory

class MallocInfo(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in
        "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()]

give_back_memory()
libc = ctypes.CDLL(None)
libc.mallinfo2.restype = MallocInfo
for _ in range(3):
    bytearray(8 << 20)
before = libc.mallinfo2().hblks
kept = [bytearray(1 << 20) for _ in range(5)]
print(libc.mallinfo2().hblks - before)
"""


@pytest.mark.skipif(
    not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="glibc 2.33 or newer tells of its memory"
)
def test_large_buffers_are_given_back_whatever_was_freed_before() -> None:
    told = subprocess.run(
        [sys.executable, "-c", LARGE_BUFFERS], capture_output=True, text=True, check=True
    )
    assert int(told.stdout) == 5  # Each is a mapping of its own, which goes when it is freed.
