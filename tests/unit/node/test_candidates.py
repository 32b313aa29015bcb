"""Finding a proposal's body: believed when it hashes to what was signed, whoever sends it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from gridtokenx.chain.block import (
    MAX_BLOCK_EVIDENCE,
    MAX_BLOCK_TRANSACTIONS,
    MAX_COMMIT_BYTES,
    CompactBlock,
)
from gridtokenx.chain.transaction import (
    MAX_TRANSACTION_BYTES,
    Transaction,
    TransactionBatch,
    sign_transaction,
)
from gridtokenx.cluster.devnet import DEV_ACCOUNT, dev_key, local_genesis
from gridtokenx.consensus.evidence import Evidence, EvidenceKind
from gridtokenx.consensus.messages import (
    MAX_VIEW,
    IndexedSignature,
    Phase,
    QuorumCertificate,
    Timeout,
    Vote,
)
from gridtokenx.ledger.model import Asset, Transfer
from gridtokenx.network.gossipsub.events import MAX_MESSAGE_BYTES, GossipVerdict, Origin
from gridtokenx.network.host import NetworkError
from gridtokenx.network.peers.budget import StrangersBudget
from gridtokenx.network.peers.peer import PeerId
from gridtokenx.network.requests import RequestRefused
from gridtokenx.node import candidates
from gridtokenx.node.bodies import REMEMBERED_BLOCKS, Batcher, Recent, decode_and_verify
from gridtokenx.node.candidates import (
    MAX_PROPOSALS,
    PROPOSAL_WAIT_S,
    VIEWS_AHEAD,
    Candidates,
    decode_body_request,
    is_consistent,
)
from gridtokenx.node.executor import Executor
from gridtokenx.node.protocol import (
    BATCH_BYTES,
    BodiesRequest,
    BodiesResponse,
    ProposalRequest,
)
from gridtokenx.node.strangers import Lane, Strangers
from gridtokenx.primitives.codec import MAX_INT, decode, encode
from gridtokenx.primitives.crypto import sha256
from gridtokenx.primitives.errors import ErrorCode, Rejected
from gridtokenx.primitives.validators import MAX_VALIDATORS
from gridtokenx.runtime.worker import Urgency
from gridtokenx.storage.database import Database
from gridtokenx.views.stages import Stages

GENESIS = local_genesis(with_national=False)
MET = GENESIS.chain("MET")
DEV = dev_key(DEV_ACCOUNT)
TRUSTED = Lane(Urgency.FORWARDED)
HONEST, LIAR = PeerId(b"honest"), PeerId(b"liar")


def pay(nonce: int) -> Transaction:
    return sign_transaction(DEV, MET.chain_id, nonce, Transfer(sha256(b"shop"), Asset.GTX, 10_000))


class Node:
    """A chain's candidates over a real executor; `answers` is what its peers would say."""

    def __init__(self, path: Path) -> None:
        self.database = Database(path)
        self.executor = Executor(
            MET, self.database.chain("MET"), lambda: GENESIS.genesis_time_ms + 60_000
        )
        self.answers: dict[PeerId, Candidates] = {}
        self.asked: list[PeerId] = []
        self.candidates = Candidates(
            self.executor, Recent(), self.ask, lambda: tuple(sorted(self.answers))
        )

    async def ask(self, peer: PeerId, kind: str, payload: bytes) -> bytes:
        assert kind == "bodies"
        self.asked.append(peer)
        await trio.lowlevel.checkpoint()
        return self.answers[peer].answer(decode_body_request(payload))


@pytest.fixture
def leader(tmp_path: Path) -> Iterator[Node]:
    node = Node(tmp_path / "leader")
    node.executor.pending.admit([pay(nonce) for nonce in range(3)], heard=False)
    yield node
    node.database.close()


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    node = Node(tmp_path / "node")
    yield node
    node.database.close()


@pytest.fixture
def proposal(leader: Node) -> CompactBlock:
    return leader.executor.build(0, leader.executor.tip.sets.leader(1, 0))


async def hear(
    node: Node, block: CompactBlock, lane: Lane = TRUSTED, view: int = 0
) -> GossipVerdict:
    return await node.candidates.accept_gossip(lane, encode(block), view)


def note(node: Node, block_hash: bytes, view: int = 0) -> None:
    node.candidates.note_proposal(1, view, block_hash)


def strangers_block(proposal: CompactBlock, number: int) -> CompactBlock:
    return replace(proposal, header=replace(proposal.header, time_ms=number + 1))


