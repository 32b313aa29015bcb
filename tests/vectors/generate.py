"""Rewrites `protocols/vectors` and `protocols/wire`: run it after a change of the wire or a rule.

    python -m tests.vectors.generate

A changed vector is a changed protocol: nodes of both versions will not agree with each other.
"""

import json
from functools import cache
from pathlib import Path

from tests.vectors.core_vectors import vector_files
from tests.vectors.governance_vectors import governance_files
from tests.vectors.interchain_vectors import interchain_files
from tests.vectors.wire_cddl import cddl_files

PROTOCOLS = Path(__file__).parents[2] / "protocols"


@cache
def files() -> dict[Path, str]:
    """Every generated file and its text."""
    documents = vector_files() | governance_files() | interchain_files()
    out = {
        PROTOCOLS / "vectors" / name: json.dumps(document, indent=1, ensure_ascii=False) + "\n"
        for name, document in documents.items()
    }
    return out | {PROTOCOLS / "wire" / name: text for name, text in cddl_files().items()}


if __name__ == "__main__":
    for path, text in files().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
