"""What the national chain does: regions, their escrow, and the checkpoints that prove messages.

A region's blocks are judged here once, by the set that the national chain itself registered; no
other chain ever checks them. Nothing leaves a region that its escrow does not hold, so a region
that lies in everything can lose only what was brought there and what it says it made.
Source: protocols/interchain.md 3, 4, decision 0007.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from gridtokenx.interchain.log import (
    acknowledge,
    append,
    log_to,
    logs_root,
    mark_returned,
    next_head,
    open_log,
)
from gridtokenx.interchain.model import (
    CHECKPOINTS,
    FIRST_INCARNATION,
    INCARNATIONS,
    INTERCHAIN_PARAMETERS,
    KEPT_CHECKPOINTS,
    KEPT_MESSAGES,
    MAX_QUEUED,
    MAX_REASON_BYTES,
    NOTHING_MADE,
    PAUSED_AFTER_BLOCKS,
    REGIONS,
    STRANDED,
    Acknowledgement,
    AuthorityMember,
    AuthorityOrder,
    Bounced,
    CheckpointAccepted,
    Credit,
    Downward,
    Escrow,
    Incarnation,
    InterchainEvent,
    InterchainParameters,
    KnownCheckpoint,
    MessageFailed,
    OrderRefused,
    Region,
    RegionStatus,
    RegionStatusChanged,
    SettlementFiled,
    SettlementRecorded,
    Stranded,
    SupplyReport,
    TransferCredited,
    TransferReturned,
    TransferReturning,
    TransferRouted,
    Upward,
    is_void,
    row_key,
)
from gridtokenx.ledger import rules as ledger
from gridtokenx.ledger.model import Asset, statement_bytes
from gridtokenx.primitives.codec import MAX_INT, decode_any
from gridtokenx.primitives.crypto import ZERO_HASH, verify
from gridtokenx.primitives.errors import ErrorCode, Rejected
from gridtokenx.primitives.quantities import local_day
from gridtokenx.primitives.state import Overlay, Reader
from gridtokenx.primitives.validators import Validator, ValidatorSet

Verify = Callable[[ValidatorSet], None]
_DEFAULT = InterchainParameters()


@dataclass(frozen=True, slots=True)
class HeaderFacts:
    """What a region's header says, as far as the national chain needs it."""

    chain_id: bytes
    height: int
    hash: bytes
    set_hash: bytes
    next_set_hash: bytes
    outbox_root: bytes
    outbox_count: int
    inbox_next: int


@dataclass(frozen=True, slots=True)
class Home:
    """The national chain's own name and id, and the key that signs for deposits."""

    name: str
    genesis_id: bytes
    payment_authority: bytes = b""


# -- Regions ---------------------------------------------------------------------------------------


def register_region(
    state: Overlay, name: str, genesis_id: bytes, validators: ValidatorSet, gtx_ugtx: int
) -> None:
    """A region of the genesis, with the gtx that its own genesis gives to its accounts."""
    open_log(state, name, genesis_id)
    region = Region(
        name=name,
        genesis_id=genesis_id,
        chain_id=genesis_id,
        incarnation=FIRST_INCARNATION,
        validators=validators,
        ordered=None,
        height=0,
        hash=genesis_id,
        outbox_count=0,
        outbox_head=ZERO_HASH,
        inbox_next=0,
        seen_height=0,
        kept_checkpoints=0,
        frozen=False,
        held_by=0,
        escrow=Escrow(gtx_ugtx=gtx_ugtx),
        left=Escrow(),
        lost=Escrow(),
        sent_day=0,
        sent=Escrow(),
        reported=NOTHING_MADE,
    )
    REGIONS.put(state, name.encode(), region)


def region_of(state: Reader, name: str) -> Region:
    """Errors: UNKNOWN_SHARD."""
    found = REGIONS.get(state, name.encode())
    if found is None:
        known = ", ".join(region.name for region in regions(state))
        raise Rejected(ErrorCode.UNKNOWN_SHARD, f"no region {name!r}; there are {known}")
    return found


