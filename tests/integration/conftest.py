"""A real cluster that test modules share. Who would break it makes one of their own."""

from __future__ import annotations

from collections.abc import Iterator

import live_cluster
import pytest

from gridtokenx.cluster import dev
from gridtokenx.cluster.processes import Cluster


@pytest.fixture(scope="session")
def shared_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Four authorities and an observer; the dev account has a meter and 10,000 THB on MET.

    Its processes must be left running and the dev account's money as it is.
    """
    folder = tmp_path_factory.mktemp("home") / "clusters" / "shared"
    with live_cluster.running(folder, "MET", "NOR") as cluster:
        with live_cluster.client_of(cluster, "n0") as client:
            dev.fund_dev_account(client)
        yield cluster


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Its users run last, so that its processes do not slow every other test."""
    items.sort(key=lambda item: "shared_cluster" in getattr(item, "fixturenames", ()))
