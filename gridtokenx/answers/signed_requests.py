"""What a signed request to the API is signed over.

Source: docs/api.md "Signed requests".
"""

from __future__ import annotations

import json
from collections.abc import Mapping

DOMAIN = b"GTXv1 api request"


def request_bytes(
    genesis_hash: bytes, method: str, params: Mapping[str, str], signed_ms: int
) -> bytes:
    """What is signed: domain, genesis hash, then method, parameters (texts, keys sorted) and Unix
    ms as compact JSON. Parameters that are not given are left out."""
    document = [method, dict(sorted(params.items())), str(signed_ms)]
    text = json.dumps(document, separators=(",", ":"), ensure_ascii=True)
    return DOMAIN + genesis_hash + text.encode()
