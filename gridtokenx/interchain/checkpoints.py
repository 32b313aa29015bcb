"""What the national chain does: regions, their escrow, and the checkpoints that prove messages.

A region's blocks are judged here once, by the set that the national chain itself registered; no
other chain ever checks them. Nothing leaves a region that its escrow does not hold, so a region
that lies in everything can lose only what was brought there and what it says it made.
Source: protocols/interchain.md sections 3 and 4, decision 0007.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from gridtokenx.interchain.log import (
    acknowledge,
    append,
    log_to,
    logs_root,
    next_head,
    open_log,
)
from gridtokenx.interchain.model import (
    CHECKPOINTS,
    KEPT_CHECKPOINTS,
    MAX_QUEUED,
    MAX_REASON_BYTES,
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
    InterchainEvent,
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
)
from gridtokenx.ledger import rules as ledger
from gridtokenx.ledger.model import Asset
from gridtokenx.primitives.codec import MAX_INT, decode_any
from gridtokenx.primitives.crypto import ZERO_HASH
from gridtokenx.primitives.errors import ErrorCode, Rejected
from gridtokenx.primitives.state import Overlay, Reader, u64
from gridtokenx.primitives.validators import Validator, ValidatorSet

Verify = Callable[[ValidatorSet], None]


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
    """The national chain's own name and id."""

    name: str
    genesis_id: bytes


# -- Regions -------------------------------------------------------------------------------------


