"""The nouns of the ledger: accounts, the supply they must add up to, and plain transfers."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Annotated

from gridtokenx.primitives.codec import MAX_INT, Bytes32, Bytes64, Limit, wire
from gridtokenx.primitives.crypto import ZERO_HASH, tagged_hash
from gridtokenx.primitives.state import Table, u64
from gridtokenx.primitives.types import Address

# Accounts without a key: nobody can sign for them, only rules move what they hold. All are listed
# in SYSTEM_ACCOUNTS, by which gifts to them are refused.
TREASURY: bytes = tagged_hash("gtx.account", b"treasury")
TAX: bytes = tagged_hash("gtx.account", b"tax")
_SYSTEM_NAMES = ("treasury", "tax", "bonded", "unbonding", "reward reserve", "fees", "deposits")
SYSTEM_ACCOUNTS: dict[bytes, str] = {
    tagged_hash("gtx.account", name.encode()): name for name in _SYSTEM_NAMES
}

Amount = Annotated[int, Limit(1, MAX_INT)]


class Asset(IntEnum):
    """What a transfer moves; the unit is the asset's smallest (Wh, uTHB, ugtx, micro-credit)."""

    ENERGY = 1
    THB = 2
    GTX = 3
    CARBON = 4


# What an account must hold of one asset at least while nothing else backs it, in its smallest unit:
# 1 kWh, 1 THB, 0.01 gtx, 1 credit. A row of state is for ever, as its nonce is.
MINIMUMS: dict[Asset, int] = {
    Asset.ENERGY: 1_000,
    Asset.THB: 1_000_000,
    Asset.GTX: 10_000,
    Asset.CARBON: 1_000_000,
}


@wire(50)
@dataclass(frozen=True, slots=True)
class Account:
    """What one address holds. `nonce` is the number its next transaction must carry.

    Units: energy in Wh, of which `energy_held_wh` was delivered to a meter whose reading of that
    slot is still out (it cannot be spent, the reading decides how much of it was consumed);
    thb, escrow (buyers' reserve) and bond (sellers' reserve) in uTHB; gtx in ugtx (1 gtx = 10**6);
    carbon in micro-credits; `local_wh` is the part of energy_wh that was metered in the owner's own
    territory, which alone its utility takes over. Source: protocols/market.md 1, 4.
    """

    nonce: int = 0
    energy_wh: int = 0
    energy_held_wh: int = 0
    thb_uthb: int = 0
    escrow_uthb: int = 0
    bond_uthb: int = 0
    gtx_ugtx: int = 0
    carbon_ucr: int = 0
    local_wh: int = 0

    def holding(self, asset: Asset) -> int:
        """What can be spent of an asset, in its smallest unit."""
        match asset:
            case Asset.ENERGY:
                return self.energy_wh
            case Asset.THB:
                return self.thb_uthb
            case Asset.GTX:
                return self.gtx_ugtx
            case Asset.CARBON:
                return self.carbon_ucr


@wire(51)
@dataclass(frozen=True, slots=True)
class Supply:
    """What all accounts together must hold.

    Sum of (thb + escrow + bond) = thb_uthb; of (energy + held) = energy_minted_wh -
    energy_burned_wh + what CROSSINGS says came from other chains less what went there; of gtx =
    gtx_ugtx; of carbon = carbon_issued_ucr - carbon_retired_ucr.
    """

    thb_uthb: int = 0
    energy_minted_wh: int = 0
    energy_burned_wh: int = 0
    gtx_ugtx: int = 0
    carbon_issued_ucr: int = 0
    carbon_retired_ucr: int = 0
    certificates: int = 0  # retirement certificates issued; the last one's number


@wire(52)
@dataclass(frozen=True, slots=True)
class Transfer:
    """Command: move an amount of one asset from the sender to `to`."""

    to: Address
    asset: Asset
    amount: Amount


@wire(53)
@dataclass(frozen=True, slots=True)
class Deposit:
    """Command of the payment authority: baht received off chain, credited to `to`.

    `statement` is its signature over `statement_bytes` of all deposits with this one: baht that it
    has not stated so does not leave the chain.
    """

    to: Address
    amount_uthb: Amount
    statement: Bytes64 | None = None


@wire(54)
@dataclass(frozen=True, slots=True)
class Withdraw:
    """Command of the payment authority: baht paid out off chain, burned from its own balance."""

    amount_uthb: Amount


@wire(55)
@dataclass(frozen=True, slots=True)
class RetireCredits:
    """Command: burn own carbon credits, once and for good, and get a certificate.

    `beneficiary_hash` is SHA-256 of the text that says for whom or what (zero: the owner). The text
    itself stays off chain: it may name a person.
    """

    amount_ucr: Amount
    beneficiary_hash: Bytes32 = ZERO_HASH


@wire(56)
@dataclass(frozen=True, slots=True)
class Transferred:
    """Event: `amount` of `asset` moved."""

    sender: Address
    to: Address
    asset: Asset
    amount: int


@wire(57)
@dataclass(frozen=True, slots=True)
class Deposited:
    """Event: baht created for `to`."""

    to: Address
    amount_uthb: int


@wire(58)
@dataclass(frozen=True, slots=True)
class Withdrawn:
    """Event: baht destroyed."""

    authority: Address
    amount_uthb: int


@wire(59)
@dataclass(frozen=True, slots=True)
class CreditsRetired:
    """Event: carbon credits burned by their owner; `certificate` is its number on this chain."""

    owner: Address
    amount_ucr: int
    certificate: int
    beneficiary_hash: Bytes32


@wire(60)
@dataclass(frozen=True, slots=True)
class RetirementCertificate:
    """Proof that credits were retired, kept for good. Numbers count from 1 on each chain."""

    number: int
    owner: Address
    amount_ucr: int
    beneficiary_hash: Bytes32
    retired_ms: int


@wire(61)
@dataclass(frozen=True, slots=True)
class Crossings:
    """What came to the chain's accounts from other chains, and what left for them, cumulative."""

    energy_arrived_wh: int = 0
    energy_departed_wh: int = 0
    thb_arrived_uthb: int = 0
    thb_departed_uthb: int = 0
    gtx_arrived_ugtx: int = 0
    gtx_departed_ugtx: int = 0


@wire(62)
@dataclass(frozen=True, slots=True)
class DepositDay:
    """Baht that was created on the newest Bangkok day on which any was (days since 1970-01-01)."""

    day: int
    amount_uthb: int


@wire(118)
@dataclass(frozen=True, slots=True)
class DepositsEver:
    """All deposits on this chain, and up to where the payment authority has signed for them."""

    total_uthb: int = 0
    stated_uthb: int = 0
    statement: Bytes64 = bytes(64)


LedgerCommand = Transfer | Deposit | Withdraw | RetireCredits
LedgerEvent = Transferred | Deposited | Withdrawn | CreditsRetired

ACCOUNTS = Table(b"la", Account)  # key: 32-byte address
SUPPLY = Table(b"ls", Supply)  # key: b""
CROSSINGS = Table(b"lx", Crossings)  # key: b""
DEPOSIT_DAY = Table(b"ld", DepositDay)  # key: b""
DEPOSITS_EVER = Table(b"lt", DepositsEver)  # key: b""
CERTIFICATES = Table(b"lc", RetirementCertificate)  # key: number u64


def statement_bytes(region_id: bytes, total_uthb: int) -> bytes:
    """What the payment authority signs: so much has been deposited on the region in all.

    `region_id`: its genesis id, for what was deposited outlives incarnations.
    """
    return b"GTXv1 deposits" + region_id + u64(total_uthb)
