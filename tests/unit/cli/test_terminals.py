"""What a node answers, and what this machine's streams are: the command line bears both."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gridtokenx.cli import show

EVIL = "\x1b]0;owned\x07\x9b2Jname\u202egnp.exe\nhint: rm -rf\u200b"
ESCAPED = r"\x1b]0;owned\x07\x9b2Jname\u202egnp.exe\nhint: rm -rf\u200b"
MOST = str(2**63 - 1)
COMMAND = (sys.executable, "-m", "gridtokenx")


@pytest.fixture
def validators(canned_node):
    row = {"index": 0, "organisation": "กฟน. ☀ é", "weight": "1", "public_key": "ab"}
    canned_node.results["chain_getValidators"] = {
        "chain": "MET",
        "total_weight": "1",
        "items": [row],
    }
    return canned_node


def outside(home: Path, *words: object, **settings) -> subprocess.CompletedProcess[bytes]:
    """The command in a process of its own."""
    environ = {**os.environ, "GRIDTOKENX_HOME": str(home), **settings.pop("environ", {})}
    told = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **settings}
    return subprocess.run([*COMMAND, *map(str, words)], env=environ, check=False, **told)


@pytest.mark.parametrize("form", [(), ("--json",)])
def test_a_nodes_error_drives_no_terminal(run, canned_node, form: tuple[str, ...]) -> None:
    canned_node.errors["chain_getValidators"] = {
        "code": 2001,
        "message": EVIL,
        "data": {"reason": EVIL, "hint": EVIL, "retryable": False},
    }
    ran = run("--rpc", canned_node.url, "chain", "validators", *form)
    assert ran.code == 1
    assert ran.stderr == f"error [2001/{ESCAPED}]: {ESCAPED}\nhint: {ESCAPED}\n"
    assert (ran.stdout.isascii() and ran.stdout.replace("\n", "").isprintable()) is True
    if form:
        assert json.loads(ran.stdout)["error"]["message"] == EVIL


def test_a_nodes_names_drive_no_terminal(run, validators) -> None:
    validators.results["chain_getValidators"]["items"][0]["organisation"] = EVIL
    ran = run("--rpc", validators.url, "chain", "validators")
    assert ESCAPED in ran.stdout
    ran = run("--rpc", validators.url, "chain", "validators", "--json")
    assert ran.stdout.isascii()
    assert "\x1b" not in ran.stdout
    assert ran.document["items"][0]["organisation"] == EVIL


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
@pytest.mark.parametrize("form", [(), ("--json",)])
def test_any_encoding_of_the_output(home: Path, validators, encoding: str, form) -> None:
    words = ("--rpc", validators.url, "chain", "validators", *form)
    ran = outside(home, *words, environ={"PYTHONIOENCODING": encoding})
    assert (ran.returncode, ran.stderr) == (0, b"")
    name = "กฟน. ☀ é"
    if form:
        assert json.loads(ran.stdout)["items"][0]["organisation"] == name
    else:
        assert name.encode(encoding, "backslashreplace") in ran.stdout


@pytest.mark.parametrize("words", [("config", "template"), ("keys", "list", "--json")])
def test_a_reader_that_went_away_is_no_error(home: Path, words: tuple[str, ...]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    ran = outside(home, *words, stdout=writing)
    os.close(writing)
    assert ran.stderr == b""
    assert ran.returncode == 1


@pytest.mark.parametrize("value", ["1", "yes, please", ""])
def test_no_color_may_have_any_value(home: Path, value: str) -> None:
    ran = outside(home, "keys", "list", environ={"NO_COLOR": value})
    assert (ran.returncode, ran.stderr) == (0, b"")


def test_times_without_end_are_shown() -> None:
    assert show.moment(MOST) == "no end"
    assert show.until(MOST) == "without end"
    assert show.zoned(MOST) == "no end"
    assert show.field("expires_ms", MOST) == ("expires", "no end")
    assert show.field("expires_ms", "0") == ("expires", "1970-01-01 07:00:00 Bangkok")
    assert show.slots(MOST, MOST) == f"slot {MOST} to {MOST}"
    assert show.age(MOST) == "0 s ago"


def test_an_order_without_end_is_shown(run, canned_node) -> None:
    names = ("trader", "meter_id", "grid_location", "energy_source", "order_type")
    sizes = ("energy_wh", "filled_wh", "rest_wh", "limit_mthb", "max_wh_per_slot", "reserve_uthb")
    canned_node.results["energy_getOrder"] = {
        **dict.fromkeys(names, "x"),
        **dict.fromkeys(sizes, "0"),
        "order_id": "ab" * 32,
        "status": "open",
        "congested": False,
        "require": False,
        "chain": "MET",
        "height": "5",
        "first_slot": MOST,
        "last_slot": MOST,
        "expires_ms": MOST,
        "placed_ms": "0",
        "closed_ms": None,
        "refund_uthb": None,
    }
    canned_node.results["energy_getMarket"] = {
        "first_open_slot": "7",
        "parameters": {"matching_mode": "gate"},
    }
    ran = run("--rpc", canned_node.url, "orders", "get", "ab" * 32)
    assert ran.code == 0
    assert f"matched  when slot {MOST} closes at no end\n" in ran.stdout
    assert "expires  no end\n" in ran.stdout
    assert f"(slot {MOST} to {MOST} Bangkok)" in ran.stdout
    assert "placed   MET #5, 1970-01-01 07:00:00\n" in ran.stdout
