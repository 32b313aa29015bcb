"""The verbs of the ledger. Every change of an amount in the system goes through `adjust`.

No account can go below zero, and what all accounts hold always equals SUPPLY.
Source: protocols/market.md 1, 4.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from gridtokenx.ledger.model import (
    ACCOUNTS,
    CERTIFICATES,
    CROSSINGS,
    DEPOSIT_DAY,
    DEPOSITS_EVER,
    MINIMUMS,
    SUPPLY,
    SYSTEM_ACCOUNTS,
    Account,
    Asset,
    CreditsRetired,
    Crossings,
    Deposit,
    DepositDay,
    Deposited,
    DepositsEver,
    LedgerEvent,
    RetireCredits,
    RetirementCertificate,
    Supply,
    Transfer,
    Transferred,
    Withdraw,
    Withdrawn,
    statement_bytes,
)
from gridtokenx.primitives.codec import MAX_INT
from gridtokenx.primitives.crypto import verify
from gridtokenx.primitives.errors import ErrorCode, Rejected
from gridtokenx.primitives.quantities import format_kwh, format_thb, local_day
from gridtokenx.primitives.state import Overlay, Reader, u64
from gridtokenx.primitives.types import format_address

_EMPTY = Account()
_NO_SUPPLY = Supply()
_NO_CROSSINGS = Crossings()
_NO_DEPOSITS = DepositsEver()
_UNITS = {
    Asset.ENERGY: "Wh",
    Asset.THB: "uTHB",
    Asset.GTX: "ugtx",
    Asset.CARBON: "micro-credits",
}

IsBacked = Callable[[Reader, bytes], bool]
"""Whether something other than its balance backs an account: a registration, stake."""


def _never_backed(_state: Reader, _address: bytes) -> bool:
    return False


def account(state: Reader, address: bytes) -> Account:
    """The account at a 32-byte address; an address never used holds nothing."""
    return ACCOUNTS.get(state, address) or _EMPTY


def supply(state: Reader) -> Supply:
    """What all accounts together hold."""
    return SUPPLY.get(state, b"") or _NO_SUPPLY


def adjust(
    state: Overlay,
    address: bytes,
    *,
    energy_wh: int = 0,
    energy_held_wh: int = 0,
    thb_uthb: int = 0,
    escrow_uthb: int = 0,
    bond_uthb: int = 0,
    gtx_ugtx: int = 0,
    carbon_ucr: int = 0,
    local_wh: int = 0,
) -> None:
    """Add signed amounts to one account, all or none.

    `local_wh` never exceeds energy_wh: what leaves is first what was metered elsewhere. An account
    that is empty and has sent nothing yet leaves the state.
    Errors: INSUFFICIENT_BALANCE naming the first asset that would go below zero. The caller moves
    the other side; only the create and destroy rules below change the supply.
    """
    old = ACCOUNTS.get(state, address) or _EMPTY
    new = Account(
        old.nonce,
        old.energy_wh + energy_wh,
        old.energy_held_wh + energy_held_wh,
        old.thb_uthb + thb_uthb,
        old.escrow_uthb + escrow_uthb,
        old.bond_uthb + bond_uthb,
        old.gtx_ugtx + gtx_ugtx,
        old.carbon_ucr + carbon_ucr,
        max(0, min(old.local_wh + local_wh, old.energy_wh + energy_wh)),
    )
    if (
        new.energy_wh < 0
        or new.energy_held_wh < 0
        or new.thb_uthb < 0
        or new.escrow_uthb < 0
        or new.bond_uthb < 0
        or new.gtx_ugtx < 0
        or new.carbon_ucr < 0
    ):
        raise Rejected(ErrorCode.INSUFFICIENT_BALANCE, _shortfall(address, old, new))
    if new == _EMPTY:
        ACCOUNTS.delete(state, address)
    else:
        ACCOUNTS.put(state, address, new)


def _shortfall(address: bytes, old: Account, new: Account) -> str:
    who = format_address(address)
    if new.energy_wh < 0:
        needed = format_kwh(old.energy_wh - new.energy_wh)
        return f"{who} needs {needed} kWh of energy, has {format_kwh(old.energy_wh)}"
    if new.thb_uthb < 0:
        needed = format_thb(old.thb_uthb - new.thb_uthb)
        return f"{who} needs {needed} THB, has {format_thb(old.thb_uthb)}"
    for what, had, left in (
        ("ugtx", old.gtx_ugtx, new.gtx_ugtx),
        ("micro-credits", old.carbon_ucr, new.carbon_ucr),
        ("Wh of held energy", old.energy_held_wh, new.energy_held_wh),
        ("uTHB of escrow", old.escrow_uthb, new.escrow_uthb),
    ):
        if left < 0:
            return f"{who} needs {had - left} {what}, has {had}"
    return f"{who} needs {old.bond_uthb - new.bond_uthb} uTHB of bond, has {old.bond_uthb}"


# -- Who may receive, and who may send -------------------------------------------------------------


def check_has_key(address: bytes) -> None:
    """Errors: NOT_PERMITTED for an account that only rules move, by its name."""
    name = SYSTEM_ACCOUNTS.get(address)
    if name is not None:
        detail = (
            f"{format_address(address)} is the system's account {name!r}, which nobody has a key "
            "for; send to an account of somebody"
        )
        raise Rejected(ErrorCode.NOT_PERMITTED, detail)


def check_recipient(
    state: Reader, to: bytes, asset: Asset, amount: int, is_backed: IsBacked = _never_backed
) -> None:
    """The one door where somebody chooses who receives.

    Errors: NOT_PERMITTED for an account of the system; BELOW_MINIMUM for an amount that would make
    an account and is too little for one. Source: protocols/market.md 1.
    """
    check_has_key(to)
    least = MINIMUMS[asset]
    if amount >= least or ACCOUNTS.get(state, to) is not None or is_backed(state, to):
        return
    # The sentence begins with its point: what another chain tells of a refusal is cut short.
    detail = (
        f"a first payment is {least} {_UNITS[asset]} or more, not {amount}, as long as "
        f"{format_address(to)} is not registered"
    )
    raise Rejected(ErrorCode.BELOW_MINIMUM, detail)


def check_exists(state: Reader, address: bytes, is_backed: IsBacked) -> Account:
    """The account of a sender. Errors: ACCOUNT_NOT_FOUND for one that is neither in the state nor
    backed. Source: protocols/state-transition.md 2.
    """
    found = ACCOUNTS.get(state, address)
    if found is None and not is_backed(state, address):
        detail = (
            f"{format_address(address)} is no account of this chain; pay to it, or have it "
            "registered, before it sends"
        )
        raise Rejected(ErrorCode.ACCOUNT_NOT_FOUND, detail)
    return found or _EMPTY


def check_keeps_minimum(
    state: Reader, address: bytes, before: Account, is_backed: IsBacked
) -> None:
    """Whether a transaction left its sender enough; one that took nothing from it always did.

    Else one amount could make any number of accounts, one after the other, for a row is never
    forgotten once it has sent. Errors: BELOW_MINIMUM. Source: protocols/market.md 1.
    """
    left = account(state, address)
    if any(left.holding(asset) >= least for asset, least in MINIMUMS.items()):
        return
    taken = any(left.holding(asset) < before.holding(asset) for asset in MINIMUMS)
    if taken and not is_backed(state, address):
        leasts = " or ".join(f"{least} {_UNITS[asset]}" for asset, least in MINIMUMS.items())
        detail = f"{format_address(address)} is not registered, so it must keep {leasts}; send less"
        raise Rejected(ErrorCode.BELOW_MINIMUM, detail)


# -- Transactions and fees -------------------------------------------------------------------------


def check_nonce(state: Reader, address: bytes, nonce: int) -> None:
    """Errors: NONCE_TOO_LOW, NONCE_GAP, each with the number that is expected."""
    expected = account(state, address).nonce
    if nonce == expected:
        return
    detail = f"nonce {nonce} for {format_address(address)}, expected {expected}"
    raise Rejected(ErrorCode.NONCE_TOO_LOW if nonce < expected else ErrorCode.NONCE_GAP, detail)


def use_nonce(state: Overlay, address: bytes, nonce: int) -> None:
    """Spend the account's next transaction number. The first is 0. Errors: as `check_nonce`."""
    check_nonce(state, address, nonce)
    old = account(state, address)
    new = Account(
        nonce + 1,
        old.energy_wh,
        old.energy_held_wh,
        old.thb_uthb,
        old.escrow_uthb,
        old.bond_uthb,
        old.gtx_ugtx,
        old.carbon_ucr,
        old.local_wh,
    )
    ACCOUNTS.put(state, address, new)


