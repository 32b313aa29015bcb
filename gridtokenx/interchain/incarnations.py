"""How a frozen, dead or captured region goes on: by a vote, from a certified block of its past.

A region goes on from a checkpoint that the national chain has accepted, so both ends of both logs
are known: what the block had taken is taken, what it had sent is sent, messages to the region that
came later are delivered again, and later blocks are void. From the newest checkpoint nothing is
lost. From an earlier one, which is what a region needs whose authorities certified what the rules
forbid, whatever had left meanwhile stays where it is and comes back to its senders too: that is
counted in `Region.lost`. Source: protocols/interchain.md 7, decision 0015.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from gridtokenx.interchain.checkpoints import (
    Home,
    changed,
    incarnations_of,
    newest_of,
    region_of,
    send_order,
)
from gridtokenx.interchain.log import log_to
from gridtokenx.interchain.model import (
    CHECKPOINTS,
    INCARNATIONS,
    QUEUE,
    REGIONS,
    Acknowledgement,
    AuthorityMember,
    Bounced,
    Credit,
    Escrow,
    Incarnation,
    KnownCheckpoint,
    Region,
    RegionReborn,
    RegionStatus,
    RegionStatusChanged,
    is_void,
    row_key,
)
from gridtokenx.primitives.crypto import tagged_hash
from gridtokenx.primitives.errors import ErrorCode, Rejected
from gridtokenx.primitives.state import Overlay, Reader, u64
from gridtokenx.primitives.validators import Validator, ValidatorSet


def incarnation_id(former_id: bytes, number: int, header_hash: bytes) -> bytes:
    """The chain id of a region that goes on from the header with this hash."""
    return tagged_hash("gtx.incarnation", former_id, u64(number), header_hash)


def hold(state: Overlay, name: str, proposal: int, height: int) -> list[RegionStatusChanged]:
    """Let nothing pass to or from a region while a vote on its reincarnation runs.

    Errors: UNKNOWN_SHARD; DUPLICATE while another vote holds it.
    """
    region = region_of(state, name)
    if region.held_by:
        detail = f"{name} is held by the vote on proposal {region.held_by}; wait for its end"
        raise Rejected(ErrorCode.DUPLICATE, detail)
    REGIONS.put(state, name.encode(), replace(region, held_by=proposal))
    return _told(region, replace(region, held_by=proposal), height)


def release(state: Overlay, name: str, proposal: int, height: int) -> list[RegionStatusChanged]:
    """End what `hold` began, where this very vote did."""
    region = region_of(state, name)
    if region.held_by != proposal:
        return []
    freed = replace(region, held_by=0)
    REGIONS.put(state, name.encode(), freed)
    return _told(region, freed, height)


def check_base(state: Reader, name: str, height: int, block_hash: bytes) -> KnownCheckpoint:
    """The checkpoint that a region may go on from. Its `validators` do not matter.

    Errors: UNKNOWN_SHARD; BLOCK_NOT_FOUND unless the national chain has accepted that block, or
    where messages that came after it are forgotten.
    """
    region = region_of(state, name)
    base = _known(state, region, height)
    if base is None or base.hash != block_hash:
        detail = (
            f"the national chain has accepted no block {height} of {name} with hash "
            f"{block_hash.hex()[:16]}; the newest one is {region.height} {region.hash.hex()[:16]}"
        )
        raise Rejected(ErrorCode.BLOCK_NOT_FOUND, detail)
    if base.inbox_next < log_to(state, name).forgotten:
        detail = (
            f"messages to {name} that block {height} had not taken are forgotten: too much has "
            "happened since; name a later block"
        )
        raise Rejected(ErrorCode.BLOCK_NOT_FOUND, detail)
    return base


def lost_since(state: Reader, name: str, base: KnownCheckpoint) -> Escrow:
    """What has left a region since a block of it and did not come back: after another beginning
    there its senders would have it too.
    """
    region = region_of(state, name)
    lost = _difference(region.left, base.left)
    for credit in _void_returns(state, region, base):
        lost = changed(lost, credit.asset, -credit.amount)
    return lost


def reincarnate(
    state: Overlay,
    name: str,
    base_height: int,
    base_hash: bytes,
    members: Sequence[AuthorityMember],
    *,
    proposal: int,
    home: Home,
    height: int,
) -> list[RegionReborn | RegionStatusChanged]:
    """Let a region go on from an accepted block as another chain, signed by `members`.

    Errors: those of `check_base`; NOT_ACTIVE unless the region is frozen or held by `proposal`.
    """
    region = region_of(state, name)
    if not region.frozen and region.held_by != proposal:
        raise Rejected(ErrorCode.NOT_ACTIVE, f"{name} is neither frozen nor held by this vote")
    base = check_base(state, name, base_height, base_hash)
    number = region.incarnation + 1
    chain_id = incarnation_id(region.chain_id, number, base_hash)
    in_order = tuple(sorted(members, key=lambda one: one.public_key))
    born = Incarnation(name, number, chain_id, base_height, base_hash, base.outbox_count, in_order)
    lost = lost_since(state, name, base)
    reborn = replace(
        region,
        chain_id=chain_id,
        incarnation=number,
        validators=ValidatorSet.of(Validator(one.public_key, one.weight) for one in in_order),
        ordered=None,
        height=base_height,
        hash=base_hash,
        outbox_count=base.outbox_count,
        outbox_head=base.outbox_head,
        inbox_next=base.inbox_next,
        seen_height=height,
        kept_checkpoints=region.kept_checkpoints - _forget_above(state, name, base_height),
        frozen=False,
        held_by=0,
        escrow=_escrow_from(region, base, lost),
        left=base.left,
        lost=_sum(region.lost, lost),
        reported=base.reported,
    )
    REGIONS.put(state, name.encode(), reborn)
    INCARNATIONS.put(state, row_key(name, number), born)
    # Those that tell of what is void do not count, so the region hears anew how far it was heard.
    heard = Acknowledgement(number, base.outbox_count)
    send_order(state, name, heard, home=home, height=height)
    return [RegionReborn(born, lost), *_told(region, reborn, height)]


def _known(state: Reader, region: Region, height: int) -> KnownCheckpoint | None:
    if height != region.height:
        return CHECKPOINTS.get(state, row_key(region.name, height))
    return newest_of(region, region.validators)


def _escrow_from(region: Region, base: KnownCheckpoint, lost: Escrow) -> Escrow:
    """All that the region's accounts and the messages on their way to it will hold again.

    What was brought there since is delivered again, what left is there again, and what was reported
    as made since was not made.
    """
    made_energy_wh = region.reported.energy_wh - base.reported.energy_wh
    made_thb_uthb = region.reported.thb_uthb - base.reported.thb_uthb
    return Escrow(
        region.escrow.energy_wh + lost.energy_wh - made_energy_wh,
        region.escrow.thb_uthb + lost.thb_uthb - made_thb_uthb,
        region.escrow.gtx_ugtx + lost.gtx_ugtx,
    )


def _void_returns(state: Reader, region: Region, base: KnownCheckpoint) -> list[Credit]:
    """Returns in the region's queue, from where it goes on, of what it sent in what becomes void.

    The region will pass them over, and those that were void before do not count again.
    """
    former, found = incarnations_of(state, region.name), []
    for nonce in range(base.inbox_next, log_to(state, region.name).count):
        queued = QUEUE.get(state, row_key(region.name, nonce))
        # A return of what never left the escrow changes nothing when it is passed over.
        if queued is None or not queued.origin_incarnation:
            continue
        sent = queued.origin_incarnation, queued.origin_nonce
        becomes_void = sent[1] >= base.outbox_count and not is_void(former, *sent)
        if becomes_void and isinstance(queued.message, Bounced):
            found.append(queued.message.credit)
    return found


def _forget_above(state: Overlay, name: str, height: int) -> int:
    """Drop what was accepted of the void history; how many that were."""
    prefix = name.encode() + b"\x00"
    last = row_key(name, height)
    void = [key for key, _ in CHECKPOINTS.items(state, prefix) if key > last]
    for key in void:
        CHECKPOINTS.delete(state, key)
    return len(void)


def _sum(a: Escrow, b: Escrow) -> Escrow:
    return Escrow(a.energy_wh + b.energy_wh, a.thb_uthb + b.thb_uthb, a.gtx_ugtx + b.gtx_ugtx)


def _difference(a: Escrow, b: Escrow) -> Escrow:
    return Escrow(a.energy_wh - b.energy_wh, a.thb_uthb - b.thb_uthb, a.gtx_ugtx - b.gtx_ugtx)


def _told(before: Region, after: Region, height: int) -> list[RegionStatusChanged]:
    was, status = before.status(height), after.status(height)
    if was is status:
        return []
    reasons = {
        RegionStatus.HELD: "a vote on its reincarnation runs",
        RegionStatus.ACTIVE: "it goes on",
        RegionStatus.FROZEN: "it has signed two chains",
        RegionStatus.PAUSED: "no checkpoint for 60 blocks",
    }
    return [RegionStatusChanged(after.name, status, reasons[status])]
