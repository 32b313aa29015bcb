"""The local network: committed files are current, identities are libp2p's, homes are loadable."""

from __future__ import annotations

from pathlib import Path

import pytest
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.peer.id import ID

from gridtokenx.chain.genesis import BlockClock, parse_genesis
from gridtokenx.cluster import devnet
from gridtokenx.home import keystore
from gridtokenx.home.config import load_config
from gridtokenx.primitives.state import Overlay
from gridtokenx.registry import rules as registry

BOOTSTRAP = Path(__file__).parents[3] / "bootstrap" / "local"


class Nothing:
    """A state in which nothing is stored yet."""

    def load(self, key, decode):
        return None

    def scan(self, prefix, decode):
        return []


@pytest.mark.parametrize("name", ["genesis.json", "bootnodes.txt", "network.toml"])
def test_the_committed_file_is_what_the_code_makes(name):
    expected = devnet.bootstrap_files()[name]
    assert (BOOTSTRAP / name).read_text() == expected, "run: python -m gridtokenx.cluster.devnet"


def test_the_genesis_file_reads_back_and_each_chain_has_its_own_identity():
    genesis = parse_genesis((BOOTSTRAP / "genesis.json").read_text())
    assert genesis == devnet.bundled_genesis()
    assert genesis.chain_names == ("TH", "MET", "NOR", "NEA")
    assert len({genesis.chain(name).chain_id for name in genesis.chain_names}) == 4
    assert [genesis.chain(name).offset_ms for name in genesis.chain_names] == [750, 0, 250, 500]


def test_four_authorities_of_weight_one_validate_every_chain():
    for region in devnet.local_genesis().chains:
        owners = [member.organisation for member in region.validators]
        assert owners == ["egat", "mea", "pea", "erc"]
        assert {member.weight for member in region.validators} == {1}


def test_the_genesis_installs_and_names_the_distributors():
    genesis = devnet.local_genesis()
    expected = {"MET": ("BKK", "mea"), "NOR": ("CNX", "pea"), "NEA": ("NMA", "pea")}
    for name, (prefix, distributor) in expected.items():
        state = Overlay(Nothing())
        genesis.chain(name).install(state)
        assert registry.distributor_of(state, prefix).name == distributor
        assert registry.payment_authority(state) == devnet.operator_key("payment").public_key


def test_more_than_four_authorities_have_keys_of_their_own():
    validators = devnet.local_genesis(authorities=7).chains[0].validators
    assert len({member.public_key for member in validators}) == 7
    with pytest.raises(ValueError, match="1 to 16"):
        devnet.local_genesis(authorities=0)


def test_peer_ids_are_those_of_libp2p():
    key = devnet.dev_key("n0 node")
    known = ID.from_pubkey(create_new_key_pair(key.seed).public_key)
    assert devnet.peer_id(key.public_key) == str(known)


def test_a_home_is_a_configuration_that_loads_with_keys_that_open(tmp_path):
    genesis = devnet.local_genesis(clock=BlockClock(86_400_000, 900_000))
    members = devnet.plan(4, 1, list(range(20_000, 20_010)))
    for member in members:
        devnet.write_home(tmp_path / member.name, member, genesis, members[0])
    mea = load_config(tmp_path / "n1", environ={})
    assert (mea.node.node_type, mea.node.authority, mea.api.port) == ("authority", "mea", 20_002)
    assert mea.network.bootstrap == (devnet.peer_address("n0", 20_001),)
    assert mea.genesis.hash == genesis.hash.hex()
    assert parse_genesis(mea.genesis_path.read_text()).hash == genesis.hash
    password = keystore.read_password_file(mea.password_path)
    validator = keystore.unlock(mea.keys_path / "validator.json", password)
    assert validator.public_key == genesis.chains[0].validators[1].public_key
    first = load_config(tmp_path / "n0", environ={})
    assert (first.network.bootstrap, first.api.local_signer) == ((), "dev")
    observer = load_config(tmp_path / "n4", environ={})
    assert (observer.node.node_type, observer.validates) == ("observer", False)
    assert not (tmp_path / "n4" / "keys" / "validator.json").exists()
