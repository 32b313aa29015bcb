"""Extreme commands of every kind against real chains; whatever they store is read back at once.

Commands are made from the types of `chain.transaction.Payload` alone, so a kind that is added is
covered without a change here: numbers lie at the ends of their ranges, beside them, or where rows
of the state have them, so that many are accepted. A row that cannot be read, and any exception but
`Rejected`, is a fault of the chain.
"""

from __future__ import annotations

import bisect
import dataclasses
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from functools import cache
from random import Random
from typing import Any, get_args, get_origin, get_type_hints

from gridtokenx.chain.block import Receipt
from gridtokenx.chain.crossing import NationalSlice
from gridtokenx.chain.genesis import BlockClock, ChainSpec
from gridtokenx.chain.state_tree import StateTree
from gridtokenx.chain.transaction import Payload, Transaction, decode_transaction
from gridtokenx.chain.transition import (
    Execution,
    Parent,
    apply_transaction,
    environment,
    execute_block,
    propose_block,
)
from gridtokenx.chain.validator_sets import current_set, set_at
from gridtokenx.cluster.devnet import (
    AUTHORITIES,
    NATIONAL,
    ORGANISATIONS,
    dev_key,
    local_genesis,
    operator_key,
    stake_key,
    validator_name,
)
from gridtokenx.consensus.evidence import Evidence, double_vote
from gridtokenx.consensus.messages import Phase, Vote, vote_bytes
from gridtokenx.governance import parameters as voted
from gridtokenx.grid.model import REGISTERS, MeterReading, SubmitReadings, signed_bytes
from gridtokenx.interchain import checkpoints
from gridtokenx.interchain import rules as interchain
from gridtokenx.interchain.log import logs_root, next_head
from gridtokenx.interchain.model import Downward, ParameterOrder, SubmitCheckpoint, Upward
from gridtokenx.ledger import rules as ledger
from gridtokenx.primitives import codec
from gridtokenx.primitives.codec import MAX_INT, Limit, decode, encode
from gridtokenx.primitives.crypto import SigningKey, sha256
from gridtokenx.primitives.errors import Rejected
from gridtokenx.primitives.quantities import SLOT_MS, slot_at
from gridtokenx.primitives.state import Overlay, Table
from gridtokenx.registry.model import Generation
from gridtokenx.staking.model import VALIDATORS, CreateValidator, UpdateValidator, proof_bytes
from gridtokenx.storage.index import find_transaction, index_rows, load_totals
from gridtokenx.storage.totals import Totals
from gridtokenx.trading.model import Side
from tests.support.chains_world import KEYS, certify
from tests.support.market_world import START_MS, Household, MarketWorld
from tests.support.wire_values import tables

EXTREMES = (0, 1, 2, 2**31, 2**32, 2**62, 2**63 - 2, 2**63 - 1)
KINDS: tuple[type[Any], ...] = get_args(Payload)
LOCATIONS = ("BKK-01-SUB001", "BKK-01-SUB002", "BKK-02-SUB001", "NTB-01-SUB001", "CNX-01-SUB001")
PREFIXES = ("BKK", "NTB", "SPK", "CNX", "XYZ")
# What is added to now, or to what a row has, for fields whose names end so; for others the value.
STEPS: dict[str, tuple[int, ...]] = {
    "first_slot": (1, 2),
    "last_slot": (2, 2, 3, 90),
    "slot": (-2, -1, -1, -1, -1, 0, 1),
    "_ms": (-1, 1, 10**6, 10**8, 10**10, 4 * 10**10),
    "_cum": (0, 1, 500, 1000, 10_000, 20_000),
    "seq": (1,),
    "_mhz": (50_000,),
    "_mthb": (1000, 2000, 3000, 4000, 5000, 9000),
    "_w": (0, 10_000, 200_000, 2**40),
}
LIFE_COMMANDS = 25_000  # Then chains begin anew: enough votes and halts leave nothing that moves.
STRANGERS = 24
HOUSES = 8


