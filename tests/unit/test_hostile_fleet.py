"""The hostile fleet's arithmetic, its catalogue and its command line; the attacks themselves run in
`tests/integration/test_hostile_fleet.py` and `scripts/hostile`.
"""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

from scripts.hostile_fleet import __main__ as program  # noqa: E402
from scripts.hostile_fleet import table  # noqa: E402
from scripts.hostile_fleet.attack import NEW  # noqa: E402
from scripts.hostile_fleet.catalogue import ATTACKS, chosen  # noqa: E402
from scripts.hostile_fleet.catalogue import table as attack_table  # noqa: E402
from scripts.hostile_fleet.honest import NEVER_MS, Finality  # noqa: E402
from scripts.hostile_fleet.measure import (  # noqa: E402
    Blocks,
    Log,
    NodeUse,
    blocks_of,
    keeps_pace,
    slowest,
)
from scripts.hostile_fleet.phases import RECOVERY_S, Outcome  # noqa: E402

REVIEW = {
    *("C1", "C2", "C3", "C4", "H1", "H2", "H3", "H4", "M1", "M2", "M3", "M5", "M6", "M8"),
    *("L1", "L5", "L10", "L11", "L12", "sound", NEW),
}


# -- The catalogue ---------------------------------------------------------------------------------


def test_the_page_has_every_attack() -> None:
    page = (ROOT / "docs" / "hostile.md").read_text(encoding="utf-8")
    made = page.partition("<!-- attacks: made by scripts/hostile --list -->\n")[2]
    assert made.partition("<!-- end of attacks -->")[0] == attack_table()


def test_every_finding_that_strangers_can_act_on_is_attacked() -> None:
    sources = [one.source for one in ATTACKS.values()]
    assert set(sources) == REVIEW
    assert sources.count(NEW) >= 10


def test_every_attack_says_in_one_line_what_it_does() -> None:
    for one in ATTACKS.values():
        assert one.what.endswith("."), one.name
        assert "|" not in one.what
        assert len(one.name) < table.NAME_WIDTH, one.name


def test_unknown_names_are_named() -> None:
    with pytest.raises(ValueError, match="no-such, nor-this"):
        chosen(["clock-liars", "nor-this", "no-such"])
    assert [one.name for one in chosen(["far-votes", "far-votes"])] == ["far-votes"]
    assert chosen([]) == list(ATTACKS.values())


# -- The command line ------------------------------------------------------------------------------


