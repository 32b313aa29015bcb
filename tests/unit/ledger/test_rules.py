"""Accounts never go below zero, and what they hold is what was created and not destroyed."""

from functools import partial

import pytest

from gridtokenx.ledger import rules
from gridtokenx.ledger.model import (
    ACCOUNTS,
    CERTIFICATES,
    Account,
    Asset,
    CreditsRetired,
    Deposit,
    Deposited,
    RetireCredits,
    RetirementCertificate,
    Supply,
    Transfer,
    Transferred,
    Withdraw,
)
from gridtokenx.primitives.codec import MAX_INT, decode, encode
from gridtokenx.primitives.crypto import sha256
from gridtokenx.primitives.errors import ErrorCode
from gridtokenx.primitives.state import MemoryReader, Overlay, u64
from tests.support.refusals import refused

ANNA, BOON, BANK = (bytes([number]) * 32 for number in (1, 2, 3))
NOON_MS = 1_773_637_200_000  # Monday 2026-03-16 12:00 in Bangkok.
HOUR_MS, DAY_MS = 3_600_000, 86_400_000


@pytest.fixture
def state() -> Overlay:
    return Overlay(MemoryReader())


CHAIN_ID = bytes(32)


def bring(
    state: Overlay, command: Deposit, sender=BANK, now_ms=NOON_MS, limit_uthb=MAX_INT
) -> list:
    return rules.deposit(
        state,
        command,
        sender=sender,
        payment_authority=BANK,
        region_id=CHAIN_ID,
        now_ms=now_ms,
        limit_uthb=limit_uthb,
    )


def deposit(state: Overlay, to: bytes, amount_uthb: int) -> None:
    command = Deposit(to, amount_uthb)
    events = bring(state, command)
    assert events == [Deposited(to, amount_uthb)]


def test_deposit_and_withdraw_create_and_destroy_baht(state: Overlay) -> None:
    deposit(state, ANNA, 1_000)
    rules.transfer(state, Transfer(BANK, Asset.THB, 400), sender=ANNA)
    rules.withdraw(state, Withdraw(300), sender=BANK, payment_authority=BANK)
    assert rules.account(state, ANNA).thb_uthb == 600
    assert rules.account(state, BANK).thb_uthb == 100
    assert rules.supply(state) == Supply(thb_uthb=700)


def test_only_the_payment_authority_touches_the_baht_supply(state: Overlay) -> None:
    deposit(state, ANNA, 1_000)
    refused(ErrorCode.NOT_PERMITTED, bring, state, Deposit(ANNA, 5), ANNA)
    refused(
        ErrorCode.NOT_PERMITTED,
        rules.withdraw,
        state,
        Withdraw(5),
        sender=ANNA,
        payment_authority=BANK,
    )
    detail = refused(
        ErrorCode.INSUFFICIENT_BALANCE,
        rules.withdraw,
        state,
        Withdraw(5),
        sender=BANK,
        payment_authority=BANK,
    )
    assert "THB" in detail
    assert rules.supply(state).thb_uthb == 1_000


def test_a_day_brings_no_more_baht_than_its_limit(state: Overlay) -> None:
    bring(state, Deposit(ANNA, 700_000_000), limit_uthb=1_000_000_000)
    rules.transfer(state, Transfer(BANK, Asset.THB, 700_000_000), sender=ANNA)
    rules.withdraw(state, Withdraw(700_000_000), sender=BANK, payment_authority=BANK)
    for at_ms in (NOON_MS, NOON_MS + 12 * HOUR_MS - 1):  # What was paid out gives nothing back.
        again = partial(bring, state, now_ms=at_ms, limit_uthb=1_000_000_000)
        detail = refused(ErrorCode.DAILY_CAP, again, Deposit(BOON, 300_000_001))
        assert "of the 1000.00 THB" in detail
        assert "300.00 are left today" in detail
    again(Deposit(BOON, 300_000_000))
    refused(ErrorCode.DAILY_CAP, again, Deposit(BOON, 1))
    lowered = partial(bring, state, now_ms=NOON_MS, limit_uthb=1)
    assert "0.00 are left" in refused(ErrorCode.DAILY_CAP, lowered, Deposit(BOON, 1))
    midnight_ms = NOON_MS + 12 * HOUR_MS  # In Bangkok; 17:00 UTC.
    bring(state, Deposit(BOON, 1_000_000_000), now_ms=midnight_ms, limit_uthb=1_000_000_000)
    refused(ErrorCode.DAILY_CAP, bring, state, Deposit(BOON, 1), limit_uthb=0, now_ms=midnight_ms)
    assert rules.supply(state).thb_uthb == 1_300_000_000


