"""Metrics and logs of a node.

The seed's four metric names are exact. `consensus_rounds` is a gauge because prometheus_client
appends `_total` to every counter's name. Chain values are read when Prometheus asks, from the same
frozen views as the API's, so no two places can disagree. Source: docs/api.md "Health".
"""

from __future__ import annotations

import logging
import logging.handlers
import platform
import sys
import time
from collections import deque
from collections.abc import Iterator, MutableMapping, Sequence
from io import StringIO
from pathlib import Path
from typing import Any, TextIO, get_args

import structlog
from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from gridtokenx.home.settings import LoggingSettings
from gridtokenx.runtime.housekeeping import house
from gridtokenx.runtime.private_files import make_folder, open_private
from gridtokenx.runtime.screen import lines, printable
from gridtokenx.storage.index import load_totals
from gridtokenx.views.national_metrics import NationalMetrics
from gridtokenx.views.status import ChainStatus, NetworkStatus, NodeHandle, PeerStatus, SyncState

SYNC_STATES = get_args(SyncState)
SCORE_LIMITS = (-80.0, -40.0, -20.0, -10.0, 0.0, 10.0, 20.0, 40.0)  # gossip's thresholds and cap
MIB = 1024 * 1024
RECENT_LINES = 200
RECENT_CHARACTERS = 2_000
_NOISY_LIBRARIES = ("libp2p", "asyncio", "aiohttp", "multiaddr")


class NodeCollector(Collector):
    """Chain, market and network values of a node at the moment of a scrape."""

    def __init__(self, handle: NodeHandle) -> None:
        self._handle = handle
        self._national = NationalMetrics()

    def describe(self) -> list[Metric]:
        """Nothing: registering must not need a chain to be open."""
        return []

    def collect(self) -> Iterator[Metric]:
        handle = self._handle
        peers = GaugeMetricFamily("gridtokenx_network_peers", "Connected peers")
        peers.add_metric([], len(handle.peers()))
        yield peers
        build = GaugeMetricFamily(
            "gridtokenx_build_info", "Always 1", labels=["version", "python", "role"]
        )
        build.add_metric([handle.version, platform.python_version(), handle.role], 1)
        yield build
        lag = GaugeMetricFamily(
            "gridtokenx_loop_lag_worst_seconds",
            "Worst delay of the loop that serves network and consensus, in the last minute",
        )
        lag.add_metric([], handle.health().worst_lag_ms / 1000)
        yield lag
        yield from _connections(handle.network())
        yield from _gossip(handle.peers(), handle.network())
        chains = list(handle.chains().values())
        yield from _chain_gauges(chains)
        yield from _chain_counters(chains)
        yield _sync_states(chains)
        yield from self._national.collect(handle.chains())
        failures = CounterMetricFamily(
            "gridtokenx_housekeeping_failures",
            "Rounds of work on the side that failed; the node went on",
            labels=["task"],
        )
        for task, count in sorted(house.failures.items()):
            failures.add_metric([task], count)
        yield failures


def _connections(network: NetworkStatus) -> Iterator[Metric]:
    """Who dialled whom, and who is refused."""
    directions = GaugeMetricFamily(
        "gridtokenx_network_connections",
        "Connected peers, also of other networks, by who dialled",
        labels=["direction"],
    )
    spent = CounterMetricFamily(
        "gridtokenx_network_strangers_cpu_seconds",
        "CPU that peers whom no validator vouches for have cost",
    )
    spent.add_metric([], network.strangers_cpu_s)
    yield spent
    price = GaugeMetricFamily(
        "gridtokenx_network_strangers_price",
        "What a CPU second costs them of their budget; above 1 while the loop runs late",
    )
    price.add_metric([], network.strangers_price)
    yield price
    directions.add_metric(["inbound"], network.inbound)
    directions.add_metric(["outbound"], network.outbound)
    yield directions
    bans = GaugeMetricFamily("gridtokenx_network_bans", "Peers and addresses refused now")
    bans.add_metric([], len(network.bans))
    yield bans
    made = CounterMetricFamily(
        "gridtokenx_network_bans_made", "Bans made since the start", labels=["reason"]
    )
    for reason, count in sorted(network.bans_made.items()):
        made.add_metric([reason], count)
    yield made