class State:
    """A reader over encoded values: decoded when first read, and again after each change."""

    def __init__(self) -> None:
        self.values: dict[bytes, bytes] = {}
        self._keys: list[bytes] = []
        self._decoded: dict[bytes, Any] = {}
        self._indexes: dict[type, Any] = {}

    def load(self, key: bytes, decode: Callable[[bytes], Any]) -> Any | None:
        found = self._decoded.get(key)
        if found is None and key in self.values:
            found = self._decoded[key] = decode(self.values[key])
        return found

    def scan(self, prefix: bytes, decode: Callable[[bytes], Any]) -> Iterator[tuple[bytes, Any]]:
        at = bisect.bisect_left(self._keys, prefix)
        while at < len(self._keys) and self._keys[at].startswith(prefix):
            yield self._keys[at], self.load(self._keys[at], decode)
            at += 1

    def kept(self, kind: Any) -> Any:
        if kind not in self._indexes:
            self._indexes[kind] = kind()
            self._indexes[kind].follow(kind.table.items(self))
        return self._indexes[kind]

    def commit(self, overlay: Overlay, changes: Iterable[tuple[bytes, bytes | None]]) -> None:
        for key, raw in changes:
            self._decoded.pop(key, None)
            if raw is None:
                if self.values.pop(key, None) is not None:
                    del self._keys[bisect.bisect_left(self._keys, key)]
                continue
            if key not in self.values:
                bisect.insort(self._keys, key)
            self.values[key] = raw
        for kind, index in self._indexes.items():
            cut = len(kind.table.prefix)
            rows = [row for row in overlay.changed() if row[0].startswith(kind.table.prefix)]
            index.follow([(key[cut:], value) for key, value in rows])


@dataclass
class Counts:
    """What became of the commands, by kind; refusals by code."""

    accepted: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    codes: Counter[str] = field(default_factory=Counter)
    rows: int = 0
    blocks: int = 0

    @property
    def commands(self) -> int:
        return self.accepted.total() + self.refused.total()

    def document(self) -> dict[str, Any]:
        kinds = sorted({*self.accepted, *self.refused})
        return {
            "commands": self.commands,
            "accepted": self.accepted.total(),
            "blocks": self.blocks,
            "rows_read_back": self.rows,
            "kinds": {name: [self.accepted[name], self.refused[name]] for name in kinds},
            "codes": dict(sorted(self.codes.items())),
        }


