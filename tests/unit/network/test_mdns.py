"""The messages by which nodes of a local network find each other, and what is believed of them."""

from __future__ import annotations

import ipaddress
import struct

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from gridtokenx.network import mdns
from gridtokenx.network.host import ED25519_PEER_ID_PREFIX, format_peer_id
from gridtokenx.network.mdns_wire import (
    MAX_MESSAGE_BYTES,
    MessageError,
    addresses_told,
    concerns,
    decode,
    encode_answer,
    encode_query,
    service_name,
)
from gridtokenx.network.peers.peer import PeerId

SERVICE = service_name(1001)
NAME = "ab" * 16
HERE = ipaddress.IPv4Interface("10.1.2.3/24")
LOOPBACK = ipaddress.IPv4Interface("127.0.0.1/8")


def peer(number: int) -> PeerId:
    return PeerId(ED25519_PEER_ID_PREFIX + number.to_bytes(32, "big"))


def address(ip: str, number: int = 1, tail: str = "") -> str:
    return f"/ip4/{ip}/tcp/9000{tail}/p2p/{format_peer_id(peer(number))}"


def name(text: str) -> bytes:
    return b"".join(bytes([len(each)]) + each.encode() for each in text.split(".")) + b"\0"


def record(owner: bytes, kind: int, data: bytes, *, ttl_s: int = 120, group: int = 1) -> bytes:
    return owner + struct.pack(">HHIH", kind, group, ttl_s, len(data)) + data


def answer(*records: bytes) -> bytes:
    return struct.pack(">HHHHHH", 0, 0x8400, 0, len(records), 0, 0) + b"".join(records)


def test_a_query_and_an_answer_come_back_as_they_were() -> None:
    asked = decode(encode_query(SERVICE))
    assert (asked.is_answer, asked.questions, asked.records) == (False, (SERVICE,), ())
    addresses = (address("10.1.2.3"), address("127.0.0.1"))
    told = decode(encode_answer(SERVICE, NAME, addresses))
    assert told.is_answer
    assert addresses_told(told, SERVICE) == addresses
    assert addresses_told(told, service_name(1002)) == ()


def test_the_query_is_byte_for_byte_that_of_the_specification() -> None:
    assert encode_query("_gtx-7._udp.local") == bytes.fromhex(
        "000000000001000000000000065f6774782d37045f756470056c6f63616c00000c0001"
    )


@pytest.mark.parametrize("network_id", [1, 1001, 2**31 - 1])
def test_a_service_name_is_one_of_dns_service_discovery(network_id: int) -> None:
    assert len(service_name(network_id).split(".")[0].removeprefix("_")) <= 15


def test_other_libraries_forms_are_read() -> None:
    """Records one by one as js-libp2p writes them, then compressed, in capitals, with flush."""
    owner, text = name(f"{NAME}.{SERVICE}"), f"dnsaddr={address('10.1.2.3')}".encode()
    strings = bytes([len(text)]) + text
    plain = answer(record(name(SERVICE), 12, owner), record(owner, 16, strings))
    assert addresses_told(decode(plain), SERVICE) == (address("10.1.2.3"),)
    service_at = b"\xc0\x0c"  # the first record's name follows the header
    short = bytes([len(NAME)]) + NAME.encode() + service_at
    pointed = record(name(SERVICE.upper()), 12, short)
    other = record(service_at, 33, b"\0" * 6 + short)
    compressed = answer(pointed, other, record(short, 16, strings, group=0x8001))
    assert concerns(compressed, SERVICE)
    assert addresses_told(decode(compressed), SERVICE) == (address("10.1.2.3"),)


def test_a_goodbye_and_strings_of_other_kinds_tell_nothing() -> None:
    owner = name(f"{NAME}.{SERVICE}")
    goodbye = answer(
        record(name(SERVICE), 12, owner, ttl_s=0), record(owner, 16, b"\x0adnsaddr=/x")
    )
    assert addresses_told(decode(goodbye), SERVICE) == ()
    others = answer(record(name(SERVICE), 12, owner), record(owner, 16, b"\x01a\x0adnsaddr=/\xff"))
    assert addresses_told(decode(others), SERVICE) == ()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        bytes(11),
        bytes(MAX_MESSAGE_BYTES + 1),
        encode_query(SERVICE)[:-1],
        encode_answer(SERVICE, NAME, [address("10.1.2.3")])[:-1],
        struct.pack(">HHHHHH", 0, 0x7800, 0, 0, 0, 0),  # another opcode
        answer(record(b"\xc0\x0c", 12, b"\0")),  # a name that points at itself
        answer(record(b"\xc0\xff", 12, b"\0")),  # and one that points ahead
        answer(record(b"\x40" + b"a" * 64 + b"\0", 12, b"\0")),
        answer(record((b"\x3f" + b"a" * 63) * 4 + b"\0", 12, b"\0")),  # 257 bytes
        answer(record(b"\0", 12, b"\0a")),
        answer(record(b"\0", 16, b"\x02a")),
    ],
)
def test_malformed_messages_are_refused(data: bytes) -> None:
    with pytest.raises(MessageError):
        decode(data)