async def test_a_gossiped_block_is_kept_once_its_proposal_is_known(
    node: Node, proposal: CompactBlock, autojump_clock: MockClock
) -> None:
    note(node, proposal.header.hash)
    assert await hear(node, proposal) is GossipVerdict.ACCEPT


async def test_a_block_may_overtake_its_proposal(
    node: Node, proposal: CompactBlock, autojump_clock: MockClock
) -> None:
    verdicts = []

    async def accept() -> None:
        verdicts.append(await hear(node, proposal))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(accept)
        await trio.sleep(1)
        note(node, sha256(b"another"), 1)
        await trio.sleep(0.5)
        assert verdicts == []
        note(node, proposal.header.hash)
    assert verdicts == [GossipVerdict.ACCEPT]


async def test_a_block_that_nobody_proposed_is_not_forwarded(
    node: Node, proposal: CompactBlock, autojump_clock: MockClock
) -> None:
    assert await hear(node, proposal) is GossipVerdict.IGNORE


async def test_a_flood_of_strangers_blocks_does_not_hide_the_leaders(
    node: Node, proposal: CompactBlock, autojump_clock: MockClock
) -> None:
    verdicts = []

    async def accept(block: CompactBlock) -> None:
        verdicts.append((block is proposal, await hear(node, block) is GossipVerdict.ACCEPT))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(accept, proposal)
        for number in range(3 * MAX_PROPOSALS):
            nursery.start_soon(accept, strangers_block(proposal, number))
        await trio.sleep(1)
        note(node, proposal.header.hash)
    assert [one for one in verdicts if one[0] or one[1]] == [(True, True)]


async def test_a_proposed_header_with_another_body_is_not_kept(
    node: Node, proposal: CompactBlock, autojump_clock: MockClock
) -> None:
    note(node, proposal.header.hash)
    for lie in (
        replace(proposal, transaction_ids=proposal.transaction_ids[1:]),
        replace(proposal, last_commit=b"another"),
    ):
        assert not is_consistent(lie)
        assert await hear(node, lie) is GossipVerdict.IGNORE


async def test_a_body_is_put_together_from_our_pool_and_a_peer(
    node: Node, leader: Node, proposal: CompactBlock, autojump_clock: MockClock
) -> None:
    node.executor.pending.admit([pay(0)], heard=False)
    node.answers = {HONEST: leader.candidates}
    found = await node.candidates.find(proposal.header.hash)
    assert found is not None
    block, transactions = found
    assert transactions == [pay(0), pay(1), pay(2)]
    node.executor.check(block, transactions)
    assert node.executor.candidate(proposal.header.hash) is not None


async def test_nothing_is_found_where_nobody_has_it(
    node: Node, proposal: CompactBlock, autojump_clock: MockClock
) -> None:
    assert await node.candidates.find(proposal.header.hash) is None


class Forger:
    """Answers every request with something else."""

    def __init__(self, answer: bytes) -> None:
        self._answer = answer

    def answer(self, _request: object) -> bytes:
        return self._answer


class Mute:
    def answer(self, _request: object) -> bytes:
        raise NetworkError("closed", "gone")


async def test_a_liar_costs_a_request_and_plants_nothing(
    node: Node, leader: Node, proposal: CompactBlock, autojump_clock: MockClock
) -> None:
    unsigned = replace(pay(0), signature=bytes(64))
    lies = [
        b"",
        b"\xff",
        encode(strangers_block(proposal, 0)),
        encode(BodiesResponse((unsigned.encoded, pay(9).encoded, b"\xff"))),
    ]
    for lie in lies:
        node.answers = {HONEST: leader.candidates, LIAR: Forger(lie)}  # type: ignore[dict-item]
        node.answers[PeerId(b"mute")] = Mute()  # type: ignore[assignment]
        found = await node.candidates.find(proposal.header.hash)
        assert found is not None
        assert found[1] == [pay(0), pay(1), pay(2)]
    node.answers = {LIAR: Forger(lies[-1])}  # type: ignore[dict-item]
    fresh = strangers_block(proposal, 7)
    node.candidates.add_compact(fresh)
    assert await node.candidates.find(fresh.header.hash) is not None  # from what it remembers


async def test_what_we_voted_on_is_found_on_our_own_disk(
    node: Node, leader: Node, proposal: CompactBlock, autojump_clock: MockClock
) -> None:
    execution = leader.executor.candidate(proposal.header.hash)
    assert execution is not None
    body = (proposal.header.hash, execution.block.encoded)
    node.executor.store.save_safety(b"record", [body])
    found = await node.candidates.find(proposal.header.hash)
    assert found is not None
    assert found[0] == execution.block


