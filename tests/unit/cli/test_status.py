"""`status`: what is told of a node that is ill, strange or away."""

import json

import pytest

from gridtokenx.cli.output import ExitCode

READY = {"ready": True, "checks": [{"name": "disk", "ok": True, "value": "9", "want": "1"}]}
ILL = {
    "ready": False,
    "checks": [
        {"name": "loops", "ok": True, "value": "ticking", "want": "ticking", "hint": ""},
        {"name": "peers", "ok": False, "value": "0", "want": "1 or more", "hint": "open TCP 9000"},
        {"name": "tip_MET", "ok": False, "value": "90 s old", "want": "30 s", "hint": "wait"},
    ],
}


def status_of(state: str, target: str) -> dict:
    return {
        "node": {
            "id": "n0",
            "peer_id": "12D3",
            "role": "observer",
            "version": "0.1.0",
            "local_signer": None,
        },
        "network": {"name": "gridtokenx-local", "id": 1001, "genesis_hash": "ab" * 32},
        "sync": {"state": state},
        "peers": 0,
        "chains": [
            {
                "chain": "MET",
                "head": {"height": "7", "time_ms": "1000", "market_ms": "1000"},
                "sync": {"state": state, "target": target},
                "mempool_transactions": 3,
                "finality_ms": {"p50": None, "p99": None},
            }
        ],
    }


@pytest.fixture
def ill(canned_node):
    canned_node.results = {
        "chain_getStatus": status_of("stalled", "12"),
        "net_getPeers": {"items": []},
    }
    canned_node.pages["/ready"] = (503, json.dumps(ILL).encode())
    return canned_node


def test_a_node_that_is_not_ready_says_why_and_what_to_do_first(run, ill) -> None:
    ran = run("--rpc", ill.url, "status")
    assert ran.code == 0
    assert "stalled at 7 of 12" in ran.stdout
    assert "peers    none" in ran.stdout
    assert "90 s old" in ran.stdout
    assert "next     open TCP 9000" in ran.stdout
    document = run("--rpc", ill.url, "status", "--json").document
    assert document["next_action"] == "open TCP 9000"
    assert document["checks"] == ILL["checks"]


@pytest.mark.parametrize(
    ("state", "failing", "told"),
    [
        ("blocks", ["sync_MET", "tip_MET"], "wait: MET is fetching blocks, 7 of 12"),
        ("stalled", ["sync_MET", "tip_MET"], "hint of tip_MET"),
        ("stalled", ["sync_MET"], "hint of sync_MET"),
        ("blocks", ["sync_MET", "tip_MET", "disk"], "hint of disk"),
        ("live", [], "nothing: the node is ready"),
    ],
)
def test_what_to_do_next(run, ill, state: str, failing: list[str], told: str) -> None:
    rows = [
        {"name": name, "ok": False, "value": "", "want": "", "hint": f"hint of {name}"}
        for name in failing
    ]
    ill.results["chain_getStatus"] = status_of(state, "12")
    ill.pages["/ready"] = (503, json.dumps({"ready": not rows, "checks": rows}).encode())
    assert run("--rpc", ill.url, "status", "--json").document["next_action"] == told


def test_check_is_an_exit_code_for_health_checks(run, ill) -> None:
    ran = run("--rpc", ill.url, "status", "--check")
    assert ran.code == ExitCode.REFUSED
    assert ran.stdout.startswith("not ready\npeers: 0, want 1 or more. open TCP 9000\n")
    assert run("--rpc", ill.url, "status", "--check", "--json").document == ILL
    ill.pages["/ready"] = (200, json.dumps(READY).encode())
    ran = run("--rpc", ill.url, "status", "--check")
    assert (ran.code, ran.stdout) == (0, "ready\n")


def test_what_a_peer_calls_itself_cannot_drive_the_terminal(run, ill) -> None:
    peer = {
        "organisation": None,
        "node_id": "",
        "agent": "\x1b[2Jevil\r\n[red]",
        "peer_id": "12D3",
        "heights": {"MET": "1"},
        "addresses": ["/ip4/127.0.0.1/tcp/1/p2p/12D3"],
    }
    ill.results["net_getPeers"] = {"items": [peer] * 25}
    ran = run("--rpc", ill.url, "status")
    assert r"\x1b[2Jevil\r\n[red]" in ran.stdout
    assert "\x1b" not in ran.stdout
    assert "and 5 more" in ran.stdout


@pytest.mark.parametrize(
    ("status", "body"),
    [(404, b"<html>"), (200, b"{}"), (200, b"[1]"), (404, b'{"detail": "x"}')],
)
def test_what_is_no_node_is_told_so(run, canned_node, status: int, body: bytes) -> None:
    canned_node.pages = {"/rpc": (status, b"{}"), "/ready": (status, body)}
    for words in (["status"], ["status", "--check"]):
        ran = run("--rpc", canned_node.url, *words)
        assert ran.code == ExitCode.UNREACHABLE
        assert "is no GridTokenX node" in ran.stderr


def test_a_node_that_refuses_to_say_is_quoted(run, canned_node) -> None:
    told = {"code": -32001, "reason": "unauthorized", "message": "bad host", "hint": "use an IP"}
    canned_node.pages["/ready"] = (401, json.dumps({"error": told}).encode())
    ran = run("--rpc", canned_node.url, "status", "--check")
    assert ran.code == ExitCode.REFUSED
    assert ran.stderr == "error [-32001/unauthorized]: bad host\nhint: use an IP\n"


@pytest.mark.parametrize("words", [["--watch", "--json"], ["--watch", "--check"]])
def test_watching_is_for_people(run, words: list[str]) -> None:
    assert run("status", *words).code == ExitCode.USAGE


@pytest.mark.parametrize(("status", "http", "code"), [("ok", 200, 0), ("stuck", 503, 1)])
def test_alive_asks_for_health_alone(run, ill, status: str, http: int, code: int) -> None:
    """A node that is not ready is alive: containers are restarted by this."""
    ill.pages["/health"] = (http, json.dumps({"status": status}).encode())
    ran = run("--rpc", ill.url, "status", "--alive")
    assert (ran.code, ran.stdout) == (code, f"{status}\n")
    assert run("--rpc", ill.url, "status", "--alive", "--watch").code == ExitCode.USAGE


def test_whoever_does_not_answer_is_not_alive(run) -> None:
    assert run("--rpc", "http://127.0.0.1:9", "status", "--alive").code == ExitCode.UNREACHABLE
