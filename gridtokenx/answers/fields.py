"""Fields that many answers have, with their rules; and what every answer about one chain begins
with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, TypeVar, dataclass_transform

from gridtokenx.answers.shapes import Rule
from gridtokenx.primitives.types import Address

T = TypeVar("T")
ADDRESS_EXAMPLE = "gtx1qypqxpq9qcrsszg2pvxq6rs0zqg3yyc5z5tpwxqergd3c8g7rusq3nkr8p"
HASH_EXAMPLE = "6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b"
TIME_EXAMPLE = "1767225600000"


@dataclass_transform(frozen_default=True, kw_only_default=True)
def answer(cls: type[T]) -> type[T]:
    """Make a class an answer, or a part of one: frozen, with its fields given by name.

    Without slots, so that an answer can begin with the fields of several: of `class C(B, A)` those
    of A come first, then those of B, then its own.
    """
    return dataclass(frozen=True, kw_only=True)(cls)


def count(help_text: str, unit: str, example: int = 3) -> Any:
    """A number of things, small enough for a JSON number."""
    return Rule(help_text, unit=unit, number=True, example=example)


def moment(help_text: str) -> Any:
    """A Unix time."""
    return Rule(help_text, unit="ms since 1970 UTC", example=TIME_EXAMPLE)


def slot_number(help_text: str, example: str = "1963608") -> Any:
    """A delivery slot."""
    return Rule(help_text, unit="slots of 15 min since 1970 UTC", example=example)


Account = Annotated[Address, Rule("account, gtx1...", example=ADDRESS_EXAMPLE)]
ChainName = Annotated[str, Rule("name of the chain", example="MET")]
ChainId = Annotated[
    bytes, Rule("chain id, which all signatures on the chain are bound to", example=HASH_EXAMPLE)
]
Height = Annotated[
    int,
    Rule("height of the block as of which this is", unit="blocks", example="42"),
]
AtHeight = Annotated[int, Rule("height of the block", unit="blocks", example="42")]
BlockHash = Annotated[bytes, Rule("hash of the block", example=HASH_EXAMPLE)]
Finalized = Annotated[bool, Rule("always true: what a block has decided is final", example=True)]
TimeMs = Annotated[
    int, Rule("Unix time in the block's header", unit="ms since 1970 UTC", example=TIME_EXAMPLE)
]
MarketMs = Annotated[
    int,
    Rule("Unix time that market rules saw", unit="ms since 1970 UTC", example=TIME_EXAMPLE),
]
NextCursor = Annotated[
    str | None, Rule("`cursor` of the next page; null after the last", example="AAAAAAAAACo=")
]
Position = Annotated[int, count("place in the block, from 0", "transactions")]
TransactionId = Annotated[bytes, Rule("id of the transaction", example=HASH_EXAMPLE)]
Incarnation = Annotated[
    int, count("incarnation of the chain, 1 unless it began again", "incarnations", 1)
]


@answer
class AsOf:
    """Which chain is told of, as of which block."""

    chain: ChainName
    height: Height
    finalized: Finalized = True