def _gossip(peers: Sequence[PeerStatus], network: NetworkStatus) -> Iterator[Metric]:
    """Scores of the peers that are there now, and what gossip has counted since the start."""
    totals = [peer.gossip["total"] for peer in peers if peer.gossip]
    scores = HistogramMetricFamily("gridtokenx_gossip_score", "Gossip scores of connected peers")
    below = [(str(limit), sum(total <= limit for total in totals)) for limit in SCORE_LIMITS]
    scores.add_metric([], buckets=[*below, ("+Inf", len(totals))], sum_value=sum(totals))
    yield scores
    lowest = GaugeMetricFamily("gridtokenx_gossip_score_min", "Lowest gossip score of a peer")
    lowest.add_metric([], min(totals, default=0.0))
    yield lowest
    events = CounterMetricFamily(
        "gridtokenx_gossip_events", "What gossip has counted, by reason", labels=["event"]
    )
    for event, count in sorted(network.gossip_events.items()):
        events.add_metric([event], count)
    yield events


def _chain_gauges(chains: list[ChainStatus]) -> Iterator[Metric]:
    now_ms = time.time_ns() // 1_000_000
    rows = {
        "gridtokenx_blockchain_height": ("Current blockchain height", _height),
        "gridtokenx_finalized_height": ("Height of the newest final block", _height),
        "gridtokenx_consensus_rounds": (
            "Consensus rounds completed: heights decided and views that timed out",
            lambda status: status.head.height + status.timeouts,
        ),
        "gridtokenx_consensus_view": (
            "View of the height in progress",
            lambda status: status.consensus_view,
        ),
        "gridtokenx_mempool_transactions": (
            "Transactions that wait for a block",
            lambda status: status.mempool_transactions,
        ),
        "gridtokenx_sync_target_height": (
            "Highest height heard of",
            lambda status: status.sync_target,
        ),
        "gridtokenx_chain_incarnation": (
            "Which incarnation of the chain runs here: 1 is that of the genesis",
            lambda status: status.spec.incarnation,
        ),
        "gridtokenx_block_age_seconds": (
            "Age of the newest block by this node's clock",
            lambda status: max(0, now_ms - status.head.time_ms) / 1000,
        ),
        "gridtokenx_finality_seconds": (
            "Median of recent times from a block's time to its decision",
            _median_finality_s,
        ),
    }
    for name, (text, read) in rows.items():
        family = GaugeMetricFamily(name, text, labels=["chain"])
        for status in chains:
            family.add_metric([status.spec.name], read(status))
        yield family


def _height(status: ChainStatus) -> int:
    return status.head.height


