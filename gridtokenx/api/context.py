"""What handlers work with: the node's frozen views, decoded state tables, and the way to submit.

Lives in the API thread alone. Source: decision 0021.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, TypeVar

from gridtokenx.api.errors import ApiError, TransportCode
from gridtokenx.chain.national import voting_power
from gridtokenx.chain.transaction import chain_id_of
from gridtokenx.governance import rules as governance
from gridtokenx.governance.model import Tally
from gridtokenx.primitives.crypto import SigningKey
from gridtokenx.primitives.errors import ErrorCode, Rejected
from gridtokenx.primitives.state import Table
from gridtokenx.registry.model import METERS, Meter, MeterStatus
from gridtokenx.views.status import ChainStatus, NodeHandle

V = TypeVar("V")
MAX_IN_FLIGHT = 20_000


class Context:
    """Everything a handler may use."""

    def __init__(self, handle: NodeHandle, max_in_flight: int = MAX_IN_FLIGHT) -> None:
        self.handle = handle
        self.submissions = Submissions(handle, max_in_flight)
        self.signing = asyncio.Lock()  # One nonce at a time for the local signer.
        self._tallies: dict[int, Tally] = {}
        self._tallies_of = b""
        self._tables: dict[tuple[str, bytes], _DecodedTable] = {}
        self._genesis_names = {
            handle.genesis.chain(name).genesis_id: name for name in handle.genesis.chain_names
        }

    def chains(self) -> Mapping[str, ChainStatus]:
        """Followed chains. Errors: NOT_SYNCED while the node has none."""
        chains = self.handle.chains()
        if not chains:
            detail = "this node has not opened a chain yet"
            raise ApiError(TransportCode.NOT_SYNCED, detail, hint="/ready tells when")
        return chains

    def chain(self, name: str | None) -> ChainStatus:
        """A followed chain, the first region for None. Errors: UNKNOWN_SHARD."""
        chains = self.chains()
        if name is None:
            regions = [status for status in chains.values() if not status.spec.is_national]
            return (regions or list(chains.values()))[0]
        found = chains.get(name)
        if found is None:
            spec = self.handle.genesis.chain(name)
            followed = ", ".join(chains)
            raise ApiError(
                ErrorCode.UNKNOWN_SHARD,
                f"this node follows {followed}, not {spec.name}",
                hint=f"ask a node whose network.regions contains {spec.name}",
            )
        return found

    def national(self) -> ChainStatus:
        """The national chain. Errors: UNKNOWN_SHARD on a network without one."""
        national = self.handle.genesis.national
        if national is None:
            detail = "this network has no national chain, so no stake, votes or transfers abroad"
            raise ApiError(ErrorCode.UNKNOWN_SHARD, detail)
        return self.chain(national.name)

    def tally(self, status: ChainStatus, number: int) -> Tally:
        """How a vote stands, counted once a block. Errors: PROPOSAL_NOT_FOUND."""
        if self._tallies_of != status.head.hash:
            self._tallies, self._tallies_of = {}, status.head.hash
        if number not in self._tallies:
            power = voting_power(status.view)
            self._tallies[number] = governance.current_tally(status.view, number, power)
        return self._tallies[number]

    def chain_at(self, location: str) -> ChainStatus:
        """The chain that serves a location or zone. Errors: UNKNOWN_ZONE, UNKNOWN_SHARD."""
        return self.chain(self.handle.genesis.chain_of_location(location).name)

    def selected(self, name: str | None) -> list[ChainStatus]:
        """One chain if named, else all that are followed."""
        return list(self.chains().values()) if name is None else [self.chain(name)]

    def table(self, status: ChainStatus, table: Table[V]) -> Sequence[tuple[bytes, V]]:
        """All rows of a state table, (key, value) in key order, as of the status's block."""
        cached = self._tables.setdefault((status.spec.name, table.prefix), _DecodedTable())
        return cached.refresh(status, table)

    def meters_of(self, status: ChainStatus, owner: bytes) -> list[Meter]:
        """All meters that an account ever had on a chain, retired ones last."""
        own = [meter for _, meter in self.table(status, METERS) if meter.owner == owner]
        return sorted(own, key=lambda meter: meter.status is MeterStatus.RETIRED)

    def chain_of_transaction(self, raw: bytes) -> str:
        """The followed chain that a transaction names. Errors: WRONG_CHAIN, as decoding it.

        Only the head is read: the executor decodes the rest, once.
        """
        chain_id = chain_id_of(raw)
        chains = self.chains()
        for name, status in chains.items():
            if status.spec.chain_id == chain_id:
                return name
        born = self._genesis_names.get(chain_id)
        if born in chains:
            detail = f"the transaction is for {born} as it was before its present incarnation"
        else:
            what = f"chain {born}" if born else f"no chain of this network ({chain_id.hex()})"
            detail = f"the transaction is for {what}; this node follows {', '.join(chains)}"
        raise Rejected(ErrorCode.WRONG_CHAIN, detail)

    @property
    def local_signer(self) -> SigningKey | None:
        """The key for bare orders, if this node has one."""
        return self.handle.local_signer


