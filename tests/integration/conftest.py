"""A real cluster that test modules share. Who would break it makes one of their own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from gridtokenx.cluster import dev
from gridtokenx.cluster.processes import Cluster
from tests.support import live_cluster

SHARED = "shared_cluster"


@pytest.fixture(scope="session")
def shared_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Four authorities and an observer; the dev account has a meter and 10,000 THB on MET.

    Every node has the blocks of that. Its processes must be left running and the dev account's
    money as it is.
    """
    folder = tmp_path_factory.mktemp("home") / "clusters" / "shared"
    with live_cluster.running(folder, "MET", "NOR") as cluster:
        with live_cluster.client_of(cluster, "n0") as client:
            dev.fund_dev_account(client)
        funded = live_cluster.answered_heights(cluster, "n0")
        live_cluster.wait_heights(cluster, funded, *live_cluster.names_of(cluster))
        yield cluster


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Its processes do not slow the tests that come after its last user."""
    cluster = getattr(item, "funcargs", {}).get(SHARED)
    if cluster is not None and SHARED not in getattr(nextitem, "fixturenames", ()):
        cluster.stop()
