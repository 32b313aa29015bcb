"""Play the demonstration day against a cluster's nodes, over their HTTP API only.

Market time is the block clock of genesis: one 15-minute slot a block. Orders go in several slots
before their gate closes and readings two slots after their slot, so that a slow machine, a view
change or a lost message does not change the day. Source: protocols/market.md 8.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from gridtokenx.answers.account import AccountBalance
from gridtokenx.answers.chain import ChainOfNode, NodeStatus
from gridtokenx.answers.energy import MarketStats
from gridtokenx.chain.genesis import BlockClock, ChainSpec, Genesis
from gridtokenx.chain.transaction import Payload, Transaction, sign_deposit, sign_transaction
from gridtokenx.client import Client, NodeUnreachable, RpcError
from gridtokenx.cluster.devnet import DEV_ACCOUNT, Member, dev_key, local_genesis, operator_key
from gridtokenx.demo import gateways
from gridtokenx.demo.gateways import Gateway, Incidents
from gridtokenx.demo.profile import (
    TRANSFORMER,
    TRANSFORMER_VA,
    Profile,
    Trader,
    transformer_loading_bps,
)
from gridtokenx.demo.sending import Sender
from gridtokenx.demo.story import DESTINATION, FINAL, ORIGIN, Told, VoteStory
from gridtokenx.governance.model import GovernanceParameters
from gridtokenx.grid.model import PublishGridStatus
from gridtokenx.interchain.model import TransferAbroad
from gridtokenx.ledger.model import Asset, RetireCredits
from gridtokenx.primitives.crypto import SigningKey, sha256
from gridtokenx.primitives.errors import ErrorCode
from gridtokenx.primitives.places import territory_of
from gridtokenx.primitives.quantities import (
    BPS,
    SLOT_MS,
    SLOTS_PER_DAY,
    slot_at,
    slot_start_ms,
)
from gridtokenx.primitives.types import format_address
from gridtokenx.registry.model import ReplaceMeter
from gridtokenx.trading.model import MarketParameters, MatchingMode

LEAD_SLOTS = 6  # How long before its gate an order is sent.
READING_DELAY_SLOTS = 2  # A node that is a block behind accepts it too.
DEADLINE_SLOTS = 24  # The rule is 4 slots of 15 minutes; here 4 slots are 4 seconds.
AWAY_SLOTS = DEADLINE_SLOTS + 4  # What is read in the first of them is late for certain.
VOTE_SLOTS, EXECUTION_SLOTS = 6, 1  # A vote is over before the readings that wait for it are late.
GTX_ABROAD_UGTX = 5_000_000
SETUP_BLOCKS = 20  # From genesis to the first slot's gate: start, registration, deposits.
POLL_S = 0.2
FREQUENCY_MHZ = 50_000
RETIRED_FOR = sha256(b"demonstration day")
PATIENCE_S, PATIENCE_BLOCKS = 60.0, 2 * DEADLINE_SLOTS


class DayError(Exception):
    """The day could not be played as written; the sentence says what went wrong and where."""


@dataclass(slots=True)
class Region:
    """What is known of one region chain while the day runs; `totals` as `energy_getStats` says."""

    name: str
    height: int = 0
    market_ms: int = 0
    totals: dict[str, int] = field(default_factory=dict)
    price_mthb: int = 0
    finality_ms: int = 0
    next_order: int = 0
    next_reading: int = 0
    reading_limit: int = 2**62  # Readings from this slot on wait.

    @property
    def slot(self) -> int:
        """The market slot of the newest block; its gate is closed."""
        return slot_at(self.market_ms)


def day_genesis(slots: range, *, authorities: int, block_time_ms: int, now_ms: int) -> Genesis:
    """A genesis in which the first of `slots` closes SETUP_BLOCKS blocks after the start.

    One call auction a slot ("gate"), so the result does not depend on which block an order reached.
    """
    start_ms = slot_start_ms(slots.start - SETUP_BLOCKS)
    return local_genesis(
        authorities=authorities,
        block_time_ms=block_time_ms,
        clock=BlockClock(start_ms, SLOT_MS),
        parameters=MarketParameters(
            matching_mode=MatchingMode.GATE,
            reading_deadline_slots=DEADLINE_SLOTS,
        ),
        genesis_time_ms=now_ms,
        governance=GovernanceParameters(
            voting_period_ms=VOTE_SLOTS * SLOT_MS, execution_delay_ms=EXECUTION_SLOTS * SLOT_MS
        ),
    )


class Day:
    """One run of the day. `show` is called with the regions whenever something has changed."""

    def __init__(
        self,
        genesis: Genesis,
        members: Sequence[Member],
        profile: Profile,
        slots: range,
        show: Callable[[Sequence[Region]], None],
        check_alive: Callable[[], None],
    ) -> None:
        self.profile = profile
        self.slots = slots
        self._show = show
        self._check_alive = check_alive
        self._watchers = [Client(member.api_url, genesis=genesis) for member in members]
        self._ticks = 0
        self._patience_s = patience_s(genesis)
        self.regions = [
            Region(region.name, next_order=slots.start, next_reading=slots.start)
            for region in genesis.chains
        ]
        self.told = Told()
        self._vote = VoteStory(genesis, members)
        # Ten o'clock of a whole day; some slots on either side of a short one.
        self._vote_slot = slots.start + max(1, len(slots) * 5 // 12)
        for region in self.regions:
            region.reading_limit = self._vote_slot
        self._players = [
            RegionPlayer(profile, slots, genesis.chain(region.name), _senders(members, at, genesis))
            for at, region in enumerate(genesis.chains)
        ]

    def close(self) -> None:
        """Close all connections."""
        for client in self._watchers:
            client.close()
        for player in self._players:
            player.close()
        self._vote.close()

    @property
    def refusals(self) -> dict[str, str]:
        """What was sent to be refused, and the sentence it was refused with."""
        return {what: why for player in self._players for what, why in player.refusals.items()}

    @property
    def incidents(self) -> dict[str, Incidents]:
        """By region what went wrong with meters."""
        return {player.name: player.incidents for player in self._players}

    def play(self) -> None:
        """Set up, trade every slot, wait until everything is settled. Errors: DayError."""
        pool = ThreadPoolExecutor(len(self._players))
        try:
            list(pool.map(RegionPlayer.set_up, self._players))
            self._send_abroad(Asset.GTX, dev_key(DEV_ACCOUNT), GTX_ABROAD_UGTX)
            self._look()
            while not self._is_over():
                self._go_on_with_vote()
                list(pool.map(RegionPlayer.play, self._players, self.regions))
                self._wait_for_block()
            self._wait_settled()
            self._send_abroad(Asset.ENERGY, *self._player(ORIGIN).most_energy())
            self._wait_transfers()
            list(pool.map(RegionPlayer.retire, self._players))
            self._wait_reports()
        finally:
            # Without waiting: after Ctrl-C the nodes go next, which ends what still asks them.
            pool.shutdown(wait=False, cancel_futures=True)

    def _go_on_with_vote(self) -> None:
        """Once all readings before its slot are final: vote; then let the others go."""
        if self.told.national_height or any(
            region.totals["readings"] < player.readings_before(self._vote_slot)
            for region, player in zip(self.regions, self._players, strict=True)
        ):
            return
        if self._vote.step():
            self.told.national_height = self._vote.in_force_height
            for region in self.regions:
                self.told.credits_before_ucr[region.name] = region.totals["carbon_ucr"]
                region.reading_limit = self.slots.stop

    def _player(self, name: str) -> RegionPlayer:
        return next(one for one in self._players if one.name == name)

    def _send_abroad(self, asset: Asset, sender: SigningKey, amount: int) -> None:
        """From an account of one region to the first trader of another."""
        receiver = self._player(DESTINATION).traders[0].key.public_key
        command = TransferAbroad(DESTINATION, receiver, asset, amount)
        sent = self._player(ORIGIN).send(sender, command)
        self.told.transfers[asset.name.lower()] = (amount, sent.id.hex())

    def _wait_transfers(self) -> None:
        """Until they have arrived. Errors: DayError."""
        end = time.monotonic() + self._patience_s
        for asset, (_, transfer) in self.told.transfers.items():
            while (state := self._transfer_state(transfer)) != "credited":
                if time.monotonic() > end:
                    raise DayError(f"the transfer of {asset} to {DESTINATION} is still {state}")
                time.sleep(POLL_S)
                self._look()

    def _transfer_state(self, transfer: str) -> str:
        """By one node, which hears a moment later of what was sent to another."""
        try:
            return self._vote.client.transfer(transfer).status
        except RpcError as error:
            if error.code != ErrorCode.TX_NOT_FOUND:
                raise
            return error.reason

    def _is_over(self) -> bool:
        return all(
            region.next_reading >= self.slots.stop and not player.has_waiting
            for region, player in zip(self.regions, self._players, strict=True)
        )

    def _wait_for_block(self) -> None:
        """Until some chain has a new block. Errors: DayError when none comes."""
        before = [region.height for region in self.regions]
        end = time.monotonic() + self._patience_s
        while before == [region.height for region in self.regions]:
            if time.monotonic() > end:
                raise DayError(f"no chain has finalized a block for {self._patience_s:.0f} s")
            time.sleep(POLL_S)
            self._look()

    def _wait_settled(self) -> None:
        end = time.monotonic() + self._patience_s
        wanted = 1 + len(self.slots)  # And a first one of each meter to begin with.
        while True:
            self._look()
            open_regions = [
                region.name
                for region, player in zip(self.regions, self._players, strict=True)
                if region.totals["readings"] < wanted * len(player.traders)
                or region.totals["trades_settled"] < region.totals["trades"]
            ]
            if not open_regions:
                return
            if time.monotonic() > end:
                names = ", ".join(open_regions)
                raise DayError(f"not all readings and trades of {names} are settled")
            time.sleep(POLL_S)

    def _wait_reports(self) -> None:
        """Until each territory's report of the day is final, if the day was played to its end."""
        if self.slots.stop != self.profile.slot0 + SLOTS_PER_DAY:
            return
        last = self.slots.stop + DEADLINE_SLOTS
        end = time.monotonic() + self._patience_s
        while any(region.slot <= last for region in self.regions):
            if time.monotonic() > end:
                raise DayError(f"the reports of the day are not closed: slot {last} is not over")
            time.sleep(POLL_S)
            self._look()

    def _look(self) -> None:
        """Ask the next node that answers for heads and totals. Errors: NodeUnreachable."""
        self._check_alive()
        status, stats = self._ask()
        changed = False
        for region in self.regions:
            row = next((one for one in status.chains if one.chain == region.name), None)
            if row is not None and row.head.height > region.height:
                _advance(region, row, chain_totals(stats, region.name))
                changed = True
        if changed:
            self._show(self.regions)

    def _ask(self) -> tuple[NodeStatus, MarketStats]:
        for _ in self._watchers:
            client = self._watchers[self._ticks % len(self._watchers)]
            self._ticks += 1
            try:
                return client.status(), client.stats()
            except (NodeUnreachable, RpcError):
                continue  # One that has just been started again may not have opened its chains.
        raise NodeUnreachable(client.url, "nor does any other node")


