"""Attacks on the port of a node and the connection: statuses, handshakes, yamux."""

from __future__ import annotations

import itertools
import os
import socket
import struct
import time

import trio
import trio.lowlevel

from gridtokenx.cluster.devnet import Member
from gridtokenx.network.gossipsub.wire import encode_varint
from gridtokenx.network.host import Stream, read_frame, write_frame
from gridtokenx.node.protocol import BlocksResponse, ChainHead, DecidedBlock
from gridtokenx.primitives.codec import encode
from scripts.hostile_fleet.attack import HOST, Attack, Pace, Run, collect, everywhere
from scripts.hostile_fleet.strangers import (
    ACK,
    FIN,
    HUNG_UP,
    RST,
    STATUS_BYTES,
    SYN,
    YAMUX_DATA,
    YAMUX_PING,
    YAMUX_WINDOW,
    Read,
    Stranger,
    again_and_again,
    status_of,
    yamux,
)

FETCHED = ("blocks", "ancestry", "bodies")
GREETING = b"\x13/multistream/1.0.0\n"
FRAMES_PER_S = 300_000
ATTACKS: list[Attack] = []
attack = collect(ATTACKS, "status")


async def rest(_one: Stranger) -> None:
    """Stay as long as one may."""
    await trio.sleep_forever()


# -- Statuses --------------------------------------------------------------------------------------


@attack("C1")
async def clock_liars(run: Run) -> None:
    """Five strangers at each validator, more than its honest peers, say that it is 10 s later."""
    await run.start()

    async def lie(member: Member) -> None:
        await again_and_again(run, member, rest, tell=lambda: status_of(run, offset_ms=10_000))

    await everywhere(run, 5, lie)


@attack()
async def clock_drifters(run: Run) -> None:
    """Five strangers at each validator whose clocks run away slowly, 50 ms every second."""
    await run.start()
    began = time.monotonic()

    async def drift(member: Member) -> None:
        def tell() -> bytes:
            return status_of(run, offset_ms=round((time.monotonic() - began) * 50))

        await again_and_again(run, member, rest, tell=tell)

    await everywhere(run, 5, drift)


def _heads(run: Run, height: int) -> list[ChainHead]:
    return [
        ChainHead(spec.name, spec.chain_id, height, os.urandom(32)) for spec in run.target.specs
    ]


@attack("M5")
async def claimed_heights(run: Run) -> None:
    """Two strangers at each node claim a height of 10^9 and never answer for its blocks."""
    await run.start()

    async def claim(member: Member) -> None:
        await again_and_again(
            run, member, rest, tell=lambda: status_of(run, heads=_heads(run, 10**9))
        )

    await everywhere(run, 2, claim)


def _a_little_ahead(run: Run) -> bytes:
    """A status with some blocks more than there can be by now."""
    age_ms = time.time() * 1_000 - run.target.genesis.genesis_time_ms
    ahead = round(age_ms / run.target.genesis.block_time_ms) + 5 + int(time.time()) % 7
    return status_of(run, heads=_heads(run, ahead))


async def _claim_and_answer(run: Run, answer: Read | None) -> None:
    """Two strangers at each node claim a little and answer for it in this way."""
    kinds = [f"/gridtokenx/{run.target.genesis.network_id}/{kind}/1" for kind in FETCHED]
    serve = dict.fromkeys(kinds, answer) if answer else {}
    await run.start()

    async def claim(member: Member) -> None:
        await again_and_again(run, member, rest, tell=lambda: _a_little_ahead(run), serve=serve)

    await everywhere(run, 2, claim)


@attack()
async def claimed_a_little(run: Run) -> None:
    """Claim a height some blocks above what was heard, come again under a new name at each ban."""
    await _claim_and_answer(run, None)


@attack("L10")
async def poisoned_blocks(run: Run) -> None:
    """Claim some blocks more and answer for them with 32 blocks of 200 kB of noise."""
    block = DecidedBlock(os.urandom(200_000), os.urandom(500))
    poison = b"\0" + encode(BlocksResponse((block,) * 32))

    async def answer(stream: Stream) -> None:
        await read_frame(stream, STATUS_BYTES)
        await write_frame(stream, poison)

    await _claim_and_answer(run, answer)


@attack()
async def dribbled_answers(run: Run) -> None:
    """Claim some blocks more and answer for them byte by byte, without an end."""

    async def answer(stream: Stream) -> None:
        await read_frame(stream, STATUS_BYTES)
        await stream.write(encode_varint(7 << 20))
        while True:
            await stream.write(b"\0")
            await trio.sleep(0.5)

    await _claim_and_answer(run, answer)


