"""Whom validators vouch for: remembered, bounded, direct only among validators."""

from gridtokenx.network.peers.admission import Admission, Limits
from gridtokenx.network.peers.peer import PeerId
from gridtokenx.network.peers.reputation import Reputation
from gridtokenx.node.credentials import MAX_DIRECT, PEERS_PER_VALIDATOR, Authorities
from gridtokenx.primitives.crypto import SigningKey

KEY, OTHER = SigningKey(bytes(32)), SigningKey(bytes([1]) * 32)
OURS, THEIRS, STRANGER = KEY.public_key, b"their key", OTHER.public_key
A, B, C, D = (PeerId(bytes([number])) for number in range(1, 5))


def test_validators_list_each_others_peers_and_remember_them() -> None:
    known = Authorities(KEY)
    assert known.note({THEIRS: (B, A), STRANGER: (C,)}, {OURS, THEIRS})
    assert known.peers == known.direct == (A, B)
    assert not known.note({}, {OURS, THEIRS})
    assert known.direct == (A, B)
    assert known.note({}, {OURS})
    assert known.peers == known.direct == ()


def test_whoever_is_no_validator_keeps_room_but_lists_nobody() -> None:
    for own in (None, OTHER):
        known = Authorities(own, [D])
        known.note({THEIRS: (A,)}, {OURS, THEIRS})
        assert (known.peers, known.direct) == ((A,), (D,))


def test_the_newest_proofs_of_a_validator_count_and_not_more_than_two() -> None:
    known = Authorities(KEY)
    for peer in (A, B, C, D):
        known.note({THEIRS: (peer,)}, {OURS, THEIRS})
    assert known.peers == (C, D)
    assert len(known.peers) == PEERS_PER_VALIDATOR


def test_many_validators_gossip_by_the_mesh_from_the_first_that_is_met() -> None:
    known = Authorities(KEY)
    keys = [bytes([number]) for number in range(MAX_DIRECT + 1)]
    known.note({key: (PeerId(key),) for key in keys[1:]}, {OURS, *keys[1:]})
    assert len(known.direct) == MAX_DIRECT
    known.note({keys[0]: (PeerId(keys[0]),)}, {OURS, *keys})
    assert known.direct == ()
    assert len(known.peers) == MAX_DIRECT + 1
    newcomer = Authorities(KEY)
    newcomer.note({keys[0]: (PeerId(keys[0]),)}, {OURS, *keys})
    assert newcomer.direct == ()


def test_an_authority_finds_room_in_a_full_node_but_not_while_it_is_banned() -> None:
    reputation = Reputation(lambda: 0)
    admission = Admission(Limits(max_peers=1), reputation)
    assert admission.refusal(A, None, "inbound", ["inbound"]) == "full"
    admission.authorities = frozenset([A])
    assert admission.refusal(A, None, "inbound", ["inbound"]) is None
    reputation.ban(A, 1_000)
    assert admission.refusal(A, None, "inbound", ["inbound"]) == "banned"
