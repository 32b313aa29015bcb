"""What the methods of the API answer: frozen dataclasses that handlers fill in and clients read.

A module here is named as the module of its methods. Knows no handler, no node and no HTTP. A module
is imported once it is asked for, so that a client pays for those it uses: `answers.staking`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gridtokenx.api.answers import account as account
    from gridtokenx.api.answers import chain as chain
    from gridtokenx.api.answers import energy as energy
    from gridtokenx.api.answers import failure as failure
    from gridtokenx.api.answers import governance as governance
    from gridtokenx.api.answers import grid as grid
    from gridtokenx.api.answers import network as network
    from gridtokenx.api.answers import order as order
    from gridtokenx.api.answers import proofs as proofs
    from gridtokenx.api.answers import settlement as settlement
    from gridtokenx.api.answers import shard as shard
    from gridtokenx.api.answers import staking as staking
    from gridtokenx.api.answers import transaction as transaction
else:
    from importlib import import_module
    from importlib.util import find_spec

    def __getattr__(name):
        if find_spec(f"{__name__}.{name}") is None:
            raise AttributeError(f"{__name__} has no module {name}")
        return import_module(f"{__name__}.{name}")
