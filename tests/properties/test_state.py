"""Laws of overlays, of the state tree, and of a transition that outsiders feed."""

from __future__ import annotations

from dataclasses import fields, replace

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from gridtokenx.chain.state_tree import StateTree, verify_state_proof
from gridtokenx.chain.transaction import Payload, sign_transaction
from gridtokenx.chain.transition import apply_transaction, environment
from gridtokenx.chain.validator_sets import current_set
from gridtokenx.cluster.devnet import operator_key
from gridtokenx.ledger.model import Account, Asset, Transfer
from gridtokenx.primitives.codec import encode
from gridtokenx.primitives.errors import Rejected
from gridtokenx.primitives.state import MemoryReader, Overlay, Table
from gridtokenx.registry.model import Generation
from gridtokenx.trading.model import Side
from tests.support.market_world import MarketWorld
from tests.support.wire_values import values_of

TABLE = Table(b"xx", Account)
KEYS = st.binary(max_size=3)
BELOW = {b"xx" + key: encode(Account(nonce=9)) for key in (b"", b"\x00", b"ab", b"b", b"\xff")}
OUTSIDE = {b"xw\xff": encode(Account()), b"xy": encode(Account())}


class Overlays(RuleBasedStateMachine):
    """A stack of overlays against a stack of dictionaries."""

    def __init__(self) -> None:
        super().__init__()
        self.overlays = [Overlay(MemoryReader(BELOW | OUTSIDE))]
        start = {key[2:]: Account(nonce=9) for key in BELOW}
        self.models: list[dict[bytes, Account]] = [start]

    @rule(key=KEYS, nonce=st.integers(0, 5))
    def put(self, key: bytes, nonce: int) -> None:
        TABLE.put(self.overlays[-1], key, Account(nonce=nonce))
        self.models[-1][key] = Account(nonce=nonce)

    @rule(key=KEYS)
    def delete(self, key: bytes) -> None:
        TABLE.delete(self.overlays[-1], key)
        self.models[-1].pop(key, None)

    @rule()
    def begin(self) -> None:
        if len(self.overlays) < 4:
            self.overlays.append(Overlay(self.overlays[-1]))
            self.models.append(dict(self.models[-1]))

    @rule()
    def merge(self) -> None:
        if len(self.overlays) > 1:
            self.overlays.pop().merge()
            self.models[-2:] = [self.models[-1]]

    @rule()
    def drop(self) -> None:
        if len(self.overlays) > 1:
            self.overlays.pop()
            self.models.pop()

    @rule(key=KEYS)
    def get(self, key: bytes) -> None:
        assert TABLE.get(self.overlays[-1], key) == self.models[-1].get(key)

    @rule(prefix=KEYS)
    def scan(self, prefix: bytes) -> None:
        expected = [one for one in sorted(self.models[-1].items()) if one[0].startswith(prefix)]
        assert list(TABLE.items(self.overlays[-1], prefix)) == expected

    @invariant()
    def every_level_agrees(self) -> None:
        for overlay, model in zip(self.overlays, self.models, strict=True):
            assert list(TABLE.items(overlay)) == sorted(model.items())

    @invariant()
    def changes_lead_from_below_to_here(self) -> None:
        values = dict(BELOW | OUTSIDE)
        for key, value in self.overlays[0].changes():
            if value is None:
                values.pop(key, None)
            else:
                values[key] = value
        assert list(TABLE.items(MemoryReader(values))) == sorted(self.models[0].items())


TestOverlays = Overlays.TestCase
TestOverlays.settings = settings(max_examples=40, stateful_step_count=25)


CHANGES = st.dictionaries(st.binary(max_size=2), st.none() | st.binary(max_size=2), max_size=12)


@settings(max_examples=40)
@given(st.lists(CHANGES, min_size=1, max_size=5), st.binary(max_size=2))
def test_a_tree_is_a_function_of_the_state(
    steps: list[dict[bytes, bytes | None]], key: bytes
) -> None:
    tree, model = StateTree(), {}
    for changes in steps:
        tree.apply(tree.update(changes.items()))
        for changed, value in changes.items():
            model.pop(changed, None)
            if value is not None:
                model[changed] = value
    afresh = StateTree()
    assert afresh.update(model.items()).root == tree.root
    proof = tree.prove(key)
    for value in (None, b"", b"a", model.get(key)):
        assert verify_state_proof(tree.root, key, value, proof) == (model.get(key) == value)


def small_world() -> tuple[MarketWorld, list, list]:
    world = MarketWorld()
    houses = [world.household("sunny", source=Generation.SOLAR), world.household("thirsty")]
    world.block()
    world.block()
    keys = [house.key for house in houses] + [operator_key("mea"), operator_key("payment")]
    return world, houses, keys


WORLD, HOUSES, SENDERS = small_world()
SUNNY, THIRSTY = HOUSES
GOOD = [
    WORLD.order(THIRSTY, Side.BUY, 1000, 4000, WORLD.slot + 2),
    WORLD.order(SUNNY, Side.SELL, 1000, 2000, WORLD.slot + 2),
    WORLD.reading(SUNNY, WORLD.slot - 1, 5000, 10),
    Transfer(THIRSTY.key.public_key, Asset.THB, 5),
]


@st.composite
def nearly_good(draw: st.DrawFn) -> object:
    """A good command with some of its fields replaced."""
    command = draw(st.sampled_from(GOOD))
    other = draw(values_of(type(command)))
    names = draw(st.sets(st.sampled_from([field.name for field in fields(command)]), max_size=3))
    return replace(command, **{name: getattr(other, name) for name in names})


PAYLOADS = st.one_of([nearly_good(), *(values_of(member) for member in Payload.__args__)])


@settings(max_examples=400)
@given(st.sampled_from(SENDERS), PAYLOADS, st.integers(0, 3))
def test_whatever_is_signed_is_applied_or_gets_a_verdict(key, payload, fee_ugtx: int) -> None:
    """Nothing else may be raised: it would stop every node that executes it."""
    state = Overlay(WORLD.values)
    nonce = WORLD.nonces.get(key.public_key, 0)
    transaction = sign_transaction(key, WORLD.spec.chain_id, nonce, payload, fee_ugtx)
    env = environment(
        WORLD.spec,
        current_set(WORLD.values, 0),
        WORLD.parent,
        0,
        WORLD.spec.opens_ms(WORLD.parent.time_ms),
    )
    try:
        apply_transaction(state, transaction, env)
    except Rejected:
        return
    for _, value in state.changed():
        if value is not None:
            assert Table(b"", type(value)).decode(encode(value)) == value
