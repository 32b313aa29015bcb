"""Real hosts on 127.0.0.1 which know the bootnode's address and nothing else."""

from collections.abc import Sequence
from contextlib import AsyncExitStack

import pytest
import trio

from gridtokenx.node import discovery as discovery_module
from gridtokenx.node.discovery import Discovery, describe_outcomes
from gridtokenx.node.network import Network, NetworkSettings, open_network

LOOPBACK = ("/ip4/127.0.0.1/tcp/0",)


async def until(condition) -> None:
    while not condition():
        await trio.sleep(0.02)


def meshed(networks: Sequence[Network]) -> bool:
    return all(len(network.connected()) == len(networks) - 1 for network in networks)


async def test_six_nodes_that_know_only_the_bootnode_find_each_other() -> None:
    with trio.fail_after(15):
        async with AsyncExitStack() as stack, trio.open_nursery() as nursery:
            networks: list[Network] = []
            for number in range(1, 7):
                settings = NetworkSettings(seed=bytes([number]) * 32, listen=LOOPBACK)
                network = await stack.enter_async_context(open_network(settings))
                networks.append(network)
                await nursery.start(Discovery(network, networks[0].listen_addresses).run)
            started_s = trio.current_time()
            await until(lambda: meshed(networks))
            print(f"meshed after {trio.current_time() - started_s:.2f} s")
            nursery.cancel_scope.cancel()
