"""What the methods of the API answer: frozen dataclasses that handlers fill in and clients read.

A module is named as that of its methods; `shapes` has the types of parameters and answers, `kinds`
how JSON is read. Knows no handler, no node and no HTTP. A module is imported once it is asked for,
so that a client pays for those it uses: `answers.staking`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gridtokenx.answers import account as account
    from gridtokenx.answers import chain as chain
    from gridtokenx.answers import energy as energy
    from gridtokenx.answers import failure as failure
    from gridtokenx.answers import governance as governance
    from gridtokenx.answers import grid as grid
    from gridtokenx.answers import network as network
    from gridtokenx.answers import order as order
    from gridtokenx.answers import proofs as proofs
    from gridtokenx.answers import settlement as settlement
    from gridtokenx.answers import shard as shard
    from gridtokenx.answers import staking as staking
    from gridtokenx.answers import transaction as transaction
else:
    from importlib import import_module
    from importlib.util import find_spec

    def __getattr__(name):
        if find_spec(f"{__name__}.{name}") is None:
            raise AttributeError(f"{__name__} has no module {name}")
        return import_module(f"{__name__}.{name}")
