"""The generated documents are valid, current and complete."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import validate

from gridtokenx.api.__main__ import build_files
from gridtokenx.api.errors import TransportCode
from gridtokenx.api.json_schema import unit_of
from gridtokenx.api.methods import METHODS
from gridtokenx.api.schema import build_openapi, build_openrpc
from gridtokenx.api.sentences import ERROR_SENTENCES, TRANSPORT_SENTENCES
from gridtokenx.primitives.errors import ErrorCode

PROTOCOLS = Path(__file__).parents[3] / "protocols"
SEED_ROUTES = (
    ("get", "/status"),
    ("get", "/blocks/{height}"),
    ("get", "/blocks/hash/{hash}"),
    ("post", "/transactions"),
    ("get", "/transactions/{id}"),
    ("post", "/energy/orders"),
    ("get", "/energy/orders"),
    ("get", "/energy/stats"),
    ("get", "/grid/status"),
    ("get", "/accounts/{address}"),
    ("get", "/accounts/{address}/balance"),
)


@pytest.mark.parametrize("name", sorted(build_files()))
def test_committed_files_are_current(name: str) -> None:
    """After a change of the table or the codes: `python -m gridtokenx.api`."""
    assert (PROTOCOLS / name).read_text(encoding="utf-8") == build_files()[name]


def test_openapi_is_valid_and_has_the_seed_routes() -> None:
    document = build_openapi(METHODS)
    validate(document)
    for verb, path in SEED_ROUTES:
        assert verb in document["paths"][f"/api/v1{path}"]
    operations = [one for item in document["paths"].values() for one in item.values()]
    ids = [operation["operationId"] for operation in operations]
    assert len(ids) == len(set(ids))


def test_openrpc_describes_every_method_with_valid_schemas() -> None:
    document = json.loads(json.dumps(build_openrpc(METHODS)))
    assert [one["name"] for one in document["methods"]] == [one.name for one in METHODS]
    for method in document["methods"]:
        Draft202012Validator.check_schema(method["result"]["schema"])
        required = [param["required"] for param in method["params"]]
        assert required == sorted(required, reverse=True), "optional parameters come last"
        for param in method["params"]:
            Draft202012Validator.check_schema(param["schema"])


def test_every_code_has_a_sentence() -> None:
    assert set(ERROR_SENTENCES) == set(ErrorCode)
    assert set(TRANSPORT_SENTENCES) == set(TransportCode)
    for sentence in (*ERROR_SENTENCES.values(), *TRANSPORT_SENTENCES.values()):
        assert sentence.endswith(".")


ANY_JSON = {"FailureData.details", "OpenRpcDocument.info", "OpenRpcDocument.components"}
ANY_JSON |= {"OpenRpcDocument.methods"}


def test_every_field_of_every_answer_is_described() -> None:
    """Its type to the last leaf, its unit if it is a number, and an example that is one."""
    document = json.loads(json.dumps(build_openrpc(METHODS)))
    components = document["components"]
    for name, schema in components["schemas"].items():
        assert schema["description"], name
        for key, field in schema["properties"].items():
            where = f"{name}.{key}"
            if where in ANY_JSON or key == "kind":
                continue
            kinds = leaves(field)
            assert kinds, f"{where} is of no type"
            if kinds in ({"object"}, {"null"}):
                continue  # Described by its own name, or never there.
            assert field["examples"], f"{where} has no example"
            for example in field["examples"]:
                jsonschema.validate(example, {**field, "components": components})
            assert "number" not in kinds or field.get("x-unit"), f"{where} has no unit"


def test_every_parameter_is_described() -> None:
    for method in METHODS:
        for param in method.params:
            where = f"{method.name}.{param.name}"
            assert param.doc, where
            assert param.example is not None, f"{where} has no example"
            param.kind.read(param.example)
            is_number = param.kind.schema.get("oneOf", [{}])[0].get("type") == "integer"
            assert not is_number or unit_of(param.name) or param.unit, f"{where} has no unit"


def leaves(schema: dict[str, Any]) -> set[str]:
    """What a schema is made of; empty where anything goes."""
    if "$ref" in schema:
        return {"object"}
    if "anyOf" in schema:
        return {one for inner in schema["anyOf"] for one in leaves(inner)} - {"null"} or {"null"}
    if "items" in schema:
        return leaves(schema["items"])
    if isinstance(schema.get("additionalProperties"), dict):
        return leaves(schema["additionalProperties"])
    if schema.get("pattern") == "^-?[0-9]+$" or schema.get("type") in ("integer", "number"):
        return {"number"}
    return {schema["type"]} if schema.get("type") in ("string", "boolean", "null") else set()