def regions(state: Reader) -> list[Region]:
    """All regions, by name."""
    return [region for _, region in REGIONS.items(state)]


def begin_block(state: Reader, *, height: int) -> list[InterchainEvent]:
    """Tell of regions that are paused from this block on."""
    return [
        RegionStatusChanged(region.name, RegionStatus.PAUSED, "no checkpoint for 60 blocks")
        for region in regions(state)
        if not region.frozen
        and not region.held_by
        and height - region.seen_height == PAUSED_AFTER_BLOCKS + 1
    ]


def order_authorities(
    state: Overlay,
    name: str,
    members: Sequence[AuthorityMember],
    *,
    home: Home,
    height: int,
) -> None:
    """Send a region its next set; the caller has judged the change.

    Errors: CROSS_SHARD_PENDING while an earlier one is on its way: the checkpoints that follow are
    signed by the old set or by that one, never by a third.
    """
    check_may_order(state, name)
    region = region_of(state, name)
    ordered = ValidatorSet.of(Validator(one.public_key, one.weight) for one in members)
    if ordered == region.validators:
        return
    REGIONS.put(state, name.encode(), replace(region, ordered=ordered))
    order = AuthorityOrder(region.incarnation, tuple(members))
    send_order(state, name, order, home=home, height=height)


def check_may_order(state: Reader, name: str) -> None:
    """Errors: CROSS_SHARD_PENDING while the last order of authorities is on its way."""
    if region_of(state, name).ordered is not None:
        detail = f"{name} has not yet taken up the authorities that were ordered last"
        raise Rejected(ErrorCode.CROSS_SHARD_PENDING, detail)


def send_order(
    state: Overlay,
    name: str,
    order: Downward,
    *,
    home: Home,
    height: int,
    origin: tuple[int, int] = (0, 0),
) -> int:
    """Append a message to a region's queue; its nonce. `origin`: see `QueuedMessage`."""
    return append(
        state,
        order,
        source_id=home.genesis_id,
        destination=name,
        height=height,
        origin=origin,
    )


def incarnations_of(state: Reader, name: str) -> list[Incarnation]:
    """All that a region has had after its first, oldest first."""
    return [one for _, one in INCARNATIONS.items(state, name.encode() + b"\x00")]


def parameters(state: Reader) -> InterchainParameters:
    """The limits between chains that are in force."""
    return INTERCHAIN_PARAMETERS.get(state, b"") or _DEFAULT


def set_parameters(state: Overlay, value: InterchainParameters) -> None:
    """Put them in force from the next rule on (genesis, governance)."""
    INTERCHAIN_PARAMETERS.put(state, b"", value)


def _check_flows(region: Region) -> None:
    """Errors: NOT_ACTIVE while nothing may pass to or from a region."""
    if region.frozen:
        raise Rejected(ErrorCode.NOT_ACTIVE, f"{region.name} is frozen: it has signed two chains")
    if region.held_by:
        detail = f"{region.name} is held while proposal {region.held_by} is decided"
        raise Rejected(ErrorCode.NOT_ACTIVE, detail)


# -- Escrow ----------------------------------------------------------------------------------------


def enter(state: Overlay, name: str, asset: Asset, amount: int, *, height: int) -> None:
    """Count what is about to be sent to a region.

    Errors: UNKNOWN_SHARD; CROSS_SHARD_PENDING while it is paused or its queue is long; NOT_ACTIVE
    when it is frozen.
    """
    region = region_of(state, name)
    status = region.status(height)
    _check_flows(region)
    if status is RegionStatus.PAUSED:
        detail = f"{name} is paused: no checkpoint since national block {region.seen_height}"
        raise Rejected(ErrorCode.CROSS_SHARD_PENDING, detail)
    waiting = log_to(state, name).count - region.inbox_next
    if waiting >= MAX_QUEUED:
        detail = f"{waiting} messages wait for {name}; try again later"
        raise Rejected(ErrorCode.CROSS_SHARD_PENDING, detail)
    _put_escrow(state, region, changed(region.escrow, asset, amount))