def _median_finality_s(status: ChainStatus) -> float:
    times = sorted(status.finality_ms)
    return times[len(times) // 2] / 1000 if times else 0.0


def _chain_counters(chains: list[ChainStatus]) -> Iterator[Metric]:
    rows = {
        "gridtokenx_energy_trades": ("Total energy trades", "trades"),
        "gridtokenx_energy_traded_wh": ("Energy matched, Wh", "traded_wh"),
        "gridtokenx_energy_delivered_wh": ("Traded energy delivered, Wh", "delivered_wh"),
        "gridtokenx_energy_shortfall_wh": ("Traded energy not delivered, Wh", "shortfall_wh"),
        "gridtokenx_energy_minted_wh": ("Energy minted by meter readings, Wh", "minted_wh"),
        "gridtokenx_energy_orders": ("Orders placed", "orders"),
        "gridtokenx_transactions": ("Transactions included", "transactions"),
    }
    totals = [(status.spec.name, load_totals(status.view)) for status in chains]
    for name, (text, attribute) in rows.items():
        family = CounterMetricFamily(name, text, labels=["chain"])
        for chain, sums in totals:
            family.add_metric([chain], getattr(sums, attribute))
        yield family
    convictions = CounterMetricFamily(
        "gridtokenx_equivocations", "Validators seen contradicting themselves", labels=["chain"]
    )
    for status in chains:
        convictions.add_metric([status.spec.name], status.equivocations)
    yield convictions


def _sync_states(chains: list[ChainStatus]) -> Metric:
    family = GaugeMetricFamily(
        "gridtokenx_sync_state", "1 for the state a chain is in", labels=["chain", "state"]
    )
    for status in chains:
        for state in SYNC_STATES:
            family.add_metric([status.spec.name, state], int(state == status.sync_state))
    return family


class CallMetrics:
    """Counts and times API calls. `method` is a name of the handler table, never free text."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._calls = Counter(
            "gridtokenx_rpc_requests_total",
            "API calls by method and result (0: answered, else the error code)",
            ["method", "code"],
            registry=registry,
        )
        self._seconds = Histogram(
            "gridtokenx_rpc_seconds", "Time of API calls", ["method"], registry=registry
        )

    def observe(self, method: str, code: int, seconds: float) -> None:
        """One call."""
        self._calls.labels(method, str(code)).inc()
        self._seconds.labels(method).observe(seconds)

    def close(self) -> None:
        """Take the metrics out of the registry."""
        self._registry.unregister(self._calls)
        self._registry.unregister(self._seconds)


def configure_logging(settings: LoggingSettings, file_path: Path | None = None) -> None:
    """Send structlog and standard logging (libp2p's) to stderr, and to a rotating file.

    `file_path` None: no file, whatever the settings say. Undone by `close_logging`.
    """
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(_level(settings.level)),
        cache_logger_on_first_use=False,
    )
    close_logging()
    root = logging.getLogger()
    root.setLevel(_level(settings.level))
    for library in _NOISY_LIBRARIES:  # What they report at INFO is DEBUG to an operator.
        logger = logging.getLogger(library)
        logger.setLevel(max(logging.WARNING, _level(settings.level)))
        logger.propagate = True  # libp2p turns this off when it is imported.
    console = _Console(sys.stderr)
    pretty = settings.format == "pretty"
    console.setFormatter(_formatter(shared, pretty, colors=pretty and sys.stderr.isatty()))
    root.addHandler(console)
    recent = _Recent()
    recent.setFormatter(_formatter(shared, pretty=False, colors=False))
    root.addHandler(recent)
    if settings.file_logging.enabled and file_path is not None:
        make_folder(file_path.parent)
        file = _File(
            file_path,
            maxBytes=settings.file_logging.max_mib * MIB,
            backupCount=settings.file_logging.keep,
            encoding="utf-8",
        )
        file.setFormatter(_formatter(shared, pretty=False, colors=False))
        root.addHandler(file)


class _Console(logging.StreamHandler[Any]):
    """A terminal or pipe that is gone costs its line."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the library's name
        _note("log stream")


class _File(logging.handlers.RotatingFileHandler):
    """A log that only its owner reads: it tells what the API hides. A full disk, or a folder that
    is gone, costs the line, not a traceback for each.
    """

    def _open(self) -> Any:
        return open_private(Path(self.baseFilename), "a")

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the library's name
        _note("log file")


def _note(task: str) -> None:
    """Called while the error is handled."""
    error = sys.exc_info()[1]
    if error is not None:
        house.note_of_log(task, error)


class _Recent(logging.Handler):
    """The last lines, for a crash report; without what other handlers did with their colours."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: deque[str] = deque(maxlen=RECENT_LINES)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self.lines.append(self.format(record)[:RECENT_CHARACTERS])
        except Exception:  # noqa: BLE001 - as every handler does
            self.handleError(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the library's name
        _note("log lines")


def recent_lines() -> list[str]:
    """The last lines of the log, the oldest first."""
    found = [one for one in logging.getLogger().handlers if isinstance(one, _Recent)]
    return [line for one in found for line in list(one.lines)]


def close_logging() -> None:
    """Remove and close the root logger's handlers."""
    root = logging.getLogger()
    for handler in list(root.handlers):
        root.removeHandler(handler)
        handler.close()


def _formatter(shared: list[Any], pretty: bool, colors: bool) -> logging.Formatter:
    renderer: Any = (
        structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=_traceback)
        if pretty
        else structlog.processors.JSONRenderer()
    )
    closing: list[Any] = [structlog.stdlib.ProcessorFormatter.remove_processors_meta]
    # JSON is ASCII; on a terminal a peer's words must not be more than words.
    closing.append(_escape if pretty else structlog.processors.format_exc_info)
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared, processors=[*closing, renderer]
    )


def _escape(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> dict[str, Any]:
    """What is not quoted by the renderer: texts as they are, and stacks of several lines."""
    several = {"stack", "exception"}
    return {
        key: (lines if key in several else printable)(value) if isinstance(value, str) else value
        for key, value in event.items()
    }


def _traceback(out: TextIO, exc_info: Any) -> None:
    plain = StringIO()
    structlog.dev.plain_traceback(plain, exc_info)
    out.write(lines(plain.getvalue()))


def _level(name: str) -> int:
    return {
        "debug": logging.DEBUG,
        "info": logging.INFO,
        "warning": logging.WARNING,
        "error": logging.ERROR,
    }[name]
