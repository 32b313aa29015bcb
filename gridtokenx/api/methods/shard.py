"""Methods about the chains together: regions as the national chain sees them, what they have
filed, and transfers.

A node that does not follow a region still knows from the national chain what became of a transfer
to it: whether the region took it, and whether it came back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from gridtokenx.answers.fields import ADDRESS_EXAMPLE, HASH_EXAMPLE
from gridtokenx.answers.kinds import address, day, format_cursor, format_day, hex_bytes
from gridtokenx.answers.shapes import Rule
from gridtokenx.answers.shard import (
    CheckpointPage,
    CheckpointRow,
    FiledReport,
    FiledReportPage,
    LastCheckpoint,
    ShardAuthority,
    ShardDetail,
    ShardList,
    ShardRow,
    ShardSync,
    ShardToday,
    TransferDetail,
    TransferPage,
    TransferState,
    TransferStep,
)
from gridtokenx.api.context import Context
from gridtokenx.api.errors import ApiError, invalid_params
from gridtokenx.api.table import (
    CHAIN_NAME,
    ChainName,
    Method,
    NoParameters,
    PageCursor,
    PageLimit,
    Route,
)
from gridtokenx.chain.authorities import authorities_of
from gridtokenx.interchain import checkpoints
from gridtokenx.interchain.incarnations import check_base, lost_since
from gridtokenx.interchain.log import log_to
from gridtokenx.interchain.model import (
    CHECKPOINTS,
    PAUSED_AFTER_BLOCKS,
    REGIONS,
    STRANDED,
    Escrow,
    KnownCheckpoint,
    Region,
    TransferCredited,
    TransferReturned,
    TransferReturning,
    TransferRouted,
    TransferSent,
)
from gridtokenx.primitives.errors import ErrorCode, Rejected
from gridtokenx.primitives.quantities import local_day
from gridtokenx.primitives.state import u64
from gridtokenx.storage import index
from gridtokenx.storage.index import TransferRecord
from gridtokenx.views.status import ChainStatus

_HASH = hex_bytes(32, exactly=True)
ShardId = Annotated[str, Rule("name of the region chain, such as NOR", CHAIN_NAME, example="NOR")]
_Steps = list[tuple[ChainStatus, TransferRecord]]


@dataclass(frozen=True, slots=True)
class ShardParameters:
    """One region chain."""

    id: ShardId


@dataclass(frozen=True, slots=True)
class CheckpointsParameters:
    """Whose checkpoints."""

    id: ShardId
    limit: PageLimit = 50
    cursor: PageCursor = b""


@dataclass(frozen=True, slots=True)
class SettlementsParameters:
    """Whose reports, of which day."""

    shard: Annotated[
        str | None, Rule("name of a region chain, such as NOR", CHAIN_NAME, example="NOR")
    ] = None
    day: Annotated[int | None, Rule("Bangkok date of the reports", day(), example="2026-03-16")] = (
        None
    )
    limit: PageLimit = 50
    cursor: PageCursor = b""


@dataclass(frozen=True, slots=True)
class TransferParameters:
    """One transfer."""

    id: Annotated[bytes, Rule("id of the transaction that ordered it", _HASH, example=HASH_EXAMPLE)]


@dataclass(frozen=True, slots=True)
class TransfersParameters:
    """One transfer, or those of an account on a chain."""

    id: Annotated[bytes | None, Rule("id of one transfer", _HASH, example=HASH_EXAMPLE)] = None
    address: Annotated[
        bytes | None,
        Rule("account that sent or is to get", address(), example=ADDRESS_EXAMPLE),
    ] = None
    chain: ChainName = None
    limit: PageLimit = 50
    cursor: PageCursor = b""


def list_shards(context: Context, _asked: NoParameters) -> ShardList:
    status = context.national()
    rows = (
        _in_short(context, status, checkpoints.region_of(status.view, region.name))
        for region in status.spec.genesis.chains
    )
    return ShardList(
        chain=status.spec.name,
        height=status.head.height,
        chain_id=status.spec.chain_id,
        items=tuple(ShardRow(**row) for row in rows),
    )


def get_shard(context: Context, asked: ShardParameters) -> ShardDetail:
    status = context.national()
    region = checkpoints.region_of(status.view, asked.id)
    spec = context.handle.genesis.chain(region.name)
    return ShardDetail(
        chain=status.spec.name,
        height=status.head.height,
        **_in_short(context, status, region),
        chain_id=region.chain_id,
        genesis_id=region.genesis_id,
        territories=tuple(territory.prefix for territory in spec.territories),
        authorities=tuple(
            ShardAuthority(
                organisation=entry.organisation,
                public_key=entry.public_key,
                weight=entry.weight,
                suspended=entry.suspended,
            )
            for entry in authorities_of(status.view, region.name)
        ),
        set_on_its_way=region.ordered is not None,
        reported=region.reported,
        incarnations=tuple(checkpoints.incarnations_of(status.view, region.name)),
        lost=region.lost,
        today=_today(status, region),
    )


def get_checkpoints(context: Context, asked: CheckpointsParameters) -> CheckpointPage:
    """Newest first; from each the region could go on, at the price of what has left it since."""
    status = context.national()
    region = checkpoints.region_of(status.view, asked.id)
    prefix = region.name.encode() + b"\x00"
    known = [
        (int.from_bytes(key[len(prefix) :], "big"), one)
        for key, one in CHECKPOINTS.items(status.view, prefix)
    ]
    cursor = asked.cursor
    if cursor and len(cursor) != 8:
        raise ApiError(ErrorCode.MALFORMED, "this cursor does not come from this list")
    below = int.from_bytes(cursor, "big") if cursor else region.height + 1
    page = [(height, one) for height, one in reversed(known) if height < below]
    page = page[: asked.limit]
    following = u64(page[-1][0]) if page and page[-1][0] > known[0][0] else None
    return CheckpointPage(
        chain=status.spec.name,
        height=status.head.height,
        shard=region.name,
        items=tuple(_checkpoint(status, region, *one) for one in page),
        next_cursor=format_cursor(following),
    )


def _checkpoint(
    status: ChainStatus, region: Region, height: int, one: KnownCheckpoint
) -> CheckpointRow:
    """`why_not` is null where the region could go on from it."""
    why_not = None
    try:
        check_base(status.view, region.name, height, one.hash)
    except Rejected as error:
        why_not = error.detail
    return CheckpointRow(
        height=height,
        hash=one.hash,
        messages_taken=one.inbox_next,
        messages_sent=one.outbox_count,
        lost=None if why_not else lost_since(status.view, region.name, one),
        why_not=why_not,
    )


def _today(status: ChainStatus, region: Region) -> ShardToday:
    """What has left the region in the national chain's day, and how much may."""
    day = local_day(status.head.market_ms)
    return ShardToday(
        date=format_day(day),
        sent=region.sent if region.sent_day == day else Escrow(),
        limits=checkpoints.parameters(status.view),
    )


