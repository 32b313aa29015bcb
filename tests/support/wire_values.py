"""Every wire class of the package, and Hypothesis strategies for its values from its type hints."""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
import sys
from enum import Enum
from functools import cache
from typing import Any, get_args, get_origin, get_type_hints

from hypothesis import strategies as st

import gridtokenx
from gridtokenx.primitives import codec
from gridtokenx.primitives.errors import Rejected
from gridtokenx.primitives.state import Table

# Packages with wire classes; the others would only cost import time.
OWNERS = (
    "primitives",
    "ledger",
    "registry",
    "grid",
    "trading",
    "staking",
    "governance",
    "consensus",
    "chain",
    "node.protocol",
)


def wire_classes() -> dict[int, type]:
    """Tag to class, of the package alone."""
    for owner in OWNERS:
        module = importlib.import_module(f"gridtokenx.{owner}")
        for entry in pkgutil.iter_modules(getattr(module, "__path__", [])):
            importlib.import_module(f"{module.__name__}.{entry.name}")
    return {
        tag: cls
        for tag, cls in sorted(codec._CLASSES.items())
        if cls.__module__.startswith(f"{gridtokenx.__name__}.")
    }


def tables() -> list[Table[Any]]:
    """Every table of the state, in the order of their prefixes."""
    wire_classes()
    modules = [module for name, module in sys.modules.items() if name.startswith("gridtokenx.")]
    found = {
        one.prefix: one
        for module in modules
        for one in vars(module).values()
        if isinstance(one, Table)
    }
    return [found[prefix] for prefix in sorted(found)]


@cache
def values_of(cls: type) -> st.SearchStrategy:
    """Values of one wire class; those that its `__post_init__` refuses are left out."""
    hints = get_type_hints(cls, include_extras=True)
    fields = {
        field.name: _values(hints[field.name]) for field in dataclasses.fields(cls) if field.init
    }

    def build(arguments: dict) -> Any:
        try:
            return cls(**arguments)
        except Rejected:
            return None

    return st.fixed_dictionaries(fields).map(build).filter(lambda value: value is not None)


def _values(hint: Any) -> st.SearchStrategy:
    bare, limit = codec.bare_hint(hint)
    if get_origin(bare) is tuple:
        low, high = (0, 3) if limit is None else (limit.low, max(limit.low, min(limit.high, 3)))
        return st.lists(_values(get_args(bare)[0]), min_size=low, max_size=high).map(tuple)
    if codec.is_union(bare):
        return st.one_of([_values(member) for member in get_args(bare)])
    if bare is type(None):
        return st.none()
    if codec.is_wire(bare):
        return values_of(bare)
    if issubclass(bare, Enum):
        return st.sampled_from(list(bare))
    if bare is bool:
        return st.booleans()
    if bare is int:
        low, high = (0, codec.MAX_INT) if limit is None else (limit.low, limit.high)
        edges = [edge for edge in (low, low + 1, 23, 24, 255, 256, high) if low <= edge <= high]
        return st.sampled_from(edges) | st.integers(low, high)
    low, high = (0, 40) if limit is None else (limit.low, max(limit.low, min(limit.high, 40)))
    if bare is bytes:
        return st.binary(min_size=low, max_size=high)
    return st.text(st.characters(exclude_categories=["Cs"]), min_size=low, max_size=high)