@pytest.mark.parametrize("asset", list(Asset))
def test_each_asset_moves_alone_and_never_overdraws(state: Overlay, asset: Asset) -> None:
    deposit(state, ANNA, 50)
    rules.mint_energy(state, ANNA, 50, 50, local_wh=0)
    rules.issue_gtx(state, ANNA, 50)
    rules.transfer(state, Transfer(BOON, asset, 30), sender=ANNA)
    field = {
        Asset.ENERGY: "energy_wh",
        Asset.THB: "thb_uthb",
        Asset.GTX: "gtx_ugtx",
        Asset.CARBON: "carbon_ucr",
    }[asset]
    assert rules.account(state, BOON) == Account(**{field: 30})
    before = rules.account(state, ANNA)
    assert getattr(before, field) == 20
    refused(
        ErrorCode.INSUFFICIENT_BALANCE,
        rules.transfer,
        state,
        Transfer(BOON, asset, 21),
        sender=ANNA,
    )
    assert rules.account(state, ANNA) == before


def test_a_transfer_to_oneself_changes_nothing(state: Overlay) -> None:
    deposit(state, ANNA, 50)
    events = rules.transfer(state, Transfer(ANNA, Asset.THB, 50), sender=ANNA)
    assert events == [Transferred(ANNA, ANNA, Asset.THB, 50)]
    assert rules.account(state, ANNA).thb_uthb == 50


def test_escrow_and_bond_are_set_aside_and_come_back(state: Overlay) -> None:
    deposit(state, ANNA, 100)
    rules.reserve_escrow(state, ANNA, 60)
    rules.reserve_bond(state, ANNA, 40)
    assert rules.account(state, ANNA) == Account(escrow_uthb=60, bond_uthb=40)
    refused(ErrorCode.INSUFFICIENT_BALANCE, rules.reserve_bond, state, ANNA, 1)
    refused(ErrorCode.INSUFFICIENT_BALANCE, rules.release_escrow, state, ANNA, 61)
    refused(ErrorCode.INSUFFICIENT_BALANCE, rules.release_bond, state, ANNA, 41)
    rules.release_escrow(state, ANNA, 60)
    rules.release_bond(state, ANNA, 40)
    assert rules.account(state, ANNA) == Account(thb_uthb=100)


def test_held_energy_cannot_be_spent_and_burns_once(state: Overlay) -> None:
    rules.mint_energy(state, ANNA, 100, 50_000, local_wh=0)
    rules.adjust(state, ANNA, energy_wh=-80, energy_held_wh=80)
    command = Transfer(BOON, Asset.ENERGY, 21)
    refused(ErrorCode.INSUFFICIENT_BALANCE, rules.transfer, state, command, sender=ANNA)
    rules.burn_held_energy(state, ANNA, 80)
    refused(ErrorCode.INSUFFICIENT_BALANCE, rules.burn_held_energy, state, ANNA, 1)
    expected = Supply(energy_minted_wh=100, energy_burned_wh=80, carbon_issued_ucr=50_000)
    assert rules.supply(state) == expected


