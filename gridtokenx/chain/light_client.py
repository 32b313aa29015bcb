"""Proofs checked against validators' signatures, by somebody who keeps no chain.

Sets are followed change by change from what is believed at the start: the genesis, or a trusted
block once the genesis is older than the unbonding time. A region is followed through the national
chain, whose state says which chain the region is now and who signs it, so that those who once
were its authorities prove nothing. Source: protocols/consensus.md 2.11, 4.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from gridtokenx.chain.block import Header
from gridtokenx.chain.genesis import ChainSpec, Genesis
from gridtokenx.chain.light import (
    MAX_SET_CHANGES,
    SetChange,
    TrustedSet,
    check_decided,
    check_passes,
    follow_sets,
)
from gridtokenx.chain.state_tree import StateProof, verify_state_proof
from gridtokenx.chain.trust import TrustedBlock, check_age
from gridtokenx.consensus.messages import QuorumCertificate
from gridtokenx.interchain.model import REGIONS, Region
from gridtokenx.ledger.model import ACCOUNTS, Account
from gridtokenx.primitives.codec import decode
from gridtokenx.primitives.errors import ErrorCode, Rejected
from gridtokenx.primitives.types import format_address

Ask = Callable[..., dict[str, Any]]  # (method, **params) -> the node's answer


@dataclass(frozen=True, slots=True)
class ProvenRegion:
    """A region as the national chain sees it, in a block of that one."""

    header: Header
    region: Region


@dataclass(frozen=True, slots=True)
class ProvenAccount:
    """An account as of a block that more than two thirds of the validators signed.

    `account` is None where the chain proves that the address holds nothing. `trusted` has the
    validators whose certificate it is, `region` where the national chain names them.
    """

    chain: str
    address: bytes
    header: Header
    certificate: QuorumCertificate
    account: Account | None
    trusted: TrustedSet
    region: ProvenRegion | None = None


@dataclass(frozen=True, slots=True)
class Base:
    """Where following a chain begins: who signs above a height, and what must be on the way.

    `hash` is that of the block at `trusted.height` where it is known; `anchor` a trusted header.
    """

    chain_id: bytes
    trusted: TrustedSet
    hash: bytes | None = None
    anchor: Header | None = None


@dataclass(frozen=True, slots=True)
class ProvenState:
    """A decided header and the encoded value under a key in its state, None for absent."""

    header: Header
    certificate: QuorumCertificate
    value: bytes | None
    trusted: TrustedSet


class LightClient:
    """Follows the chains of one genesis by the word of one node, none of which is believed."""

    def __init__(
        self,
        ask: Ask,
        genesis: Genesis,
        *,
        trusted_blocks: Sequence[TrustedBlock] = (),
        period_ms: int | None,
        now_ms: Callable[[], int],
    ) -> None:
        """`period_ms`: how long a set is believed after its newest known block, None for ever;
        `now_ms` is the wall clock, in Unix milliseconds.
        """
        self._ask, self._genesis = ask, genesis
        self._period_ms, self._now_ms = period_ms, now_ms
        self._vouched: dict[str, TrustedBlock] = {}
        for block in sorted(trusted_blocks, key=lambda one: one.height):
            self._vouched[block.chain] = block
        self._anchors: dict[str, Header] = {}
        self._followed: dict[str, tuple[TrustedSet, int]] = {}  # And the newest header's time.

    def account(self, address: bytes, chain: str) -> ProvenAccount:
        """An account's state. Errors: those of the node; TRUST_EXPIRED without a trusted block
        that is young enough; NOT_ACTIVE for a frozen region; INVALID_CERTIFICATE, INVALID_BLOCK
        or MALFORMED when the node lies.
        """
        spec = self._genesis.chain(chain)
        region = None
        if spec.is_national or self._genesis.national is None:
            base = self._base(spec)
        else:
            region = self.region(chain)
            base = self._region_base(spec, region.region)
        proven = self._prove(
            "account_getProof",
            base,
            ACCOUNTS.prefix + address,
            chain=chain,
            address=format_address(address),
        )
        if region is None:
            self._remember(chain, proven)
        return _account_of(chain, address, proven, region)

    def region(self, name: str) -> ProvenRegion:
        """What the national chain says of a region: its chain id, newest block and validators.

        Errors: as `account`; UNKNOWN_SHARD for no region of a nation.
        """
        national = self._genesis.national
        if national is None or name not in {one.name for one in self._genesis.chains}:
            raise Rejected(ErrorCode.UNKNOWN_SHARD, f"{name} is no region of a national chain")
        spec = self._genesis.chain(national.name)
        key = REGIONS.prefix + name.encode()
        proven = self._prove("shard_getProof", self._base(spec), key, id=name)
        # An old block may name authorities that have left since.
        self._check_age(spec.name, proven.header.height, proven.header.time_ms)
        self._remember(spec.name, proven)
        if proven.value is None:
            raise Rejected(ErrorCode.INVALID_BLOCK, f"{spec.name} knows no region {name}")
        return ProvenRegion(proven.header, REGIONS.decode(proven.value))

    # -- Where to begin ----------------------------------------------------------------------------

    def _base(self, spec: ChainSpec) -> Base:
        """Of a chain that no other one vouches for. Errors: TRUST_EXPIRED, INVALID_BLOCK."""
        name = spec.name
        start = TrustedSet(0, spec.genesis_validators), self._genesis.genesis_time_ms
        trusted, time_ms = self._followed.get(name, start)
        anchor, height = self._anchor(spec), trusted.height
        if anchor is not None and anchor.time_ms > time_ms:
            height, time_ms = anchor.height, anchor.time_ms
        self._check_age(name, height, time_ms)
        return Base(spec.chain_id, trusted, anchor=anchor)

    def _region_base(self, spec: ChainSpec, region: Region) -> Base:
        """Errors: NOT_ACTIVE, INVALID_BLOCK."""
        if region.frozen:
            detail = f"{region.name} is frozen: it has signed two chains, so it proves nothing"
            raise Rejected(ErrorCode.NOT_ACTIVE, detail)
        trusted = TrustedSet(region.height, region.validators)
        if region.height == 0:
            return Base(region.chain_id, trusted, anchor=self._anchor(spec))
        return Base(region.chain_id, trusted, region.hash, self._anchor(spec))

    def _anchor(self, spec: ChainSpec) -> Header | None:
        """The header of the chain's trusted block. Errors: INVALID_BLOCK."""
        vouched = self._vouched.get(spec.name)
        if vouched is None or spec.name in self._anchors:
            return self._anchors.get(spec.name)
        told = self._ask("chain_getFinality", block=str(vouched.height), chain=spec.name)
        header = decode(Header, _hex(told, "header"))
        if (header.height, header.hash) != (vouched.height, vouched.hash):
            detail = (
                f"block {vouched.height} of {spec.name} is {header.hash.hex()[:16]} at this node, "
                f"the trusted one is {vouched.hash.hex()[:16]}"
            )
            raise Rejected(ErrorCode.INVALID_BLOCK, detail)
        self._anchors[spec.name] = header
        return header

    def _check_age(self, chain: str, height: int, time_ms: int) -> None:
        """Errors: TRUST_EXPIRED."""
        check_age(chain, height, time_ms, now_ms=self._now_ms(), period_ms=self._period_ms)

    def _remember(self, chain: str, proven: ProvenState) -> None:
        _, before_ms = self._followed.get(chain, (None, 0))
        newest_ms = max(before_ms, proven.header.time_ms)
        self._followed[chain] = proven.trusted, newest_ms

    # -- Following ---------------------------------------------------------------------------------

    def _prove(self, method: str, base: Base, key: bytes, **params: str) -> ProvenState:
        """Ask page by page until the newest set is known; then check the state."""
        trusted = base.trusted
        while True:
            document = self._ask(method, since=str(trusted.height), **params)
            if document.get("next_since") is None:
                return check_state_proof(document, base, key, trusted)
            further = follow_sets(base.chain_id, trusted, _changes(document), base.anchor)
            if further == trusted:  # Each round must be signed progress, or it would never end.
                raise Rejected(ErrorCode.MALFORMED, "next_since without a change of the set")
            trusted = further


