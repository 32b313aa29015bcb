"""`net doctor`: what it finds in what a node tells, and its exit code."""

import json
import socket

import pytest

from gridtokenx.cli import net_doctor
from gridtokenx.cli.output import ExitCode
from gridtokenx.home.config import load_config
from gridtokenx.network.discovery import OUTCOME_WORDS

WELL = {
    "peer_id": "12D3",
    "node_id": "n0",
    "version": "0.1.0",
    "listen": ["/ip4/0.0.0.0/tcp/9000/p2p/12D3"],
    "announced": ["/ip4/8.8.8.8/tcp/9000"],
    "nat_ip": None,
    "peers": 4,
    "inbound": 2,
    "outbound": 2,
    "known_peers": 4,
}
DIALS = {"dials": {"connected": 4, "timeout": 1}, "inbound_refused": {}}


def open_door(_host: str, _port: int) -> str | None:
    return None


def shut_door(_host: str, _port: int) -> str | None:
    return "Connection refused"


def verdicts(findings) -> dict[str, str]:
    return {one.check: one.verdict for one in findings}


def test_a_port_is_tried_on_this_machine() -> None:
    tried = []

    def note(host: str, port: int) -> str | None:
        tried.append((host, port))
        return None

    (found,) = net_doctor.listening(WELL, note)
    assert (found.verdict, tried) == ("PASS", [("127.0.0.1", 9000)])
    (found,) = net_doctor.listening(WELL, shut_door)
    assert (found.verdict, bool(found.fix)) == ("FAIL", True)
    alone = {**WELL, "inbound": 0}
    assert verdicts(net_doctor.listening(alone, open_door)) == {"port": "PASS", "inbound": "WARN"}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, {"announce": "PASS"}),
        ({"announced": ["/dns4/node.example/tcp/9000"]}, {"announce": "PASS"}),
        ({"announced": ["/ip4/192.168.1.2/tcp/9000"]}, {"announce": "WARN"}),
        ({"announced": []}, {"announce": "WARN"}),
        ({"nat_ip": "9.9.9.9"}, {"nat": "WARN"}),
    ],
)
def test_what_is_announced_must_be_dialable(changes, expected) -> None:
    assert verdicts(net_doctor.announcing({**WELL, **changes})) == expected


@pytest.mark.parametrize(("count", "verdict"), [(0, "FAIL"), (2, "WARN"), (3, "PASS")])
def test_peers_are_counted(count: int, verdict: str) -> None:
    (found,) = net_doctor.peers({**WELL, "peers": count}, DIALS)
    assert found.verdict == verdict
    assert "4 connected, 1 timeout" in found.found


def test_failed_dials_are_explained_the_commonest_first() -> None:
    counted = {"connected": 1, "timeout": 2, "security": 5, "full": 1, "banned": 9}
    found = list(net_doctor.failed_dials(counted, []))
    assert [one.found.split(":")[0] for one in found] == ["5 security", "2 timeout"]
    assert "/p2p/" in found[0].fix
    (_, _, refused) = net_doctor.failed_dials({**counted, "banned": 1}, [{"reason": "mute"}])
    assert "net bans" in refused.fix
    assert net_doctor.DIAL_FAULTS.keys() <= OUTCOME_WORDS.keys()


def test_another_genesis_is_this_nodes_fault_when_nobody_is_left() -> None:
    info = {**WELL, "genesis_hash": "ab" * 32}
    (found,) = net_doctor.strangers({**info, "peers": 0}, 1)
    assert (found.verdict, "1 peer(s) have another genesis" in found.found) == ("FAIL", True)
    assert verdicts(net_doctor.strangers(info, 2)) == {"genesis": "WARN"}
    assert not list(net_doctor.strangers(info, 0))


def test_a_taken_port_is_told_of_a_node_that_does_not_answer(tmp_path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        listen = [f"/ip4/127.0.0.1/tcp/{port}"]
        config = load_config(tmp_path, {"network.listen": listen}, environ={})
        (found,) = net_doctor.taken(config, net_doctor.may_listen)
        assert (found.verdict, str(port) in found.found) == ("FAIL", True)
    assert not list(net_doctor.taken(config, net_doctor.may_listen))


def test_refused_peers_and_bans_are_told() -> None:
    refused = {"dials": {}, "inbound_refused": {"full": 3, "handshake": 9}}
    assert verdicts(net_doctor.peers(WELL, refused)) == {"peers": "PASS", "refused": "WARN"}
    assert verdicts(net_doctor.banned([])) == {"bans": "PASS"}
    assert verdicts(net_doctor.banned([{"reason": "mute"}])) == {"bans": "WARN"}
    assert verdicts(net_doctor.table(WELL)) == {"dht": "PASS"}
    assert verdicts(net_doctor.table({**WELL, "known_peers": 0})) == {"dht": "WARN"}


def test_bootnodes_are_tried(tmp_path) -> None:
    address = "/ip4/192.0.2.1/tcp/9000/p2p/12D3KooWEr7Wv6ED1CgTwHJgM3HAVQmTbTqSkqxvA5nNQ8DckCnJ"
    config = load_config(tmp_path, {"network.bootstrap": [address]}, environ={})
    (found,) = net_doctor.bootnodes(config, shut_door)
    assert (found.verdict, found.found) == ("WARN", "192.0.2.1:9000: Connection refused")
    (found,) = net_doctor.bootnodes(config, open_door)
    assert found.verdict == "PASS"
    assert verdicts(net_doctor.bootnodes(load_config(tmp_path, environ={}), open_door)) == {
        "bootnodes": "WARN"
    }
    local = load_config(tmp_path, environ={"GRIDTOKENX_NETWORK__MDNS": "true"})
    assert verdicts(net_doctor.bootnodes(local, open_door)) == {"bootnodes": "PASS"}


@pytest.mark.parametrize(
    ("row", "verdict"),
    [
        ({"name": "clock", "ok": True, "value": "12 ms, 3 validators heard"}, "PASS"),
        ({"name": "clock", "ok": True, "value": "-900 ms, 3 validators heard"}, "WARN"),
        ({"name": "clock", "ok": False, "value": "5000 ms, 3 validators heard"}, "FAIL"),
        ({"name": "clock", "ok": True, "value": "0 ms, 0 validators heard"}, "WARN"),
        ({"name": "clock", "ok": True, "value": "9 ms, 3 validators heard, slow"}, "WARN"),
        ({"name": "disk", "ok": True, "value": "1"}, "WARN"),
    ],
)
def test_the_whole_report(run, canned_node, row, verdict) -> None:
    canned_node.results = {
        "net_getInfo": {**WELL, "listen": []},
        "net_getDialStats": DIALS,
        "net_getBans": {"items": []},
    }
    canned_node.pages["/ready"] = (503, json.dumps({"checks": [row]}).encode())
    ran = run("--rpc", canned_node.url, "net", "doctor", "--json")
    assert ran.code == (ExitCode.REFUSED if verdict == "FAIL" else 0)
    found = {one["check"]: one["verdict"] for one in ran.document["findings"]}
    assert found["clock"] == verdict
    assert ran.document["healthy"] is (verdict != "FAIL")


def test_without_a_node_it_says_so_and_tries_the_bootnodes(run) -> None:
    ran = run("--rpc", "http://127.0.0.1:1", "net", "doctor")
    assert ran.code == ExitCode.REFUSED
    assert ran.stdout.startswith("FAIL  node")
    assert "bootnodes" in ran.stdout