def test_only_energy_of_the_own_territory_is_taken_over(state: Overlay) -> None:
    rules.mint_energy(state, ANNA, 1_000, 0, local_wh=600)
    take = partial(rules.burn_local_energy, state, ANNA)
    detail = refused(ErrorCode.INSUFFICIENT_BALANCE, take, 601)
    assert "0.600 kWh" in detail
    assert "of 1.000 kWh in all" in detail
    take(100)
    assert rules.account(state, ANNA) == Account(energy_wh=900, local_wh=500)
    # What leaves is first what was metered elsewhere; what comes is, too.
    rules.transfer(state, Transfer(BOON, Asset.ENERGY, 300), sender=ANNA)
    assert rules.account(state, ANNA) == Account(energy_wh=600, local_wh=500)
    rules.transfer(state, Transfer(BOON, Asset.ENERGY, 300), sender=ANNA)
    assert rules.account(state, ANNA) == Account(energy_wh=300, local_wh=300)
    assert rules.account(state, BOON) == Account(energy_wh=600)
    refused(ErrorCode.INSUFFICIENT_BALANCE, rules.burn_local_energy, state, BOON, 1)
    take(300)
    assert rules.supply(state) == Supply(energy_minted_wh=1_000, energy_burned_wh=400)


def test_retired_credits_are_gone(state: Overlay) -> None:
    rules.mint_energy(state, ANNA, 1, 500, local_wh=0)
    for_whom = sha256(b"the village school")
    (event,) = rules.retire_credits(state, RetireCredits(200, for_whom), sender=ANNA, now_ms=1_000)
    assert event == CreditsRetired(ANNA, 200, 1, for_whom)
    assert rules.account(state, ANNA).carbon_ucr == 300
    assert rules.supply(state).carbon_retired_ucr == 200
    command = RetireCredits(301)
    refused(
        ErrorCode.INSUFFICIENT_BALANCE, rules.retire_credits, state, command, sender=ANNA, now_ms=1
    )


def test_each_retirement_has_its_own_certificate(state: Overlay) -> None:
    rules.mint_energy(state, ANNA, 1, 500, local_wh=0)
    for number in (1, 2):
        rules.retire_credits(state, RetireCredits(number), sender=ANNA, now_ms=number)
        certificate = CERTIFICATES.get(state, u64(number))
        assert certificate == RetirementCertificate(number, ANNA, number, bytes(32), number)
    rules.mint_energy(state, ANNA, 1, 500, local_wh=0)  # Supply changes keep the count.
    (event,) = rules.retire_credits(state, RetireCredits(1), sender=ANNA, now_ms=3)
    assert event.certificate == 3


def test_no_total_reaches_2_to_the_63(state: Overlay) -> None:
    deposit(state, ANNA, MAX_INT)
    tomorrow_ms = NOON_MS + DAY_MS
    refused(ErrorCode.OUT_OF_RANGE, bring, state, Deposit(BOON, 1), now_ms=tomorrow_ms)
    too_many = partial(rules.mint_energy, state, ANNA, 1, MAX_INT + 1, local_wh=0)
    refused(ErrorCode.OUT_OF_RANGE, too_many)
    stored = ACCOUNTS.get(state, ANNA)
    assert decode(Account, encode(stored)) == stored


def test_nonces_count_up_from_zero(state: Overlay) -> None:
    assert "expected 0" in refused(ErrorCode.NONCE_GAP, rules.use_nonce, state, ANNA, 1)
    rules.use_nonce(state, ANNA, 0)
    rules.use_nonce(state, ANNA, 1)
    assert "expected 2" in refused(ErrorCode.NONCE_TOO_LOW, rules.use_nonce, state, ANNA, 1)
    assert rules.account(state, ANNA).nonce == 2
    rules.mint_energy(state, ANNA, 5, 0, local_wh=0)
    assert rules.account(state, ANNA).nonce == 2


def test_a_network_fee_goes_to_the_proposer(state: Overlay) -> None:
    rules.issue_gtx(state, ANNA, 10)
    rules.pay_fee(state, ANNA, BANK, 4)
    rules.pay_fee(state, BOON, BANK, 0)
    assert rules.account(state, BANK).gtx_ugtx == 4
    assert ACCOUNTS.get(state, BOON) is None
    refused(ErrorCode.INSUFFICIENT_BALANCE, rules.pay_fee, state, ANNA, BANK, 7)
