"""The JavaScript peer's packages, or the reason why these tests are skipped."""

import pytest

from tests.support import js_peer


@pytest.fixture(scope="session", autouse=True)
def packages() -> None:
    reason = js_peer.why_unavailable()
    if reason:
        pytest.skip(reason)
