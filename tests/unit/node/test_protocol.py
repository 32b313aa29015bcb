"""What nodes say to each other: the priority of each topic."""

from __future__ import annotations

import pytest

from gridtokenx.network.gossipsub.events import Priority
from gridtokenx.node.protocol import Topics, topic_prefix, topic_priority

TOPICS = Topics(7, "MET")


@pytest.mark.parametrize(
    ("topic", "priority"),
    [
        (TOPICS.votes, Priority.URGENT),
        (TOPICS.orders, Priority.BULK),
        (TOPICS.blocks, Priority.BULK),
    ],
)
def test_votes_go_ahead(topic: str, priority: Priority) -> None:
    assert topic.startswith(topic_prefix(7))
    assert topic_priority(topic) is priority
