"""Metrics of stake, votes and messages between chains, read from the national chain's state.

Like those of `metrics`: from the frozen views, at the moment of a scrape.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric

from gridtokenx.governance.model import NEWEST, PROPOSALS, ProposalStatus
from gridtokenx.interchain import checkpoints
from gridtokenx.interchain.log import log_to
from gridtokenx.interchain.model import RegionStatus
from gridtokenx.primitives.state import u64
from gridtokenx.staking import pools
from gridtokenx.staking.model import VALIDATORS
from gridtokenx.views.status import ChainStatus

UGTX_PER_GTX = 1_000_000
_WAITING = (ProposalStatus.VOTING, ProposalStatus.QUEUED)


class NationalMetrics:
    """Remembers proposals that have ended: what they became never changes."""

    def __init__(self) -> None:
        self._ended: dict[int, ProposalStatus] = {}

    def collect(self, chains: Mapping[str, ChainStatus]) -> Iterator[Metric]:
        """Families without samples where no national chain is followed."""
        national = [status for status in chains.values() if status.spec.is_national]
        proposals = GaugeMetricFamily(
            "gridtokenx_governance_proposals", "Proposals by status", labels=["status"]
        )
        for status in national:
            for state, count in self._proposals(status).items():
                proposals.add_metric([state.value], count)
        yield proposals
        yield from _stake(national)
        yield from _regions(national, chains)

    def _proposals(self, status: ChainStatus) -> dict[ProposalStatus, int]:
        newest = NEWEST.get(status.view, b"")
        counts = dict.fromkeys(ProposalStatus, 0)
        for number in range(1, newest.number + 1 if newest else 1):
            known = self._ended.get(number)
            if known is None:
                entry = PROPOSALS.get(status.view, u64(number))
                if entry is None:
                    continue
                known = entry.status
                if known not in _WAITING:
                    self._ended[number] = known
            counts[known] += 1
        return counts


def _stake(national: Sequence[ChainStatus]) -> Iterator[Metric]:
    """Bonded gtx, weights by validator (at most 128 sign), and how many are jailed."""
    bonded = GaugeMetricFamily("gridtokenx_staking_bonded_gtx", "gtx bonded to all validators")
    weights = GaugeMetricFamily(
        "gridtokenx_validator_weight", "Weight in the set that signs now", labels=["chain", "key"]
    )
    jailed = GaugeMetricFamily("gridtokenx_validators_jailed", "Validators in jail or excluded")
    known = GaugeMetricFamily("gridtokenx_validators", "Validators and candidates")
    for status in national:
        bonded.add_metric([], pools.total_bonded_ugtx(status.view) / UGTX_PER_GTX)
        for member in status.validators.members:
            name = member.public_key.hex()[:16]
            weights.add_metric([status.spec.name, name], member.weight)
        entries = [entry for _, entry in VALIDATORS.items(status.view)]
        jailed.add_metric([], sum(entry.is_jailed for entry in entries))
        known.add_metric([], len(entries))
    yield from (bonded, weights, jailed, known)


def _regions(
    national: Sequence[ChainStatus], chains: Mapping[str, ChainStatus]
) -> Iterator[Metric]:
    """Of each region: its status, its last checkpoint, the messages that wait both ways, and how
    many checkpoints this node has sent.
    """
    states = GaugeMetricFamily(
        "gridtokenx_region_status", "1 for the status a region has", labels=["region", "status"]
    )
    heights = GaugeMetricFamily(
        "gridtokenx_region_checkpoint_height", "Height of the last checkpoint", labels=["region"]
    )
    ages = GaugeMetricFamily(
        "gridtokenx_region_checkpoint_age_blocks",
        "National blocks since the last checkpoint; after 60 the region is paused",
        labels=["region"],
    )
    queues = GaugeMetricFamily(
        "gridtokenx_region_queue",
        "Messages that wait: down for the region, up for the national chain",
        labels=["region", "direction"],
    )
    sent = CounterMetricFamily(
        "gridtokenx_region_checkpoints_sent",
        "Checkpoints of a region that this node has brought to the national chain since its start",
        labels=["region"],
    )
    seen = [(one, region) for one in national for region in checkpoints.regions(one.view)]
    for status, region in seen:
        now = region.status(status.head.height)
        for state in RegionStatus:
            states.add_metric([region.name, state.value], int(state is now))
        heights.add_metric([region.name], region.height)
        ages.add_metric([region.name], status.head.height - region.seen_height)
        down = log_to(status.view, region.name).count - region.inbox_next
        queues.add_metric([region.name, "down"], down)
        followed = chains.get(region.name)
        if followed is not None:
            up = log_to(followed.view, status.spec.name).count - region.outbox_count
            queues.add_metric([region.name, "up"], max(0, up))
            sent.add_metric([region.name], followed.checkpoints_sent)
    yield from (states, heights, ages, queues, sent)
