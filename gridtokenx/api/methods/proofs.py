"""Proofs of values in a chain's newest state, with all that a light client needs to check them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from typing import Annotated, Any

from gridtokenx.answers.kinds import integer
from gridtokenx.answers.proofs import RegionProof
from gridtokenx.answers.shapes import Rule
from gridtokenx.api.context import Context
from gridtokenx.api.errors import ApiError
from gridtokenx.api.table import CHAIN_NAME, Method, Route
from gridtokenx.chain.block import decode_block
from gridtokenx.chain.light import MAX_SET_CHANGES
from gridtokenx.chain.state_tree import verify_state_proof
from gridtokenx.interchain import checkpoints
from gridtokenx.interchain.model import REGIONS
from gridtokenx.primitives.codec import MAX_INT, encode
from gridtokenx.primitives.errors import ErrorCode
from gridtokenx.primitives.state import u64
from gridtokenx.storage import index
from gridtokenx.storage.database import ChainView
from gridtokenx.views.status import ChainStatus

PROOF_ATTEMPTS = 60
PROOF_PAUSE_S = 0.05
Since = Annotated[
    int,
    Rule(
        "height of the last change of the validator set that you have followed, 0 for none; "
        f"at most {MAX_SET_CHANGES} later ones come, go on from next_since while it is not null",
        integer(0, MAX_INT - 1),
        "blocks",
        example=0,
    ),
]


@dataclass(frozen=True, slots=True)
class RegionProofParameters:
    """Which region's row, and which set its asker trusts."""

    id: Annotated[str, Rule("name of the region chain, such as NOR", CHAIN_NAME, example="NOR")]
    since: Since = 0


@dataclass(frozen=True, slots=True)
class Proof:
    """An encoded value, None for absent, and the part of the answer that proves it."""

    value: bytes | None
    fields: dict[str, Any]


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
            "chain_id": header.chain_id,
            "height": height,
            "key": key,
            "value": value,
            "proof": encode(proof),
            "header": encode(header),
            "certificate": certificate,
            "set_changes": tuple(changes),
            "next_since": next_since,
        },
    )


def _set_changes(view: ChainView, since: int, height: int) -> tuple[list[bytes], int | None]:
    """A page of the changes above `since` and below `height`, and where the next page begins."""
    prefix = index.SET_CHANGES
    rows = list(islice(view.index_rows(prefix, prefix + u64(since + 1)), MAX_SET_CHANGES + 1))
    page = [(key, row) for key, row in rows if key < prefix + u64(height)]
    if len(page) <= MAX_SET_CHANGES:
        return [row for _, row in page], None
    last, _ = page[MAX_SET_CHANGES - 1]
    return [row for _, row in page[:MAX_SET_CHANGES]], int.from_bytes(last[len(prefix) :], "big")


async def get_region_proof(context: Context, asked: RegionProofParameters) -> RegionProof:
    checkpoints.region_of(context.national().view, asked.id)
    key = REGIONS.prefix + asked.id.encode()
    proven = await prove(context.national, key, asked.since)
    region = None if proven.value is None else REGIONS.decode(proven.value)
    return RegionProof(**proven.fields, shard=asked.id, region=region)


METHODS = (
    Method(
        "shard_getProof",
        get_region_proof,
        "A region as the national chain sees it, its chain id and validators too, with all a light "
        "client needs: header, certificate, state proof.",
        routes=(Route("GET", "/shards/{id}/proof"),),
        cost=10,
    ),
)
