"""The newest decided block of a chain here, with all that follows from it, as one frozen value.

The executor alone makes them and swaps them whole, so whoever holds one, on any thread, holds
things that belong together. Source: protocols/consensus.md 2.6.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from gridtokenx.chain.block import Header, decode_block
from gridtokenx.chain.commands import Environment
from gridtokenx.chain.genesis import ChainSpec
from gridtokenx.chain.state_tree import StateTree
from gridtokenx.chain.transition import Parent, environment, signing_set
from gridtokenx.chain.validator_sets import ScheduledSet, SetsAhead, sets_from
from gridtokenx.primitives.state import Overlay, Reader
from gridtokenx.runtime.stopping import Damaged
from gridtokenx.storage.database import BlockWrite, ChainStore, ChainView, StateReader
from gridtokenx.storage.index import load_totals
from gridtokenx.storage.totals import Totals

FINALITY_SAMPLES = 512


@dataclass(frozen=True, slots=True)
class Tip:
    """What the next block builds on.

    `spec`: that of the present incarnation. `certificate`: who decided the block, encoded; empty of
    the genesis. `sets`: those that sign it and all later blocks, as far as they are ordered.
    `totals`: sums since the genesis. `view`: all that is stored as of the block, for any thread.
    `finality_ms`: how long the newest blocks took from their time until they were decided here.
    """

    spec: ChainSpec
    parent: Parent
    proposer_index: int
    certificate: bytes
    sets: SetsAhead
    totals: Totals
    view: ChainView = field(compare=False, repr=False)
    finality_ms: tuple[int, ...] = ()

    @property
    def height(self) -> int:
        """Of the newest block; 0 of the genesis."""
        return self.parent.height

    @property
    def hash(self) -> bytes:
        """Of the newest block."""
        return self.parent.hash

    @property
    def next_set(self) -> ScheduledSet:
        """Who signs the next block."""
        return self.sets.at(self.parent.height + 1)

    @property
    def market_ms(self) -> int:
        """The market's time at the newest block, Unix ms."""
        return self.spec.market_time_ms(self.parent.height, self.parent.time_ms)

    @property
    def opens_ms(self) -> int:
        """When the next height opens, Unix ms."""
        return self.spec.opens_ms(self.parent.time_ms)

    def next_time_ms(self, now_ms: int) -> int:
        """The next block's time if it were built now, Unix ms."""
        return max(self.opens_ms, now_ms)

    def next_environment(self, now_ms: int) -> Environment:
        """The next block's environment if its first member built it now."""
        spec = self.spec.at(self.parent.height + 1)
        return environment(spec, self.next_set, self.parent, 0, self.next_time_ms(now_ms))

    def then(
        self,
        header: Header,
        certificate: bytes,
        totals: Totals,
        *,
        state: Reader,
        view: ChainView,
        finality_ms: int | None,
    ) -> Tip:
        """The tip after another block, with the state after it; None: no sample of finality."""
        fresh = _sets(self.spec, state, header.height)
        samples = self.finality_ms
        if finality_ms is not None:
            samples = (*samples, finality_ms)[-FINALITY_SAMPLES:]
        return replace(
            self,
            parent=Parent(header.height, header.hash, header.time_ms, header.state_root),
            proposer_index=header.proposer_index,
            certificate=certificate,
            # The same object while nothing changes: it remembers its leaders.
            sets=self.sets if fresh.scheduled == self.sets.scheduled else fresh,
            totals=totals,
            view=view,
            finality_ms=samples,
        )


def install_genesis(
    spec: ChainSpec, store: ChainStore, reader: StateReader, tree: StateTree
) -> None:
    """Begin a chain in an empty store. `reader` and `tree`, of its state, are empty, too."""
    overlay = Overlay(reader)
    spec.install(overlay)
    changes = overlay.changes()
    update = tree.update(changes)
    store.write_block(
        BlockWrite(
            height=0,
            hash=spec.genesis_id,
            block=b"",
            certificate=b"",
            transaction_ids=(),
            state=changes,
        )
    )
    tree.apply(update)
    reader.absorb(overlay.changed())


def load_tip(spec: ChainSpec, store: ChainStore, state: Reader, state_root: bytes) -> Tip:
    """The tip of a stored chain, whose state hashes to `state_root`.

    Errors: Damaged where that is not the newest header's, or the store is another chain's.
    """
    head = store.head()
    if head is None:
        raise Damaged(f"GTX-DB-003: the data folder has no genesis of {spec.name}")
    height, block_hash = head
    if height == 0:
        _check_genesis(spec, block_hash)
        parent, proposer_index = Parent(0, block_hash, spec.genesis.genesis_time_ms, state_root), 0
    else:
        header = _load_header(spec, store, height, block_hash)
        if header.state_root != state_root:
            raise Damaged(
                f"GTX-DB-003: the state of {spec.name} hashes to {state_root.hex()[:16]},"
                f" block {height} says {header.state_root.hex()[:16]}; restore a backup or start "
                "with an empty data folder"
            )
        parent = Parent(height, block_hash, header.time_ms, state_root)
        proposer_index = header.proposer_index
    certificate = store.certificate(height) or b""
    sets = _sets(spec, state, height)
    return Tip(spec, parent, proposer_index, certificate, sets, load_totals(store), store.view())


def _check_genesis(spec: ChainSpec, block_hash: bytes) -> None:
    ours = spec.genesis_id
    if block_hash != ours:
        raise Damaged(
            f"GTX-DB-003: the data folder belongs to another {spec.name} chain: "
            f"its genesis is {block_hash.hex()[:16]}, ours {ours.hex()[:16]}"
        )


def _load_header(spec: ChainSpec, store: ChainStore, height: int, block_hash: bytes) -> Header:
    raw = store.block(height)
    header = decode_block(raw).header if raw else None
    chain_id = spec.at(height).chain_id
    if header is None or header.hash != block_hash or header.chain_id != chain_id:
        raise Damaged(f"GTX-DB-003: block {height} of {spec.name} is not readable")
    return header


def _sets(spec: ChainSpec, state: Reader, height: int) -> SetsAhead:
    """The sets that sign block `height`, the newest, and all later ones.

    Where an incarnation begins with the next block, its members sign it, and nothing that was
    ordered before counts.
    """
    ahead = sets_from(state, height, spec.genesis.epoch_blocks)
    if spec.born_at(height + 1) is None:
        return ahead
    past = tuple(one for one in ahead.scheduled if one.first_height <= height)
    born = signing_set(spec, state, height + 1)
    return SetsAhead((*past, born), ahead.epoch_blocks)
