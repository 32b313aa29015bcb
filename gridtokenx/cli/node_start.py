"""`gridtokenx start`: run the node of this home until it is told to stop."""

from __future__ import annotations

import errno
import gc
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from gridtokenx.cli import keys, output
from gridtokenx.cli.genesis_file import read_genesis
from gridtokenx.cli.output import ExitCode

MAX_PSK_FILE_BYTES = 1_024

if TYPE_CHECKING:
    import trio

    from gridtokenx.chain.genesis import Genesis
    from gridtokenx.node.config import Config
    from gridtokenx.node.node import Keys

COLLECT_AFTER_OBJECTS = 50_000
M_MMAP_THRESHOLD = -3  # glibc's malloc.h
GIVE_BACK_FROM_BYTES = 256 * 1024


def start(
    bootstrap: Annotated[
        list[str] | None,
        typer.Option(metavar="MULTIADDR", help="Bootnode to begin with; may be repeated."),
    ] = None,
    password_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Password of the keys (mode 0600).")
    ] = None,
    resume_signing_above: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CHAIN=HEIGHT",
            help="Sign without the lost safety record, above a height the key never reached. A "
            "region's second incarnation is MET@2.",
        ),
    ] = None,
    trusted_block: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CHAIN:HEIGHT:HASH",
            help="A block that must be in the history; may be repeated.",
        ),
    ] = None,
    trust_old_blocks: Annotated[
        bool,
        typer.Option("--trust-old-blocks", help="Go on from blocks older than the unbonding time."),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check configuration, genesis and keys, then stop.")
    ] = False,
) -> None:
    """Run the node: p2p, consensus, API. SIGTERM or Ctrl-C stops it cleanly, twice at once."""
    with _collector_off():
        config = output.load_config(
            {
                "network.bootstrap": bootstrap or None,
                "sync.trusted_blocks": trusted_block or None,
                "sync.trust_old_blocks": trust_old_blocks or None,
            }
        )
        genesis = read_genesis(config)
        unlocked = replace(
            unlock_keys(config, password_file),
            resume_above=_resume_above(resume_signing_above or [], genesis),
        )
    if dry_run:
        document = {"node_id": config.node.node_id, "genesis_hash": genesis.hash.hex(), "ok": True}
        output.emit(document, lambda console: console.print("configuration, genesis and keys: ok"))
        return
    _run(config, genesis, unlocked)


@contextmanager
def _collector_off() -> Iterator[None]:
    """While modules are imported: all of it stays, and looking for garbage is a tenth of it."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _resume_above(texts: list[str], genesis: Genesis) -> dict[str, int]:
    from gridtokenx.node.protocol import is_incarnation_name

    chosen: dict[str, int] = {}
    for text in texts:
        name, _, height = text.partition("=")
        if not is_incarnation_name(name, genesis) or not height.isdecimal():
            known = ", ".join(genesis.chain_names)
            detail = f"--resume-signing-above is CHAIN=HEIGHT of {known}, not {text!r}"
            raise typer.BadParameter(detail)
        chosen[name] = int(height)
    return chosen


def unlock_keys(config: Config, password_file: Path | None) -> Keys:
    """The node's identity, and for a validating role its consensus key."""
    from gridtokenx.node import keystore
    from gridtokenx.node.node import Keys

    names = ["node", *([config.node.key] if config.validates else [])]
    if config.api.local_signer:
        names.append(config.api.local_signer)
    paths = {name: keystore.key_path(config.keys_path, name) for name in names}
    for name, path in paths.items():
        if not path.is_file():
            output.fail(
                f"there is no key {name!r} in {config.keys_path}",
                code="GTX-KEY-003",
                reason="no_key",
                hint="gridtokenx generate-keys, or gridtokenx keys new NAME --kind KIND",
                exit_code=ExitCode.CONFIG,
            )
    password = keys.read_password(password_file or config.password_path, what="the node's keys")
    opened = {name: keystore.unlock(path, password) for name, path in paths.items()}
    for name, path in paths.items():
        if keystore.read_info(path).kdf != keystore.KDF:
            output.note(
                f"the key {name} is sealed as older versions did, which is quicker to guess: "
                f"gridtokenx keys password {name} seals it anew"
            )
    validator = opened.get(config.node.key) if config.validates else None
    signing = keystore.key_path(config.keys_path, config.node.key)
    fresh = validator is not None and keystore.has_never_signed(signing, validator.public_key)
    return Keys(
        network_seed=opened["node"].seed,
        validator=validator,
        local_signer=opened.get(config.api.local_signer),
        never_signed=fresh,
        private_network=_private_network(config),
        mark_signing=lambda: keystore.mark_signing(signing),
    )


def _private_network(config: Config) -> bytes | None:
    """The key in `network.psk_file`. Without it a node must not start: it would speak openly."""
    from gridtokenx.node.libp2p_overrides.private_network import parse_key
    from gridtokenx.node.text_files import read_text

    if not config.network.psk_file:
        return None
    path = config.path(config.network.psk_file)
    try:
        return parse_key(read_text(path, MAX_PSK_FILE_BYTES).encode())
    except (OSError, ValueError) as error:
        output.fail(
            f"{path}: {error}",
            code="GTX-KEY-005",
            reason="no_private_network_key",
            hint="copy the network's swarm.key there; every node of it has the same one",
            exit_code=ExitCode.CONFIG,
        )


