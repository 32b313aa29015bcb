"""The few multicast-DNS messages by which nodes of one local network find each other.

Pure, and total on garbage: whatever else is said on the network's mDNS group comes through here.
Source: protocols/networking.md 2.1; RFC 1035 section 4 (messages), RFC 6762 section 18 (what of
them mDNS uses), libp2p/specs discovery/mdns.md (which records).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

MAX_MESSAGE_BYTES = 9_000  # RFC 6762, section 17
MAX_ENTRIES = 64  # questions and records of one message; more are not looked at
MAX_NAME_BYTES = 255
MAX_LABEL_BYTES = 63
MAX_STRING_BYTES = 255
MAX_POINTERS = 16
RECORD_TTL_S = 120

TYPE_PTR = 12
TYPE_TXT = 16
TYPE_ANY = 255
CLASS_IN = 1
CLASS_MASK = 0x7FFF  # the top bit asks for unicast, or says that older records are void
FLAGS_ANSWER = 0x8400  # a response, and authoritative
FLAG_RESPONSE = 0x8000
IGNORED_UNLESS_ZERO = 0x780F  # opcode and response code

_HEADER = struct.Struct(">HHHHHH")
_QUESTION = struct.Struct(">HH")
_RECORD = struct.Struct(">HHIH")


class MessageError(Exception):
    """The bytes are no DNS message, or one that mDNS does not use."""


@dataclass(frozen=True, slots=True)
class Record:
    """`data` is a name for PTR, the strings for TXT; names are lower case without a last dot."""

    name: str
    ttl_s: int
    data: str | tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Message:
    """What concerns us of a message: names asked for by PTR, and the PTR and TXT records told."""

    is_answer: bool
    questions: tuple[str, ...]
    records: tuple[Record, ...]


def service_name(network_id: int) -> str:
    """`_gtx-<network id>._udp.local`: at most 15 characters of service name, as RFC 6335 asks."""
    return f"_gtx-{network_id}._udp.local"


def encode_query(service: str) -> bytes:
    """Ask who offers a service."""
    question = _encode_name(service) + _QUESTION.pack(TYPE_PTR, CLASS_IN)
    return _HEADER.pack(0, 0, 1, 0, 0, 0) + question


def encode_answer(service: str, peer_name: str, addresses: Sequence[str]) -> bytes:
    """Tell full multiaddrs under a name of one's own. One above 246 characters is left out."""
    peer = f"{peer_name}.{service}"
    told = [f"dnsaddr={address}".encode() for address in addresses]
    text = b"".join(bytes([len(each)]) + each for each in told if len(each) <= MAX_STRING_BYTES)
    pointer = _encode_record(service, TYPE_PTR, _encode_name(peer))
    return (
        _HEADER.pack(0, FLAGS_ANSWER, 0, 1, 0, 1) + pointer + _encode_record(peer, TYPE_TXT, text)
    )


def _encode_record(name: str, kind: int, data: bytes) -> bytes:
    return _encode_name(name) + _RECORD.pack(kind, CLASS_IN, RECORD_TTL_S, len(data)) + data


def _encode_name(name: str) -> bytes:
    labels = [label.encode("ascii") for label in name.split(".")]
    return b"".join(bytes([len(label)]) + label for label in labels) + b"\x00"


def concerns(data: bytes, service: str) -> bool:
    """Whether a message may name a service: most of what is said on a network is about others."""
    return _encode_name(service.partition(".")[0])[:-1] in data.lower()


def addresses_told(message: Message, service: str) -> tuple[str, ...]:
    """The multiaddrs that an answer tells of a service's peers; none where it says goodbye."""
    peers = [each.data for each in message.records if each.name == service and each.ttl_s]
    told: list[str] = []
    for record in message.records:
        if record.name in peers and isinstance(record.data, tuple):
            pairs = (text.partition(b"=") for text in record.data)
            told += [
                value.decode("ascii")
                for key, _, value in pairs
                if key.lower() == b"dnsaddr" and value.isascii()
            ]
    return tuple(told)


def decode(data: bytes) -> Message:
    """Read a message; records of other types are skipped. Errors: MessageError, nothing else.

    Entries after the first MAX_ENTRIES are not read.
    """
    if not _HEADER.size <= len(data) <= MAX_MESSAGE_BYTES:
        raise MessageError(f"{len(data)} bytes are no message")
    _, flags, asked, *told = _HEADER.unpack_from(data)
    if flags & IGNORED_UNLESS_ZERO:
        raise MessageError(f"flags {flags:#06x} are not those of mDNS")
    offset, questions, records = _HEADER.size, list[str](), list[Record]()
    for _ in range(min(asked, MAX_ENTRIES)):
        name, offset = _decode_name(data, offset)
        (kind, group), offset = _unpack(_QUESTION, data, offset)
        if kind in (TYPE_PTR, TYPE_ANY) and group & CLASS_MASK == CLASS_IN:
            questions.append(name)
    for _ in range(min(sum(told), MAX_ENTRIES - min(asked, MAX_ENTRIES))):
        record, offset = _decode_record(data, offset)
        if record is not None:
            records.append(record)
    return Message(bool(flags & FLAG_RESPONSE), tuple(questions), tuple(records))


def _decode_record(data: bytes, offset: int) -> tuple[Record | None, int]:
    name, offset = _decode_name(data, offset)
    (kind, group, ttl_s, size), start = _unpack(_RECORD, data, offset)
    end = start + size
    if end > len(data):
        raise MessageError("a record ends after the message")
    if group & CLASS_MASK != CLASS_IN or kind not in (TYPE_PTR, TYPE_TXT):
        return None, end
    if kind == TYPE_TXT:
        return Record(name, ttl_s, _decode_strings(data[start:end])), end
    target, after = _decode_name(data, start)
    if after != end:
        raise MessageError("a PTR record is not one name")
    return Record(name, ttl_s, target), end


def _decode_strings(data: bytes) -> tuple[bytes, ...]:
    strings, offset = list[bytes](), 0
    while offset < len(data):
        end = offset + 1 + data[offset]
        if end > len(data):
            raise MessageError("a string ends after its record")
        strings.append(data[offset + 1 : end])
        offset = end
    return tuple(strings)


def _decode_name(data: bytes, offset: int) -> tuple[str, int]:
    """A name and where what follows it begins. A pointer leads only backwards, so it ends."""
    labels, size, pointers = list[str](), 1, 0
    after: int | None = None
    while (length := _byte(data, offset)) != 0:
        if length >= 0xC0:
            target = (length & 0x3F) << 8 | _byte(data, offset + 1)
            pointers += 1
            if target >= offset or pointers > MAX_POINTERS:
                raise MessageError("a name's pointer leads nowhere")
            after = offset + 2 if after is None else after
            offset = target
            continue
        size += 1 + length
        label = data[offset + 1 : offset + 1 + length]
        if length > MAX_LABEL_BYTES or len(label) < length or size > MAX_NAME_BYTES:
            raise MessageError("a name is too long")
        # People's names for their devices may hold dots and UTF-8; ours hold neither.
        labels.append(label.decode("latin-1").lower())
        offset += 1 + length
    return ".".join(labels), offset + 1 if after is None else after


def _byte(data: bytes, offset: int) -> int:
    if offset >= len(data):
        raise MessageError("the message ends within a name")
    return data[offset]


def _unpack(form: struct.Struct, data: bytes, offset: int) -> tuple[tuple[int, ...], int]:
    if offset + form.size > len(data):
        raise MessageError("the message ends within an entry")
    return form.unpack_from(data, offset), offset + form.size