def _leave(state: Overlay, name: str, asset: Asset, amount: int) -> None:
    region = region_of(state, name)
    escrow = changed(region.escrow, asset, -amount)
    left = changed(region.left, asset, amount)
    REGIONS.put(state, name.encode(), replace(region, escrow=escrow, left=left))


def _spend_daily(state: Overlay, name: str, asset: Asset, amount: int, day: int) -> None:
    """Errors: DAILY_CAP above what may leave a region in a Bangkok day."""
    region, limits = region_of(state, name), parameters(state)
    so_far = region.sent if region.sent_day == day else Escrow()
    sent = changed(so_far, asset, amount)
    most = Escrow(limits.daily_energy_wh, limits.daily_thb_uthb, limits.daily_gtx_ugtx)
    if _of(sent, asset) > _of(most, asset):
        left = max(0, _of(most, asset) - _of(so_far, asset))
        raise Rejected(ErrorCode.DAILY_CAP, f"today {left} more may leave {name}; try tomorrow")
    REGIONS.put(state, name.encode(), replace(region, sent_day=day, sent=sent))


def changed(escrow: Escrow, asset: Asset, amount: int) -> Escrow:
    """The amounts with a signed one more of an asset.

    Errors: INSUFFICIENT_BALANCE below zero, OUT_OF_RANGE from 2**63, NOT_PERMITTED (carbon).
    """
    total = _of(escrow, asset) + amount
    if total < 0:
        raise Rejected(ErrorCode.INSUFFICIENT_BALANCE, f"the escrow lacks {-total}")
    if total > MAX_INT:
        raise Rejected(ErrorCode.OUT_OF_RANGE, "the escrow would be beyond 2**63 - 1")
    match asset:
        case Asset.ENERGY:
            return replace(escrow, energy_wh=total)
        case Asset.THB:
            return replace(escrow, thb_uthb=total)
        case _:
            return replace(escrow, gtx_ugtx=total)


def _of(escrow: Escrow, asset: Asset) -> int:
    """Errors: NOT_PERMITTED for carbon."""
    match asset:
        case Asset.ENERGY:
            return escrow.energy_wh
        case Asset.THB:
            return escrow.thb_uthb
        case Asset.GTX:
            return escrow.gtx_ugtx
        case Asset.CARBON:
            raise Rejected(ErrorCode.NOT_PERMITTED, "carbon credits stay on the chain of issue")


def _put_escrow(state: Overlay, region: Region, escrow: Escrow) -> None:
    REGIONS.put(state, region.name.encode(), replace(region, escrow=escrow))


# -- Checkpoints -----------------------------------------------------------------------------------


def checkpoint(
    state: Overlay,
    name: str,
    header: HeaderFacts,
    messages: Sequence[bytes],
    *,
    verify: Verify,
    home: Home,
    height: int,
    now_ms: int,
) -> list[InterchainEvent]:
    """Take a region's header and everything it has sent since the last one.

    `verify(validators)` raises unless they signed the header's certificate.
    A second header of a known height freezes the region. Errors: UNKNOWN_SHARD; WRONG_CHAIN for
    another incarnation; NOT_ACTIVE when frozen or held; DUPLICATE for a height that is past;
    INVALID_CERTIFICATE; INVALID_BLOCK when the messages are not exactly those the header says.
    """
    region = region_of(state, name)
    if header.chain_id != region.chain_id:
        detail = f"the header is not of {name}'s incarnation {region.incarnation}"
        raise Rejected(ErrorCode.WRONG_CHAIN, detail)
    _check_flows(region)
    if header.height <= region.height:
        return _judge_past(state, region, header, verify)
    signers, following = _sets(region, header)
    head = _check_messages(state, region, header, messages, home)
    verify(signers)
    paused = region.status(height) is RegionStatus.PAUSED
    is_switched = region.ordered is not None and following == region.ordered
    taken = replace(
        region,
        validators=following,
        ordered=None if is_switched else region.ordered,
        height=header.height,
        hash=header.hash,
        outbox_count=header.outbox_count,
        outbox_head=head,
        inbox_next=header.inbox_next,
        seen_height=height,
    )
    REGIONS.put(state, name.encode(), taken)
    _forget_taken(state, name)
    events: list[InterchainEvent] = []
    if paused:
        events.append(RegionStatusChanged(name, RegionStatus.ACTIVE, "a checkpoint came"))
    for offset, raw in enumerate(messages):
        nonce = region.outbox_count + offset
        events += _take(state, name, nonce, raw, home, height, now_ms)
    _remember(state, name, signers)
    if messages:
        taken_up = Acknowledgement(region.incarnation, header.outbox_count)
        send_order(state, name, taken_up, home=home, height=height)
    return [CheckpointAccepted(name, header.height, len(messages)), *events]


