"""A chain's runner over real executors, drivers and stores: incarnations, safety records, stops."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio

from gridtokenx.chain.block import decode_block
from gridtokenx.chain.genesis import is_incarnation_name
from gridtokenx.cluster.devnet import dev_key, local_genesis, validator_name
from gridtokenx.consensus.events import SafetyRecord
from gridtokenx.consensus.messages import IndexedSignature, Phase, QuorumCertificate, vote_bytes
from gridtokenx.home.settings import SyncSettings
from gridtokenx.interchain.checkpoints import incarnations_of
from gridtokenx.interchain.incarnations import incarnation_id
from gridtokenx.interchain.model import INCARNATIONS, AuthorityMember, Incarnation
from gridtokenx.network.host import NetworkError
from gridtokenx.network.peers.peer import PeerId
from gridtokenx.network.requests import RequestRefused
from gridtokenx.node import key_guard
from gridtokenx.node.answers import answer_ancestry
from gridtokenx.node.chain_runner import ChainRunner, Surroundings
from gridtokenx.node.contacts import Claim
from gridtokenx.node.executor import Executor
from gridtokenx.node.life import VouchRefused, first_record
from gridtokenx.node.protocol import BlocksRequest, BlocksResponse, ChainHead, DecidedBlock, Topics
from gridtokenx.node.syncing import likeliest
from gridtokenx.node.wiring import Wiring
from gridtokenx.primitives.codec import decode, encode
from gridtokenx.primitives.crypto import SigningKey
from gridtokenx.primitives.errors import ErrorCode
from gridtokenx.primitives.state import u64
from gridtokenx.runtime.stopping import NotMissing, NotPresent, StopNode
from gridtokenx.storage.database import Database
from gridtokenx.views.stages import Stages
from tests.support.patience import PATIENCE_S, until

GENESIS = replace(local_genesis(), block_time_ms=100, timeout_base_ms=500)
MET = GENESIS.chain("MET")
OLD = [dev_key(validator_name(index)[1]) for index in range(4)]
SOLE, STRANGER = dev_key("sole authority"), dev_key("stranger")
PEER = PeerId(b"peer")
BASE = 3


@pytest.fixture(autouse=True)
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """A key that starts again hears others for a moment only: there are none."""
    monkeypatch.setattr(key_guard, "HOLD_SECONDS", 0.05)


class Gossip:
    """What a node is subscribed to."""

    def __init__(self) -> None:
        self.topics: dict[str, Callable[..., Any]] = {}
        self.published: list[tuple[str, bytes]] = []

    def subscribe(self, topic: str, validator: Callable[..., Any]) -> None:
        self.topics[topic] = validator

    def unsubscribe(self, topic: str) -> None:
        del self.topics[topic]

    def publish(self, topic: str, data: bytes) -> None:
        self.published.append((topic, data))

    @property
    def chains(self) -> set[str]:
        return {topic.split("/")[3] for topic in self.topics}


class Home:
    """One node's data folder with BASE + 2 blocks of MET, and what its runner needs."""

    def __init__(
        self,
        folder: Path | Database,
        key: SigningKey | None,
        resume_above: dict[str, int] | None = None,
        age_ms: int = 0,
    ) -> None:
        """`folder`: or the open data folder of a node that has ended. `age_ms`: of its blocks."""
        self.database = folder if isinstance(folder, Database) else Database(folder)
        self.gossip = Gossip()
        self.reported: list[tuple[PeerId, str]] = []
        self.answers: list[bytes] = []
        self.peers: tuple[PeerId, ...] = ()
        Executor(GENESIS.chain("TH"), self.database.chain("TH"), self.now_ms)
        then_ms = self.now_ms() - age_ms
        self.met = Executor(MET, self.database.chain("MET"), lambda: then_ms)
        if self.met.tip.height == 0:
            for _ in range(BASE + 2):
                grow(self.met, OLD)
        self.around = Surroundings(
            genesis=GENESIS,
            database=self.database,
            sync=SyncSettings(),
            stages=Stages(),
            wiring=Wiring(
                gossip=self.gossip,  # type: ignore[arg-type]
                ask=self._ask,
                now_ms=self.now_ms,
                timer_ms=lambda: time.monotonic_ns() // 1_000_000,
            ),
            validator=key,
            resume_above=resume_above or {},
            vote=True,
            report=lambda peer, offence: self.reported.append((peer, offence)),
            claims=lambda _chain_id: {peer: Claim(0) for peer in self.peers},
            neighbours=lambda _name: self.peers,
            may_propose=lambda _name: True,
            on_block=lambda _name, _time_ms: None,
        )

    async def open(self) -> None:
        """Open the present incarnation, as at every start."""
        self.runner = await ChainRunner.open("MET", self.around)

    @staticmethod
    def now_ms() -> int:
        return time.time_ns() // 1_000_000

    async def _ask(self, _peer: PeerId, kind: str, payload: bytes) -> bytes:
        if kind == "ancestry":
            return answer_ancestry(payload, lambda _name: [self.met.store])
        if not self.answers:
            raise NetworkError("timeout", "nobody is there")
        asked = decode(BlocksRequest, payload)
        if asked.chain_id != self.runner.spec.chain_id:
            raise RequestRefused("of another incarnation")
        return self.answers.pop(0)

    def decree(self, keys: Sequence[SigningKey] = (SOLE,), height: int = BASE) -> Incarnation:
        """The national chain has another row, as a vote writes it."""
        state = self.database.chain("TH")
        known = incarnations_of(state, "MET")
        number, former = (known[-1].number + 1, known[-1].chain_id) if known else (2, MET.chain_id)
        block_hash = decode_block(self.met.store.block(height) or b"").header.hash
        members = tuple(AuthorityMember(key.public_key, 1, key.public_key) for key in keys)
        chain_id = incarnation_id(former, number, block_hash)
        born = Incarnation("MET", number, chain_id, height, block_hash, 0, members)
        row = INCARNATIONS.prefix + b"MET\x00" + u64(number)
        self.database.write([(b"TH/s" + row, encode(born))])
        self.runner.note_national()
        return born

    def record(self, name: str) -> SafetyRecord | None:
        raw = self.database.chain(name).load_safety()
        return None if raw is None else decode(SafetyRecord, raw)

    def keep_record(self, name: str, height: int) -> None:
        self.database.chain(name).save_safety(encode(first_record(height)), ())

    @property
    def place(self) -> tuple[int, int]:
        """Incarnation and height."""
        return self.runner.spec.incarnation, self.runner.executor.tip.height


