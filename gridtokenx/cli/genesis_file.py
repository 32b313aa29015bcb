"""The genesis file of a home, as commands read it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gridtokenx.cli import output
from gridtokenx.cli.output import ExitCode

if TYPE_CHECKING:
    from pathlib import Path

    from gridtokenx.chain.genesis import Genesis
    from gridtokenx.chain.trust import TrustedBlock
    from gridtokenx.home.config import Config


def read_genesis(config: Config) -> Genesis:
    """The network's genesis, checked against the configured hash."""
    from gridtokenx.chain.genesis import parse_genesis

    path = config.genesis_path
    if not path.is_file():
        output.fail(
            f"there is no genesis file {path}",
            code="GTX-CFG-008",
            reason="no_genesis",
            hint="gridtokenx init --genesis FILE --genesis-hash HASH",
            exit_code=ExitCode.CONFIG,
        )
    genesis = parse_genesis(genesis_text(path))
    wanted = config.genesis.hash
    if wanted and wanted.lower() != genesis.hash.hex():
        output.fail(
            f"{path} has the hash {genesis.hash.hex()}, config.toml wants {wanted}",
            code="GTX-NET-002",
            reason="genesis_mismatch",
            hint="ask the network's operator for the genesis file and its hash",
            exit_code=ExitCode.CONFIG,
        )
    for name in config.network.regions:
        genesis.chain(name)
    for block in trusted_blocks(config):
        genesis.chain(block.chain)
    return genesis


def genesis_text(path: Path) -> str:
    """What a genesis file says, whoever's editor wrote it."""
    from gridtokenx.chain.genesis import MAX_GENESIS_BYTES
    from gridtokenx.runtime.text_files import read_text

    try:
        return read_text(path, MAX_GENESIS_BYTES)
    except ValueError as error:
        output.fail(f"{path} {error}", code="cli", reason="malformed", exit_code=ExitCode.BAD_DATA)


def trusted_blocks(config: Config) -> list[TrustedBlock]:
    """Those of `sync.trusted_blocks`."""
    from gridtokenx.chain.trust import parse_trusted_block

    return [parse_trusted_block(text) for text in config.sync.trusted_blocks]
