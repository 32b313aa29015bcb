"""Attacks through gossip: what is said, and how it is spelled."""

from __future__ import annotations

import itertools
import os
import random
import time
from collections.abc import Callable, Iterator

import trio

from gridtokenx.chain.block import CompactBlock, Header
from gridtokenx.chain.transaction import TransactionBatch, sign_transaction
from gridtokenx.cluster.devnet import Member
from gridtokenx.consensus.messages import Phase, Vote
from gridtokenx.interchain.model import SubmitCheckpoint
from gridtokenx.ledger.model import Asset, Transfer
from gridtokenx.network.gossipsub import wire
from gridtokenx.network.gossipsub.events import PROTOCOLS as GOSSIP
from gridtokenx.network.host import Stream
from gridtokenx.primitives.codec import encode
from gridtokenx.primitives.crypto import SigningKey
from scripts.hostile_fleet.attack import (
    CHAIN,
    NATIONAL,
    Attack,
    Pace,
    Run,
    collect,
    everywhere,
    hostile_keys,
)
from scripts.hostile_fleet.strangers import (
    READ_BYTES,
    Author,
    Stranger,
    again_and_again,
    all_topics,
    doze,
    field,
    region,
    rpc_frame,
    write_paced,
)

MIB = 1 << 20
FULL_SPEED = 8 * MIB  # Bytes a second that gossip lets one peer say.
ATTACKS: list[Attack] = []
attack = collect(ATTACKS, "gossip")


async def say(
    run: Run, per_node: int, frames: Callable[[], Iterator[bytes]], *, per_s: float = FULL_SPEED
) -> None:
    """Frames without end from so many strangers at each node."""

    async def speak(one: Stranger) -> None:
        topics = [name for each in one.topics() for name in (each.votes, each.blocks, each.orders)]
        stream = await one.gossip(*topics)
        await write_paced(stream, frames(), per_s)

    async def at(member: Member) -> None:
        await again_and_again(run, member, speak)

    await run.start()
    await everywhere(run, per_node, at)


def repeated(frame: bytes) -> Callable[[], Iterator[bytes]]:
    """The same frame for ever."""
    return lambda: itertools.repeat(frame)


def control(payload: bytes) -> bytes:
    """An RPC of raw control fields, framed."""
    return wire.encode_frame(field(3, payload))


# -- How an RPC is spelled -------------------------------------------------------------------------


