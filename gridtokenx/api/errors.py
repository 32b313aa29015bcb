"""What a caller is told when a call fails, over every door.

JSON-RPC reserves -32768..-32000, which here means transport only; what a rule refuses has the
positive, stable code of `ErrorCode`. The table people read is `protocols/errors.md`.
Source: docs/api.md "Errors".
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any

from gridtokenx.answers.failure import Failure, FailureData, RestError, RestFailure
from gridtokenx.primitives.errors import RETRYABLE, ErrorCode, Rejected

DOCS = "protocols/errors.md"


class TransportCode(IntEnum):
    """Codes of failures that no rule of the chain is part of."""

    PARSE_ERROR = -32700
    INVALID_REQUEST = -32600
    METHOD_NOT_FOUND = -32601
    INVALID_PARAMS = -32602
    INTERNAL_ERROR = -32603
    UNAUTHORIZED = -32001
    TIMEOUT = -32002
    RESPONSE_TOO_LARGE = -32003
    BUSY = -32005
    BATCH_TOO_LARGE = -32006
    NOT_SYNCED = -32007


_RETRYABLE_TRANSPORT = (TransportCode.TIMEOUT, TransportCode.BUSY, TransportCode.NOT_SYNCED)

_TRANSPORT_STATUS = {
    TransportCode.PARSE_ERROR: 400,
    TransportCode.INVALID_REQUEST: 400,
    TransportCode.METHOD_NOT_FOUND: 404,
    TransportCode.INVALID_PARAMS: 400,
    TransportCode.INTERNAL_ERROR: 500,
    TransportCode.UNAUTHORIZED: 403,
    TransportCode.TIMEOUT: 504,
    TransportCode.RESPONSE_TOO_LARGE: 422,
    TransportCode.BUSY: 429,
    TransportCode.BATCH_TOO_LARGE: 413,
    TransportCode.NOT_SYNCED: 503,
}

_STATUS = {
    ErrorCode.BLOCK_NOT_FOUND: 404,
    ErrorCode.PRUNED: 404,
    ErrorCode.NOT_FINALIZED_YET: 404,
    ErrorCode.PROOF_UNAVAILABLE: 503,
    ErrorCode.NONCE_TOO_LOW: 409,
    ErrorCode.NONCE_GAP: 409,
    ErrorCode.DUPLICATE: 409,
    ErrorCode.MEMPOOL_FULL: 503,
    ErrorCode.MALFORMED_TX: 400,
    ErrorCode.TX_NOT_FOUND: 404,
    ErrorCode.TOO_LARGE: 413,
    ErrorCode.UNKNOWN_KIND: 400,
    ErrorCode.MALFORMED: 400,
    ErrorCode.NOT_PERMITTED: 403,
    ErrorCode.ORDER_NOT_FOUND: 404,
    ErrorCode.NOT_ORDER_OWNER: 403,
    ErrorCode.TRADE_NOT_FOUND: 404,
    ErrorCode.CERTIFICATE_NOT_FOUND: 404,
    ErrorCode.NOT_GRID_OPERATOR: 403,
    ErrorCode.ACCOUNT_NOT_FOUND: 404,
    ErrorCode.BAD_ADDRESS: 400,
    ErrorCode.SIGNATURE_REQUIRED: 401,
    ErrorCode.PROPOSAL_NOT_FOUND: 404,
    ErrorCode.VALIDATOR_NOT_FOUND: 404,
    ErrorCode.NO_PEERS: 503,
    ErrorCode.UNKNOWN_SHARD: 404,
}

_HINTS = {
    ErrorCode.BLOCK_NOT_FOUND: "chain_getHead tells the newest height; blocks start at 1",
    ErrorCode.BAD_SIGNATURE: "sign for this chain's chain_id with the sender's key",
    ErrorCode.NONCE_TOO_LOW: "ask account_getNonce for the next nonce and sign again",
    ErrorCode.NONCE_GAP: "send the missing nonces first; account_getNonce tells the next one",
    ErrorCode.INSUFFICIENT_BALANCE: "account_getBalance tells what is free and what is reserved",
    ErrorCode.DUPLICATE: "tx_getStatus tells what became of it",
    ErrorCode.MEMPOOL_FULL: "try again after the next block",
    ErrorCode.WRONG_CHAIN: "chain_getStatus lists the chains of this node with their chain_id",
    ErrorCode.TX_NOT_FOUND: "it may be on a chain this node does not follow, or never arrived",
    ErrorCode.PRICE_OUT_OF_BAND: "energy_getMarket tells the price band of the slots",
    ErrorCode.INTERVAL_CLOSED: "energy_getMarket tells the open slots",
    ErrorCode.UNKNOWN_ZONE: "grid_getZones lists the zones of this node's chains",
    ErrorCode.UNKNOWN_METER: "the distributor of the territory registers meters",
    ErrorCode.METER_NOT_NAMED: "meter_id names one; account_get lists the account's meters",
    ErrorCode.NOT_REGISTERED: "the distributor of the territory registers participants",
    ErrorCode.ACCOUNT_NOT_FOUND: "an account exists from its first deposit or registration on",
    ErrorCode.BELOW_MINIMUM: "keep or send 1 THB, 0.01 gtx, 1 kWh or 1 credit, or register first",
    ErrorCode.BAD_ADDRESS: "an address looks like gtx1... and has 62 characters",
    ErrorCode.PROPOSAL_NOT_FOUND: "gov_getProposals lists them",
    ErrorCode.UNKNOWN_PARAMETER: "gov_getParams lists all that can be voted on",
    ErrorCode.VALUE_OUT_OF_RANGE: "gov_getParams tells units, ranges and the values in force",
    ErrorCode.VOTING_CLOSED: "gov_getProposal tells how it ended and when it is carried out",
    ErrorCode.NO_VOTING_POWER: "bond gtx to a validator; what counts is the stake at the end",
    ErrorCode.VALIDATOR_NOT_FOUND: "stake_getValidators lists them",
    ErrorCode.CROSS_SHARD_PENDING: "try again in a minute; shard_list tells what waits",
    ErrorCode.UNKNOWN_SHARD: "chain_getStatus lists the chains this node follows",
}


class ApiError(Exception):
    """A call's failure: `code`, stable `reason`, one sentence, what to do, the HTTP status."""

    def __init__(
        self,
        code: TransportCode | ErrorCode,
        message: str,
        *,
        hint: str = "",
        details: dict[str, Any] | None = None,
        status: int | None = None,
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.reason = code.name.lower()
        self.message = message
        self.hint = hint or (_HINTS.get(code, "") if isinstance(code, ErrorCode) else "")
        self.details = details or {}
        self.status = status or _status_of(code)
        self.retry_after_s = retry_after_s or (1 if self.status in (429, 503) else None)
        self.retryable = code in _RETRYABLE_TRANSPORT or code in RETRYABLE

    @classmethod
    def of(cls, rejected: Rejected) -> ApiError:
        """A rule's refusal as the API tells it."""
        return cls(rejected.code, rejected.detail)

    def to_failure(self) -> Failure:
        """The JSON-RPC error object."""
        anchor = self.code if self.code > 0 else f"transport-{-self.code}"
        data = FailureData(
            reason=self.reason,
            hint=self.hint,
            retryable=self.retryable,
            details=self.details,
            docs=f"{DOCS}#{anchor}",
        )
        return Failure(code=int(self.code), message=self.message, data=data)

    def to_rest(self) -> RestError:
        """The body of a REST answer."""
        error = RestFailure(
            code=int(self.code),
            reason=self.reason,
            message=self.message,
            hint=self.hint,
            retryable=self.retryable,
            details=self.details,
        )
        return RestError(error=error)


def invalid_params(message: str, hint: str = "", **details: Any) -> ApiError:
    """A parameter is missing, unknown or not what its kind wants."""
    return ApiError(TransportCode.INVALID_PARAMS, message, hint=hint, details=details)


def _status_of(code: TransportCode | ErrorCode) -> int:
    if isinstance(code, TransportCode):
        return _TRANSPORT_STATUS[code]
    return _STATUS.get(code, 422)
