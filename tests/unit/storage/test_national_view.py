"""A region's executor beside the national chain's, on one real database."""

from __future__ import annotations

from pathlib import Path

import pytest

from gridtokenx.chain.block import decode_block
from gridtokenx.chain.transaction import Payload, sign_transaction
from gridtokenx.cluster.devnet import AUTHORITIES, NATIONAL, dev_key, local_genesis, validator_name
from gridtokenx.consensus.messages import (
    IndexedSignature,
    Phase,
    QuorumCertificate,
    vote_bytes,
)
from gridtokenx.interchain.model import TransferAbroad
from gridtokenx.ledger import rules as ledger
from gridtokenx.ledger.model import Asset
from gridtokenx.node.executor import Executor, NotYet
from gridtokenx.primitives.codec import decode
from gridtokenx.primitives.errors import Rejected
from gridtokenx.storage.database import Database
from gridtokenx.storage.national_view import DecidedNational

GENESIS = local_genesis(with_national=True)
KEYS = {
    key.public_key: key
    for key in (dev_key(validator_name(index)[1]) for index in range(len(AUTHORITIES)))
}
DEV = dev_key("dev")
FRIEND = dev_key("friend").public_key


class Home:
    """A node that follows the national chain and one region."""

    def __init__(self, path: Path) -> None:
        self.database = Database(path)
        self.ms = GENESIS.genesis_time_ms + 10_000
        store = self.database.chain(NATIONAL)
        self.national = Executor(GENESIS.chain(NATIONAL), store, lambda: self.ms)
        self.region = Executor(
            GENESIS.chain("MET"),
            self.database.chain("MET"),
            lambda: self.ms,
            national=DecidedNational(store),
        )

    def send(self, executor: Executor, payload: Payload) -> None:
        nonce = executor.pending.next_nonce(DEV.public_key)
        one = sign_transaction(DEV, executor.spec.chain_id, nonce, payload)
        assert executor.pending.admit([one], heard=False)[0] == [None]

    def build(self, executor: Executor) -> bytes:
        self.ms += 1_000
        return executor.build(0, 0).header.hash

    def decide(self, executor: Executor) -> bytes:
        block_hash = self.build(executor)
        height = executor.tip.height + 1
        members = executor.tip.sets.at(height).validators.members
        signed = vote_bytes(Phase.COMMIT, executor.spec.chain_id, height, 0, block_hash)
        signatures = tuple(
            IndexedSignature(index, KEYS[member.public_key].sign(signed))
            for index, member in enumerate(members)
        )
        certificate = QuorumCertificate(Phase.COMMIT, height, 0, block_hash, signatures)
        executor.commit(block_hash, certificate)
        return block_hash


@pytest.fixture
def homes(tmp_path: Path):  # type: ignore[no-untyped-def]
    made = [Home(tmp_path / name) for name in ("one", "two")]
    yield made
    for home in made:
        home.database.close()


def test_a_region_takes_what_the_national_chain_has_decided(homes: list[Home]) -> None:
    """Another node prepares the block only once it has decided the national block it names."""
    home, other = homes
    home.send(home.national, TransferAbroad("MET", FRIEND, Asset.GTX, 42_000))
    national_hash = home.decide(home.national)
    proposed = home.region.candidate(home.build(home.region))
    assert proposed is not None
    block = proposed.block
    header = block.header
    assert (header.root_height, header.root_hash) == (1, national_hash)
    assert (len(block.inbox), header.inbox_next) == (1, 1)
    other.ms = home.ms
    assert isinstance(other.region.check_fresh(block, 0, 0), NotYet)
    decided = home.national.store.block(1)
    certificate = home.national.store.certificate(1)
    assert decided
    assert certificate
    _follow(other.national, decided, certificate)
    assert other.region.check_fresh(block, 0, 0) is None
    other.region.check(block, [])
    home.decide(home.region)
    assert ledger.account(home.region.store, FRIEND).gtx_ugtx == 42_000


def test_a_fork_of_the_national_chain_is_not_followed(homes: list[Home]) -> None:
    home, other = homes
    home.send(home.national, TransferAbroad("MET", FRIEND, Asset.GTX, 42_000))
    home.decide(home.national)
    other.decide(other.national)  # Another block 1.
    proposed = home.region.candidate(home.build(home.region))
    assert proposed is not None
    other.ms = home.ms
    with pytest.raises(Rejected, match="root_hash is not the national block's"):
        other.region.check_fresh(proposed.block, 0, 0)


def _follow(executor: Executor, raw: bytes, certificate: bytes) -> None:
    block = decode_block(raw)
    transactions = block.decode_transactions()
    executor.apply_decided(block, transactions, decode(QuorumCertificate, certificate))