@attack("H1")
async def unknown_fields(run: Run) -> None:
    """RPCs of 1 MiB of unknown protobuf fields, 8 MiB/s from two peers at each node."""
    await say(run, 2, repeated(wire.encode_frame(b"\x20\x00" * (MIB // 2))))


@attack("H1")
async def unknown_fields_at_once(run: Run) -> None:
    """RPCs of 8 MiB of unknown fields, last byte held back, from two peers at each node at once."""
    frame = wire.encode_frame(b"\x20\x00" * (4 * MIB))
    await run.start()

    async def hold(one: Stranger) -> None:
        stream = await one.gossip(region(run).votes)
        while True:
            for start in range(0, len(frame) - 1, MIB):
                await stream.write(frame[start : min(start + MIB, len(frame) - 1)])
            await trio.sleep(5 - time.time() % 5)  # All of them together.
            await stream.write(frame[-1:])

    await everywhere(run, 2, lambda member: again_and_again(run, member, hold))


@attack("H1")
async def unknown_control(run: Run) -> None:
    """Unknown fields inside the control part of an RPC, 1 MiB each."""
    await say(run, 1, repeated(control(b"\x30\x00" * (MIB // 2))))


@attack("H1")
async def empty_ids(run: Run) -> None:
    """IWANT of 19,990 empty ids an RPC."""
    await say(run, 1, repeated(control(field(2, b"\x0a\x00" * 19_990))))


@attack()
async def empty_idontwant(run: Run) -> None:
    """IDONTWANT of 19,990 empty ids an RPC."""
    await say(run, 1, repeated(control(field(5, b"\x0a\x00" * 19_990))))


@attack("H1")
async def empty_subscriptions(run: Run) -> None:
    """RPCs of 999 subscriptions without a topic."""
    await say(run, 1, repeated(wire.encode_frame(b"\x0a\x00" * 999)))


@attack()
async def empty_messages(run: Run) -> None:
    """RPCs of 4,000 messages without any field."""
    await say(run, 1, repeated(wire.encode_frame(b"\x12\x00" * 4_000)))


@attack()
async def empty_rpcs(run: Run) -> None:
    """RPCs of no bytes at all, 65,536 in one write."""
    await say(run, 1, repeated(bytes(65_536)))


@attack()
async def garbage_rpcs(run: Run) -> None:
    """Frames that are no protobuf, under ever new identities."""
    await say(run, 2, repeated(wire.encode_frame(b"\xff\x00" * 50)))


@attack()
async def announced_gigabyte(run: Run) -> None:
    """A frame that announces 1 GiB, and then a MiB of it."""
    await say(run, 1, repeated(wire.encode_varint(1 << 30) + bytes(MIB)))


@attack()
async def dribbled_rpcs(run: Run) -> None:
    """Half-finished RPCs of 1 MiB that grow by a byte ten times a second, eight at each node."""
    frame = wire.encode_frame(field(2, os.urandom(MIB - 8)))

    async def dribble(one: Stranger) -> None:
        stream = await one.gossip(region(run).orders)
        await stream.write(frame[: MIB - 4_096])
        for byte in frame[MIB - 4_096 : -1]:
            await stream.write(bytes((byte,)))
            await trio.sleep(0.1)

    await run.start()
    await everywhere(run, 8, lambda member: again_and_again(run, member, dribble))


@attack()
async def unknown_topics(run: Run) -> None:
    """Subscriptions to 10,000 topics, of this network and others."""
    prefix = f"/gridtokenx/{run.target.genesis.network_id}/"
    frames = [
        rpc_frame(wire.Rpc(subscriptions=[(True, f"{start}{page}-{n}") for n in range(500)]))
        for page in range(10)
        for start in (prefix, "/elsewhere/")
    ]
    await say(run, 1, lambda: itertools.cycle(frames), per_s=MIB)


@attack()
async def subscription_storm(run: Run) -> None:
    """Subscribe and unsubscribe the real topics thousands of times a second."""
    topics = [each.votes for each in all_topics(run)]
    both = [(on, topic) for topic in topics for on in (True, False)] * 100
    await say(run, 2, repeated(rpc_frame(wire.Rpc(subscriptions=both))), per_s=MIB)


@attack()
async def graft_prune_spam(run: Run) -> None:
    """GRAFT and PRUNE of every topic by turns, back-offs ignored."""
    topics = [name for each in all_topics(run) for name in (each.votes, each.blocks, each.orders)]
    prunes = [wire.Prune(topic, 3_600) for topic in topics]
    frame = rpc_frame(wire.Rpc(graft=topics)) + rpc_frame(wire.Rpc(prune=prunes))
    await say(run, 2, repeated(frame), per_s=MIB)


@attack()
async def broken_promises(run: Run) -> None:
    """IHAVE of 5,000 ids an RPC that nobody can deliver."""
    topic = region(run).votes
    frames = [
        rpc_frame(wire.Rpc(ihave=[(topic, [os.urandom(46) for _ in range(5_000)])]))
        for _ in range(20)
    ]
    await say(run, 2, lambda: itertools.cycle(frames))


@attack()
async def iwant_amplifier(run: Run) -> None:
    """Asks by IWANT, again and again, for every message that it hears of."""

    async def ask(one: Stranger) -> None:
        heard: list[bytes] = []

        async def listen(stream: Stream) -> None:
            buffer = wire.FrameBuffer(2 * MIB)
            while chunk := await stream.read_some(READ_BYTES):
                for payload in buffer.feed(chunk):
                    rpc = wire.decode_rpc(payload)
                    heard.extend(each.id for each in rpc.messages)
                    heard.extend(one for _, ids in rpc.ihave for one in ids)
                    del heard[:-500]

        one.network.handle(list(GOSSIP), listen)
        topics = [name for each in one.topics() for name in (each.votes, each.blocks, each.orders)]
        stream = await one.gossip(*topics)
        while True:
            if heard:
                await stream.write(rpc_frame(wire.Rpc(iwant=heard * 4)))
            await trio.sleep(0.05)

    await run.start()
    await everywhere(run, 2, lambda member: again_and_again(run, member, ask))


@attack()
async def slow_readers(run: Run) -> None:
    """In every mesh, and reads nothing: 2 at each node."""

    async def graft(one: Stranger) -> None:
        topics = [name for each in one.topics() for name in (each.votes, each.blocks, each.orders)]
        stream = await one.gossip(*topics)
        while True:
            await stream.write(rpc_frame(wire.Rpc(graft=topics)))
            await trio.sleep(70)

    await run.start()
    await everywhere(run, 2, lambda member: again_and_again(run, member, graft, read=doze))


@attack()
async def gossip_stream_churn(run: Run) -> None:
    """Opens a gossip stream, says a word, resets it: hundreds a second."""

    async def churn(one: Stranger) -> None:
        while True:
            stream = await one.gossip(region(run).votes)
            await stream.reset()

    await run.start()
    await everywhere(run, 2, lambda member: again_and_again(run, member, churn))


# -- Messages --------------------------------------------------------------------------------------


@attack()
async def bad_signatures(run: Run) -> None:
    """Messages with forged signatures, each of another author, 400 a second and peer."""
    topic = region(run).votes
    frames = [Author().frame(os.urandom(300), topic, signature=bytes(64)) for _ in range(4_000)]
    await say(run, 2, lambda: itertools.cycle(frames), per_s=200_000)


@attack()
async def garbage_messages(run: Run) -> None:
    """Well-signed messages whose data is noise, on every topic."""
    topics = [name for each in all_topics(run) for name in (each.votes, each.blocks, each.orders)]
    frames = [Author().frame(os.urandom(300), topic) for topic in topics for _ in range(500)]
    await say(run, 2, lambda: itertools.cycle(frames), per_s=200_000)


@attack()
async def garbage_megabytes(run: Run) -> None:
    """Well-signed messages of 900 kB of noise, as blocks and orders."""
    topics = [name for each in all_topics(run) for name in (each.blocks, each.orders)]
    frames = [Author().frame(os.urandom(900_000), topic) for topic in topics for _ in range(4)]
    await say(run, 1, lambda: itertools.cycle(frames))


def votes(run: Run, heights: Callable[[], int], count: int) -> list[bytes]:
    """Votes that no member signed, each under an author of its own."""
    return [
        Author().frame(
            encode(
                Vote(Phase.PREPARE, heights(), n % 3, os.urandom(32), n % 4, os.urandom(64)),
            ),
            each.votes,
        )
        for n in range(count)
        for each in all_topics(run)
    ]


@attack("H2")
async def far_votes(run: Run) -> None:
    """Votes of height 2^40 under ever new authors, to fill the table of whom to fetch from."""
    frames = votes(run, lambda: 2**40, 2_000)
    await say(run, 1, lambda: itertools.cycle(frames), per_s=100_000)


@attack()
async def near_votes(run: Run) -> None:
    """Votes of the next 300 heights that nobody signed."""
    frames = votes(run, lambda: random.randrange(1, 300), 3_000)
    await say(run, 2, lambda: itertools.cycle(frames), per_s=100_000)


@attack("L11")
async def old_votes(run: Run) -> None:
    """Votes of heights long decided, which once made a node publish certificates."""
    frames = votes(run, lambda: random.randrange(1, 4), 3_000)
    await say(run, 1, lambda: itertools.cycle(frames), per_s=100_000)


@attack()
async def parrots(run: Run) -> None:
    """Repeats what validators have said, verbatim and in new envelopes, 20 times each."""

    async def repeat(one: Stranger) -> None:
        topics = [name for each in one.topics() for name in (each.votes, each.blocks, each.orders)]
        heard: list[wire.Message] = []

        async def listen(stream: Stream) -> None:
            buffer = wire.FrameBuffer(2 * MIB)
            while chunk := await stream.read_some(READ_BYTES):
                for payload in buffer.feed(chunk):
                    heard.extend(wire.decode_rpc(payload).messages)
                    del heard[:-100]

        one.network.handle(list(GOSSIP), listen)
        stream = await one.gossip(*topics)
        await stream.write(rpc_frame(wire.Rpc(graft=topics)))
        author = Author()
        while True:
            for message in heard[-20:]:
                verbatim = wire.encode_publish_frame(message.raw)
                wrapped = author.frame(message.data, message.topic)
                for _ in range(20):
                    await stream.write(verbatim + wrapped)
            await trio.sleep(0.2)

    await run.start()
    await everywhere(run, 1, lambda member: again_and_again(run, member, repeat))


@attack()
async def forged_blocks(run: Run) -> None:
    """Compact blocks of next heights with thousands of ids that nobody has."""
    frames = []
    for spec, each in zip(run.target.specs, all_topics(run), strict=True):
        for height in range(1, 200, 10):
            block = CompactBlock(
                _header(spec.chain_id, height),
                tuple(os.urandom(32) for _ in range(5_000)),
                b"",
                (),
            )
            frames.append(Author().frame(encode(block), each.blocks))
    await say(run, 1, lambda: itertools.cycle(frames), per_s=4 * MIB)


def _header(chain_id: bytes, height: int) -> Header:
    some = os.urandom(32)
    now_ms = time.time_ns() // 1_000_000
    return Header(
        chain_id=chain_id,
        height=height,
        view0=0,
        time_ms=now_ms,
        parent_hash=some,
        proposer_index=0,
        set_hash=some,
        next_set_hash=some,
        transactions_root=some,
        state_root=some,
        results_root=some,
        outbox_root=some,
        outbox_count=0,
        inbox_next=0,
        inbox_root=some,
        root_height=0,
        root_hash=some,
        history_root=some,
        last_commit_hash=some,
        evidence_root=some,
    )


# -- Transactions ----------------------------------------------------------------------------------


@attack("M8")
async def junk_transactions(run: Run) -> None:
    """Batches of 1,200 well-signed transfers of keys that have nothing, 8 MiB/s at each node."""
    topic = region(run).orders
    chain_id = run.target.genesis.chain(CHAIN).chain_id
    batches = []
    for _ in range(6):
        raws = [
            sign_transaction(
                SigningKey(os.urandom(32)), chain_id, 0, Transfer(bytes(32), Asset.THB, 1)
            ).encoded
            for _ in range(1_200)
        ]
        batches.append(encode(TransactionBatch(tuple(raws))))
    author = Author()
    frames = [author.frame(batch, topic) for _ in range(20) for batch in batches]
    await say(run, 1, lambda: itertools.cycle(frames))


@attack()
async def unsigned_transactions(run: Run) -> None:
    """Batches of transfers whose signatures are noise, under ever new authors."""
    topic = region(run).orders
    chain_id = run.target.genesis.chain(CHAIN).chain_id
    key = SigningKey(os.urandom(32))
    good = sign_transaction(key, chain_id, 0, Transfer(bytes(32), Asset.THB, 1)).encoded
    frames = []
    for _ in range(60):
        raws = tuple(good[:-64] + os.urandom(64) for _ in range(500))
        frames.append(Author().frame(encode(TransactionBatch(raws)), topic))
    await say(run, 1, lambda: itertools.cycle(frames), per_s=2 * MIB)


@attack("C3")
async def held_checkpoints(run: Run) -> None:
    """Checkpoints of 200 kB ahead of their nonce, each of another unknown key, 6 MiB/s."""
    frames = []
    messages = tuple(os.urandom(180) for _ in range(1_000))
    payload = SubmitCheckpoint(CHAIN, b"h" * 1_000, b"c" * 15_000, messages)
    for spec, each in zip(run.target.specs, all_topics(run), strict=True):
        for _ in range(60):
            key = SigningKey(os.urandom(32))
            one = sign_transaction(key, spec.chain_id, 1, payload)
            frames.append(Author().frame(encode(TransactionBatch((one.encoded,))), each.orders))
    await say(run, 1, lambda: itertools.cycle(frames), per_s=6 * MIB)


@attack("C3")
async def held_gaps(run: Run) -> None:
    """Transfers of known keys ahead of their nonce, thousands of them, to be held."""
    topic = region(run).orders
    chain_id = run.target.genesis.chain(CHAIN).chain_id
    frames = []
    for number in range(40):
        key, _ = hostile_keys(number)
        raws = [
            sign_transaction(key, chain_id, nonce, Transfer(bytes(32), Asset.GTX, 1)).encoded
            for nonce in range(1_000_000, 1_000_300)
        ]
        frames.append(Author().frame(encode(TransactionBatch(tuple(raws))), topic))
    await say(run, 1, lambda: itertools.cycle(frames), per_s=MIB)


@attack("M3")
async def forged_checkpoints(run: Run) -> None:
    """Checkpoints of the region with a forged header and certificate, in turn, on both chains."""
    topics = {each.chain: each.orders for each in all_topics(run)}
    spec = run.target.genesis.chain(NATIONAL)
    header = encode(_header(run.target.genesis.chain(CHAIN).chain_id, 10))
    frames = []
    for number in range(40):
        key, _ = hostile_keys(number)
        payload = SubmitCheckpoint(CHAIN, header, os.urandom(500), (os.urandom(180),) * 100)
        one = sign_transaction(key, spec.chain_id, 0, payload)
        frames.append(Author().frame(encode(TransactionBatch((one.encoded,))), topics[NATIONAL]))
    await say(run, 1, lambda: itertools.cycle(frames), per_s=MIB)


@attack()
async def one_author_many_mouths(run: Run) -> None:
    """The same junk of one author through four peers at each node, each frame a new message."""
    topic = region(run).orders
    author = Author()
    data = encode(TransactionBatch((os.urandom(150),) * 200))

    def frames() -> Iterator[bytes]:
        while True:
            yield author.frame(data, topic)

    async def speak(one: Stranger) -> None:
        stream = await one.gossip(topic)
        pace = Pace(50)
        for frame in frames():
            await pace.take()
            await stream.write(frame)

    await run.start()
    await everywhere(run, 4, lambda member: again_and_again(run, member, speak))