class RegionPlayer:
    """Sends everything of one region chain; each trader always by the same way.

    `senders` share the traders. Every transaction of the day is good, so a refusal ends it.
    """

    def __init__(
        self, profile: Profile, slots: range, spec: ChainSpec, senders: Sequence[Sender]
    ) -> None:
        prefixes = {territory.prefix: territory.distributor for territory in spec.territories}
        self._prefixes = prefixes
        self.traders = profile.traders_of(spec.genesis, spec.name)
        self._distributor = {
            trader.name: prefixes[territory_of(trader.location)] for trader in self.traders
        }
        self.refusals: dict[str, str] = {}
        self.name = spec.name
        self._profile = profile
        self._slots = slots
        self._spec = spec
        self._patience_s = patience_s(spec.genesis)
        self._senders = senders
        self._nonces: dict[bytes, int] = {}
        self._gateways = {
            trader.name: Gateway(trader, spec.genesis_id, trader.meter_key)
            for trader in self.traders
        }
        self.incidents = gateways.plan(profile, slots, self.traders, AWAY_SLOTS)
        self._last_reading: Transaction | None = None  # Of the meter that is exchanged.
        self._replacement: ReplaceMeter | None = None
        self._exchange: Transaction | None = None
        self._refusals_due = True

    def close(self) -> None:
        for sender in self._senders:
            sender.close()

    @property
    def has_waiting(self) -> bool:
        """Whether readings are still to be sent."""
        return any(gateway.waiting for gateway in self._gateways.values())

    def readings_before(self, slot: int) -> int:
        """How many readings of slots before this one come without waiting for a vote."""
        start = self._slots.start
        counted = [start, *range(start, slot)]  # One more begins with the first slot's.
        return sum(
            not self.incidents.is_away(trader, one) for trader in self.traders for one in counted
        )

    def set_up(self) -> None:
        """Register participants and meters, deposit money; wait until that is final.

        Errors: DayError when it takes until the first slot's orders are due.
        """
        transactions = []
        payment, client = operator_key("payment"), self._senders[0].client
        so_far_uthb = client.supply(self.name).deposits.total_uthb
        for trader in self.traders:
            operator = operator_key(self._distributor[trader.name])
            transactions.append(self._sign(operator, trader.registration()))
            transactions.append(self._sign(operator, trader.meter()))
            amount_uthb = self._profile.deposit_uthb(trader, self._slots)
            deposit = sign_deposit(
                payment,
                self._spec.genesis_id,
                trader.key.public_key,
                amount_uthb,
                so_far_uthb=so_far_uthb,
            )
            so_far_uthb += amount_uthb
            transactions.append(self._sign(payment, deposit))
        sender = self._senders[0]
        sender.send(transactions)
        sender.client.wait_for([one.id.hex() for one in transactions], timeout_s=self._patience_s)

    def play(self, region: Region) -> None:
        """Send what is due at the region's newest block. Errors: DayError when it is too late."""
        due: list[tuple[Trader, Payload]] = []
        last_order = min(self._slots.stop, region.slot + LEAD_SLOTS + 1)
        if region.next_order < last_order and region.next_order <= region.slot + 1:
            detail = (
                f"{region.name} closed the gate of slot {region.next_order} at block "
                f"{region.height} before its orders were sent: this machine is too slow for "
                f"{self._spec.genesis.block_time_ms} ms a block (see --block-time)"
            )
            raise DayError(detail)
        for slot in range(region.next_order, last_order):
            self._publish_status(slot)
            due += self._orders(slot)
        last_slot = min(self._slots.stop, region.reading_limit)
        last_reading = min(last_slot, region.slot - READING_DELAY_SLOTS + 1)
        for slot in range(region.next_reading, last_reading):
            self._count(slot)
        self._exchange_meter()
        for trader in self.traders:
            if self._may_read(trader, region):
                if trader.name == gateways.EXCHANGED:
                    self._send_readings(trader)
                else:
                    due += [(trader, one) for one in self._gateways[trader.name].take()]
        if self._refusals_due and region.next_reading > self._slots.start:
            self._try_refused(region)
            self._refusals_due = False
        for part, sender in enumerate(self._senders):
            mine = [
                self._sign(trader.key, payload)
                for trader, payload in due
                if trader.k % len(self._senders) == part
            ]
            sender.send(mine)
        region.next_order = max(region.next_order, last_order)
        region.next_reading = max(region.next_reading, last_reading)

    def send(self, key: SigningKey, command: Payload) -> Transaction:
        """One more transaction of an account. Errors: Refused, NodeUnreachable."""
        transaction = self._sign(key, command)
        self._senders[0].send([transaction])
        return transaction

    def most_energy(self) -> tuple[SigningKey, int]:
        """The trader who has most energy left that is not sold, and how much in Wh.

        Errors: DayError when nobody has any.
        """
        keys = [trader.key for trader in self.traders]
        accounts = [
            {"address": format_address(key.public_key), "chain": self._spec.name} for key in keys
        ]
        client = self._senders[0].client
        found = client.ask_many("account_getBalance", AccountBalance, accounts)
        held = [0 if isinstance(one, RpcError) else one.chains[0].energy_wh for one in found]
        most = max(range(len(keys)), key=lambda at: held[at])
        if not held[most]:
            raise DayError(f"nobody in {self.name} has energy left to send to another region")
        return keys[most], held[most]

    def _publish_status(self, slot: int) -> None:
        """What the transformer will carry in a slot of the story, by its distributor."""
        loading_bps = transformer_loading_bps(self._profile.index(slot))
        distributor = self._prefixes.get(territory_of(TRANSFORMER))
        if distributor is None or loading_bps is None:
            return
        status = PublishGridStatus(
            TRANSFORMER, slot, loading_bps, TRANSFORMER_VA, FREQUENCY_MHZ, BPS
        )
        self._senders[0].send([self._sign(operator_key(distributor), status)])

    def retire(self) -> None:
        """The region's largest consumer retires the credits that came with what it bought."""
        consumers = [trader for trader in self.traders if not any(trader.gen_wh)]
        buyer = max(consumers or self.traders, key=lambda trader: sum(trader.load_wh))
        client = self._senders[0].client
        (held,) = client.balance(buyer.key.public_key, self._spec.name).chains
        if held.carbon_ucr:
            command = RetireCredits(held.carbon_ucr, RETIRED_FOR)
            transaction = self._sign(buyer.key, command)
            self._senders[0].send([transaction])
            client.wait_for([transaction.id.hex()], timeout_s=self._patience_s)

    def _orders(self, slot: int) -> Iterable[tuple[Trader, Payload]]:
        index = self._profile.index(slot)
        for trader in self.traders:
            order = trader.order(index, slot)
            if order is not None and self.incidents.may_order(trader, slot):
                yield trader, order

    def _count(self, slot: int) -> None:
        """A slot is over for all meters."""
        index, is_first = self._profile.index(slot), slot == self._slots.start
        for trader in self.traders:
            gateway = self._gateways[trader.name]
            if trader.name == gateways.EXCHANGED and slot == self.incidents.exchange_slot:
                self._send_readings(trader)
                self._replacement = gateway.exchange(gateways.new_device(trader))
            gateway.count(index, slot, is_first=is_first)

    def _may_read(self, trader: Trader, region: Region) -> bool:
        """Whether a trader's gateway can send what it has."""
        waiting = self._gateways[trader.name].waiting
        if not waiting:
            return False
        if trader.name == gateways.EXCHANGED and self._replacement is not None:
            return self._exchange is not None and self._is_final(self._exchange)
        if self.incidents.is_away(trader, waiting[-1].slot):
            voted = region.reading_limit >= self._slots.stop
            return voted and region.slot >= self.incidents.away.stop
        return True

    def _send_readings(self, trader: Trader) -> None:
        for command in self._gateways[trader.name].take():
            self._last_reading = self.send(trader.key, command)

    def _exchange_meter(self) -> None:
        """Once the old device's last reading is final, its distributor enters the new one."""
        last, command = self._last_reading, self._replacement
        if command is None or self._exchange is not None:
            return
        if last is None or self._is_final(last):
            distributor = self._prefixes[territory_of(self._exchanged.location)]
            self._exchange = self.send(operator_key(distributor), command)

    @property
    def _exchanged(self) -> Trader:
        return next(one for one in self.traders if one.name == gateways.EXCHANGED)

    def _is_final(self, transaction: Transaction) -> bool:
        told = self._senders[0].client.transaction_status(transaction.id.hex())
        return told.status in FINAL

    def _try_refused(self, region: Region) -> None:
        """A forged reading and an order of somebody unregistered: both must be refused."""
        trader = self.traders[0]
        forger = dev_key("forger")
        forged = self._gateways[trader.name].forgery(self._slots.start, forger)
        nonce = self._nonces.get(trader.key.public_key, 0)
        index = next(i for i in range(96) if trader.order(i, region.slot + 3) is not None)
        order = trader.order(index, region.slot + 3)
        assert order is not None
        attempts: list[tuple[str, SigningKey, int, Payload, ErrorCode]] = [
            ("forged reading", trader.key, nonce, forged, ErrorCode.BAD_SIGNATURE),
            ("unregistered seller", forger, 0, order, ErrorCode.ACCOUNT_NOT_FOUND),
        ]
        for what, key, number, payload, expected in attempts:
            transaction = sign_transaction(key, self._spec.chain_id, number, payload)
            outcome = self._senders[0].attempt(transaction)
            if outcome is None or outcome.code != expected:
                told = outcome or "it was admitted"
                raise DayError(f"{what} in {region.name} was to be refused: {told}")
            self.refusals[f"{region.name} {what}"] = outcome.message

    def _sign(self, key: SigningKey, payload: Payload) -> Transaction:
        nonce = self._nonces.get(key.public_key, 0)
        self._nonces[key.public_key] = nonce + 1
        return sign_transaction(key, self._spec.chain_id, nonce, payload)