def get_receipts(context: Context, asked: TransfersParameters) -> TransferPage:
    """One transfer by its id, or those of an account on one chain, newest first."""
    wanted, who = asked.id, asked.address
    if wanted is not None and who is None:
        return TransferPage(chain=None, items=(_transfer(context, wanted),), next_cursor=None)
    if who is None or wanted is not None:
        raise invalid_params("shard_getReceipts needs either id or address")
    status = context.chain(asked.chain)
    page = index.list_transfers(status.view, who, asked.limit, asked.cursor)
    return TransferPage(
        chain=status.spec.name,
        items=tuple(_transfer(context, one) for one in dict.fromkeys(page.ids)),
        next_cursor=format_cursor(page.next_place),
    )


def get_transfer(context: Context, asked: TransferParameters) -> TransferDetail:
    return _transfer(context, asked.id)


def get_settlements(context: Context, asked: SettlementsParameters) -> FiledReportPage:
    status = context.national()
    shard = asked.shard
    if shard is not None:
        checkpoints.region_of(status.view, shard)
    records, following = index.list_filed(
        status.view, asked.limit, asked.cursor, region=shard, day=asked.day
    )
    return FiledReportPage(
        chain=status.spec.name,
        height=status.head.height,
        items=tuple(
            FiledReport(
                shard=one.event.region,
                territory=one.event.territory,
                day=one.event.day,
                date=format_day(one.event.day),
                report_hash=one.event.report_hash,
                height=one.when.height,
                time_ms=one.when.time_ms,
                market_ms=one.when.market_ms,
            )
            for one in records
        ),
        next_cursor=format_cursor(following),
    )


