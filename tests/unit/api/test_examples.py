"""Every field's example is one that the field can have: of answers without wire values."""

from __future__ import annotations

import json

import pytest

from gridtokenx.answers.shapes import read_json, write_json
from gridtokenx.api.methods import METHODS
from tests.support.answers import has_examples, whole

ANSWERS = {
    method.name: method.answer
    for method in METHODS
    if isinstance(method.answer, type) and has_examples(method.answer)
}


@pytest.mark.parametrize("name", ANSWERS)
def test_what_the_examples_say_can_be_read_and_written_as_it_was(name: str) -> None:
    document = whole(ANSWERS[name])
    assert json.loads(write_json(read_json(ANSWERS[name], document))) == document


def test_most_answers_can_be_made_of_examples_alone() -> None:
    assert len(ANSWERS) > 40
