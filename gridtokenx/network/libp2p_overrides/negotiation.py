"""Multistream-select whose messages are short and few.

Faults of py-libp2p 0.8.1 mended here:

- a message may be of any length, and is kept until it is whole: bounded;
- so many proposals are answered as arrive within the time limit: bounded;
- a name that is not UTF-8 raises what nobody expects, and so fills the log: an error of the peer.
"""

# The library is untyped to mypy: its classes are Any.
# mypy: disallow-subclassing-any=False

from collections.abc import Mapping
from typing import Any

from libp2p.custom_types import TProtocol
from libp2p.exceptions import BaseLibp2pError
from libp2p.io.exceptions import IOException
from libp2p.protocol_muxer.exceptions import MultiselectCommunicatorError, MultiselectError
from libp2p.protocol_muxer.generic_selector import GenericMultistreamSelector
from libp2p.protocol_muxer.multiselect_communicator import MultiselectCommunicator
from libp2p.utils.varint import read_varint_prefixed_bytes_limited

NEGOTIATE_TIMEOUT_S = 5
MAX_NAME_BYTES = 1_024
MAX_NAMES = 64  # that a peer may say on one stream; we are the ones to say "na"


class Negotiation(MultiselectCommunicator):
    """The two-way talk on one connection or stream until a protocol is agreed upon."""

    def __init__(self, stream: Any) -> None:
        super().__init__(stream)
        self._names = 0

    async def read(self) -> str:
        """The peer's next message. Errors: MultiselectCommunicatorError."""
        self._names += 1
        try:
            if self._names > MAX_NAMES:
                raise ValueError(f"more than {MAX_NAMES} names")
            message: bytes = await read_varint_prefixed_bytes_limited(
                self.read_writer, MAX_NAME_BYTES
            )
            if not message.endswith(b"\n"):
                raise ValueError("a message without its end")
            return message[:-1].decode()
        except (ValueError, IOException, BaseLibp2pError) as error:
            raise MultiselectCommunicatorError("the peer does not negotiate") from error


class Selector(GenericMultistreamSelector):
    """Chooses among protocols, the preferred one first, by a `Negotiation`."""

    def __init__(self, handlers: Mapping[TProtocol, Any]) -> None:
        super().__init__()
        for protocol, handler in handlers.items():
            self.add_handler(protocol, handler)

    async def select(
        self, conn: Any, is_initiator: bool, negotiate_timeout: int = NEGOTIATE_TIMEOUT_S
    ) -> tuple[TProtocol, Any]:
        """Errors: MultiselectError, MultiselectClientError."""
        talk = Negotiation(conn)
        if is_initiator:
            offered = tuple(self.handlers)
            chosen = await self.multiselect_client.select_one_of(offered, talk, negotiate_timeout)
        else:
            chosen, _ = await self.multiselect.negotiate(talk, negotiate_timeout)
        if chosen is None:
            raise MultiselectError("no protocol was selected")
        return chosen, self.handlers[chosen]