def grow(executor: Executor, keys: Sequence[SigningKey]) -> None:
    block_hash = executor.build(0, 0).header.hash
    executor.commit(block_hash, certify(executor, keys, block_hash))


def certify(executor: Executor, keys: Sequence[SigningKey], block_hash: bytes) -> QuorumCertificate:
    height = executor.tip.height + 1
    signed = vote_bytes(Phase.COMMIT, executor.spec.chain_id, height, 0, block_hash)
    by_key = {key.public_key: key for key in keys}
    members = executor.tip.sets.at(height).validators.members
    signatures = tuple(
        IndexedSignature(index, by_key[member.public_key].sign(signed))
        for index, member in enumerate(members)
    )
    return QuorumCertificate(Phase.COMMIT, height, 0, block_hash, signatures)


@asynccontextmanager
async def running(home: Home) -> AsyncIterator[ChainRunner]:
    await home.open()
    async with trio.open_nursery() as nursery:
        await nursery.start(home.runner.run)
        yield home.runner
        nursery.cancel_scope.cancel()


def test_strangers_that_claim_much_are_asked_last_for_bodies() -> None:
    """They would be silent, one after the other, while the view runs out."""
    member = MET.genesis_validators.members[0].public_key
    claims = {
        PeerId(b"liar"): Claim(10**9, b"a key of its own"),
        PeerId(b"low"): Claim(3),
        PeerId(b"next"): Claim(8),
        PeerId(b"member"): Claim(5, member),
        PeerId(b"high"): Claim(7),
    }
    order = likeliest(claims, MET.genesis_validators, highest=8)
    assert order == (b"member", b"next", b"high", b"low", b"liar")


