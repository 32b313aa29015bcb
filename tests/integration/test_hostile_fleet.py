"""A dozen strangers' attacks at once, one or two on each door, against a small loaded cluster.

The long form, with figures and goals, is `scripts/hostile`. Here blocks must go on while the
attacks last and after them, honest orders must become final, `/health` must answer, and no node may
end, log an error or disagree.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import live_cluster
from tests.support.live_cluster import (
    assert_same_state,
    client_of,
    pids_of,
    wait_progress,
    wait_until,
)

ROOT = Path(__file__).resolve().parents[2]

from gridtokenx.cluster.processes import Cluster  # noqa: E402
from scripts.hostile_fleet import setting  # noqa: E402
from scripts.hostile_fleet.attack import Target  # noqa: E402
from scripts.hostile_fleet.catalogue import ATTACKS  # noqa: E402
from scripts.hostile_fleet.honest import Honest  # noqa: E402
from scripts.hostile_fleet.measure import Log, probe  # noqa: E402
from scripts.hostile_fleet.phases import Attackers  # noqa: E402

CHOSEN = (
    "half-open-handshakes",
    "window-updates",
    "claimed-heights",
    "block-requests",
    "find-node-flood",
    "forged-blocks",
    "broken-promises",
    "far-votes",
    "forged-checkpoints",
    "deep-json",
    "half-headers",
    "one-key-flood",
)
BLOCKS = 12
ORDERS_PER_S = 10


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("home") / "clusters" / "fleet"
    with setting.running(folder, first_ports=live_cluster.port_block()) as made:
        yield made


def test_a_dozen_attacks_at_once_stop_nothing(cluster: Cluster) -> None:
    pids = pids_of(cluster)
    logs = {member.name: Log(cluster.log_path(member.name)) for member in cluster.members}
    genesis = Target.of(cluster.folder).genesis
    honest = Honest(cluster.members, genesis, ORDERS_PER_S)
    with client_of(cluster, "n3") as client:
        setting.enrol_hostile(client, genesis)
        honest.enrol(client, 0, 60)
    attackers = Attackers(cluster.folder, CHOSEN)
    try:
        attackers.prepare()
        honest.start()
        attackers.go()
        wait_progress(cluster, blocks=BLOCKS)
        for member in cluster.members:
            wait_until(f"{member.name} is healthy", lambda port=member.api_port: answers(port))
        attackers.stop()
        honest.stop()
    finally:
        attackers.kill()
        honest.stop()
    assert pids_of(cluster) == pids
    failed = [(name, each) for name, found in attackers.outcomes.items() for each in found]
    assert not [one for one in failed if one[1].startswith("FAILED")]
    assert set(attackers.outcomes) == set(CHOSEN)
    assert attackers.sent_bytes > 1 << 20
    taken = [one for one in honest.sent if not one.refused]
    assert taken == honest.sent
    wait_until("honest orders are final", lambda: all_final(cluster, honest))
    wait_progress(cluster)
    assert_same_state(cluster)
    assert {name: log.faults() for name, log in logs.items()} == {name: [] for name in logs}


def answers(port: int) -> bool:
    return probe(port) is not None


def all_final(cluster: Cluster, honest: Honest) -> bool:
    """Whether each sampled order is in a block of the node that took it."""
    for one in honest.sent[:: max(1, len(honest.sent) // 20)]:
        with client_of(cluster, one.node) as client:
            if client.transaction_status(one.order.id.hex()).status != "finalized":
                return False
    return True


def test_the_chosen_ones_attack_every_door() -> None:
    doors = {ATTACKS[name].door for name in CHOSEN}
    assert doors >= {"port", "yamux", "status", "requests", "dht", "gossip", "http", "chain"}
