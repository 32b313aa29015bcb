"""Read the configuration: flag > environment > `config.toml` > authority preset > default.

Every value knows where it came from (`Config.origin`). Nothing is ignored in silence: an unknown
key, a wrong type or a value out of range is a `ConfigError` with file, line and what to write.

Source: docs/node-operation.md "A node of your own", "Codes".
"""

from __future__ import annotations

import difflib
import ipaddress
import os
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

from gridtokenx.home import bootstrap_files
from gridtokenx.home.settings import SECTIONS, SETTINGS, Setting, Settings, build, check_value
from gridtokenx.runtime.private_files import write_private
from gridtokenx.runtime.text_files import read_text

FILE_NAME = "config.toml"
FILE_VERSION = 1
MAX_FILE_BYTES = 65536

_ENVIRONMENT = "GRIDTOKENX_"
_ASSIGNMENT = re.compile(r"""\s*((?:"[^"\n]*"|'[^'\n]*'|[A-Za-z0-9_.\s-])+?)\s*=""")
_TABLE = re.compile(r"\s*\[([^\[\]]+)\]\s*(#.*)?")
_RUST_LEVELS = {"trace": "debug", "warn": "warning"}


class ConfigError(Exception):
    """The configuration cannot be used. `code` is GTX-..., `detail` one sentence, `hint` a way out.

    Exit code 78 (EX_CONFIG).
    """

    def __init__(self, code: str, reason: str, detail: str, hint: str = "") -> None:
        super().__init__(detail)
        self.code = code
        self.reason = reason
        self.detail = detail
        self.hint = hint


@dataclass(frozen=True, slots=True)
class Config(Settings):
    """Checked settings with their folders. Values: `config.api.port`; origins: `origin(key)`."""

    home: Path = field(default_factory=Path)
    base: Path = field(default_factory=Path)  # what relative paths are relative to
    file: Path | None = None
    origins: Mapping[str, str] = field(default_factory=dict)
    notices: tuple[str, ...] = ()

    def origin(self, key: str) -> str:
        """`default`, `preset mea.toml:7`, `config.toml:14`, `environment NAME` or `flag`."""
        return self.origins[key]

    def value(self, key: str) -> Any:
        """The value of a dotted key such as `thai_market.peak_hours.start_hour`."""
        value: Any = self
        for name in key.split("."):
            value = getattr(value, name)
        return value

    def path(self, text: str) -> Path:
        """An absolute path; a relative one is relative to the folder of the config file."""
        return Path(os.path.normpath(self.base / Path(text).expanduser()))

    @property
    def data_path(self) -> Path:
        return self.path(self.node.data_dir)

    @property
    def keys_path(self) -> Path:
        return self.home / "keys"

    @property
    def password_path(self) -> Path | None:
        return self.path(self.node.password_file) if self.node.password_file else None

    @property
    def genesis_path(self) -> Path:
        return self.path(self.genesis.file)

    @property
    def log_path(self) -> Path:
        return self.path(self.logging.file_logging.file_path)

    @property
    def validates(self) -> bool:
        """Whether the role takes part in consensus."""
        return self.node.node_type in ("validator", "authority")


_Sourced = tuple[Setting, object, str]  # setting, value as written, origin


def load_config(
    home: Path,
    flags: Mapping[str, object] | None = None,
    *,
    file: Path | None = None,
    environ: Mapping[str, str] | None = None,
) -> Config:
    """The configuration in force for `home`.

    `flags` maps dotted keys to values already in their type; None means "not given". `file` is an
    explicit config file, which must exist; otherwise `home/config.toml` if there is one.
    Errors: ConfigError.
    """
    environ = os.environ if environ is None else environ
    home = Path(os.path.abspath(home))
    path = Path(os.path.abspath(file)) if file else home / FILE_NAME
    if file and not path.is_file():
        raise ConfigError(
            "GTX-CFG-003", "no_file", f"{file} does not exist", "gridtokenx init makes one"
        )
    document = _read(path) if path.is_file() else _Document(FILE_NAME, {}, {})
    from_environment, notices = _environment(environ)
    sources = [*document.settings(), *from_environment, *_flags(flags or {})]
    authority = ""
    for setting, value, origin in sources:
        if setting.key == "node.authority":
            authority = _checked(setting, value, origin)
    if authority:
        sources = [*_preset(authority, home, environ), *sources]
    values = {key: setting.default for key, setting in SETTINGS.items()}
    origins = dict.fromkeys(SETTINGS, "default")
    for setting, value, origin in sources:  # later sources overwrite earlier ones
        values[setting.key] = _checked(setting, value, origin)
        origins[setting.key] = origin
    settings = build(values)
    config = Config(
        **{name: getattr(settings, name) for name in Settings.__dataclass_fields__},
        home=home,
        base=path.parent if path.is_file() else home,
        file=path if path.is_file() else None,
        origins=origins,
        notices=tuple(notices),
    )
    check_together(config)
    return config


