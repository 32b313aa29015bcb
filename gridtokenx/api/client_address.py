"""Whose request it is: who opened the connection, or whom a trusted reverse proxy names.

`X-Forwarded-For` is text that anybody may send. It is read from its end, as far as proxies of this
node's operator (`api.trusted_proxies`) have written it, and no further.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
MAX_HOPS = 16


class TrustedProxies:
    """Addresses and networks, as texts like `127.0.0.1` or `10.0.0.0/8`. Errors: ValueError."""

    def __init__(self, entries: Sequence[str]) -> None:
        self._networks = [ipaddress.ip_network(entry) for entry in entries]

    def client_of(self, remote: str, forwarded: Sequence[str]) -> str:
        """The client's address: the last one in `X-Forwarded-For` that is no proxy of ours.

        `remote`: who opened the connection; `forwarded`: the header's lines in their order. A
        proxy that names nobody, or no address, is the client itself.
        """
        client = remote
        said = ",".join(forwarded).rsplit(",", MAX_HOPS)[-MAX_HOPS:]
        while said and self.trusts(client):
            named = _parse(said.pop())
            if named is None:
                break
            client = str(named)
        return client

    def trusts(self, text: str) -> bool:
        """Whether an address is a proxy's."""
        address = _parse(text) if self._networks else None
        return address is not None and any(address in network for network in self._networks)


def _parse(text: str) -> Address | None:
    """An address as proxies write it: `192.0.2.7`, `192.0.2.7:443`, `2001:db8::7`, `[...]:443`."""
    bare = text.strip()[:64].partition("%")[0]
    if bare.startswith("["):
        bare = bare[1:].partition("]")[0]
    elif bare.count(":") == 1:
        bare = bare.partition(":")[0]
    try:
        address = ipaddress.ip_address(bare)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address