async def test_what_no_leader_of_now_proposed_is_not_waited_for(
    node: Node, proposal: CompactBlock
) -> None:
    """Without a clock that jumps: it is told at once."""
    leaders = [node.executor.tip.sets.leader(1, view) for view in range(3)]
    header = proposal.header
    for changes in (
        {"height": 0},
        {"height": 3},
        {"proposer_index": (leaders[0] + 1) % 4},
        {"view0": VIEWS_AHEAD + 1, "proposer_index": leaders[VIEWS_AHEAD + 1]},
        {"view0": 2**31},
    ):
        lie = replace(proposal, header=replace(header, **changes))
        with trio.fail_after(PROPOSAL_WAIT_S / 2):
            assert await hear(node, lie) is GossipVerdict.IGNORE
    for data in (
        b"",
        b"\xff",
        encode(replace(proposal, header=replace(header, chain_id=bytes(32)))),
    ):
        assert await node.candidates.accept_gossip(TRUSTED, data, 0) is GossipVerdict.REJECT


async def test_of_two_proposals_of_a_view_the_first_counts(
    node: Node, proposal: CompactBlock, autojump_clock: MockClock
) -> None:
    other = strangers_block(proposal, 1)
    note(node, proposal.header.hash)
    note(node, other.header.hash)
    assert await hear(node, other) is GossipVerdict.IGNORE
    assert await hear(node, proposal) is GossipVerdict.ACCEPT
    node.candidates.note_decided(1)
    assert not node.candidates._signed
    node.candidates.note_decided(2)
    assert not node.candidates._compact


async def test_a_large_block_is_hashed_in_a_thread_and_paid_by_who_made_it_up(
    node: Node, proposal: CompactBlock
) -> None:
    budget = StrangersBudget()
    strangers = Strangers(budget, lambda peer: peer.hex())
    ids = tuple(sha256(b"%d" % number) for number in range(5_000))
    lie = replace(proposal, transaction_ids=ids)
    note(node, proposal.header.hash)
    async with strangers.lane(Origin(LIAR, LIAR), len(encode(lie))) as lane:
        assert lane is not None
        assert await hear(node, lie, lane) is GossipVerdict.IGNORE
    assert budget.spent_s > 0


async def test_an_answer_that_was_not_asked_for_is_not_verified(
    node: Node, leader: Node, proposal: CompactBlock, autojump_clock: MockClock
) -> None:
    node.candidates.add_compact(proposal)
    more = BodiesResponse(tuple(pay(nonce).encoded for nonce in range(4)))
    node.answers = {LIAR: Forger(encode(more))}  # type: ignore[dict-item]
    assert await node.candidates.find(proposal.header.hash) is None
    assert node.executor.stages.seconds()["verify"] == 0
    node.answers = {LIAR: Forger(encode(more)), PeerId(b"mute"): leader.candidates}  # type: ignore[dict-item]
    assert await node.candidates.find(proposal.header.hash) is not None


async def test_a_body_beyond_a_legal_block_is_not_collected(
    node: Node, leader: Node, proposal: CompactBlock, monkeypatch: pytest.MonkeyPatch
) -> None:
    node.candidates.add_compact(proposal)
    node.answers = {HONEST: leader.candidates}
    monkeypatch.setattr(candidates, "MAX_BLOCK_BYTES", 2 * len(pay(0).encoded))
    assert await node.candidates.find(proposal.header.hash) is None
    assert node.candidates._recent.get(pay(0).id) is None


