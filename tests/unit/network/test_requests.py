"""Requests over in-memory streams: the frames, the bounds and the failures."""

from collections.abc import Callable

import pytest
import trio
import trio.testing

from gridtokenx.network import requests as module
from gridtokenx.network.host import NetworkError, read_frame
from gridtokenx.network.peers.peer import PeerId
from gridtokenx.network.requests import (
    MAX_IN_FLIGHT_PER_PEER,
    MAX_STRANGER_BYTES,
    RequestRefused,
    Requests,
)
from gridtokenx.runtime.stopping import DatabaseError
from tests.support.patience import until

A, B = PeerId(b"a"), PeerId(b"b")


class MemoryStream:
    """One end of a pair of in-memory pipes with the methods of `network.Stream`."""

    def __init__(self, peer: PeerId, end: trio.StapledStream) -> None:
        self.peer = peer
        self._end = end
        self._buffer = b""

    async def read_exactly(self, n: int) -> bytes:
        while len(self._buffer) < n:
            try:
                data = await self._end.receive_some(65_536)
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                raise NetworkError("closed", "reset") from error
            if not data:
                raise NetworkError("closed", "ended")
            self._buffer += bytes(data)
        data, self._buffer = self._buffer[:n], self._buffer[n:]
        return data

    async def write(self, data: bytes) -> None:
        try:
            await self._end.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise NetworkError("closed", "reset") from error

    async def close_write(self) -> None:
        await self._end.send_eof()

    async def close(self) -> None:
        await self._end.aclose()

    reset = close