# -- Incarnations ----------------------------------------------------------------------------------


async def test_a_running_chain_goes_on_as_its_next_incarnation(tmp_path: Path) -> None:
    home = Home(tmp_path, SOLE)
    home.keep_record("MET", 0)  # As every new key has it; the vote makes it the only authority.
    async with running(home) as runner:
        assert home.gossip.chains == {"MET"}
        assert runner.head == ChainHead("MET", MET.chain_id, BASE + 2, home.met.tip.hash)
        home.decree()
        await until(lambda: home.place >= (2, BASE + 2))
        assert home.gossip.chains == {"MET@2"}
        assert runner.head.chain_id == runner.spec.chain_id
        assert runner.status.spec.incarnation == 2
        record = home.record("MET@2")
        assert record is not None
        assert record.height > BASE
        assert home.database.chain("MET").head() == (BASE + 2, home.met.tip.hash)
        votes = Topics(GENESIS.network_id, "MET@2").votes
        assert {topic for topic, _ in home.gossip.published if topic.endswith("votes")} == {votes}
        assert runner.life.history(MET.chain_id) is not None
        home.decree(height=BASE - 1)
        await until(lambda: home.place >= (3, BASE + 1))
        assert home.gossip.chains == {"MET@3"}
        assert [one.number for one in runner.spec.incarnations] == [3]


async def test_a_node_that_was_off_goes_on_at_its_start_and_again_after_a_kill(
    tmp_path: Path,
) -> None:
    home = Home(tmp_path, SOLE)
    home.keep_record("MET", 0)
    await home.open()
    home.decree()
    async with running(home):
        await until(lambda: home.place >= (2, BASE + 1))
    height = home.place[1]
    again = Home(home.database, SOLE)
    async with running(again) as runner:
        assert again.place >= (2, height)
        await until(lambda: again.place > (2, height))
        assert runner.status.sync_state != "rebuilding"


async def test_what_is_missing_is_fetched_while_the_status_tells_of_it(tmp_path: Path) -> None:
    other = Home(tmp_path / "other", None)
    home = Home(tmp_path / "one", None)
    await home.open()
    born = replace(home.decree(), height=BASE + 1, hash=other.met.tip.hash)
    block_hash = decode_block(other.met.store.block(BASE + 1) or b"").header.hash
    assert block_hash != decode_block(home.met.store.block(BASE + 1) or b"").header.hash
    born = replace(born, hash=block_hash, chain_id=incarnation_id(MET.chain_id, 2, block_hash))
    row = INCARNATIONS.prefix + b"MET\x00" + u64(2)
    home.database.write([(b"TH/s" + row, encode(born))])
    async with running(home) as runner:
        assert runner.phase == "rebuilding"
        assert (runner.status.sync_state, runner.status.sync_target) == ("rebuilding", BASE + 1)
        assert home.gossip.chains == set()
        (refused,) = await runner.submit([b"anything"])
        assert refused is not None
        assert refused.code is ErrorCode.NOT_ACTIVE
        home.met = other.met
        home.peers = (PEER,)
        await until(lambda: runner.phase == "running")
        assert runner.executor.tip.hash == block_hash


# -- Safety records --------------------------------------------------------------------------------


