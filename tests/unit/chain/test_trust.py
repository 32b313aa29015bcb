"""What is believed without proof: trusted blocks as text, and how long a set is believed."""

from __future__ import annotations

import pytest

from gridtokenx.chain.trust import (
    Trust,
    TrustedBlock,
    check_age,
    parse_trusted_block,
    trust_period_ms,
)
from gridtokenx.cluster.devnet import local_genesis
from gridtokenx.primitives.crypto import sha256
from gridtokenx.primitives.errors import ErrorCode, Rejected

DAY_MS = 86_400_000
HASH = sha256(b"block")


def test_a_trusted_block_is_text_and_back() -> None:
    block = TrustedBlock("TH", 120_960, HASH)
    assert str(block) == f"TH:120960:{HASH.hex()}"
    assert parse_trusted_block(str(block)) == block


@pytest.mark.parametrize(
    "text",
    [
        *("", "TH", f"TH:{HASH.hex()}", f"th:1:{HASH.hex()}", f"TH:0:{HASH.hex()}"),
        *(f"TH:01:{HASH.hex()}", f"TH:-1:{HASH.hex()}", f"TH:1:{HASH.hex()[:-1]}"),
        *(f"TH:1:{HASH.hex().upper()}", f"TH:1:{HASH.hex()}\n", f"TH:{10**18}:{HASH.hex()}"),
    ],
)
def test_other_texts_are_none(text: str) -> None:
    with pytest.raises(Rejected, match=r"MALFORMED: a trusted block looks like TH:") as error:
        parse_trusted_block(text)
    assert error.value.code is ErrorCode.MALFORMED


def test_the_period_is_the_unbonding_time_and_none_where_no_set_changes() -> None:
    genesis = local_genesis(block_time_ms=10_000)
    assert trust_period_ms(genesis) == 600 * 10_000
    assert trust_period_ms(genesis, 120_960) == 14 * DAY_MS
    assert trust_period_ms(local_genesis(with_national=False)) is None


def test_a_set_is_believed_as_long_as_its_stake_can_be_punished() -> None:
    period_ms = 14 * DAY_MS
    check_age("TH", 7, 1_000, now_ms=1_000 + period_ms, period_ms=period_ms)
    check_age("TH", 7, 1_000, now_ms=0, period_ms=period_ms)
    check_age("TH", 7, 0, now_ms=10**15, period_ms=None)
    with pytest.raises(Rejected, match=r"\(7\) is 20 days old; .* after 14 days") as error:
        check_age("TH", 7, 0, now_ms=20 * DAY_MS, period_ms=period_ms)
    assert error.value.code is ErrorCode.TRUST_EXPIRED


def test_below_a_trusted_block_age_does_not_matter_and_from_it_on_it_does() -> None:
    trust = Trust("TH", {100: HASH, 50: HASH}, 14 * DAY_MS)
    assert trust.highest == 100
    trust.check_age(99, 0, now_ms=100 * DAY_MS)
    with pytest.raises(Rejected):
        trust.check_age(100, 0, now_ms=100 * DAY_MS)
    trust.check_age(100, 90 * DAY_MS, now_ms=100 * DAY_MS)


def test_another_block_at_a_trusted_height_is_refused() -> None:
    trust = Trust("TH", {100: HASH})
    trust.check_block(100, HASH)
    trust.check_block(99, sha256(b"another"))
    with pytest.raises(Rejected, match=r"block 100 of TH is .*, the trusted one is") as error:
        trust.check_block(100, sha256(b"another"))
    assert error.value.code is ErrorCode.INVALID_BLOCK