@attack("M5")
async def mute_peers(run: Run) -> None:
    """Four strangers at each node answer nothing that they are asked."""
    await run.start()
    await everywhere(run, 4, lambda member: again_and_again(run, member, rest, mute=True))


@attack()
async def wrong_genesis(run: Run) -> None:
    """Peers of another network, who come again as soon as they are refused."""
    await run.start()

    async def stray(member: Member) -> None:
        other = os.urandom(32)
        await again_and_again(run, member, rest, tell=lambda: status_of(run, genesis_hash=other))

    await everywhere(run, 2, stray)


@attack()
async def malformed_statuses(run: Run) -> None:
    """Answer a status with 60 kB of noise, under ever new names."""
    await run.start()

    async def lie(member: Member) -> None:
        await again_and_again(run, member, rest, tell=lambda: os.urandom(60_000))

    await everywhere(run, 2, lie)


# -- The port --------------------------------------------------------------------------------------


async def _connect(run: Run, member: Member) -> trio.SocketStream:
    stream = await trio.open_tcp_stream(HOST, member.p2p_port)
    run.outcomes["connected"] += 1
    return stream


@attack(at="port")
async def half_open_handshakes(run: Run) -> None:
    """100 connections at each node that stop within the handshake, made anew when cut."""
    await run.start()
    words = itertools.cycle([b"", GREETING[:7], GREETING, GREETING + b"\x07/noise\n\x00"])

    async def stop_half_way(member: Member) -> None:
        while True:
            try:
                stream = await _connect(run, member)
                async with stream:
                    word = next(words)
                    await stream.send_all(word)
                    run.sent += len(word)
                    while await stream.receive_some(4_096):
                        pass
            except HUNG_UP:
                run.outcomes["thrown out"] += 1
            await trio.sleep(0.2)

    await everywhere(run, 100, stop_half_way)


@attack(at="port")
async def reset_storm(run: Run) -> None:
    """Connections that send noise and reset, 100 a second at each node."""
    await run.start()
    noise = os.urandom(2_000)

    async def storm(member: Member) -> None:
        pace = Pace(50)
        while True:
            await pace.take()
            try:
                stream = await _connect(run, member)
                rude = struct.pack("ii", 1, 0)
                stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, rude)
                await stream.send_all(noise)
                run.sent += len(noise)
                await stream.aclose()
            except HUNG_UP:
                run.outcomes["thrown out"] += 1

    await everywhere(run, 2, storm)


@attack(at="port")
async def multistream_babble(run: Run) -> None:
    """Connections that propose unknown protocols for ever instead of Noise."""
    await run.start()
    proposal = b"\x0c/unknown/1\n\x0a"[:13]
    burst = proposal * 500

    async def babble(member: Member) -> None:
        while True:
            try:
                stream = await _connect(run, member)
                async with stream:
                    await stream.send_all(GREETING)
                    while True:
                        await stream.send_all(burst)
                        run.sent += len(burst)
                        await stream.receive_some(65_536)
            except HUNG_UP:
                run.outcomes["thrown out"] += 1
            await trio.sleep(0.1)

    await everywhere(run, 2, babble)


@attack(at="port")
async def handshake_churn(run: Run) -> None:
    """Whole handshakes under new identities, connected and gone again at once."""
    await run.start()

    async def leave(_one: Stranger) -> None:
        await trio.lowlevel.checkpoint()

    await everywhere(run, 2, lambda member: again_and_again(run, member, leave, pause_s=0.02))


@attack(at="port")
async def full_house(run: Run) -> None:
    """As many idle strangers as a node takes in: 30 at each."""
    await run.start()

    async def enter(member: Member) -> None:
        await again_and_again(run, member, rest, pause_s=1.0)

    await everywhere(run, 30, enter)


@attack(at="port")
async def connections_of_one_peer(run: Run) -> None:
    """Ten connections at once under the same identity, each making an older one go."""
    await run.start()
    seeds = {member.name: os.urandom(32) for member in run.target.members}

    async def come(member: Member) -> None:
        seed = seeds[member.name]
        await again_and_again(run, member, rest, seed=seed, pause_s=0.1)

    await everywhere(run, 10, come)


# -- Yamux -----------------------------------------------------------------------------------------


async def _frames_for_ever(run: Run, burst: bytes, count: int, *, per_node: int = 1) -> None:
    """The same burst of yamux frames again and again, at most FRAMES_PER_S a second."""

    async def write(one: Stranger) -> None:
        pace = Pace(FRAMES_PER_S)
        while True:
            await pace.take(count)
            await one.frames(burst)

    await run.start()
    await everywhere(run, per_node, lambda member: again_and_again(run, member, write))


