"""THE handler table: every method of the API, once. JSON-RPC, REST, OpenRPC and OpenAPI read it."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any

from gridtokenx.answers.fields import answer
from gridtokenx.answers.shapes import Rule
from gridtokenx.api.context import Context
from gridtokenx.api.methods import account as account_methods
from gridtokenx.api.methods import chain as chain_methods
from gridtokenx.api.methods import energy as energy_methods
from gridtokenx.api.methods import governance as governance_methods
from gridtokenx.api.methods import grid as grid_methods
from gridtokenx.api.methods import network as network_methods
from gridtokenx.api.methods import order as order_methods
from gridtokenx.api.methods import proofs
from gridtokenx.api.methods import settlement as settlement_methods
from gridtokenx.api.methods import shard as shard_methods
from gridtokenx.api.methods import staking as staking_methods
from gridtokenx.api.methods import transaction as transaction_methods
from gridtokenx.api.schema import build_openapi, build_openrpc
from gridtokenx.api.table import Method, NoParameters


@answer
class OpenRpcDocument:
    """What `protocols/rpc/openrpc.json` holds."""

    openrpc: Annotated[str, Rule("version of OpenRPC", example="1.3.2")]
    info: Annotated[Mapping[str, Any], Rule("title, version, licence", example={})]
    methods: Annotated[tuple[Mapping[str, Any], ...], Rule("one by one", example=[])]
    components: Annotated[Mapping[str, Any], Rule("schemas by name", example={})]


def discover(_context: Context, _asked: NoParameters) -> OpenRpcDocument:
    return OpenRpcDocument(**openrpc())


@cache
def openrpc() -> dict[str, Any]:
    """The OpenRPC document; made when it is first asked for, which takes a tenth of a second."""
    return build_openrpc(METHODS)


@cache
def openapi() -> dict[str, Any]:
    """The OpenAPI document; as `openrpc`."""
    return build_openapi(METHODS)


METHODS: tuple[Method, ...] = (
    *chain_methods.METHODS,
    *transaction_methods.METHODS,
    *energy_methods.METHODS,
    *order_methods.METHODS,
    *settlement_methods.METHODS,
    *grid_methods.METHODS,
    *network_methods.METHODS,
    *account_methods.METHODS,
    *governance_methods.METHODS,
    *staking_methods.METHODS,
    *shard_methods.METHODS,
    *proofs.METHODS,
    Method(
        "rpc.discover",
        discover,
        "This description of all methods (OpenRPC).",
        cost=5,
    ),
)
METHOD_BY_NAME = {method.name: method for method in METHODS}


def suggest(name: str) -> str:
    """A hint for a method that does not exist."""
    near = difflib.get_close_matches(name, METHOD_BY_NAME, 1)
    return f"did you mean {near[0]}?" if near else "rpc.discover lists all methods"