def check_together(config: Config) -> None:
    """Refuse values that are well each but not together. Errors: ConfigError."""
    node = config.node
    hours = config.thai_market.peak_hours
    if node.node_type == "authority" and not node.authority:
        _refuse(config, "node.node_type", "authority needs node.authority: egat, mea, pea or erc")
    if config.energy.min_trade_amount > config.energy.max_trade_amount:
        _refuse(config, "energy.min_trade_amount", "is above max_trade_amount")
    if hours.start_hour >= hours.end_hour:
        _refuse(config, "thai_market.peak_hours.start_hour", "is not before end_hour")
    if config.network.min_peers > config.network.max_peers:
        _refuse(config, "network.min_peers", "is above max_peers")
    _check_trusted_blocks(config)
    _check_doors(config)


def _check_trusted_blocks(config: Config) -> None:
    """Refuse two blocks at one height: no history has both. Errors: ConfigError."""
    places = [text.rpartition(":")[0] for text in config.sync.trusted_blocks]
    for place in places:
        if places.count(place) > 1:
            chain, _, height = place.partition(":")
            detail = f"names two blocks {height} of {chain}"
            _refuse(config, "sync.trusted_blocks", detail)


def _check_doors(config: Config) -> None:
    """Refuse an API that strangers reach and that trusts its callers. Errors: ConfigError."""
    node, api = config.node, config.api
    for proxy in api.trusted_proxies:
        try:
            ipaddress.ip_network(proxy)
        except ValueError as error:
            _refuse(config, "api.trusted_proxies", f"is no list of addresses: {error}")
    if api.local_signer and "*" in api.hosts:
        raise ConfigError(
            "GTX-API-002",
            "unsafe_signer",
            "refusing to sign for callers by any name: a web page could call this node by its own",
            'name the hosts in api.hosts, or set api.local_signer = ""',
        )
    if is_loopback(api.host) and not api.trusted_proxies:
        return
    where = f"{api.host} behind a proxy" if api.trusted_proxies else api.host
    if api.local_signer:
        raise ConfigError(
            "GTX-API-002",
            "unsafe_signer",
            f"refusing to sign for callers on {where}: api.local_signer is only for this machine",
            'set api.host = "127.0.0.1" without api.trusted_proxies, or api.local_signer = "" and '
            "post signed orders",
        )
    if config.validates and not api.public:
        raise ConfigError(
            "GTX-API-001",
            "unsafe_bind",
            f"refusing to serve RPC on {where} from a {node.node_type}",
            "put an observer in front (docs/node-operation.md, sentry), or set api.public = true",
        )


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False  # a name may mean anything


def _refuse(config: Config, key: str, problem: str) -> None:
    detail = f"{config.origin(key)} {key} = {config.value(key)} {problem}"
    raise ConfigError("GTX-CFG-002", "bad_value", detail)


def _checked(setting: Setting, value: object, origin: str) -> Any:
    try:
        return check_value(setting, value)
    except ValueError as wrong:
        detail = f"{origin} {setting.key} {wrong}"
        hint = f"{setting.name}: {setting.rule.help}"
        raise ConfigError("GTX-CFG-002", "bad_value", detail, hint) from None


def _flags(flags: Mapping[str, object]) -> list[_Sourced]:
    given = [(key, value) for key, value in flags.items() if value is not None]
    return [(_known(key, "flag"), value, "flag") for key, value in given]


def _known(key: str, origin: str, written: str | None = None) -> Setting:
    """The schema's row of `key`, or GTX-CFG-001 with the nearest name."""
    if setting := SETTINGS.get(key):
        return setting
    section, _, name = key.rpartition(".")
    nearest = {row.name: row for row in SETTINGS.values() if row.section == section}
    detail = f"{origin} {written or key} is not a setting"
    if section and section not in SECTIONS:
        detail = f"{origin} [{section}] is not a section"
        guess = difflib.get_close_matches(section, SECTIONS, 1, 0.5)
        detail += f"; did you mean [{guess[0]}]?" if guess else ""
    elif guess := difflib.get_close_matches(name, nearest, 1, 0.5):
        detail += f"; did you mean {guess[0]}?"
    elif elsewhere := [row.key for row in SETTINGS.values() if row.name == name]:
        detail += f"; did you mean {elsewhere[0]}?"
    raise ConfigError(
        "GTX-CFG-001", "unknown_setting", detail, "gridtokenx config template lists every setting"
    )


