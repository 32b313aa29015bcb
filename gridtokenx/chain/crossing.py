"""How chains meet: what a region block takes of the national chain, and how the national chain
judges a region's header. Source: protocols/interchain.md 5, decision 0008.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from gridtokenx.chain.block import Block, Event, Header
from gridtokenx.chain.genesis import ChainSpec
from gridtokenx.chain.validator_sets import order_set
from gridtokenx.consensus.certificates import check_commit
from gridtokenx.consensus.messages import QuorumCertificate
from gridtokenx.governance import parameters as voted
from gridtokenx.grid import operation
from gridtokenx.grid.model import HaltTerritory, ResumeTerritory
from gridtokenx.interchain import checkpoints
from gridtokenx.interchain import rules as interchain
from gridtokenx.interchain.checkpoints import HeaderFacts, Home
from gridtokenx.interchain.log import outbox_root, total_count
from gridtokenx.interchain.model import (
    MAX_HEADER_BYTES,
    MAX_INBOX_MESSAGES,
    AuthorityOrder,
    Downward,
    HaltOrder,
    InterchainEvent,
    OperatorOrder,
    ParameterOrder,
    SubmitCheckpoint,
)
from gridtokenx.primitives.codec import decode
from gridtokenx.primitives.crypto import ZERO_HASH
from gridtokenx.primitives.errors import ErrorCode, Rejected
from gridtokenx.primitives.state import Overlay, Reader
from gridtokenx.primitives.validators import Validator, ValidatorSet
from gridtokenx.registry import rules as registry
from gridtokenx.trading import rules as trading

MAX_ROOT_LAG_BLOCKS = 6  # A fresh region block names a national block not older than this.
GOVERNANCE = "governance"


class NationalView(Protocol):
    """The national chain as this node has decided it. Read from a region's worker thread."""

    def head(self) -> tuple[int, bytes]:
        """(height, hash) of the newest decided block."""

    def hash_at(self, height: int) -> bytes | None:
        """Hash of a decided block, or None for one that is not here."""

    def messages(self, region: str, nonce: int, count: int, up_to_height: int) -> list[Downward]:
        """At most `count` messages of a region's queue from `nonce` on, as of a national height."""


@dataclass(frozen=True, slots=True)
class NationalSlice:
    """What a region block takes: the national block it names and the messages due by then."""

    root_height: int
    root_hash: bytes
    messages: tuple[Downward, ...]


def next_slice(view: NationalView | None, state: Reader, spec: ChainSpec) -> NationalSlice | None:
    """What the region's next block takes, by this node's own national chain. None: nothing new."""
    inbox = interchain.inbox_of(state)
    if view is None or inbox is None:
        return None
    height, block_hash = view.head()
    if height <= inbox.root_height:
        height, block_hash = inbox.root_height, inbox.root_hash
    return NationalSlice(height, block_hash, _due(view, spec.name, inbox.next, height))


def check_slice(view: NationalView | None, state: Reader, spec: ChainSpec, block: Block) -> bool:
    """The vote-time rule of a fresh region block; False while its national block is not here yet.

    Depends on this node's own data, so never for a block that already has a certificate: a quorum
    has judged it then. Errors: INVALID_BLOCK.
    """
    inbox = interchain.inbox_of(state)
    if inbox is None:
        return True
    if view is None:
        return False
    header = block.header
    # The national chain moves on while this runs: it is judged as it was at one moment.
    decided, _ = view.head()
    if header.root_height > decided:
        return False
    if header.root_height and view.hash_at(header.root_height) != header.root_hash:
        raise Rejected(ErrorCode.INVALID_BLOCK, "root_hash is not the national block's")
    if header.root_height < decided - MAX_ROOT_LAG_BLOCKS:
        detail = f"root_height {header.root_height} is stale, {decided} is decided"
        raise Rejected(ErrorCode.INVALID_BLOCK, detail)
    if block.inbox != _due(view, spec.name, inbox.next, header.root_height):
        raise Rejected(ErrorCode.INVALID_BLOCK, "the inbox is not what the queue has next")
    return True


def _due(view: NationalView, region: str, nonce: int, height: int) -> tuple[Downward, ...]:
    return interchain.take_due(view.messages(region, nonce, MAX_INBOX_MESSAGES, height))


