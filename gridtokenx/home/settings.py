"""The schema of `config.toml`: sections, names, defaults, limits and one line of help for each.

Kept apart from `config.py` (which layers the sources) so that the template, `config show` and the
loader read one table. Consensus parameters are not here: they come from genesis, and `[energy]`
and `[thai_market]` are local defaults for people's tools, never rules of the chain.

Source: docs/node-operation.md "Settings". The seed's sections and names are kept exactly.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields
from decimal import Decimal
from typing import Annotated, Any, get_type_hints

from gridtokenx.network.peers import addresses
from gridtokenx.primitives.errors import Rejected

NODE_TYPES = ("validator", "trader", "observer", "grid_operator", "authority")
AUTHORITIES = ("egat", "mea", "pea", "erc")
LOG_LEVELS = ("debug", "info", "warning", "error")

_REGION = re.compile(r"[A-Z]{3}")


def _trusted_block(text: str) -> object:
    from gridtokenx.chain.trust import parse_trusted_block  # Not needed by most who read settings.

    try:
        return parse_trusted_block(text)
    except Rejected as error:
        raise ValueError(error.detail) from None


@dataclass(frozen=True, slots=True)
class Rule:
    """What a value must be. `low` and `high` are inclusive.

    `matches` and `read` apply to each text; `read` is what the node itself reads it with, and
    raises ValueError.
    """

    help: str
    low: int | Decimal | None = None
    high: int | Decimal | None = None
    choices: tuple[str, ...] = ()
    matches: re.Pattern[str] | None = None
    read: Callable[[str], object] | None = None
    example: str = ""
    max_items: int = 64


@dataclass(frozen=True, slots=True)
class NodeSettings:
    """Who this node is and where it keeps its things."""

    node_id: Annotated[
        str,
        Rule(
            "name of this node, shown to people and in logs",
            matches=re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"),
            example="gridtokenx-node-001",
        ),
    ] = "gridtokenx-node-001"
    node_type: Annotated[str, Rule("role of this node", choices=NODE_TYPES)] = "observer"
    authority: Annotated[
        str,
        Rule(
            "energy authority this node belongs to; its preset fills what is not set here",
            choices=(*AUTHORITIES, ""),
        ),
    ] = ""
    data_dir: Annotated[str, Rule("folder of blocks, state and the safety record")] = "./data"
    key: Annotated[
        str,
        Rule(
            "name of the key in keys/ that signs votes (validator and authority only)",
            matches=re.compile(r"[a-z0-9][a-z0-9_-]{0,63}"),
            example="validator",
        ),
    ] = "validator"
    password_file: Annotated[str, Rule("file with the password of the keys (mode 0600)")] = ""
    min_free_disk_mib: Annotated[
        int, Rule("MiB of free disk below which the node stops cleanly", low=0, high=2**20)
    ] = 1024
    admin_faults: Annotated[
        bool, Rule("let the admin socket cut and delay links of this node (test networks only)")
    ] = False


@dataclass(frozen=True, slots=True)
class NetworkSettings:
    """Which network, which chains of it, and how peers are reached."""

    network_name: Annotated[
        str,
        Rule(
            "name of the network; genesis must say the same",
            matches=re.compile(r"[a-z0-9][a-z0-9-]{0,63}"),
            example="gridtokenx-testnet",
        ),
    ] = "gridtokenx-local"
    network_id: Annotated[int, Rule("number of the network", low=1, high=2**31 - 1)] = 1001
    max_peers: Annotated[int, Rule("most peers at one time", low=1, high=1000)] = 50
    max_inbound: Annotated[
        int,
        Rule("most peers that dialled this node; 0: four fifths of max_peers", low=0, high=1000),
    ] = 0
    max_outbound: Annotated[
        int, Rule("most peers that this node dials on its own", low=1, high=1000)
    ] = 20
    max_connections_per_ip: Annotated[
        int,
        Rule("connections from one address (IPv4, IPv6 /64) at a time", low=1, high=1000),
    ] = 16
    limit_loopback: Annotated[
        bool, Rule("limit and ban addresses of this machine too, which test networks share")
    ] = False
    allow: Annotated[
        tuple[str, ...],
        Rule(
            "peer ids that may connect besides bootnodes and persistent ones; empty: everybody",
            read=addresses.parse_peer_id,
            example="12D3KooW...",
        ),
    ] = ()
    min_peers: Annotated[int, Rule("peers below which /ready says no", low=0, high=1000)] = 1
    listen: Annotated[
        tuple[str, ...],
        Rule(
            "addresses to listen on", read=addresses.parse_listen, example="/ip4/0.0.0.0/tcp/9000"
        ),
    ] = ("/ip4/0.0.0.0/tcp/9000",)
    announce: Annotated[
        tuple[str, ...],
        Rule(
            "addresses told to others; needed behind NAT and in containers",
            read=addresses.parse_announced,
            example="/dns4/node.example/tcp/9000",
        ),
    ] = ()
    bootstrap: Annotated[
        tuple[str, ...],
        Rule(
            "bootnodes, the first peers to ask for others",
            read=addresses.parse_peer,
            example="/ip4/192.0.2.1/tcp/9000/p2p/12D3KooW...",
        ),
    ] = ()
    mdns: Annotated[
        bool, Rule("find the network's nodes in the local network (multicast DNS), and be found")
    ] = False
    persistent: Annotated[
        tuple[str, ...],
        Rule(
            "peers to stay connected to",
            read=addresses.parse_peer,
            example="/ip4/192.0.2.1/tcp/9000/p2p/12D3KooW...",
        ),
    ] = ()
    dial_private: Annotated[
        str,
        Rule(
            "dial private and loopback addresses that others tell; auto: those of a kind that "
            "listen, announce, bootstrap or persistent have too",
            choices=("auto", "yes", "no"),
        ),
    ] = "auto"
    psk_file: Annotated[
        str, Rule("key file of a private network (swarm.key); empty: an open network")
    ] = ""
    regions: Annotated[
        tuple[str, ...],
        Rule(
            "region chains to follow beside the national one; empty: all",
            matches=_REGION,
            example="MET",
        ),
    ] = ()


@dataclass(frozen=True, slots=True)
class ConsensusSettings:
    """What this node does of its role. Consensus parameters come from genesis, not from here."""

    propose: Annotated[bool, Rule("propose blocks when it is this validator's turn")] = True
    vote: Annotated[bool, Rule("vote on blocks")] = True
    max_clock_offset_ms: Annotated[
        int,
        Rule("clock difference to validators beyond which one stops proposing", low=1, high=60000),
    ] = 2000


@dataclass(frozen=True, slots=True)
class SyncSettings:
    """What of the past this node believes without proof (docs/node-operation.md)."""

    trusted_blocks: Annotated[
        tuple[str, ...],
        Rule(
            "blocks that must be in the history, as `gridtokenx chain head` tells them",
            read=_trusted_block,
            example="TH:120960:9c1e...42",
        ),
    ] = ()
    trust_old_blocks: Annotated[
        bool,
        Rule(
            "start from blocks older than the unbonding time (test networks, or after a standstill)"
        ),
    ] = False


@dataclass(frozen=True, slots=True)
class EnergySettings:
    """Defaults of this home, in kWh; the chain's values count: `config show` and the log tell."""

    energy_token_ratio: Annotated[
        Decimal, Rule("tokens per kWh", low=Decimal("0.001"), high=Decimal(1000))
    ] = Decimal("1.0")
    min_trade_amount: Annotated[
        Decimal, Rule("smallest order, kWh", low=Decimal("0.001"), high=Decimal(10**9))
    ] = Decimal("0.1")
    max_trade_amount: Annotated[
        Decimal, Rule("largest order, kWh", low=Decimal("0.001"), high=Decimal(10**9))
    ] = Decimal("10000.0")