def _judge_past(
    state: Overlay, region: Region, header: HeaderFacts, verify: Verify
) -> list[InterchainEvent]:
    known = CHECKPOINTS.get(state, row_key(region.name, header.height))
    if known is None or known.hash == header.hash:
        detail = f"{region.name} has a checkpoint of height {region.height} already"
        raise Rejected(ErrorCode.DUPLICATE, detail)
    verify(known.validators)
    REGIONS.put(state, region.name.encode(), replace(region, frozen=True))
    reason = f"two headers of height {header.height} are certified"
    return [RegionStatusChanged(region.name, RegionStatus.FROZEN, reason)]


def _sets(region: Region, header: HeaderFacts) -> tuple[ValidatorSet, ValidatorSet]:
    """Who must have signed the header, and who signs the next. Errors: INVALID_CERTIFICATE."""
    allowed = [region.validators, *([] if region.ordered is None else [region.ordered])]
    for at, signers in enumerate(allowed):
        if signers.hash == header.set_hash:
            for following in allowed[at:]:  # Never back from the ordered set to the old one.
                if following.hash == header.next_set_hash:
                    return signers, following
    detail = f"{region.name}'s header names a validator set that was not ordered here"
    raise Rejected(ErrorCode.INVALID_CERTIFICATE, detail)


def _check_messages(
    state: Reader, region: Region, header: HeaderFacts, messages: Sequence[bytes], home: Home
) -> bytes:
    """The log's head after the messages. Errors: INVALID_BLOCK."""
    missing = header.outbox_count - region.outbox_count
    if len(messages) != missing:
        detail = f"{missing} messages follow number {region.outbox_count}, not {len(messages)}"
        raise Rejected(ErrorCode.INVALID_BLOCK, detail)
    head = region.outbox_head
    for offset, raw in enumerate(messages):
        nonce = region.outbox_count + offset
        head = next_head(head, region.genesis_id, home.genesis_id, nonce, raw)
    if logs_root([(home.genesis_id, header.outbox_count, head)]) != header.outbox_root:
        raise Rejected(ErrorCode.INVALID_BLOCK, "the messages are not those of the outbox_root")
    if not region.inbox_next <= header.inbox_next <= log_to(state, region.name).count:
        detail = f"inbox_next {header.inbox_next} names messages that were never sent"
        raise Rejected(ErrorCode.INVALID_BLOCK, detail)
    return head


def _remember(state: Overlay, name: str, signers: ValidatorSet) -> None:
    """Keep the newest thousand checkpoints: to compare, and to go on from."""
    region = region_of(state, name)
    prefix = region.name.encode() + b"\x00"
    count = region.kept_checkpoints
    if count >= KEPT_CHECKPOINTS:
        oldest = next(iter(CHECKPOINTS.items(state, prefix)))[0]
        CHECKPOINTS.delete(state, oldest)
        count -= 1
    CHECKPOINTS.put(state, row_key(region.name, region.height), newest_of(region, signers))
    REGIONS.put(state, name.encode(), replace(region, kept_checkpoints=count + 1))