def check_account_proof(
    document: dict[str, Any], spec: ChainSpec, address: bytes, trusted: TrustedSet | None = None
) -> ProvenAccount:
    """Check an `account_getProof` answer against the validators in `trusted`, else the genesis',
    and every change of the set since: it must be the answer's last page.

    Errors: INVALID_CERTIFICATE, INVALID_BLOCK, MALFORMED.
    """
    trusted = trusted or TrustedSet(0, spec.genesis_validators)
    base = Base(spec.chain_id, trusted)
    proven = check_state_proof(document, base, ACCOUNTS.prefix + address, trusted)
    return _account_of(spec.name, address, proven, None)


def check_state_proof(
    document: dict[str, Any], base: Base, key: bytes, trusted: TrustedSet
) -> ProvenState:
    """The last page of an answer, `trusted` being what the pages before have led to.

    Errors: INVALID_CERTIFICATE, INVALID_BLOCK, MALFORMED.
    """
    trusted = follow_sets(base.chain_id, trusted, _changes(document), base.anchor)
    header = decode(Header, _hex(document, "header"))
    certificate = decode(QuorumCertificate, _hex(document, "certificate"))
    known = header.height == trusted.height and header.hash == base.hash
    if not known:
        _check_newest(header, certificate, base, trusted)
    value = None if document.get("value") is None else _hex(document, "value")
    proof = decode(StateProof, _hex(document, "proof"))
    if not verify_state_proof(header.state_root, key, value, proof):
        raise Rejected(ErrorCode.INVALID_BLOCK, "the proof does not lead to the state root")
    return ProvenState(header, certificate, value, trusted)


