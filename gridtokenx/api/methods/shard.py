"""Methods about the chains together: regions as the national chain sees them, what they have
filed, and transfers.

A node that does not follow a region still knows from the national chain what became of a transfer
to it: whether the region took it, and whether it came back.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gridtokenx.api.context import Context
from gridtokenx.api.documents import document
from gridtokenx.api.errors import ApiError, invalid_params
from gridtokenx.api.kinds import address, day, format_cursor, format_day, hex_bytes
from gridtokenx.api.table import CHAIN, CURSOR, LIMIT, Arguments, Method, Param, Route, shape
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
from gridtokenx.primitives.types import format_address
from gridtokenx.storage import index as history
from gridtokenx.storage.index import TransferRecord
from gridtokenx.views.status import ChainStatus

_Steps = list[tuple[ChainStatus, TransferRecord]]


def list_shards(context: Context, _arguments: Arguments) -> dict[str, Any]:
    status = context.national()
    return {
        **_as_of(status),
        "chain_id": status.spec.chain_id.hex(),
        "items": [
            _region_document(context, status, checkpoints.region_of(status.view, region.name))
            for region in status.spec.genesis.chains
        ],
    }


def get_shard(context: Context, arguments: Arguments) -> dict[str, Any]:
    status = context.national()
    region = checkpoints.region_of(status.view, arguments["id"])
    spec = context.handle.genesis.chain(region.name)
    entries = authorities_of(status.view, region.name)
    return {
        **_as_of(status),
        **_region_document(context, status, region),
        "chain_id": region.chain_id.hex(),
        "genesis_id": region.genesis_id.hex(),
        "territories": [territory.prefix for territory in spec.territories],
        "authorities": [
            {
                "organisation": entry.organisation,
                "public_key": format_address(entry.public_key),
                "weight": str(entry.weight),
                "suspended": entry.suspended,
            }
            for entry in entries
        ],
        "set_on_its_way": region.ordered is not None,
        "reported": document(region.reported),
        "incarnations": [
            document(one) for one in checkpoints.incarnations_of(status.view, region.name)
        ],
        "lost": document(region.lost),
        "today": _today(status, region),
    }


def get_checkpoints(context: Context, arguments: Arguments) -> dict[str, Any]:
    """Newest first; from each the region could go on, at the price of what has left it since."""
    status = context.national()
    region = checkpoints.region_of(status.view, arguments["id"])
    prefix = region.name.encode() + b"\x00"
    known = [
        (int.from_bytes(key[len(prefix) :], "big"), one)
        for key, one in CHECKPOINTS.items(status.view, prefix)
    ]
    cursor = arguments["cursor"]
    if cursor and len(cursor) != 8:
        raise ApiError(ErrorCode.MALFORMED, "this cursor does not come from this list")
    below = int.from_bytes(cursor, "big") if cursor else region.height + 1
    page = [(height, one) for height, one in reversed(known) if height < below]
    page = page[: arguments["limit"]]
    following = u64(page[-1][0]) if page and page[-1][0] > known[0][0] else None
    return {
        **_as_of(status),
        "shard": region.name,
        "items": [_checkpoint_document(status, region, *one) for one in page],
        "next_cursor": format_cursor(following),
    }


def _checkpoint_document(
    status: ChainStatus, region: Region, height: int, one: KnownCheckpoint
) -> dict[str, Any]:
    """`why_not` is null where the region could go on from it."""
    why_not = None
    try:
        check_base(status.view, region.name, height, one.hash)
    except Rejected as error:
        why_not = error.detail
    return {
        "height": str(height),
        "hash": one.hash.hex(),
        "messages_taken": str(one.inbox_next),
        "messages_sent": str(one.outbox_count),
        "lost": None if why_not else document(lost_since(status.view, region.name, one)),
        "why_not": why_not,
    }


def _today(status: ChainStatus, region: Region) -> dict[str, Any]:
    """What has left the region in the national chain's day, and how much may."""
    day = local_day(status.head.market_ms)
    sent = region.sent if region.sent_day == day else Escrow()
    limits = checkpoints.parameters(status.view)
    return {"date": format_day(day), "sent": document(sent), "limits": document(limits)}


def get_receipts(context: Context, arguments: Arguments) -> dict[str, Any]:
    """One transfer by its id, or those of an account on one chain, newest first."""
    wanted, who = arguments["id"], arguments["address"]
    if (wanted is None) == (who is None):
        raise invalid_params("shard_getReceipts needs either id or address")
    if wanted is not None:
        items, following, chain = [_transfer(context, wanted)], None, None
    else:
        status = context.chain(arguments["chain"])
        page = history.list_transfers(status.view, who, arguments["limit"], arguments["cursor"])
        ids = list(dict.fromkeys(page.ids))
        items, following = [_transfer(context, one) for one in ids], page.next_place
        chain = status.spec.name
    return {"chain": chain, "items": items, "next_cursor": format_cursor(following)}


