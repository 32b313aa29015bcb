"""Who may receive, who may send, and what an account must hold. Source: protocols/market.md 1."""

from __future__ import annotations

import pytest

from gridtokenx.chain.mempool import Mempool
from gridtokenx.chain.standing import Standing, standing_of
from gridtokenx.chain.transaction import Payload, sign_transaction
from gridtokenx.chain.transition import apply_transaction, environment
from gridtokenx.chain.validator_sets import current_set
from gridtokenx.cluster.devnet import (
    DEV_ACCOUNT,
    account_address,
    dev_key,
    operator_key,
    stake_key,
    validator_name,
)
from gridtokenx.governance.model import InfrastructureFunding, OperatorRotation, Propose
from gridtokenx.interchain.model import SubmitCheckpoint, TransferAbroad, TransferReturned
from gridtokenx.ledger import rules as ledger
from gridtokenx.ledger.model import (
    ACCOUNTS,
    MINIMUMS,
    SYSTEM_ACCOUNTS,
    Account,
    Asset,
    Deposit,
    RetireCredits,
    Transfer,
)
from gridtokenx.primitives.crypto import SigningKey, sha256
from gridtokenx.primitives.errors import ErrorCode, Rejected
from gridtokenx.registry.model import LicenceClass, RegisterParticipant, Role
from gridtokenx.staking import pools
from gridtokenx.staking.model import BONDED, VALIDATORS, Bond, Unbond
from tests.support.chains_world import RELAYER, Chains
from tests.support.market_world import FAR_MS, MarketWorld

DEV = dev_key(DEV_ACCOUNT)  # Has gtx on every chain, and nothing else.
GTX = 10**6
LEAST_UGTX, LEAST_UTHB = MINIMUMS[Asset.GTX], MINIMUMS[Asset.THB]
PAYMENT = operator_key("payment")


def key_of(name: str) -> SigningKey:
    return SigningKey(sha256(name.encode()))


@pytest.fixture
def world() -> MarketWorld:
    return MarketWorld()


@pytest.fixture
def chains() -> Chains:
    return Chains()


def told(world: MarketWorld, key: SigningKey, payload: Payload) -> ErrorCode | None:
    """What the next block says of a command: None if it holds it."""
    nonce = ledger.account(world.values, key.public_key).nonce
    world.nonces[key.public_key] = nonce
    world.send(key, payload)
    refused = world.block()
    world.check_conservation()
    return refused[0][1].code if refused else None


# -- Accounts of the system ------------------------------------------------------------------------


@pytest.mark.parametrize(("to", "name"), SYSTEM_ACCOUNTS.items())
def test_nobody_pays_an_account_that_nobody_has_a_key_for(
    world: MarketWorld, to: bytes, name: str
) -> None:
    """Case doors-20: 999,000 gtx on the bonded account, and no vote reached its quorum again."""
    registered = RegisterParticipant(
        to, Role.PROSUMER, sha256(b"kyc"), LicenceClass.EXEMPT_LT_1000KVA, FAR_MS, False, "BKK",
        1, 1,
    )  # fmt: skip
    world.send(DEV, Transfer(to, Asset.GTX, GTX))
    world.send(PAYMENT, Deposit(to, 5 * LEAST_UTHB))
    world.send(operator_key("mea"), registered)
    refused = [error for _, error in world.block()]
    assert [one.code for one in refused] == [ErrorCode.NOT_PERMITTED] * 3
    assert all(repr(name) in one.detail for one in refused)


def test_the_bonded_account_is_what_pools_hold(chains: Chains) -> None:
    national = chains.national
    for to in SYSTEM_ACCOUNTS:
        national.send(dev_key("egat account"), Transfer(to, Asset.GTX, 999_000 * GTX))
        national.grow(None)
        assert [one.code for one in national.refused] == [ErrorCode.NOT_PERMITTED]
    for content in (InfrastructureFunding(BONDED, GTX), OperatorRotation("mea", BONDED)):
        national.send(DEV, Propose("a title", "and why", content))
        national.grow(None)
        assert [one.code for one in national.refused] == [ErrorCode.NOT_PERMITTED]
    chains.regions["MET"].send(DEV, TransferAbroad("TH", BONDED, Asset.GTX, GTX))
    chains.settle(2)
    assert [one.code for one in chains.regions["MET"].refused] in ([], [ErrorCode.NOT_PERMITTED])
    in_pools = sum(one.stake_ugtx for _, one in VALIDATORS.items(national.values))
    assert ledger.account(national.values, BONDED).gtx_ugtx == in_pools
    assert pools.total_bonded_ugtx(national.values) == in_pools
    chains.check()


