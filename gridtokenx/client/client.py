"""The methods of a node as functions, and what its user signs.

A node's answers are its word; `proof` checks one against the validators' signatures.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from typing import Any, Literal

from gridtokenx import answers
from gridtokenx.answers.signed_requests import request_bytes
from gridtokenx.chain.genesis import ChainSpec, Genesis, parse_genesis
from gridtokenx.chain.light_client import LightClient, ProvenAccount, ProvenRegion
from gridtokenx.chain.transaction import Payload, Transaction, sign_deposit, sign_transaction
from gridtokenx.chain.trust import TrustedBlock, trust_period_ms
from gridtokenx.client.rpc import DEFAULT_URL, Rpc, RpcError
from gridtokenx.interchain.incarnations import incarnation_id
from gridtokenx.interchain.model import FIRST_INCARNATION, Incarnation
from gridtokenx.ledger.model import Deposit
from gridtokenx.primitives.codec import decode
from gridtokenx.primitives.crypto import SigningKey
from gridtokenx.primitives.errors import ErrorCode, Rejected
from gridtokenx.primitives.quantities import format_kwh
from gridtokenx.primitives.types import format_address
from gridtokenx.trading.model import PlaceOrder, Side, Source

MAX_SEND = 500
POLL_S = 0.2


class Client(Rpc):
    """One node's API. Not for use by two threads at a time. Close it, or use it in `with`."""

    def __init__(
        self,
        url: str = DEFAULT_URL,
        timeout_s: float = 10.0,
        *,
        genesis: Genesis | None = None,
        trusted_blocks: Sequence[TrustedBlock] = (),
        trust_old_blocks: bool = False,
        local_address: str | None = None,
    ) -> None:
        """`genesis` pins the network; without it the node's own word about it is taken.

        `trusted_blocks` must be in the chains of proofs. A pinned genesis that is older than the
        unbonding time proves nothing without a younger one, unless `trust_old_blocks`.
        `local_address`: the IP address of this machine to ask from; None lets the system choose.
        """
        super().__init__(url, timeout_s, local_address=local_address)
        self._genesis = genesis
        self._trusted_blocks = tuple(trusted_blocks)
        self._checks_age = genesis is not None and not trust_old_blocks
        self._light: LightClient | None = None
        self._present: dict[str, ChainSpec] = {}

    # -- The chain ---------------------------------------------------------------------------------

    def status(self) -> answers.chain.NodeStatus:
        """Node, network and every followed chain."""
        return self.ask("chain_getStatus", answers.chain.NodeStatus)

    def heads(self) -> dict[str, answers.chain.BlockHead]:
        """By chain: the newest block."""
        return {row.chain: row.head for row in self.status().chains}

    def head(self, chain: str | None = None) -> answers.chain.ChainHead:
        """The newest block of a chain."""
        return self.ask("chain_getHead", answers.chain.ChainHead, chain=chain)

    def block(
        self, block: int | str, chain: str | None = None, *, full: bool = False
    ) -> answers.chain.BlockAnswer:
        """A block by height or by hash (hex); `full` with transaction bodies."""
        return self.ask(
            "chain_getBlock",
            answers.chain.BlockAnswer,
            block=str(block),
            chain=chain,
            full=full,
        )

    def genesis(self) -> Genesis:
        """The pinned genesis, or the node's."""
        if self._genesis is None:
            self._genesis = parse_genesis(json.dumps(self.call("chain_getGenesis")["genesis"]))
        return self._genesis

    def spec(self, chain: str) -> ChainSpec:
        """A chain's derived rules: chain id of its first incarnation, validators."""
        return self.genesis().chain(chain)

    def present(self, chain: str) -> ChainSpec:
        """A chain in its present incarnation, as the node knows it.

        The node may lie about which one that is, not name another chain: each chain id is worked
        out here. Errors: RpcError; Rejected WRONG_CHAIN for an id that does not follow from the
        genesis.
        """
        spec = self.spec(chain)
        if spec.is_national or spec.genesis.national is None:
            return spec
        return check_incarnations(spec, self.shard(chain).incarnations)

    def shard(self, name: str) -> answers.shard.ShardDetail:
        """A region chain as the national chain sees it."""
        return self.ask("shard_get", answers.shard.ShardDetail, id=name)

    def national(self) -> str:
        """Name of the national chain. Errors: Rejected UNKNOWN_SHARD on a network without one."""
        national = self.genesis().national
        if national is None:
            detail = (
                f"{self.genesis().network_name} has no national chain, so no stake and no votes"
            )
            raise Rejected(ErrorCode.UNKNOWN_SHARD, detail)
        return national.name

    def validators(self, chain: str | None = None) -> answers.chain.ValidatorSetAnswer:
        """The validator set of a chain."""
        return self.ask("chain_getValidators", answers.chain.ValidatorSetAnswer, chain=chain)

    def supply(self, chain: str) -> answers.chain.ChainSupply:
        """What all accounts of a chain hold, what crossed, and what was deposited."""
        return self.ask("chain_getSupply", answers.chain.ChainSupply, chain=chain)

    def sign_deposit(
        self, authority: SigningKey, chain: str, to: bytes, amount_uthb: int
    ) -> Deposit:
        """A payment authority's next deposit with its statement of all deposits."""
        so_far = self.supply(chain).deposits.total_uthb
        region_id = self.spec(chain).genesis_id
        return sign_deposit(authority, region_id, to, amount_uthb, so_far_uthb=so_far)

    def peers(self) -> tuple[answers.network.Peer, ...]:
        """Peers of the node."""
        return self.ask("net_getPeers", answers.network.Peers).items

    # -- Accounts ----------------------------------------------------------------------------------

    def nonce(self, address: bytes, chain: str, *, pending: bool = True) -> int:
        """The nonce the account's next transaction needs."""
        return self._nonce(address, chain, pending=pending).nonce

    def _nonce(
        self, address: bytes, chain: str, *, pending: bool = True
    ) -> answers.account.NextNonce:
        return self.ask(
            "account_getNonce",
            answers.account.NextNonce,
            address=format_address(address),
            chain=chain,
            pending=pending,
        )

    def account(self, address: bytes, chain: str | None = None) -> answers.account.AccountOnChains:
        """What an account holds and owns on all followed chains, with totals."""
        return self.ask(
            "account_get",
            answers.account.AccountOnChains,
            address=format_address(address),
            chain=chain,
        )

    def balance(self, address: bytes, chain: str | None = None) -> answers.account.AccountBalance:
        """What an account holds on all followed chains, with totals."""
        return self.ask(
            "account_getBalance",
            answers.account.AccountBalance,
            address=format_address(address),
            chain=chain,
        )

    def proof(self, address: bytes, chain: str) -> ProvenAccount:
        """An account's state, checked here: certificate, header, state proof.

        Trusts the genesis this client was made with, and its trusted blocks. A region is followed
        through the national chain. Errors: RpcError PROOF_UNAVAILABLE when the node cannot prove it
        now; Rejected TRUST_EXPIRED without a trusted block that is young enough, NOT_ACTIVE for a
        frozen region; INVALID_CERTIFICATE, INVALID_BLOCK or MALFORMED when the node lies.
        """
        return self._light_client().account(address, chain)

    def region_proof(self, name: str) -> ProvenRegion:
        """A region's row in the national state, checked here. Errors: as `proof`."""
        return self._light_client().region(name)

    def _light_client(self) -> LightClient:
        if self._light is None:
            period_ms = trust_period_ms(self.genesis()) if self._checks_age else None
            self._light = LightClient(
                self.call,
                self.genesis(),
                trusted_blocks=self._trusted_blocks,
                period_ms=period_ms,
                now_ms=lambda: time.time_ns() // 1_000_000,
            )
        return self._light

    # -- Transactions ------------------------------------------------------------------------------

    def send(self, transaction: Transaction) -> str:
        """Submit; the transaction id in hex once the node has admitted it. Errors: RpcError."""
        sent = self.ask(
            "tx_send",
            answers.transaction.SentTransaction,
            transaction=transaction.encoded.hex(),
        )
        return sent.tx_id.hex()

    def send_many(self, transactions: Sequence[Transaction]) -> list[RpcError | None]:
        """Submit in order, many a request; per transaction None or why it was refused."""
        outcomes: list[RpcError | None] = []
        for start in range(0, len(transactions), MAX_SEND):
            part = transactions[start : start + MAX_SEND]
            sent = self.ask(
                "tx_sendBatch",
                answers.transaction.SentBatch,
                transactions=[one.encoded.hex() for one in part],
            )
            outcomes += [
                None if row.error is None else RpcError.told(row.error) for row in sent.results
            ]
        return outcomes

    def transaction(
        self, transaction_id: str
    ) -> answers.transaction.IncludedTransaction | answers.transaction.WaitingTransaction:
        """An included or waiting transaction."""
        found = self.call("tx_get", id=transaction_id)
        if found["status"] == "finalized":
            return self.read(answers.transaction.IncludedTransaction, found)
        return self.read(answers.transaction.WaitingTransaction, found)

    def transaction_status(self, transaction_id: str) -> answers.transaction.TransactionStatus:
        """`status`: pending, queued, finalized, rejected (with `error`) or unknown."""
        return self.ask("tx_getStatus", answers.transaction.TransactionStatus, id=transaction_id)

    def transfer(self, transfer_id: str) -> answers.shard.TransferDetail:
        """Where a transfer between chains is: `status` and the steps on its way."""
        return self.ask("shard_getTransfer", answers.shard.TransferDetail, id=transfer_id)

    def wait_for(
        self,
        transaction_ids: Iterable[str],
        until: Literal["included", "finalized"] = "finalized",
        timeout_s: float = 30.0,
    ) -> list[answers.transaction.TransactionStatus]:
        """Wait until all are in a block, which is final here; their statuses in order.

        Errors: RpcError of the first that is rejected; RpcError NOT_FINALIZED_YET at the timeout.
        """
        order = list(transaction_ids)
        done: dict[str, answers.transaction.TransactionStatus] = {}
        deadline = time.monotonic() + timeout_s
        while True:
            left = [one for one in order if one not in done]
            for start in range(0, len(left), MAX_SEND):
                self._collect_final(left[start : start + MAX_SEND], done)
            missing = len(set(order)) - len(done)
            if not missing:
                return [done[one] for one in order]
            if time.monotonic() >= deadline:
                code = ErrorCode.NOT_FINALIZED_YET
                detail = f"{missing} of {len(order)} transactions not {until} in {timeout_s:g} s"
                hint = f"ask again: gridtokenx tx status {left[0]}"
                raise RpcError(code, code.reason, detail, hint, retryable=True)
            time.sleep(POLL_S)

    # -- The market --------------------------------------------------------------------------------

    def orders(self, **filters: Any) -> answers.energy.OrderPage:
        """A page of orders; filters as in `energy_getOrders`."""
        return self.ask("energy_getOrders", answers.energy.OrderPage, **filters)

    def order(self, order_id: str, chain: str | None = None) -> answers.energy.ListedOrder:
        """An order and what became of it."""
        return self.ask("energy_getOrder", answers.energy.ListedOrder, id=order_id, chain=chain)

    def order_book(self, zone: str, *, depth: int | None = None) -> answers.energy.OrderBook:
        """Price levels of a substation, zone or territory."""
        return self.ask("energy_getOrderBook", answers.energy.OrderBook, zone=zone, depth=depth)

    def quote(self, **order: Any) -> answers.settlement.QuotedOrder:
        """What an order would cost or earn, and meet; its fields as in `energy_quote`."""
        return self.ask("energy_quote", answers.settlement.QuotedOrder, **order)

    def trades(self, **filters: Any) -> answers.energy.TradePage:
        """A page of trades; filters as in `energy_getTrades`."""
        return self.ask("energy_getTrades", answers.energy.TradePage, **filters)

    def meter_readings(self, signer: SigningKey, **filters: str) -> answers.settlement.ReadingPage:
        """A page of an account's accepted readings, asked for by a key that may see them.

        Filters as in `energy_getMeterReadings`: address, limit, chain, cursor, each as text.
        """
        signed_ms = time.time_ns() // 1_000_000
        method = "energy_getMeterReadings"
        message = request_bytes(self.genesis().hash, method, filters, signed_ms)
        return self.ask(
            method,
            answers.settlement.ReadingPage,
            **filters,
            signer=format_address(signer.public_key),
            signed_ms=str(signed_ms),
            signature=signer.sign(message).hex(),
        )

    def trade(self, trade_id: str, chain: str | None = None) -> answers.energy.ListedTrade:
        """A trade and its settlement."""
        return self.ask("energy_getTrade", answers.energy.ListedTrade, id=trade_id, chain=chain)

    def stats(self, chain: str | None = None) -> answers.energy.MarketStats:
        """Sums of trading by chain and over all chains."""
        return self.ask("energy_getStats", answers.energy.MarketStats, chain=chain)

    def market(self, chain: str | None = None) -> answers.energy.Market:
        """Units, slots and the price band now."""
        return self.ask("energy_getMarket", answers.energy.Market, chain=chain)

    def meter(self, meter_id: bytes, chain: str | None = None) -> answers.grid.FoundMeter:
        """A metering point, by its id or the key of one of its devices."""
        return self.ask("grid_getMeter", answers.grid.FoundMeter, id=meter_id.hex(), chain=chain)

    def grid(self, chain: str | None = None) -> answers.grid.Grid:
        """Territories and substations."""
        return self.ask("grid_getStatus", answers.grid.Grid, chain=chain)

    def build_order(
        self,
        key: SigningKey,
        *,
        side: Side,
        energy_wh: int,
        limit_mthb: int,
        location: str,
        source: Source,
        expires_hours: int = 24,
        require: bool = False,
        meter_id: bytes | None = None,
        nonce: int | None = None,
    ) -> Transaction:
        """A signed order for the caller's meter at `location`, in every slot until it expires.

        The node works out slots, nonce and the meter, unless several can be meant: then `meter_id`
        must say which. What is signed is checked against what was asked. Units: Wh, mTHB/kWh.
        Errors: RpcError; Rejected MALFORMED_TX if the node answers with another order.
        """
        told = self.ask(
            "energy_prepareOrder",
            answers.order.PreparedOrder,
            trader=format_address(key.public_key),
            order_type=side.name.lower(),
            energy_amount=format_kwh(energy_wh),
            price_per_kwh=str(limit_mthb),
            energy_source=source.value,
            grid_location=location,
            expiration_hours=str(expires_hours),
            require=require,
            meter_id=None if meter_id is None else meter_id.hex(),
        )
        terms = decode(PlaceOrder, told.payload)
        asked = (side, energy_wh, limit_mthb, location, source, require, meter_id)
        got = (
            *(terms.side, terms.energy_wh, terms.limit_mthb),
            *(terms.location, terms.source, terms.require),
            None if meter_id is None else terms.meter_id,
        )
        if asked != got:
            detail = f"the node prepared another order than asked: {got}, not {asked}"
            raise Rejected(ErrorCode.MALFORMED_TX, detail)
        number = told.nonce if nonce is None else nonce
        return self.sign(key, told.chain, terms, number)

    def sign(
        self, key: SigningKey, chain: str, payload: Payload, nonce: int | None = None
    ) -> Transaction:
        """A transaction for a chain; the nonce is asked for when it is not given.

        With its nonce the node tells the chain's present incarnation; else the one that this client
        knows is taken.
        """
        spec = self._present.get(chain)
        if nonce is None:
            told = self._nonce(key.public_key, chain)
            nonce = told.nonce
            if spec is None or spec.incarnation != told.incarnation:
                spec = None if told.incarnation > FIRST_INCARNATION else self.spec(chain)
        if spec is None:
            spec = self.present(chain)
        self._present[chain] = spec
        return sign_transaction(key, spec.chain_id, nonce, payload)

    def _collect_final(
        self, ids: list[str], done: dict[str, answers.transaction.TransactionStatus]
    ) -> None:
        told = self.ask("tx_getStatuses", answers.transaction.TransactionStatuses, ids=ids)
        for row in told.items:
            if row.status == "rejected" and row.error is not None:
                raise RpcError.told(row.error)
            if row.status == "finalized":
                done[row.tx_id.hex()] = row


def check_incarnations(spec: ChainSpec, told: Sequence[Incarnation]) -> ChainSpec:
    """A region with the incarnations that a node tells of, the oldest first.

    Errors: WRONG_CHAIN where a chain id does not follow from the one before it.
    """
    former_id = spec.genesis_id
    for born in told:
        if born.chain_id != incarnation_id(former_id, born.number, born.hash):
            detail = f"incarnation {born.number} of {spec.name} has not the chain id it must have"
            raise Rejected(ErrorCode.WRONG_CHAIN, detail)
        former_id = born.chain_id
        spec = spec.with_incarnation(born)
    return spec