def register_region(
    state: Overlay, name: str, genesis_id: bytes, validators: ValidatorSet, gtx_ugtx: int
) -> None:
    """A region of the genesis, with the gtx that its own genesis gives to its accounts."""
    open_log(state, name, genesis_id)
    nothing = SupplyReport(0, 0, 0, 0, 0)
    region = Region(
        name=name,
        genesis_id=genesis_id,
        chain_id=genesis_id,
        incarnation=1,
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
        escrow=Escrow(gtx_ugtx=gtx_ugtx),
        reported=nothing,
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
        if not region.frozen and height - region.seen_height == PAUSED_AFTER_BLOCKS + 1
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
    send_order(state, name, AuthorityOrder(tuple(members)), home=home, height=height)


def check_may_order(state: Reader, name: str) -> None:
    """Errors: CROSS_SHARD_PENDING while the last order of authorities is on its way."""
    if region_of(state, name).ordered is not None:
        detail = f"{name} has not yet taken up the authorities that were ordered last"
        raise Rejected(ErrorCode.CROSS_SHARD_PENDING, detail)


def send_order(state: Overlay, name: str, order: Downward, *, home: Home, height: int) -> int:
    """Append an order to a region's queue; its nonce."""
    return append(state, order, source_id=home.genesis_id, destination=name, height=height)


def reincarnate(state: Overlay, name: str, chain_id: bytes, height: int) -> None:
    """Let a dead or frozen region go on as another chain from its last accepted checkpoint.

    Its logs and its place in its queue are those of that header on both sides, so nonces go on and
    every message still counts once. What the old incarnation signs is of another chain id.
    """
    region = region_of(state, name)
    reborn = replace(
        region,
        chain_id=chain_id,
        incarnation=region.incarnation + 1,
        seen_height=height,
        frozen=False,
    )
    REGIONS.put(state, name.encode(), reborn)


# -- Escrow --------------------------------------------------------------------------------------


def enter(state: Overlay, name: str, asset: Asset, amount: int, *, height: int) -> None:
    """Count what is about to be sent to a region.

    Errors: UNKNOWN_SHARD; CROSS_SHARD_PENDING while it is paused or its queue is long; NOT_ACTIVE
    when it is frozen.
    """
    region = region_of(state, name)
    status = region.status(height)
    if status is RegionStatus.FROZEN:
        raise Rejected(ErrorCode.NOT_ACTIVE, f"{name} is frozen: it has signed two chains")
    if status is RegionStatus.PAUSED:
        detail = f"{name} is paused: no checkpoint since national block {region.seen_height}"
        raise Rejected(ErrorCode.CROSS_SHARD_PENDING, detail)
    waiting = log_to(state, name).count - region.inbox_next
    if waiting >= MAX_QUEUED:
        detail = f"{waiting} messages wait for {name}; try again later"
        raise Rejected(ErrorCode.CROSS_SHARD_PENDING, detail)
    _put_escrow(state, region, _changed(region.escrow, asset, amount))


def _leave(state: Overlay, name: str, asset: Asset, amount: int) -> None:
    region = region_of(state, name)
    _put_escrow(state, region, _changed(region.escrow, asset, -amount))


def _changed(escrow: Escrow, asset: Asset, amount: int) -> Escrow:
    """Errors: INSUFFICIENT_BALANCE below zero, OUT_OF_RANGE from 2**63, NOT_PERMITTED (carbon)."""
    match asset:
        case Asset.ENERGY:
            total = escrow.energy_wh + amount
        case Asset.THB:
            total = escrow.thb_uthb + amount
        case Asset.GTX:
            total = escrow.gtx_ugtx + amount
        case Asset.CARBON:
            raise Rejected(ErrorCode.NOT_PERMITTED, "carbon credits stay on the chain of issue")
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


def _put_escrow(state: Overlay, region: Region, escrow: Escrow) -> None:
    REGIONS.put(state, region.name.encode(), replace(region, escrow=escrow))


# -- Checkpoints ---------------------------------------------------------------------------------


def checkpoint(
    state: Overlay,
    name: str,
    header: HeaderFacts,
    messages: Sequence[bytes],
    *,
    verify: Verify,
    home: Home,
    height: int,
) -> list[InterchainEvent]:
    """Take a region's header and everything it has sent since the last one.

    `verify(validators)` raises unless they signed the header's certificate.
    A second header of a known height freezes the region. Errors: UNKNOWN_SHARD; WRONG_CHAIN for
    another incarnation; NOT_ACTIVE when frozen; DUPLICATE for a height that is past;
    INVALID_CERTIFICATE; INVALID_BLOCK when the messages are not exactly those the header says.
    """
    region = region_of(state, name)
    if header.chain_id != region.chain_id:
        detail = f"the header is not of {name}'s incarnation {region.incarnation}"
        raise Rejected(ErrorCode.WRONG_CHAIN, detail)
    if region.frozen:
        raise Rejected(ErrorCode.NOT_ACTIVE, f"{name} is frozen: it has signed two chains")
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
    REGIONS.put(state, name.encode(), _remember(state, taken, signers))
    acknowledge(state, name, header.inbox_next)
    events: list[InterchainEvent] = []
    if paused:
        events.append(RegionStatusChanged(name, RegionStatus.ACTIVE, "a checkpoint came"))
    for offset, raw in enumerate(messages):
        nonce = region.outbox_count + offset
        events += _take(state, name, nonce, raw, home, height)
    if messages:
        send_order(state, name, Acknowledgement(header.outbox_count), home=home, height=height)
    return [CheckpointAccepted(name, header.height, len(messages)), *events]


def _judge_past(
    state: Overlay, region: Region, header: HeaderFacts, verify: Verify
) -> list[InterchainEvent]:
    known = CHECKPOINTS.get(state, _checkpoint_key(region.name, header.height))
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


def _remember(state: Overlay, region: Region, signers: ValidatorSet) -> Region:
    """Keep the newest thousand checkpoints for comparison."""
    prefix = region.name.encode() + b"\x00"
    count = region.kept_checkpoints
    if count >= KEPT_CHECKPOINTS:
        oldest = next(iter(CHECKPOINTS.items(state, prefix)))[0]
        CHECKPOINTS.delete(state, oldest)
        count -= 1
    known = KnownCheckpoint(region.hash, signers)
    CHECKPOINTS.put(state, _checkpoint_key(region.name, region.height), known)
    return replace(region, kept_checkpoints=count + 1)


def _checkpoint_key(name: str, height: int) -> bytes:
    return name.encode() + b"\x00" + u64(height)


# -- Messages from regions -----------------------------------------------------------------------


def reason_of(error: Rejected) -> str:
    """Why a message had no effect, in as many bytes as a message or an event carries."""
    return error.detail.encode()[:MAX_REASON_BYTES].decode(errors="ignore")


def _take(
    state: Overlay, name: str, nonce: int, raw: bytes, home: Home, height: int
) -> list[InterchainEvent]:
    """One message of a region, atomically; total: what it cannot do has no effect but an event."""
    attempt = Overlay(state)
    try:
        message = decode_any(Upward, raw)
        events = _apply(attempt, name, nonce, message, home, height)
        attempt.merge()
    except Rejected as error:
        return [MessageFailed(name, nonce, reason_of(error))]
    return events


def _apply(
    state: Overlay, name: str, nonce: int, message: Upward, home: Home, height: int
) -> list[InterchainEvent]:
    match message:
        case Credit():
            if message.origin != name:
                raise Rejected(ErrorCode.MALFORMED, f"a credit of {message.origin} from {name}")
            return _route(state, name, message, home, height)
        case Bounced(credit, reason):
            if credit.destination != name:
                detail = f"a bounce of {credit.destination} from {name}"
                raise Rejected(ErrorCode.MALFORMED, detail)
            return _return(state, name, nonce, message, home, height)
        case SupplyReport():
            _note_supply(state, name, message)
            return []
        case SettlementFiled(territory, day, report_hash):
            return [SettlementRecorded(name, territory, day, report_hash)]
        case OrderRefused(order_nonce, reason):
            return [MessageFailed(home.name, order_nonce, reason)]


def _route(
    state: Overlay, name: str, credit: Credit, home: Home, height: int
) -> list[InterchainEvent]:
    """Move a credit out of its region's escrow to where it goes, or send it back."""
    attempt = Overlay(state)
    try:
        _leave(attempt, name, credit.asset, credit.amount)
        if credit.destination == home.name:
            ledger.arrive(attempt, credit.to, credit.asset, credit.amount)
            event: InterchainEvent = TransferCredited(
                credit.transfer_id, name, credit.to, credit.asset, credit.amount
            )
        else:
            if credit.destination == name:
                raise Rejected(ErrorCode.WRONG_CHAIN, f"{name} sends to itself")
            enter(attempt, credit.destination, credit.asset, credit.amount, height=height)
            onward = send_order(attempt, credit.destination, credit, home=home, height=height)
            event = TransferRouted(credit.transfer_id, name, credit.destination, onward)
        attempt.merge()
    except Rejected as error:
        reason = reason_of(error)
        send_order(state, name, Bounced(credit, reason), home=home, height=height)
        return [TransferReturning(credit.transfer_id, name, reason)]
    return [event]


def _return(
    state: Overlay, name: str, nonce: int, bounced: Bounced, home: Home, height: int
) -> list[InterchainEvent]:
    """A region could not take a credit: bring it back to its origin.

    Errors: INSUFFICIENT_BALANCE, UNKNOWN_SHARD, WRONG_CHAIN for one that never was sent there.
    """
    credit = bounced.credit
    _leave(state, name, credit.asset, credit.amount)
    if credit.origin == home.name:
        return refund(state, bounced, source=name, nonce=nonce)
    if credit.origin == name:
        raise Rejected(ErrorCode.WRONG_CHAIN, f"{name} sent nothing to itself")
    origin = region_of(state, credit.origin)
    _put_escrow(state, origin, _changed(origin.escrow, credit.asset, credit.amount))
    send_order(state, credit.origin, bounced, home=home, height=height)
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
        STRANDED.put(state, credit.transfer_id, Stranded(credit))
        return [MessageFailed(source, nonce, reason_of(error))]
    return [
        TransferReturned(
            credit.transfer_id, credit.sender, credit.asset, credit.amount, bounced.reason
        )
    ]


def _note_supply(state: Overlay, name: str, report: SupplyReport) -> None:
    """Errors: OUT_OF_RANGE for totals that shrink; INSUFFICIENT_BALANCE when more is gone than is
    there.
    """
    region = region_of(state, name)
    last = region.reported
    if (
        report.energy_minted_wh < last.energy_minted_wh
        or report.energy_burned_wh < last.energy_burned_wh
    ):
        raise Rejected(ErrorCode.OUT_OF_RANGE, f"{name} reports less than before")
    escrow = _changed(region.escrow, Asset.ENERGY, report.energy_wh - last.energy_wh)
    escrow = _changed(escrow, Asset.THB, report.thb_uthb - last.thb_uthb)
    REGIONS.put(state, name.encode(), replace(region, escrow=escrow, reported=report))
