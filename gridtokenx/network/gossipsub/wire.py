"""Protobuf encoding of the gossipsub RPC: the fields the router uses, strict and bounded.

Written by hand because the generated classes ship inside libp2p, whose import takes seconds, and
because the received bytes of a message are kept: they are what its signature covers and what is
forwarded, so a message is parsed once and serialised never.
Source: libp2p/specs pubsub/README.md (RPC, Message), libp2p/specs
pubsub/gossipsub/gossipsub-v1.0.md to v1.2 (ControlMessage).
"""

from collections.abc import Callable, Iterable, Iterator, Sized
from dataclasses import dataclass, field

MAX_SUBSCRIPTIONS_PER_RPC = 1_000
MAX_MESSAGES_PER_RPC = 4_096
MAX_CONTROL_ENTRIES_PER_RPC = 1_000
MAX_IDS_PER_RPC = 20_000
MAX_IDS_PER_ENTRY = 5_000  # as the specification has it
MAX_FIELDS_PER_RPC = 8_192  # of the RPC itself: subscriptions, messages and control
MAX_UNKNOWN_FIELDS = 16  # of the RPC and of its control; of one entry a quarter
MAX_OFFERED_PEERS = 64  # in a PRUNE, all unused
SLICE_BYTES = 32 * 1024  # of control, and
SLICE_FIELDS = 16  # of the rest, are handled before others get their turn
IDS_PER_ENTRY = 1_000  # handled at a time, and in entries that we send
FRAME_BYTES = 128 * 1024  # of control that we send
MAX_ID_BYTES = 128
MAX_TOPIC_BYTES = 256

SIGNING_PREFIX = b"libp2p-pubsub:"
SEQNO_BYTES = 8
_SIGNATURE_BYTES = 64
_ED25519_KEY_HEAD = b"\x08\x01\x12\x20"  # protobuf PublicKey: type Ed25519, 32 bytes follow

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_FIXED_BYTES = {_FIXED64: 8, _FIXED32: 4}
_MAX_VARINT_BYTES = 10


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
    def ids(self) -> int:
        """How many message ids it names."""
        named = sum(len(ids) for _, ids in self.ihave)
        return named + len(self.iwant) + len(self.idontwant)

    @property
    def entries(self) -> int:
        """How many subscriptions and entries of control it has, lists of ids apart."""
        return len(self.subscriptions) + len(self.ihave) + len(self.graft) + len(self.prune)

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
    """Encode an RPC whole, be it within the limits or not."""
    return b"".join((*_plain_parts(rpc), _control(list(_control_parts(rpc)))))


def encode_control_frames(rpc: Rpc) -> Iterator[bytes]:
    """Frames that carry subscriptions and control, each far below the limits of an RPC."""
    plain, control, size = list(_plain_parts(rpc)), list[bytes](), 0
    for part in _control_parts(rpc):
        if size + len(part) > FRAME_BYTES or len(control) >= MAX_CONTROL_ENTRIES_PER_RPC:
            yield encode_frame(b"".join((*plain, _control(control))))
            plain, control, size = [], [], 0
        control.append(part)
        size += len(part)
    if plain or control:
        yield encode_frame(b"".join((*plain, _control(control))))


def _plain_parts(rpc: Rpc) -> Iterator[bytes]:
    for on, topic in rpc.subscriptions:
        yield _field(1, (b"\x08\x01" if on else b"\x08\x00") + _field(2, topic.encode()))
    for message in rpc.messages:
        yield _field(2, message.raw)


def _control(parts: list[bytes]) -> bytes:
    return _field(3, b"".join(parts)) if parts else b""


def _control_parts(rpc: Rpc) -> Iterator[bytes]:
    for topic, ids in rpc.ihave:
        head = _field(1, topic.encode())
        for some in _batches(ids) if ids else [ids]:
            yield _field(1, head + _ids(2, some))
    for some in _batches(rpc.iwant):
        yield _field(2, _ids(1, some))
    for topic in rpc.graft:
        yield _field(3, _field(1, topic.encode()))
    for prune in rpc.prune:
        yield _field(4, _field(1, prune.topic.encode()) + b"\x18" + encode_varint(prune.backoff_s))
    for some in _batches(rpc.idontwant):
        yield _field(5, _ids(1, some))