def pay_fee(state: Overlay, payer: bytes, collector: bytes, amount_ugtx: int) -> None:
    """Move a transaction's network fee (ugtx, may be 0) to the block's proposer."""
    if amount_ugtx:
        move(state, Asset.GTX, payer, collector, amount_ugtx)


# -- Moving ----------------------------------------------------------------------------------------


def move(state: Overlay, asset: Asset, sender: bytes, to: bytes, amount: int) -> None:
    """Move `amount` >= 0 of an asset. Errors: INSUFFICIENT_BALANCE."""
    if amount < 0:
        raise ValueError(f"cannot move {amount}")
    match asset:
        case Asset.ENERGY:
            adjust(state, sender, energy_wh=-amount)
            adjust(state, to, energy_wh=amount)
        case Asset.THB:
            adjust(state, sender, thb_uthb=-amount)
            adjust(state, to, thb_uthb=amount)
        case Asset.GTX:
            adjust(state, sender, gtx_ugtx=-amount)
            adjust(state, to, gtx_ugtx=amount)
        case Asset.CARBON:
            adjust(state, sender, carbon_ucr=-amount)
            adjust(state, to, carbon_ucr=amount)


def reserve_escrow(state: Overlay, address: bytes, amount_uthb: int) -> None:
    """Set baht aside for a buy order. Errors: INSUFFICIENT_BALANCE."""
    adjust(state, address, thb_uthb=-amount_uthb, escrow_uthb=amount_uthb)