class MemoryNetwork:
    """Connects a caller, peer A, to the handlers that were registered, as peer B."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self._handlers: dict[str, Callable] = {}

    def handle(self, protocols, handler) -> None:
        self._handlers |= dict.fromkeys(protocols, handler)

    async def open_stream(self, peer, protocols, timeout_s=5) -> MemoryStream:
        if protocols[0] not in self._handlers:
            raise NetworkError("protocol", "not served")
        ours, theirs = trio.testing.memory_stream_pair()
        self._nursery.start_soon(self._serve, protocols[0], MemoryStream(A, theirs))
        return MemoryStream(peer, ours)

    async def _serve(self, protocol: str, stream: MemoryStream) -> None:
        await self._handlers[protocol](stream)
        await stream.close()


@pytest.fixture
def network(nursery: trio.Nursery) -> MemoryNetwork:
    return MemoryNetwork(nursery)


async def test_the_payload_comes_back_and_its_kinds_are_apart(network: MemoryNetwork) -> None:
    requests = Requests(network, 7)

    async def reverse(peer: PeerId, payload: bytes) -> bytes:
        assert peer == A
        return payload[::-1]

    requests.serve("blocks", reverse)
    assert await requests.request(B, "blocks", b"abc") == b"cba"
    assert await requests.request(B, "blocks", b"") == b""
    assert requests.outcomes == {"answered": 2}
    assert requests.protocol("blocks") == "/gridtokenx/7/blocks/1"
    with pytest.raises(NetworkError, match="protocol"):
        await Requests(network, 8).request(B, "blocks", b"abc")


async def test_the_frames_are_as_specified(network: MemoryNetwork) -> None:
    requests = Requests(network, 7)

    async def answer(_peer: PeerId, payload: bytes) -> bytes:
        if payload == b"no":
            raise RequestRefused("not today")
        return b"yes"

    requests.serve("status", answer)
    for sent, expected in ((b"\x02go", b"\x00yes"), (b"\x02no", b"\x01not today")):
        stream = await network.open_stream(B, ["/gridtokenx/7/status/1"])
        await stream.write(sent)
        assert await read_frame(stream, 100) == expected
    with pytest.raises(RequestRefused, match=r"^not today$"):
        await requests.request(B, "status", b"no")
    assert requests.outcomes == {"answered": 1, "refused": 2}


async def test_a_handler_that_fails_is_counted_and_serving_goes_on(network: MemoryNetwork) -> None:
    requests = Requests(network, 7)

    async def fail(_peer: PeerId, payload: bytes) -> bytes:
        return bytes([1 // payload[0]])

    requests.serve("status", fail)
    for payload in (b"\0", b""):
        with pytest.raises(NetworkError, match="closed"):
            await requests.request(B, "status", payload)
    assert await requests.request(B, "status", b"\1") == b"\1"
    assert requests.outcomes == {"failed": 2, "answered": 1}


async def test_an_order_to_end_is_not_the_askers_offence() -> None:
    """A damaged table, met while a block is read for a peer: the process ends, nobody is banned."""
    offences: list[str] = []

    async def read_a_block(_peer: PeerId, _payload: bytes) -> bytes:
        raise DatabaseError("GTX-DB-003: damaged")

    async def ask() -> None:
        async with trio.open_nursery() as nursery:
            requests = Requests(
                MemoryNetwork(nursery), 7, on_offence=lambda _, what: offences.append(what)
            )
            requests.serve("blocks", read_a_block)
            await requests.request(B, "blocks", b"1")

    with pytest.RaisesGroup(DatabaseError, flatten_subgroups=True):
        await ask()
    assert offences == []


async def test_sizes_are_bounded_on_both_sides(network: MemoryNetwork) -> None:
    small = Requests(network, 7, max_request_bytes=4, max_response_bytes=4)
    large = Requests(network, 7)

    async def repeat(_peer: PeerId, payload: bytes) -> bytes:
        return payload * 2

    small.serve("blocks", repeat)
    assert await small.request(B, "blocks", b"ab") == b"abab"
    with pytest.raises(ValueError, match="5 bytes is above the limit"):
        await small.request(B, "blocks", b"abcde")
    for payload in (b"abcde", b"abc"):  # the request, then the response, is too large
        with pytest.raises(NetworkError, match="closed"):
            await large.request(B, "blocks", payload)
    assert small.outcomes == {"answered": 1, "broken": 1, "failed": 1}

    large.serve("bodies", repeat)
    with pytest.raises(NetworkError, match="protocol"):
        await small.request(B, "bodies", b"abc")


async def test_a_silent_responder_and_a_silent_caller_time_out(
    network: MemoryNetwork, autojump_clock: trio.testing.MockClock
) -> None:
    requests = Requests(network, 7)

    async def sleep(_peer: PeerId, _payload: bytes) -> bytes:
        await trio.sleep_forever()
        raise AssertionError

    requests.serve("status", sleep)
    with pytest.raises(NetworkError, match="timeout"):
        await requests.request(B, "status", b"", timeout_s=3)
    assert trio.current_time() == 3
    stream = await network.open_stream(B, ["/gridtokenx/7/status/1"])  # and sends nothing
    with pytest.raises(NetworkError, match="closed"):
        await stream.read_exactly(1)
    assert trio.current_time() == 13
    assert requests.outcomes["timeout"] == 2


async def test_more_than_eight_at_once_are_refused(
    network: MemoryNetwork, autojump_clock: trio.testing.MockClock
) -> None:
    requests = Requests(network, 7)
    ended: list[str] = []

    async def answer(_peer: PeerId, payload: bytes) -> bytes:
        await trio.sleep(1)
        return payload

    async def ask() -> None:
        try:
            await requests.request(B, "status", b"")
        except NetworkError as error:
            ended.append(error.reason)
        else:
            ended.append("answered")

    requests.serve("status", answer)
    async with trio.open_nursery() as asking:
        for _ in range(MAX_IN_FLIGHT_PER_PEER + 3):
            asking.start_soon(ask)
    assert sorted(ended) == ["answered"] * MAX_IN_FLIGHT_PER_PEER + ["closed"] * 3
    await ask()
    assert ended[-1] == "answered"


async def test_answers_that_strangers_do_not_read_are_bounded(
    network: MemoryNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = trio.testing.lockstep_stream_pair  # A write waits for the reader.
    monkeypatch.setattr(trio.testing, "memory_stream_pair", pair)
    strangers = {A}
    requests = Requests(network, 7, is_stranger=lambda peer: peer in strangers)

    async def answer(_peer: PeerId, payload: bytes) -> bytes:
        return bytes(MAX_STRANGER_BYTES // 2)

    requests.serve("blocks", answer)
    streams = []
    for unread in range(1, 4):
        streams.append(await network.open_stream(B, ["/gridtokenx/7/blocks/1"]))
        await streams[-1].write(b"\x00")
        if unread < 3:
            await until(lambda unread=unread: requests._unread.total() == unread * 4 << 20)
    await until(lambda: requests.outcomes["busy"] == 1)
    strangers.clear()  # Those who are trusted are served all the same.
    assert len(await requests.request(B, "blocks", b"")) == MAX_STRANGER_BYTES // 2
    strangers.add(A)
    for stream in streams[:2]:
        assert len(await read_frame(stream, MAX_STRANGER_BYTES)) == MAX_STRANGER_BYTES // 2 + 1
    await until(lambda: not requests._unread)
    assert len(await requests.request(B, "blocks", b"")) == MAX_STRANGER_BYTES // 2


async def test_all_strangers_together_have_a_bound(
    network: MemoryNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gridtokenx.network.requests.MAX_STRANGERS_BYTES", 1_000)
    requests = Requests(network, 7, is_stranger=lambda _peer: True)

    async def answer(_peer: PeerId, payload: bytes) -> bytes:
        return bytes(int(payload))

    requests.serve("blocks", answer)
    assert len(await requests.request(B, "blocks", b"1000")) == 1_000
    with pytest.raises(NetworkError, match="closed"):
        await requests.request(B, "blocks", b"1001")


async def test_of_too_many_strangers_the_oldest_yields_and_trusted_peers_are_served(
    network: MemoryNetwork, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_IN_FLIGHT", 3)
    strangers = {A}
    requests = Requests(network, 7, is_stranger=lambda peer: peer in strangers)

    async def echo(_peer: PeerId, payload: bytes) -> bytes:
        return payload

    requests.serve("status", echo)
    silent = []
    for _ in range(3):
        silent.append(await network.open_stream(B, ["/gridtokenx/7/status/1"]))
        await trio.sleep(1)
    strangers.clear()
    assert await requests.request(B, "status", b"trusted") == b"trusted"
    assert requests.outcomes["busy"] == 0
    strangers.add(A)
    assert await requests.request(B, "status", b"newest") == b"newest"
    assert requests.outcomes["busy"] == 1
    with pytest.raises(NetworkError, match="closed"):
        await silent[0].read_exactly(1)
    assert trio.current_time() < 10
    for stream in silent:
        await stream.close()