# -- What makes an account -------------------------------------------------------------------------


def test_a_first_payment_is_a_minimum_balance(world: MarketWorld) -> None:
    new, other = key_of("new").public_key, key_of("other").public_key
    assert told(world, DEV, Transfer(new, Asset.GTX, LEAST_UGTX - 1)) is ErrorCode.BELOW_MINIMUM
    assert told(world, PAYMENT, Deposit(new, LEAST_UTHB - 1)) is ErrorCode.BELOW_MINIMUM
    assert told(world, DEV, Transfer(new, Asset.GTX, LEAST_UGTX)) is None
    assert told(world, DEV, Transfer(new, Asset.GTX, 1)) is None  # It is there now.
    assert told(world, PAYMENT, Deposit(new, 1)) is None
    assert told(world, PAYMENT, Deposit(other, LEAST_UTHB)) is None
    assert ledger.account(world.values, new) == Account(gtx_ugtx=LEAST_UGTX + 1, thb_uthb=1)


def test_who_has_a_name_needs_no_minimum(world: MarketWorld) -> None:
    house = world.household("a house", baht=0)
    world.waiting.pop()  # The deposit of nothing.
    world.nonces[PAYMENT.public_key] = 0
    world.block()
    names = [
        house.key.public_key,
        house.meter.public_key,
        operator_key("mea").public_key,
        account_address("pea"),
    ]
    for name in names:
        assert standing_of(world.values, name) is not Standing.PLAIN
        assert told(world, DEV, Transfer(name, Asset.GTX, 1)) is None
    emptied = Transfer(DEV.public_key, Asset.GTX, 1)
    assert told(world, house.key, emptied) is None
    assert ledger.account(world.values, house.key.public_key) == Account(nonce=1)
    assert told(world, house.key, RetireCredits(1)) is ErrorCode.INSUFFICIENT_BALANCE


def test_a_transfer_from_another_chain_is_a_minimum_or_comes_back(chains: Chains) -> None:
    new = key_of("new").public_key
    before = ledger.account(chains.regions["MET"].values, DEV.public_key).gtx_ugtx
    for destination in ("TH", "NOR"):
        small = TransferAbroad(destination, new, Asset.GTX, LEAST_UGTX - 1)
        chains.regions["MET"].send(DEV, small)
    chains.settle(6)
    came_back = [one for one in chains.regions["MET"].events if isinstance(one, TransferReturned)]
    assert len(came_back) == 2
    assert all("a first payment is 10000 ugtx or more" in one.reason for one in came_back)
    assert ledger.account(chains.regions["MET"].values, DEV.public_key).gtx_ugtx == before
    for destination in ("TH", "NOR"):
        enough = TransferAbroad(destination, new, Asset.GTX, LEAST_UGTX)
        chains.regions["MET"].send(DEV, enough)
    chains.settle(6)
    for chain in (chains.national, chains.regions["NOR"]):
        assert ledger.account(chain.values, new).gtx_ugtx == LEAST_UGTX
    chains.check()


# -- Who may send ----------------------------------------------------------------------------------


def test_a_key_that_the_chain_does_not_know_makes_no_row(world: MarketWorld) -> None:
    new = key_of("new")
    for payload in (Transfer(DEV.public_key, Asset.GTX, 1), Transfer(new.public_key, Asset.THB, 1)):
        assert told(world, new, payload) is ErrorCode.ACCOUNT_NOT_FOUND
    assert ACCOUNTS.get(world.values, new.public_key) is None


