"""Who brings a region's blocks to the national chain, when, and what a region waits for there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import trio

from gridtokenx.chain.block import Block, decode_block
from gridtokenx.chain.transaction import Payload, decode_transaction, sign_transaction
from gridtokenx.cluster.devnet import dev_key, local_genesis, validator_name
from gridtokenx.interchain.checkpoints import region_of
from gridtokenx.interchain.log import messages_from
from gridtokenx.interchain.model import Region, TransferAbroad
from gridtokenx.interchain.rules import inbox_of
from gridtokenx.ledger import rules as ledger
from gridtokenx.ledger.model import Asset
from gridtokenx.node import relay as module
from gridtokenx.node.executor import NATIONAL_WAIT_MS, Executor, NotYet
from gridtokenx.node.relay import LIVENESS_BLOCKS, RETRY_BLOCKS, TAKE_OVER_BLOCKS, Relay
from gridtokenx.primitives.codec import encode
from gridtokenx.primitives.errors import ErrorCode, Rejected
from gridtokenx.runtime.housekeeping import house
from gridtokenx.storage.database import Database
from gridtokenx.storage.national_view import DecidedNational
from tests.support.chains_world import certify
from tests.support.patience import PATIENCE_S

GENESIS = local_genesis()
DEV = dev_key("dev")
FRIEND = dev_key("friend").public_key
VALIDATORS = [dev_key(validator_name(index)[1]) for index in range(4)]


class Clock:
    ms = GENESIS.genesis_time_ms

    def __call__(self) -> int:
        return self.ms


class Site:
    """The national chain and MET in one node's database, with the relay of each authority."""

    def __init__(self, path: Path) -> None:
        self.clock = Clock()
        self.database = Database(path)
        store = self.database.chain("TH")
        self.national = Executor(GENESIS.chain("TH"), store, self.clock)
        view = DecidedNational(store)
        met = self.database.chain("MET")
        self.met = Executor(GENESIS.chain("MET"), met, self.clock, national=view)
        self.relays = [self.relay(key) for key in VALIDATORS]
        self.nonce = 0
        self.submitted = trio.Event()
        self.refused: list[ErrorCode] = []

    def relay(self, key) -> Relay:
        async def submit(raws: Sequence[bytes]) -> list[Rejected | None]:
            decoded = [decode_transaction(raw) for raw in raws]
            verdicts = self.national.pending.admit(decoded, heard=False)[0]
            self.refused += [one.code for one in verdicts if one is not None]
            self.submitted.set()
            return verdicts

        return Relay(self.national, lambda: {"MET": self.met.tip}, key, submit, trio.Event)

    def build(self, executor: Executor) -> Block:
        self.clock.ms += 1_000
        compact = executor.build(0, 0)
        execution = executor.candidate(compact.header.hash)
        assert execution is not None
        return execution.block

    def grow(self, executor: Executor, count: int = 1) -> None:
        for _ in range(count):
            header = self.build(executor).header
            signers = executor.tip.sets.at(header.height).validators
            certificate = certify(signers, header.chain_id, header.height, header.hash)
            executor.commit(header.hash, certificate)

    def send(self, command: Payload) -> None:
        """Dev's next transaction on MET."""
        spec = self.met.spec
        signed = sign_transaction(DEV, spec.chain_id, self.nonce, command)
        self.nonce += 1
        assert self.met.pending.admit([signed], heard=False)[0] == [None]

    def due(self) -> list[int]:
        """The numbers of the authorities whose relay would send now; each thinks it did."""
        return [number for number, relay in enumerate(self.relays) if relay.due()]

    @property
    def known(self) -> Region:
        return region_of(self.national.store, "MET")


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path / "one")
    yield site
    site.database.close()


def rank(site: Site, number: int) -> int:
    """How many authorities have their turn before this one."""
    members = site.met.tip.sets.at(site.met.tip.height).validators
    index = members.index_of(VALIDATORS[number].public_key)
    assert index is not None
    return (index - site.known.height) % len(members.members)


def test_authorities_take_turns_and_take_over_from_each_other(site: Site) -> None:
    site.grow(site.met)
    assert site.due() == []
    site.send(TransferAbroad("TH", FRIEND, Asset.GTX, 10_005))
    site.grow(site.met)
    sent = []
    for waited in range(4 * TAKE_OVER_BLOCKS - 1):
        for number in site.due():
            if number not in sent:
                assert rank(site, number) * TAKE_OVER_BLOCKS == waited
                sent.append(number)
        site.grow(site.national)
    assert sorted(sent) == [0, 1, 2, 3]


async def test_a_transfer_goes_up_and_the_chain_is_quiet_again(site: Site) -> None:
    site.send(TransferAbroad("TH", FRIEND, Asset.GTX, 10_005))
    site.grow(site.met)
    first = next(relay for relay in site.relays if relay.due())
    again = site.relay(VALIDATORS[site.relays.index(first)])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(again.run)
        await site.submitted.wait()
        nursery.cancel_scope.cancel()
    site.grow(site.national)
    assert ledger.account(site.national.store, FRIEND).gtx_ugtx == 10_005
    assert site.known.height == 1
    assert site.known.outbox_count == 1
    site.grow(site.met)
    inbox = inbox_of(site.met.store)
    assert inbox is not None
    assert inbox.next == 1
    assert site.due() == []  # Which is worth no checkpoint of its own.
    site.grow(site.national, LIVENESS_BLOCKS)
    assert len(site.due()) == 1


