"""A chain's blocks fetched from a node to be executed again here, its word for nothing taken."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import TYPE_CHECKING, NoReturn

from gridtokenx.cli import output
from gridtokenx.primitives.errors import ErrorCode

if TYPE_CHECKING:
    from gridtokenx.chain.replay_national import NationalReplay
    from gridtokenx.client import Client

_NOTE_EVERY_BLOCKS = 1000


def refuse(client: Client, detail: str, code: ErrorCode) -> NoReturn:
    """End a command whose node has told what does not hold."""
    output.fail(
        f"verified: no. {detail}",
        code=int(code),
        reason="not_verified",
        hint=f"do not trust the node at {client.url}; ask another with --rpc URL",
    )


def beside(client: Client, chain: str) -> NationalReplay | None:
    """The national chain, whose blocks are fetched as a region's ask for them."""
    from gridtokenx.chain.replay_national import NationalReplay

    national = client.genesis().national
    if national is None or national.name == chain:
        return None
    return NationalReplay(client.spec(national.name), blocks(client, national.name, None))


def blocks(client: Client, chain: str, stop: int | None) -> Iterator[tuple[bytes, bytes]]:
    """(block, certificate) of every height from 1 to `stop`, else to the newest.

    Errors: RpcError; Failure.
    """
    from gridtokenx.answers.chain import RawBlocks

    height = 1
    while stop is None or height <= stop:
        limit = 64 if stop is None else min(64, stop - height + 1)
        if stop is None and client.head(chain).height < height:
            return
        answer = client.ask(
            "chain_getRawBlocks", RawBlocks, from_height=str(height), chain=chain, limit=limit
        )
        for row in answer.items:
            if row.height != height:
                output.fail(
                    f"the node sent block {row.height} instead of {height}",
                    code="cli",
                    reason="not_verified",
                    hint="ask another node with --rpc URL",
                )
            yield base64.b64decode(row.block), base64.b64decode(row.certificate)
            if height % _NOTE_EVERY_BLOCKS == 0:
                of_all = "" if stop is None else f" of {stop}"
                output.note(f"executed {height}{of_all} blocks of {chain}")
            height += 1
