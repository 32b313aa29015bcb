"""The genesis of a network: one file all nodes share; each chain's identity derives from it.

`chain_id` = SHA-256 of the chain's canonical genesis (network, chain, incarnation, validators,
organisations, parameters, clock), and everything signed contains it. Source: consensus 1, 2.1, 2.7.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Annotated

from gridtokenx.chain.validator_sets import install_set
from gridtokenx.ledger import rules as ledger
from gridtokenx.primitives.codec import MAX_INT, Limit, encode, wire
from gridtokenx.primitives.crypto import sha256
from gridtokenx.primitives.document import from_document, to_document
from gridtokenx.primitives.errors import ErrorCode, Rejected
from gridtokenx.primitives.state import Overlay
from gridtokenx.primitives.types import Address
from gridtokenx.primitives.validators import MAX_VALIDATORS, Validator, ValidatorSet
from gridtokenx.registry import rules as registry
from gridtokenx.registry.model import Organisation, Territory
from gridtokenx.trading.model import PARAMETERS, MarketParameters

MAX_GENESIS_BYTES = 1024 * 1024
_EARLIEST_START_MS = 86_400_000  # The market looks back less than a day, never before slot 0.
_CHAIN_NAME = re.compile(r"[A-Z0-9]{2,8}")  # Part of topics and of database keys.
Name = Annotated[str, Limit(1, 32)]
Milliseconds = Annotated[int, Limit(100, 86_400_000)]


@wire(36)
@dataclass(frozen=True, slots=True)
class BlockClock:
    """How a header becomes market time.

    `ms_per_block` 0: market time is the header's wall-clock time. Otherwise market time is
    `start_ms + height * ms_per_block`, so that a demonstration plays a day in minutes and two runs
    see the same slots. Decision 0002.
    """

    start_ms: int
    ms_per_block: int


@wire(37)
@dataclass(frozen=True, slots=True)
class GenesisValidator:
    """An authority's consensus key, its weight, and the organisation whose account earns fees."""

    organisation: Annotated[str, Limit(1, 16)]
    public_key: Address
    weight: Annotated[int, Limit(1, 2**40)]


@wire(38)
@dataclass(frozen=True, slots=True)
class RegionChain:
    """One region chain. `offset_ms` staggers its slots against the other chains' (2.7)."""

    name: Annotated[str, Limit(2, 8)]
    incarnation: int
    offset_ms: int
    territories: Annotated[tuple[Territory, ...], Limit(1, 77)]
    validators: Annotated[tuple[GenesisValidator, ...], Limit(1, MAX_VALIDATORS)]


@wire(39)
@dataclass(frozen=True, slots=True)
class Allocation:
    """gtx of the genesis supply for one account, in ugtx, on every chain of the file."""

    account: Address
    gtx_ugtx: int


@wire(40)
@dataclass(frozen=True)
class Genesis:
    """A whole network: what `bootstrap/<network>/genesis.json` says.

    A validator set changes with an epoch of `epoch_blocks`; an offence can be punished for
    `evidence_window_blocks`.
    """

    network_name: Name
    network_id: int
    genesis_time_ms: int
    block_time_ms: Milliseconds
    timeout_base_ms: Milliseconds
    epoch_blocks: Annotated[int, Limit(4, 1_000_000)]
    evidence_window_blocks: Annotated[int, Limit(4, 10_000_000)]
    market_clock: BlockClock
    organisations: Annotated[tuple[Organisation, ...], Limit(1, 64)]
    allocations: Annotated[tuple[Allocation, ...], Limit(0, 1024)]
    parameters: MarketParameters
    chains: Annotated[tuple[RegionChain, ...], Limit(1, 32)]

    @cached_property
    def hash(self) -> bytes:
        """What nodes compare at first contact."""
        return sha256(encode(self))

    def chain(self, name: str) -> ChainSpec:
        """The rules of one chain. Errors: UNKNOWN_SHARD."""
        for region in self.chains:
            if region.name == name:
                return ChainSpec(self, region)
        known = ", ".join(self.chain_names)
        raise Rejected(ErrorCode.UNKNOWN_SHARD, f"no chain {name!r} here; there are {known}")

    @property
    def chain_names(self) -> tuple[str, ...]:
        """Names of all chains, in file order."""
        return tuple(region.name for region in self.chains)

    def chain_of_location(self, location: str) -> ChainSpec:
        """The chain that serves `BKK-...`. Errors: UNKNOWN_ZONE."""
        for region in self.chains:
            if location[:3] in {territory.prefix for territory in region.territories}:
                return ChainSpec(self, region)
        known = ", ".join(
            territory.prefix for region in self.chains for territory in region.territories
        )
        detail = f"no chain serves {location!r}; the regions are {known}"
        raise Rejected(ErrorCode.UNKNOWN_ZONE, detail)