def release_escrow(state: Overlay, address: bytes, amount_uthb: int) -> None:
    """Give a buy order's unused escrow back."""
    adjust(state, address, thb_uthb=amount_uthb, escrow_uthb=-amount_uthb)


def reserve_bond(state: Overlay, address: bytes, amount_uthb: int) -> None:
    """Set baht aside against a sell order's shortfall. Errors: INSUFFICIENT_BALANCE."""
    adjust(state, address, thb_uthb=-amount_uthb, bond_uthb=amount_uthb)


def release_bond(state: Overlay, address: bytes, amount_uthb: int) -> None:
    """Give a sell order's unused bond back."""
    adjust(state, address, thb_uthb=amount_uthb, bond_uthb=-amount_uthb)


# -- Creating and destroying -----------------------------------------------------------------------


def mint_energy(
    state: Overlay, to: bytes, energy_wh: int, carbon_ucr: int, *, local_wh: int
) -> None:
    """Create metered energy and its carbon credits; `local_wh` of it was metered where its owner is
    registered.

    Errors: OUT_OF_RANGE where all energy ever here, or all credits, would reach 2**63.
    """
    _check_ever(state, energy_wh)
    _change_supply(state, energy_minted_wh=energy_wh, carbon_issued_ucr=carbon_ucr)
    adjust(state, to, energy_wh=energy_wh, carbon_ucr=carbon_ucr, local_wh=local_wh)


def burn_held_energy(state: Overlay, owner: bytes, energy_wh: int) -> None:
    """Destroy held energy that its owner has consumed."""
    adjust(state, owner, energy_held_wh=-energy_wh)
    _change_supply(state, energy_burned_wh=energy_wh)


def burn_local_energy(state: Overlay, owner: bytes, energy_wh: int) -> None:
    """Destroy energy metered in its owner's own territory, whose utility took it over.

    Errors: INSUFFICIENT_BALANCE with what of the balance was metered there.
    """
    held = account(state, owner)
    if energy_wh > held.local_wh:
        detail = (
            f"{format_address(owner)} has {format_kwh(held.local_wh)} kWh that were metered in its "
            f"own territory, of {format_kwh(held.energy_wh)} kWh in all, not "
            f"{format_kwh(energy_wh)}; other energy can be sold or transferred"
        )
        raise Rejected(ErrorCode.INSUFFICIENT_BALANCE, detail)
    adjust(state, owner, energy_wh=-energy_wh, local_wh=-energy_wh)
    _change_supply(state, energy_burned_wh=energy_wh)


def issue_gtx(state: Overlay, to: bytes, amount_ugtx: int) -> None:
    """Create gtx; only genesis does."""
    _change_supply(state, gtx_ugtx=amount_ugtx)
    adjust(state, to, gtx_ugtx=amount_ugtx)


def _change_supply(
    state: Overlay,
    *,
    thb_uthb: int = 0,
    energy_minted_wh: int = 0,
    energy_burned_wh: int = 0,
    gtx_ugtx: int = 0,
    carbon_issued_ucr: int = 0,
    carbon_retired_ucr: int = 0,
) -> None:
    """Bounding each total below 2**63 bounds every account, which holds a part of it."""
    old = supply(state)
    totals = (
        old.thb_uthb + thb_uthb,
        old.energy_minted_wh + energy_minted_wh,
        old.energy_burned_wh + energy_burned_wh,
        old.gtx_ugtx + gtx_ugtx,
        old.carbon_issued_ucr + carbon_issued_ucr,
        old.carbon_retired_ucr + carbon_retired_ucr,
    )
    if max(totals) > MAX_INT:
        raise Rejected(ErrorCode.OUT_OF_RANGE, f"a supply of {max(totals)} is beyond 2**63 - 1")
    SUPPLY.put(state, b"", Supply(*totals, old.certificates))


