"""Worlds of several chains: transfers, stalls, crashes, late checkpoints and reincarnations.

The rules, the blocks and the certificates are real (`tests/chains_world.py`); what is random is who
does what when. Law: nothing appears or vanishes on any chain or between two of them, and every
transfer ends exactly once, credited or returned.
"""

from __future__ import annotations

import random
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from gridtokenx.chain.crossing import next_slice
from gridtokenx.chain.transition import propose_block
from gridtokenx.cluster.network import NATIONAL, dev_key, operator_key
from gridtokenx.interchain.model import (
    TransferAbroad,
    TransferCredited,
    TransferReturned,
    TransferSent,
)
from gridtokenx.ledger.model import Asset, Deposit
from gridtokenx.primitives.codec import encode
from simulator.tally import Tally
from tests.chains_world import Chain, Chains

NAME = "chains"
INVARIANT = "I14"
STEPS = 60
STEPS_BETWEEN_CHECKS = 6
ROUNDS_TO_SETTLE = 8
ACTIONS = (
    *["send"] * 4, "mint", "mint", *["grow"] * 3, *["relay"] * 2, "crash", "national", "rebirth",
)  # fmt: skip
DEV = dev_key("dev")
FRIEND = dev_key("friend")
PAYMENT = operator_key("payment")


@dataclass
class ChainsWorld:
    """One seed's world. `say` is told each step."""

    seed: int
    say: Callable[[str], None] | None = None
    chains: Chains = field(default_factory=Chains)
    steps: int = 0
    crashes: int = 0

    def __post_init__(self) -> None:
        self._draw = random.Random(self.seed)

    def play(self) -> None:
        """All steps, then calm. Raises AssertionError, or what a rule raises that must not."""
        for step in range(STEPS):
            self._act()
            if step % STEPS_BETWEEN_CHECKS == STEPS_BETWEEN_CHECKS - 1:
                self.chains.check()
        self.chains.settle(ROUNDS_TO_SETTLE)
        self.chains.check()
        for transfer_id, fate in fates(self.chains).items():
            assert sum(fate.values()) == 1, (transfer_id.hex(), fate)

    @property
    def heights(self) -> int:
        """Blocks decided on all chains together."""
        return sum(chain.height for chain in every_chain(self.chains))

    def _act(self) -> None:
        chains, draw = self.chains, self._draw
        self.steps += 1
        name = draw.choice(list(chains.regions))
        region = chains.regions[name]
        action = draw.choice(ACTIONS)
        if self.say is not None:
            heights = ", ".join(f"{one.spec.name} {one.height}" for one in every_chain(chains))
            self.say(f"{self.steps:>3} {action} {name} at {heights}")
        match action:
            case "send":
                self._send()
            case "mint":
                region.send(PAYMENT, Deposit(DEV.public_key, draw.randrange(1, 10_000)))
            case "grow":
                chains.grow_region(name, keep=True)
            case "rebirth" if chains.region(name).height in region.states:
                chains.reincarnate(name)
            case "relay" if region.height > chains.region(name).height:
                self._relay(name)
            case "crash":
                self.crashes += 2
                crash(region, chains.national)
                crash(chains.national, None)
            case _:
                chains.national.grow(None)

    def _send(self) -> None:
        source, destination = self._draw.sample([*self.chains.regions, NATIONAL], 2)
        asset = self._draw.choice([Asset.GTX, Asset.THB])
        amount = self._draw.randrange(1, 1000)
        command = TransferAbroad(destination, FRIEND.public_key, asset, amount)
        self.chains.chain(source).send(self._draw.choice([DEV, FRIEND]), command)

    def _relay(self, name: str) -> None:
        """Any decided header will do; sometimes two are under way, in any order."""
        chains, draw = self.chains, self._draw
        low, high = chains.region(name).height + 1, chains.regions[name].height
        for height in draw.choices(range(low, high + 1), k=draw.choice((1, 2))):
            chains.relay(name, height)
        chains.national.grow(None)


def every_chain(chains: Chains) -> list[Chain]:
    """The national chain, then the regions."""
    return [chains.national, *chains.regions.values()]


def crash(chain: Chain, view: Chain | None) -> None:
    """A block is built, executed and lost before anybody decided it."""
    propose_block(
        chain.spec, chain.values, chain.tree, chain.parent,
        view=0, proposer_index=0, time_ms=chain.spec.opens_ms(chain.parent.time_ms),
        candidates=chain.waiting, last_commit=last_commit(chain),
        taken=next_slice(view, chain.values, chain.spec),
    )  # fmt: skip


def last_commit(chain: Chain) -> bytes:
    """The newest block's encoded certificate; empty at the genesis."""
    certificate = chain.certificates.get(chain.height)
    return b"" if certificate is None else encode(certificate)


def fates(chains: Chains) -> dict[bytes, Counter[str]]:
    """For each transfer that was sent, how often it was credited and returned."""
    found: dict[bytes, Counter[str]] = {}
    for chain in every_chain(chains):
        for event in chain.events:
            if isinstance(event, TransferSent):
                found.setdefault(event.transfer_id, Counter())
    for chain in every_chain(chains):
        for event in chain.events:
            if isinstance(event, TransferCredited | TransferReturned):
                found[event.transfer_id][type(event).__name__] += 1
    return found


def run_seed(seed: int, say: Callable[[str], None] | None = None) -> Tally:
    """One world, start to end; a violation is a result, not an error."""
    started = time.process_time()
    world = ChainsWorld(seed, say)
    tally = Tally(NAME, seeds=1)
    try:
        world.play()
    except Exception as broken:  # noqa: BLE001 - an honest world raises nothing: all is told
        lines = "".join(traceback.format_exception(broken))
        told = f"{lines}seed {seed} at step {world.steps}: {INVARIANT} {broken!r}"
        tally.failures.append((seed, INVARIANT, told))
    tally.events, tally.crashes, tally.heights = world.steps, world.crashes, world.heights
    tally.cpu_seconds = time.process_time() - started
    return tally
