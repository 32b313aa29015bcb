"""A short form of `scripts/fuzz-http`: no input at any HTTP door is a fault of ours."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path

import pytest
import trio

from gridtokenx.primitives.types import format_address
from tests.support.api_node import SELLER, SELLER_METER, MemoryNode
from tests.support.api_server import running
from tests.support.http_fuzz import fuzz


@pytest.mark.parametrize(("door", "inputs"), [("rpc", 1500), ("rest", 400), ("heads", 400)])
async def test_no_input_is_a_fault(
    tmp_path: Path, door: str, inputs: int, caplog: pytest.LogCaptureFixture
) -> None:
    node = MemoryNode(tmp_path, ("MET", "NOR", "TH"), local_signer=SELLER)
    node.populate()
    sell, _ = node.trade()
    known = (sell.id.hex(), format_address(SELLER.public_key), SELLER_METER.public_key.hex())
    async with running(node) as http:
        run = partial(fuzz, str(http.base_url), door, inputs, 7, known)
        found = await trio.to_thread.run_sync(run)
        assert found.faults == []
        assert found.inputs >= inputs
        assert found.statuses["200"] > 0
        assert (await http.get("/health")).status_code == 200
    assert [row.getMessage() for row in caplog.records if row.levelno >= logging.WARNING] == []
