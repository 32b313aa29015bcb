"""`audit verify` against a node that shows what a region's authorities have made up."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

import pytest

from gridtokenx.answers.chain import ChainHead, RawBlocks
from gridtokenx.chain.genesis import format_genesis
from gridtokenx.cli.output import ExitCode
from gridtokenx.cluster.devnet import NATIONAL
from gridtokenx.primitives.codec import encode
from tests.support.answers import whole
from tests.support.chains_world import Chain, Chains
from tests.unit.chain.test_replay_national import Lie


class Shown:
    """The blocks of a network as a node tells them."""

    def __init__(self, world: Chains) -> None:
        self.world = world

    def chain(self, name: str) -> Chain:
        return self.world.chain(name)

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        results = {
            "chain_getGenesis": self.genesis,
            "chain_getHead": self.head,
            "chain_getRawBlocks": self.blocks,
        }
        result = results[request["method"]](**request["params"])
        return {"jsonrpc": "2.0", "id": request["id"], "result": result}

    def genesis(self) -> dict[str, Any]:
        genesis = self.world.genesis
        return {"hash": genesis.hash.hex(), "genesis": json.loads(format_genesis(genesis))}

    def head(self, chain: str = "MET") -> dict[str, Any]:
        return whole(ChainHead, chain=chain, height=str(self.chain(chain).height))

    def blocks(self, from_height: str, chain: str, limit: int) -> dict[str, Any]:
        shown = self.chain(chain)
        last = min(int(from_height) + limit - 1, shown.height)
        items = [
            {
                "height": str(height),
                "block": base64.b64encode(shown.blocks[height].encoded).decode(),
                "certificate": base64.b64encode(encode(shown.certificates[height])).decode(),
            }
            for height in range(int(from_height), last + 1)
        ]
        return whole(RawBlocks, chain=chain, items=items)


@pytest.mark.parametrize("is_forged", [False, True])
def test_a_made_up_message_of_the_national_chain_is_refused(
    run: Callable[..., Any], canned_node: Any, is_forged: bool
) -> None:
    world = Chains()
    world.settle(3)
    if is_forged:  # By all authorities of the region, so its certificate is good.
        world.regions["MET"].grow(Lie(world.national, height=world.national.height))
    canned_node.answer = Shown(world).answer
    ran = run("--json", "--rpc", canned_node.url, "audit", "verify", "--chain", "MET")
    if is_forged:
        assert ran.code == ExitCode.REFUSED
        error = ran.document["error"]
        assert error["reason"] == "not_verified"
        assert error["message"].startswith(
            "verified: no. MET block 4: it takes 1 messages of the national chain that are not the "
        )
        return
    assert ran.code == 0, ran.stdout + ran.stderr
    beside = ran.document["national"]
    assert (beside["chain"], beside["executed"], beside["checkpoints"]) == (NATIONAL, "3", 3)
    told = run("--rpc", canned_node.url, "audit", "verify", "--chain", "MET").stdout
    assert "beside it 3 blocks of TH" in told
