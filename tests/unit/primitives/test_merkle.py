"""RFC 6962 trees against its own vectors, and the mountain range over header hashes."""

import hashlib

import pytest

from gridtokenx.primitives.merkle import (
    EMPTY_ROOT,
    append_peak,
    leaf_hash,
    merkle_path,
    merkle_root,
    node_hash,
    peaks_root,
    verify_path,
)

# Certificate Transparency's reference inputs and roots (RFC 6962 section 2.1).
LEAVES = [
    bytes.fromhex(text)
    for text in (
        "", "00", "10", "2021", "3031", "40414243",
        "5051525354555657", "606162636465666768696a6b6c6d6e6f",
    )
]  # fmt: skip
ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]


@pytest.mark.parametrize("count", range(1, 9))
def test_roots_of_the_reference_inputs(count: int) -> None:
    assert merkle_root(LEAVES[:count]).hex() == ROOTS[count - 1]


def test_nothing_hashes_to_the_hash_of_nothing() -> None:
    assert merkle_root([]) == EMPTY_ROOT == hashlib.sha256(b"").digest()


def test_the_odd_node_is_promoted_not_doubled() -> None:
    a, b, c = LEAVES[:3]
    assert merkle_root([a, b, c]) == node_hash(node_hash(leaf_hash(a), leaf_hash(b)), leaf_hash(c))
    assert merkle_root([a, b, c]) != merkle_root([a, b, c, c])


def test_a_node_cannot_pass_for_a_leaf() -> None:
    a, b = LEAVES[2:4]
    assert merkle_root([a, b]) != merkle_root([leaf_hash(a) + leaf_hash(b)])


@pytest.mark.parametrize("count", range(1, 18))
def test_every_leaf_has_a_path_and_no_other_place(count: int) -> None:
    leaves = [bytes([number]) for number in range(count)]
    root = merkle_root(leaves)
    for index, leaf in enumerate(leaves):
        path = merkle_path(leaves, index)
        assert verify_path(root, leaf, index, count, path)
        assert not verify_path(root, b"forged", index, count, path)
        assert not verify_path(root, leaf, index, count, (*path, bytes(32)))
        for wrong in range(count):
            assert wrong == index or not verify_path(root, leaf, wrong, count, path)
        for level in range(len(path)):
            forged = (*path[:level], bytes(32), *path[level + 1 :])
            assert not verify_path(root, leaf, index, count, forged)
            assert not verify_path(root, leaf, index, count, path[:level] + path[level + 1 :])


def test_places_outside_the_list_are_refused() -> None:
    root = merkle_root(LEAVES[:1])
    assert not verify_path(root, LEAVES[0], 1, 1, ())
    assert not verify_path(root, LEAVES[0], -1, 1, ())
    assert not verify_path(root, LEAVES[0], 0, 0, ())
    with pytest.raises(IndexError):
        merkle_path(LEAVES[:1], 1)


def test_peaks_are_the_roots_of_perfect_subtrees() -> None:
    leaves = [b"header %d" % number for number in range(21)]
    peaks: tuple[bytes, ...] = ()
    for count, leaf in enumerate(leaves):
        peaks = append_peak(peaks, count, leaf)
        expected, start = [], 0
        for bit in reversed(range(5)):
            if (count + 1) >> bit & 1:
                expected.append(merkle_root(leaves[start : start + (1 << bit)]))
                start += 1 << bit
        assert list(peaks) == expected


def test_a_ranges_hash_commits_to_its_length() -> None:
    peak = (bytes(32),)
    assert peaks_root(peak, 1) != peaks_root(peak, 2)
    assert peaks_root((), 0) != peaks_root(peak, 1)
