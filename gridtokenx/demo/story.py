"""What happens between the chains on the demonstration day: a vote that changes what solar energy
earns in all regions, and transfers of gtx and of energy from one region to another.

Which readings earn the new credits must not depend on how fast blocks come. So the vote begins when
all readings up to a slot are final, and those from there on wait until it is in force everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from gridtokenx.answers.chain import ChainParameters
from gridtokenx.chain.genesis import Genesis
from gridtokenx.chain.transaction import Payload, Transaction, sign_transaction
from gridtokenx.client import Client, RpcError
from gridtokenx.cluster.devnet import DEV_ACCOUNT, NATIONAL, Member, dev_key, stake_key
from gridtokenx.demo.sending import Sender
from gridtokenx.governance.model import Choice, ParameterChange, Propose, Vote
from gridtokenx.primitives.crypto import SigningKey
from gridtokenx.trading.model import MarketParameters, Source

PARAMETER = "carbon_credits.solar"
NEW_VALUE = "0.7"
TITLE = "Increase renewable energy incentives"
DESCRIPTION = "Proposal to increase carbon credit rates for solar energy"
PROPOSAL = 1  # The network is new, so it is the first one.
FINAL = ("included", "finalized")
ORIGIN, DESTINATION = "MET", "NOR"


@dataclass(slots=True)
class Told:
    """What came of it. `credits_before_ucr` by region: issued when the new value came into force.

    `transfers` by asset: (amount, transaction id).
    """

    credits_before_ucr: dict[str, int] = field(default_factory=dict)
    national_height: int = 0
    transfers: dict[str, tuple[int, str]] = field(default_factory=dict)


class VoteStory:
    """The vote, one step at a time: whoever plays the day must not wait for it."""

    def __init__(self, genesis: Genesis, members: Sequence[Member]) -> None:
        self._spec = genesis.chain(NATIONAL)
        self._regions = [region.name for region in genesis.chains]
        self._sender = Sender([Client(member.api_url, genesis=genesis) for member in members])
        self._voters = [stake_key(one.validator) for one in members if one.validator]
        self._proposal: Transaction | None = None
        self._has_voted = False
        self.in_force_height = 0

    def close(self) -> None:
        """Close the connections."""
        self._sender.close()

    @property
    def client(self) -> Client:
        """The node in use now."""
        return self._sender.client

    def step(self) -> bool:
        """Do what can be done now; whether all regions have the new value.

        Errors: Refused, NodeUnreachable.
        """
        if self._proposal is None:
            command = Propose(TITLE, DESCRIPTION, ParameterChange(PARAMETER, NEW_VALUE))
            self._proposal = self._send(dev_key(DEV_ACCOUNT), command)
        elif not self._has_voted:
            told = self._sender.client.transaction_status(self._proposal.id.hex())
            if told.status in FINAL:
                for key in self._voters:
                    self._send(key, Vote(PROPOSAL, Choice.YES))
                self._has_voted = True
        elif self._is_in_force():
            self.in_force_height = self._sender.client.head(NATIONAL).height
            return True
        return False

    def _is_in_force(self) -> bool:
        chains = [{"chain": name} for name in self._regions]
        found = self._sender.client.ask_many("chain_getParams", ChainParameters, chains)
        return all(
            not isinstance(one, RpcError) and _solar_mcr(one.parameters) == _millis(NEW_VALUE)
            for one in found
        )

    def _send(self, key: SigningKey, command: Payload) -> Transaction:
        """The first transaction of an account on the national chain."""
        transaction = sign_transaction(key, self._spec.chain_id, 0, command)
        self._sender.send([transaction])
        return transaction


def _solar_mcr(parameters: MarketParameters) -> int:
    return next(row.mcr_per_kwh for row in parameters.carbon_rates if row.source is Source.SOLAR)


def _millis(text: str) -> int:
    whole, _, fraction = text.partition(".")
    return int(whole + fraction.ljust(3, "0"))
