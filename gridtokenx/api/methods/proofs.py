"""Proofs of values in a chain's newest state, with all that a light client needs to check them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from typing import Any

from gridtokenx.api.context import Context
from gridtokenx.api.documents import document
from gridtokenx.api.errors import ApiError
from gridtokenx.api.kinds import integer
from gridtokenx.api.table import CHAIN, Arguments, Method, Param, Route, shape
from gridtokenx.chain.block import decode_block
from gridtokenx.chain.light import MAX_SET_CHANGES
from gridtokenx.chain.state_tree import verify_state_proof
from gridtokenx.interchain import checkpoints
from gridtokenx.interchain.model import REGIONS
from gridtokenx.primitives.codec import MAX_INT, encode
from gridtokenx.primitives.errors import ErrorCode
from gridtokenx.primitives.state import u64
from gridtokenx.storage import index as history
from gridtokenx.storage.database import ChainView
from gridtokenx.views.status import ChainStatus

PROOF_ATTEMPTS = 60
PROOF_PAUSE_S = 0.05
PROOF = {
    "chain": "text",
    "chain_id": "hex",
    "height": "decimal",
    "finalized": "bool",
    "key": "hex",
    "value": "hex?",
    "proof": "hex",
    "header": "hex",
    "certificate": "hex",
    "set_changes": "list",
    "next_since": "decimal?",
}
SINCE = Param(
    "since",
    integer(0, MAX_INT - 1),
    "height of the last change of the validator set that you have followed, 0 for none; "
    f"at most {MAX_SET_CHANGES} later ones come, go on from next_since while it is not null",
    default=0,
)


@dataclass(frozen=True, slots=True)
class Proof:
    """An encoded value, None for absent, and the part of the answer that proves it."""

    value: bytes | None
    document: dict[str, Any]


async def prove(chain: Callable[[], ChainStatus], key: bytes, since: int) -> Proof:
    """The value under a state key. Errors: PROOF_UNAVAILABLE.

    The tree moves on with each block, so what it gives is checked against the header here.
    The status follows a commit only when the node's loop comes round to it, hence the pause.
    """
    for _ in range(PROOF_ATTEMPTS):
        status = chain()
        value, proof = status.prove(key)
        if verify_state_proof(status.head.state_root, key, value, proof):
            break
        await asyncio.sleep(PROOF_PAUSE_S)
    else:
        detail = "blocks come faster than a proof is made; ask again"
        raise ApiError(ErrorCode.PROOF_UNAVAILABLE, detail)
    name, height = status.spec.name, status.head.height
    block, certificate = status.view.block(height), status.view.certificate(height)
    if not block or not certificate:
        detail = f"{name} has no certified block yet"
        raise ApiError(ErrorCode.PROOF_UNAVAILABLE, detail)
    if since > height:
        detail = f"{name} is at block {height} here, below {since}"
        raise ApiError(ErrorCode.PROOF_UNAVAILABLE, detail, hint="ask a node that is further")
    header = decode_block(block).header
    changes, next_since = _set_changes(status.view, since, height)
    return Proof(
        value,
        {
            "chain": name,
            "chain_id": header.chain_id.hex(),
            "height": str(height),
            "finalized": True,
            "key": key.hex(),
            "value": None if value is None else value.hex(),
            "proof": encode(proof).hex(),
            "header": encode(header).hex(),
            "certificate": certificate.hex(),
            "set_changes": changes,
            "next_since": None if next_since is None else str(next_since),
        },
    )


def _set_changes(view: ChainView, since: int, height: int) -> tuple[list[str], int | None]:
    """A page of the changes above `since` and below `height`, and where the next page begins."""
    prefix = history.SET_CHANGES
    rows = list(islice(view.index_rows(prefix, prefix + u64(since + 1)), MAX_SET_CHANGES + 1))
    page = [(key, row.hex()) for key, row in rows if key < prefix + u64(height)]
    if len(page) <= MAX_SET_CHANGES:
        return [row for _, row in page], None
    last, _ = page[MAX_SET_CHANGES - 1]
    return [row for _, row in page[:MAX_SET_CHANGES]], int.from_bytes(last[len(prefix) :], "big")


async def get_region_proof(context: Context, arguments: Arguments) -> dict[str, Any]:
    name = arguments["id"]
    checkpoints.region_of(context.national().view, name)
    proven = await prove(context.national, REGIONS.prefix + name.encode(), arguments["since"])
    value = proven.value
    return {
        **proven.document,
        "shard": name,
        "region": None if value is None else document(REGIONS.decode(value)),
    }


METHODS = (
    Method(
        "shard_getProof",
        get_region_proof,
        "A region as the national chain sees it, its chain id and validators too, with all a light "
        "client needs: header, certificate, state proof.",
        shape(**PROOF, shard="text", region="object?"),
        (Param("id", CHAIN.kind, "name of the region chain, such as NOR", required=True), SINCE),
        (Route("GET", "/shards/{id}/proof"),),
        cost=10,
    ),
)