def _check_newest(
    header: Header, certificate: QuorumCertificate, base: Base, trusted: TrustedSet
) -> None:
    if header.height <= trusted.height:
        detail = f"block {header.height} is not above the change of the set at {trusted.height}"
        raise Rejected(ErrorCode.INVALID_BLOCK, detail)
    if base.anchor is not None:
        if header.height < base.anchor.height:
            detail = f"block {header.height} is below the trusted block {base.anchor.height}"
            raise Rejected(ErrorCode.INVALID_BLOCK, f"{detail}: ask a node that is further")
        check_passes(base.anchor, header, trusted)
    check_decided(base.chain_id, header, certificate, trusted.validators)


def _account_of(
    chain: str, address: bytes, proven: ProvenState, region: ProvenRegion | None
) -> ProvenAccount:
    account = None if proven.value is None else ACCOUNTS.decode(proven.value)
    return ProvenAccount(
        chain, address, proven.header, proven.certificate, account, proven.trusted, region
    )


def _changes(document: dict[str, Any]) -> list[SetChange]:
    rows = document.get("set_changes")
    if not isinstance(rows, list) or len(rows) > MAX_SET_CHANGES:
        detail = f"set_changes must be a list of at most {MAX_SET_CHANGES}"
        raise Rejected(ErrorCode.MALFORMED, detail)
    return [decode(SetChange, _hex({"set_changes": row}, "set_changes")) for row in rows]


def _hex(document: dict[str, Any], name: str) -> bytes:
    value = document.get(name)
    try:
        return bytes.fromhex(value) if isinstance(value, str) else bytes.fromhex("?")
    except ValueError:
        raise Rejected(ErrorCode.MALFORMED, f"{name} must be hex") from None
