"""What an account is to its chain besides what it holds. Source: protocols/market.md 1.

The ledger does not know the registry and stake: this module looks them up for it, and for the
pool, which shares its places by them.
"""

from __future__ import annotations

from enum import IntEnum

from gridtokenx.chain.authorities import AUTHORITIES
from gridtokenx.ledger.model import MINIMUMS, Asset
from gridtokenx.primitives.state import Reader
from gridtokenx.registry import rules as registry
from gridtokenx.registry.model import METER_KEYS, OPERATORS, PARTICIPANTS
from gridtokenx.staking import pools
from gridtokenx.staking.model import CONSENSUS_KEYS, VALIDATORS


class Standing(IntEnum):
    """What backs an account."""

    PLAIN = 0  # Nothing but its balance.
    BACKED = 1  # A registration or stake.
    OFFICE = 2  # It signs for an organisation, or is the key of a region's authority.


def standing_of(state: Reader, address: bytes) -> Standing:
    """By the chain's state: registered are participants, meters' keys and organisations' accounts;
    on the national chain also validators, their keys, and who has the least amount of gtx bonded.
    """
    if OPERATORS.get(state, address):
        return Standing.OFFICE
    if PARTICIPANTS.get(state, address) or METER_KEYS.get(state, address):
        return Standing.BACKED
    if any(one.account == address for one in registry.organisations(state)):
        return Standing.BACKED
    return _national_standing(state, address)


def is_backed(state: Reader, address: bytes) -> bool:
    """Whether an account may be empty and still be there."""
    return standing_of(state, address) is not Standing.PLAIN


def _national_standing(state: Reader, address: bytes) -> Standing:
    """On a region all of its tables are empty."""
    for _, region in AUTHORITIES.items(state):
        if any(entry.public_key == address for entry in region.entries):
            return Standing.OFFICE
    if VALIDATORS.get(state, address) or CONSENSUS_KEYS.get(state, address):
        return Standing.BACKED
    least_ugtx = MINIMUMS[Asset.GTX]
    if any(worth >= least_ugtx for _, worth in pools.delegations_of(state, address)):
        return Standing.BACKED
    return Standing.PLAIN
