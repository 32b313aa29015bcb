"""Laws of messages between chains: logs bind, escrow is never overdrawn, nothing is made."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from gridtokenx.interchain import checkpoints
from gridtokenx.interchain.log import next_head
from gridtokenx.interchain.model import Bounced, Credit, SupplyReport
from gridtokenx.ledger import rules as ledger
from gridtokenx.ledger.model import Asset
from gridtokenx.primitives.crypto import ZERO_HASH, sha256
from tests.unit.interchain.test_corrupt_regions import WHO, Liar, statement

NAMES = ("TH", "MET", "NOR", "XYZ")
AMOUNTS = st.integers(1, 700) | st.just(2**63 - 1)


@st.composite
def upward(draw: st.DrawFn) -> object:
    """Whatever a region may claim, mostly false."""
    asset = draw(st.sampled_from([Asset.ENERGY, Asset.THB, Asset.GTX, Asset.CARBON]))
    one = Credit(
        sha256(draw(st.binary(max_size=2))),
        draw(st.sampled_from(NAMES)),
        draw(st.sampled_from(NAMES)),
        WHO,
        WHO,
        asset,
        draw(AMOUNTS),
    )
    totals = [draw(st.integers(0, 900)) for _ in range(5)]
    returned = Bounced(1, draw(st.integers(0, 9)), one, "x")
    return draw(st.sampled_from([one, returned, _report(*totals)]))


def _report(*totals: int) -> SupplyReport:
    """With a statement of some deposits that may cover what it claims."""
    stated = totals[2] // 2 + totals[4]
    return SupplyReport(*totals, stated, statement(stated))


@settings(max_examples=60)
@given(batches=st.lists(st.lists(upward(), max_size=8), max_size=5))
def test_no_lie_makes_or_loses_anything(batches: list[list[object]]) -> None:
    liar = Liar()
    for batch in batches:
        liar.say(*batch)  # type: ignore[arg-type]
        region = checkpoints.region_of(liar.state, "MET")
        escrows = [liar.escrow("MET"), liar.escrow("NOR")]
        here = ledger.holdings(liar.state)
        assert min(min(one.energy_wh, one.thb_uthb, one.gtx_ugtx) for one in escrows) >= 0
        assert here["gtx_ugtx"] + sum(one.gtx_ugtx for one in escrows) == 2_000
        energy = here["energy_wh"] + sum(one.energy_wh for one in escrows)
        assert energy == region.reported.energy_wh
        baht = here["thb_uthb"] + sum(one.thb_uthb for one in escrows)
        assert baht == region.reported.thb_uthb
        assert region.outbox_count == liar.count


@given(
    messages=st.lists(st.binary(max_size=4), min_size=1, max_size=6),
    other=st.lists(st.binary(max_size=4), min_size=1, max_size=6),
)
def test_a_head_binds_its_whole_log(messages: list[bytes], other: list[bytes]) -> None:
    assert (_head(messages) == _head(other)) is (messages == other)


def _head(messages: list[bytes]) -> bytes:
    head = ZERO_HASH
    for nonce, raw in enumerate(messages):
        head = next_head(head, sha256(b"a"), sha256(b"b"), nonce, raw)
    return head
