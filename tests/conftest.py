"""Lets property tests take their time; says which files run first, and which side by side."""

from functools import cache
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling

# A busy machine draws slowly; that is no fault of what is tested.
settings.register_profile("suite", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("suite")

# The files that take longest begin first, so that small ones fill what is left of each process.
LONGEST = (
    "test_durability.py",
    "test_faults.py",
    "test_partition.py",
    "test_campaigns.py",
    "test_day.py",
    "test_hostile.py",
    "test_hostile_fleet.py",
    "test_reincarnation.py",
    "test_regions.py",
    "test_netns.py",
    "test_cluster.py",
    "test_catch_up.py",
    "test_js_node.py",
)
SHARED = "shared_cluster"


def _rank(item: pytest.Item) -> int:
    """Users of the shared cluster follow the long ones, together: it runs only for them."""
    if SHARED in getattr(item, "fixturenames", ()):
        return len(LONGEST)
    name = item.path.name
    return LONGEST.index(name) if name in LONGEST else len(LONGEST) + 1


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=_rank)


@cache
def _uses_shared_cluster(file: str) -> bool:
    return SHARED in (Path(__file__).parent.parent / file).read_text(encoding="utf-8")


class FilesSideBySide(LoadFileScheduling):
    """A file in one process, and in one all that share a cluster: so there is one of it."""

    def _split_scope(self, nodeid: str) -> str:
        file = super()._split_scope(nodeid)
        return SHARED if _uses_shared_cluster(file) else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadFileScheduling:
    return FilesSideBySide(config, log)