@dataclass(frozen=True, slots=True)
class PeakHoursSettings:
    """Hours in Asia/Bangkok (UTC+7); the chain's values count, as with `energy`."""

    start_hour: Annotated[int, Rule("first hour of the peak", low=0, high=23)] = 18
    end_hour: Annotated[int, Rule("hour at which the peak ends", low=1, high=24)] = 22
    pricing_multiplier: Annotated[
        Decimal, Rule("peak price over base price", low=Decimal("0.1"), high=Decimal(100))
    ] = Decimal("1.5")


@dataclass(frozen=True, slots=True)
class ThaiMarketSettings:
    """Local defaults about the Thai market."""

    peak_hours: PeakHoursSettings = field(default_factory=PeakHoursSettings)


@dataclass(frozen=True, slots=True)
class ApiSettings:
    """The one TCP port of REST, JSON-RPC and metrics."""

    host: Annotated[
        str, Rule("address to serve on", matches=re.compile(r"\S{1,253}"), example="127.0.0.1")
    ] = "127.0.0.1"
    port: Annotated[int, Rule("port to serve on; 0: any free port", low=0, high=65535)] = 8080
    hosts: Annotated[
        tuple[str, ...],
        Rule(
            "Host headers accepted, so that a web page cannot drive this node; * takes any",
            matches=re.compile(r"[^\s/]{1,253}"),
            example="node.example",
        ),
    ] = ("localhost", "127.0.0.1", "[::1]")
    cors: Annotated[
        tuple[str, ...],
        Rule(
            "web origins that may read answers",
            matches=re.compile(r"https?://[^\s/]+"),
            example="https://app.example",
        ),
    ] = ()
    max_batch: Annotated[int, Rule("calls in one JSON-RPC batch", low=1, high=1000)] = 50
    max_body_kib: Annotated[int, Rule("KiB of one request", low=1, high=65536)] = 1024
    max_response_kib: Annotated[int, Rule("KiB of one response", low=1, high=262144)] = 10240
    call_timeout_ms: Annotated[int, Rule("time one call may take", low=1, high=600000)] = 5000
    rate_per_second: Annotated[
        int, Rule("calls a second per client (IPv4 address, IPv6 /64)", low=1, high=10**6)
    ] = 50
    trusted_proxies: Annotated[
        tuple[str, ...],
        Rule(
            "addresses or networks of reverse proxies, whose X-Forwarded-For names the client",
            matches=re.compile(r"[0-9a-fA-F.:]{2,45}(/[0-9]{1,3})?"),
            example="127.0.0.1",
        ),
    ] = ()
    local_signer: Annotated[
        str,
        Rule(
            "key that signs unsigned orders posted from this machine (development)",
            matches=re.compile(r"|[a-z0-9][a-z0-9_-]{0,63}"),
            example="account",
        ),
    ] = ""
    public: Annotated[
        bool, Rule("I know that RPC of this validator can be reached from other machines")
    ] = False