# -- Regions ---------------------------------------------------------------------------------------


def _in_short(context: Context, status: ChainStatus, region: Region) -> dict[str, Any]:
    """Fields of a `ShardRow`.

    `queue_down` waits for the region; `queue_up` is what it sent and nobody brought here yet, known
    where the region is followed.
    """
    followed = context.chains().get(region.name)
    sent = log_to(status.view, region.name).count
    up = None
    if followed is not None:
        up = log_to(followed.view, status.spec.name).count - region.outbox_count
    sync = None
    if followed is not None:
        sync = ShardSync(
            state=followed.sync_state,
            incarnation=followed.spec.incarnation,
            target=followed.sync_target,
            stopped_because=followed.stopped_because or None,
        )
    return {
        "shard": region.name,
        "status": region.status(status.head.height),
        "incarnation": region.incarnation,
        "held_by": region.held_by or None,
        "followed": followed is not None,
        "sync": sync,
        "head": None if followed is None else followed.head.height,
        "checkpoint": LastCheckpoint(
            height=region.height,
            hash=region.hash,
            seen_height=region.seen_height,
            age_blocks=status.head.height - region.seen_height,
            paused_after_blocks=PAUSED_AFTER_BLOCKS,
        ),
        "queue_down": sent - region.inbox_next,
        "queue_up": None if up is None else max(0, up),
        "sent_down": sent,
        "taken_up": region.outbox_count,
        "escrow": region.escrow,
        "authority_nodes": len(region.validators.members),
    }


# -- Transfers -------------------------------------------------------------------------------------


def _transfer(context: Context, transfer_id: bytes) -> TransferDetail:
    """Errors: TX_NOT_FOUND where no followed chain knows it."""
    statuses = list(context.chains().values())
    steps: _Steps = [
        (status, record)
        for status in statuses
        for record in index.find_transfer(status.view, transfer_id)
    ]
    if not steps:
        return _waiting(context, statuses, transfer_id)
    told = [record.event for _, record in steps]
    reason = next(
        (one.reason for one in told if isinstance(one, TransferReturned | TransferReturning)), None
    )
    is_returned = any(isinstance(one, TransferReturned) for one in told)
    is_credited = any(isinstance(one, TransferCredited) for one in told)
    state: TransferState = "in_flight"
    if is_returned:
        state = "bounced"
    elif is_credited or (reason is None and _was_taken(context, steps)):
        state = "credited"
    elif any(STRANDED.get(one.view, transfer_id) for one in statuses):
        state = "stranded"
    return TransferDetail(
        transfer_id=transfer_id,
        status=state,
        reason=reason,
        **_facts(steps),
        steps=tuple(
            TransferStep(
                chain=status.spec.name,
                height=record.when.height,
                time_ms=record.when.time_ms,
                market_ms=record.when.market_ms,
                event=record.event,
            )
            for status, record in sorted(steps, key=_order)
        ),
        error=None,
    )


def _order(step: tuple[ChainStatus, TransferRecord]) -> tuple[int, int]:
    """On its way: chains' times may differ by more than a step takes."""
    record = step[1]
    return index.stage_of(record.event), record.when.time_ms


