"""A libp2p node of our own that stores every consensus message a cluster's validators sign."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from functools import partial
from typing import Any, Self

import trio

from gridtokenx.chain.genesis import ChainSpec, Genesis
from gridtokenx.cluster.devnet import Member, dev_key, peer_address
from gridtokenx.consensus.messages import (
    Phase,
    Proposal,
    SignedMessage,
    Timeout,
    Vote,
    decode_message,
    message_bytes,
)
from gridtokenx.network.gossip import Gossip, GossipVerdict, Origin
from gridtokenx.network.host import (
    HostSettings,
    Network,
    NetworkError,
    open_network,
    parse_address,
)
from gridtokenx.network.peers.peer import PeerId
from gridtokenx.network.requests import Requests
from gridtokenx.node.protocol import Status, Topics, topic_prefix, topic_priority
from gridtokenx.primitives.codec import encode
from gridtokenx.primitives.crypto import verify
from gridtokenx.primitives.errors import Rejected
from gridtokenx.primitives.validators import ValidatorSet
from tests.support.patience import PATIENCE_S

DIAL_S = 0.1
Place = tuple[str, int, int, int, Phase]
"""(chain, index of the signer, height, view, phase): one statement may be signed for each."""


def status_of(genesis: Genesis, name: str, heads: tuple[Any, ...] = ()) -> Status:
    """What a node of ours says of itself."""
    now_ms = time.time_ns() // 1_000_000
    return Status(genesis.network_name, genesis.hash, name, "test", now_ms, heads)


async def keep_dialling(network: Network, members: tuple[Member, ...]) -> None:
    """Stay connected to every node of a cluster, also across their restarts."""
    while True:
        for member in members:
            address = peer_address(member.name, member.p2p_port)
            if not network.is_connected(parse_address(address)[0]):
                try:
                    await network.dial(address)
                except NetworkError:
                    continue  # It does not run now.
        await trio.sleep(DIAL_S)


class Recorder:
    """Runs in a thread of its own while the context lasts; what it saw stays."""

    def __init__(self, genesis: Genesis, members: tuple[Member, ...], name: str = "rec") -> None:
        self.signed: dict[Place, set[bytes]] = defaultdict(set)
        self.messages = 0
        self.forged = 0
        self._genesis = genesis
        self._members = members
        self._name = name
        self._started = threading.Event()
        self._thread = threading.Thread(target=trio.run, args=(self._run,), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._started.wait(PATIENCE_S), "the recorder does not start"
        return self

    def __exit__(self, *_: object) -> None:
        self._token.run_sync_soon(self._scope.cancel)
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()

    def statements(self, index: int, phase: Phase | None = None) -> int:
        """How many places a validator has signed at."""
        return sum(place[1] == index and phase in (None, place[4]) for place in list(self.signed))

    def doubles(self) -> dict[Place, set[bytes]]:
        """Places with two different signed statements: what must never be."""
        signed = self.signed.copy()  # Its thread goes on adding to it.
        return {place: found for place, found in signed.items() if len(found) > 1}

    def highest(self, index: int, chain: str) -> int:
        """The highest height of a chain at which a validator has signed."""
        heights = [at[2] for at in list(self.signed) if at[0] == chain and at[1] == index]
        return max(heights, default=0)

    async def _run(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        with trio.CancelScope() as self._scope:
            seed = dev_key(f"{self._name} node").seed
            settings = HostSettings(seed=seed, listen=("/ip4/127.0.0.1/tcp/0",))
            async with open_network(settings) as network:
                await self._serve(network)

    async def _serve(self, network: Network) -> None:
        network_id = self._genesis.network_id
        requests = Requests(network, network_id)

        async def answer(_peer: PeerId, _payload: bytes) -> bytes:
            return encode(status_of(self._genesis, self._name))

        requests.serve("status", answer)
        gossip = Gossip(
            network,
            topic_prefix=topic_prefix(network_id),
            priority=topic_priority,
            seed=1,
            first_seqno=time.time_ns(),
        )
        async with trio.open_nursery() as nursery:
            await nursery.start(gossip.run)
            for spec in map(self._genesis.chain, self._genesis.chain_names):
                topic = Topics(network_id, spec.name).votes
                gossip.subscribe(topic, partial(self._note, spec))
            nursery.start_soon(keep_dialling, network, self._members)
            self._started.set()

    def _note(self, spec: ChainSpec, _origin: Origin, data: bytes) -> GossipVerdict:
        try:
            message = decode_message(data)
        except Rejected:
            return GossipVerdict.REJECT
        if isinstance(message, Proposal | Vote | Timeout):
            self._keep(spec, message)
        return (
            GossipVerdict.IGNORE
        )  # It watches and carries nothing: it must not bridge partitions.

    def _keep(self, spec: ChainSpec, message: SignedMessage) -> None:
        signed = message_bytes(spec.chain_id, message)
        index = signer_of(spec.genesis_validators, message, signed)
        if index is None:
            self.forged += 1
            return
        self.messages += 1
        phase = _phase(message)
        self.signed[spec.name, index, message.height, message.view, phase].add(signed)


def signer_of(validators: ValidatorSet, message: SignedMessage, signed: bytes) -> int | None:
    """The index of the member that signed; a proposal does not say, so all are tried."""
    members = validators.members
    tried = range(len(members)) if isinstance(message, Proposal) else [message.index]
    for index in tried:
        if index < len(members) and verify(members[index].public_key, signed, message.signature):
            return index
    return None


def _phase(message: SignedMessage) -> Phase:
    if isinstance(message, Vote):
        return message.phase
    return Phase.PROPOSE if isinstance(message, Proposal) else Phase.TIMEOUT