def test_an_account_without_a_name_keeps_a_minimum(world: MarketWorld) -> None:
    """Else one amount, sent on and on, would leave any number of rows behind."""
    first, second = key_of("first"), key_of("second")
    assert told(world, DEV, Transfer(first.public_key, Asset.GTX, 2 * LEAST_UGTX)) is None
    onward = second.public_key
    too_much = Transfer(onward, Asset.GTX, LEAST_UGTX + 1)
    assert told(world, first, too_much) is ErrorCode.BELOW_MINIMUM
    assert told(world, first, Transfer(onward, Asset.GTX, LEAST_UGTX)) is None
    assert told(world, first, Transfer(onward, Asset.GTX, 1)) is ErrorCode.BELOW_MINIMUM
    assert told(world, second, Transfer(first.public_key, Asset.GTX, 1)) is ErrorCode.BELOW_MINIMUM
    assert told(world, second, Transfer(onward, Asset.GTX, LEAST_UGTX)) is None  # To itself.
    # A minimum of another asset will do.
    assert told(world, PAYMENT, Deposit(onward, LEAST_UTHB)) is None
    assert told(world, second, Transfer(first.public_key, Asset.GTX, LEAST_UGTX)) is None
    held = ledger.account(world.values, onward)
    assert held == Account(nonce=2, thb_uthb=LEAST_UTHB)


def test_a_transfer_abroad_leaves_a_minimum(chains: Chains) -> None:
    met, new = chains.regions["MET"], key_of("new")
    met.send(DEV, Transfer(new.public_key, Asset.GTX, 3 * LEAST_UGTX))
    met.grow(chains.national)
    for amount, code in ((3 * LEAST_UGTX, [ErrorCode.BELOW_MINIMUM]), (2 * LEAST_UGTX, [])):
        met.nonces.pop(new.public_key, None)
        met.send(new, TransferAbroad("TH", new.public_key, Asset.GTX, amount))
        chains.round()
        assert [one.code for one in met.refused] == code
    chains.check()


def test_stake_backs_an_account_and_can_always_leave(chains: Chains) -> None:
    national, new = chains.national, key_of("new")
    operator = stake_key(validator_name(0)[1]).public_key
    national.send(DEV, Transfer(new.public_key, Asset.GTX, 2 * GTX))
    national.grow(None)
    assert standing_of(national.values, new.public_key) is Standing.PLAIN
    national.send(new, Bond(operator, 2 * GTX))
    national.grow(None)
    assert national.refused == []
    assert standing_of(national.values, new.public_key) is Standing.BACKED
    worth = dict(pools.delegations_of(national.values, new.public_key))[operator]
    national.send(new, Unbond(operator, worth))
    national.grow(None)
    assert national.refused == []
    assert standing_of(national.values, new.public_key) is Standing.PLAIN
    assert ledger.account(national.values, new.public_key) == Account(nonce=2)
    chains.check()


def test_authorities_relay_without_owning_anything(chains: Chains) -> None:
    assert ACCOUNTS.get(chains.national.values, RELAYER.public_key) is None
    assert standing_of(chains.national.values, RELAYER.public_key) is Standing.OFFICE
    chains.settle(2)
    assert chains.national.refused == []
    assert ledger.account(chains.national.values, RELAYER.public_key).nonce > 0
    chains.grow_region("MET")
    chains.national.send(key_of("junk"), chains.checkpoint("MET"))
    chains.national.grow(None)
    assert [one.code for one in chains.national.refused] == [ErrorCode.ACCOUNT_NOT_FOUND]


def test_nothing_is_held_for_keys_that_the_chain_does_not_know(world: MarketWorld) -> None:
    """Case doors-03: held by number alone, of 210 KiB each, from any key and for ever."""
    signers = current_set(world.values, 1)
    time_ms = world.spec.opens_ms(world.parent.time_ms)
    env = environment(world.spec, signers, world.parent, 0, time_ms)
    pool = Mempool(world.values, lambda state, one: apply_transaction(state, one, env))
    large = SubmitCheckpoint("MET", b"h" * 1_000, b"c" * 15_000, (bytes(180),) * 1_000)
    codes = set()
    for number in range(50):
        key = key_of(f"junk {number}")
        for payload in (large, Transfer(DEV.public_key, Asset.GTX, 1)):
            ahead = sign_transaction(key, world.spec.chain_id, 1, payload)
            with pytest.raises(Rejected) as caught:
                pool.add(ahead, heard=True)
            codes.add(caught.value.code)
            assert pool.get(ahead.id) is None
    assert codes == {ErrorCode.ACCOUNT_NOT_FOUND}
    known = sign_transaction(DEV, world.spec.chain_id, 1, large)
    with pytest.raises(Rejected) as caught:
        pool.add(known, heard=True)
    assert caught.value.code is ErrorCode.NONCE_GAP
    assert pool.get(known.id) is None