def test_an_answer_holds_no_more_than_fits(leader: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(candidates, "RESPONSE_BYTES", 2 * len(pay(0).encoded) + 16)
    ids = tuple(pay(nonce).id for nonce in range(3))
    bodies = decode(BodiesResponse, leader.candidates.answer(BodiesRequest("MET", ids)))
    assert bodies.transactions == (pay(0).encoded, pay(1).encoded)


def test_the_largest_compact_block_fits_a_message(proposal: CompactBlock) -> None:
    signatures = tuple(IndexedSignature(index, bytes(64)) for index in range(MAX_VALIDATORS))
    certificate = QuorumCertificate(Phase.PREPARE, MAX_INT, MAX_VIEW, bytes(32), signatures)
    vote = Vote(Phase.COMMIT, MAX_INT, MAX_VIEW, bytes(32), 127, bytes(64))
    timeout = Timeout(MAX_INT, MAX_VIEW, MAX_VIEW, bytes(32), 127, bytes(64), certificate)
    evidence = Evidence(EvidenceKind.AMNESIA, bytes(32), vote, timeout)
    largest = CompactBlock(
        proposal.header,
        (bytes(32),) * MAX_BLOCK_TRANSACTIONS,
        bytes(MAX_COMMIT_BYTES),
        (evidence,) * MAX_BLOCK_EVIDENCE,
    )
    assert decode(CompactBlock, encode(largest), MAX_MESSAGE_BYTES) == largest


def test_requests_are_answered_with_what_is_here(leader: Node, proposal: CompactBlock) -> None:
    answer = leader.candidates.answer(ProposalRequest("MET", proposal.header.hash))
    assert decode(CompactBlock, answer) == proposal
    with pytest.raises(RequestRefused):
        leader.candidates.answer(ProposalRequest("MET", sha256(b"unknown")))
    ids = (pay(2).id, sha256(b"unknown"), pay(0).id)
    bodies = decode(BodiesResponse, leader.candidates.answer(BodiesRequest("MET", ids)))
    assert bodies.transactions == (pay(2).encoded, pay(0).encoded)
    with pytest.raises(Rejected):
        decode_body_request(b"\xff")


def test_transactions_from_outside_get_a_verdict_each() -> None:
    raws = [
        pay(0).encoded,
        replace(pay(0), nonce=1).encoded,
        b"\xff",
        bytes(MAX_TRANSACTION_BYTES + 1),
    ]
    good, *bad = decode_and_verify(raws, Stages())
    assert good == pay(0)
    assert [one.code for one in bad if isinstance(one, Rejected)] == [
        ErrorCode.BAD_SIGNATURE,
        ErrorCode.MALFORMED_TX,
        ErrorCode.TOO_LARGE,
    ]


def test_bodies_of_proposals_are_bounded_in_bytes_and_forgotten_at_the_next_height() -> None:
    size = len(pay(0).encoded)
    recent = Recent(max_bytes=2 * size)
    for nonce in (0, 0, 1, 1, 2):
        recent.add(pay(nonce))
    assert [recent.get(pay(nonce).id) for nonce in range(3)] == [None, pay(1), pay(2)]
    recent.note_decided([pay(1)])
    assert [recent.get(pay(nonce).id) for nonce in range(3)] == [None, pay(1), None]
    for nonce in range(3, 6):
        recent.add(pay(nonce))
    assert [recent.get(pay(nonce).id) for nonce in range(3, 6)] == [None, pay(4), pay(5)]


def test_bodies_are_forgotten_a_block_after_they_were_decided() -> None:
    recent = Recent()
    for nonce in range(2):
        recent.add(pay(nonce))
    recent.note_decided([pay(0), pay(7)])
    assert [recent.get(pay(nonce).id) for nonce in (0, 1, 7)] == [pay(0), None, pay(7)]
    assert [recent.is_decided(pay(nonce).id) for nonce in (0, 1, 7)] == [True, False, True]
    recent.note_decided([pay(1)])
    assert [recent.get(pay(nonce).id) for nonce in (0, 1, 7)] == [None, pay(1), None]
    assert all(recent.is_decided(pay(nonce).id) for nonce in (0, 1, 7))


def test_decided_ids_are_forgotten_after_many_blocks() -> None:
    recent = Recent()
    for height in range(REMEMBERED_BLOCKS + 10):
        recent.note_decided([pay(height)])
    known = [height for height in range(height + 1) if recent.is_decided(pay(height).id)]
    assert known == list(range(9, height + 1))  # The newest block, and a hundred before it.
    assert len(recent._ids) == REMEMBERED_BLOCKS


async def test_batches_leave_after_a_pause_or_when_full(autojump_clock: MockClock) -> None:
    sent: list[bytes] = []
    batcher = Batcher(sent.append)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(batcher.run)
        batcher.add([pay(0), pay(1)])
        await trio.sleep(0.04)
        assert sent == []
        await trio.sleep(0.02)
        assert decode(TransactionBatch, sent[0]).transactions == (
            pay(0).encoded,
            pay(1).encoded,
        )
        many = [pay(0)] * (BATCH_BYTES // len(pay(0).encoded) + 1)
        batcher.add(many)
        assert len(sent) == 2
        assert len(sent[1]) < BATCH_BYTES + 16 * len(many)
        await trio.sleep(1)
        assert sum(len(decode(TransactionBatch, one).transactions) for one in sent[1:]) == len(many)
        nursery.cancel_scope.cancel()
