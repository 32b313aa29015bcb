"""The local development network: its genesis, its keys and the home folder of each node.

Every key is SHA-256 of a public string, so that anybody can act for anybody: NOT FOR REAL USE.
`python -m gridtokenx.cluster.devnet` rewrites `bootstrap/local`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from gridtokenx.chain.genesis import (
    Allocation,
    BlockClock,
    Genesis,
    GenesisStake,
    GenesisValidator,
    NationalChain,
    RegionChain,
    format_genesis,
)
from gridtokenx.governance.model import GovernanceParameters
from gridtokenx.home import keystore
from gridtokenx.home.config import write_template
from gridtokenx.home.keystore import KeyKind
from gridtokenx.interchain.model import InterchainParameters
from gridtokenx.primitives.crypto import SigningKey, sha256
from gridtokenx.primitives.quantities import SLOT_MS, slot_at, slot_start_ms
from gridtokenx.registry.model import Organisation, OrganisationKind, Territory
from gridtokenx.runtime.private_files import make_folder, write_private
from gridtokenx.staking.model import StakingParameters
from gridtokenx.trading.model import MarketParameters

NETWORK_NAME = "gridtokenx-local"
NETWORK_ID = 1001
GENESIS_TIME_MS = 1_767_225_600_000  # 2026-01-01 00:00 UTC
BLOCK_TIME_MS = 1000
TIMEOUT_BASE_MS = 2000  # Five nodes may share two slow cores; a view given up early costs more.
EPOCH_BLOCKS = 60
EVIDENCE_WINDOW_BLOCKS = 300
PASSWORD = "dev"  # noqa: S105 - printed by `cluster up`; the keys behind it are public
DEFAULT_P2P_PORT = 9000
PAYMENT = "payment"
NATIONAL = "TH"
DEV_ACCOUNT = "dev"
NEIGHBOUR = "neighbour"  # Of the same substation: somebody to trade with.
LICENCE_EXPIRY_MS = 1_893_456_000_000  # 2030-01-01
DAILY_CAP_WH = 100_000_000
GTX = 1_000_000  # ugtx

ORGANISATIONS = (
    ("egat", OrganisationKind.TRANSMISSION),
    ("mea", OrganisationKind.DISTRIBUTOR),
    ("pea", OrganisationKind.DISTRIBUTOR),
    ("erc", OrganisationKind.REGULATOR),
    (PAYMENT, OrganisationKind.PAYMENT),
)
AUTHORITIES = ("egat", "mea", "pea", "erc")
MAX_AUTHORITIES = 16
MAX_OBSERVERS = 16
BLOCKS_PER_SLOT = 5  # Of a market that runs by blocks: its gates close while one watches.

# Prefix, distributor, PEA area, EGAT area. Source: protocols/market.md 5.
CHAINS = (
    ("MET", (("BKK", "mea", "", "M"), ("NTB", "mea", "", "M"), ("SPK", "mea", "", "M"))),
    ("NOR", (("CNX", "pea", "N1", "N"), ("CEI", "pea", "N1", "N"))),
    (
        "NEA",
        (("KKC", "pea", "NE1", "NE"), ("UTH", "pea", "NE1", "NE"), ("NMA", "pea", "NE3", "NE")),
    ),
)


def dev_key(name: str) -> SigningKey:
    """The development key of a name, such as `mea operator` or `n0 node`. Public: no secret."""
    return SigningKey(sha256(f"gridtokenx local {name}".encode()))


def operator_key(organisation: str) -> SigningKey:
    """Signs for an organisation: registrations of a distributor, deposits of `payment`."""
    return dev_key(f"{organisation} operator")


def account_address(organisation: str) -> bytes:
    """Where an organisation's money arrives."""
    return dev_key(f"{organisation} account").public_key


def validator_name(index: int) -> tuple[str, str]:
    """(organisation, name of the consensus key) of the authority node `n<index>`."""
    organisation = AUTHORITIES[index % len(AUTHORITIES)]
    return organisation, f"{organisation} validator {index // len(AUTHORITIES)}"


