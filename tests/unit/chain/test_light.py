"""Following a chain's validators by the headers at which they change, alone and by a client."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from gridtokenx.api.errors import ApiError
from gridtokenx.api.methods import proofs
from gridtokenx.chain.light import SetChange, TrustedSet, check_decided, follow_sets
from gridtokenx.chain.light_client import check_account_proof
from gridtokenx.chain.state_tree import StateProof
from gridtokenx.chain.validator_sets import current_set, order_set
from gridtokenx.client import Client
from gridtokenx.cluster.devnet import dev_key, local_genesis, validator_name
from gridtokenx.primitives.codec import decode, encode
from gridtokenx.primitives.errors import ErrorCode, Rejected
from gridtokenx.primitives.state import Overlay, u64
from gridtokenx.primitives.types import format_address
from gridtokenx.primitives.validators import Validator, ValidatorSet
from gridtokenx.storage.index import SET_CHANGES
from gridtokenx.views.status import ChainStatus, Head
from tests.support.api_call import answer
from tests.support.chains_world import Chain

DEV = dev_key("dev").public_key
GENESIS = local_genesis(with_national=False)


@pytest.fixture(scope="module")
def chain() -> Chain:
    """Two authorities join, at 120 and at 180."""
    chain = Chain(GENESIS.chain("MET"))
    members = list(chain.spec.genesis_validators.members)
    for height, index in ((1, 4), (60, 5)):
        members.append(Validator(dev_key(validator_name(index)[1]).public_key, 1))
        overlay = Overlay(chain.values)
        wider = ValidatorSet.of(members)
        order_set(overlay, wider, [bytes(32)] * len(members), height=height, epoch_blocks=60)
        chain.store(overlay)
    while chain.height < 185:
        chain.grow(None)
    return chain


def changes(chain: Chain) -> list[SetChange]:
    return [
        SetChange(
            chain.blocks[height].header,
            chain.certificates[height],
            current_set(chain.values, height + 1).validators,
        )
        for height in (119, 179)
    ]


def test_the_newest_set_follows_from_the_genesis(chain: Chain) -> None:
    told = [decode(SetChange, encode(one)) for one in changes(chain)]
    genesis = TrustedSet(0, chain.spec.genesis_validators)
    signers = follow_sets(chain.spec.chain_id, genesis, told)
    first = follow_sets(chain.spec.chain_id, genesis, told[:1])
    assert follow_sets(chain.spec.chain_id, first, told[1:]) == signers
    assert signers == TrustedSet(179, current_set(chain.values, 185).validators)
    header, certificate = chain.blocks[185].header, chain.certificates[185]
    check_decided(chain.spec.chain_id, header, certificate, signers.validators)
    with pytest.raises(Rejected):
        check_decided(chain.spec.chain_id, header, certificate, chain.spec.genesis_validators)


def test_no_change_can_be_left_out_or_invented(chain: Chain) -> None:
    spec = chain.spec
    first, second = changes(chain)
    old = spec.genesis_validators
    for told, code in (
        ([second], ErrorCode.INVALID_BLOCK),
        ([second, first], ErrorCode.INVALID_BLOCK),
        ([first, first], ErrorCode.INVALID_BLOCK),
        ([replace(first, following=old)], ErrorCode.INVALID_BLOCK),
        ([replace(first, certificate=second.certificate)], ErrorCode.INVALID_CERTIFICATE),
        ([replace(first, header=second.header)], ErrorCode.INVALID_CERTIFICATE),
    ):
        with pytest.raises(Rejected) as refusal:
            follow_sets(spec.chain_id, TrustedSet(0, old), told)
        assert refusal.value.code is code


class Served:
    """The three reads that `account_getProof` makes of a chain's database."""

    def __init__(self, chain: Chain) -> None:
        self._chain = chain
        self._rows = [(SET_CHANGES + u64(one.header.height), encode(one)) for one in changes(chain)]

    def block(self, height: int) -> bytes:
        return self._chain.blocks[height].encoded

    def certificate(self, height: int) -> bytes:
        return encode(self._chain.certificates[height])

    def index_rows(self, prefix: bytes, start: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        return iter([row for row in self._rows if row[0].startswith(prefix) and row[0] >= start])


class Node:
    """Stands for `Client.call`: the method itself over a chain in memory, up to a height."""

    def __init__(self, chain: Chain) -> None:
        self.chain = chain
        self.asked: list[int] = []
        self.forge: Callable[[dict[str, Any]], dict[str, Any]] = dict

    def answer(self, _: str, **raw: str) -> dict[str, Any]:
        self.asked.append(int(raw["since"]))
        chain = self.chain
        parent = chain.parent
        head = Head(parent.height, parent.hash, parent.time_ms, 0, parent.state_root, 0)
        validators = chain.spec.genesis_validators

        def prove(key: bytes) -> tuple[bytes | None, StateProof]:
            return chain.values.values.get(key), chain.tree.prove(key)

        status = ChainStatus(chain.spec, head, Served(chain), validators, prove)  # type: ignore[arg-type]
        context = SimpleNamespace(chain=lambda _: status)
        return self.forge(answer(context, "account_getProof", **raw))


@pytest.fixture
def node(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> Node:
    monkeypatch.setattr(proofs, "MAX_SET_CHANGES", 1)
    return Node(chain)


def client_of(node: Node, monkeypatch: pytest.MonkeyPatch) -> Client:
    client = Client(genesis=GENESIS)
    monkeypatch.setattr(client, "call", node.answer)
    return client


def test_a_client_follows_page_by_page_and_only_once(
    chain: Chain, node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    with client_of(node, monkeypatch) as client:
        for _ in range(2):
            proven = client.proof(DEV, "MET")
            assert proven.trusted == TrustedSet(179, current_set(chain.values, 185).validators)
            assert proven.header.height == 185
    assert node.asked == [0, 119, 179]
    with pytest.raises(ApiError, match="MET is at block 185 here, below 186"):
        node.answer("account_getProof", address=format_address(DEV), since="186")


def test_pages_without_progress_and_answers_that_stop_short_are_refused(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    for forged, code in (
        ({"set_changes": [], "next_since": "5"}, ErrorCode.MALFORMED),
        ({"next_since": None}, ErrorCode.INVALID_BLOCK),
        ({"set_changes": None}, ErrorCode.MALFORMED),
        ({"set_changes": ["00"] * 51}, ErrorCode.MALFORMED),
    ):
        node.forge = lambda answer, forged=forged: {**answer, **forged}  # type: ignore[misc]
        with client_of(node, monkeypatch) as client, pytest.raises(Rejected) as refusal:
            client.proof(DEV, "MET")
        assert refusal.value.code is code, forged


def test_a_header_from_before_the_trusted_set_proves_nothing(chain: Chain, node: Node) -> None:
    answer = node.answer("account_getProof", address=format_address(DEV), since="119")
    later = TrustedSet(200, current_set(chain.values, 185).validators)
    with pytest.raises(Rejected, match="not above the change of the set at 200"):
        check_account_proof({**answer, "set_changes": []}, chain.spec, DEV, later)