@given(
    st.one_of(
        st.binary(max_size=200),
        st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255)), max_size=6).map(
            lambda changes: changed(
                encode_answer(SERVICE, NAME, [address("10.1.2.3"), address("10.1.2.3", 2)]), changes
            )
        ),
    )
)
def test_garbage_raises_nothing_but_the_codecs_own_error(data: bytes) -> None:
    try:
        told = addresses_told(decode(data), SERVICE)
    except MessageError:
        return
    found = mdns.believed(told, "10.1.2.9", [HERE])
    assert all("/ip4/10.1.2.9/" in each for addresses in found.values() for each in addresses)


def changed(data: bytes, changes: list[tuple[int, int]]) -> bytes:
    altered = bytearray(data)
    for position, value in changes:
        altered[position % len(altered)] = value
    return bytes(altered)


def test_only_the_senders_own_addresses_are_believed() -> None:
    told = [
        address("10.1.2.9"),
        address("10.1.2.8"),  # a third party
        address("127.0.0.1"),  # this machine's, said by another
        address("10.1.2.9", 2, "/ws"),
        "/ip6/::1/tcp/9000/p2p/" + format_peer_id(peer(2)),
        "nonsense",
    ]
    assert mdns.believed(told, "10.1.2.9", [HERE, LOOPBACK]) == {peer(1): [address("10.1.2.9")]}
    assert mdns.believed(told, "10.1.3.9", [HERE, LOOPBACK]) == {}  # not of this network
    mine = [address("10.1.2.3"), address("127.0.0.1")]
    assert mdns.believed(mine, "10.1.2.3", [HERE, LOOPBACK]) == {peer(1): mine}
    many = [address("10.1.2.9", number % 2) for number in range(100)]
    assert {len(each) for each in mdns.believed(many, "10.1.2.9", [HERE]).values()} == {
        mdns.MAX_ADDRESSES
    }


def test_each_local_network_is_told_only_its_own_address() -> None:
    listening = (
        address("0.0.0.0"),
        address("0.0.0.0", tail="/ws"),
        "/ip6/::/tcp/9000/p2p/" + format_peer_id(peer(1)),
    )
    assert mdns.told_on(listening, HERE.ip) == (address("10.1.2.3"),)
    assert mdns.told_on((address("127.0.0.1"),), HERE.ip) == ()
    assert mdns.told_on((address("127.0.0.1"),), LOOPBACK.ip) == (address("127.0.0.1"),)


def local_peers(monkeypatch, found) -> mdns.LocalPeers:
    monkeypatch.setattr(mdns, "own_interfaces", lambda: [HERE])
    return mdns.LocalPeers(peer(0), SERVICE, lambda: [address("10.1.2.3", 0)], found)


async def test_made_up_peers_are_bounded_and_the_known_ones_stay_welcome(
    monkeypatch, autojump_clock
) -> None:
    heard: list[PeerId] = []
    local = local_peers(monkeypatch, lambda peer, _: heard.append(peer))
    local._interfaces = mdns.own_interfaces()

    def hear(number: int) -> None:
        told = encode_answer(SERVICE, NAME, [address("10.1.2.9", number)])
        local._hear(told, "10.1.2.9")

    for number in range(500):  # the first is this node itself
        hear(number)
    assert heard == [peer(number) for number in range(1, mdns.MAX_PEERS + 1)]
    hear(1)
    assert heard[-1] == peer(1)
    await trio.sleep(mdns.KEEP_S)
    hear(499)
    assert heard[-1] == peer(499)


async def test_queries_without_end_get_an_answer_a_second(monkeypatch, autojump_clock) -> None:
    answers: list[bytes] = []
    local = local_peers(monkeypatch, lambda *_: None)
    local._interfaces = mdns.own_interfaces()
    monkeypatch.setattr(mdns, "_send", lambda _raw, _ip, data: answers.append(data))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(local._answer, None)
        for _ in range(1_000):
            local._hear(encode_query(SERVICE), "10.1.2.9")
            local._hear(encode_query(service_name(1002)), "10.1.2.9")
            await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
    assert 8 <= len(answers) <= 10
    assert addresses_told(decode(answers[0]), SERVICE) == (address("10.1.2.3", 0),)
