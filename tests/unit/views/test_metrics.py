"""Logs go where the settings say, in the form they say, once."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import structlog

from gridtokenx.home.settings import FileLoggingSettings, LoggingSettings
from gridtokenx.views.metrics import close_logging, configure_logging


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    for handler in before:
        root.removeHandler(handler)
    yield
    close_logging()
    structlog.reset_defaults()
    root.setLevel(level)
    for handler in before:
        root.addHandler(handler)


def test_json_on_stderr_and_in_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "logs" / "node.log"
    configure_logging(LoggingSettings(level="info", format="json"), path)
    structlog.get_logger("a").info("block.finalized", height=7)
    structlog.get_logger("a").debug("peer.left")
    logging.getLogger("libp2p.swarm").info("chatter")
    logging.getLogger("libp2p.swarm").warning("trouble %d", 5)
    printed = capsys.readouterr()
    assert printed.out == ""
    rows = [json.loads(line) for line in printed.err.splitlines()]
    assert [row["event"] for row in rows] == ["block.finalized", "trouble 5"]
    assert rows[0]["height"] == 7
    assert rows[0]["level"] == "info"
    close_logging()
    filed = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["event"] for row in filed] == [row["event"] for row in rows]


def test_pretty_lines_are_for_people_and_the_file_stays_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "node.log"
    settings = LoggingSettings(level="debug", format="pretty")
    configure_logging(settings, path)
    try:
        raise ZeroDivisionError("why")
    except ZeroDivisionError:
        structlog.get_logger("a").error("api.fault", exc_info=True)
    text = capsys.readouterr().err
    assert "api.fault" in text
    assert "ZeroDivisionError" in text
    close_logging()
    assert "why" in json.loads(path.read_text())["exception"]


def test_configuring_twice_does_not_double_lines(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = replace(LoggingSettings(), file_logging=FileLoggingSettings(enabled=False))
    for _ in range(3):
        configure_logging(settings, tmp_path / "unused.log")
    structlog.get_logger("a").info("once")
    assert capsys.readouterr().err.count("once") == 1
    assert not (tmp_path / "unused.log").exists()


def test_what_a_peer_says_is_only_words_on_a_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    configure_logging(LoggingSettings())
    try:
        log = structlog.get_logger("test")
        log.info("peer\x1b[2J", agent="\x1b]0;owned\x07", several="a \x1b[2J\u202e", ok="ก")
        logging.getLogger("library").warning("said \x9b2J")
        try:
            raise ValueError("\x1b[2J")
        except ValueError:
            log.exception("node.failed")
    finally:
        close_logging()
    told = capsys.readouterr().err
    assert told.replace("\n", "").isprintable()
    assert r"agent=\x1b]0;owned\x07" in told
    assert r"said \x9b2J" in told
    assert r"ValueError: \x1b[2J" in told
    assert "ok=ก" in told