@dataclass(slots=True)
class _DecodedTable:
    """A state table's decoded rows; what did not change since the last block is not decoded again.

    Open orders and meters are asked for all the time and change little from block to block.
    """

    block_hash: bytes = b""
    by_raw: dict[bytes, Any] = field(default_factory=dict)
    rows: list[tuple[bytes, Any]] = field(default_factory=list)

    def refresh(self, status: ChainStatus, table: Table[Any]) -> list[tuple[bytes, Any]]:
        if status.head.hash == self.block_hash:
            return self.rows
        known, fresh = self.by_raw, {}

        def decode(raw: bytes) -> Any:
            found = known.get(raw)
            value = fresh[raw] = table.decode(raw) if found is None else found
            return value

        cut = len(table.prefix)
        scanned = status.view.scan(table.prefix, decode)
        self.rows = [(key[cut:], value) for key, value in scanned]
        self.by_raw, self.block_hash = fresh, status.head.hash
        return self.rows


_Outcomes = list[Rejected | None]
_Part = tuple[Sequence[bytes], "asyncio.Future[_Outcomes]"]


class Submissions:
    """Hands transactions to executors: those that arrive together cross together, in their order.

    A JSON-RPC batch of tx_send runs as tasks of one loop turn, so it is one crossing. What is
    handed over runs to its end even when the caller gives up.
    """

    def __init__(self, handle: NodeHandle, max_in_flight: int) -> None:
        self._handle = handle
        self._max_in_flight = max_in_flight
        self._waiting: dict[str, list[_Part]] = {}
        self.in_flight = 0

    async def send(self, chain: str, raws: Sequence[bytes]) -> _Outcomes:
        """Per transaction None (admitted) or why not. Errors: ApiError BUSY."""
        if self.in_flight + len(raws) > self._max_in_flight:
            detail = f"{self.in_flight} transactions are being admitted; try again in a second"
            raise ApiError(TransportCode.BUSY, detail, status=503)
        self.in_flight += len(raws)
        loop = asyncio.get_running_loop()
        if not self._waiting:
            loop.call_soon(self._flush, loop)
        waiter: asyncio.Future[_Outcomes] = loop.create_future()
        self._waiting.setdefault(chain, []).append((raws, waiter))
        return await waiter

    def _flush(self, loop: asyncio.AbstractEventLoop) -> None:
        batches, self._waiting = self._waiting, {}
        for chain, parts in batches.items():

            def hand_back(done: Future[_Outcomes], parts: list[_Part] = parts) -> None:
                try:
                    loop.call_soon_threadsafe(self._resolve, parts, done)
                except RuntimeError:
                    return  # The loop is closed: the server has stopped and nobody waits.

            together = [raw for raws, _ in parts for raw in raws]
            self._handle.submit(chain, together).add_done_callback(hand_back)

    def _resolve(self, parts: list[_Part], done: Future[_Outcomes]) -> None:
        failed = done.cancelled() or done.exception() is not None
        outcomes = [] if failed else done.result()
        start = 0
        for raws, waiter in parts:
            self.in_flight -= len(raws)
            own = outcomes[start : start + len(raws)]
            start += len(raws)
            if waiter.done():
                continue  # Its caller's deadline has passed.
            if failed:
                detail = "the node could not take the transactions; it may be stopping"
                waiter.set_exception(ApiError(TransportCode.BUSY, detail, status=503))
            else:
                waiter.set_result(own)
