"""The container files against the program: no engine is needed to see that they went stale."""

from __future__ import annotations

import re
import shlex
import tomllib
from fnmatch import fnmatch
from ipaddress import ip_address, ip_network
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry, generate_latest
from typer.main import get_command
from typer.testing import CliRunner

from gridtokenx.cli import app
from gridtokenx.cluster.devnet import bootstrap_files, dev_key, peer_id
from gridtokenx.home.config import Config, load_config
from gridtokenx.home.settings import SETTINGS
from gridtokenx.views.metrics import CallMetrics, NodeCollector
from gridtokenx.views.status import Health, NetworkStatus

ROOT = Path(__file__).resolve().parents[2]
COMPOSE_FILE = ROOT / "docker" / "compose.yaml"
AUTHORITIES = ("egat", "mea", "pea", "erc")
NODES = (*AUTHORITIES, "observer")
API_PORT = SETTINGS["api.port"].default
P2P_PORT = int(SETTINGS["network.listen"].default[0].rpartition("/")[2])
HOME_VARIABLE = "GRIDTOKENX_HOME"


def read_dockerfile(text: str) -> list[list[tuple[str, str]]]:
    """The stages of a Dockerfile, each a list of (instruction, arguments)."""
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    stages: list[list[tuple[str, str]]] = []
    for line in joined.splitlines():
        instruction, _, arguments = line.partition(" ")
        if instruction == "FROM":
            stages.append([])
        stages[-1].append((instruction, arguments.strip()))
    return stages


BUILD, FINAL = read_dockerfile((ROOT / "docker" / "Dockerfile").read_text())


def one(stage: list[tuple[str, str]], instruction: str) -> str:
    found = [arguments for name, arguments in stage if name == instruction]
    assert len(found) == 1, f"{len(found)} times {instruction}"
    return found[0]


def exec_form(text: str) -> list[str]:
    words = yaml.safe_load(text)
    assert isinstance(words, list), f"not in exec form: {text}"
    return words


def image_environment() -> dict[str, str]:
    words = shlex.split(one(FINAL, "ENV"))
    return dict(word.split("=", 1) for word in words)


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load(COMPOSE_FILE.read_text())
    return document


@pytest.fixture(scope="module")
def homes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the one-shot service writes into the volume."""
    folder = tmp_path_factory.mktemp("homes")
    words = ["cluster", "homes", "--out", str(folder)]
    for _ in range(2):  # the second start of a network finds them there
        assert CliRunner().invoke(app, words).exit_code == 0
    return folder


def service_environment(compose: dict[str, Any], name: str) -> dict[str, str]:
    given = compose["services"][name].get("environment", {})
    assert all(isinstance(value, str) for value in given.values())
    return {**image_environment(), **given}


def config_of(compose: dict[str, Any], name: str, homes: Path) -> Config:
    environment = service_environment(compose, name)
    inside = PurePosixPath(environment[HOME_VARIABLE])
    home = homes / inside.relative_to(one(FINAL, "VOLUME"))
    return load_config(home, environ=environment)


def check_command(words: list[str]) -> None:
    """Each word up to the first option is a command, each option one of that command."""
    command: Any = get_command(app)
    for index, word in enumerate(words):
        if not hasattr(command, "get_command"):
            break
        command = command.get_command(None, word)
        assert command is not None, f"{word!r} of {words} is not a command"
        options = words[index + 1 :]
    known = {name for parameter in command.params for name in parameter.opts}
    for option in options:
        assert not option.startswith("-") or option in known, f"{option} of {words}"


# -- Dockerfile ------------------------------------------------------------------------------------


PINNED = re.compile(r"[\w./-]+:[\w.-]+@sha256:[0-9a-f]{64}")


def test_both_stages_begin_with_the_same_python_named_by_digest() -> None:
    (image,) = {one(stage, "FROM").split()[0] for stage in (BUILD, FINAL)}
    assert PINNED.fullmatch(image)
    assert image.startswith("python:3.12.")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["requires-python"] == ">=3.11"


def test_every_copied_path_exists_and_reaches_the_engine() -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    rules = [line for line in ignored if line and not line.startswith("#")]
    sources = [arguments.split()[0] for name, arguments in BUILD if name == "COPY"]
    assert {"requirements.lock", "scripts/setup", "gridtokenx", "bootstrap"} <= set(sources)
    for source in sources:
        assert (ROOT / source).exists(), source
        assert not is_ignored(rules, source), source
    assert is_ignored(rules, ".git")
    assert is_ignored(rules, ".venv")
    assert is_ignored(rules, "scripts/run")


def is_ignored(rules: list[str], path: str) -> bool:
    """Docker's reading: the last rule that fits the path or a folder above it decides."""
    ignored = False
    for rule in rules:
        pattern = rule.removeprefix("!")
        parents = [path, *map(str, PurePosixPath(path).parents)]
        if any(
            fnmatch(each, pattern) and each.count("/") == pattern.count("/") for each in parents
        ):
            ignored = not rule.startswith("!")
    return ignored