def test_wrong_arguments_are_told_before_anything_starts(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for words, said in (
        (["--only", "nonsense"], "no such attack: nonsense"),
        (["--door", "back"], "no attack on 'back'"),
        (["--seconds", "1"], "5 to 3,600 seconds"),
        (["--orders", "0"], "1 to 1,000 honest orders"),
        (["--json", "/no/such/folder/x.json"], "there is no folder for"),
    ):
        assert program.main(words) == program.USAGE
        assert said in capsys.readouterr().err


def test_the_list_is_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert program.main(["--list"]) == program.OK
    assert capsys.readouterr().out == attack_table()


# -- Measuring -------------------------------------------------------------------------------------


def test_blocks_at_a_steady_pace_are_the_same_in_every_window() -> None:
    times = [100 + number + (number % 3) * 0.1 for number in range(100)]
    counted = {blocks_of(times, 110 + at / 10, 60, 1.0).decided for at in range(20)}
    assert counted == {60}


def test_a_standstill_is_a_gap_also_at_the_end() -> None:
    assert blocks_of([100, 101, 102, 107, 108], 101.2, 10, 1.0) == Blocks(3, 5.0)
    assert blocks_of([100, 101], 101.5, 10, 1.0) == Blocks(0, 10.5)
    assert blocks_of([], 50, 10, 1.0) == Blocks(0, 10.5)
    assert slowest([Blocks(9, 1.0), Blocks(7, 1.5), Blocks(8, 4.0)]) == Blocks(7, 4.0)


def test_pace_is_four_blocks_one_block_time_apart() -> None:
    assert keeps_pace([1.0, 9.0, 10.0, 11.2, 12.0], 1.0)
    assert not keeps_pace([9.0, 10.0, 11.0], 1.0)
    assert not keeps_pace([9.0, 10.0, 12.0, 13.0], 1.0)


def test_a_log_tells_its_blocks_and_faults_from_where_it_was_opened(tmp_path: Path) -> None:
    path = tmp_path / "node.log"
    line = "2026-12-01T10:00:0{}.5Z [info     ] block.finalized   chain={} height={} view=0\n"
    path.write_text(line.format(0, "MET", 7) + "2026 [error    ] an old fault\n")
    log = Log(path)
    with path.open("a") as file:
        file.write(line.format(1, "MET", 8) + line.format(2, "TH", 3))
        file.write("2026 \x1b[31m[error    ]\x1b[0m a new fault\n2026 [warning  ] no error\n")
    decided = log.decided()
    assert {chain: list(heights) for chain, heights in decided.items()} == {"MET": [8], "TH": [3]}
    assert decided["TH"][3] - decided["MET"][8] == 1.0
    assert [fault.partition("] ")[2] for fault in log.faults()] == ["a new fault"]


# -- Judging ---------------------------------------------------------------------------------------


def outcome(**changes: object) -> Outcome:
    fields: dict[str, object] = {
        "name": "one",
        "seconds": 60.0,
        "blocks": {"MET": Blocks(60, 1.1), "TH": Blocks(60, 1.1)},
        "finality": Finality(3_000, 0, 0, 900, 1_400),
        "nodes": {"n0": NodeUse(100, 110, 105, probes=100, answered=100)},
        "faults": [],
        "sent_bytes": 5 << 20,
        "attacker_cpu_s": 2.0,
        "attacks": {"one": {"connected": 3}},
        "recovery_s": 3.0,
    }
    return Outcome(**{**fields, **changes})


@pytest.mark.parametrize(
    ("changes", "broken"),
    [
        ({}, []),
        ({"blocks": {"MET": Blocks(59, 2.0), "TH": Blocks(60, 1.0)}}, []),
        ({"blocks": {"MET": Blocks(58, 2.0), "TH": Blocks(60, 1.0)}}, ["blocks of MET"]),
        ({"finality": Finality(3_000, 0, 0, 900, 3_001)}, ["p99"]),
        ({"finality": Finality(3_000, 0, 1, 900, 1_400)}, ["refused"]),
        ({"nodes": {"n0": NodeUse(100, 174, 105)}}, []),
        ({"nodes": {"n0": NodeUse(100, 185, 105)}}, ["memory"]),
        ({"nodes": {"n0": NodeUse(100, 160, 150)}}, ["memory kept"]),
        ({"nodes": {"n0": NodeUse(100, 110, 105, probes=100, answered=99)}}, ["health"]),
        ({"nodes": {"n0": NodeUse(100, 110, 105, died=True)}}, ["died"]),
        ({"faults": ["[error] x"]}, ["log"]),
        ({"recovery_s": RECOVERY_S}, ["no recovery"]),
        ({"attacks": {"one": {"FAILED TypeError()": 1}}}, ["attack failed"]),
    ],
)
def test_each_goal_is_judged(changes: dict[str, object], broken: list[str]) -> None:
    one = outcome(**changes)
    one.judge(outcome())
    assert one.broken == broken


def test_a_row_stands_under_its_head() -> None:
    one = outcome(name="all 100 together", finality=Finality(10, 3, 0, 900, NEVER_MS))
    one.judge(outcome())
    head, row = table.header(["MET", "TH"]), table.row(one)
    assert row.index("p99") == row.rindex("p99")  # The verdict alone names it.
    assert row.split() == [
        *("all", "100", "together", "60", "60", "1.1", "900", "never", "10", "5", "0", "0"),
        *("100/100", "5", "2", "p99"),
    ]
    for title, figure in (("p50", "900"), ("p99", "never"), ("verdict", "p99")):
        if title == "verdict":
            assert head.index(title) == row.index(figure)
        else:
            assert head.index(title) + len(title) == row.index(figure) + len(figure)