@dataclass(frozen=True)
class ChainSpec:
    """One chain of a genesis with everything derived from it."""

    genesis: Genesis
    region: RegionChain

    @property
    def name(self) -> str:
        """Short name such as `MET`."""
        return self.region.name

    @cached_property
    def chain_id(self) -> bytes:
        """32 bytes inside everything signed on this chain."""
        return sha256(encode(replace(self.genesis, chains=(self.region,))))

    @cached_property
    def genesis_validators(self) -> ValidatorSet:
        """Who signs blocks until the first change of the set; afterwards the state says who."""
        return ValidatorSet.of(
            Validator(member.public_key, member.weight) for member in self.region.validators
        )

    @cached_property
    def genesis_accounts(self) -> tuple[bytes, ...]:
        """By index in the genesis set: the account that earns the proposer's share of fees."""
        account_of = {entry.name: entry.account for entry in self.genesis.organisations}
        owner_of = {entry.public_key: entry.organisation for entry in self.region.validators}
        members = self.genesis_validators.members
        return tuple(account_of[owner_of[member.public_key]] for member in members)

    def market_time_ms(self, height: int, time_ms: int) -> int:
        """The `now_ms` that rules see for a block."""
        clock = self.genesis.market_clock
        if clock.ms_per_block:
            return clock.start_ms + height * clock.ms_per_block
        return time_ms

    def opens_ms(self, parent_time_ms: int) -> int:
        """Earliest time of the next block: the start of the next slot, a fifth of one at least.

        One block a slot, so a late block does not shift the rhythm. Source: consensus 2.7.
        """
        block_time_ms = self.genesis.block_time_ms
        origin = self.genesis.genesis_time_ms + self.region.offset_ms
        slot = (parent_time_ms - origin) // block_time_ms
        return max(origin + (slot + 1) * block_time_ms, parent_time_ms + block_time_ms // 5)

    def install(self, state: Overlay) -> None:
        """Write the chain's state before block 1."""
        install_set(state, self.genesis_validators, self.genesis_accounts)
        for organisation in self.genesis.organisations:
            registry.add_organisation(state, organisation)
        for territory in self.region.territories:
            registry.add_territory(state, territory)
        PARAMETERS.put(state, b"", self.genesis.parameters)
        for allocation in self.genesis.allocations:
            ledger.issue_gtx(state, allocation.account, allocation.gtx_ugtx)


def load_genesis(text: str) -> Genesis:
    """Read a genesis file. Errors: MALFORMED or OUT_OF_RANGE naming the field."""
    if len(text) > MAX_GENESIS_BYTES:
        raise Rejected(ErrorCode.TOO_LARGE, f"a genesis file has at most {MAX_GENESIS_BYTES} bytes")
    try:
        document = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise Rejected(ErrorCode.MALFORMED, f"the genesis file is not JSON: {error}") from None
    genesis = from_document(Genesis, document)
    _check(genesis)
    return genesis


def dump_genesis(genesis: Genesis) -> str:
    """The file's text for a genesis."""
    return json.dumps(to_document(genesis), indent=2, ensure_ascii=False) + "\n"


def _check(genesis: Genesis) -> None:
    """Cross-references that types cannot hold. Errors: MALFORMED."""
    organisations = [entry.name for entry in genesis.organisations]
    _check_distinct("organisation", organisations)
    _check_distinct("operator", [entry.operator.hex() for entry in genesis.organisations])
    _check_distinct("allocation", [entry.account.hex() for entry in genesis.allocations])
    _check_distinct("chain", [region.name for region in genesis.chains])
    for region in genesis.chains:
        if _CHAIN_NAME.fullmatch(region.name) is None:
            detail = f"a chain is named by 2 to 8 of A-Z and 0-9, not {region.name!r}"
            raise Rejected(ErrorCode.MALFORMED, detail)
    prefixes = [entry.prefix for region in genesis.chains for entry in region.territories]
    _check_distinct("region prefix", prefixes)
    for region in genesis.chains:
        _check_distinct("validator key", [entry.public_key.hex() for entry in region.validators])
        named = [entry.organisation for entry in region.validators]
        named += [entry.distributor for entry in region.territories]
        for name in named:
            if name not in organisations:
                detail = f"chain {region.name} names organisation {name!r}, which is not defined"
                raise Rejected(ErrorCode.MALFORMED, detail)
    clock = genesis.market_clock
    if clock.ms_per_block and clock.start_ms < _EARLIEST_START_MS:
        detail = f"the market clock starts at {clock.start_ms}, before 1970-01-02 (Unix ms)"
        raise Rejected(ErrorCode.MALFORMED, detail)
    if sum(entry.gtx_ugtx for entry in genesis.allocations) > MAX_INT:
        raise Rejected(ErrorCode.MALFORMED, "the allocations add up to more than 2**63 - 1 ugtx")


def _check_distinct(what: str, values: list[str]) -> None:
    if len(values) != len(set(values)):
        twice = next(value for value in values if values.count(value) > 1)
        raise Rejected(ErrorCode.MALFORMED, f"{what} {twice} appears twice in the genesis file")
