"""What many tests of the API ask."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.api_node import MemoryNode


@pytest.fixture
def node(tmp_path: Path) -> Iterator[MemoryNode]:
    """A node in memory with people, meters and money on it."""
    made = MemoryNode(tmp_path)
    made.populate()
    yield made
    made.close()
