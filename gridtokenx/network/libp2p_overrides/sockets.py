"""The byte stream of a TCP socket, read in large pieces and only when its peer may cost something.

Faults of py-libp2p 0.8.1 mended here:

- two recv() calls for each Noise frame: `BufferedTCPStream`;
- before its handshake anybody may send a length of any size, and have room made for it: a read is
  one chunk, and a handshake that does not end is ended;
- an IPv6 peer has no address, so that all of IPv6 shares the limits of one.
"""

# The library is untyped to mypy: its classes are Any.
# mypy: disallow-subclassing-any=False

import trio
from libp2p.io.exceptions import ConnectionClosedError
from libp2p.io.trio import TrioTCPStream

from gridtokenx.network.throttle import PAYER

RECEIVE_CHUNK_BYTES = 65_536
MAX_HANDSHAKE_BYTES = 131_072  # an honest one has 2,000; what follows it may come in one chunk


class PaidTCPStream(TrioTCPStream):
    """Takes the next bytes off its socket when whoever pays for them may cost something."""

    def __init__(self, stream: trio.SocketStream) -> None:
        super().__init__(stream)
        self.payer = PAYER.get()
        self._early_bytes = 0
        self._remote: tuple[str, int] | None = None

    async def read(self, n: int | None = None) -> bytes:
        """At most `n` bytes, never more than RECEIVE_CHUNK_BYTES.

        Errors: ConnectionClosedError, also when a handshake is longer than any is.
        """
        payer = self.payer
        if payer is not None:
            await payer.gate.admit(payer)
        size = RECEIVE_CHUNK_BYTES if n is None or n < 0 else min(n, RECEIVE_CHUNK_BYTES)
        chunk: bytes = await super().read(size)
        if payer is not None and not payer.is_open:
            self._early_bytes += len(chunk)
            if self._early_bytes > MAX_HANDSHAKE_BYTES:
                raise ConnectionClosedError("the handshake does not end", transport="tcp")
        return chunk

    def get_remote_address(self) -> tuple[str, int] | None:
        if self._remote is None:
            try:
                host, port = self.stream.socket.getpeername()[:2]  # of IPv6 there are four
            except OSError:
                return None
            self._remote = (str(host), int(port))
        return self._remote


class BufferedTCPStream(PaidTCPStream):
    """Reads the socket in large pieces, so that a length and its frame cost one recv()."""

    def __init__(self, stream: trio.SocketStream) -> None:
        super().__init__(stream)
        self._received = bytearray()

    async def read(self, n: int | None = None) -> bytes:
        if n == 0:
            return b""
        if not self._received:
            chunk: bytes = await super().read()
            if n is None or n < 0 or len(chunk) <= n:
                return chunk
            self._received += chunk
        size = len(self._received) if n is None or n < 0 else n
        data = bytes(self._received[:size])
        del self._received[:size]
        return data
