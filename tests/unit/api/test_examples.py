"""Every field's example is one that the field can have."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gridtokenx.api.methods import METHODS
from gridtokenx.api.shapes import read_json, write_json
from tests.support.answers import whole

ANSWERS = {method.name: method.answer for method in METHODS if isinstance(method.answer, type)}


@pytest.mark.parametrize("name", ANSWERS)
def test_what_the_examples_say_can_be_read_and_written_as_it_was(name: str) -> None:
    try:
        document: dict[str, Any] = whole(ANSWERS[name])
    except AssertionError as lacking:
        pytest.skip(str(lacking))
    assert json.loads(write_json(read_json(ANSWERS[name], document))) == document
