"""Traffic of all regions on the gossip simulation, and its figures.

A region carries about a thousand orders a second: batches of 64 and 256 KiB (200 bytes an order), a
compact block of 10,000 transaction ids every ten seconds, two votes of each authority for it.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

from tests.support.simulator.gossip_links import REGIONS
from tests.support.simulator.gossip_world import MS, PREFIX, GossipWorld, Settings, shared_encoding

WARM_UP_S, SETTLE_S = 15, 15
VOTE_BYTES = 200
SMALL_BATCH_BYTES, LARGE_BATCH_BYTES = 64 * 1024, 256 * 1024
BLOCK_BYTES = 320_000
BLOCK_EVERY_S = 10
STAGGER_MS = 1_500  # Between the regions' slots.
VOTE_AFTER_MS = (400, 700)  # PREPARE and COMMIT, after the proposal.
VOTE_SPREAD_MS = 100
KINDS = ("votes", "blocks", "orders 64 KiB", "orders 256 KiB")


def measure(settings: Settings, load_s: int) -> dict[str, Any]:
    """Play `load_s` seconds of traffic and let it settle; the figures."""
    started = time.process_time()
    with shared_encoding():
        world = GossipWorld(settings)
        world.run(WARM_UP_S * 1_000 * MS)
        before = list(world.sent_bytes)
        add_traffic(world, load_s)
        world.run(load_s * 1_000 * MS)
        load_bytes = [after - one for one, after in zip(before, world.sent_bytes, strict=True)]
        world.run(SETTLE_S * 1_000 * MS)
    figures = report(world)
    rates = [8 * one // load_s // 1_000 for one in load_bytes]
    figures["upload_kbit_per_s"] = _spread(rates)
    figures["authority_upload_kbit_per_s"] = _spread([rates[n] for n in world.authorities])
    figures["cpu_seconds"] = round(time.process_time() - started, 1)
    return figures


def add_traffic(world: GossipWorld, load_s: int) -> None:
    """Schedule all regions' messages of the next `load_s` seconds."""
    draw = world.random
    for number, region in enumerate(REGIONS):
        members = [n for n, place in enumerate(world.places) if place == region]
        for slot, second in enumerate(range(0, load_s, BLOCK_EVERY_S)):
            opens_ms = second * 1_000 + number * STAGGER_MS
            leader = world.authorities[(slot + number) % len(world.authorities)]
            world.publish(opens_ms * MS, leader, region, "blocks", BLOCK_BYTES)
            for after_ms in VOTE_AFTER_MS:
                for voter in world.authorities:
                    at_ms = opens_ms + after_ms + draw.randrange(VOTE_SPREAD_MS)
                    world.publish(at_ms * MS, voter, region, "votes", VOTE_BYTES)
        for second in range(load_s):
            at_us = second * 1_000 * MS + draw.randrange(1_000 * MS)
            sender = draw.choice(members)
            world.publish(at_us, sender, region, KINDS[2], SMALL_BATCH_BYTES)
            if second % 2:
                sender = draw.choice(members)
                world.publish(at_us, sender, region, KINDS[3], LARGE_BATCH_BYTES)


def report(world: GossipWorld) -> dict[str, Any]:
    """Figures of a world that has settled."""
    settings = world.settings
    counters = sum((router.counters for router in world.routers), Counter())
    message_bytes = sum(one.bytes for one in world.published)
    topics = [f"{PREFIX}{region}/votes" for region in REGIONS]
    degrees = [
        len(router.mesh(topic))
        for router in world.routers
        for topic in topics
        if topic in router.subscriptions
    ]
    return {
        "nodes": settings.nodes,
        "seed": settings.seed,
        "authorities": len(world.authorities),
        "loss": f"{settings.loss_chance:.0%} {settings.loss.value}",
        "dials": "half in the own region" if settings.regional else "anywhere",
        "kinds": {kind: _kind(world, kind) for kind in world.latencies_us},
        "delivery_ratio": _ratio(world),
        "control_share": round(world.control_bytes / (message_bytes + world.control_bytes), 4),
        "control_bytes_per_node_and_s": round(
            world.control_bytes / settings.nodes / (world.now_us / 1e6)
        ),
        "mesh_degree": _spread(degrees),
        "connections": _spread(_degrees(world)),
        "iwant_answered": counters["iwant_ids_answered"],
        "duplicates_suppressed": counters["suppressed_by_idontwant"],
        "lost_frames": world.lost_frames,
        "queue_peak_kib": max(uplink.peak_bytes for uplink in world.uplinks) >> 10,
        "queue_dropped": sum(uplink.dropped for uplink in world.uplinks),
        "blamed": dict(world.blamed),
        "events": world.events,
        "hash": world.digest.hexdigest()[:16],
    }


def _ratio(world: GossipWorld) -> float:
    expected = sum(one.expected for one in world.published)
    return sum(one.delivered for one in world.published) / expected


def _kind(world: GossipWorld, kind: str) -> dict[str, Any]:
    messages = [one for one in world.published if one.kind == kind]
    delivered = sum(one.delivered for one in messages)
    copies, sent = sum(one.copies for one in messages), sum(one.bytes for one in messages)
    times_us = sorted(world.latencies_us[kind])
    return {
        "messages": len(messages),
        "missing": sum(one.expected - one.delivered for one in messages),
        "p50_ms": _percentile(times_us, 50) // MS,
        "p99_ms": _percentile(times_us, 99) // MS,
        "max_ms": times_us[-1] // MS,
        "duplicates": round((copies - delivered) / delivered, 2),
        "bytes_per_node": round(sent / delivered),
    }


def _percentile(ordered: Sequence[int], percent: int) -> int:
    return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)]


def _degrees(world: GossipWorld) -> list[int]:
    counted = Counter(node for node, _ in world.links)
    return [counted[node] for node in range(world.settings.nodes)]


def _spread(values: Sequence[int]) -> dict[str, float]:
    mean = round(sum(values) / len(values), 1)
    return {"least": min(values), "mean": mean, "most": max(values)}