def block_clock(genesis_time_ms: int) -> BlockClock:
    """A local network's market clock: from the slot of genesis on, BLOCKS_PER_SLOT blocks a slot.

    A gate closes every few seconds, each of them with a block of its own.
    """
    return BlockClock(slot_start_ms(slot_at(genesis_time_ms)), SLOT_MS // BLOCKS_PER_SLOT)


def local_genesis(
    *,
    authorities: int = len(AUTHORITIES),
    block_time_ms: int = BLOCK_TIME_MS,
    clock: BlockClock | None = None,
    parameters: MarketParameters | None = None,
    genesis_time_ms: int = GENESIS_TIME_MS,
    governance: GovernanceParameters | None = None,
    with_national: bool = True,
) -> Genesis:
    """A genesis of three region chains with the same validators, their slots a quarter apart.

    `clock` None: market time is wall-clock time. `with_national`: with the national chain beside
    them, whose validators are the same keys. `governance` None: votes of 60 blocks, 10 to their
    execution. ValueError for a number of authorities outside 1..16. Source:
    protocols/state-transition.md 3, protocols/market.md 5.1.
    """
    if not 1 <= authorities <= MAX_AUTHORITIES:
        raise ValueError(f"a cluster has 1 to {MAX_AUTHORITIES} authorities, not {authorities}")
    members = []
    for index in range(authorities):
        organisation, key_name = validator_name(index)
        members.append(GenesisValidator(organisation, dev_key(key_name).public_key, 1))
    chains = tuple(
        RegionChain(
            name=name,
            incarnation=1,
            offset_ms=step * block_time_ms // 4,
            territories=tuple(Territory(*territory) for territory in territories),
            validators=tuple(members),
        )
        for step, (name, territories) in enumerate(CHAINS)
    )
    organisations = tuple(
        Organisation(name, kind, operator_key(name).public_key, account_address(name))
        for name, kind in ORGANISATIONS
    )
    allocations = [Allocation(account_address(name), 1_000_000 * GTX) for name, _ in ORGANISATIONS]
    allocations.append(Allocation(dev_key(DEV_ACCOUNT).public_key, 1_000 * GTX))
    return Genesis(
        network_name=NETWORK_NAME,
        network_id=NETWORK_ID,
        genesis_time_ms=genesis_time_ms,
        block_time_ms=block_time_ms,
        timeout_base_ms=max(TIMEOUT_BASE_MS, block_time_ms // 2),
        epoch_blocks=EPOCH_BLOCKS,
        evidence_window_blocks=EVIDENCE_WINDOW_BLOCKS,
        market_clock=clock or BlockClock(0, 0),
        organisations=organisations,
        allocations=tuple(allocations),
        parameters=parameters or MarketParameters(),
        chains=chains,
        national=_national(authorities, block_time_ms, governance or _brisk(clock, block_time_ms))
        if with_national
        else None,
    )


def _brisk(clock: BlockClock | None, block_time_ms: int) -> GovernanceParameters:
    """Votes of 60 blocks. Their times are market time, which a block clock may stretch."""
    step_ms = (clock.ms_per_block if clock else 0) or block_time_ms
    return GovernanceParameters(voting_period_ms=60 * step_ms, execution_delay_ms=10 * step_ms)


def stake_key(validator: str) -> SigningKey:
    """Signs for the stake behind a consensus key: bonds, votes."""
    return dev_key(f"{validator} stake")


def _national(
    authorities: int, block_time_ms: int, governance: GovernanceParameters
) -> NationalChain:
    """The national chain: the same nodes, each with a stake of its own, and days of minutes."""
    stakes = []
    for index in range(authorities):
        organisation, key_name = validator_name(index)
        stakes.append(
            GenesisStake(
                operator=stake_key(key_name).public_key,
                public_key=dev_key(key_name).public_key,
                moniker=f"{organisation}-{index // len(AUTHORITIES)}",
                commission_bps=500,
                self_bond_ugtx=100_000 * GTX,
            )
        )
    allocations = [Allocation(account_address(name), 1_000_000 * GTX) for name, _ in ORGANISATIONS]
    allocations.append(Allocation(dev_key(DEV_ACCOUNT).public_key, 100_000 * GTX))
    return NationalChain(
        name=NATIONAL,
        offset_ms=3 * block_time_ms // 4,
        stakes=tuple(stakes),
        allocations=tuple(allocations),
        reward_reserve_ugtx=10_000_000 * GTX,
        staking=StakingParameters(
            min_validators=min(4, authorities),
            unbonding_blocks=2 * EVIDENCE_WINDOW_BLOCKS,
            jail_blocks=EPOCH_BLOCKS,
            downtime_blocks=EVIDENCE_WINDOW_BLOCKS,
        ),
        governance=governance,
        interchain=InterchainParameters(),
    )


_BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_IDENTITY_MULTIHASH = bytes.fromhex("0024" + "08011220")  # of a libp2p Ed25519 public key


def peer_id(public_key: bytes) -> str:
    """The libp2p peer id (`12D3KooW...`) of a 32-byte Ed25519 key, without loading libp2p."""
    number, text = int.from_bytes(_IDENTITY_MULTIHASH + public_key), ""
    while number:
        number, digit = divmod(number, 58)
        text = _BASE58[digit] + text
    return "1" + text  # The leading zero byte.


def peer_address(node: str, port: int) -> str:
    """What others dial to reach `node` on this machine."""
    return f"/ip4/127.0.0.1/tcp/{port}/p2p/{peer_id(dev_key(f'{node} node').public_key)}"


@dataclass(frozen=True, slots=True)
class Member:
    """A node of a cluster: `n0` and so on; `validator` is the name of its consensus key or ""."""

    name: str
    role: str
    authority: str
    validator: str
    api_port: int
    p2p_port: int

    @property
    def api_url(self) -> str:
        """Base of its HTTP API."""
        return f"http://127.0.0.1:{self.api_port}"


def plan(authorities: int, observers: int, ports: list[int]) -> tuple[Member, ...]:
    """The members of a cluster; `ports` are API and P2P ports in turn."""
    members = []
    for index in range(authorities + observers):
        is_authority = index < authorities
        organisation, key_name = validator_name(index) if is_authority else ("", "")
        members.append(
            Member(
                name=f"n{index}",
                role="authority" if is_authority else "observer",
                authority=organisation,
                validator=key_name,
                api_port=ports[2 * index],
                p2p_port=ports[2 * index + 1],
            )
        )
    return tuple(members)


def write_home(
    home: Path,
    member: Member,
    genesis: Genesis,
    bootnode: Member,
    *,
    faults: bool = True,
    regions: Sequence[str] = (),
    settings: Mapping[str, object] = MappingProxyType({}),
) -> None:
    """Make a node's home: config.toml, genesis.json, keys and their password file.

    `faults` lets `cluster partition` and `cluster delay` act on its links; `regions` are those that
    it follows (none named: all).
    Every node but the bootnode itself knows the bootnode's address and nothing else of the network.
    """
    make_folder(home, new=True)
    write_private(home / "genesis.json", format_genesis(genesis))
    write_private(home / "password", f"{PASSWORD}\n")
    keys = [("node", KeyKind.NODE, f"{member.name} node")]
    if member.validator:
        keys.append(("validator", KeyKind.VALIDATOR, member.validator))
        keys.append(("stake", KeyKind.ACCOUNT, f"{member.validator} stake"))
    if member.authority:  # What signs for the authority: registrations, grid status, halts.
        keys.append(("operator", KeyKind.ACCOUNT, f"{member.authority} operator"))
    is_bootnode = member.name == bootnode.name
    if is_bootnode:
        keys += [(name, KeyKind.ACCOUNT, name) for name in (DEV_ACCOUNT, NEIGHBOUR)]
    for name, kind, source in keys:
        keystore.create(
            home / "keys",
            name,
            kind,
            PASSWORD,
            dev_key(source).seed,
            development=True,
        )
    address = peer_address(bootnode.name, bootnode.p2p_port)
    values: dict[str, object] = {
        "node.node_id": member.name,
        "node.node_type": member.role,
        "node.authority": member.authority,
        "node.password_file": "./password",
        "node.min_free_disk_mib": 256,
        "node.admin_faults": faults,
        "network.network_name": genesis.network_name,
        "network.network_id": genesis.network_id,
        "network.listen": (f"/ip4/127.0.0.1/tcp/{member.p2p_port}",),
        "network.regions": tuple(regions),
        "network.bootstrap": () if is_bootnode else (address,),
        "sync.trust_old_blocks": True,  # Of days in which nobody trades for money.
        "api.port": member.api_port,
        "api.rate_per_second": 10_000,
        "api.local_signer": DEV_ACCOUNT if is_bootnode else "",
        "logging.file_logging.enabled": False,  # What it prints goes to node.log already.
        "genesis.hash": genesis.hash.hex(),
        **settings,
    }
    write_template(home / "config.toml", values)


def bundled_genesis() -> Genesis:
    """The genesis in `bootstrap/local`: its market runs by blocks, like that of `cluster up`."""
    return local_genesis(clock=block_clock(GENESIS_TIME_MS))


def bootstrap_files() -> dict[str, str]:
    """What `bootstrap/local` holds: file name to text."""
    genesis = bundled_genesis()
    network = (
        f"# The local development network. Its keys are public: NOT FOR REAL USE.\n"
        f'network_name = "{genesis.network_name}"\n'
        f"network_id = {genesis.network_id}\n"
        f'genesis_hash = "{genesis.hash.hex()}"\n'
    )
    return {
        "genesis.json": format_genesis(genesis),
        "bootnodes.txt": peer_address("n0", DEFAULT_P2P_PORT) + "\n",
        "network.toml": network,
    }


def main() -> None:
    """Write `bootstrap/local` of the checkout this runs from."""
    folder = Path(__file__).resolve().parents[2] / "bootstrap" / "local"
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in bootstrap_files().items():
        (folder / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
