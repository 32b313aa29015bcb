"""One call of a method as a client sees its answer, held against the method's schema."""

from __future__ import annotations

import asyncio
import inspect
import json
from typing import Any

import jsonschema

from gridtokenx.answers.shapes import read_json, write_json
from gridtokenx.api.context import Context
from gridtokenx.api.methods import METHOD_BY_NAME
from gridtokenx.api.schema import answer_schema
from tests.support.api_node import MemoryNode

_SCHEMAS: dict[str, dict[str, Any]] = {}


def call(node: MemoryNode, method_name: str, /, **raw: Any) -> Any:
    """The method's answer in JSON. It has the method's schema, and is read back as it was."""
    method = METHOD_BY_NAME[method_name]
    found = answer(Context(node), method_name, **raw)
    if method_name not in _SCHEMAS:
        _SCHEMAS[method_name] = answer_schema(method)
    jsonschema.validate(found, _SCHEMAS[method_name])
    read_json(method.answer, found)
    return found


def answer(context: Any, method_name: str, /, **raw: Any) -> Any:
    """The method's answer in JSON, with as much of a context as it looks at."""
    method = METHOD_BY_NAME[method_name]

    async def run() -> Any:
        found = method.handler(context, method.arguments(raw))
        return await found if inspect.isawaitable(found) else found

    return json.loads(write_json(asyncio.run(run())))