def get_transfer(context: Context, arguments: Arguments) -> dict[str, Any]:
    return _transfer(context, arguments["id"])


def get_settlements(context: Context, arguments: Arguments) -> dict[str, Any]:
    status = context.national()
    shard = arguments["shard"]
    if shard is not None:
        checkpoints.region_of(status.view, shard)
    records, following = history.list_filed(
        status.view,
        arguments["limit"],
        arguments["cursor"],
        region=shard,
        day=arguments["day"],
    )
    return {
        **_as_of(status),
        "items": [
            {
                "shard": one.event.region,
                "territory": one.event.territory,
                "day": str(one.event.day),
                "date": format_day(one.event.day),
                "report_hash": one.event.report_hash.hex(),
                "height": str(one.when.height),
                "time_ms": str(one.when.time_ms),
                "market_ms": str(one.when.market_ms),
            }
            for one in records
        ],
        "next_cursor": format_cursor(following),
    }


# -- Regions ---------------------------------------------------------------------------------------


def _region_document(context: Context, status: ChainStatus, region: Region) -> dict[str, Any]:
    """`queue_down` waits for the region; `queue_up` is what it sent and nobody brought here yet,
    known where the region is followed.
    """
    followed = context.chains().get(region.name)
    sent = log_to(status.view, region.name).count
    up = None
    if followed is not None:
        up = log_to(followed.view, status.spec.name).count - region.outbox_count
    silent = status.head.height - region.seen_height
    state = region.status(status.head.height)
    return {
        "shard": region.name,
        "status": state.value,
        "incarnation": region.incarnation,
        "held_by": str(region.held_by) if region.held_by else None,
        "followed": followed is not None,
        "sync": None
        if followed is None
        else {
            "state": followed.sync_state,
            "incarnation": followed.spec.incarnation,
            "target": str(followed.sync_target),
            "stopped_because": followed.stopped_because or None,
        },
        "head": None if followed is None else str(followed.head.height),
        "checkpoint": {
            "height": str(region.height),
            "hash": region.hash.hex(),
            "seen_height": str(region.seen_height),
            "age_blocks": str(silent),
            "paused_after_blocks": PAUSED_AFTER_BLOCKS,
        },
        "queue_down": sent - region.inbox_next,
        "queue_up": None if up is None else max(0, up),
        "sent_down": str(sent),
        "taken_up": str(region.outbox_count),
        "escrow": document(region.escrow),
        "authority_nodes": len(region.validators.members),
    }


# -- Transfers -------------------------------------------------------------------------------------


def _transfer(context: Context, transfer_id: bytes) -> dict[str, Any]:
    """Errors: TX_NOT_FOUND where no followed chain knows it."""
    statuses = list(context.chains().values())
    steps: _Steps = [
        (status, record)
        for status in statuses
        for record in history.find_transfer(status.view, transfer_id)
    ]
    if not steps:
        return _waiting(context, statuses, transfer_id)
    told = [record.event for _, record in steps]
    facts = _facts(steps)
    reason = next(
        (one.reason for one in told if isinstance(one, TransferReturned | TransferReturning)), None
    )
    is_returned = any(isinstance(one, TransferReturned) for one in told)
    is_credited = any(isinstance(one, TransferCredited) for one in told)
    state = "in_flight"
    if is_returned:
        state = "bounced"
    elif is_credited or (reason is None and _was_taken(context, steps)):
        state = "credited"
    elif any(STRANDED.get(one.view, transfer_id) for one in statuses):
        state = "stranded"
    return {
        "transfer_id": transfer_id.hex(),
        "status": state,
        "reason": reason,
        **facts,
        "steps": [
            {
                "chain": status.spec.name,
                "height": str(record.when.height),
                "time_ms": str(record.when.time_ms),
                "market_ms": str(record.when.market_ms),
                "event": document(record.event),
            }
            for status, record in sorted(steps, key=_order)
        ],
        "error": None,
    }


def _order(step: tuple[ChainStatus, TransferRecord]) -> tuple[int, int]:
    """On its way: chains' times may differ by more than a step takes."""
    record = step[1]
    return history.stage_of(record.event), record.when.time_ms