def newest_of(region: Region, signers: ValidatorSet) -> KnownCheckpoint:
    """A region's last checkpoint, which `signers` signed, as it is remembered."""
    return KnownCheckpoint(
        region.hash,
        signers,
        region.outbox_count,
        region.outbox_head,
        region.inbox_next,
        region.left,
        region.reported,
    )


def _forget_taken(state: Overlay, name: str) -> None:
    """Messages that no checkpoint to go on from needs are forgotten.

    Before the newest checkpoint is among those kept: what it took can still come back.
    """
    region, count = region_of(state, name), log_to(state, name).count
    oldest = next(iter(CHECKPOINTS.items(state, name.encode() + b"\x00")), None)
    needed = 0 if oldest is None else oldest[1].inbox_next
    acknowledge(state, name, min(region.inbox_next, max(needed, count - KEPT_MESSAGES)))


# -- Messages from regions -------------------------------------------------------------------------


def reason_of(error: Rejected) -> str:
    """Why a message had no effect, in as many bytes as a message or an event carries."""
    return error.detail.encode()[:MAX_REASON_BYTES].decode(errors="ignore")


def _take(
    state: Overlay, name: str, nonce: int, raw: bytes, home: Home, height: int, now_ms: int
) -> list[InterchainEvent]:
    """One message of a region, atomically; total: what it cannot do has no effect but an event."""
    attempt = Overlay(state)
    try:
        message = decode_any(Upward, raw)
        events = _apply(attempt, name, nonce, message, home, height, now_ms)
        attempt.merge()
    except Rejected as error:
        return [MessageFailed(name, nonce, reason_of(error))]
    return events


def _apply(
    state: Overlay,
    name: str,
    nonce: int,
    message: Upward,
    home: Home,
    height: int,
    now_ms: int,
) -> list[InterchainEvent]:
    match message:
        case Credit():
            if message.origin != name:
                raise Rejected(ErrorCode.MALFORMED, f"a credit of {message.origin} from {name}")
            return _route(state, name, nonce, message, home, height, now_ms)
        case Bounced():
            return _return(state, name, nonce, message, home, height)
        case SupplyReport():
            return _note_supply(state, name, nonce, message, home)
        case SettlementFiled(territory, day, report_hash):
            return [SettlementRecorded(name, territory, day, report_hash)]
        case OrderRefused(order_nonce, reason):
            return [MessageFailed(home.name, order_nonce, reason)]


def _route(
    state: Overlay,
    name: str,
    nonce: int,
    credit: Credit,
    home: Home,
    height: int,
    now_ms: int,
) -> list[InterchainEvent]:
    """Move a credit out of its region's escrow to where it goes, or send it back."""
    attempt, sent = Overlay(state), (region_of(state, name).incarnation, nonce)
    try:
        _leave(attempt, name, credit.asset, credit.amount)
        _spend_daily(attempt, name, credit.asset, credit.amount, local_day(now_ms))
        if credit.destination == home.name:
            ledger.arrive(attempt, credit.to, credit.asset, credit.amount)
            event: InterchainEvent = TransferCredited(
                credit.transfer_id, name, credit.to, credit.asset, credit.amount
            )
        else:
            if credit.destination == name:
                raise Rejected(ErrorCode.WRONG_CHAIN, f"{name} sends to itself")
            enter(attempt, credit.destination, credit.asset, credit.amount, height=height)
            onward = send_order(
                attempt, credit.destination, credit, home=home, height=height, origin=sent
            )
            event = TransferRouted(credit.transfer_id, name, credit.destination, onward)
        attempt.merge()
    except Rejected as error:
        reason = reason_of(error)
        send_order(state, name, Bounced(*sent, credit, reason), home=home, height=height)
        return [TransferReturning(credit.transfer_id, name, reason)]
    return [event]


