"""`python -m gridtokenx.api` writes what the code says of itself below `protocols/`.

`rpc/openrpc.json`, `rest/openapi.json` and `errors.md`; a test holds them against it.
"""

from __future__ import annotations

import json
from pathlib import Path

from gridtokenx.api.methods import METHODS
from gridtokenx.api.schema import build_errors_page, build_openapi, build_openrpc


def build_files() -> dict[str, str]:
    """Path below `protocols/` -> the text it must have."""
    return {
        "rpc/openrpc.json": json.dumps(build_openrpc(METHODS), indent=2) + "\n",
        "rest/openapi.json": json.dumps(build_openapi(METHODS), indent=2) + "\n",
        "errors.md": build_errors_page(),
    }


def write_files(protocols: Path) -> None:
    """Write the generated pages below a `protocols` folder."""
    for name, text in build_files().items():
        path = protocols / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write_files(Path(__file__).parents[2] / "protocols")
