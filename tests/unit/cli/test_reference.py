"""docs/cli.md is the program's own help."""

import runpy
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]


def test_the_page_of_commands_is_of_today() -> None:
    made = runpy.run_path(str(ROOT / "scripts" / "commands"))["page"]()
    written = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    assert written == made, "run: .venv/bin/python scripts/commands"