def _batches(ids: list[bytes]) -> Iterator[list[bytes]]:
    for start in range(0, len(ids), IDS_PER_ENTRY):
        yield ids[start : start + IDS_PER_ENTRY]


def _field(number: int, payload: bytes) -> bytes:
    return bytes((number << 3 | _LENGTH,)) + encode_varint(len(payload)) + payload


def _ids(number: int, ids: Iterable[bytes]) -> bytes:
    return b"".join(_field(number, message_id) for message_id in ids)


def slices(buffer: bytes) -> Iterator[bytes]:
    """Cut an RPC into RPCs that say the same one after the other and take little time each.

    Errors: WireError, when the slice is asked for that cannot be made.
    """
    if len(buffer) <= SLICE_BYTES // 8:
        yield buffer  # so short that nothing in it takes long
        return
    start = fields = 0
    for count, (number, position, value, end) in enumerate(_spans(buffer, 0, len(buffer))):
        if count >= MAX_FIELDS_PER_RPC:
            raise WireError(f"more than {MAX_FIELDS_PER_RPC} fields in one RPC")
        if number == 3 and end - value > SLICE_BYTES:
            if position > start:
                yield buffer[start:position]
            yield from _control_slices(buffer, value, end)
            start, fields = end, 0
        elif fields >= SLICE_FIELDS:
            yield buffer[start:position]
            start, fields = position, 0
        fields += 1
    if start < len(buffer):
        yield buffer[start:]


def _control_slices(buffer: bytes, start: int, end: int) -> Iterator[bytes]:
    for count, (number, position, value, stop) in enumerate(_spans(buffer, start, end)):
        if count >= MAX_CONTROL_ENTRIES_PER_RPC:
            raise WireError(f"more than {MAX_CONTROL_ENTRIES_PER_RPC} control entries in one RPC")
        if stop - start > SLICE_BYTES and position > start:
            yield _field(3, buffer[start:position])
            start = position
        if stop - position > SLICE_BYTES and number in (1, 2, 5):
            yield from _entry_slices(buffer, number, value, stop)
            start = stop
    if start < end:
        yield _field(3, buffer[start:end])


def _entry_slices(buffer: bytes, number: int, start: int, end: int) -> Iterator[bytes]:
    """An entry of many ids as several of them; of an IHAVE each has the topic."""
    id_field = 2 if number == 1 else 1
    ids = [span for span in _spans(buffer, start, end) if span[0] == id_field]
    if len(ids) > MAX_IDS_PER_ENTRY:
        raise WireError(f"{len(ids)} ids in one entry")
    rest = b"".join(
        buffer[first:stop]
        for field_number, first, _, stop in _spans(buffer, start, end)
        if field_number != id_field
    )
    for at in range(0, max(1, len(ids)), IDS_PER_ENTRY):
        some = b"".join(buffer[first:stop] for _, first, _, stop in ids[at : at + IDS_PER_ENTRY])
        yield _field(3, _field(number, rest + some))


def decode_rpc(buffer: bytes) -> Rpc:
    """Decode one RPC without its length prefix.

    A few unknown fields of the RPC and of control entries are skipped (extensions, signed
    records); a Message must be canonical, see `_decode_message`.
    Errors: WireError for anything malformed or over a limit.
    """
    rpc = Rpc()
    fields = _fields(buffer, 0, len(buffer), known=3, repeated=(1, 2), unknown=MAX_UNKNOWN_FIELDS)
    for number, start, end in fields:
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
    if not topic:
        raise WireError("a subscription to no topic")
    return on, topic


