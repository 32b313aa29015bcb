"""A node's user: build, sign and submit transactions and read answers over JSON-RPC.

Synchronous, for the CLI, scripts and tests. Keys stay here: a node gets signed transactions only.
A node's answers are its word; `Client.proof` checks one against the validators' signatures.
"""

from gridtokenx.client.client import MAX_SEND, Client, check_incarnations
from gridtokenx.client.rpc import BadAnswer, NodeUnreachable, RpcError

__all__ = [
    "MAX_SEND",
    "BadAnswer",
    "Client",
    "NodeUnreachable",
    "RpcError",
    "check_incarnations",
]
