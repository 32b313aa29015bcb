"""Following a chain's validators by the headers at which they change."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gridtokenx.chain.light import SetChange, check_decided, follow_sets
from gridtokenx.chain.validator_sets import current_set, order_set
from gridtokenx.cluster.network import dev_key, local_genesis, validator_name
from gridtokenx.primitives.codec import decode, encode
from gridtokenx.primitives.errors import ErrorCode, Rejected
from gridtokenx.primitives.state import Overlay
from gridtokenx.primitives.validators import Validator, ValidatorSet
from tests.chains_world import Chain


@pytest.fixture(scope="module")
def chain() -> Chain:
    """Two authorities join, at 120 and at 180."""
    chain = Chain(local_genesis().chain("MET"))
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
    signers = follow_sets(chain.spec.chain_id, chain.spec.genesis_validators, told)
    assert signers == current_set(chain.values, 185).validators
    header, certificate = chain.blocks[185].header, chain.certificates[185]
    check_decided(chain.spec.chain_id, header, certificate, signers)
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
            follow_sets(spec.chain_id, old, told)
        assert refusal.value.code is code