@dataclass(frozen=True)
class _Document:
    """A parsed TOML file with the line on which each key stands."""

    name: str
    tree: dict[str, Any]
    lines: dict[str, int]

    def settings(self) -> Iterator[_Sourced]:
        """Every value of the file, each checked to be a setting."""
        version = self.tree.get("version", FILE_VERSION)
        if version != FILE_VERSION or isinstance(version, bool):
            detail = f"{self._at('version')} version {version!r} is not known; this reads version 1"
            raise ConfigError("GTX-CFG-004", "unknown_version", detail)
        yield from self._walk({k: v for k, v in self.tree.items() if k != "version"}, "")

    def _walk(self, tree: dict[str, Any], prefix: str) -> Iterator[_Sourced]:
        for name, value in tree.items():
            key = prefix + name
            if isinstance(value, dict) and (key in SECTIONS or key not in SETTINGS):
                if key not in SECTIONS:
                    _known(f"{key}.*", self._at(key))
                yield from self._walk(value, f"{key}.")
            elif key in SECTIONS:
                detail = f"{self._at(key)} {key} is a section; write [{key}]"
                raise ConfigError("GTX-CFG-002", "bad_value", detail)
            else:
                yield _known(key, self._at(key)), value, self._at(key)

    def _at(self, key: str) -> str:
        while key and key not in self.lines:
            key = key.rpartition(".")[0]
        return f"{self.name}:{self.lines[key]}" if key else self.name


def _read(path: Path) -> _Document:
    try:
        text = read_text(path, MAX_FILE_BYTES)
    except OSError as error:
        detail = f"{path} cannot be read: {error.strerror}"
        raise ConfigError("GTX-CFG-003", "no_file", detail) from None
    except ValueError as error:
        raise ConfigError("GTX-CFG-005", "bad_file", f"{path.name} {error}") from None
    try:
        tree = tomllib.loads(text, parse_float=Decimal)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        line = re.search(r"at line (\d+)", str(error))
        where = f"{path.name}:{line[1]}" if line else path.name
        detail = f"{where} is not TOML: {error}"
        raise ConfigError("GTX-CFG-005", "bad_file", detail) from None
    return _Document(path.name, tree, _find_lines(text.splitlines()))


def _find_lines(lines: list[str]) -> dict[str, int]:
    """Line number of every table and key of a valid TOML text (tomllib does not tell)."""
    found: dict[str, int] = {}
    table, index = "", 0
    while index < len(lines):
        line, number = lines[index], index + 1
        index += 1
        if header := _TABLE.fullmatch(line):
            table = _dotted(header[1])
            found[table] = number
        elif assignment := _ASSIGNMENT.match(line):
            key = _dotted(assignment[1])
            found[f"{table}.{key}" if table else key] = number
            statement = line
            while index < len(lines) and not _is_complete(statement):
                statement += "\n" + lines[index]
                index += 1
    return found


def _dotted(text: str) -> str:
    """`a . "b"` as `a.b`, read by the TOML parser itself."""
    try:
        tree: Any = tomllib.loads(f"{text} = 0")
    except tomllib.TOMLDecodeError:
        return text.strip()
    names = []
    while isinstance(tree, dict):
        name, tree = next(iter(tree.items()))
        names.append(name)
    return ".".join(names)


def _is_complete(statement: str) -> bool:
    try:
        tomllib.loads(statement)
    except tomllib.TOMLDecodeError:
        return False
    return True


def _preset(authority: str, home: Path, environ: Mapping[str, str]) -> list[_Sourced]:
    """Settings of the authority's preset: the home's own copy, else the bundled one."""
    own = home / "authorities" / f"{authority}.toml"
    path = own if own.is_file() else bootstrap_files.find(f"authorities/{authority}.toml", environ)
    if path is None:
        places = ", ".join(str(folder) for folder in bootstrap_files.folders(environ))
        raise ConfigError(
            "GTX-CFG-006",
            "no_preset",
            f"the preset authorities/{authority}.toml is in none of {places}",
            f"gridtokenx init --authority {authority} --preset FILE keeps a copy in the home",
        )
    return read_preset(authority, path)


def read_preset(authority: str, path: Path) -> list[_Sourced]:
    """The settings a preset file makes. Errors: ConfigError, also if it is another authority's."""
    preset = []
    for setting, value, origin in _read(path).settings():
        if setting.key == "node.authority" and value != authority:
            detail = f"preset {origin} is of {value}, not of {authority}"
            raise ConfigError("GTX-CFG-006", "no_preset", detail)
        preset.append((setting, _checked(setting, value, f"preset {origin}"), f"preset {origin}"))
    return preset


