"""Each attack on peers and on the API speaks what nodes listen to: tried on one bare host.

That nodes withstand them is for `test_hostile_fleet.py` and `scripts/hostile`; here no attack may
fail by a fault of its own, or fall silent because a door has been rebuilt.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio

from tests.support.patience import until

ROOT = Path(__file__).resolve().parents[2]

from gridtokenx.cluster.devnet import NETWORK_ID, Member, dev_key  # noqa: E402
from gridtokenx.network.gossipsub.events import PROTOCOLS  # noqa: E402
from gridtokenx.network.host import HostSettings, Stream, open_network  # noqa: E402
from scripts.hostile_fleet import setting  # noqa: E402
from scripts.hostile_fleet.attack import Run, Target  # noqa: E402
from scripts.hostile_fleet.attackers import guarded  # noqa: E402
from scripts.hostile_fleet.catalogue import ATTACKS  # noqa: E402
from scripts.hostile_fleet.request_attacks import KAD  # noqa: E402

KINDS = ("status", "blocks", "bodies", "about", "ancestry")
TRIED = [one.name for one in ATTACKS.values() if one.door != "chain"]
WITHOUT_BYTES = {"connection-churn", "idle-connections"}  # Their harm is that they are there.
LATE = {"iwant-amplifier", "parrots"}  # They say again what they hear, and here nobody speaks.
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


async def parrot(stream: Stream) -> None:
    """Something for everything, as a responder would."""
    while await stream.read_some(65_536):
        await stream.write(b"\0")


async def answer(stream: trio.SocketStream) -> None:
    try:
        while await stream.receive_some(65_536):
            await stream.send_all(OK)
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        await stream.aclose()


@asynccontextmanager
async def victim() -> AsyncIterator[Target]:
    """A host that listens as `n0` does, and something that answers on its API's port."""
    settings = HostSettings(dev_key("n0 node").seed, ("/ip4/127.0.0.1/tcp/0",))
    async with open_network(settings) as network, trio.open_nursery() as nursery:
        kinds = [f"/gridtokenx/{NETWORK_ID}/{kind}/1" for kind in KINDS]
        network.handle([*PROTOCOLS, *kinds, KAD], parrot)
        serve = partial(trio.serve_tcp, answer, 0, host="127.0.0.1")
        (listener,) = await nursery.start(serve)
        p2p_port = int(network.listen_addresses[0].split("/")[4])
        api_port = listener.socket.getsockname()[1]
        yield Target(
            setting.fresh_genesis(), (Member("n0", "authority", "egat", "", api_port, p2p_port),)
        )
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("name", TRIED)
async def test_the_attack_connects_and_speaks(name: str) -> None:
    async with victim() as target, trio.open_nursery() as nursery:
        run = Run(target, trio.Event())
        nursery.start_soon(guarded, ATTACKS[name], run)
        await run.prepared.wait()
        run.go.set()

        def speaks() -> bool:
            failed = [one for one in run.outcomes if one.startswith("FAILED")]
            assert not failed, failed
            silent = name in WITHOUT_BYTES | LATE
            return run.outcomes["connected"] > 0 and (run.sent > 0 or silent)

        await until(speaks)
        nursery.cancel_scope.cancel()
    assert not [one for one in run.outcomes if one.startswith("FAILED") or one == "ended"]