@dataclass(frozen=True, slots=True)
class MetricsSettings:
    """Prometheus metrics at /metrics on the API port."""

    enabled: Annotated[bool, Rule("serve /metrics")] = True


@dataclass(frozen=True, slots=True)
class FileLoggingSettings:
    """A copy of the log in a file that rotates."""

    enabled: Annotated[bool, Rule("write the log to a file too")] = True
    file_path: Annotated[str, Rule("the file")] = "./logs/gridtokenx.log"
    max_mib: Annotated[int, Rule("MiB at which a new file is begun", low=1, high=10240)] = 100
    keep: Annotated[int, Rule("old files kept", low=0, high=1000)] = 5


@dataclass(frozen=True, slots=True)
class LoggingSettings:
    """What is logged and how."""

    level: Annotated[str, Rule("least important level shown", choices=LOG_LEVELS)] = "info"
    format: Annotated[str, Rule("form of a line", choices=("pretty", "json"))] = "pretty"
    file_logging: FileLoggingSettings = field(default_factory=FileLoggingSettings)


@dataclass(frozen=True, slots=True)
class GenesisSettings:
    """The first state of the network."""

    file: Annotated[str, Rule("genesis file")] = "./genesis.json"
    hash: Annotated[
        str,
        Rule(
            "hash the file must have, 64 hex digits; empty: not checked",
            matches=re.compile(r"|[0-9a-f]{64}"),
            example="9c1e...42",
        ),
    ] = ""


@dataclass(frozen=True, slots=True)
class Settings:
    """Every value a node is configured by, complete and checked."""

    node: NodeSettings = field(default_factory=NodeSettings)
    network: NetworkSettings = field(default_factory=NetworkSettings)
    consensus: ConsensusSettings = field(default_factory=ConsensusSettings)
    sync: SyncSettings = field(default_factory=SyncSettings)
    energy: EnergySettings = field(default_factory=EnergySettings)
    thai_market: ThaiMarketSettings = field(default_factory=ThaiMarketSettings)
    api: ApiSettings = field(default_factory=ApiSettings)
    metrics: MetricsSettings = field(default_factory=MetricsSettings)
    logging: LoggingSettings = field(default_factory=LoggingSettings)
    genesis: GenesisSettings = field(default_factory=GenesisSettings)


