"""Nodes that know no address at all, on the loopback network of this machine."""

from __future__ import annotations

import ipaddress
import os
import socket

import pytest
import structlog
import trio
import trio.testing

from gridtokenx.network import mdns
from gridtokenx.network.discovery import Discovery
from gridtokenx.network.host import HostSettings, Network, open_network
from gridtokenx.network.mdns_wire import encode_query, service_name

LOOPBACK = ipaddress.IPv4Interface("127.0.0.1/8")
NETWORK_ID = 1_000_000 + os.getpid()  # not that of another run on this machine
PATIENCE_S = 60.0


def why_unavailable() -> str:
    """Why multicast does not work on the loopback interface, or ""."""
    try:
        with mdns._open_socket() as probe:
            membership = socket.inet_aton(mdns.GROUP) + LOOPBACK.ip.packed
            probe.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, membership)
            probe.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, LOOPBACK.ip.packed)
            probe.settimeout(5)
            sent = encode_query(service_name(NETWORK_ID + 1_000_000))
            probe.sendto(sent, (mdns.GROUP, mdns.PORT))
            while probe.recv(9_000) != sent:
                pass
    except OSError as error:
        return f"no multicast on loopback: {error}"
    return ""


pytestmark = pytest.mark.skipif(bool(why_unavailable()), reason=why_unavailable())


async def start(
    nursery: trio.Nursery, seed: int, network_id: int, listen: str = "127.0.0.1"
) -> Network:
    async def run(task_status) -> None:
        settings = HostSettings(bytes([seed]) * 32, (f"/ip4/{listen}/tcp/0",))
        async with open_network(settings) as network, trio.open_nursery() as tasks:
            discovery = Discovery(network, (), local_network_id=network_id)
            await tasks.start(discovery.run)
            task_status.started(network)
            await trio.sleep_forever()

    return await nursery.start(run)


async def test_nodes_of_one_network_find_each_other_without_a_bootnode(monkeypatch) -> None:
    monkeypatch.setattr(mdns, "own_interfaces", lambda: [LOOPBACK])
    with trio.fail_after(PATIENCE_S), mdns._open_socket() as stranger:
        async with trio.open_nursery() as nursery:
            first = await start(nursery, 1, NETWORK_ID)
            other = await start(nursery, 2, NETWORK_ID + 1)
            ours = encode_query(service_name(NETWORK_ID))
            for garbage in (ours[:-3], b"\xff" * 300 + ours, bytes(20)):
                mdns._send(stranger, LOOPBACK.ip, garbage)
            second = await start(nursery, 3, NETWORK_ID, listen="0.0.0.0")
            while not first.is_connected(second.peer_id):  # noqa: ASYNC110 - it is libp2p's state
                await trio.sleep(0.05)
            assert first.connected() == (second.peer_id,)
            assert other.connected() == ()
            nursery.cancel_scope.cancel()


async def test_a_node_goes_on_where_the_port_cannot_be_had(monkeypatch) -> None:
    def taken() -> socket.socket:
        raise OSError("the port is taken")

    monkeypatch.setattr(mdns, "_open_socket", taken)
    with trio.fail_after(PATIENCE_S), structlog.testing.capture_logs() as logs:
        async with trio.open_nursery() as nursery:
            alone = await start(nursery, 4, NETWORK_ID)
            await trio.testing.wait_all_tasks_blocked()
            assert alone.listen_addresses
            nursery.cancel_scope.cancel()
    assert [each["event"] for each in logs] == ["mdns.unavailable"]