def take_slice(
    state: Overlay, taken: NationalSlice | None, *, spec: ChainSpec, height: int, now_ms: int
) -> Sequence[Event]:
    """Consume what a region block takes. Errors: INVALID_BLOCK where that is not well-formed."""
    if taken is None:
        return []
    if interchain.inbox_of(state) is None:
        nothing = NationalSlice(0, ZERO_HASH, ())
        if taken != nothing:
            raise Rejected(ErrorCode.INVALID_BLOCK, f"{spec.name} takes no messages")
        return []
    if interchain.take_due(taken.messages) != taken.messages:
        raise Rejected(ErrorCode.INVALID_BLOCK, "the inbox is longer than one block may take")
    interchain.follow_root(state, taken.root_height, taken.root_hash)
    events, told = interchain.receive(
        state,
        taken.messages,
        place=spec.place,
        height=height,
        run_order=lambda attempt, order: _run_order(attempt, order, spec, height, now_ms),
    )
    return [*events, *told]


def _run_order(
    state: Overlay, order: interchain.Order, spec: ChainSpec, height: int, now_ms: int
) -> Sequence[Event]:
    """An order of the national chain on a region. Errors: the rules' own."""
    match order:
        case ParameterOrder(name, value):
            parameter = voted.find(name)
            if parameter.owner is not voted.Owner.MARKET:
                detail = f"{name} is no parameter of the market; {spec.name} has no other"
                raise Rejected(ErrorCode.UNKNOWN_PARAMETER, detail)
            voted.check_range(parameter, value)
            market = voted.with_value(trading.parameters(state), parameter, value)
            trading.set_parameters(state, market)
            return []
        case HaltOrder(territory, reason, duration_ms):
            registry.distributor_of(state, territory)  # UNKNOWN_ZONE for another chain's
            if not duration_ms:
                resume = ResumeTerritory(territory, reason)
                return operation.resume_territory(
                    state, resume, by=GOVERNANCE, by_regulator=True, now_ms=now_ms
                )
            halt = HaltTerritory(territory, reason, now_ms + duration_ms)
            return operation.halt_territory(
                state, halt, by=GOVERNANCE, by_regulator=True, now_ms=now_ms
            )
        case AuthorityOrder(incarnation, members):
            if incarnation != spec.incarnation:
                detail = f"ordered for incarnation {incarnation}, this is {spec.incarnation}"
                raise Rejected(ErrorCode.WRONG_CHAIN, detail)
            in_order = sorted(members, key=lambda one: one.public_key)
            ordered = order_set(
                state,
                ValidatorSet.of(Validator(one.public_key, one.weight) for one in in_order),
                [one.account for one in in_order],
                height=height,
                epoch_blocks=spec.genesis.epoch_blocks,
            )
            return [] if ordered is None else [ordered]
        case OperatorOrder(organisation, new_operator):
            return registry.rotate_operator(state, organisation, new_operator)


# -- Headers ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LogFields:
    """The header fields that messages determine."""

    outbox_root: bytes
    outbox_count: int
    inbox_next: int
    root_height: int
    root_hash: bytes


def log_fields(state: Reader) -> LogFields:
    """Of the chain's state after a block."""
    inbox = interchain.inbox_of(state)
    place = (0, 0, ZERO_HASH) if inbox is None else (inbox.next, inbox.root_height, inbox.root_hash)
    return LogFields(outbox_root(state), total_count(state), *place)


def facts_of(header: Header) -> HeaderFacts:
    """What the national chain needs of a region's header."""
    return HeaderFacts(
        header.chain_id,
        header.height,
        header.hash,
        header.set_hash,
        header.next_set_hash,
        header.outbox_root,
        header.outbox_count,
        header.inbox_next,
    )


def submit_checkpoint(
    state: Overlay, command: SubmitCheckpoint, *, spec: ChainSpec, height: int, now_ms: int
) -> list[InterchainEvent]:
    """Judge a region's header on the national chain.

    Errors: MALFORMED, and those of `checkpoints.checkpoint`.
    """
    header = decode(Header, command.header, MAX_HEADER_BYTES)
    certificate = decode(QuorumCertificate, command.certificate)

    def verify(signers: ValidatorSet) -> None:
        check_commit(certificate, header.chain_id, header.height, header.hash, signers)

    return checkpoints.checkpoint(
        state,
        command.region,
        facts_of(header),
        command.messages,
        verify=verify,
        home=home_of(spec, registry.payment_authority(state) or b""),
        height=height,
        now_ms=now_ms,
    )


def home_of(spec: ChainSpec, payment_authority: bytes = b"") -> Home:
    """The national chain, for its own rules."""
    return Home(spec.name, spec.genesis_id, payment_authority)


def reports_closed(
    state: Overlay, closed: Sequence[tuple[str, int, bytes]], *, spec: ChainSpec, height: int
) -> None:
    """Send the hashes of (territory, day, hash) reports that a region block closed."""
    if interchain.inbox_of(state) is None:
        return
    for territory, day, report_hash in closed:
        interchain.file_settlement(
            state, territory, day, report_hash, place=spec.place, height=height
        )