def _run(config: Config, genesis: Genesis, unlocked: Keys) -> None:
    import structlog
    import trio

    from gridtokenx.node.node import Node
    from gridtokenx.node.private_files import keep_private
    from gridtokenx.node.telemetry import configure_logging

    keep_private()
    opened = tighten_home(config)
    configure_logging(config.logging, config.log_path)
    if opened:
        structlog.get_logger("gridtokenx").warning(
            "home.tightened", paths=len(opened), first=str(opened[0])
        )
    _calm_collector()
    give_back_memory()
    node = Node(config, genesis, unlocked)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_stop_on_signal, nursery.cancel_scope)
            await node.run()

    try:
        trio.run(main)
    except BaseException as error:
        _explain(error)
        raise


def tighten_home(config: Config) -> list[Path]:
    """What a node keeps in its home and in its data and logs that was open to others, and no
    longer is.

    Not keys and passwords: one that others may have read is refused where it is used.
    """
    from gridtokenx.node.private_files import tighten

    home, data, log = config.home, config.data_path, config.log_path
    folders = [data, data / "rocksdb", home / "authorities"]
    if log.parent.is_relative_to(home):
        folders.append(log.parent)
    kept = [path for folder in folders if folder.is_dir() for path in (folder, *folder.iterdir())]
    if home != Path.home() and home.is_dir():  # A person's own folder is not ours to close.
        kept += [home, *(path for path in home.iterdir() if path.is_file())]
    logs = log.parent.glob(f"{log.name}*") if log.parent.is_dir() else ()
    secret = {config.keys_path, config.password_path}
    return tighten(path for path in [*kept, *logs] if path not in secret)


def _calm_collector() -> None:
    """Look for cycles of garbage seldom: a node makes many objects and hardly any cycles.

    With the interpreter's own settings the search takes a ninth of a busy node's CPU time.
    """
    gc.collect()
    gc.freeze()  # Modules and classes are never garbage.
    gc.set_threshold(COLLECT_AFTER_OBJECTS, 20, 20)


def give_back_memory() -> None:
    """Return large buffers to the system as soon as they are freed, where malloc is glibc's.

    Left alone it learns from each large one that is freed to keep those as large, up to 32 MiB, so
    that room of blocks and batches stays in its heaps: 90 of 325 MiB after 40,000 orders.
    """
    import ctypes

    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, GIVE_BACK_FROM_BYTES)


async def _stop_on_signal(scope: trio.CancelScope) -> None:
    """Stop cleanly on the first signal; afterwards the defaults are back, so a second one kills."""
    import structlog
    import trio

    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for number in signals:
            name = signal.Signals(number).name
            structlog.get_logger("gridtokenx").info("node.stopping", signal=name)
            scope.cancel()
            return


def _explain(error: BaseException) -> None:
    """Turn the one error that ended the node into its exit code; leave faults of ours alone."""
    from gridtokenx.api.listening import ApiServerError
    from gridtokenx.node.chain_runner import NotPresent
    from gridtokenx.node.database import DatabaseError
    from gridtokenx.node.executor import Damaged
    from gridtokenx.node.network import NetworkError
    from gridtokenx.node.node import DiskFull
    from gridtokenx.node.stopping import NotMissing, StopNode, Untrusted

    leaves = _leaves(error)
    error = leaves[0]  # Two chains may end the node at once: for one reason, or it is a fault.
    if any(type(other) is not type(error) for other in leaves):
        return
    exits: dict[type[BaseException], ExitCode] = {
        DatabaseError: ExitCode.DISK,
        Damaged: ExitCode.INTERNAL,
        Untrusted: ExitCode.CONFIG,
        StopNode: ExitCode.INTERNAL,
        DiskFull: ExitCode.DISK,
        NetworkError: ExitCode.CONFIG,
        ApiServerError: ExitCode.CONFIG,
    }
    if isinstance(error, NotMissing):
        _fail(
            f"GTX-KEY-004: the safety record of {error} is here: start without "
            "--resume-signing-above, which is for a lost one and never for a service file",
            ExitCode.CONFIG,
        )
    if isinstance(error, NotPresent):
        _fail(f"GTX-KEY-004: --resume-signing-above: {error}", ExitCode.CONFIG)
    for kind, exit_code in exits.items():
        if isinstance(error, kind):
            _fail(str(error), exit_code)
    if isinstance(error, OSError) and error.errno in (errno.EADDRINUSE, errno.EADDRNOTAVAIL):
        detail = f"{error.strerror}. Another node may run there; choose another in network.listen"
        _fail(detail, ExitCode.CONFIG)


def _leaves(error: BaseException) -> list[BaseException]:
    """The errors inside a group of groups; at least one."""
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in _leaves(inner)]
    return [error]


def _fail(text: str, exit_code: ExitCode) -> NoReturn:
    code, _, detail = text.partition(": ")
    known = code.startswith("GTX-")
    output.fail(
        detail if known else text,
        code=code if known else "node",
        reason="node_stopped",
        exit_code=exit_code,
    )
