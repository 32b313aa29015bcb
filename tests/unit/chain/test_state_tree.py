"""The state commitment: what a proof shows, and every way to forge one."""

import itertools
import random
from dataclasses import replace

import pytest

from gridtokenx.chain.state_tree import (
    BUCKETS,
    DEPTH,
    StateProof,
    StateTree,
    bucket_of,
    leaf_hash,
    verify_state_proof,
)
from gridtokenx.primitives.codec import decode, encode
from gridtokenx.primitives.crypto import sha256
from gridtokenx.primitives.merkle import node_hash

KEYS = [b"key %d" % number for number in range(300)]


def neighbours() -> tuple[bytes, bytes]:
    """Two keys of one bucket."""
    seen: dict[int, bytes] = {}
    for number in itertools.count():
        key = b"crowd %d" % number
        other = seen.setdefault(bucket_of(sha256(key)), key)
        if other != key:
            return other, key
    raise AssertionError


CROWD = neighbours()


@pytest.fixture(scope="module")
def tree() -> StateTree:
    tree = StateTree()
    tree.apply(tree.update([(key, b"value of " + key) for key in (*KEYS, *CROWD)]))
    return tree


def test_the_empty_tree_is_perfect() -> None:
    node = leaf_hash(b"")
    for _ in range(DEPTH):
        node = node_hash(node, node)
    assert StateTree().root == node


def test_a_key_is_proved_with_its_value_only(tree: StateTree) -> None:
    for key in (*KEYS[:50], *CROWD):
        proof = tree.prove(key)
        assert verify_state_proof(tree.root, key, b"value of " + key, proof)
        assert not verify_state_proof(tree.root, key, b"another", proof)
        assert not verify_state_proof(tree.root, key, b"", proof)
        assert not verify_state_proof(tree.root, key, None, proof)
        assert not verify_state_proof(sha256(b"root"), key, b"value of " + key, proof)


def test_absence_is_proved_too(tree: StateTree) -> None:
    for number in range(50):
        key = b"absent %d" % number
        proof = tree.prove(key)
        assert verify_state_proof(tree.root, key, None, proof)
        assert not verify_state_proof(tree.root, key, b"", proof)
    assert verify_state_proof(StateTree().root, b"any", None, StateTree().prove(b"any"))


def test_another_keys_proof_shows_nothing(tree: StateTree) -> None:
    assert not verify_state_proof(tree.root, KEYS[0], b"value of " + KEYS[0], tree.prove(KEYS[1]))
    assert not verify_state_proof(tree.root, b"absent", None, tree.prove(KEYS[1]))


def test_each_forged_sibling_is_noticed(tree: StateTree) -> None:
    key = KEYS[0]
    proof = tree.prove(key)
    for level in range(DEPTH):
        siblings = (*proof.siblings[:level], sha256(b"x"), *proof.siblings[level + 1 :])
        forged = replace(proof, siblings=siblings)
        assert not verify_state_proof(tree.root, key, b"value of " + key, forged)
    assert not verify_state_proof(
        tree.root, key, b"value of " + key, replace(proof, siblings=proof.siblings[:-1])
    )


def test_a_forged_bucket_is_noticed(tree: StateTree) -> None:
    one, two = sorted(CROWD, key=sha256)
    proof = tree.prove(one)
    rows = [proof.entries[at : at + 64] for at in range(0, len(proof.entries), 64)]
    assert len(rows) == 2
    value_of = {sha256(key): sha256(b"value of " + key) for key in CROWD}
    assert rows == [key + value_of[key] for key in sorted(value_of)]
    forgeries = {
        "without the key": (rows[1], one, None),
        "disordered": (rows[1] + rows[0], one, b"value of " + one),
        "doubled": (rows[0] + rows[0] + rows[1], one, b"value of " + one),
        "cut off": (proof.entries[:-1], one, b"value of " + one),
        "empty": (b"", one, None),
        "with another value": (
            sha256(one) + sha256(b"lie") + rows[1],
            one,
            b"lie",
        ),
        "of another bucket": (sha256(b"foreign") + sha256(b"v") + proof.entries, one, None),
    }
    for name, (entries, key, value) in forgeries.items():
        forged = replace(proof, entries=entries)
        assert not verify_state_proof(tree.root, key, value, forged), name
    assert verify_state_proof(tree.root, two, b"value of " + two, proof)


def test_a_candidates_update_changes_nothing_until_it_is_committed(tree: StateTree) -> None:
    root, proof = tree.root, tree.prove(KEYS[0])
    update = tree.update([(KEYS[0], b"new"), (KEYS[1], None), (b"more", b"value")])
    assert update.root != root
    assert (tree.root, tree.prove(KEYS[0])) == (root, proof)


def test_any_history_of_one_state_has_one_root() -> None:
    dice = random.Random(1)
    tree, model = StateTree(), {}
    for _ in range(40):
        changes: dict[bytes, bytes | None] = {}
        for key in dice.sample((*KEYS[:60], *CROWD), dice.randint(1, 12)):
            changes[key] = None if dice.random() < 0.4 else b"%d" % dice.randint(0, 9)
        update = tree.update(changes.items())
        tree.apply(update)
        assert tree.root == update.root
        for key, value in changes.items():
            if value is None:
                model.pop(key, None)
            else:
                model[key] = value
    afresh = StateTree()
    afresh.apply(afresh.update(model.items()))
    assert afresh.root == tree.root
    emptied = [(key, None) for key in model]
    assert tree.update(emptied).root == StateTree().root
    assert tree.update([]).root == tree.root


def test_keys_that_are_gone_leave_nothing_behind() -> None:
    """Ten thousand orders that came and went would else be megabytes of nodes without keys."""

    def nodes_held(tree: StateTree) -> int:
        return len({id(node) for node in tree._nodes})

    tree = StateTree()
    tree.apply(tree.update([(KEYS[0], b"stays")]))
    held, root = nodes_held(tree), tree.root
    for at in range(0, 5_000, 500):
        keys = [b"order %d" % number for number in range(at, at + 500)]
        tree.apply(tree.update([(key, b"open") for key in keys]))
        assert nodes_held(tree) > held + 500
        tree.apply(tree.update([(key, None) for key in keys]))
    assert (nodes_held(tree), tree.root) == (held, root)


def test_the_values_rebuild_the_tree() -> None:
    tree, stored = StateTree(), dict[bytes, bytes | None]()
    for step in range(3):
        changes = [(key, None if step == 2 and key in CROWD else b"%d" % step) for key in CROWD]
        changes.append((KEYS[step], b"x"))
        stored |= dict(changes)
        tree.apply(tree.update(changes))
    values = [(key, value) for key, value in stored.items() if value is not None]
    assert StateTree(values).root == tree.root
    assert StateTree([]).root == StateTree().root


def test_a_proof_travels(tree: StateTree) -> None:
    proof = tree.prove(KEYS[0])
    assert decode(StateProof, encode(proof)) == proof
    assert len(encode(proof)) < 1024
    assert 0 <= bucket_of(sha256(KEYS[0])) < BUCKETS