def _decode_message(buffer: bytes, start: int, end: int) -> Message:
    """Decode a Message whose fields 1..6 stand in order, each at most once, and nothing else.

    Every implementation writes them so; any other spelling would let a forwarder change bytes that
    the signature does not fix.
    """
    parts = [b""] * 7
    topic, previous, signed_end = "", 0, start
    for number, value, stop in _fields(buffer, start, end, known=6, unknown=0):
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
    fields = _fields(
        buffer, start, end, known=5, repeated=(1, 2, 3, 4, 5), unknown=MAX_UNKNOWN_FIELDS
    )
    for entries, (number, first, stop) in enumerate(fields):
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
    fields = _fields(buffer, start, end, known=max(id_field, 1), repeated=(id_field,))
    for number, value, stop in fields:
        if number == id_field:
            if not 0 < stop - value <= MAX_ID_BYTES or len(ids) >= MAX_IDS_PER_ENTRY:
                raise WireError(f"message id {len(ids)} of {stop - value} bytes")
            ids.append(buffer[value:stop])
        elif number == 1:
            topic = _topic(buffer, value, stop)
    return topic, ids


def _decode_prune(buffer: bytes, start: int, end: int) -> Prune:
    """Decode a PRUNE; offered peers (field 2) are skipped: peers come from discovery."""
    topic, backoff_s, offered = "", 0, 0
    for number, value, stop in _fields(buffer, start, end, known=3, varint=3, repeated=(2,)):
        if number == 1:
            topic = _topic(buffer, value, stop)
        elif number == 3:
            backoff_s = value
        elif number == 2:
            offered += 1
            if offered > MAX_OFFERED_PEERS:
                raise WireError(f"more than {MAX_OFFERED_PEERS} peers offered in a PRUNE")
    return Prune(topic, backoff_s)


def _topic(buffer: bytes, start: int, end: int) -> str:
    if end - start > MAX_TOPIC_BYTES:
        raise WireError(f"topic of {end - start} bytes")
    try:
        return buffer[start:end].decode()
    except UnicodeDecodeError as error:
        raise WireError("topic is not UTF-8") from error


def _fields(
    buffer: bytes,
    start: int,
    end: int,
    *,
    known: int,
    varint: int = 0,
    repeated: tuple[int, ...] = (),
    unknown: int = MAX_UNKNOWN_FIELDS // 4,
) -> Iterator[tuple[int, int, int]]:
    """Yield (number, start, end) of length-delimited fields and (number, value, 0) of `varint`.

    Fields up to `known` must have the type their number has, and stand there once unless they are
    `repeated`; later ones may come from newer protocol versions: a few are skipped.
    """
    seen, skipped = 0, 0
    for number, position, value, stop in _spans(buffer, start, end):
        wire_type = buffer[position] & 7
        if number > known:
            skipped += 1
            if skipped > unknown:
                raise WireError(f"more than {unknown} unknown fields")
        elif number not in repeated:
            if seen >> number & 1:
                raise WireError(f"field {number} stands there twice")
            seen |= 1 << number
        if number == varint:
            if wire_type != _VARINT:
                raise WireError(f"field {number} has wire type {wire_type}")
            yield number, _varint(buffer, value, stop)[0], 0
        elif wire_type == _LENGTH:
            yield number, value, stop
        elif number <= known:
            raise WireError(f"field {number} has wire type {wire_type}")


def _spans(buffer: bytes, start: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield number, start, start of the value and end of each field."""
    position = start
    while position < end:
        first = position
        tag, position = _varint(buffer, position, end)
        number, wire_type = tag >> 3, tag & 7
        if number == 0:
            raise WireError("field number 0")
        if wire_type == _LENGTH:
            length, position = _varint(buffer, position, end)
            stop = position + length
        elif wire_type == _VARINT:
            stop = _varint(buffer, position, end)[1]
        else:
            size = _FIXED_BYTES.get(wire_type)
            if size is None:
                raise WireError(f"wire type {wire_type}")
            stop = position + size
        if stop > end:
            raise WireError("a field runs over its end")
        yield number, first, position, stop
        position = stop


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

    def __len__(self) -> int:
        """Bytes of the payload that is not whole yet."""
        return len(self._buffer)

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