@attack("L12", at="yamux")
async def stream_opens(run: Run) -> None:
    """Opens streams beyond the 256 that it may have, 1,000 a burst."""

    async def flood(one: Stranger) -> None:
        number = one.stream_number()
        while True:
            opens = (yamux(YAMUX_WINDOW, SYN, number + 2 * n, 0) for n in range(1_000))
            await one.frames(b"".join(opens))
            number += 2_000
            await trio.sleep(0.03)

    await run.start()
    await everywhere(run, 2, lambda member: again_and_again(run, member, flood))


@attack(at="yamux")
async def rapid_reset(run: Run) -> None:
    """Opens a stream and resets it in the same breath, 1,000 a burst."""

    async def flood(one: Stranger) -> None:
        number = one.stream_number()
        while True:
            pairs = (
                yamux(YAMUX_WINDOW, SYN, number + 2 * n, 0)
                + yamux(YAMUX_WINDOW, RST, number + 2 * n, 0)
                for n in range(1_000)
            )
            await one.frames(b"".join(pairs))
            number += 2_000
            await trio.sleep(0.03)

    await run.start()
    await everywhere(run, 2, lambda member: again_and_again(run, member, flood))


@attack("sound", at="yamux")
async def window_updates(run: Run) -> None:
    """Window updates of a stream that is not there, 12 bytes each, without end."""
    await _frames_for_ever(run, yamux(YAMUX_WINDOW, 0, 999, 1) * 5_000, 5_000)


@attack(at="yamux")
async def yamux_pings(run: Run) -> None:
    """Yamux pings, whose answers it never reads."""
    await _frames_for_ever(run, yamux(YAMUX_PING, SYN, 0, 7) * 1_000, 1_000)


@attack(at="yamux")
async def unasked_pongs(run: Run) -> None:
    """Answers to pings that nobody sent."""
    await _frames_for_ever(run, yamux(YAMUX_PING, ACK, 0, 7) * 5_000, 5_000)


@attack(at="yamux")
async def empty_data_frames(run: Run) -> None:
    """Data frames of no bytes, to streams that are there and are not."""
    await _frames_for_ever(run, yamux(YAMUX_DATA, 0, 999, 0) * 5_000, 5_000)


@attack(at="yamux")
async def closed_stream_frames(run: Run) -> None:
    """FIN and RST of streams that are closed already."""
    pair = yamux(YAMUX_WINDOW, FIN, 999, 0) + yamux(YAMUX_WINDOW, RST, 999, 0)
    await _frames_for_ever(run, pair * 2_000, 4_000)


@attack(at="yamux")
async def window_overrun(run: Run) -> None:
    """More data on a stream than its window allows, then a frame of a size that lies."""

    async def overrun(one: Stranger) -> None:
        number = one.stream_number()
        await one.frames(yamux(YAMUX_WINDOW, SYN, number, 0))
        for _ in range(40):
            await one.frames(yamux(YAMUX_DATA, 0, number, 60_000) + bytes(60_000))
        await one.frames(yamux(YAMUX_DATA, 0, number, 2**31))

    await run.start()
    await everywhere(run, 2, lambda member: again_and_again(run, member, overrun))


@attack(at="yamux")
async def one_byte_frames(run: Run) -> None:
    """Streams filled byte by byte, 13 bytes of frame for each, and never negotiated."""

    async def fill(one: Stranger) -> None:
        number = one.stream_number()
        ids = [number + 2 * n for n in range(100)]
        await one.frames(b"".join(yamux(YAMUX_WINDOW, SYN, each, 0) for each in ids))
        burst = b"".join(yamux(YAMUX_DATA, 0, each, 1) + b"/" for each in ids) * 10
        while True:
            await one.frames(burst)
            await trio.sleep(0.02)

    await run.start()
    await everywhere(run, 1, lambda member: again_and_again(run, member, fill))


@attack(at="yamux")
async def credit_without_end(run: Run) -> None:
    """Window updates of 2^31 - 1 on one stream, so that its credit grows for ever."""

    async def grow(one: Stranger) -> None:
        number = one.stream_number()
        await one.frames(yamux(YAMUX_WINDOW, SYN, number, 0))
        burst = yamux(YAMUX_WINDOW, 0, number, 2**31 - 1) * 2_000
        while True:
            await one.frames(burst)
            await trio.sleep(0.02)

    await run.start()
    await everywhere(run, 1, lambda member: again_and_again(run, member, grow))
