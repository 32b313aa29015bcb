"""What is believed beyond proof: blocks that somebody vouches for, and for how long a set is.

Whoever has taken its stake out can be punished no more, so it may sign any history: a set of
validators is believed only while its stake is still within reach. Older trust needs a person's
word, a block by height and hash. Source: protocols/consensus.md 4, decision 0018.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from gridtokenx.chain.genesis import Genesis
from gridtokenx.primitives.errors import ErrorCode, Rejected

HOUR_MS = 3_600_000
_FORM = re.compile(r"([A-Z0-9]{2,8}):([1-9][0-9]{0,17}):([0-9a-f]{64})")


@dataclass(frozen=True, slots=True)
class TrustedBlock:
    """A block that its reader knows to be decided, from a node or a person it trusts."""

    chain: str
    height: int
    hash: bytes

    def __str__(self) -> str:
        return f"{self.chain}:{self.height}:{self.hash.hex()}"


def parse_trusted_block(text: str) -> TrustedBlock:
    """`TH:HEIGHT:HASH` as `chain head` prints it. Errors: MALFORMED."""
    match = _FORM.fullmatch(text)
    if match is None:
        detail = f"a trusted block looks like TH:120960:9c1e...42 (64 hex digits), not {text[:90]}"
        raise Rejected(ErrorCode.MALFORMED, detail)
    return TrustedBlock(match[1], int(match[2]), bytes.fromhex(match[3]))


def trust_period_ms(genesis: Genesis, unbonding_blocks: int | None = None) -> int | None:
    """How long after a block its validators' stake can still be punished, in milliseconds.

    `unbonding_blocks` is the value in force, by default the genesis'. None on a network without a
    national chain: there no set ever changes, so nobody leaves it.
    """
    if genesis.national is None:
        return None
    blocks = genesis.national.staking.unbonding_blocks
    return (blocks if unbonding_blocks is None else unbonding_blocks) * genesis.block_time_ms


def check_age(chain: str, height: int, time_ms: int, *, now_ms: int, period_ms: int | None) -> None:
    """Whether the validators that follow a believed block may still be believed.

    Times are Unix milliseconds, `time_ms` the block's own. Errors: TRUST_EXPIRED.
    """
    age_ms = now_ms - time_ms
    if period_ms is not None and age_ms > period_ms:
        detail = (
            f"the newest block of {chain} that is trusted here ({height}) is {_span(age_ms)} old; "
            f"stake may have left since, it does after {_span(period_ms)}, and who has none can "
            "sign any history. Name a newer block that you know to be right, as "
            f"`gridtokenx chain head {chain}` tells it on a node you trust"
        )
        raise Rejected(ErrorCode.TRUST_EXPIRED, detail)


def _span(duration_ms: int) -> str:
    hours = duration_ms // HOUR_MS
    if hours >= 48:
        return f"{hours // 24} days"
    return f"{hours} hours" if hours >= 2 else f"{duration_ms // 60_000} minutes"


@dataclass(frozen=True, slots=True)
class Trust:
    """What a node believes of one chain: blocks by height, and how long their validators.

    `period_ms` None: for ever.
    """

    chain: str = ""
    blocks: Mapping[int, bytes] = field(default_factory=dict)
    period_ms: int | None = None

    @property
    def highest(self) -> int:
        """Height of the newest trusted block, 0 for none."""
        return max(self.blocks, default=0)

    def check_block(self, height: int, block_hash: bytes) -> None:
        """Errors: INVALID_BLOCK for another block than the one that is trusted at this height."""
        trusted = self.blocks.get(height, block_hash)
        if trusted != block_hash:
            detail = (
                f"block {height} of {self.chain} is {block_hash.hex()[:16]}, the trusted one is "
                f"{trusted.hex()[:16]}"
            )
            raise Rejected(ErrorCode.INVALID_BLOCK, detail)

    def check_age(self, height: int, time_ms: int, *, now_ms: int) -> None:
        """Whether blocks of peers may follow our newest one, which has this height and time.

        Below a trusted block they may, however old: they are held against it when it comes.
        Errors: TRUST_EXPIRED.
        """
        if height >= self.highest:
            check_age(self.chain, height, time_ms, now_ms=now_ms, period_ms=self.period_ms)