# -- Crossing to and from other chains -------------------------------------------------------------


def crossings(state: Reader) -> Crossings:
    """What has come from other chains and gone there."""
    return CROSSINGS.get(state, b"") or _NO_CROSSINGS


def holdings(state: Reader) -> dict[str, int]:
    """What all accounts together must hold, by asset, in smallest units."""
    total, crossed = supply(state), crossings(state)
    created = total.energy_minted_wh - total.energy_burned_wh
    return {
        "thb_uthb": total.thb_uthb,
        "energy_wh": created + crossed.energy_arrived_wh - crossed.energy_departed_wh,
        "gtx_ugtx": total.gtx_ugtx,
        "carbon_ucr": total.carbon_issued_ucr - total.carbon_retired_ucr,
    }


def depart(state: Overlay, sender: bytes, asset: Asset, amount: int) -> None:
    """Take an amount off the chain: it goes to another one.

    Errors: INSUFFICIENT_BALANCE; NOT_PERMITTED for carbon credits, which stay where they were
    issued.
    """
    match asset:
        case Asset.ENERGY:
            adjust(state, sender, energy_wh=-amount)
            _cross(state, energy_departed_wh=amount)
        case Asset.THB:
            adjust(state, sender, thb_uthb=-amount)
            _change_supply(state, thb_uthb=-amount)
            _cross(state, thb_departed_uthb=amount)
        case Asset.GTX:
            adjust(state, sender, gtx_ugtx=-amount)
            _change_supply(state, gtx_ugtx=-amount)
            _cross(state, gtx_departed_ugtx=amount)
        case Asset.CARBON:
            raise Rejected(ErrorCode.NOT_PERMITTED, "carbon credits stay on the chain of issue")


def arrive(state: Overlay, to: bytes, asset: Asset, amount: int) -> None:
    """Bring an amount onto the chain that has left another one.

    Errors: OUT_OF_RANGE where a total would reach 2**63; NOT_PERMITTED for carbon credits; those of
    `check_recipient`: a first payment from elsewhere has the least amount, registered or not.
    """
    check_recipient(state, to, asset, amount)
    match asset:
        case Asset.ENERGY:
            _check_ever(state, amount)
            _cross(state, energy_arrived_wh=amount)
            adjust(state, to, energy_wh=amount)
        case Asset.THB:
            _change_supply(state, thb_uthb=amount)
            _cross(state, thb_arrived_uthb=amount)
            adjust(state, to, thb_uthb=amount)
        case Asset.GTX:
            _change_supply(state, gtx_ugtx=amount)
            _cross(state, gtx_arrived_ugtx=amount)
            adjust(state, to, gtx_ugtx=amount)
        case Asset.CARBON:
            raise Rejected(ErrorCode.NOT_PERMITTED, "carbon credits stay on the chain of issue")


def _check_ever(state: Reader, energy_wh: int) -> None:
    """Bounds every account, and what can ever be burned: a block's own work may not fail there."""
    ever = supply(state).energy_minted_wh + crossings(state).energy_arrived_wh
    if ever + energy_wh > MAX_INT:
        raise Rejected(ErrorCode.OUT_OF_RANGE, "all energy is beyond 2**63 - 1 Wh")


def _cross(state: Overlay, **amounts: int) -> None:
    old = crossings(state)
    new = replace(old, **{name: getattr(old, name) + amount for name, amount in amounts.items()})
    if max(getattr(new, name) for name in amounts) > MAX_INT:
        raise Rejected(ErrorCode.OUT_OF_RANGE, "what has crossed is beyond 2**63 - 1")
    CROSSINGS.put(state, b"", new)


# -- Commands --------------------------------------------------------------------------------------


def transfer(state: Overlay, command: Transfer, *, sender: bytes) -> list[LedgerEvent]:
    """Move an asset between accounts; energy and carbon credits go separately.

    Errors: INSUFFICIENT_BALANCE; held energy, escrow and bond cannot be moved.
    """
    move(state, command.asset, sender, command.to, command.amount)
    return [Transferred(sender, command.to, command.asset, command.amount)]


