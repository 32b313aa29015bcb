"""What crosses from other threads into a node's loop is answered, whatever becomes of the loop."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import trio

from gridtokenx.home.config import load_config
from gridtokenx.node.disk_watch import DiskWatch
from gridtokenx.node.handle import Handle
from gridtokenx.primitives.errors import Rejected
from gridtokenx.runtime.loop_lag import LoopLag
from gridtokenx.runtime.stopping import DiskFull
from gridtokenx.views.stages import Stages
from gridtokenx.views.status import NetworkStatus, NodeHandle
from tests.support.patience import PATIENCE_S, until
from tests.unit.node.test_chain_runner import BASE, GENESIS, Home, running


def make(home: Home, folder: Path, nursery: trio.Nursery) -> Handle:
    network = SimpleNamespace(peer_id="12D3KooWMe", peers=(), status=NetworkStatus(inbound=3))
    return Handle(
        load_config(folder, environ={}),
        GENESIS,
        chains={"MET": home.runner},
        network=network,  # type: ignore[arg-type]
        lag=LoopLag(),
        stages=Stages(),
        checks=(DiskWatch(folder, 0).check,),
        local_signer=None,
        nursery=nursery,
    )


async def test_another_thread_sees_frozen_values_and_gets_its_verdicts(tmp_path: Path) -> None:
    home = Home(tmp_path / "data", None)
    async with running(home) as runner, trio.open_nursery() as nursery:
        handle: NodeHandle = make(home, tmp_path, nursery)

        def ask() -> list[Rejected | None]:
            assert threading.current_thread() is not threading.main_thread()
            assert handle.chains()["MET"] is runner.status
            assert handle.chains()["MET"].head.height == BASE + 2
            assert handle.network().inbound == 3
            assert [check.name for check in handle.health().checks] == ["disk"]
            assert handle.pending_status("MET", b"t" * 32) is None
            assert handle.pending_nonce("MET", b"a" * 32) == 0
            return handle.submit("MET", [b"no transaction", b"nor this"]).result(PATIENCE_S)

        verdicts = await trio.to_thread.run_sync(ask)
        assert [type(one) for one in verdicts] == [Rejected, Rejected]
        nursery.cancel_scope.cancel()


async def test_what_comes_when_the_nursery_has_closed_is_answered(tmp_path: Path) -> None:
    home = Home(tmp_path / "data", None)
    async with running(home):
        async with trio.open_nursery() as nursery:
            handle = make(home, tmp_path, nursery)
        future = handle.submit("MET", [b"late"])
        await until(future.done)
        with pytest.raises(RuntimeError, match="closed"):
            future.result()


def test_what_comes_when_the_loop_has_ended_is_answered(tmp_path: Path) -> None:
    async def live() -> Handle:
        home = Home(tmp_path / "data", None)
        async with running(home), trio.open_nursery() as nursery:
            return make(home, tmp_path, nursery)

    future = trio.run(live).submit("MET", [b"too late"])
    with pytest.raises(RuntimeError, match="the node is stopping"):
        future.result(0)


def test_a_disk_without_room_is_not_ready_and_ends_the_node(tmp_path: Path) -> None:
    folder = tmp_path / "not" / "yet" / "there"
    roomy, full = DiskWatch(folder, 0), DiskWatch(folder, 2**60)
    roomy.look()
    assert (roomy.check().ok, full.check().ok) == (True, False)
    with pytest.raises(DiskFull, match=f"GTX-DSK-001: .* free on {folder} .*min_free_disk_mib"):
        full.look()