@dataclass(frozen=True, slots=True)
class Setting:
    """One row of the schema: dotted key, default (its type is the value's type) and rule."""

    key: str
    default: Any
    rule: Rule

    @property
    def section(self) -> str:
        return self.key.rpartition(".")[0]

    @property
    def name(self) -> str:
        return self.key.rpartition(".")[2]


def _rows(section: Any, prefix: str) -> Iterator[Setting]:
    """The settings of a section, then of its subsections, as TOML wants tables."""
    hints = get_type_hints(type(section), include_extras=True)
    nested = []
    for item in fields(section):
        value = getattr(section, item.name)
        if rules := getattr(hints[item.name], "__metadata__", ()):
            yield Setting(prefix + item.name, value, rules[0])
        else:
            nested.append((value, prefix + item.name))
    for value, path in nested:
        SECTIONS[path] = (type(value).__doc__ or "").strip()
        yield from _rows(value, f"{path}.")


SECTIONS: dict[str, str] = {}  # "thai_market.peak_hours" -> its sentence, in template order
SETTINGS: dict[str, Setting] = {row.key: row for row in _rows(Settings(), "")}


def build(values: dict[str, Any]) -> Settings:
    """Settings from a complete map of dotted keys to checked values."""

    def make(section: Any, prefix: str) -> Any:
        made = {}
        for item in fields(section):
            key = prefix + item.name
            value = getattr(section, item.name)
            made[item.name] = values[key] if key in SETTINGS else make(value, f"{key}.")
        return type(section)(**made)

    settings: Settings = make(Settings(), "")
    return settings


def check_value(setting: Setting, value: object) -> Any:
    """`value` in the setting's type, or ValueError with what was expected and what came."""
    rule, default = setting.rule, setting.default
    if isinstance(default, bool):
        if not isinstance(value, bool):
            raise ValueError(f"must be true or false, not {_shown(value)}")
        return value
    if isinstance(default, int | Decimal):
        return _check_number(rule, isinstance(default, Decimal), value)
    if isinstance(default, str):
        return _check_text(rule, value)
    if not isinstance(value, list | tuple):
        raise ValueError(f'must be a list such as ["{rule.example}"], not {_shown(value)}')
    if len(value) > rule.max_items:
        raise ValueError(f"may have at most {rule.max_items} entries, not {len(value)}")
    texts = tuple(_check_text(rule, item) for item in value)
    if repeated := next((text for text in texts if texts.count(text) > 1), None):
        raise ValueError(f"names {repeated} twice")
    return texts


def _check_number(rule: Rule, decimal: bool, value: object) -> int | Decimal:
    kind = "a number" if decimal else "a whole number"
    allowed = int | Decimal if decimal else int
    number = value if isinstance(value, allowed) and not isinstance(value, bool) else None
    if number is not None and isinstance(number, Decimal) and not number.is_finite():
        number = None
    in_range = (
        number is not None
        and (rule.low is None or number >= rule.low)
        and (rule.high is None or number <= rule.high)
    )
    if number is None or not in_range:
        raise ValueError(f"must be {kind} from {rule.low} to {rule.high}, not {_shown(value)}")
    return Decimal(number) if decimal else number


def _check_text(rule: Rule, value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"must be text in quotes, not {_shown(value)}")
    if len(value) > 4096 or "\0" in value:
        raise ValueError("is too long for a setting or holds a NUL character")
    if rule.choices and value not in rule.choices:
        choices = ", ".join(choice or '""' for choice in rule.choices)
        raise ValueError(f"must be one of {choices}, not {_shown(value)}")
    if rule.matches and not rule.matches.fullmatch(value):
        raise ValueError(f"must look like {rule.example}, not {_shown(value)}")
    if rule.read:
        try:
            rule.read(value)
        except ValueError as error:
            raise ValueError(
                f"must look like {rule.example}, not {_shown(value)}: {error}"
            ) from None
    return value


def _shown(value: object) -> str:
    text = f'"{value}"' if isinstance(value, str) else str(value)
    if isinstance(value, bool):
        text = text.lower()
    return text if len(text) <= 80 else text[:77] + "..."
