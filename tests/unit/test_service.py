"""What supervisors are told of a node's exit codes: one table in the code, the page, the unit."""

from __future__ import annotations

import configparser
import re
from pathlib import Path

from gridtokenx.cli.node_end import PERMANENT
from gridtokenx.cli.output import ExitCode

ROOT = Path(__file__).parents[2]
UNIT = ROOT / "docs" / "gridtokenx.service"
PAGE = (ROOT / "docs" / "node-operation.md").read_text()


class _Unit(configparser.ConfigParser):
    def optionxform(self, name: str) -> str:
        return name


def unit() -> configparser.ConfigParser:
    """One setting is given twice, which adds up; the last one is seen here."""
    parser = _Unit(strict=False, interpolation=None)
    parser.read_string(UNIT.read_text())
    return parser


def told_on_the_page() -> dict[int, str]:
    """Whether to start again, by exit code, from the table under "As a service"."""
    section = PAGE.partition("### As a service")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (\d+) \|.*\| (.+?) \|$", section, re.MULTILINE)
    return {int(code): again for code, again in rows}


def test_the_unit_restarts_after_all_but_permanent_faults() -> None:
    service = unit()["Service"]
    assert service["Restart"] == "on-failure"
    given = [int(word) for word in service["RestartPreventExitStatus"].split()]
    assert given == sorted(PERMANENT)


def test_the_page_says_the_same() -> None:
    told = told_on_the_page()
    assert set(told) == {ExitCode.OK, *PERMANENT, ExitCode.RETRY_LATER}
    assert [code for code, again in told.items() if again.startswith(("no", "after"))] == sorted(
        PERMANENT
    )
    assert told[ExitCode.RETRY_LATER].startswith("yes")


def test_a_fault_that_comes_back_every_time_is_not_tried_for_ever() -> None:
    limits = unit()["Unit"]
    starts, seconds = int(limits["StartLimitBurst"]), int(limits["StartLimitIntervalSec"])
    pause = int(unit()["Service"]["RestartSec"])
    assert 0 < starts * pause < seconds  # Else the limit would never be met.


def test_the_unit_runs_the_program_with_little_besides_its_home() -> None:
    service = unit()["Service"]
    assert service["ExecStart"].split()[1:] == ["start"]
    assert service["ExecStart"].split()[0].endswith("/.venv/bin/gridtokenx")
    home = service["Environment"].partition("GRIDTOKENX_HOME=")[2]
    assert home == f"/var/lib/{service['StateDirectory']}"  # systemd makes it writable.
    assert (service["StateDirectoryMode"], service["UMask"]) == ("0700", "0077")
    assert int(service["LimitNOFILE"]) >= 8_192
    assert service["NoNewPrivileges"] == "true"
    assert service["ProtectSystem"] == "strict"
    assert service["CapabilityBoundingSet"] == ""
    # Interfaces are listed over netlink, the admin socket is a Unix one.
    assert set(service["RestrictAddressFamilies"].split()) == {
        *("AF_INET", "AF_INET6", "AF_UNIX", "AF_NETLINK")
    }
