"""A state with stake alone: accounts with gtx, validators, blocks that mature and punish."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from gridtokenx.ledger import rules as ledger
from gridtokenx.ledger.model import ACCOUNTS
from gridtokenx.primitives.state import MemoryReader, Overlay
from gridtokenx.staking import penalties, pools, rules
from gridtokenx.staking.model import (
    BONDED,
    DELEGATIONS,
    REDELEGATIONS,
    STAKING_PARAMETERS,
    UNBONDING,
    UNBONDINGS,
    VALIDATORS,
    Bond,
    CreateValidator,
    Redelegate,
    StakingParameters,
    Unbond,
    Validator,
)

NUMBERS = StakingParameters(
    unit_ugtx=100,
    min_bond_ugtx=10,
    min_self_bond_ugtx=1_000,
    unbonding_blocks=50,
    jail_blocks=20,
    downtime_blocks=3,
)
EPOCH = 10
RICHES = 100_000_000


def account(number: int) -> bytes:
    """The account of a number."""
    return number.to_bytes(32, "big")


def key_of(operator: bytes) -> bytes:
    """A validator's consensus key."""
    return operator[:-2] + b"k" + operator[-1:]


@dataclass
class StakeWorld:
    """Operators 1 .. with `self_bond` each; every account that is named gets gtx first."""

    operators: int = 3
    self_bond: int = 10_000
    numbers: StakingParameters = NUMBERS
    state: Overlay = field(default_factory=lambda: Overlay(MemoryReader()))
    height: int = 1
    supply: int = 0

    def __post_init__(self) -> None:
        STAKING_PARAMETERS.put(self.state, b"", self.numbers)
        for number in range(1, self.operators + 1):
            operator = self.rich(number)
            command = CreateValidator(key_of(operator), "v", 0, self.self_bond, bytes(64))
            rules.add_validator(self.state, command, operator=operator, height=0)

    def rich(self, number: int) -> bytes:
        who = account(number)
        ledger.issue_gtx(self.state, who, RICHES)
        self.supply += RICHES
        return who

    def pool(self, number: int) -> Validator:
        return pools.validator(self.state, account(number))

    def liquid(self, who: bytes) -> int:
        return ledger.account(self.state, who).gtx_ugtx

    def worth(self, who: bytes, operator: int) -> int:
        return dict(pools.delegations_of(self.state, who)).get(account(operator), 0)

    def _command(self, verb: Any, command: Any, who: bytes, **named: Any) -> Any:
        attempt = Overlay(self.state)
        (event,) = verb(attempt, command, sender=who, **named)
        attempt.merge()
        return event

    def bond(self, who: bytes, operator: int, amount: int) -> Any:
        return self._command(rules.bond, Bond(account(operator), amount), who)

    def unbond(self, who: bytes, operator: int, amount: int) -> Any:
        command = Unbond(account(operator), amount)
        return self._command(rules.unbond, command, who, height=self.height)

    def redelegate(self, who: bytes, source: int, destination: int, amount: int) -> Any:
        command = Redelegate(account(source), account(destination), amount)
        return self._command(rules.redelegate, command, who, height=self.height)

    def begin(self, height: int | None = None) -> list[Any]:
        """The next block, or all up to one; the events of the last."""
        height = self.height + 1 if height is None else height
        events: list[Any] = []
        while self.height < height:
            self.height += 1
            events = rules.begin_block(self.state, height=self.height, members=(), seen=set())
        return events

    def punish(self, operator: int, at: int, *, weight: int = 1, total: int = 1_000) -> list[Any]:
        """Evidence of an offence at a height is in the block that has begun."""
        epoch = at - at % EPOCH
        return penalties.punish_offence(
            self.state,
            key_of(account(operator)),
            offence_height=at,
            epoch_height=epoch,
            backed_since=max(0, epoch - 2 * EPOCH),
            weight=weight,
            total_weight=total,
            height=self.height,
        )

    def change(self, **numbers: int) -> None:
        self.numbers = replace(self.numbers, **numbers)
        STAKING_PARAMETERS.put(self.state, b"", self.numbers)

    def check(self) -> None:
        """Laws: nothing is made or lost; sums, accounts, entries and locks agree."""
        check_laws(self.state, self.supply)


def check_laws(state: Overlay, supply: int) -> None:
    """The laws of stake that hold after every command and block."""
    held = [one.gtx_ugtx for _, one in ACCOUNTS.items(state)]
    assert (sum(held), min(held, default=0) >= 0) == (supply, True)
    entries = [one for _, one in UNBONDINGS.items(state)]
    moving = [one for _, one in REDELEGATIONS.items(state)]
    stakes = [one.stake_ugtx for _, one in VALIDATORS.items(state)]
    assert pools.total_bonded_ugtx(state) == sum(stakes)
    assert ledger.account(state, BONDED).gtx_ugtx == sum(stakes)
    assert ledger.account(state, UNBONDING).gtx_ugtx == sum(one.amount_ugtx for one in entries)
    for operator, pool in VALIDATORS.items(state):
        reach = [one for one in entries if one.validator == operator]
        reach += [one for one in moving if one.source == operator]
        assert pool.open_entries == len(reach)
        assert pool.slashed_bps <= 10_000
    _check_locks(state, moving)


def _check_locks(state: Overlay, moving: Iterable[Any]) -> None:
    locked: dict[bytes, int] = {}
    for one in moving:
        place = one.delegator + one.destination
        locked[place] = locked.get(place, 0) + one.shares
    for key, own in DELEGATIONS.items(state):
        assert own.locked_shares == locked.pop(key, 0)
        assert 0 <= own.locked_shares <= own.shares
    assert not locked
