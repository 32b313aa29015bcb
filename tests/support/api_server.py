"""The real API server around a node of `api_node`, for tests over HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import trio

from gridtokenx.api.server import serve
from tests.support.api_node import OPEN_API, MemoryNode

JSON = {"Content-Type": "application/json"}


@asynccontextmanager
async def running(node: MemoryNode, settings=OPEN_API) -> AsyncIterator[httpx.AsyncClient]:
    """The real server around a node; an HTTP client for it."""
    try:
        async with trio.open_nursery() as nursery:
            url = await nursery.start(serve, node, settings)
            async with httpx.AsyncClient(base_url=url, timeout=30, trust_env=False) as http:
                yield http
            nursery.cancel_scope.cancel()
    finally:
        node.close()


def rpc(method: str, **params: object) -> dict[str, object]:
    return {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
