"""Protobuf encoding of the gossipsub RPC: the fields the router uses, strict and bounded.

Written by hand because the generated classes ship inside libp2p, whose import takes seconds, and
because the received bytes of a message are kept: they are what its signature covers and what is
forwarded, so a message is parsed once and serialised never.
Source: libp2p/specs pubsub/README.md (RPC, Message), gossipsub v1.0 to v1.2 (ControlMessage).
"""

from collections.abc import Callable, Iterable, Iterator, Sized
from dataclasses import dataclass, field

MAX_SUBSCRIPTIONS_PER_RPC = 1_000
MAX_MESSAGES_PER_RPC = 4_096
MAX_CONTROL_ENTRIES_PER_RPC = 1_000
MAX_IDS_PER_RPC = 20_000
MAX_ID_BYTES = 128
MAX_TOPIC_BYTES = 256

SIGNING_PREFIX = b"libp2p-pubsub:"
SEQNO_BYTES = 8
_SIGNATURE_BYTES = 64
_ED25519_KEY_HEAD = b"\x08\x01\x12\x20"  # protobuf PublicKey: type Ed25519, 32 bytes follow

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_FIXED_BYTES = {_FIXED64: 8, _FIXED32: 4}
_MAX_VARINT_BYTES = 10
_ALL = 1 << 64  # Above every field number: nothing unknown is skipped.


class WireError(Exception):
    """Bytes from a peer are not a gossipsub RPC within the limits above."""


@dataclass(frozen=True, slots=True)
class Message:
    """A published message as it came: `raw` is all of it, `raw[:signed_bytes]` is signed."""

    author: bytes
    data: bytes
    seqno: bytes
    topic: str
    signature: bytes
    key: bytes
    raw: bytes
    signed_bytes: int

    @property
    def id(self) -> bytes:
        """The message id, author ‖ seqno: a resend of equal data is a new message."""
        return self.author + self.seqno

    def signed(self) -> bytes:
        """The bytes under the signature: the prefix and every field before it."""
        return SIGNING_PREFIX + self.raw[: self.signed_bytes]


@dataclass(frozen=True, slots=True)
class Prune:
    """Leave a mesh; `backoff_s` is 0 where the sender named none (gossipsub v1.0)."""

    topic: str
    backoff_s: int


@dataclass(slots=True)
class Rpc:
    """One decoded RPC; lists keep the wire's order."""

    subscriptions: list[tuple[bool, str]] = field(default_factory=list)
    messages: list[Message] = field(default_factory=list)
    ihave: list[tuple[str, list[bytes]]] = field(default_factory=list)
    iwant: list[bytes] = field(default_factory=list)
    graft: list[str] = field(default_factory=list)
    prune: list[Prune] = field(default_factory=list)
    idontwant: list[bytes] = field(default_factory=list)

    @property
    def has_control(self) -> bool:
        """Whether there is more in it than subscriptions and messages."""
        return bool(self.ihave or self.iwant or self.graft or self.prune or self.idontwant)


def signer_key(message: Message, public_key_of: Callable[[bytes], bytes | None]) -> bytes | None:
    """The author's key, or None where seqno, signature or key break StrictSign."""
    public_key = public_key_of(message.author)
    if public_key is None or len(message.signature) != _SIGNATURE_BYTES:
        return None
    if len(message.seqno) != SEQNO_BYTES:
        return None
    if message.key and message.key != _ED25519_KEY_HEAD + public_key:
        return None
    return public_key