def test_packages_come_from_the_lock_with_hashes_and_nothing_else() -> None:
    runs = [arguments for name, arguments in BUILD if name == "RUN"]
    setup, _, without_installer = runs[0].partition(" && ")
    assert setup == "scripts/setup --runtime"
    assert without_installer.startswith(".venv/bin/python -m pip uninstall ")
    assert '"--no-deps", "--require-hashes"' in (ROOT / "scripts" / "setup").read_text()
    assert not [run for run in runs[1:] if "pip" in run or "http" in run]
    assert "requirements-test.lock" not in (ROOT / ".dockerignore").read_text()
    assert one(FINAL, "RUN").startswith("python -m pip uninstall ")


def test_the_environment_is_found_where_it_was_made() -> None:
    folder = one(BUILD, "WORKDIR")
    assert one(FINAL, "COPY").split() == ["--from=build", folder, folder]
    assert image_environment()["PATH"].split(":")[0] == f"{folder}/.venv/bin"


def test_it_runs_the_node_without_rights() -> None:
    user, _, group = one(FINAL, "USER").partition(":")
    assert user == group == "10001"
    assert f"--uid {user}" in one(FINAL, "RUN")
    volume = one(FINAL, "VOLUME")
    assert volume == image_environment()[HOME_VARIABLE] == "/app/data"
    assert volume in one(FINAL, "RUN")  # made with its owner before it becomes a volume


def test_entry_point_and_health_check_are_commands() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (entry,) = exec_form(one(FINAL, "ENTRYPOINT"))
    assert entry in project["scripts"]
    check_command(exec_form(one(FINAL, "CMD")))
    health = exec_form(one(FINAL, "HEALTHCHECK").partition("CMD ")[2])
    assert health[0] in project["scripts"]
    check_command(health[1:])
    assert health[1:] == ["status", "--alive"]  # One that fetches blocks is not to be restarted.


def test_ports_are_the_defaults() -> None:
    assert one(FINAL, "EXPOSE").split() == [str(API_PORT), str(P2P_PORT)]


def test_a_home_made_in_the_container_starts(tmp_path: Path) -> None:
    environment = {**image_environment(), HOME_VARIABLE: str(tmp_path / "home")}
    environment.pop("PATH")
    password = tmp_path / "password"
    password.write_text("a long secret\n")
    password.chmod(0o600)
    for words in (["init", "--password-file", str(password)], ["start", "--dry-run"]):
        result = CliRunner().invoke(app, words, env=environment)
        assert result.exit_code == 0, result.output


# -- compose.yaml ----------------------------------------------------------------------------------


def test_the_services_are_the_network_and_prometheus(compose: dict[str, Any]) -> None:
    assert set(compose["services"]) == {"homes", *NODES, "prometheus"}
    for name in ("homes", *NODES):
        build = compose["services"][name]["build"]
        context = (COMPOSE_FILE.parent / build["context"]).resolve()
        assert context == ROOT
        assert (context / build["dockerfile"]).is_file()


def test_every_variable_is_a_setting(compose: dict[str, Any]) -> None:
    for name in NODES:
        for variable in service_environment(compose, name):
            if variable.startswith("GRIDTOKENX_") and variable != HOME_VARIABLE:
                key = variable.removeprefix("GRIDTOKENX_").lower().replace("__", ".")
                assert key in SETTINGS, variable


@pytest.mark.parametrize("name", NODES)
def test_every_node_has_a_home_with_which_it_starts(
    compose: dict[str, Any], homes: Path, name: str
) -> None:
    config = config_of(compose, name, homes)
    environment = {**service_environment(compose, name), HOME_VARIABLE: str(config.home)}
    environment.pop("PATH")
    result = CliRunner().invoke(app, ["start", "--dry-run"], env=environment)
    assert result.exit_code == 0, result.output
    assert config.node.authority == ("" if name == "observer" else name)
    assert config.node.node_id == name
    assert name in config.api.hosts  # Prometheus asks by this name
    assert config.network.listen == SETTINGS["network.listen"].default
    assert (config.api.host, config.api.port) == ("0.0.0.0", API_PORT)
    assert config.genesis.hash in bootstrap_files()["network.toml"]


