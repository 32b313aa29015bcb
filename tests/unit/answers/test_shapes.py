"""Typed answers: the JSON they are written as, and what is made of JSON that is not theirs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from enum import IntEnum
from itertools import chain, islice
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gridtokenx.answers.fields import answer, count
from gridtokenx.answers.network import Topology, TopologyNode
from gridtokenx.answers.shapes import Rule, read_json, write_json
from gridtokenx.answers.shown import READINGS, ShownEvents, ShownPayload
from gridtokenx.api.methods import METHOD_BY_NAME
from gridtokenx.grid.model import MeterReading, ReadingRefused, SubmitReadings
from gridtokenx.ledger.model import Asset, Transfer
from gridtokenx.primitives.document import to_document
from gridtokenx.primitives.errors import ErrorCode
from gridtokenx.primitives.types import Address, format_address
from gridtokenx.registry.model import Organisation, OrganisationKind
from tests.support.golden import WORLDS, asking, load


class Colour(IntEnum):
    RED = 1
    BLUE = 2


@answer
class Row:
    name: Annotated[str, Rule("a name")]
    size: Annotated[int, Rule("as text")]
    rows: Annotated[int | None, count("as a number", "rows")] = None


@answer
class Head:
    height: Annotated[int, Rule("first")]


@answer
class Everything(Row, Head):
    """Its fields stand in the order of bases: those of the last one first."""

    who: Annotated[Address, Rule("an account")]
    raw: Annotated[bytes | None, Rule("hex")]
    yes: Annotated[bool, Rule("a bool")]
    colour: Annotated[Colour, Rule("an enum by name")]
    asset: Annotated[Asset, Rule("an enum of the wire")]
    word: Annotated[Literal["one", "two"], Rule("words")]
    part: Annotated[float, Rule("a float")]
    shares: Annotated[dict[str, int], Rule("by name")]
    inner: tuple[Row, ...]
    mixed: Annotated[tuple[bytes | Row, ...], Rule("hashes or rows")]
    payload: Annotated[Transfer | None, Rule("of the wire")]
    anything: Annotated[Any, Rule("JSON")]


ROWS = st.builds(
    Row, name=st.text(max_size=8), size=st.integers(), rows=st.none() | st.integers(-9, 9)
)
ANSWERS = st.builds(
    Everything,
    height=st.integers(),
    name=st.text(),
    size=st.integers(),
    rows=st.none() | st.integers(0, 2**53),
    who=st.binary(min_size=32, max_size=32),
    raw=st.none() | st.binary(),
    yes=st.booleans(),
    colour=st.sampled_from(Colour),
    asset=st.sampled_from(Asset),
    word=st.sampled_from(["one", "two"]),
    part=st.floats(allow_nan=False, allow_infinity=False),
    shares=st.dictionaries(st.text(max_size=3), st.integers(), max_size=3),
    inner=st.lists(ROWS, max_size=3).map(tuple),
    mixed=st.lists(st.binary() | ROWS, max_size=3).map(tuple),
    payload=st.none() | st.just(Transfer(bytes(32), Asset.GTX, 7)),
    anything=st.recursive(st.none() | st.text() | st.integers(), lambda one: st.lists(one)),
)


def by_hand(row: Row) -> dict[str, Any]:
    return {"name": row.name, "size": str(row.size), "rows": row.rows}


@given(ANSWERS)
def test_an_answer_is_written_as_json_and_read_back(found: Everything) -> None:
    expected = {
        "height": str(found.height),
        **by_hand(found),
        "who": format_address(found.who),
        "raw": None if found.raw is None else found.raw.hex(),
        "yes": found.yes,
        "colour": found.colour.name.lower(),
        "asset": found.asset.name.lower(),
        "word": found.word,
        "part": found.part,
        "shares": {name: str(share) for name, share in found.shares.items()},
        "inner": [by_hand(row) for row in found.inner],
        "mixed": [one.hex() if isinstance(one, bytes) else by_hand(one) for one in found.mixed],
        "payload": found.payload and to_document(found.payload, text_integers=True),
        "anything": found.anything,
    }
    text = write_json(found)
    assert text == json.dumps(expected, separators=(",", ":"))
    assert read_json(Everything, json.loads(text)) == found


GOOD = {"name": "x", "size": "7", "rows": None}


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        ([], "is no object"),
        ({"name": "x", "size": "7"}, "has no rows"),
        ({**GOOD, "size": 7}, "has size that is not a whole number as text"),
        ({**GOOD, "size": "7.0"}, "has size that is not a whole number as text"),
        ({**GOOD, "rows": True}, "has rows that is not a number"),
        ({**GOOD, "name": None}, "has name that is not text"),
    ],
)
def test_json_that_is_no_such_answer_is_told_where(bad: Any, why: str) -> None:
    with pytest.raises(ValueError, match="^" + why):
        read_json(Row, bad)
    assert read_json(Row, {**GOOD, "of a later version": 1}) == Row(name="x", size=7)


def test_a_path_leads_to_the_fault() -> None:
    node = {"peer_id": "a", "node_id": None, "organisation": 7, "links": 1}
    told = "has nodes that has organisation that is not text"
    with pytest.raises(ValueError, match=told):
        read_json(Topology, {"self": "a", "nodes": [node], "links": []})


def test_a_value_of_the_wrong_type_is_never_written() -> None:
    row = Row(name="x", size=7)
    wrong: tuple[dict[str, Any], ...] = ({"name": 7}, {"name": None}, {"size": "7"}, {"rows": "7"})
    for change in wrong:
        with pytest.raises((TypeError, AttributeError)):
            write_json(replace(row, **change))


def test_a_field_may_be_called_self() -> None:
    one = TopologyNode(peer_id="a", node_id=None, organisation=None, links=1)
    found = Topology(self="a", nodes=(one,), links=(("a", "b"),))
    assert json.loads(write_json(found)) == json.loads(json.dumps(asdict(found)))


@answer
class Masked:
    payload: ShownPayload
    events: ShownEvents


def test_what_a_mask_hides_is_null_however_deep() -> None:
    reading = MeterReading(bytes(32), 7, 11, 12, 1, bytes(64))
    refused = ReadingRefused(bytes(32), 7, int(ErrorCode.BAD_READING), "it showed 12")
    text = write_json(Masked(payload=SubmitReadings((reading,)), events=(refused,)))
    found = read_json(Masked, json.loads(text))
    (shown,) = found.payload["readings"]
    assert [shown[name] for name in READINGS.hidden["meter_reading"]] == [None, None]
    assert (shown["kind"], shown["slot"]) == ("meter_reading", "7")
    (event,) = found.events
    assert (event["detail"], event["reason"]) == (None, "bad_reading")
    assert next(iter(event)) == "kind"


@answer
class Holder:
    inner: Organisation


def test_a_kind_of_its_own_stands_where_that_of_the_class_would() -> None:
    inner = Organisation("mea", OrganisationKind.DISTRIBUTOR, bytes(32), bytes(32))
    text = write_json(Holder(inner=inner))
    expected = {"inner": to_document(inner, text_integers=True)}
    assert text == json.dumps(expected, separators=(",", ":"))


WRONG = (None, True, 7, -1.5, "", "zz", "1" * 99, [], [[]], {}, {"kind": []}, {"kind": "zz"})


RECORDED = load()


def answered(asked: str, told: str) -> str | None:
    """The method of a call that was answered with a result."""
    if not asked.startswith("POST /rpc {") or '"result":' not in told:
        return None
    method: str = json.loads(asked.removeprefix("POST /rpc "))["method"]
    return method


METHODS = {answered(*one) for exchanges in RECORDED.values() for one in exchanges} - {None}


@pytest.fixture(scope="module")
def longest(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Method -> its longest answer in the worlds of the recorded ones, asked all that they were."""
    found: dict[str, str] = {}
    for name, world in WORLDS.items():
        for stage, node, _ in world(tmp_path_factory.mktemp(name)):
            with asking(node) as ask:
                for asked, _ in RECORDED[stage]:
                    told = ask(asked)
                    if method := answered(asked, told):
                        found[method] = max(found.get(method, ""), told, key=len)
    return {name: json.loads(told.partition(" ")[2])["result"] for name, told in found.items()}


def spoilt(document: Any) -> Iterator[Any]:
    """The document with one of its parts wrong, each in turn."""
    parts = document.items() if isinstance(document, dict) else enumerate(document)
    for key, part in list(parts)[:40]:
        inner = spoilt(part) if isinstance(part, dict | list) else iter(())
        for wrong in chain(WRONG, inner):
            copy = document.copy()
            copy[key] = wrong
            yield copy


@pytest.mark.parametrize("method", sorted(METHODS))
def test_whatever_a_node_answers_is_read_or_refused(method: str, longest: dict[str, Any]) -> None:
    """A node that lies makes no client fall over."""
    cls, found = METHOD_BY_NAME[method].answer, longest[method]
    read_json(cls, found)
    refused = 0
    for one in islice(spoilt(found), 500):
        try:
            read_json(cls, one)
        except ValueError:
            refused += 1
    assert refused > 0
