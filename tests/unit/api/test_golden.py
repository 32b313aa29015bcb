"""The bytes of the API's answers stay as they are, or are recorded anew: `support.golden`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.golden import WORLDS, asking, load, shortened

RECORDED = load()


@pytest.mark.parametrize("world", WORLDS)
def test_the_answers_are_those_on_file(world: str, tmp_path: Path) -> None:
    """For a change that is meant: `python -m tests.support.golden`."""
    seen = 0
    for name, node, _ in WORLDS[world](tmp_path):
        with asking(node) as ask:
            for asked, answered in RECORDED[name]:
                told = ask(asked)
                assert shortened(told) == answered, (name, asked, told)
                seen += 1
    assert seen > 300
