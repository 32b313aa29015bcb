"""The two kinds of error: `Rejected` (the outside is wrong) and everything else (we are).

The table of codes is `protocols/errors.md`, generated from this file.
"""

from __future__ import annotations

from enum import IntEnum


class ErrorCode(IntEnum):
    """Stable application error codes; the name in lower case is the `reason` an API shows."""

    # 1xxx chain
    BLOCK_NOT_FOUND = 1001
    PRUNED = 1002
    NOT_FINALIZED_YET = 1003
    PROOF_UNAVAILABLE = 1004
    INVALID_BLOCK = 1005
    INVALID_CERTIFICATE = 1006
    TRUST_EXPIRED = 1007
    # 2xxx transactions and encoding
    BAD_SIGNATURE = 2001
    NONCE_TOO_LOW = 2002
    NONCE_GAP = 2003
    INSUFFICIENT_BALANCE = 2004
    DUPLICATE = 2005
    EXPIRED = 2006
    MEMPOOL_FULL = 2007
    FEE_TOO_LOW = 2008
    WRONG_CHAIN = 2009
    MALFORMED_TX = 2010
    TX_NOT_FOUND = 2011
    TOO_LARGE = 2012
    UNKNOWN_KIND = 2013
    OUT_OF_RANGE = 2014
    NOT_PERMITTED = 2015
    MALFORMED = 2016
    # 3xxx energy orders and trades
    ORDER_NOT_FOUND = 3001
    AMOUNT_OUT_OF_RANGE = 3002
    PRICE_OUT_OF_BAND = 3003
    UNKNOWN_SOURCE = 3004
    ORDER_EXPIRED = 3005
    NOT_ORDER_OWNER = 3006
    UNBACKED_ENERGY = 3007
    INTERVAL_CLOSED = 3008
    TOO_MANY_ORDERS = 3009
    SELF_TRADE = 3010
    DAILY_CAP = 3011
    SLOT_CAP = 3012
    TRADE_NOT_FOUND = 3013
    CERTIFICATE_NOT_FOUND = 3014
    # 4xxx grid, meters, participants
    UNKNOWN_ZONE = 4001
    ZONE_CONGESTED = 4002
    GRID_EMERGENCY = 4003
    NOT_GRID_OPERATOR = 4004
    UNKNOWN_METER = 4005
    BAD_READING = 4006
    READING_OUT_OF_ORDER = 4007
    NOT_REGISTERED = 4008
    NOT_ACTIVE = 4009
    ALREADY_REGISTERED = 4010
    LICENCE_EXPIRED = 4011
    WRONG_TERRITORY = 4012
    METER_NOT_NAMED = 4013
    # 5xxx accounts
    ACCOUNT_NOT_FOUND = 5001
    BAD_ADDRESS = 5002
    SIGNATURE_REQUIRED = 5003
    BELOW_MINIMUM = 5004
    # 6xxx governance and staking
    PROPOSAL_NOT_FOUND = 6001
    UNKNOWN_PARAMETER = 6002
    VALUE_OUT_OF_RANGE = 6003
    VOTING_CLOSED = 6004
    NO_VOTING_POWER = 6005
    VALIDATOR_NOT_FOUND = 6006
    VALIDATOR_JAILED = 6007
    TOO_MANY_PROPOSALS = 6008
    # 7xxx network
    NO_PEERS = 7001
    PEER_BANNED = 7002
    GENESIS_MISMATCH = 7003
    # 8xxx regions
    UNKNOWN_SHARD = 8001
    CROSS_SHARD_PENDING = 8002

    @property
    def reason(self) -> str:
        """The stable lower-case word an API shows beside the number."""
        return self.name.lower()


RETRYABLE = frozenset(
    {
        ErrorCode.NOT_FINALIZED_YET,
        ErrorCode.NONCE_GAP,
        ErrorCode.MEMPOOL_FULL,
        ErrorCode.NO_PEERS,
        ErrorCode.CROSS_SHARD_PENDING,
        ErrorCode.GRID_EMERGENCY,
        ErrorCode.ZONE_CONGESTED,
    }
)


class Rejected(Exception):  # noqa: N818 - a verdict on outside input, not a fault of ours
    """Outside input breaks a rule. Expected: told to its sender, never logged as a fault.

    `code` is stable; `detail` is one sentence naming the value and what to do.
    """

    def __init__(self, code: ErrorCode, detail: str) -> None:
        super().__init__(f"{code.name}: {detail}")
        self.code = code
        self.detail = detail
