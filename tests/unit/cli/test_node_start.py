"""What `start` is told, and how it keeps house with memory."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest
import typer

from gridtokenx.cli import node_start
from gridtokenx.cluster.devnet import local_genesis


def test_the_operators_word_names_an_incarnation() -> None:
    genesis = local_genesis()
    given = node_start._resume_above(["MET=7", "NOR@3=9"], genesis)
    assert given == {"MET": 7, "NOR@3": 9}
    for wrong in ("MET@1=7", "TH@2=7", "MET@2", "MET@2=x"):
        with pytest.raises(typer.BadParameter, match="is CHAIN=HEIGHT"):
            node_start._resume_above([wrong], genesis)


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
