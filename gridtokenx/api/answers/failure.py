"""Why something failed, as an answer tells it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from gridtokenx.api.answers.fields import answer
from gridtokenx.api.shapes import Rule


@answer
class FailureData:
    """What programs read of a failure. Source: protocols/errors.md."""

    reason: Annotated[str, Rule("stable name of the code", example="nonce_too_low")]
    hint: Annotated[str, Rule("what to do", example="ask account_getNonce for the next nonce")]
    retryable: Annotated[bool, Rule("whether the same may succeed later", example=False)]
    details: Annotated[
        Mapping[str, Any], Rule("values, by what they are", example={"parameter": "limit"})
    ]
    docs: Annotated[str, Rule("where it is described", example="protocols/errors.md#2002")]


@answer
class Failure:
    """A refusal or failure: the JSON-RPC error object."""

    code: Annotated[
        int, Rule("stable number", unit="see protocols/errors.md", number=True, example=2002)
    ]
    message: Annotated[str, Rule("one sentence, with the values", example="the nonce is 6, not 7")]
    data: FailureData
