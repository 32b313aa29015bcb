"""What stake and votes cost a block: ballots, the end of a vote, payments, on state in RocksDB."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from gridtokenx.chain.national import carry_to_votes, voting_power
from gridtokenx.governance import model as gov
from gridtokenx.governance import rules as governance
from gridtokenx.ledger import rules as ledger
from gridtokenx.primitives.crypto import sha256
from gridtokenx.primitives.state import Overlay
from gridtokenx.staking import model as stake
from gridtokenx.staking import penalties
from gridtokenx.staking import rules as staking
from gridtokenx.storage.database import StateReader
from scripts.benchmarks.kept_chain import KeptChain

GTX = 1_000_000
OPERATORS = [sha256(b"operator %d" % number) for number in range(40)]
OPEN_VOTES = governance.MAX_OPEN_BALLOTS
NUMBERS = stake.StakingParameters(min_self_bond_ugtx=GTX, unbonding_blocks=5)
VOTING_MS = 1_000_000
ROWS_A_BLOCK = 50_000


def measure(voters: int, delegations: int) -> Iterator[dict[str, Any]]:
    """Figures in CPU: of ballots of `voters` who bond to `delegations` validators each, and of a
    block full of each kind of leaving."""
    with tempfile.TemporaryDirectory() as folder:
        bench = _Bench(Path(folder), voters, delegations)
        bench.set_up()
        yield bench.votes()
        yield bench.moving_with_open_votes()
        yield bench.leaving("unbond", bench.unbond)
        yield bench.leaving("redelegate", bench.redelegate)
        bench.database.close()


class _Bench(KeptChain):
    def __init__(self, folder: Path, voters: int, delegations: int) -> None:
        super().__init__(folder, "TH")
        self.voters = [sha256(b"voter %d" % number) for number in range(voters)]
        self.delegations = delegations
        self.now_ms = 0
        self.started = 0

    def each(self, overlay: Overlay, work: Callable[[Overlay], object]) -> None:
        """As a transaction is applied: on an overlay of its own."""
        attempt = Overlay(overlay)
        work(attempt)
        attempt.merge()

    def set_up(self) -> None:
        overlay = Overlay(self.reader)
        stake.STAKING_PARAMETERS.put(overlay, b"", NUMBERS)
        votes = gov.GovernanceParameters(voting_period_ms=VOTING_MS, max_active=100)
        gov.GOVERNANCE_PARAMETERS.put(overlay, b"", votes)
        for operator in OPERATORS:
            ledger.issue_gtx(overlay, operator, 10**6 * GTX)
            first = stake.CreateValidator(operator, "v", 0, 1000 * GTX, bytes(64))
            staking.add_validator(overlay, first, operator=operator, height=0)
        rows = 0
        for number, voter in enumerate(self.voters):
            ledger.issue_gtx(overlay, voter, 1000 * GTX)
            for step in range(self.delegations):
                command = stake.Bond(OPERATORS[(number + step) % len(OPERATORS)], 2 * GTX)
                staking.bond(overlay, command, sender=voter)
            rows += self.delegations
            if rows >= ROWS_A_BLOCK:
                self.commit(overlay)
                overlay, rows = Overlay(self.reader), 0
        self.commit(overlay)

    def propose(self, overlay: Overlay) -> int:
        content = gov.Upgrade("1.0", 1)
        command = gov.Propose("t", "d", content)
        around = _nowhere()
        (event,) = governance.propose(
            overlay, command, sender=OPERATORS[0], now_ms=self.now_ms, around=around
        )
        assert isinstance(event, gov.ProposalSubmitted)
        return event.proposal

    def vote(self, overlay: Overlay, voter: bytes, number: int) -> None:
        def work(state: Overlay) -> None:
            command = gov.Vote(number, gov.Choice.YES if voter[0] % 3 else gov.Choice.NO)
            power = voting_power(state)
            governance.vote(state, command, sender=voter, now_ms=self.now_ms, power=power)

        self.each(overlay, work)

    def begin_votes(self, overlay: Overlay) -> list[Any]:
        return governance.begin_block(
            overlay,
            now_ms=self.now_ms,
            grace_ms=2**60,
            power=lambda: voting_power(overlay),
            around=_nowhere(),
        )

    def votes(self) -> dict[str, Any]:
        """One block full of ballots, the end of the vote, and forgetting them."""
        self.seconds = {}
        overlay = Overlay(self.reader)
        number = self.propose(overlay)
        with self.timed("cast"):
            for voter in self.voters:
                self.vote(overlay, voter, number)
        self.commit(overlay, "cast_seal")
        self.now_ms += VOTING_MS
        overlay = Overlay(self.reader)
        with self.timed("end"):
            (concluded,) = self.begin_votes(overlay)
        self.commit(overlay, "end_seal")
        forgotten = []
        while list(gov.ENDED.items(self.reader)):
            self.now_ms += 1
            before = self.seconds.get("forget", 0.0)
            overlay = Overlay(self.reader)
            with self.timed("forget"):
                self.begin_votes(overlay)
            self.commit(overlay, "forget_seal")
            forgotten.append(self.seconds["forget"] - before)
        return {
            "what": "tally",
            "voters": len(self.voters),
            "delegations": self.delegations,
            "status": concluded.status.value,
            "cast_us_a_ballot": round(self.seconds["cast"] / len(self.voters) * 1e6, 1),
            "cast_block_ms": _ms(self.seconds["cast"] + self.seconds["cast_seal"]),
            "end_ms": _ms(self.seconds["end"]),
            "forget_blocks": len(forgotten),
            "forget_worst_ms": _ms(max(forgotten)),
        }

    def moving_with_open_votes(self) -> dict[str, Any]:
        """Bonds of accounts that have ballots in as many votes as they may."""
        self.seconds = {}
        some = self.voters[:500]
        overlay = Overlay(self.reader)
        for _ in range(OPEN_VOTES):
            number = self.propose(overlay)
            for voter in some:
                self.vote(overlay, voter, number)
        self.commit(overlay)
        overlay = Overlay(self.reader)
        with self.timed("bond"):
            for place, voter in enumerate(some):
                command = stake.Bond(OPERATORS[place % len(OPERATORS)], GTX)
                self.each(overlay, _bond_with_votes(command, voter))
        return {
            "what": "bond_with_open_votes",
            "open_votes": OPEN_VOTES,
            "bond_us": round(self.seconds["bond"] / len(some) * 1e6, 1),
        }

    def leaving(
        self, what: str, command: Callable[[bytes, list[bytes], Overlay], object]
    ) -> dict[str, Any]:
        """A block full of entries, of which offences take a part, and the block that ends them."""
        self.seconds = {}
        held = {voter: _held(self.reader, voter) for voter in self.voters}
        places = [(voter, held[voter][step:]) for voter in self.voters for step in (0, 1)]
        self.started = self.height
        overlay = Overlay(self.reader)
        with self.timed("start"):
            for voter, validators in places:
                self.each(overlay, partial(command, voter, validators))
        self.commit(overlay, "start_seal")
        overlay = Overlay(self.reader)
        for operator in OPERATORS:
            penalties.punish_offence(
                overlay, operator, offence_height=self.height, epoch_height=self.height,
                backed_since=0, weight=1, total_weight=1000, height=self.height,
            )  # fmt: skip
        self.commit(overlay)
        while self.height < self.started + NUMBERS.unbonding_blocks - 1:
            self.commit(Overlay(self.reader))
        overlay = Overlay(self.reader)
        height = self.started + NUMBERS.unbonding_blocks
        with self.timed("finish"):
            events = staking.begin_block(overlay, height=height, members=(), seen=frozenset())
        self.commit(overlay, "finish_seal")
        return {
            "what": what,
            "entries": len(events),
            "start_us": round(self.seconds["start"] / len(places) * 1e6, 1),
            "finish_ms": _ms(self.seconds["finish"]),
            "finish_seal_ms": _ms(self.seconds["finish_seal"]),
        }

    def unbond(self, voter: bytes, validators: list[bytes], state: Overlay) -> None:
        command = stake.Unbond(validators[0], GTX)
        staking.unbond(state, command, sender=voter, height=self.height)

    def redelegate(self, voter: bytes, validators: list[bytes], state: Overlay) -> None:
        command = stake.Redelegate(validators[0], validators[2], 3 * GTX)
        staking.redelegate(state, command, sender=voter, height=self.height)


def _held(reader: StateReader, voter: bytes) -> list[bytes]:
    return [key[32:] for key, _ in stake.DELEGATIONS.items(reader, voter)]


def _bond_with_votes(command: stake.Bond, voter: bytes) -> Callable[[Overlay], object]:
    def work(state: Overlay) -> Iterable[object]:
        return carry_to_votes(state, staking.bond(state, command, sender=voter))

    return work


def _nowhere() -> gov.Surroundings:
    """Where nothing depends on other chains."""
    return gov.Surroundings(
        lambda _: 0,
        lambda territory: territory,
        lambda _: [],
        lambda _: None,
        lambda _: None,
        lambda _: None,
        lambda _: None,
        (),
    )


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 1)