def deposits(state: Reader) -> DepositsEver:
    """What has been deposited on this chain, and how much of it its authority has stated."""
    return DEPOSITS_EVER.get(state, b"") or _NO_DEPOSITS


def deposit(
    state: Overlay,
    command: Deposit,
    *,
    sender: bytes,
    payment_authority: bytes,
    region_id: bytes,
    now_ms: int,
    limit_uthb: int,
) -> list[LedgerEvent]:
    """Create baht for an account, at most limit_uthb on all accounts in a Bangkok day.

    Errors: NOT_PERMITTED unless the payment authority sends it; DAILY_CAP with what is left of the
    day's limit; OUT_OF_RANGE at 2**63; BAD_SIGNATURE for a statement that is not the authority's
    over all deposits of this chain with this one. Source: protocols/market.md 1.
    """
    _require_authority(sender, payment_authority, "deposit")
    day = local_day(now_ms)
    newest = DEPOSIT_DAY.get(state, b"")
    so_far_uthb = newest.amount_uthb if newest is not None and newest.day == day else 0
    left_uthb = max(0, limit_uthb - so_far_uthb)
    if command.amount_uthb > left_uthb:
        detail = (
            f"{format_thb(command.amount_uthb)} THB, but of the {format_thb(limit_uthb)} THB that "
            f"may come to this chain in a Bangkok day {format_thb(left_uthb)} are left today"
        )
        raise Rejected(ErrorCode.DAILY_CAP, detail)
    DEPOSIT_DAY.put(state, b"", DepositDay(day, so_far_uthb + command.amount_uthb))
    _state_deposits(state, command, sender, region_id)
    _change_supply(state, thb_uthb=command.amount_uthb)
    adjust(state, command.to, thb_uthb=command.amount_uthb)
    return [Deposited(command.to, command.amount_uthb)]


def _state_deposits(state: Overlay, command: Deposit, sender: bytes, region_id: bytes) -> None:
    before = deposits(state)
    total_uthb = before.total_uthb + command.amount_uthb
    if total_uthb > MAX_INT:
        raise Rejected(ErrorCode.OUT_OF_RANGE, "all deposits ever are beyond 2**63 - 1 uTHB")
    if command.statement is None:
        DEPOSITS_EVER.put(state, b"", replace(before, total_uthb=total_uthb))
        return
    if not verify(sender, statement_bytes(region_id, total_uthb), command.statement):
        detail = (
            f"the statement is not {format_address(sender)}'s over {total_uthb} uTHB, which is "
            f"what has been deposited here with this deposit; {before.total_uthb} before it"
        )
        raise Rejected(ErrorCode.BAD_SIGNATURE, detail)
    stated = DepositsEver(total_uthb, total_uthb, command.statement)
    DEPOSITS_EVER.put(state, b"", stated)


def withdraw(
    state: Overlay, command: Withdraw, *, sender: bytes, payment_authority: bytes
) -> list[LedgerEvent]:
    """Destroy baht of the payment authority's own balance, to which its customer sent it before.

    Errors: NOT_PERMITTED unless the payment authority sends it; INSUFFICIENT_BALANCE.
    """
    _require_authority(sender, payment_authority, "withdraw")
    adjust(state, sender, thb_uthb=-command.amount_uthb)
    _change_supply(state, thb_uthb=-command.amount_uthb)
    return [Withdrawn(sender, command.amount_uthb)]


def _require_authority(sender: bytes, payment_authority: bytes, verb: str) -> None:
    if sender != payment_authority:
        detail = f"only the payment authority may {verb} baht, not {format_address(sender)}"
        raise Rejected(ErrorCode.NOT_PERMITTED, detail)


def retire_credits(
    state: Overlay, command: RetireCredits, *, sender: bytes, now_ms: int
) -> list[LedgerEvent]:
    """Burn own carbon credits and issue the next certificate. Errors: INSUFFICIENT_BALANCE."""
    adjust(state, sender, carbon_ucr=-command.amount_ucr)
    _change_supply(state, carbon_retired_ucr=command.amount_ucr)
    so_far = supply(state)
    number = so_far.certificates + 1
    SUPPLY.put(state, b"", replace(so_far, certificates=number))
    certificate = RetirementCertificate(
        number, sender, command.amount_ucr, command.beneficiary_hash, now_ms
    )
    CERTIFICATES.put(state, u64(number), certificate)
    return [CreditsRetired(sender, command.amount_ucr, number, command.beneficiary_hash)]