def _waiting(
    context: Context, statuses: Sequence[ChainStatus], transfer_id: bytes
) -> dict[str, Any]:
    """A transfer that no block of these views has yet, if this node knows it."""
    for status in statuses:
        name = status.spec.name
        known = context.handle.pending_status(name, transfer_id)
        if known is None or status.view.place_of(transfer_id) is not None:
            continue  # In a block that sent nothing to another chain, it is no transfer.
        is_refused = isinstance(known, Rejected)
        return {
            "transfer_id": transfer_id.hex(),
            "status": "refused" if is_refused else "pending",
            "reason": known.detail if isinstance(known, Rejected) else None,
            **dict.fromkeys(_FACTS),
            "origin": name,
            "steps": [],
            "error": ApiError.of(known).to_rpc() if isinstance(known, Rejected) else None,
        }
    names = ", ".join(status.spec.name for status in statuses)
    detail = f"no transfer {transfer_id.hex()} on {names}"
    hint = "a transfer's id is that of the transaction which ordered it"
    raise ApiError(ErrorCode.TX_NOT_FOUND, detail, hint=hint)


def _facts(steps: _Steps) -> dict[str, Any]:
    """What the events say of the transfer; null for what the followed chains do not tell."""
    facts: dict[str, Any] = dict.fromkeys(_FACTS)
    for status, record in steps:
        fields = document(record.event)
        if isinstance(record.event, TransferSent | TransferReturned):
            fields["origin"] = status.spec.name
        elif isinstance(record.event, TransferCredited):
            fields["destination"] = status.spec.name
        for name in _FACTS:
            if facts[name] is None and name in fields:
                facts[name] = fields[name]
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


def _as_of(status: ChainStatus) -> dict[str, Any]:
    return {"chain": status.spec.name, "height": str(status.head.height), "finalized": True}


_FACTS = ("origin", "destination", "sender", "to", "asset", "amount")
_HASH = hex_bytes(32, exactly=True)
_HEAD = {"chain": "text", "height": "decimal", "finalized": "bool"}
_REGION = {
    "shard": "text",
    "status": "text",
    "incarnation": "number",
    "held_by": "decimal?",
    "followed": "bool",
    "sync": "object?",
    "head": "decimal?",
    "checkpoint": "object",
    "queue_down": "number",
    "queue_up": "number?",
    "sent_down": "decimal",
    "taken_up": "decimal",
    "escrow": "object",
    "authority_nodes": "number",
}

_ID = Param("id", CHAIN.kind, "name of the region chain, such as NOR", required=True)

METHODS = (
    Method(
        "shard_list",
        list_shards,
        "All region chains as the national chain sees them: status, checkpoint, queues, escrow.",
        shape(**_HEAD, chain_id="hex", items="list"),
        (),
        (Route("GET", "/shards"),),
        cost=5,
    ),
    Method(
        "shard_get",
        get_shard,
        "A region chain: also its authorities, territories and incarnations, what it has reported, "
        "what was lost with histories that are void, and what has left it today.",
        shape(
            **_HEAD,
            **_REGION,
            chain_id="hex",
            genesis_id="hex",
            territories="list",
            authorities="list",
            set_on_its_way="bool",
            reported="object",
            incarnations="list",
            lost="object",
            today="object",
        ),
        (_ID,),
        (Route("GET", "/shards/{id}"),),
        cost=5,
    ),
    Method(
        "shard_getCheckpoints",
        get_checkpoints,
        "Blocks of a region that the national chain has accepted, newest first: what a vote on its "
        "reincarnation may name, and what would be lost.",
        shape(**_HEAD, shard="text", items="list", next_cursor="text?"),
        (_ID, LIMIT, CURSOR),
        (Route("GET", "/shards/{id}/checkpoints"),),
        cost=20,
    ),
    Method(
        "shard_getSettlements",
        get_settlements,
        "Hashes of settlement reports that regions have filed with the national chain, newest "
        "first; of one region or one day.",
        shape(**_HEAD, items="list", next_cursor="text?"),
        (
            Param("shard", CHAIN.kind, "name of a region chain, such as NOR"),
            Param("day", day(), "Bangkok date of the reports"),
            LIMIT,
            CURSOR,
        ),
        (Route("GET", "/settlements"),),
        cost=5,
    ),
    Method(
        "shard_getTransfer",
        get_transfer,
        "Where a transfer between chains is: pending, in_flight, credited, bounced; and its steps.",
        shape(
            transfer_id="hex",
            status="text",
            reason="text?",
            **dict.fromkeys(_FACTS, "text?"),
            steps="list",
            error="object?",
        ),
        (Param("id", _HASH, "id of the transaction that ordered it", required=True),),
        (Route("GET", "/transfers/{id}"),),
        cost=2,
    ),
    Method(
        "shard_getReceipts",
        get_receipts,
        "Transfers between chains of an account on one chain, newest first; or one by its id.",
        shape(chain="text?", items="list", next_cursor="text?"),
        (
            Param("id", _HASH, "id of one transfer"),
            Param("address", address(), "account that sent or is to get"),
            CHAIN,
            LIMIT,
            CURSOR,
        ),
        (Route("GET", "/accounts/{address}/transfers"),),
        cost=20,
    ),
)
