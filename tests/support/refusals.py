"""What is refused, as tests say it: `refused(code, rule, ...)`, or `with refusing(code): ...`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from gridtokenx.primitives.errors import ErrorCode, Rejected


def refused(code: ErrorCode, rule: Callable[..., Any], *arguments: Any, **named: Any) -> str:
    """The sentence with which a rule refuses these arguments."""
    with pytest.raises(Rejected) as caught:
        rule(*arguments, **named)
    assert caught.value.code is code
    return caught.value.detail


def refusing(code: ErrorCode, match: str = "") -> pytest.RaisesExc[Rejected]:
    """A context in which something is refused with a sentence that holds `match`, a pattern."""
    return pytest.raises(Rejected, match=f"^{code.name}: .*{match}")