def _waiting(
    context: Context, statuses: Sequence[ChainStatus], transfer_id: bytes
) -> TransferDetail:
    """A transfer that no block of these views has yet, if this node knows it."""
    for status in statuses:
        name = status.spec.name
        known = context.handle.pending_status(name, transfer_id)
        if known is None or status.view.place_of(transfer_id) is not None:
            continue  # In a block that sent nothing to another chain, it is no transfer.
        refused = known if isinstance(known, Rejected) else None
        facts: dict[str, Any] = {**dict.fromkeys(_FACTS), "origin": name}
        return TransferDetail(
            transfer_id=transfer_id,
            status="refused" if refused else "pending",
            reason=refused.detail if refused else None,
            **facts,
            steps=(),
            error=ApiError.of(refused).to_failure() if refused else None,
        )
    names = ", ".join(status.spec.name for status in statuses)
    detail = f"no transfer {transfer_id.hex()} on {names}"
    hint = "a transfer's id is that of the transaction which ordered it"
    raise ApiError(ErrorCode.TX_NOT_FOUND, detail, hint=hint)


def _facts(steps: _Steps) -> dict[str, Any]:
    """What the events say of the transfer; None for what the followed chains do not tell."""
    facts: dict[str, Any] = dict.fromkeys(_FACTS)
    for status, record in steps:
        own = {name: getattr(record.event, name, None) for name in _FACTS}
        if isinstance(record.event, TransferSent | TransferReturned):
            own["origin"] = status.spec.name
        elif isinstance(record.event, TransferCredited):
            own["destination"] = status.spec.name
        for name in _FACTS:
            facts[name] = own[name] if facts[name] is None else facts[name]
    return facts


def _was_taken(context: Context, steps: _Steps) -> bool:
    """Whether the national chain knows that the destination took the message and sent no return.

    A checkpoint that names a message as taken brings the return, if there is one, along. A
    destination that is followed here says itself what it did: it may be a block behind.
    """
    for status, record in steps:
        if not status.spec.is_national or not isinstance(
            record.event, TransferSent | TransferRouted
        ):
            continue
        if record.event.destination in context.chains():
            continue
        region = REGIONS.get(status.view, record.event.destination.encode())
        if region is not None and region.inbox_next > record.event.nonce:
            return True
    return False


_FACTS = ("origin", "destination", "sender", "to", "asset", "amount")
METHODS = (
    Method(
        "shard_list",
        list_shards,
        "All region chains as the national chain sees them: status, checkpoint, queues, escrow.",
        routes=(Route("GET", "/shards"),),
        cost=5,
    ),
    Method(
        "shard_get",
        get_shard,
        "A region chain: also its authorities, territories and incarnations, what it has reported, "
        "what was lost with histories that are void, and what has left it today.",
        routes=(Route("GET", "/shards/{id}"),),
        cost=5,
    ),
    Method(
        "shard_getCheckpoints",
        get_checkpoints,
        "Blocks of a region that the national chain has accepted, newest first: what a vote on its "
        "reincarnation may name, and what would be lost.",
        routes=(Route("GET", "/shards/{id}/checkpoints"),),
        cost=20,
    ),
    Method(
        "shard_getSettlements",
        get_settlements,
        "Hashes of settlement reports that regions have filed with the national chain, newest "
        "first; of one region or one day.",
        routes=(Route("GET", "/settlements"),),
        cost=5,
    ),
    Method(
        "shard_getTransfer",
        get_transfer,
        "Where a transfer between chains is: pending, in_flight, credited, bounced; and its steps.",
        routes=(Route("GET", "/transfers/{id}"),),
        cost=2,
    ),
    Method(
        "shard_getReceipts",
        get_receipts,
        "Transfers between chains of an account on one chain, newest first; or one by its id.",
        routes=(Route("GET", "/accounts/{address}/transfers"),),
        cost=20,
    ),
)
