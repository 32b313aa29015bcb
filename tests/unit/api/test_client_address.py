"""Whom a request counts for, behind proxies and behind none."""

from __future__ import annotations

import pytest

from gridtokenx.api.client_address import MAX_HOPS, TrustedProxies

PROXIES = TrustedProxies(["127.0.0.1", "10.1.0.0/16", "2001:db8:1::/48"])
CLIENT = "203.0.113.9"


@pytest.mark.parametrize(
    ("remote", "forwarded", "client"),
    [
        (CLIENT, ["192.0.2.1"], CLIENT),  # nobody asked this one who it is
        ("127.0.0.1", [], "127.0.0.1"),
        ("127.0.0.1", [CLIENT], CLIENT),
        ("127.0.0.1", [f"192.0.2.1, 127.0.0.1, {CLIENT}"], CLIENT),  # the front is hearsay
        ("127.0.0.1", ["192.0.2.1", f"{CLIENT},10.1.2.3"], CLIENT),
        ("10.1.255.1", [f"{CLIENT}, 10.2.0.1"], "10.2.0.1"),  # a proxy, but none of ours
        ("127.0.0.1", ["10.1.0.7"], "10.1.0.7"),  # a client among the proxies
        ("127.0.0.1", [f"{CLIENT}, unknown, 10.1.0.7"], "10.1.0.7"),
        ("127.0.0.1", [""], "127.0.0.1"),
        ("127.0.0.1", [f"{CLIENT}:4711"], CLIENT),
        ("127.0.0.1", [f"::ffff:{CLIENT}"], CLIENT),
        ("::ffff:127.0.0.1", [CLIENT], CLIENT),
        ("2001:db8:1::5", ["[2001:db8:2::7]:443"], "2001:db8:2::7"),
        ("127.0.0.1", ["2001:db8:2::7"], "2001:db8:2::7"),
        ("127.0.0.1", [CLIENT] + ["127.0.0.1"] * MAX_HOPS, "127.0.0.1"),
        ("", [CLIENT], ""),
    ],
)
def test_the_client_is_the_last_address_that_no_proxy_of_ours_has(
    remote: str, forwarded: list[str], client: str
) -> None:
    assert PROXIES.client_of(remote, forwarded) == client


def test_without_trusted_proxies_the_header_means_nothing() -> None:
    assert TrustedProxies([]).client_of("127.0.0.1", [CLIENT]) == "127.0.0.1"


@pytest.mark.parametrize("entry", ["10.0.0.1/8", "300.0.0.1", "proxy"])
def test_what_is_no_network_is_refused(entry: str) -> None:
    with pytest.raises(ValueError, match=entry.partition("/")[0]):
        TrustedProxies([entry])
