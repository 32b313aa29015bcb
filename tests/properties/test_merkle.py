"""Laws of Merkle trees: each leaf at its place, nothing else anywhere."""

from hypothesis import given, settings
from hypothesis import strategies as st

from gridtokenx.primitives.merkle import (
    append_peak,
    leaf_hash,
    merkle_path,
    merkle_root,
    node_hash,
    verify_path,
)

LEAVES = st.lists(st.binary(max_size=4), min_size=1, max_size=40)


def rfc6962_root(leaves: list[bytes]) -> bytes:
    """The recursive definition of RFC 6962 section 2.1."""
    if len(leaves) == 1:
        return leaf_hash(leaves[0])
    split = 1 << (len(leaves) - 1).bit_length() - 1
    return node_hash(rfc6962_root(leaves[:split]), rfc6962_root(leaves[split:]))


@given(LEAVES)
def test_the_root_is_that_of_the_recursive_definition(leaves: list[bytes]) -> None:
    assert merkle_root(leaves) == rfc6962_root(leaves)


@given(LEAVES, st.data())
def test_a_leaf_is_proved_at_its_place_only(leaves: list[bytes], data: st.DataObject) -> None:
    index = data.draw(st.integers(0, len(leaves) - 1))
    claimed = data.draw(st.integers(0, len(leaves) - 1))
    path = merkle_path(leaves, index)
    root = merkle_root(leaves)
    assert verify_path(root, leaves[index], index, len(leaves), path)
    if verify_path(root, leaves[index], claimed, len(leaves), path):
        assert leaves[claimed] == leaves[index]


@settings(max_examples=100)
@given(
    LEAVES,
    st.binary(max_size=4),
    st.integers(-2, 50),
    st.lists(st.binary(min_size=32, max_size=32)),
)
def test_a_made_up_path_proves_nothing(
    leaves: list[bytes], leaf: bytes, index: int, path: list[bytes]
) -> None:
    if verify_path(merkle_root(leaves), leaf, index, len(leaves), path):
        assert leaves[index] == leaf


@given(st.lists(st.binary(max_size=3), min_size=1, max_size=70))
def test_a_range_never_forgets(leaves: list[bytes]) -> None:
    """Two histories that differ anywhere have different peaks."""
    peaks: tuple[bytes, ...] = ()
    other: tuple[bytes, ...] = ()
    for count, leaf in enumerate(leaves):
        peaks = append_peak(peaks, count, leaf)
        other = append_peak(other, count, leaf if count else leaf + b"x")
    assert len(peaks) == len(leaves).bit_count()
    assert peaks != other
