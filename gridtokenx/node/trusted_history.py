"""Whether a chain's blocks here, and the next one, are those that this node may believe.

Source: protocols/consensus.md 4, decision 0018.
"""

from __future__ import annotations

from collections.abc import Callable

from gridtokenx.chain.block import Header
from gridtokenx.chain.genesis import Genesis
from gridtokenx.chain.trust import Trust, parse_trusted_block, trust_period_ms
from gridtokenx.consensus.messages import QuorumCertificate
from gridtokenx.home.settings import SyncSettings
from gridtokenx.interchain.model import REGIONS
from gridtokenx.node.executor import Executor
from gridtokenx.primitives.codec import decode
from gridtokenx.primitives.errors import Rejected
from gridtokenx.runtime.stopping import Untrusted
from gridtokenx.staking import pools
from gridtokenx.storage.database import Database

HOW_TO_TRUST = (
    "Write it into sync.trusted_blocks, or start with --trusted-block. Only on a test network, one "
    "that begins now, or one that stood still: --trust-old-blocks"
)
OTHER_HISTORY = (
    "GTX-SYNC-003: the history of {chain} in this data folder, up to block {height}, is not the "
    "trusted one. If the trusted block is right, start with an empty data folder; for a region "
    "that has gone on as a new incarnation name a newer block"
)


def trust_of(sync: SyncSettings, genesis: Genesis, name: str, database: Database) -> Trust:
    """What the operator vouches for of a chain, and how long the stake behind a set can be reached,
    by the value that is in force here.

    Of a region the national chain vouches for the newest block that it has accepted, however old:
    authorities have no stake, and a region may go on after it stood still.
    """
    vouched = [parse_trusted_block(text) for text in sync.trusted_blocks]
    blocks = {block.height: block.hash for block in vouched if block.chain == name}
    if genesis.national is None:
        return Trust(name, blocks)
    national = database.chain(genesis.national.name)
    if name != genesis.national.name:
        region = REGIONS.get(national, name.encode())
        accepted = {} if region is None else {region.height: region.hash}
        return Trust(name, {**accepted, **blocks})
    if sync.trust_old_blocks:
        return Trust(name, blocks)
    staking = pools.parameters(national)
    return Trust(name, blocks, trust_period_ms(genesis, staking.unbonding_blocks))


class TrustedHistory:
    """One chain's history on disk, held against what its operator vouches for."""

    def __init__(self, trust: Trust, executor: Executor, now_ms: Callable[[], int]) -> None:
        self._trust = trust
        self._executor = executor
        self._now_ms = now_ms

    @property
    def silent_until(self) -> int:
        """Nothing is signed at heights whose history has not been held against a trusted block."""
        return self._trust.highest or -1

    def check_start(self) -> None:
        """Is our history the trusted one, and young enough for peers' blocks to follow it?

        Errors: Untrusted.
        """
        tip = self._executor.tip
        for height in self._trust.blocks:
            raw = self._executor.store.certificate(height) if height <= tip.height else None
            if raw:
                self.check_own(height, decode(QuorumCertificate, raw).block_hash)
        self._check_age()

    def check_next(self, header: Header) -> None:
        """Whether a block that a peer sent may be the next one.

        Errors: INVALID_BLOCK where it is its history that is not the trusted one; Untrusted where
        it is ours, or nothing may follow ours.
        """
        tip = self._executor.tip
        self._check_age()
        self._trust.check_block(header.height, header.hash)
        if header.height in self._trust.blocks and header.parent_hash != tip.hash:
            detail = OTHER_HISTORY.format(chain=self._executor.spec.name, height=tip.height)
            raise Untrusted(detail)

    def check_own(self, height: int, block_hash: bytes) -> None:
        """Errors: Untrusted where a block of ours is not the one that is trusted."""
        try:
            self._trust.check_block(height, block_hash)
        except Rejected as error:
            detail = OTHER_HISTORY.format(chain=self._executor.spec.name, height=height)
            raise Untrusted(f"{detail}: {error.detail}") from None

    def _check_age(self) -> None:
        """Errors: Untrusted where nothing that peers send may follow our newest block."""
        parent = self._executor.tip.parent
        try:
            self._trust.check_age(parent.height, parent.time_ms, now_ms=self._now_ms())
        except Rejected as error:
            raise Untrusted(f"GTX-SYNC-002: {error.detail}. {HOW_TO_TRUST}") from None
