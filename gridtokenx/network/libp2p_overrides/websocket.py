"""Inbound WebSocket connections as byte streams, so that browsers can be peers.

The listener of py-libp2p 0.8.1 is not used, because

- its limit of connections is looked at once, before it listens;
- its time limit of a handshake is never looked at;
- it runs in a trio *system* task, where an error ends the process.

Here a WebSocket is one more way to wrap an accepted socket: the swarm's limits hold for it as they
do for plain TCP. No `Origin` is refused: a peer proves who it is by Noise, wherever it came from.
"""

# The library is untyped to mypy: its classes are Any.
# mypy: disallow-subclassing-any=False

import trio
from libp2p.io.exceptions import ConnectionClosedError
from wsproto import ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Event,
    Ping,
    Pong,
    Request,
)
from wsproto.utilities import ProtocolError

from gridtokenx.network.libp2p_overrides.sockets import PaidTCPStream

MAX_HANDSHAKE_BYTES = 16_384


class WebSocketStream(PaidTCPStream):
    """The binary messages of one WebSocket, joined; what is written leaves as one message."""

    def __init__(self, stream: trio.SocketStream) -> None:
        super().__init__(stream)
        self._protocol = WSConnection(ConnectionType.SERVER)
        self._received = bytearray()
        self._open = False
        self._ended = False

    async def accept(self) -> None:
        """Answer the opening handshake; the caller limits the time.

        Errors: ConnectionClosedError when the peer asks for anything but a WebSocket.
        """
        handshake_bytes = 0
        while not self._open:
            handshake_bytes += await self._receive()
            if self._ended or handshake_bytes > MAX_HANDSHAKE_BYTES:
                raise ConnectionClosedError("no WebSocket handshake", transport="websocket")

    async def read(self, n: int | None = None) -> bytes:
        if n == 0:
            return b""
        while not self._received and not self._ended:
            await self._receive()
        size = len(self._received) if n is None or n < 0 else n
        data = bytes(self._received[:size])
        del self._received[:size]
        return data

    async def write(self, data: bytes) -> None:
        await self._send(BytesMessage(data))

    async def _receive(self) -> int:
        """Take in one chunk from the socket; return its size."""
        chunk: bytes = await super().read()
        try:
            self._protocol.receive_data(chunk or None)
            for event in self._protocol.events():
                await self._handle(event)
        except (ProtocolError, UnicodeError) as error:  # of headers, the library expects ASCII
            raise ConnectionClosedError(str(error), transport="websocket") from error
        self._ended = self._ended or not chunk
        return len(chunk)

    async def _handle(self, event: Event) -> None:
        match event:
            case BytesMessage(data=data):  # a piece of a frame: the message may be of any length
                self._received += data
            case Request():
                await self._send(AcceptConnection())
                self._open = True
            case Ping():
                await self._send(event.response())
            case Pong():
                pass
            case _:
                # A close is answered by closing the socket; text belongs to no libp2p peer.
                self._ended = True
                if not isinstance(event, CloseConnection):
                    raise ConnectionClosedError("not a binary message", transport="websocket")

    async def _send(self, event: Event) -> None:
        try:
            frame = self._protocol.send(event)
        except ProtocolError as error:
            raise ConnectionClosedError(str(error), transport="websocket") from error
        await super().write(frame)


async def accept_websocket(stream: trio.SocketStream) -> WebSocketStream:
    """Make a WebSocket of an accepted socket. Errors: ConnectionClosedError."""
    accepted = WebSocketStream(stream)
    await accepted.accept()
    return accepted