def _environment(environ: Mapping[str, str]) -> tuple[list[_Sourced], list[str]]:
    """Settings of `GRIDTOKENX_<SECTION>__<KEY>` and of the log level's short names; notices."""
    found, notices = _log_variables(environ)
    for name in sorted(environ):
        if name.startswith(_ENVIRONMENT) and "__" in name:
            key = name.removeprefix(_ENVIRONMENT).lower().replace("__", ".")
            setting = _known(key, "environment", name)
            text = environ[name].rstrip("\r\n")  # Of an environment file written on Windows.
            found.append((setting, _from_text(setting, text), f"environment {name}"))
    return found, notices


def _log_variables(environ: Mapping[str, str]) -> tuple[list[_Sourced], list[str]]:
    """The level by GRIDTOKENX_LOG, else by the seed's RUST_LOG with a notice."""
    name = "GRIDTOKENX_LOG" if environ.get("GRIDTOKENX_LOG") else "RUST_LOG"
    text = environ.get(name, "")
    if not text:
        return [], []
    setting, level = SETTINGS["logging.level"], _log_level(text)
    if name == "GRIDTOKENX_LOG":  # a level that is none is refused by the setting's own check
        return [(setting, level or text, f"environment {name}")], []
    told = f"taken as logging.level = {level}" if level else f"not understood: {text!r}"
    notice = f"RUST_LOG is {told}; the name here is GRIDTOKENX_LOG"
    return [(setting, level, f"environment {name}")] if level else [], [notice]


def _log_level(text: str) -> str:
    """The general level of `info` or `info,libp2p=debug`, or ""."""
    for part in text.lower().split(","):
        level = _RUST_LEVELS.get(part.strip(), part.strip())
        if level in SETTINGS["logging.level"].rule.choices:
            return level
    return ""


def _from_text(setting: Setting, text: str) -> object:
    """An environment variable's text as a value; what does not convert is left for the check."""
    if isinstance(setting.default, bool):
        return {"true": True, "1": True, "false": False, "0": False}.get(text.lower(), text)
    if isinstance(setting.default, tuple) and not text.lstrip().startswith("["):
        return [part.strip() for part in text.split(",") if part.strip()]
    if isinstance(setting.default, str):
        return text
    try:
        return tomllib.loads(f"x = {text}", parse_float=Decimal)["x"]
    except tomllib.TOMLDecodeError:
        return text


def template(values: Mapping[str, object] | None = None) -> str:
    """The text of a `config.toml`: `values` set, every other setting there as a comment."""
    values = values or {}
    parts = [
        "# GridTokenX node configuration. A line that begins with # shows the default.",
        "# Precedence: flag > GRIDTOKENX_<SECTION>__<KEY> > this file > preset > default.",
        "# `gridtokenx config show --origin` tells which value is in force and why.",
        "",
        f"version = {FILE_VERSION}",
    ]
    for section, sentence in SECTIONS.items():
        parts += ["", f"[{section}]  # {sentence}"]
        for setting in SETTINGS.values():
            if setting.section == section:
                parts.append(_template_line(setting, values))
    return "\n".join(parts) + "\n"


def _template_line(setting: Setting, values: Mapping[str, object]) -> str:
    given = setting.key in values
    value = check_value(setting, values[setting.key]) if given else setting.default
    line = f"{'' if given else '# '}{setting.name} = {format_value(value)}"
    choices = ", ".join(choice for choice in setting.rule.choices if choice)
    return f"{line}  # {setting.rule.help}{f' ({choices})' if choices else ''}"


def format_value(value: object) -> str:
    """A value as TOML writes it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple | list):
        return "[" + ", ".join(map(format_value, value)) + "]"
    if isinstance(value, str):
        escapes: Callable[[re.Match[str]], str] = lambda found: f"\\u{ord(found[0]):04x}"  # noqa: E731
        return '"' + re.sub(r'["\\\x00-\x1f\x7f]', escapes, value) + '"'
    return str(value)


def write_template(
    path: Path, values: Mapping[str, object] | None = None, *, force: bool = False
) -> None:
    """Write `template(values)` to `path` (0600). Without `force` an existing file is an error."""
    if path.exists() and not force:
        detail = f"{path} exists already"
        raise ConfigError("GTX-CFG-007", "exists", detail, "pass --force to replace it")
    write_private(path, template(values))
