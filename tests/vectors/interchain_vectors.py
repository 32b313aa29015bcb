"""Logs, a checkpoint, an inbox and a reincarnation that another implementation must reproduce."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gridtokenx.chain.block import Block
from gridtokenx.cluster.devnet import NATIONAL, bundled_genesis, dev_key
from gridtokenx.interchain.incarnations import incarnation_id
from gridtokenx.interchain.log import log_to, messages_from
from gridtokenx.interchain.model import Message, TransferAbroad
from gridtokenx.ledger.model import Asset
from gridtokenx.primitives.codec import encode
from gridtokenx.primitives.document import to_document
from tests.support.chains_world import Chain, Chains

Vector = dict[str, Any]
REGION = "MET"


def interchain_files() -> dict[str, Vector]:
    """File name to document."""
    return {"interchain.json": crossings()}


def crossings() -> Vector:
    """A region's second checkpoint, in a small history of the local network's chains."""
    chains = Chains(bundled_genesis())
    met, national = chains.regions[REGION], chains.national
    sender, receiver = dev_key("dev"), dev_key("friend").public_key
    met.send(sender, TransferAbroad(NATIONAL, receiver, Asset.GTX, 10_000))
    chains.round()
    seen = chains.region(REGION)
    for amount in (10_021, 10_022):
        national.send(sender, TransferAbroad(REGION, receiver, Asset.GTX, amount))
    national.send(sender, TransferAbroad("NOR", receiver, Asset.GTX, 10_023))
    downwards = _grown(national, chains, lambda: national.grow(None))
    for destination, amount in (("NOR", 10_011), (NATIONAL, 10_012), ("NEA", 10_013)):
        met.send(sender, TransferAbroad(destination, receiver, Asset.GTX, amount))
    upwards = _grown(met, chains, lambda: chains.grow_region(REGION))
    block = met.blocks[met.height]
    header = encode(block.header).hex()
    return {
        "what": "messages between chains: protocols/interchain.md sections 1, 2, 3 and 5",
        "genesis_hash": chains.genesis.hash.hex(),
        "national": NATIONAL,
        "genesis_ids": {
            one.spec.name: one.spec.chain_id.hex() for one in (national, *chains.regions.values())
        },
        "blocks": [downwards, upwards],
        "inbox": {
            "header": header,
            "inbox_next_before": seen.inbox_next,
            "messages": [_message(one) for one in block.inbox],
        },
        "checkpoint": {
            "command": encode(chains.checkpoint(REGION)).hex(),
            "outbox_count_before": seen.outbox_count,
            "outbox_head_before": seen.outbox_head.hex(),
            "validators": [
                [member.public_key.hex(), member.weight] for member in seen.validators.members
            ],
        },
        "incarnation": {
            "former_chain_id": met.spec.chain_id.hex(),
            "incarnation": 2,
            "header": header,
            "chain_id": incarnation_id(met.spec.chain_id, 2, block.header.hash).hex(),
        },
    }


def _grown(chain: Chain, chains: Chains, grow: Callable[[], Block]) -> Vector:
    """A block's header, and each log before it with the messages that it appended."""
    names = [NATIONAL] if chain is not chains.national else sorted(chains.regions)
    before = {name: log_to(chain.values, name) for name in names}
    header = grow().header
    logs = []
    for name in names:
        old, new = before[name], log_to(chain.values, name)
        added = messages_from(chain.values, name, old.count, new.count - old.count, chain.height)
        row = {"destination": name, "count_before": old.count, "head_before": old.head.hex()}
        logs.append(row | {"messages": [_message(one) for one in added], "head": new.head.hex()})
    return {"chain": chain.spec.name, "header": encode(header).hex(), "logs": logs}


def _message(message: Message) -> Vector:
    return {"message": to_document(message), "encoded": encode(message).hex()}
