"""One incarnation of one chain as it is here: its executor, what came before it, the first record.

A region goes on as another incarnation by a vote on the national chain; each has a life of its own,
with its own key range, and none takes anything from another but blocks.
Source: protocols/interchain.md 8.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import structlog
import trio

from gridtokenx.chain.genesis import ChainSpec, Genesis, incarnation_name
from gridtokenx.chain.state_tree import StateProof
from gridtokenx.consensus.events import SafetyRecord
from gridtokenx.interchain.checkpoints import incarnations_of
from gridtokenx.interchain.model import FIRST_INCARNATION, Incarnation
from gridtokenx.node.executor import Executor
from gridtokenx.primitives.codec import encode
from gridtokenx.primitives.crypto import SigningKey
from gridtokenx.runtime.stopping import NotPresent
from gridtokenx.storage.database import ChainStore, Database
from gridtokenx.storage.national_view import DecidedNational
from gridtokenx.views.stages import Stages
from gridtokenx.views.status import ChainStatus, Head

log = structlog.get_logger(__name__)


class VouchRefused(Exception):  # noqa: N818 - an answer to an operator
    """Why the operator's word for a key is not taken; the sentence is for people."""


class Life:
    """The present incarnation. Owned by its runner; blocks are executed in a worker thread."""

    def __init__(self, executor: Executor, histories: Mapping[bytes, ChainStore]) -> None:
        """`histories`: the blocks of all incarnations by chain id, the oldest first."""
        self.executor = executor
        self.spec: ChainSpec = executor.spec
        self.name = incarnation_name(self.spec.name, self.spec.incarnation)
        self._histories = dict(histories)

    @classmethod
    async def open(
        cls,
        name: str,
        genesis: Genesis,
        database: Database,
        now_ms: Callable[[], int],
        stages: Stages,
    ) -> Life:
        """The incarnation of a chain that the national chain here has last. Errors: Damaged."""
        spec = genesis.chain(name)
        histories = {spec.chain_id: database.chain(name)}
        for born in known_incarnations(name, genesis, database):
            spec = spec.with_incarnation(born)
            histories[spec.chain_id] = database.chain(incarnation_name(name, born.number))
        national = None
        if genesis.national is not None and not spec.is_national:
            national = DecidedNational(database.chain(genesis.national.name))
        store = histories[spec.chain_id]
        executor = await trio.to_thread.run_sync(Executor, spec, store, now_ms, stages, national)
        return cls(executor, histories)

    @property
    def born(self) -> Incarnation | None:
        """How the incarnation began, unless it is the genesis' own."""
        return self.spec.incarnations[-1] if self.spec.incarnations else None

    @property
    def first_height(self) -> int:
        """Of the blocks that are the incarnation's own."""
        return 1 if self.born is None else self.born.height + 1

    @property
    def is_rebuilding(self) -> bool:
        """Whether blocks are missing up to the one that it is born of."""
        return self.executor.tip.height < self.first_height - 1

    def is_member(self, key: SigningKey) -> bool:
        """Whether the key signs the next block."""
        validators = self.executor.tip.next_set.validators
        return validators.index_of(key.public_key) is not None

    def history(self, chain_id: bytes) -> ChainStore | None:
        """The blocks of an incarnation, if they are here."""
        return self._histories.get(chain_id)

    def histories(self) -> list[ChainStore]:
        """The blocks of all incarnations, the newest first."""
        return list(self._histories.values())[::-1]

    def status(self) -> ChainStatus:
        """As of the newest block."""
        tip = self.executor.tip
        parent = tip.parent
        head = Head(
            parent.height,
            parent.hash,
            parent.time_ms,
            tip.market_ms,
            parent.state_root,
            tip.proposer_index,
        )
        return ChainStatus(
            spec=tip.spec,
            head=head,
            view=tip.view,
            validators=tip.next_set.validators,
            prove=partial(_prove, self.executor),
            finality_ms=tip.finality_ms,
        )

    # -- The key's first record --------------------------------------------------------------------

    def check_resumed(self, named: Mapping[str, int]) -> None:
        """`named`: the operator's word by incarnation. Errors: NotPresent for one that is over."""
        for number in range(FIRST_INCARNATION, self.spec.incarnation):
            if incarnation_name(self.spec.name, number) in named:
                raise NotPresent(f"{self.spec.name} is {self.name} now: say {self.name}=HEIGHT")

    def carry_record(self) -> None:
        """A key that has a safety record of a former incarnation here has not signed for this one:
        this data folder knows all that it did. Its first record is that of the block before.

        Only as long as there is nothing of this incarnation here: a record that is missing later is
        a lost one.
        """
        if self.born is None or self.executor.tip.height >= self.first_height:
            return
        if any(one.load_safety() is not None for one in self.histories()[1:]):
            self.begin_record()

    def begin_record(self) -> bool:
        """Give a key that has not signed for this incarnation its first safety record.

        False where there is one already.
        """
        store = self.executor.store
        if store.load_safety() is not None:
            return False
        store.save_safety(encode(first_record(self.first_height - 1)), ())
        return True

    def take_word(self, key: SigningKey | None) -> bool:
        """The operator's that the key, if there is one that signs, has never signed for this
        incarnation. False where it has its record already. Errors: VouchRefused.
        """
        chain, born = self.spec.name, self.born
        if born is None:
            raise VouchRefused(
                f"{chain} is in its first incarnation; for a lost safety record see "
                "gridtokenx start --resume-signing-above"
            )
        if key is None:
            raise VouchRefused("this node has no validator key that signs")
        if key.public_key not in [one.public_key for one in born.members]:
            raise VouchRefused(f"this node's validator key is not one that {chain} begins with")
        if self.executor.tip.height >= self.first_height:
            raise VouchRefused(
                f"block {self.first_height} of {chain} is decided, so most authorities sign; "
                "this key signs as soon as it has heard them"
            )
        if not self.begin_record():
            return False
        log.warning("signing.vouched", chain=chain, incarnation=born.number)
        return True


def known_incarnations(name: str, genesis: Genesis, database: Database) -> list[Incarnation]:
    """What the national chain of this node knows of a region's, after the first."""
    national = genesis.national
    if national is None or national.name == name:
        return []
    return incarnations_of(database.chain(national.name), name)


def first_record(height: int) -> SafetyRecord:
    """The record of a key that has signed nothing above `height`."""
    return SafetyRecord(
        height=height,
        view=0,
        prepared=None,
        committed=None,
        timed_out=False,
        high_certificate=None,
        entry=None,
        own=(),
        last_commit=None,
        candidates=(),
    )


def _prove(executor: Executor, key: bytes) -> tuple[bytes | None, StateProof]:
    _, value, proof = executor.prove(key)
    return value, proof