async def test_what_somebody_else_has_sent_is_sent_again_only_later(site: Site) -> None:
    site.send(TransferAbroad("TH", FRIEND, Asset.GTX, 10_005))
    site.grow(site.met)
    relay = next(relay for relay in site.relays if relay.due())
    assert relay.due() == []
    site.grow(site.national, RETRY_BLOCKS)
    commands = relay.due()
    assert len(commands) == 1
    await relay._send(commands)
    other = next(one for one in site.relays if one is not relay)
    await other._send(commands)
    assert (relay.sent["MET"], other.sent["MET"]) == (1, 0)
    assert site.refused == [ErrorCode.DUPLICATE]
    site.grow(site.national)
    assert site.due() == []


async def test_a_round_that_fails_ends_neither_the_relay_nor_the_node(
    site: Site,
) -> None:
    moved, rounds = [trio.Event(), trio.Event()], 0

    def regions() -> dict[str, Executor]:
        nonlocal rounds
        rounds += 1
        if rounds == 1:
            raise ZeroDivisionError
        return {}

    async def submit(raws: Sequence[bytes]) -> list[Rejected | None]:
        raise AssertionError("nothing is due")

    before = house.failures["relay"]
    relay = Relay(site.national, regions, VALIDATORS[0], submit, lambda: moved[min(rounds, 1)])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(relay.run)
        with trio.fail_after(PATIENCE_S):
            while house.failures["relay"] == before:  # noqa: ASYNC110 - in a worker thread
                await trio.sleep(0.01)
            moved[0].set()  # The next national block.
            while rounds < 2:  # noqa: ASYNC110 - in a worker thread
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
    assert house.failures["relay"] == before + 1


@pytest.mark.parametrize(("blocks", "is_by_bytes"), [(1, False), (1, True), (2, False), (2, True)])
def test_more_messages_than_a_checkpoint_holds_go_block_by_block(
    site: Site, monkeypatch: pytest.MonkeyPatch, blocks: int, is_by_bytes: bool
) -> None:
    """To the message and to the byte: two blocks of two messages, where one or both fit."""
    for _ in range(2):
        for _ in range(2):
            site.send(TransferAbroad("TH", FRIEND, Asset.GTX, 10_005))
        site.grow(site.met)
    sent = [encode(one) for one in messages_from(site.met.store, "TH", 0, 4, 2)]
    limit, total = "MAX_CHECKPOINT_MESSAGES", len(sent)
    if is_by_bytes:
        limit, total = "MAX_CHECKPOINT_BYTES", sum(map(len, sent))
    monkeypatch.setattr(module, limit, total if blocks == 2 else total - 1)
    (command,) = next(found for relay in site.relays if (found := relay.due()))
    assert list(command.messages) == sent[: 2 * blocks]
    assert site.met.store.certificate(blocks) == command.certificate


def test_who_is_no_authority_of_the_region_leaves_it_to_them(site: Site) -> None:
    stranger = site.relay(dev_key("stranger"))
    site.send(TransferAbroad("TH", FRIEND, Asset.GTX, 10_005))
    site.grow(site.met)
    site.grow(site.national, 4 * TAKE_OVER_BLOCKS)
    assert stranger.due() == []


def test_a_block_that_names_an_unknown_national_block_waits_for_it(
    site: Site, tmp_path: Path
) -> None:
    behind = Site(tmp_path / "two")
    try:
        site.grow(site.national)
        block = site.build(site.met)
        assert block.header.root_height == 1
        behind.clock.ms = site.clock.ms
        waiting = behind.met.check_fresh(block, 0, 0)
        assert waiting == NotYet(behind.clock.ms + NATIONAL_WAIT_MS, for_national=True)
        decided = site.national.store.block(1)
        assert decided is not None
        first = decode_block(decided)
        signers = site.national.tip.sets.at(1).validators
        certificate = certify(signers, first.header.chain_id, 1, first.header.hash)
        behind.national.apply_decided(first, [], certificate)
        assert behind.met.check_fresh(block, 0, 0) is None
    finally:
        behind.database.close()


def test_a_region_goes_on_while_the_national_chain_stands(site: Site) -> None:
    site.grow(site.national)
    site.grow(site.met, 10)
    heights = {site.met.store.block(height) is not None for height in range(1, 11)}
    inbox = inbox_of(site.met.store)
    assert heights == {True}
    assert inbox is not None
    assert inbox.root_height == 1


def test_hashes_of_national_blocks_are_known_as_far_as_there_are_blocks(site: Site) -> None:
    view = DecidedNational(site.national.store)
    assert view.head() == (0, bytes(32))
    assert view.hash_at(0) is None
    assert view.hash_at(1) is None
    site.grow(site.national, 3)
    assert view.hash_at(3) == site.national.tip.hash
    first = view.hash_at(1)
    assert first is not None
    assert site.national.store.height_of(first) == 1
    assert view.hash_at(4) is None
