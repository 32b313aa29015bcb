"""The short form of scripts/fuzz-wire, and that it finds what it looks for."""

import pytest

from tests.support import wire_fuzz
from tests.support.wire_fuzz import Door, Fault, fuzz


async def test_no_decoder_raises_anything_but_its_own_errors() -> None:
    counts = await fuzz(3_000, 7)
    assert counts.inputs == 3_000
    assert len(counts.refused | counts.accepted) == 15
    assert counts.refused["wire"] > 1_000
    assert min(counts.accepted[name] for name in ("wire", "gossip rpc", "mdns", "dht")) > 5


async def test_the_same_seed_gives_the_same_inputs() -> None:
    first, again = [(await fuzz(300, seed)).document()["doors"] for seed in (3, 3)]
    assert first == again
    assert first != (await fuzz(300, 4)).document()["doors"]


def a_door(decode) -> list[Door]:
    return [Door("test", decode, lambda _chance: b"valid", (ValueError,))]


async def test_an_exception_is_told_with_its_input(monkeypatch: pytest.MonkeyPatch) -> None:
    def decode(data: bytes) -> None:
        if len(data) > 4:
            raise KeyError(len(data))
        raise ValueError

    monkeypatch.setattr(wire_fuzz, "doors", lambda: a_door(decode))
    with pytest.raises(Fault, match=r"test: KeyError\(\d+\) by [0-9a-f]{10}"):
        await fuzz(100, 1)


async def test_slow_inputs_and_growth_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[object] = []
    monkeypatch.setattr(wire_fuzz, "doors", lambda: a_door(lambda data: kept.append([data])))
    monkeypatch.setattr(wire_fuzz, "LOOK_EVERY", 10)
    monkeypatch.setattr(wire_fuzz, "MAX_GROWN_BLOCKS", 100)
    with pytest.raises(Fault, match="memory grew by"):
        await fuzz(2_000, 1)
    monkeypatch.setattr(wire_fuzz, "SLOWEST_CPU_S", -1.0)
    with pytest.raises(Fault, match="s of CPU by"):
        await fuzz(1, 1)
