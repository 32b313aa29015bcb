"""One gossip router in the test's hands, and peers that can sign messages by hand."""

from gridtokenx.network.gossipsub import wire
from gridtokenx.network.gossipsub.events import (
    PROTOCOL_V12,
    Deliver,
    GossipVerdict,
    Heartbeat,
    Parameters,
    PeerAdded,
    Priority,
    RpcReceived,
    Send,
    Validated,
    Verified,
    Verify,
)
from gridtokenx.network.gossipsub.router import Router
from gridtokenx.network.gossipsub.wire import FrameBuffer, Prune, Rpc
from gridtokenx.primitives import crypto

PREFIX = "/gridtokenx/test/"
VOTES = PREFIX + "national/votes"
BLOCKS = PREFIX + "national/blocks"
ID_HEAD = b"\x00\x24\x08\x01\x12\x20"


class Identity:
    """A peer with a key that can sign messages by hand."""

    def __init__(self, number: int) -> None:
        self.key = crypto.SigningKey(number.to_bytes(32, "big"))
        self.peer = ID_HEAD + self.key.public_key

    def message(
        self,
        seqno: int = 1,
        data: bytes = b"data",
        topic: str = VOTES,
        *,
        author: bytes | None = None,
        signature: bytes | None = None,
        key: bytes = b"",
        seqno_bytes: int = 8,
    ) -> bytes:
        part = wire.encode_signed_part(
            self.peer if author is None else author, data, seqno.to_bytes(seqno_bytes, "big"), topic
        )
        if signature is None:
            signature = self.key.sign(wire.SIGNING_PREFIX + part)
        raw = wire.encode_message(part, signature) if signature else part
        return raw + (b"\x32" + wire.encode_varint(len(key)) + key if key else b"")

    def id(self, seqno: int = 1) -> bytes:
        return self.peer + seqno.to_bytes(8, "big")


ME = Identity(1_000)
PEERS = [Identity(n) for n in range(1, 31)]


def public_key_of(peer: bytes) -> bytes | None:
    return peer[6:] if peer[:6] == ID_HEAD and len(peer) == 38 else None


def priority(topic: str) -> Priority:
    return Priority.URGENT if topic.endswith("votes") else Priority.BULK


class Node:
    """A router whose Verify effects are answered at once, and its Deliver effects on demand."""

    def __init__(self, **parameters: object) -> None:
        self.now = 0
        self.verdict: GossipVerdict | None = GossipVerdict.ACCEPT
        self.verify = True
        self.effects: list = []
        self.strangers: set[bytes] = set()
        self.router = Router(
            ME.peer,
            sign=ME.key.sign,
            public_key_of=public_key_of,
            topic_prefix=PREFIX,
            priority=priority,
            seed=7,
            first_seqno=1_700_000_000_000_000_000,
            parameters=Parameters(**parameters),
            is_trusted=lambda peer: peer not in self.strangers,
        )

    def do(self, event) -> list:
        """Apply the event and the answers to what it asks; return all effects."""
        done, queue = [], self.router.handle(event, self.now)
        while queue:
            effect = queue.pop(0)
            done.append(effect)
            if isinstance(effect, Verify) and self.verify:
                ok = crypto.verify(effect.public_key, effect.signed, effect.signature)
                queue += self.router.handle(Verified(effect.token, ok), self.now)
            if isinstance(effect, Deliver) and self.verdict is not None:
                answer = Validated(effect.message_id, self.verdict)
                queue += self.router.handle(answer, self.now)
        self.effects += done
        return done

    def connect(
        self, *peers: Identity, topics=(VOTES,), protocol=PROTOCOL_V12, outbound=False, ip=""
    ) -> None:
        for peer in peers:
            self.do(PeerAdded(peer.peer, protocol, outbound, ip))
            self.rpc(peer, subscriptions=[(True, topic) for topic in topics])

    def rpc(self, peer: Identity, *messages: bytes, **fields) -> list:
        payload = wire.encode_rpc(Rpc(**fields)) + b"".join(
            b"\x12" + wire.encode_varint(len(raw)) + raw for raw in messages
        )
        return self.do(RpcReceived(peer.peer, payload))

    def beat(self, times: int = 1) -> list:
        done = []
        for _ in range(times):
            self.now += 1_000
            done += self.do(Heartbeat())
        return done


def decode(effect: Send) -> Rpc:
    (payload,) = FrameBuffer(16 << 20).feed(effect.frame)
    return wire.decode_rpc(payload)


def sent(effects: list, peer: Identity | None = None) -> list[tuple[bytes, Rpc]]:
    return [
        (e.peer, decode(e))
        for e in effects
        if isinstance(e, Send) and (peer is None or e.peer == peer.peer)
    ]


def grafts(effects: list) -> list[bytes]:
    return [peer for peer, rpc in sent(effects) if rpc.graft]


def prunes(effects: list) -> dict[bytes, Prune]:
    return {peer: rpc.prune[0] for peer, rpc in sent(effects) if rpc.prune}


def carried(effects: list) -> list[bytes]:
    """Peers that were sent a message."""
    return [peer for peer, rpc in sent(effects) if rpc.messages]


def of(kind: type, effects: list) -> list:
    return [effect for effect in effects if isinstance(effect, kind)]