def test_egat_is_the_bootnode_of_the_others(compose: dict[str, Any], homes: Path) -> None:
    address = compose["services"]["egat"]["networks"]["default"]["ipv4_address"]
    (pool,) = compose["networks"]["default"]["ipam"]["config"]
    assert ip_address(address) in ip_network(pool["subnet"])
    assert ip_address(address) not in ip_network(pool["ip_range"])  # given out to the others
    identity = peer_id(dev_key("n0 node").public_key)
    assert config_of(compose, "egat", homes).network.bootstrap == ()
    for name in NODES[1:]:
        (bootnode,) = config_of(compose, name, homes).network.bootstrap
        assert bootnode == f"/ip4/{address}/tcp/{P2P_PORT}/p2p/{identity}"


def test_homes_are_made_once_before_any_node_starts(compose: dict[str, Any]) -> None:
    maker = compose["services"]["homes"]
    check_command(maker["command"])
    assert maker["command"][-1] == one(FINAL, "VOLUME")
    assert maker["restart"] == "no"
    for name in NODES:
        condition = compose["services"][name]["depends_on"]["homes"]["condition"]
        assert condition == "service_completed_successfully"


def test_ports_are_published_to_this_machine_only(compose: dict[str, Any]) -> None:
    published = {
        name: service["ports"]
        for name, service in compose["services"].items()
        if "ports" in service
    }
    assert published == {
        "observer": [f"127.0.0.1:{API_PORT}:{API_PORT}"],
        "prometheus": ["127.0.0.1:9090:9090"],
    }


def test_a_fault_that_a_restart_would_not_mend_is_not_tried_again(compose: dict[str, Any]) -> None:
    """Docker starts again after every exit code, so the node itself must stay down."""
    for name in NODES:
        service = compose["services"][name]
        assert service["restart"] == "unless-stopped"
        assert service["command"] == ["start", "--stay-down"]
        check_command(service["command"])


def test_no_service_may_take_the_machine(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        assert re.fullmatch(r"[12]g", service["mem_limit"]), name
        assert 0 < service["pids_limit"] <= 512, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        image = service["image"]
        assert image == "gridtokenx-node:latest" or PINNED.fullmatch(image), name


def test_nodes_have_time_to_stop(compose: dict[str, Any]) -> None:
    assert all(compose["services"][name]["stop_grace_period"] == "60s" for name in NODES)


def test_mounts_exist(compose: dict[str, Any]) -> None:
    for service in compose["services"].values():
        for mount in service.get("volumes", []):
            source = mount.split(":")[0]
            if source.startswith("."):
                assert (COMPOSE_FILE.parent / source).is_dir(), mount
            else:
                assert source in compose["volumes"], mount


# -- Prometheus ------------------------------------------------------------------------------------


def test_prometheus_scrapes_every_node(compose: dict[str, Any]) -> None:
    folder = ROOT / "docker" / "prometheus"
    document = yaml.safe_load((folder / "prometheus.yml").read_text())
    (job,) = document["scrape_configs"]
    targets = [target for group in job["static_configs"] for target in group["targets"]]
    assert targets == [f"{name}:{API_PORT}" for name in NODES]
    assert job["metrics_path"] == "/metrics"
    assert all((folder / name).is_file() for name in document["rule_files"])
    assert "./prometheus:/etc/prometheus:ro" in compose["services"]["prometheus"]["volumes"]


class NothingYet:
    """A node without chains and peers; every metric has its name all the same."""

    version = "0"
    role = "observer"

    def peers(self) -> tuple[()]:
        return ()

    def health(self) -> Health:
        return Health()

    def network(self) -> NetworkStatus:
        return NetworkStatus()

    def chains(self) -> dict[str, Any]:
        return {}


def exported_metrics() -> set[str]:
    registry = CollectorRegistry()
    registry.register(NodeCollector(NothingYet()))  # type: ignore[arg-type]
    CallMetrics(registry)
    lines = generate_latest(registry).decode().splitlines()
    return {line.split()[2] for line in lines if line.startswith("# TYPE ")}


def test_alerts_use_metrics_that_are_exported() -> None:
    text = (ROOT / "docker" / "prometheus" / "alerts.yml").read_text()
    groups = yaml.safe_load(text)["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert {"NoFinality", "NodeDown", "NoPeers", "Behind"} <= {rule["alert"] for rule in rules}
    for rule in rules:
        without_texts = re.sub(r'"[^"]*"', "", rule["expr"])
        used = set(re.findall(r"\bgridtokenx_\w+", without_texts))
        assert used or rule["expr"].startswith("up{"), rule["alert"]
        assert used <= exported_metrics(), rule["alert"]
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert re.fullmatch(r"\d+[smh]", rule["for"])


def test_the_metric_names_people_know_are_exported() -> None:
    assert {
        "gridtokenx_blockchain_height",
        "gridtokenx_energy_trades_total",
        "gridtokenx_network_peers",
        "gridtokenx_consensus_rounds",
    } <= exported_metrics()