async def test_a_key_without_a_record_is_silent_until_its_operator_vouches(tmp_path: Path) -> None:
    """All members are new, so nobody is heard: only the operators' word lets the region begin."""
    home = Home(tmp_path, SOLE)
    await home.open()
    home.decree()
    async with running(home) as runner:
        await until(lambda: runner.phase == "running")
        await trio.sleep(0.5)  # Ten times as long as it would hold.
        assert home.place == (2, BASE)
        assert home.record("MET@2") is None
        assert runner.vouch() == f"the key signs MET from block {BASE + 1} on"
        await until(lambda: home.place >= (2, BASE + 1))
        with pytest.raises(VouchRefused, match=f"block {BASE + 1} of MET is decided"):
            runner.vouch()


@pytest.mark.parametrize(
    ("key", "later", "why"),
    [
        (SOLE, False, "in its first incarnation"),
        (None, True, "no validator key"),
        (STRANGER, True, "not one that MET begins with"),
    ],
)
async def test_whose_word_is_not_taken(
    tmp_path: Path, key: SigningKey | None, later: bool, why: str
) -> None:
    home = Home(tmp_path, key)
    await home.open()
    if later:
        home.decree()
        await home.open()
    with pytest.raises(VouchRefused, match=why):
        home.runner.vouch()
    assert home.record("MET@2") is None


async def test_a_word_given_while_it_is_rebuilt_counts_when_it_begins(tmp_path: Path) -> None:
    home = Home(tmp_path, SOLE)
    await home.open()
    home.decree()
    await home.open()
    assert home.runner.phase == "rebuilding"
    home.runner.vouch()
    assert home.record("MET@2") == first_record(BASE)
    assert "it signs" in home.runner.vouch()
    async with running(home):
        await until(lambda: home.place >= (2, BASE + 1))


