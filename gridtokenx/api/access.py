"""Signed requests: who asks, for what only some may see.

A request is signed with an account's Ed25519 key over the network, the method, the parameters and
the time, so it is good for one question on one network for a minute. Source:
docs/api.md "Signed requests".
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated

from gridtokenx.answers.fields import ADDRESS_EXAMPLE, TIME_EXAMPLE
from gridtokenx.answers.kinds import address, hex_bytes, integer
from gridtokenx.answers.settlement import SeenAs
from gridtokenx.answers.shapes import Rule
from gridtokenx.answers.signed_requests import request_bytes
from gridtokenx.api.errors import ApiError
from gridtokenx.primitives.crypto import verify
from gridtokenx.primitives.errors import ErrorCode
from gridtokenx.primitives.types import format_address
from gridtokenx.registry.model import (
    METERS,
    OPERATORS,
    PARTICIPANTS,
    TERRITORIES,
    OrganisationKind,
)
from gridtokenx.views.status import ChainStatus

WINDOW_MS = 60_000  # Before and after this node's clock.
_HINT = "gridtokenx energy readings ADDRESS --key NAME signs the request; see docs/api.md"


@dataclass(frozen=True)
class Signed:
    """Who asks. All three are needed; a request without them is told so."""

    signer: Annotated[
        bytes | None,
        Rule("account whose key signed this request, gtx1...", address(), example=ADDRESS_EXAMPLE),
    ] = None
    signed_ms: Annotated[
        int | None,
        Rule(
            "when it was signed, Unix ms; good for a minute",
            integer(0, 2**53),
            unit="ms since 1970 UTC",
            example=TIME_EXAMPLE,
        ),
    ] = None
    signature: Annotated[
        bytes | None,
        Rule("Ed25519, see docs/api.md", hex_bytes(64, exactly=True), example="00" * 64),
    ] = None


def check_signer(
    genesis_hash: bytes,
    method: str,
    params: Mapping[str, str],
    asked: Signed,
    clock_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
) -> bytes:
    """The account that signed. Errors: ApiError SIGNATURE_REQUIRED (401)."""
    signer, signed_ms, signature = asked.signer, asked.signed_ms, asked.signature
    if signer is None or signed_ms is None or signature is None:
        detail = f"{method} answers signed requests only: signer, signed_ms and signature"
        raise ApiError(ErrorCode.SIGNATURE_REQUIRED, detail, hint=_HINT)
    now_ms = clock_ms()
    if abs(now_ms - signed_ms) > WINDOW_MS:
        detail = f"signed at {signed_ms}, it is {now_ms} here (Unix ms): more than a minute apart"
        raise ApiError(ErrorCode.SIGNATURE_REQUIRED, detail, hint="sign again; check the clock")
    if not verify(signer, request_bytes(genesis_hash, method, params, signed_ms), signature):
        detail = f"the signature is not {format_address(signer)}'s over this request"
        raise ApiError(ErrorCode.SIGNATURE_REQUIRED, detail, hint=_HINT)
    return bytes(signer)


def check_may_read(status: ChainStatus, signer: bytes, owner: bytes) -> SeenAs:
    """`owner`, `distributor` or `regulator`: why the signer may see the owner's readings.

    A distributor sees the meters of its own territories. Errors: ApiError NOT_PERMITTED (403).
    """
    if signer == owner:
        return "owner"
    organisation = OPERATORS.get(status.view, signer)
    if organisation is not None and organisation.kind is OrganisationKind.REGULATOR:
        return "regulator"
    participant = PARTICIPANTS.get(status.view, owner)
    if organisation is not None and participant is not None:
        territory = TERRITORIES.get(status.view, participant.territory.encode())
        if territory is not None and territory.distributor == organisation.name:
            return "distributor"
    detail = (
        f"{format_address(signer)} may not see readings of {format_address(owner)}: only the "
        "owner, the distributor and the regulator may"
    )
    raise ApiError(ErrorCode.NOT_PERMITTED, detail)


def meter_location(status: ChainStatus, meter_id: bytes) -> str | None:
    """Where a meter is registered."""
    meter = METERS.get(status.view, meter_id)
    return None if meter is None else meter.location