def _return(
    state: Overlay, name: str, nonce: int, bounced: Bounced, home: Home, height: int
) -> list[InterchainEvent]:
    """A region could not take a credit: bring it back to its origin.

    Errors: MALFORMED for one that was never sent there, or came back before.
    """
    credit = bounced.credit
    region = region_of(state, name)
    before = mark_returned(state, name, bounced.nonce, credit, region.incarnation)
    if before.returned_in:
        # An incarnation that is void returned it, and its sender was paid then.
        escrow = changed(region.escrow, credit.asset, -credit.amount)
        lost = changed(region.lost, credit.asset, -credit.amount)
        REGIONS.put(state, name.encode(), replace(region, escrow=escrow, lost=lost))
        return []
    sent = before.origin_incarnation, before.origin_nonce
    _leave(state, name, credit.asset, credit.amount)
    if credit.origin == home.name:
        return refund(state, bounced, source=name, nonce=nonce)
    origin = region_of(state, credit.origin)
    if is_void(incarnations_of(state, credit.origin), *sent):
        # Its sender has that again already: what was lost is found.
        lost = changed(origin.lost, credit.asset, -credit.amount)
        REGIONS.put(state, credit.origin.encode(), replace(origin, lost=lost))
        return []
    _put_escrow(state, origin, changed(origin.escrow, credit.asset, credit.amount))
    onward = Bounced(*sent, credit, bounced.reason)
    send_order(state, credit.origin, onward, home=home, height=height, origin=sent)
    return [TransferReturning(credit.transfer_id, credit.origin, bounced.reason)]


def refund(state: Overlay, bounced: Bounced, *, source: str, nonce: int) -> list[InterchainEvent]:
    """Give a sender back what could not be credited, on its own chain.

    What its account cannot take is set apart in STRANDED.
    """
    credit = bounced.credit
    attempt = Overlay(state)
    try:
        ledger.arrive(attempt, credit.sender, credit.asset, credit.amount)
        attempt.merge()
    except Rejected as error:
        STRANDED.put(state, row_key(source, nonce), Stranded(credit))
        return [MessageFailed(source, nonce, reason_of(error))]
    return [
        TransferReturned(
            credit.transfer_id, credit.sender, credit.asset, credit.amount, bounced.reason
        )
    ]


def _note_supply(
    state: Overlay, name: str, nonce: int, report: SupplyReport, home: Home
) -> list[InterchainEvent]:
    """Deposits count as far as the payment authority of the day has signed for them.

    Errors: OUT_OF_RANGE for totals that shrink; INSUFFICIENT_BALANCE when more is gone than is
    there.
    """
    region = region_of(state, name)
    last = region.reported
    events: list[InterchainEvent] = []
    if report.deposited_uthb != last.deposited_uthb and not _is_stated(region, report, home):
        reason = f"{report.deposited_uthb} uTHB are not stated by its payment authority"
        events.append(MessageFailed(name, nonce, reason[:MAX_REASON_BYTES]))
        report = replace(report, deposited_uthb=last.deposited_uthb, statement=last.statement)
    if (
        report.energy_minted_wh < last.energy_minted_wh
        or report.energy_burned_wh < last.energy_burned_wh
    ):
        raise Rejected(ErrorCode.OUT_OF_RANGE, f"{name} reports less than before")
    escrow = changed(region.escrow, Asset.ENERGY, report.energy_wh - last.energy_wh)
    escrow = changed(escrow, Asset.THB, report.thb_uthb - last.thb_uthb)
    REGIONS.put(state, name.encode(), replace(region, escrow=escrow, reported=report))
    return events


def _is_stated(region: Region, report: SupplyReport, home: Home) -> bool:
    """Never less than before: old statements stay true."""
    if report.deposited_uthb < region.reported.deposited_uthb or not home.payment_authority:
        return False
    stated = statement_bytes(region.genesis_id, report.deposited_uthb)
    return verify(home.payment_authority, stated, report.statement)
