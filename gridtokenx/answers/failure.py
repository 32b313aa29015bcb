"""Why something failed, as an answer tells it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from gridtokenx.answers.fields import answer
from gridtokenx.answers.shapes import Rule

Code = Annotated[
    int, Rule("stable number", unit="see protocols/errors.md", number=True, example=2002)
]
Message = Annotated[str, Rule("one sentence, with the values", example="the nonce is 6, not 7")]
Reason = Annotated[str, Rule("stable name of the code", example="nonce_too_low")]
Hint = Annotated[str, Rule("what to do", example="ask account_getNonce for the next nonce")]
Retryable = Annotated[bool, Rule("whether the same may succeed later", example=False)]
Details = Annotated[
    Mapping[str, Any], Rule("values, by what they are", example={"parameter": "limit"})
]


@answer
class FailureData:
    """What programs read of a failure. Source: protocols/errors.md."""

    reason: Reason
    hint: Hint
    retryable: Retryable
    details: Details
    docs: Annotated[str, Rule("where it is described", example="protocols/errors.md#2002")]


@answer
class Failure:
    """A refusal or failure: the JSON-RPC error object."""

    code: Code
    message: Message
    data: FailureData


@answer
class RestFailure:
    """A refusal or failure over REST."""

    code: Code
    reason: Reason
    message: Message
    hint: Hint
    retryable: Retryable
    details: Details


@answer
class RestError:
    """The body of a REST answer that tells a failure."""

    error: RestFailure
