"""The client believes signatures, not nodes: every forged part of a proof is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from gridtokenx.chain.block import Header
from gridtokenx.chain.light_client import check_account_proof
from gridtokenx.consensus.messages import QuorumCertificate
from gridtokenx.ledger.model import Account
from gridtokenx.primitives.codec import decode, encode
from gridtokenx.primitives.errors import ErrorCode, Rejected
from gridtokenx.primitives.types import format_address
from tests.support.api_call import call
from tests.support.api_node import SELLER, STRANGER, MemoryNode


def proof_of(node: MemoryNode, address: bytes) -> dict[str, Any]:
    return dict(call(node, "account_getProof", address=format_address(address)))


def test_a_true_proof_convinces(node: MemoryNode) -> None:
    spec = node.genesis.chain("MET")
    held = check_account_proof(proof_of(node, SELLER.public_key), spec, SELLER.public_key)
    assert held.account == Account(thb_uthb=5_000_000_000)
    assert held.header.height == 1
    absent = check_account_proof(proof_of(node, STRANGER.public_key), spec, STRANGER.public_key)
    assert absent.account is None


def test_forgeries_are_refused(node: MemoryNode) -> None:
    spec, other = node.genesis.chain("MET"), node.genesis.chain("NOR")
    honest = proof_of(node, SELLER.public_key)
    header = decode(Header, bytes.fromhex(honest["header"]))
    certificate = decode(QuorumCertificate, bytes.fromhex(honest["certificate"]))
    richer = encode(Account(thb_uthb=9_000_000_000)).hex()
    few = replace(certificate, signatures=certificate.signatures[:2])
    forged_header = replace(header, state_root=bytes(32))
    cases: list[tuple[dict[str, Any], ErrorCode]] = [
        ({"value": richer}, ErrorCode.INVALID_BLOCK),
        ({"value": None}, ErrorCode.INVALID_BLOCK),
        ({"certificate": encode(few).hex()}, ErrorCode.INVALID_CERTIFICATE),
        ({"header": encode(forged_header).hex()}, ErrorCode.INVALID_CERTIFICATE),
        ({"certificate": "00"}, ErrorCode.MALFORMED),
        ({"proof": None}, ErrorCode.MALFORMED),
        ({"header": 7}, ErrorCode.MALFORMED),
    ]
    for change, code in cases:
        with pytest.raises(Rejected) as error:
            check_account_proof({**honest, **change}, spec, SELLER.public_key)
        assert error.value.code is code, change
    with pytest.raises(Rejected):
        check_account_proof(honest, other, SELLER.public_key)
    with pytest.raises(Rejected):
        check_account_proof(honest, spec, STRANGER.public_key)
