"""Nothing that a proposer may choose decides who of equal orders trades."""

from gridtokenx.chain.transition import Parent
from gridtokenx.primitives.crypto import sha256
from gridtokenx.registry.model import Generation
from gridtokenx.trading.model import Side, TradeMatched
from tests.support.market_world import MarketWorld


def equal_sells(parent_salt: bytes) -> list[tuple[bytes, int]]:
    """Ten equal sells meet one buyer for half of them, in a block whose parent has a hash that its
    proposer chose, as it may by the signatures of the certificate that it puts into it."""
    world = MarketWorld()
    world.block()
    sellers = [world.household(f"seller {n}", source=Generation.SOLAR) for n in range(10)]
    buyer = world.household("buyer")
    world.block()
    slot = world.slot + 3
    for seller in sellers:
        world.send(seller.key, world.order(seller, Side.SELL, 1_000, 3_000, slot))
    world.send(buyer.key, world.order(buyer, Side.BUY, 5_000, 4_000, slot))
    world.block()
    parent = world.parent
    chosen = sha256(parent.hash + parent_salt)
    world.parent = Parent(parent.height, chosen, parent.time_ms, parent.state_root)
    world.block()
    trades = [event.trade for event in world.events(TradeMatched)]
    return [(trade.sell_id, trade.energy_wh) for trade in trades]


def test_the_hash_of_the_parent_decides_nothing() -> None:
    first = equal_sells(b"")
    assert [energy_wh for _, energy_wh in first] == [500] * 10
    assert all(equal_sells(b"%d" % number) == first for number in range(5))