def chain_totals(stats: MarketStats, chain: str) -> dict[str, int]:
    """The whole numbers of one chain in an `energy_getStats` answer."""
    row = next(one for one in stats.chains if one.chain == chain)
    return {name: value for name, value in vars(row).items() if type(value) is int}


def patience_s(genesis: Genesis) -> float:
    """How long to wait for what takes some blocks, however slow they are."""
    return PATIENCE_S + PATIENCE_BLOCKS * genesis.block_time_ms / 1_000


def _advance(region: Region, row: ChainOfNode, totals: dict[str, int]) -> None:
    traded_wh = totals["traded_wh"] - region.totals.get("traded_wh", 0)
    traded_uthb = totals["traded_uthb"] - region.totals.get("traded_uthb", 0)
    if traded_wh:
        region.price_mthb = traded_uthb // traded_wh
    region.height = row.head.height
    region.market_ms = row.head.market_ms
    region.totals = totals
    region.finality_ms = row.finality_ms.p50 or 0


def _senders(members: Sequence[Member], position: int, genesis: Genesis) -> list[Sender]:
    """Two ways into each chain, so that the chains together use all nodes of a cluster of five."""
    senders = []
    for step in range(2):
        first = (2 * position + step) % len(members)
        order = [*members[first:], *members[:first]]
        senders.append(Sender([Client(member.api_url, genesis=genesis) for member in order]))
    return senders
