"""Worlds of several chains: transfers, stalls, crashes, late checkpoints, rotations, regions that
are captured, and reincarnations.

The rules, the blocks and the certificates are real (`tests/support/chains_world.py`); what is
random is who does what when. A captured region's quorum certifies whatever it likes until voters
let the region go on from an honest block. Law: nothing appears or vanishes on any chain or between
two of them but what is counted as lost, no more leaves a region than its escrow, and every transfer
that no void history has touched ends exactly once, credited or returned.
"""

from __future__ import annotations

import random
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from gridtokenx.chain.crossing import home_of, next_slice
from gridtokenx.chain.genesis import Genesis
from gridtokenx.chain.transition import propose_block
from gridtokenx.cluster.devnet import NATIONAL, account_address, dev_key, local_genesis
from gridtokenx.interchain import checkpoints, incarnations
from gridtokenx.interchain.log import log_to
from gridtokenx.interchain.model import (
    CHECKPOINTS,
    AuthorityMember,
    Bounced,
    Credit,
    SupplyReport,
    TransferAbroad,
    TransferCredited,
    TransferReturned,
    TransferSent,
    Upward,
)
from gridtokenx.ledger.model import MINIMUMS, Asset
from gridtokenx.primitives.codec import encode
from gridtokenx.primitives.state import Overlay
from tests.support.chains_world import KEYS, Chain, Chains
from tests.support.simulator.tally import Tally

NAME = "chains"
INVARIANT = "I14"
STEPS = 60
STEPS_BETWEEN_CHECKS = 6
ROUNDS_TO_SETTLE = 8
ACTIONS = (
    *["send"] * 6, *["mint"] * 3, *["grow"] * 5, *["relay"] * 4, "crash", "national", "national",
    "rebirth", "rotate", "capture", "forge", "forge",
)  # fmt: skip
EPOCH_BLOCKS = 4  # So that an ordered set is in force, or void, within a world.
MAX_FORGED = 6
DEV = dev_key("dev")
FRIEND = dev_key("friend")