async def test_a_backup_of_the_former_incarnation_is_found_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its first record is made anew, though the key has signed the block after it elsewhere."""
    elsewhere = Home(tmp_path / "elsewhere", SOLE)
    elsewhere.keep_record("MET", 0)
    home = Home(tmp_path / "one", SOLE)
    home.keep_record("MET", 0)
    await home.open()
    home.met = elsewhere.met
    home.peers = (PEER,)
    home.decree()
    await elsewhere.open()
    elsewhere.decree()
    async with running(elsewhere):
        await until(lambda: elsewhere.place >= (2, BASE + 2))
        store = elsewhere.runner.executor.store
        blocks = [
            DecidedBlock(store.block(height) or b"", store.certificate(height) or b"")
            for height in (BASE + 1, BASE + 2)
        ]
        # It hears of the blocks while it holds, however slow this machine is.
        monkeypatch.setattr(key_guard, "HOLD_SECONDS", PATIENCE_S)
        async with running(home) as runner:
            await until(lambda: runner.phase == "running")
            home.answers = [encode(BlocksResponse(tuple(blocks)))]
            runner.note_height(PEER, ChainHead("MET", runner.spec.chain_id, BASE + 2, b"h" * 32))
            await until(lambda: home.place >= (2, BASE + 2))
            await trio.sleep(0.5)
            assert home.place == (2, BASE + 2)  # It does not sign where it may have signed.


async def test_a_record_that_is_lost_later_is_not_made_anew(tmp_path: Path) -> None:
    home = Home(tmp_path, SOLE)
    home.keep_record("MET", 0)
    await home.open()
    home.decree()
    async with running(home):
        await until(lambda: home.place >= (2, BASE + 1))
    home.database.write([], [b"MET@2/msafety"])
    again = Home(home.database, SOLE)
    async with running(again) as runner:
        await until(lambda: runner.phase == "running")
        height = again.place[1]
        await trio.sleep(0.5)
        assert again.record("MET@2") is None
        assert again.place == (2, height)


async def test_the_operators_word_at_start_is_for_one_incarnation(tmp_path: Path) -> None:
    home = Home(tmp_path, SOLE, {"MET@2": BASE})
    await home.open()
    home.decree()
    async with running(home):
        await until(lambda: home.place >= (2, BASE + 1))
        assert home.around.resume_above == {}

    late = Home(home.database, SOLE, {"MET": BASE})
    with pytest.raises(NotPresent, match="MET is MET@2 now"):
        await late.open()

    sure = Home(home.database, SOLE, {"MET@2": BASE})
    with pytest.RaisesGroup(NotMissing, flatten_subgroups=True):
        async with running(sure):
            await trio.sleep_forever()


@pytest.mark.parametrize(
    ("text", "is_one"),
    [
        *(("MET", True), ("TH", True), ("MET@2", True), ("NOR@10", True)),
        *(("MET@1", False), ("MET@", False), ("MET@02", False), ("MET@x", False)),
        *(("TH@2", False), ("XYZ", False), ("XYZ@2", False), ("MET@2@3", False)),
        ("MET@" + "9" * 30, False),
    ],
)
def test_names_of_incarnations(text: str, is_one: bool) -> None:
    assert is_incarnation_name(text, GENESIS) is is_one


# -- What is not valid here ------------------------------------------------------------------------


def bad_block(home: Home) -> bytes:
    """An answer with the next block, whose state is not what it must be, certified by all."""
    executor = home.met
    made = executor.candidate(executor.build(0, 0).header.hash)
    assert made is not None
    header = replace(made.block.header, state_root=b"x" * 32)
    certificate = certify(executor, OLD, header.hash)
    block = replace(made.block, header=header)
    return encode(BlocksResponse((DecidedBlock(block.encoded, encode(certificate)),)))


async def test_a_captured_region_stops_alone_and_goes_on_by_a_vote(tmp_path: Path) -> None:
    home = Home(tmp_path, SOLE)
    home.keep_record("MET", 0)
    async with running(home) as runner:
        home.answers = [bad_block(home)]
        runner.note_height(PEER, ChainHead("MET", MET.chain_id, BASE + 4, b"h" * 32))
        await until(lambda: runner.phase == "stopped")
        assert runner.status.sync_state == "stopped"
        assert "GTX-SYNC-001" in runner.status.stopped_because
        assert home.place == (1, BASE + 2)
        assert home.gossip.chains == set()
        assert home.reported == []
        assert runner.life.history(MET.chain_id) is not None
        (refused,) = await runner.submit([b"anything"])
        assert refused is not None
        assert refused.code is ErrorCode.NOT_ACTIVE
        home.decree()
        await until(lambda: home.place >= (2, BASE + 1))
        assert runner.status.stopped_because == ""


async def test_a_region_that_stood_still_for_long_goes_on(tmp_path: Path) -> None:
    """Its authorities have no stake that could have left; the national chain vouches for it."""
    home = Home(tmp_path, SOLE, age_ms=3_600_000)  # Stake leaves this network within a minute.
    home.keep_record("MET", 0)
    async with running(home) as runner:
        assert runner.phase == "running"
        home.decree()
        await until(lambda: home.place >= (2, BASE + 1))


async def test_without_a_national_chain_the_process_ends_as_before(tmp_path: Path) -> None:
    home = Home(tmp_path, None)
    home.around = replace(home.around, genesis=replace(GENESIS, national=None))
    alone = Database(tmp_path / "alone")
    spec = home.around.genesis.chain("MET")
    home.met = Executor(spec, alone.chain("MET"), home.now_ms)
    home.around = replace(home.around, database=alone)
    with pytest.RaisesGroup(StopNode, flatten_subgroups=True):
        async with running(home) as runner:
            home.answers = [bad_block(home)]
            runner.note_height(PEER, ChainHead("MET", spec.chain_id, 2, b"h" * 32))
            await trio.sleep_forever()


async def test_heights_of_other_incarnations_mean_nothing(tmp_path: Path) -> None:
    home = Home(tmp_path, None)
    async with running(home) as runner:
        runner.note_height(PEER, ChainHead("MET", b"o" * 32, 99, b"h" * 32))
        await trio.sleep(0.1)
        runner.beat()
        assert runner.status.sync_state == "waiting_peers"
        assert runner.status.sync_target == BASE + 2