def encode_varint(value: int) -> bytes:
    """Encode an unsigned integer as a minimal LEB128 varint."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def encode_frame(payload: bytes) -> bytes:
    """Put the unsigned-varint length in front, as an RPC travels on its stream."""
    return encode_varint(len(payload)) + payload


def encode_signed_part(author: bytes, data: bytes, seqno: bytes, topic: str) -> bytes:
    """Encode the fields of a Message that its signature covers, in field order."""
    return b"".join(
        (_field(1, author), _field(2, data), _field(3, seqno), _field(4, topic.encode()))
    )


def encode_message(signed_part: bytes, signature: bytes) -> bytes:
    """Complete a Message; the key is left out because an Ed25519 peer id carries it."""
    return signed_part + _field(5, signature)


def encode_publish_frame(raw_message: bytes) -> bytes:
    """Frame an RPC that carries one message: built once, shared by all peers it goes to."""
    head = b"\x12" + encode_varint(len(raw_message))
    return b"".join((encode_varint(len(head) + len(raw_message)), head, raw_message))


def encode_rpc(rpc: Rpc) -> bytes:
    """Encode subscriptions and control of an RPC; messages travel by `encode_publish_frame`."""
    parts = [
        _field(1, (b"\x08\x01" if on else b"\x08\x00") + _field(2, topic.encode()))
        for on, topic in rpc.subscriptions
    ]
    parts += [_field(2, message.raw) for message in rpc.messages]
    control = b"".join(_control_parts(rpc))
    if control:
        parts.append(_field(3, control))
    return b"".join(parts)


def _control_parts(rpc: Rpc) -> Iterator[bytes]:
    for topic, ids in rpc.ihave:
        yield _field(1, _field(1, topic.encode()) + _ids(2, ids))
    if rpc.iwant:
        yield _field(2, _ids(1, rpc.iwant))
    for topic in rpc.graft:
        yield _field(3, _field(1, topic.encode()))
    for prune in rpc.prune:
        yield _field(4, _field(1, prune.topic.encode()) + b"\x18" + encode_varint(prune.backoff_s))
    if rpc.idontwant:
        yield _field(5, _ids(1, rpc.idontwant))


def _field(number: int, payload: bytes) -> bytes:
    return bytes((number << 3 | _LENGTH,)) + encode_varint(len(payload)) + payload


def _ids(number: int, ids: Iterable[bytes]) -> bytes:
    return b"".join(_field(number, message_id) for message_id in ids)


def decode_rpc(buffer: bytes) -> Rpc:
    """Decode one RPC without its length prefix.

    Unknown fields of the RPC and of control entries are skipped (extensions, signed records);
    a Message must be canonical, see `_decode_message`.
    Errors: WireError for anything malformed or over a limit.
    """
    rpc = Rpc()
    for number, start, end in _fields(buffer, 0, len(buffer), known=3):
        if number == 1:
            rpc.subscriptions.append(_decode_subscription(buffer, start, end))
            _check_count(rpc.subscriptions, MAX_SUBSCRIPTIONS_PER_RPC, "subscriptions")
        elif number == 2:
            rpc.messages.append(_decode_message(buffer, start, end))
            _check_count(rpc.messages, MAX_MESSAGES_PER_RPC, "messages")
        elif number == 3:
            _decode_control(rpc, buffer, start, end)
    return rpc


def _check_count(items: Sized, limit: int, what: str) -> None:
    if len(items) > limit:
        raise WireError(f"more than {limit} {what} in one RPC")


def _decode_subscription(buffer: bytes, start: int, end: int) -> tuple[bool, str]:
    on, topic = False, ""
    for number, value, stop in _fields(buffer, start, end, known=2, varint=1):
        if number == 1:
            on = value != 0
        elif number == 2:
            topic = _topic(buffer, value, stop)
    return on, topic


def _decode_message(buffer: bytes, start: int, end: int) -> Message:
    """Decode a Message whose fields 1..6 stand in order, each at most once, and nothing else.

    Every implementation writes them so; any other spelling would let a forwarder change bytes that
    the signature does not fix.
    """
    parts = [b""] * 7
    topic, previous, signed_end = "", 0, start
    for number, value, stop in _fields(buffer, start, end, known=_ALL):
        if not previous < number <= 6:
            raise WireError(f"message field {number} after field {previous}")
        if number == 4:
            topic = _topic(buffer, value, stop)
        else:
            parts[number] = buffer[value:stop]
        if number <= 4:
            signed_end = stop
        previous = number
    _, author, data, seqno, _, signature, key = parts
    if len(author) + len(seqno) > MAX_ID_BYTES:
        raise WireError(f"message id of {len(author) + len(seqno)} bytes")
    return Message(
        author, data, seqno, topic, signature, key, buffer[start:end], signed_end - start
    )


def _decode_control(rpc: Rpc, buffer: bytes, start: int, end: int) -> None:
    ids = 0
    for entries, (number, first, stop) in enumerate(_fields(buffer, start, end, known=5)):
        if number == 1:
            topic, listed = _decode_ids(buffer, first, stop, id_field=2)
            rpc.ihave.append((topic, listed))
            ids += len(listed)
        elif number in (2, 5):
            _, listed = _decode_ids(buffer, first, stop, id_field=1)
            (rpc.iwant if number == 2 else rpc.idontwant).extend(listed)
            ids += len(listed)
        elif number == 3:
            rpc.graft.append(_decode_ids(buffer, first, stop, id_field=0)[0])
        elif number == 4:
            rpc.prune.append(_decode_prune(buffer, first, stop))
        if entries >= MAX_CONTROL_ENTRIES_PER_RPC or ids > MAX_IDS_PER_RPC:
            raise WireError(f"{entries + 1} control entries with {ids} ids in one RPC")


def _decode_ids(buffer: bytes, start: int, end: int, id_field: int) -> tuple[str, list[bytes]]:
    """Decode a control entry: ids in `id_field`, else the topic in field 1."""
    topic = ""
    ids: list[bytes] = []
    for number, value, stop in _fields(buffer, start, end, known=max(id_field, 1)):
        if number == id_field:
            if stop - value > MAX_ID_BYTES:
                raise WireError(f"message id of {stop - value} bytes")
            ids.append(buffer[value:stop])
        elif number == 1:
            topic = _topic(buffer, value, stop)
    return topic, ids


def _decode_prune(buffer: bytes, start: int, end: int) -> Prune:
    """Decode a PRUNE; offered peers (field 2) are skipped: peers come from discovery."""
    topic, backoff_s = "", 0
    for number, value, stop in _fields(buffer, start, end, known=3, varint=3):
        if number == 1:
            topic = _topic(buffer, value, stop)
        elif number == 3:
            backoff_s = value
    return Prune(topic, backoff_s)


def _topic(buffer: bytes, start: int, end: int) -> str:
    if end - start > MAX_TOPIC_BYTES:
        raise WireError(f"topic of {end - start} bytes")
    try:
        return buffer[start:end].decode()
    except UnicodeDecodeError as error:
        raise WireError("topic is not UTF-8") from error


def _fields(
    buffer: bytes, start: int, end: int, *, known: int, varint: int = 0
) -> Iterator[tuple[int, int, int]]:
    """Yield (number, start, end) of length-delimited fields and (number, value, 0) of `varint`.

    Fields up to `known` must have the type their number has; later ones may come from newer
    protocol versions and are skipped when they are no bytes.
    """
    position = start
    while position < end:
        tag, position = _varint(buffer, position, end)
        number, wire_type = tag >> 3, tag & 7
        if number == 0:
            raise WireError("field number 0")
        if wire_type == _LENGTH and number != varint:
            length, position = _varint(buffer, position, end)
            if position + length > end:
                raise WireError("a field runs over its end")
            yield number, position, position + length
            position += length
        elif wire_type == _VARINT and number == varint:
            value, position = _varint(buffer, position, end)
            yield number, value, 0
        elif number <= known:
            raise WireError(f"field {number} has wire type {wire_type}")
        elif wire_type == _VARINT:
            _, position = _varint(buffer, position, end)
        else:
            position = _skip_fixed(wire_type, position, end)


def _skip_fixed(wire_type: int, position: int, end: int) -> int:
    size = _FIXED_BYTES.get(wire_type)
    if size is None or position + size > end:
        raise WireError(f"wire type {wire_type} or a field over its end")
    return position + size


def _varint(buffer: bytes, position: int, end: int) -> tuple[int, int]:
    """Read a minimal varint of at most 64 bits; return the value and the position behind it."""
    if position < end and buffer[position] < 0x80:  # Nearly all of them have one byte.
        return buffer[position], position + 1
    value = shift = 0
    for offset in range(position, min(end, position + _MAX_VARINT_BYTES)):
        byte = buffer[offset]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if (byte == 0 and shift) or value >> 64:
                raise WireError("varint is not minimal or over 64 bits")
            return value, offset + 1
        shift += 7
    raise WireError("varint does not end")


@dataclass(slots=True)
class FrameBuffer:
    """Cut a byte stream into length-prefixed payloads; holds at most one unfinished payload."""

    max_payload_bytes: int
    _buffer: bytearray = field(default_factory=bytearray)

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """Add received bytes; yield each complete payload. Errors: WireError on a wrong length."""
        self._buffer += chunk
        while self._buffer:
            head = bytes(self._buffer[:_MAX_VARINT_BYTES])
            if len(head) < _MAX_VARINT_BYTES and min(head) >= 0x80:
                return  # The length itself has not arrived whole.
            length, start = _varint(head, 0, len(head))
            if length > self.max_payload_bytes:
                raise WireError(f"RPC of {length} bytes, limit {self.max_payload_bytes}")
            if len(self._buffer) < start + length:
                return
            with memoryview(self._buffer) as view:
                payload = bytes(view[start : start + length])
            del self._buffer[: start + length]
            yield payload
