"""The chain the simulated validators agree on: small, but with all the ways a block can be bad.

A block has a parent, a time, a state root, evidence and maybe an ordered change of the validator
set. Executing it is a hash. Signatures are toys unless the world is asked for real ones.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property

from gridtokenx.chain.validator_sets import (
    current_set,
    epoch_start,
    install_set,
    order_set,
    refuse_change,
    sets_from,
)
from gridtokenx.consensus.certificates import Verify
from gridtokenx.consensus.evidence import Evidence, verify_evidence
from gridtokenx.consensus.messages import QuorumCertificate
from gridtokenx.primitives.crypto import SigningKey, sha256
from gridtokenx.primitives.crypto import verify as verify_ed25519
from gridtokenx.primitives.errors import ErrorCode, Rejected
from gridtokenx.primitives.state import MemoryReader, Overlay
from gridtokenx.primitives.validators import Validator, ValidatorSet

CHAIN_ID = sha256(b"simulated chain")
MAX_AHEAD_MS = 500  # How far a fresh block's time may lie ahead of the own clock (2.6).
MIN_MEMBERS = 4

Opens = Callable[[int], int]  # Time of the parent -> earliest time of the next block.


@dataclass(frozen=True)
class ToySigner:
    """Unforgeable by agreement: nobody in the world signs with another's key."""

    public_key: bytes

    def sign(self, message: bytes) -> bytes:
        return hashlib.sha512(self.public_key + message).digest()


def toy_verify(public_key: bytes, message: bytes, signature: bytes) -> bool:
    return hashlib.sha512(public_key + message).digest() == signature


Signer = ToySigner | SigningKey


def make_signers(count: int, real: bool) -> list[Signer]:
    """Keys in the order of the validator set, the same in every world."""
    seeds = [sha256(b"key %d" % number) for number in range(count)]
    keys: list[Signer] = [SigningKey(seed) if real else ToySigner(seed) for seed in seeds]
    return sorted(keys, key=lambda key: key.public_key)


def verifier(real: bool) -> Verify:
    return verify_ed25519 if real else toy_verify


def every(milliseconds: int) -> Opens:
    """A block this long after its parent."""
    return lambda parent_ms: parent_ms + milliseconds


def slots(block_time_ms: int) -> Opens:
    """At most one block a slot, as production does (2.7)."""
    return lambda parent_ms: max(
        (parent_ms // block_time_ms + 1) * block_time_ms, parent_ms + block_time_ms // 5
    )


@dataclass(frozen=True)
class Block:
    height: int
    parent: bytes
    view0: int
    proposer: int
    time_ms: int
    payload: int
    state_root: bytes
    evidence: tuple[Evidence, ...] = ()
    change: ValidatorSet | None = None

    @cached_property
    def hash(self) -> bytes:
        head = (self.height, self.parent, self.view0, self.proposer, self.time_ms, self.payload)
        change = None if self.change is None else self.change.hash
        return sha256(repr((*head, self.state_root, self.evidence, change)).encode())

    def __len__(self) -> int:
        """Bytes it would have on the wire; the real syncer counts them."""
        return 1000


GENESIS = Block(0, b"", 0, 0, 0, 0, bytes(32))


@dataclass(frozen=True)
class State:
    """What executing the chain so far gives. `sets`: the real tables of validator sets.

    `set_class` is what a set that comes out of them is made into: mutants break it.
    """

    sets: MemoryReader
    root: bytes = bytes(32)
    punished: frozenset[tuple[bytes, int, int]] = frozenset()
    refused: tuple[str, ...] = ()
    set_class: type[ValidatorSet] = ValidatorSet

    def set_at(self, height: int) -> ValidatorSet:
        found = current_set(self.sets, height).validators
        return found if self.set_class is ValidatorSet else self.set_class(found.members)


@dataclass(frozen=True)
class Committed:
    block: Block
    certificate: QuorumCertificate | None
    state: State


@dataclass
class Rules:
    """How blocks are made and judged; the same for every node of a world."""

    genesis_set: ValidatorSet
    opens: Opens
    verify: Verify
    epoch_blocks: int = 10**9
    organisations: dict[bytes, str] = field(default_factory=dict)

    @property
    def genesis(self) -> Committed:
        nothing = MemoryReader()
        sets = Overlay(nothing)
        members = self.genesis_set.members
        install_set(sets, ValidatorSet(members), [bytes(32)] * len(members))
        state = State(_stored(nothing, sets), set_class=type(self.genesis_set))
        return Committed(GENESIS, None, state)

    def epoch_start(self, height: int) -> int:
        return epoch_start(height, self.epoch_blocks)

    def run(self, before: Committed, block: Block) -> State:
        """Execute a block on its parent. Raises Rejected unless it may be decided."""
        parent, state = before.block, before.state
        if (block.parent, block.height) != (parent.hash, parent.height + 1):
            raise Rejected(ErrorCode.MALFORMED, "it does not extend the tip")
        if block.time_ms < self.opens(parent.time_ms):
            raise Rejected(ErrorCode.OUT_OF_RANGE, "its slot had not begun")
        after = self._apply(state, block)
        if after.root != block.state_root:
            raise Rejected(ErrorCode.MALFORMED, "execution gives another state root")
        return after

    def _apply(self, state: State, block: Block) -> State:
        punished = set(state.punished)
        for evidence in block.evidence:
            key = (evidence.public_key, evidence.height, int(evidence.kind))
            if key in punished:
                raise Rejected(ErrorCode.NOT_PERMITTED, "punished before")
            verify_evidence(evidence, CHAIN_ID, state.set_at(evidence.height), self.verify)
            punished.add(key)
        root = sha256(state.root + repr((block.payload, block.evidence)).encode())
        after = replace(state, root=root, punished=frozenset(punished))
        return after if block.change is None else self._order(after, block)

    def _order(self, state: State, block: Block) -> State:
        """A change ordered in epoch e begins with epoch e + 2, unless it is refused (2.11)."""
        assert block.change is not None
        sets = Overlay(state.sets)
        newest = sets_from(sets, block.height, self.epoch_blocks).scheduled[-1].validators
        why = refuse_change(
            newest,
            block.change,
            organisation_of=self.organisations,
            minimum_members=MIN_MEMBERS,
        )
        if why is not None:
            return replace(state, refused=(*state.refused, why))
        nobody = [bytes(32)] * len(block.change.members)
        order_set(sets, block.change, nobody, height=block.height, epoch_blocks=self.epoch_blocks)
        return replace(state, sets=_stored(state.sets, sets))

    def build(self, before: Committed, block: Block) -> Block:
        """Fill in the state root of a block that was made for `before`."""
        return replace(block, state_root=self._apply(before.state, block).root)


def _stored(base: MemoryReader, changed: Overlay) -> MemoryReader:
    values = dict(base.values)
    values.update((key, raw) for key, raw in changed.changes() if raw is not None)
    return MemoryReader(values)


def make_set(
    signers: list[Signer],
    weights: tuple[int, ...],
    set_class: type[ValidatorSet] = ValidatorSet,
) -> ValidatorSet:
    """Weights in the order of the signers; a weight of 0 leaves one out."""
    pairs = zip(signers, weights, strict=True)
    return set_class.of(Validator(key.public_key, weight) for key, weight in pairs if weight)
