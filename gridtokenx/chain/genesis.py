"""The genesis of a network: one file all nodes share; each chain's identity derives from it.

`chain_id` = SHA-256 of the chain's canonical genesis (network, chain, incarnation, validators,
organisations, parameters, clock), and everything signed contains it. Source:
protocols/state-transition.md 3, 4.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Annotated

from gridtokenx.chain.authorities import AuthorityEntry, install_authorities
from gridtokenx.chain.limits import Times, check_genesis
from gridtokenx.chain.validator_sets import check_kept_sets, install_set
from gridtokenx.governance import parameters as voted
from gridtokenx.governance import rules as governance
from gridtokenx.governance.model import GovernanceParameters
from gridtokenx.interchain import checkpoints
from gridtokenx.interchain.log import open_log
from gridtokenx.interchain.model import FIRST_INCARNATION, Incarnation, InterchainParameters
from gridtokenx.interchain.rules import Place, open_inbox
from gridtokenx.ledger import rules as ledger
from gridtokenx.primitives.codec import MAX_INT, Limit, encode, wire
from gridtokenx.primitives.crypto import sha256, tagged_hash
from gridtokenx.primitives.document import from_document, to_document
from gridtokenx.primitives.errors import ErrorCode, Rejected
from gridtokenx.primitives.places import territory_of
from gridtokenx.primitives.quantities import SLOT_MS
from gridtokenx.primitives.state import MemoryReader, Overlay
from gridtokenx.primitives.types import Address
from gridtokenx.primitives.validators import MAX_VALIDATORS, Validator, ValidatorSet
from gridtokenx.registry import rules as registry
from gridtokenx.registry.model import Organisation, Territory
from gridtokenx.staking import pools
from gridtokenx.staking import rules as staking
from gridtokenx.staking.model import REWARD_RESERVE, CreateValidator, StakingParameters
from gridtokenx.staking.weights import elect
from gridtokenx.trading.model import MarketParameters

MAX_GENESIS_BYTES = 1024 * 1024
MAX_TERRITORIES = 77  # Provinces of Thailand, Bangkok among them.
_EARLIEST_START_MS = 86_400_000  # The market looks back less than a day, never before slot 0.
GATE_GRACE_BLOCKS, LEAST_GATE_GRACE_MS = 6, 60_000
_LATEST_START_MS = 4_102_444_800_000  # The year 2100: no sum of a time and a duration ends there.
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
    territories: Annotated[tuple[Territory, ...], Limit(1, MAX_TERRITORIES)]
    validators: Annotated[tuple[GenesisValidator, ...], Limit(1, MAX_VALIDATORS)]


@wire(39)
@dataclass(frozen=True, slots=True)
class Allocation:
    """gtx of the genesis supply for one account, in ugtx, on every region chain of the file."""

    account: Address
    gtx_ugtx: int


@wire(238)
@dataclass(frozen=True, slots=True)
class GenesisStake:
    """A validator of the national chain; `operator` bonds what genesis gives it for that."""

    operator: Address
    public_key: Address
    moniker: Annotated[str, Limit(1, 64)]
    commission_bps: Annotated[int, Limit(0, 10_000)]
    self_bond_ugtx: Annotated[int, Limit(1, MAX_INT)]


@wire(41)
@dataclass(frozen=True, slots=True)
class NationalChain:
    """The chain of stake, governance and messages. It holds the whole genesis supply of gtx: what
    regions' accounts get counts as escrowed on it. `allocations` are for accounts on this chain.
    """

    name: Annotated[str, Limit(2, 8)]
    offset_ms: int
    stakes: Annotated[tuple[GenesisStake, ...], Limit(1, MAX_VALIDATORS)]
    allocations: Annotated[tuple[Allocation, ...], Limit(0, 1024)]
    reward_reserve_ugtx: int
    staking: StakingParameters
    governance: GovernanceParameters
    interchain: InterchainParameters


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
    national: NationalChain | None = None

    @cached_property
    def hash(self) -> bytes:
        """What nodes compare at first contact."""
        return sha256(encode(self))

    def chain(self, name: str) -> ChainSpec:
        """The rules of one chain. Errors: UNKNOWN_SHARD."""
        if self.national is not None and self.national.name == name:
            return ChainSpec(self, None)
        for region in self.chains:
            if region.name == name:
                return ChainSpec(self, region)
        known = ", ".join(self.chain_names)
        raise Rejected(ErrorCode.UNKNOWN_SHARD, f"no chain {name!r} here; there are {known}")

    @property
    def unbonding_blocks_min(self) -> int:
        """How long stake must stay within reach of a slash: a set signs up to three epochs after
        the stake behind it could leave, and evidence may come a whole window later.
        """
        return self.evidence_window_blocks + 3 * self.epoch_blocks

    @property
    def chain_names(self) -> tuple[str, ...]:
        """Names of all chains: the national one if there is one, then regions in file order."""
        first = () if self.national is None else (self.national.name,)
        return (*first, *(region.name for region in self.chains))

    def chain_of_location(self, location: str) -> ChainSpec:
        """The chain that serves `BKK-...`. Errors: UNKNOWN_ZONE."""
        for region in self.chains:
            if territory_of(location) in {territory.prefix for territory in region.territories}:
                return ChainSpec(self, region)
        known = ", ".join(
            territory.prefix for region in self.chains for territory in region.territories
        )
        detail = f"no chain serves {location!r}; the territories are {known}"
        raise Rejected(ErrorCode.UNKNOWN_ZONE, detail)


@dataclass(frozen=True)
class ChainSpec:
    """One chain of a genesis with everything derived from it.

    `region` is None for the national chain. `incarnations` are those that voters let follow the
    genesis' own, oldest first, as far as their blocks count: see `with_incarnation`.
    """

    genesis: Genesis
    region: RegionChain | None
    incarnations: tuple[Incarnation, ...] = ()

    def with_incarnation(self, born: Incarnation) -> ChainSpec:
        """The chain with one more incarnation. Those that began above its first block are void."""
        kept = tuple(one for one in self.incarnations if one.height < born.height)
        return replace(self, incarnations=(*kept, born))

    def at(self, height: int) -> ChainSpec:
        """The chain as it was when the block at a height was decided."""
        return self._lives[sum(one.height < height for one in self.incarnations)]

    def born_at(self, height: int) -> Incarnation | None:
        """The incarnation whose first block is at a height."""
        for one in self.incarnations:
            if one.height == height - 1:
                return one
        return None

    @cached_property
    def _lives(self) -> tuple[ChainSpec, ...]:
        """The chain before its first new incarnation, in it, and so on up to now."""
        earlier = range(len(self.incarnations))
        return (*(replace(self, incarnations=self.incarnations[:count]) for count in earlier), self)

    @property
    def is_national(self) -> bool:
        """Whether stake decides here, not authorities."""
        return self.region is None

    @property
    def territories(self) -> tuple[Territory, ...]:
        """What distributors serve on it; nothing on the national chain."""
        return () if self.region is None else self.region.territories

    @property
    def national(self) -> NationalChain:
        """The national chain of the file. ValueError where there is none."""
        if self.genesis.national is None:
            raise ValueError("this network has no national chain")
        return self.genesis.national

    @property
    def name(self) -> str:
        """Short name such as `MET`."""
        return self.national.name if self.region is None else self.region.name

    @property
    def offset_ms(self) -> int:
        """How far the chain's slots lie behind the network's (2.7)."""
        return self.national.offset_ms if self.region is None else self.region.offset_ms

    @cached_property
    def genesis_id(self) -> bytes:
        """The chain id of the first incarnation, which also names the chain in logs of messages."""
        if self.region is None:
            return tagged_hash("gtx.national", self.genesis.hash)
        return sha256(encode(replace(self.genesis, chains=(self.region,))))

    @cached_property
    def chain_id(self) -> bytes:
        """32 bytes inside everything that validators and accounts sign on this chain now."""
        return self.incarnations[-1].chain_id if self.incarnations else self.genesis_id

    @property
    def incarnation(self) -> int:
        """The number of the present incarnation."""
        return self.place.incarnation

    @cached_property
    def place(self) -> Place:
        """Where the rules of messages run."""
        genesis = self.genesis
        national = genesis.national
        name = "" if national is None else national.name
        identity = b"" if national is None else ChainSpec(genesis, None).genesis_id
        return Place(
            self.name, self.genesis_id, name, identity, genesis.chain_names, self.incarnations
        )

    @cached_property
    def genesis_validators(self) -> ValidatorSet:
        """Who signs blocks until the first change of the set; afterwards the state says who."""
        if self.region is not None:
            return ValidatorSet.of(
                Validator(member.public_key, member.weight) for member in self.region.validators
            )
        stakes = [(one.public_key, one.self_bond_ugtx) for one in self.national.stakes]
        numbers = self.national.staking
        return ValidatorSet.of(
            elect(stakes, unit=numbers.unit_ugtx, cap_bps=numbers.weight_cap_bps)
        )

    @cached_property
    def organisation_of(self) -> dict[bytes, str]:
        """By consensus key of the genesis: who runs it, an organisation or a moniker."""
        if self.region is not None:
            return {one.public_key: one.organisation for one in self.region.validators}
        return {one.public_key: one.moniker for one in self.national.stakes}

    @cached_property
    def genesis_accounts(self) -> tuple[bytes, ...]:
        """By index in the genesis set: the account that earns the proposer's share of fees."""
        members = self.genesis_validators.members
        if self.region is None:
            operator_of = {one.public_key: one.operator for one in self.national.stakes}
            return tuple(operator_of[member.public_key] for member in members)
        account_of = {entry.name: entry.account for entry in self.genesis.organisations}
        return tuple(account_of[self.organisation_of[member.public_key]] for member in members)

    def market_time_ms(self, height: int, time_ms: int) -> int:
        """The `now_ms` that rules see for a block."""
        clock = self.genesis.market_clock
        if clock.ms_per_block:
            return clock.start_ms + height * clock.ms_per_block
        return time_ms

    @property
    def times(self) -> Times:
        """What the limits of parameters depend on, of the national chain."""
        genesis = self.genesis
        block_ms = genesis.market_clock.ms_per_block or genesis.block_time_ms
        return Times(genesis.epoch_blocks, block_ms, self.national.governance)

    @property
    def gate_grace_ms(self) -> int:
        """How late after a gate a block may still clear it: later, the chain stood still.

        A market clock that runs by blocks never stands still.
        """
        clock = self.genesis.market_clock
        return clock.ms_per_block or max(
            LEAST_GATE_GRACE_MS, GATE_GRACE_BLOCKS * self.genesis.block_time_ms
        )

    def opens_ms(self, parent_time_ms: int) -> int:
        """Earliest time of the next block: the start of the next slot, a fifth of one at least.

        One block a slot, so a late block does not shift the rhythm.
        Source: protocols/state-transition.md 4.
        """
        block_time_ms = self.genesis.block_time_ms
        origin = self.genesis.genesis_time_ms + self.offset_ms
        slot = (parent_time_ms - origin) // block_time_ms
        return max(origin + (slot + 1) * block_time_ms, parent_time_ms + block_time_ms // 5)

    def install(self, state: Overlay) -> None:
        """Write the chain's state before block 1."""
        from gridtokenx.trading import rules as trading  # To read a genesis takes no market.

        install_set(state, self.genesis_validators, self.genesis_accounts)
        for organisation in self.genesis.organisations:
            registry.add_organisation(state, organisation)
        trading.set_parameters(state, self.genesis.parameters)
        if self.region is None:
            self._install_national(state, self.national)
        else:
            self._install_region(state, self.region)

    def _install_region(self, state: Overlay, region: RegionChain) -> None:
        for territory in region.territories:
            registry.add_territory(state, territory)
        for allocation in self.genesis.allocations:
            ledger.issue_gtx(state, allocation.account, allocation.gtx_ugtx)
        if self.genesis.national is not None:
            open_inbox(state)
            open_log(state, self.place.national, self.place.national_id)

    def _install_national(self, state: Overlay, national: NationalChain) -> None:
        pools.set_parameters(state, national.staking)
        governance.set_parameters(state, national.governance)
        checkpoints.set_parameters(state, national.interchain)
        ledger.issue_gtx(state, REWARD_RESERVE, national.reward_reserve_ugtx)
        for allocation in national.allocations:
            ledger.issue_gtx(state, allocation.account, allocation.gtx_ugtx)
        for stake in national.stakes:
            ledger.issue_gtx(state, stake.operator, stake.self_bond_ugtx)
            declaration = CreateValidator(
                stake.public_key,
                stake.moniker,
                stake.commission_bps,
                stake.self_bond_ugtx,
                bytes(64),
            )
            staking.add_validator(state, declaration, operator=stake.operator, height=0)
        on_a_region = sum(one.gtx_ugtx for one in self.genesis.allocations)
        for region in self.genesis.chains:
            spec = ChainSpec(self.genesis, region)
            checkpoints.register_region(
                state, spec.name, spec.genesis_id, spec.genesis_validators, on_a_region
            )
            entries = [
                AuthorityEntry(one.organisation, one.public_key, one.weight)
                for one in region.validators
            ]
            install_authorities(state, spec.name, entries)


def parse_genesis(text: str) -> Genesis:
    """Read a genesis file that every chain of it can begin with.

    Errors: MALFORMED, OUT_OF_RANGE, VALUE_OUT_OF_RANGE name the field and its range; others are
    those of the rules that install it.
    """
    if len(text) > MAX_GENESIS_BYTES:
        raise Rejected(ErrorCode.TOO_LARGE, f"a genesis file has at most {MAX_GENESIS_BYTES} bytes")
    try:
        document = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise Rejected(ErrorCode.MALFORMED, f"the genesis file is not JSON: {error}") from None
    genesis = from_document(Genesis, document)
    _check(genesis)
    return genesis


def format_genesis(genesis: Genesis) -> str:
    """The file's text for a genesis."""
    return json.dumps(to_document(genesis), indent=2, ensure_ascii=False) + "\n"


def incarnation_name(chain: str, number: int) -> str:
    """How one incarnation of a chain is called in topics and folders: `MET`, then `MET@2`."""
    return chain if number == FIRST_INCARNATION else f"{chain}@{number}"


def is_incarnation_name(text: str, genesis: Genesis) -> bool:
    """Whether a text names a chain, or a later incarnation of a region that it may have."""
    chain, later, number = text.partition("@")
    if not later:
        return chain in genesis.chain_names
    is_number = number.isascii() and number.isdecimal() and len(number) <= 9
    is_number = is_number and number[0] != "0" and int(number) > FIRST_INCARNATION
    is_region = chain in [region.name for region in genesis.chains]
    return is_number and is_region and genesis.national is not None


def _check(genesis: Genesis) -> None:
    """Cross-references that types cannot hold. Errors: MALFORMED, VALUE_OUT_OF_RANGE."""
    organisations = [entry.name for entry in genesis.organisations]
    _check_distinct("organisation", organisations)
    _check_distinct("operator", [entry.operator.hex() for entry in genesis.organisations])
    _check_distinct("allocation", [entry.account.hex() for entry in genesis.allocations])
    _check_distinct("chain", list(genesis.chain_names))
    for name in genesis.chain_names:
        if _CHAIN_NAME.fullmatch(name) is None:
            detail = f"a chain is named by 2 to 8 of A-Z and 0-9, not {name!r}"
            raise Rejected(ErrorCode.MALFORMED, detail)
    prefixes = [entry.prefix for region in genesis.chains for entry in region.territories]
    _check_distinct("territory", prefixes)
    for region in genesis.chains:
        _check_distinct("validator key", [entry.public_key.hex() for entry in region.validators])
        named = [entry.organisation for entry in region.validators]
        named += [entry.distributor for entry in region.territories]
        for name in named:
            if name not in organisations:
                detail = f"chain {region.name} names organisation {name!r}, which is not defined"
                raise Rejected(ErrorCode.MALFORMED, detail)
    _check_times(genesis)
    check_kept_sets(genesis.evidence_window_blocks, genesis.epoch_blocks)
    voted.check_record(voted.Owner.MARKET, genesis.parameters)
    if genesis.national is not None:
        voted.check_record(voted.Owner.STAKING, genesis.national.staking)
        voted.check_record(voted.Owner.GOVERNANCE, genesis.national.governance)
        voted.check_record(voted.Owner.INTERCHAIN, genesis.national.interchain)
        _check_national(genesis, genesis.national)
    if sum(entry.gtx_ugtx for entry in genesis.allocations) > MAX_INT:
        raise Rejected(ErrorCode.MALFORMED, "the allocations add up to more than 2**63 - 1 ugtx")
    for name in genesis.chain_names:
        _check_installs(genesis.chain(name))


def _check_times(genesis: Genesis) -> None:
    clock = genesis.market_clock
    if clock.ms_per_block > SLOT_MS:  # Each delivery slot has a block in which its gate closes.
        detail = f"market_clock.ms_per_block is {clock.ms_per_block}, it must be 0..{SLOT_MS}"
        raise Rejected(ErrorCode.VALUE_OUT_OF_RANGE, detail)
    if clock.ms_per_block and clock.start_ms < _EARLIEST_START_MS:
        detail = f"the market clock starts at {clock.start_ms}, before 1970-01-02 (Unix ms)"
        raise Rejected(ErrorCode.MALFORMED, detail)
    latest = {"genesis_time_ms": genesis.genesis_time_ms, "market_clock.start_ms": clock.start_ms}
    for name, time_ms in latest.items():
        if time_ms > _LATEST_START_MS:
            detail = f"{name} is {time_ms}, it may be at most {_LATEST_START_MS} (the year 2100)"
            raise Rejected(ErrorCode.VALUE_OUT_OF_RANGE, detail)


def _check_installs(spec: ChainSpec) -> None:
    """Errors: OUT_OF_RANGE for a value that the chain's state cannot hold; those of the rules."""
    state = Overlay(MemoryReader())
    spec.install(state)
    try:
        state.changes()
    except ValueError as error:
        detail = f"the genesis of {spec.name} cannot be stored: {error}"
        raise Rejected(ErrorCode.OUT_OF_RANGE, detail) from error
    if spec.is_national:
        check_genesis(state, spec.times)


def _check_national(genesis: Genesis, national: NationalChain) -> None:
    stakes = national.stakes
    _check_distinct("operator of a stake", [entry.operator.hex() for entry in stakes])
    _check_distinct("validator key", [entry.public_key.hex() for entry in stakes])
    _check_distinct("allocation", [entry.account.hex() for entry in national.allocations])
    spec = ChainSpec(genesis, None)
    if len(spec.genesis_validators.members) < len(stakes):
        detail = "a genesis stake is too light to be elected; give it more or leave it out"
        raise Rejected(ErrorCode.MALFORMED, detail)
    least = national.staking.min_self_bond_ugtx
    for entry in stakes:
        if entry.self_bond_ugtx < least:
            detail = f"{entry.moniker} bonds {entry.self_bond_ugtx} ugtx, the least is {least}"
            raise Rejected(ErrorCode.MALFORMED, detail)
    check_unbonding(genesis, national.staking.unbonding_blocks)
    supply = national.reward_reserve_ugtx + sum(entry.self_bond_ugtx for entry in stakes)
    supply += sum(entry.gtx_ugtx for entry in national.allocations)
    supply += len(genesis.chains) * sum(entry.gtx_ugtx for entry in genesis.allocations)
    if supply > MAX_INT:
        raise Rejected(ErrorCode.MALFORMED, "the gtx supply is more than 2**63 - 1 ugtx")


def check_unbonding(genesis: Genesis, unbonding_blocks: int) -> None:
    """Errors: VALUE_OUT_OF_RANGE where stake could be gone before evidence against it may come."""
    least = genesis.unbonding_blocks_min
    if unbonding_blocks < least:
        detail = (
            f"unbonding_blocks is {unbonding_blocks}; with an evidence window of "
            f"{genesis.evidence_window_blocks} blocks and epochs of {genesis.epoch_blocks} "
            f"it must be {least} or more"
        )
        raise Rejected(ErrorCode.VALUE_OUT_OF_RANGE, detail)


def _check_distinct(what: str, values: list[str]) -> None:
    if len(values) != len(set(values)):
        twice = next(value for value in values if values.count(value) > 1)
        raise Rejected(ErrorCode.MALFORMED, f"{what} {twice} appears twice in the genesis file")