class FuzzedChain:
    """One chain, whose every block is proposed, executed again, and read back row by row."""

    def __init__(self, spec: ChainSpec, random: Random, counts: Counts) -> None:
        self.spec, self.random, self.counts = spec, random, counts
        self.state, self.tree, self.totals = State(), StateTree(), Totals()
        self.index: dict[bytes, bytes] = {}
        # Values that the state has or had, by table: commands take what belongs together from one.
        self.rows: dict[bytes, deque[Any]] = {}
        overlay = Overlay(self.state)
        spec.install(overlay)
        self._store(overlay, overlay.changes())
        genesis_ms = spec.genesis.genesis_time_ms
        self.parent = Parent(0, spec.chain_id, genesis_ms, self.tree.root)
        self.evidence: tuple[Evidence, ...] = ()
        self.begin()

    # -- Blocks ------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Let commands be applied for the next block."""
        signers = current_set(self.state, self.parent.height + 1)
        time_ms = self.spec.opens_ms(self.parent.time_ms)
        self.env = environment(self.spec, signers, self.parent, 0, time_ms)
        self.pending = Overlay(self.state)
        self.waiting: list[Transaction] = []

    def offer(self, key: SigningKey, payload: Any, fee_ugtx: int = 0) -> Rejected | None:
        """Apply a command as a mempool does; one that is accepted waits for the block."""
        sender = key.public_key
        nonce = ledger.account(self.pending, sender).nonce
        name = type(payload).__name__
        made = Transaction(self.spec.chain_id, sender, nonce, fee_ugtx, payload, bytes(64))
        attempt = Overlay(self.pending)
        try:
            transaction = decode_transaction(made.encoded)
            apply_transaction(attempt, transaction, self.env)
            attempt.merge()
        except Rejected as error:
            self.counts.refused[name] += 1
            self.counts.codes[error.code.name] += 1
            return error
        except Exception as error:
            error.add_note(f"{self.spec.name} {self.parent.height + 1}: {sender.hex()} {payload}")
            raise
        self.waiting.append(transaction)
        return None

    def block(self, taken: NationalSlice | None = None) -> Execution:
        """Decide a block of all that waits, and read back all that it stored."""
        time_ms = self.spec.opens_ms(self.parent.time_ms)
        execution, refused = propose_block(
            self.spec, self.state, self.tree, self.parent,
            view=0, proposer_index=0, time_ms=time_ms,
            candidates=self.waiting, last_commit=b"", evidence=self.evidence, taken=taken,
        )  # fmt: skip
        again = execute_block(
            self.spec, self.state, self.tree, self.parent,
            execution.block, execution.transactions,
        )  # fmt: skip
        assert again.block.header.hash == execution.block.header.hash
        out = dict(refused)
        for transaction in self.waiting:
            name, error = type(transaction.payload).__name__, out.get(transaction.id)
            (self.counts.accepted if error is None else self.counts.refused)[name] += 1
            if error is not None:
                self.counts.codes[error.code.name] += 1
        self._check_index(execution)
        self._store(execution.overlay, execution.changes)
        header = execution.block.header
        self.parent = Parent(header.height, header.hash, header.time_ms, header.state_root)
        self.counts.blocks += 1
        self.evidence = ()
        self.begin()
        return execution

    def _store(self, overlay: Overlay, changes: Sequence[tuple[bytes, bytes | None]]) -> None:
        for key, raw in changes:
            if raw is not None:
                value = table_of(key).decode(raw)
                assert encode(value) == raw
                self.counts.rows += 1
                self.rows.setdefault(key[:2], deque(maxlen=100)).append(value)
        self.tree.apply(self.tree.update(changes))
        self.state.commit(overlay, changes)

    def plant(self, rows: Iterable[tuple[Table[Any], bytes, Any]]) -> None:
        """Have the state hold these rows, as if blocks had led there."""
        overlay = Overlay(self.state)
        for table, key, value in rows:
            table.put(overlay, key, value)
        self._store(overlay, overlay.changes())
        self.begin()

    def _check_index(self, execution: Execution) -> None:
        header = execution.block.header
        rows, self.totals = index_rows(
            header.height, header.time_ms, self.env.now_ms,
            execution.transactions, execution.receipts, self.totals,
        )  # fmt: skip
        self.index = dict(rows)
        assert load_totals(self) == self.totals
        for transaction, receipt in zip(
            execution.transactions, execution.receipts[1:], strict=True
        ):
            assert decode(Receipt, encode(receipt)) == receipt
            record = find_transaction(self, transaction.id)
            assert record is not None
            assert record.events == receipt.events
        assert decode(Receipt, encode(execution.receipts[0])) == execution.receipts[0]

    def index_get(self, key: bytes) -> bytes | None:
        return self.index.get(key)

    def index_rows(self, prefix: bytes, start: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        raise NotImplementedError


@cache
def _tables() -> dict[bytes, Table[Any]]:
    return {table.prefix: table for table in tables()}


def table_of(key: bytes) -> Table[Any]:
    """The table that a state key belongs to."""
    return _tables()[key[:2]]


class Maker:
    """Makes values from type hints. `now` tells what is sensible for a field of a name."""

    def __init__(self, chain: FuzzedChain) -> None:
        self.chain, self.random = chain, chain.random
        self.keys = {key.public_key: key for key in _keys()}
        self.operators = [operator_key(name) for name, _ in ORGANISATIONS]
        self.known = list(self.keys)
        self._elsewhere: set[type[Any]] = set()  # Kinds that are for other chains.
        self._care = 0.5  # How likely a field is sensible.
        # What was in commands that were accepted: by kind, or by kind and field.
        self._senders: dict[Any, deque[SigningKey]] = {}
        self._liked: dict[Any, deque[Any]] = {}
        self._kind: Any = None

    def command(self) -> tuple[SigningKey, Any]:
        """A sender and its command."""
        kind = self.random.choice(KINDS)
        while kind in self._elsewhere and self.random.random() < 0.95:
            kind = self.random.choice(KINDS)
        self._care = self.random.choice((0.99, 0.95, 0.9, 0.6))
        context = self._context(kind)
        self._kind = kind
        sender = self._sender(context)
        payload = self._signed(self.made(kind, context), sender)
        return sender, payload

    def note(self, sender: SigningKey, payload: Any, refusal: Rejected | None) -> None:
        """Learn from an answer: a kind of another chain is tried seldom from then on."""
        kind = type(payload)
        if refusal is None:
            self._senders.setdefault(kind, deque(maxlen=30)).append(sender)
            for one in dataclasses.fields(payload):
                found = getattr(payload, one.name)
                if type(found) in (int, str):
                    self._liked.setdefault((kind, one.name), deque(maxlen=30)).append(found)
        elif " is for " in refusal.detail:
            self._elsewhere.add(kind)

    def made(self, kind: Any, context: dict[str, Any] | None = None) -> Any:
        """A value of a wire class."""
        context = self._context(kind) if context is None else context
        hints = get_type_hints(kind, include_extras=True)
        return kind(
            **{
                one.name: self._value(hints[one.name], one.name, context)
                for one in dataclasses.fields(kind)
                if one.init
            }
        )

    def _value(
        self, hint: Any, name: str, context: dict[str, Any], limit: Limit | None = None
    ) -> Any:
        hint, own = codec.bare_hint(hint)
        limit = own or limit
        if get_origin(hint) is tuple:
            low, high = (0, 3) if limit is None else (limit.low, limit.high)
            most = high if high <= 130 and self.random.random() < 0.02 else min(high, low + 3)
            size = self.random.randint(low, most)
            return tuple(self._value(get_args(hint)[0], name, context) for _ in range(size))
        if codec.is_union(hint):
            members = [one for one in get_args(hint) if one is not type(None)]
            if len(members) < len(get_args(hint)) and self.random.random() < 0.4:
                return None
            return self._value(self.random.choice(members), name, context, limit)
        if codec.is_wire(hint):
            return self.made(hint, context)
        if issubclass(hint, Enum):
            found = context.get(name)
            is_fit = found in [one.value for one in hint] and self.random.random() < self._care
            return hint(found) if is_fit else self.random.choice(list(hint))
        if hint is bool:
            return self.random.random() < 0.4 * (1.1 - self._care)
        if hint is int:
            return self._number(name, context, limit or Limit(0, MAX_INT))
        if hint is str:
            return self._text(name, context, limit or Limit(0, 256))
        return self._bytes(name, context, limit or Limit(0, 64))

    def _number(self, name: str, context: dict[str, Any], limit: Limit) -> int:
        if self.random.random() < self._care:
            found = self._sensible(name, context)
        elif self.random.random() < 0.3:
            found = context.get(name, self._of_any_row()) + self.random.choice((-1, 0, 1))
        else:
            ends = (limit.low, limit.low + 1, limit.high - 1, limit.high)
            found = self.random.choice((*ends, *ends, *EXTREMES))
        return max(limit.low, min(limit.high, found))

    def _sensible(self, name: str, context: dict[str, Any]) -> int:
        choice, now_ms = self.random.choice, self.chain.env.now_ms
        steps = next((steps for end, steps in STEPS.items() if name.endswith(end)), None)
        if name.endswith("slot"):
            return slot_at(now_ms) + choice(steps or (0,))
        if name.endswith("_ms") and "duration" not in name:
            return now_ms + choice(steps or (0,))
        if name.endswith(("_cum", "seq")):
            return int(context.get(name, 0)) + choice(steps or (0,))
        if steps is not None:
            return choice(steps)
        liked = self._liked.get((self._kind, name))
        if liked and choice((True, False)):
            return int(choice(liked))
        if name in context and choice((True, False)):
            return int(context[name])
        return choice((1, 100, 1000, 1000, 1000, 10**6, 10**6, 10**9, 10**10, 10**12, MAX_INT))

    def _text(self, name: str, context: dict[str, Any], limit: Limit) -> str:
        known = self._known_texts(name)
        liked = self._liked.get((self._kind, name))
        if liked and self.random.random() < 0.4:
            known = tuple(liked)
        found = context.get(name)
        if isinstance(found, str) and self.random.random() < self._care:
            known = (found,)
        fits = [one for one in known if limit.low <= len(one) <= limit.high]
        if fits and self.random.random() < self._care:
            return self.random.choice(fits)
        most = min(limit.high, 300)
        size = self.random.choice((limit.low, most, min(most, limit.low + 3)))
        return "".join(self.random.choice("aZ0-ก🌞") for _ in range(size))

    def _known_texts(self, name: str) -> Sequence[str]:
        chains = self.chain.spec.genesis.chain_names
        if name == "new_value":
            parameter = self.random.choice(voted.PARAMETERS)
            edge = self.random.choice((parameter.low, parameter.high))
            return ("0.5", "1", "4", voted.format_value(parameter, edge))
        known: dict[str, Sequence[str]] = {
            "location": LOCATIONS,
            "node": (*LOCATIONS, *PREFIXES, "BKK-01"),
            "territory": (*PREFIXES, *chains),
            "region": chains,
            "destination": chains,
            "origin": chains,
            "chain": chains,
            "organisation": AUTHORITIES,
            "parameter": [one.name for one in voted.PARAMETERS],
            "name": [one.name for one in voted.PARAMETERS],
        }
        return known.get(name, ())

    def _bytes(self, name: str, context: dict[str, Any], limit: Limit) -> bytes:
        found = context.get(name)
        if type(found) is bytes and len(found) == limit.high and self.random.random() < self._care:
            return found
        if limit.low == limit.high == 32:
            if self.random.random() < 0.6:
                return self.random.choice(self.known)
            known = [one for one in context.values() if type(one) is bytes and len(one) == 32]
            return self.random.choice(known or self.known)
        size = self.random.choice((limit.low, limit.high, min(limit.high, limit.low + 40)))
        return self.random.randbytes(min(size, 2_000))

    def _context(self, kind: Any) -> dict[str, Any]:
        """The fields of some row of the state, by name: of a few rows the one most like `kind`."""
        wanted = {one.name for one in dataclasses.fields(kind)}
        tried = [self._row() for _ in range(self.random.choice((1, 8, 16, 32)))]
        return max(tried, key=lambda row: len(wanted & row.keys()))

    def _row(self) -> dict[str, Any]:
        row = self.random.choice(self.chain.rows[self.random.choice(list(self.chain.rows))])
        found: dict[str, Any] = {}
        for value in (row, getattr(row, "terms", None), getattr(row, "content", None)):
            if dataclasses.is_dataclass(value):
                found |= {one.name: getattr(value, one.name) for one in dataclasses.fields(value)}
        if "meter_id" in found:
            shown = REGISTERS.get(self.chain.pending, found["meter_id"])
            if shown is not None:
                found |= {one.name: getattr(shown, one.name) for one in dataclasses.fields(shown)}
        aliases = {"order_id": "id", "proposal": "number", "to": "account", "account": "owner"}
        aliases |= {"validator": "operator", "public_key": "consensus_key", "source": "operator"}
        found |= {new: found[old] for new, old in aliases.items() if old in found}
        if "operator" in found and VALIDATORS.prefix in self.chain.rows:
            found["destination"] = self.random.choice(self.chain.rows[VALIDATORS.prefix]).operator
        return found

    def _of_any_row(self) -> int:
        numbers = [one for one in self._row().values() if type(one) is int]
        return self.random.choice(numbers or [0])

    def _sender(self, context: dict[str, Any]) -> SigningKey:
        owners = [context.get(name) for name in ("owner", "operator", "account", "proposer")]
        own = [self.keys[one] for one in owners if one in self.keys]
        if own and self.random.random() < 0.6 * self._care:
            return self.random.choice(own)
        if self._kind in self._senders and self.random.random() < 0.6:
            return self.random.choice(self._senders[self._kind])
        if self.random.random() < 0.6:
            return self.random.choice(self.operators)
        return self.random.choice(list(self.keys.values()))

    def _signed(self, payload: Any, sender: SigningKey) -> Any:
        """With a good signature inside, where the kind has one and its key is known."""
        if self.random.random() < 0.05:
            return payload
        chain_id = self.chain.spec.chain_id
        if isinstance(payload, SubmitReadings):
            return SubmitReadings(tuple(self._signed_reading(one) for one in payload.readings))
        if isinstance(payload, CreateValidator | UpdateValidator):
            consensus = self.keys.get(payload.consensus_key or b"")
            if consensus is not None:
                said = proof_bytes(chain_id, sender.public_key, consensus.public_key)
                return replace(payload, proof=consensus.sign(said))
        return payload

    def _signed_reading(self, reading: MeterReading) -> MeterReading:
        device = self.keys.get(reading.key)
        if device is None:
            return reading
        message = signed_bytes(self.chain.spec.chain_id, reading)
        return replace(reading, signature=device.sign(message))


@cache
def _keys() -> tuple[SigningKey, ...]:
    validators = [validator_name(index)[1] for index in range(len(AUTHORITIES))]
    return (
        *(operator_key(name) for name, _ in ORGANISATIONS),
        *(dev_key(f"{name} account") for name, _ in ORGANISATIONS),
        *(dev_key(name) for name in ("dev", *validators)),
        *(stake_key(name) for name in validators),
        *(SigningKey(sha256(b"stranger %d" % number)) for number in range(STRANGERS)),
        *(SigningKey(sha256(name.encode())) for name in _house_keys()),
    )


def _house_keys() -> list[str]:
    return [f"house {at}{what}" for at in range(HOUSES) for what in ("", " meter")]


class FuzzedRegion:
    """A region with households that trade, and a national chain that sends it anything."""

    def __init__(self, random: Random, counts: Counts) -> None:
        genesis = local_genesis(clock=BlockClock(START_MS, SLOT_MS))
        self.chain = FuzzedChain(genesis.chain("MET"), random, counts)
        self.maker = Maker(self.chain)
        self.houses: list[Household] = []
        self._enter_households()

    def run(self, commands: int) -> None:
        """A block of so many commands, and of a few that nobody would look at twice."""
        self._ordinary()
        for _ in range(commands):
            sender, command = self.maker.command()
            self.maker.note(sender, command, self.chain.offer(sender, command, self._fee()))
        self.chain.evidence = offence(self.chain)
        self.chain.block(self._slice())

    def _fee(self) -> int:
        random = self.chain.random
        return 0 if random.random() < 0.95 else random.choice(EXTREMES)

    def _slice(self) -> NationalSlice | None:
        random = self.chain.random
        inbox = interchain.inbox_of(self.chain.state)
        assert inbox is not None
        if random.random() < 0.5:
            return None
        # Most parameters that are ordered make trade impossible: one now and then.
        kinds = [kind for kind in get_args(Downward) if kind is not ParameterOrder]
        if random.random() < 0.05:
            kinds.append(ParameterOrder)
        messages = [self.maker.made(random.choice(kinds)) for _ in range(random.randint(0, 5))]
        height = inbox.root_height + 1
        return NationalSlice(height, sha256(b"%d" % height), interchain.take_due(messages))

    def _enter_households(self) -> None:
        self.market = MarketWorld()
        self.market.spec = self.chain.spec
        self.market.nonces.clear()
        for at in range(HOUSES):
            source = Generation.SOLAR if at % 2 else Generation.NONE
            house = self.market.household(f"house {at}", LOCATIONS[at % 3], source)
            self.houses.append(house)
        for transaction in self.market.waiting:
            key = self.maker.keys[transaction.sender]
            assert self.chain.offer(key, transaction.payload) is None
        self.chain.block()

    def live(self, blocks: int) -> None:
        """So many blocks of ordinary life."""
        for _ in range(blocks):
            self._ordinary()
            self.chain.block()

    def _ordinary(self) -> None:
        """Some of what households do on a day, so that there is something to be extreme about."""
        random, now = self.chain.random, slot_at(self.chain.env.now_ms)
        for house in self.houses:
            makes = house.source is not Generation.NONE
            if random.random() < 0.5:
                side, limit_mthb = (Side.SELL, 2300) if makes else (Side.BUY, 4000)
                order = self.market.order(house, side, 1000, limit_mthb, now + random.randint(2, 4))
                self.chain.offer(house.key, order)
            shown = REGISTERS.get(self.chain.pending, house.meter.public_key)
            if random.random() < 0.8 and (shown is None or shown.slot < now - 1):
                if shown is not None:
                    house.import_wh, house.export_wh = shown.import_wh_cum, shown.export_wh_cum
                    house.seq = shown.seq
                if max(house.import_wh, house.export_wh, house.seq) < MAX_INT - 2_000:
                    reading = self.market.reading(house, now - 1, 800 if makes else 0, 900)
                    self.chain.offer(house.key, reading)


class FuzzedNational:
    """A national chain with stake and votes, and regions whose quorums sign anything."""

    def __init__(self, random: Random, counts: Counts) -> None:
        genesis = local_genesis(clock=BlockClock(START_MS, SLOT_MS))
        self.chain = FuzzedChain(genesis.chain(NATIONAL), random, counts)
        self.maker = Maker(self.chain)
        self.chain.block()

    def run(self, commands: int) -> None:
        """A block of so many commands, and of a captured region's checkpoint."""
        for _ in range(commands - 1):
            sender, command = self.maker.command()
            self.maker.note(sender, command, self.chain.offer(sender, command))
        forged = self._checkpoint()
        sender, command = self.maker.command()
        self.chain.offer(sender, command if forged is None else forged)
        self.chain.evidence = offence(self.chain)
        self.chain.block()

    def _checkpoint(self) -> SubmitCheckpoint | None:
        random, state = self.chain.random, self.chain.pending
        region = random.choice(checkpoints.regions(state))
        if any(member.public_key not in KEYS for member in region.validators.members):
            return None  # A vote has put somebody else there.
        home = self.chain.spec.genesis_id
        messages = [
            encode(self.maker.made(random.choice(get_args(Upward))))
            for _ in range(random.randint(0, 4))
        ]
        messages = [raw for raw in messages if len(raw) <= 224]
        count, head = region.outbox_count, region.outbox_head
        for raw in messages:
            head = next_head(head, region.genesis_id, home, count, raw)
            count += 1
        step = 1 if random.random() < 0.999 else MAX_INT - region.height
        header = replace(
            self._any_header(),
            chain_id=region.chain_id,
            height=region.height + step,
            set_hash=region.validators.hash,
            next_set_hash=region.validators.hash,
            outbox_root=logs_root([(home, count, head)]),
            outbox_count=count,
            inbox_next=random.choice((region.inbox_next, region.inbox_next + 1)),
        )
        certificate = certify(region.validators, region.chain_id, header.height, header.hash)
        return SubmitCheckpoint(region.name, encode(header), encode(certificate), tuple(messages))

    def _any_header(self) -> Any:
        execution, _ = propose_block(
            self.chain.spec, self.chain.state, self.chain.tree, self.chain.parent,
            view=0, proposer_index=0,
            time_ms=self.chain.spec.opens_ms(self.chain.parent.time_ms),
            candidates=(), last_commit=b"",
        )  # fmt: skip
        return execution.block.header


def offence(chain: FuzzedChain) -> tuple[Evidence, ...]:
    """Now and then two votes of one validator in one view of some height."""
    random, height = chain.random, chain.parent.height
    signers = set_at(chain.state, height)
    if random.random() > 0.05 or signers is None:
        return ()
    members = signers.validators.members
    index = random.randrange(len(members))
    key = KEYS.get(members[index].public_key)
    if key is None:
        return ()
    votes = []
    for block_hash in (sha256(b"one"), sha256(b"two")):
        signed = vote_bytes(Phase.PREPARE, chain.spec.chain_id, height, 0, block_hash)
        votes.append(Vote(Phase.PREPARE, height, 0, block_hash, index, key.sign(signed)))
    return (double_vote(signers.validators, *votes),)


def fuzz(
    commands: int,
    seed: int,
    *,
    per_block: int = 100,
    told: Callable[[Counts], None] = lambda _: None,
) -> Counts:
    """Run so many commands, half on a region, half on a national chain. `told` after each block.

    AssertionError, or whatever the chain raised: with the command in its notes.
    """
    random, counts = Random(seed), Counts()
    while counts.commands < commands:
        worlds = (FuzzedRegion(random, counts), FuzzedNational(random, counts))
        end = min(commands, counts.commands + LIFE_COMMANDS)
        while counts.commands < end:
            for world in worlds:
                world.run(per_block)
                told(counts)
    return counts
