"""Signed transactions: what they carry, what is signed, how they are read.

Source: protocols/state-transition.md 2.

The chain id (which contains the incarnation) and the nonce are inside what is signed, so a
transaction is good on one chain, once. Its id covers the signature too: only the signer can make a
second spelling of the same intent, and its nonce lets only one of them in.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Annotated

from gridtokenx.governance.model import GovernanceCommand, Propose
from gridtokenx.grid.model import HaltTerritory, PublishGridStatus, ResumeTerritory, SubmitReadings
from gridtokenx.interchain.model import InterchainCommand, SubmitCheckpoint
from gridtokenx.ledger.model import Deposit, RetireCredits, Transfer, Withdraw, statement_bytes
from gridtokenx.primitives.codec import Bytes32, Bytes64, Limit, decode, encode, encode_array, wire
from gridtokenx.primitives.crypto import SigningKey, tagged_hash, verify
from gridtokenx.primitives.errors import ErrorCode, Rejected
from gridtokenx.primitives.types import Address
from gridtokenx.registry.model import RegistryCommand
from gridtokenx.staking.model import StakingCommand
from gridtokenx.trading.model import CancelOrder, PlaceOrder, Redeem

MAX_COMMAND_BYTES = 4096  # Of any transaction but a checkpoint or a proposal,
MAX_TRANSACTION_BYTES = 210 * 1024  # which carries a header and many messages, or a long text.
MAX_BATCH = 4096
SIGNING_DOMAIN = b"GTXv1-transaction"
_ENCODED_HEAD = bytes((0x87, 0x18, 30))  # An array of seven that begins with the tag 30 ...
_CHAIN_ID_HEAD = _ENCODED_HEAD + bytes((0x58, 32))  # ... and goes on with 32 bytes of chain id;
_SIGNED_HEAD = bytes((0x84,))  # of its rest the four before the payload are signed,
_SIGNATURE_BYTES = 66  # and whose end, two bytes of CBOR head and the signature, is not.

Payload = (
    Transfer
    | Deposit
    | Withdraw
    | RetireCredits
    | RegistryCommand
    | SubmitReadings
    | PlaceOrder
    | CancelOrder
    | Redeem
    | PublishGridStatus
    | HaltTerritory
    | ResumeTerritory
    | InterchainCommand
    | StakingCommand
    | GovernanceCommand
)


@wire(30)
@dataclass(frozen=True)
class Transaction:
    """One signed command. `sender` is the Ed25519 key that signed; `fee_ugtx` may be zero."""

    chain_id: Bytes32
    sender: Address
    nonce: int
    fee_ugtx: int
    payload: Payload
    signature: Bytes64

    @cached_property
    def encoded(self) -> bytes:
        """Canonical bytes, computed once."""
        return encode(self)

    @cached_property
    def id(self) -> bytes:
        """32-byte transaction id over the canonical bytes."""
        return transaction_id(self.encoded)

    def signing_bytes(self) -> bytes:
        """`signing_bytes` of the fields, cut out of the encoding, which repeats them in order."""
        signed = self.encoded[len(_ENCODED_HEAD) : -_SIGNATURE_BYTES]
        return SIGNING_DOMAIN + _SIGNED_HEAD + signed

    def is_signed(self) -> bool:
        """Whether the signature is the sender's. About 45 us; releases the GIL."""
        return verify(self.sender, self.signing_bytes(), self.signature)


@wire(31)
@dataclass(frozen=True, slots=True)
class TransactionBatch:
    """Transactions that travel in one gossip message or one response."""

    transactions: Annotated[
        tuple[Annotated[bytes, Limit(1, MAX_TRANSACTION_BYTES)], ...], Limit(0, MAX_BATCH)
    ]


def signing_bytes(
    chain_id: bytes, sender: bytes, nonce: int, fee_ugtx: int, payload: Payload
) -> bytes:
    """The exact bytes a sender signs. `protocols/state-transition.md` 1 has a worked example."""
    head = encode_array(chain_id, sender, nonce, fee_ugtx)
    return SIGNING_DOMAIN + head + encode(payload)


def sign_deposit(
    key: SigningKey, region_id: bytes, to: bytes, amount_uthb: int, *, so_far_uthb: int
) -> Deposit:
    """A payment authority's deposit with its statement. `so_far_uthb`: all deposits before it."""
    statement = key.sign(statement_bytes(region_id, so_far_uthb + amount_uthb))
    return Deposit(to, amount_uthb, statement)


def sign_transaction(
    key: SigningKey, chain_id: bytes, nonce: int, payload: Payload, fee_ugtx: int = 0
) -> Transaction:
    """A transaction signed by `key`."""
    message = signing_bytes(chain_id, key.public_key, nonce, fee_ugtx, payload)
    return Transaction(chain_id, key.public_key, nonce, fee_ugtx, payload, key.sign(message))


def transaction_id(raw: bytes) -> bytes:
    """The 32-byte id of a transaction's bytes. Source: protocols/state-transition.md 2."""
    return tagged_hash("gtx.tx", raw)


def chain_id_of(raw: bytes) -> bytes:
    """The chain id that a transaction's bytes name, for whoever hands them on to be decoded.

    Errors: those of `decode_transaction`, of bytes that do not begin like one.
    """
    start = len(_CHAIN_ID_HEAD)
    if raw.startswith(_CHAIN_ID_HEAD) and start + 32 <= len(raw) <= MAX_TRANSACTION_BYTES:
        return raw[start : start + 32]
    return decode_transaction(raw).chain_id


def decode_transaction(data: bytes) -> Transaction:
    """Read canonical bytes. Errors: TOO_LARGE, UNKNOWN_KIND, OUT_OF_RANGE, else MALFORMED_TX."""
    try:
        transaction = decode(Transaction, data, MAX_TRANSACTION_BYTES)
    except Rejected as error:
        if error.code is ErrorCode.MALFORMED:
            raise Rejected(ErrorCode.MALFORMED_TX, error.detail) from None
        raise
    large = isinstance(transaction.payload, SubmitCheckpoint | Propose)
    if len(data) > MAX_COMMAND_BYTES and not large:
        detail = f"such a transaction has at most {MAX_COMMAND_BYTES} bytes, not {len(data)}"
        raise Rejected(ErrorCode.TOO_LARGE, detail)
    transaction.__dict__["encoded"] = data  # Decoding proved these bytes canonical.
    return transaction


def check_signature(transaction: Transaction) -> None:
    """Errors: BAD_SIGNATURE."""
    if not transaction.is_signed():
        detail = "the signature is not the sender's over this transaction on this chain"
        raise Rejected(ErrorCode.BAD_SIGNATURE, detail)
