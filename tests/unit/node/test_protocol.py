"""What nodes say to each other: limits and priority of each topic."""

from __future__ import annotations

import pytest

from gridtokenx.network.gossipsub.events import Priority
from gridtokenx.node.protocol import Topics, topic_limit, topic_prefix, topic_priority

TOPICS = Topics(7, "MET")


@pytest.mark.parametrize(
    ("topic", "max_bytes", "priority"),
    [
        (TOPICS.votes, 1 << 20, Priority.URGENT),
        (TOPICS.orders, 1 << 20, Priority.BULK),
        (TOPICS.blocks, 1 << 20, Priority.BULK),
    ],
)
def test_votes_go_ahead(topic: str, max_bytes: int, priority: Priority) -> None:
    assert topic.startswith(topic_prefix(7))
    assert topic_limit(topic) == max_bytes
    assert topic_priority(topic) is priority