@dataclass
class ChainsWorld:
    """One seed's world. `say` is told each step."""

    seed: int
    say: Callable[[str], None] | None = None
    chains: Chains = field(default_factory=lambda: Chains(_genesis()))
    steps: int = 0
    crashes: int = 0
    void: set[bytes] = field(default_factory=set)  # Transfers that a void history has touched.

    def __post_init__(self) -> None:
        self._draw = random.Random(self.seed)
        self.honest: dict[str, int] = {}  # Of captured ones: the newest honest block accepted.
        self.told: Counter[str] = Counter()

    def play(self) -> None:
        """All steps, then calm. Raises AssertionError, or what a rule raises that must not."""
        for step in range(STEPS):
            self._act()
            if step % STEPS_BETWEEN_CHECKS == STEPS_BETWEEN_CHECKS - 1:
                self.chains.check()
        for name in sorted(self.chains.captured):
            self._reincarnate(name)
        self.chains.settle(ROUNDS_TO_SETTLE)
        self.chains.check()
        for transfer_id, fate in fates(self.chains).items():
            if transfer_id not in self.void:
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
        if name in chains.captured:
            self._act_captured(action, name)
        elif action in ("rebirth", "rotate", "capture"):
            self._act_nationally(action, name)
        else:
            self._act_daily(action, name, region)

    def _act_daily(self, action: str, name: str, region: Chain) -> None:
        chains, draw = self.chains, self._draw
        match action:
            case "send":
                self._send()
            case "mint":
                chains.deposit(name, DEV.public_key, draw.randrange(1, 10_000_000))
            case "grow":
                chains.grow_region(name, keep=True)
            case "relay" if region.height > chains.region(name).height:
                self._relay(name)
            case "crash":
                self.crashes += 2
                crash(region, chains.national)
                crash(chains.national, None)
            case _:
                chains.national.grow(None)

    def _act_captured(self, action: str, name: str) -> None:
        match action:
            case "forge":
                self._forge(name)
            case "rebirth":
                self._reincarnate(name)
            case _:
                self.chains.national.grow(None)

    def _act_nationally(self, action: str, name: str) -> None:
        chains = self.chains
        match action:
            case "rotate" if chains.region(name).ordered is None:
                self._rotate(name)
            case "rebirth" if chains.region(name).height:
                self._reincarnate(name)
            case "capture" if chains.region(name).height:
                self.honest[name] = chains.region(name).height
                chains.captured.add(name)
                self._forge(name)

    def _send(self) -> None:
        source, destination = self._draw.sample([*self.chains.regions, NATIONAL], 2)
        asset = self._draw.choice([Asset.GTX, Asset.THB])
        least = MINIMUMS[asset]  # Less makes no account: it comes back unless there is one.
        amount = self._draw.choice((least, self._draw.randrange(1, 2 * least)))
        command = TransferAbroad(destination, FRIEND.public_key, asset, amount)
        self.chains.chain(source).send(self._draw.choice([DEV, FRIEND]), command)

    def _rotate(self, name: str) -> None:
        """Another key for one member: ordered as a vote does, in force an epoch after its next."""
        chains, draw = self.chains, self._draw
        old = chains.region(name).validators
        leaving = draw.choice(old.members).public_key
        joining = draw.choice([key for key in KEYS if old.index_of(key) is None])
        members = sorted(({one.public_key for one in old.members} - {leaving}) | {joining})
        overlay = Overlay(chains.national.values)
        checkpoints.order_authorities(
            overlay,
            name,
            [AuthorityMember(key, 1, account_address("mea")) for key in members],
            home=home_of(chains.national.spec),
            height=chains.national.height,
        )
        chains.national.store(overlay)
        self.told["rotations"] += 1

    def _forge(self, name: str) -> None:
        """Anything that a quorum may sign: money that is not there, reports, returns, silence."""
        chains, draw = self.chains, self._draw
        end = log_to(chains.national.values, name).count
        forged = [self._forged(name, end) for _ in range(draw.randrange(MAX_FORGED))]
        taken = draw.choice((None, draw.randint(chains.region(name).inbox_next, end)))
        chains.forge(name, forged, taken)
        chains.national.grow(None)
        self.told["forged"] += 1

    def _forged(self, name: str, end: int) -> Upward:
        """`end`: so many messages the region was sent; some of them may come back."""
        draw = self._draw
        amount = draw.choice((1, draw.randrange(1, 10**6), 2**62))
        thief = draw.choice((DEV, FRIEND)).public_key
        asset = draw.choice((Asset.ENERGY, Asset.THB, Asset.GTX))
        destination = draw.choice((NATIONAL, *self.chains.regions))
        credit = Credit(draw.randbytes(32), name, destination, thief, thief, asset, amount)
        self.void.add(credit.transfer_id)
        match draw.randrange(4):
            case 0 if end:
                nonce = draw.randrange(end)
                for sent in self.chains.national.messages(name, nonce, 1, 2**62):
                    credit = sent if isinstance(sent, Credit) else credit
                self.void.add(credit.transfer_id)
                return Bounced(1, nonce, credit, "not wanted")
            case 1:
                numbers = [draw.randrange(2**40) for _ in range(6)]
                return SupplyReport(*numbers, bytes(64))
            case _:
                return credit

    def _reincarnate(self, name: str) -> None:
        """From the newest honest block or an older one; often under new authorities."""
        chains, draw = self.chains, self._draw
        region = chains.regions[name]
        newest = self.honest.pop(name, chains.region(name).height)
        kept = [
            height
            for height in known_heights(chains, name)
            if height <= newest and height in region.states
        ]
        height = draw.choice((newest, draw.choice(kept)))
        self.void |= self._touched(name, height)
        keys = draw.sample(sorted(KEYS), 4) if draw.random() < 0.7 else []
        chains.captured.discard(name)
        chains.reincarnate(name, height, [KEYS[key] for key in keys])
        self.told["reincarnations"] += 1

    def _touched(self, name: str, height: int) -> set[bytes]:
        """Transfers in what becomes void: sent there, or taken there and delivered again."""
        chains = self.chains
        region, national = chains.regions[name], chains.national
        block_hash = region.blocks[height].header.hash
        base = incarnations.check_base(national.values, name, height, block_hash)
        end = chains.region(name).inbox_next
        again = national.messages(name, base.inbox_next, end - base.inbox_next, national.height)
        credits = [one.credit if isinstance(one, Bounced) else one for one in again]
        taken = {one.transfer_id for one in credits if isinstance(one, Credit)}
        sent = region.events[region.told[height] :]
        return taken | {one.transfer_id for one in sent if isinstance(one, TransferSent)}

    def _relay(self, name: str) -> None:
        """Any decided header will do; sometimes two are under way, in any order."""
        chains, draw = self.chains, self._draw
        low, high = chains.region(name).height + 1, chains.regions[name].height
        for height in draw.choices(range(low, high + 1), k=draw.choice((1, 2))):
            chains.relay(name, height)
        chains.national.grow(None)


def _genesis() -> Genesis:
    """The local network with short epochs."""
    usual = local_genesis(with_national=True)
    return replace(usual, epoch_blocks=EPOCH_BLOCKS, evidence_window_blocks=10 * EPOCH_BLOCKS)


def known_heights(chains: Chains, name: str) -> list[int]:
    """Blocks of a region that the national chain has accepted and still knows."""
    found = CHECKPOINTS.items(chains.national.values, name.encode() + b"\x00")
    return [int.from_bytes(key[-8:], "big") for key, _ in found]


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
                found.setdefault(event.transfer_id, Counter())[type(event).__name__] += 1
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
