"""`gridtokenx start`: run the node of this home until it is told to stop."""

from __future__ import annotations

import gc
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gridtokenx.cli import keys, node_end, output
from gridtokenx.cli.genesis_file import read_genesis
from gridtokenx.cli.output import ExitCode

MAX_PSK_FILE_BYTES = 1_024

if TYPE_CHECKING:
    import trio

    from gridtokenx.chain.genesis import Genesis
    from gridtokenx.home.config import Config
    from gridtokenx.node.node import Keys

COLLECT_AFTER_OBJECTS = 10_000
SWITCH_S = 0.0005
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
    stay_down: Annotated[
        bool,
        typer.Option(
            "--stay-down",
            help="Wait instead of ending where starting again would not help (containers).",
        ),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check configuration, genesis and keys, then stop.")
    ] = False,
) -> None:
    """Run the node: p2p, consensus, API. SIGTERM or Ctrl-C stops it cleanly, twice at once."""
    flags = {
        "network.bootstrap": bootstrap or None,
        "sync.trusted_blocks": trusted_block or None,
        "sync.trust_old_blocks": trust_old_blocks or None,
    }
    try:
        config, genesis, unlocked = _prepare(flags, password_file, resume_signing_above or [])
        if not dry_run:
            _run(config, genesis, unlocked)
    except (typer.TyperException, typer.Exit, typer.Abort):
        raise
    except Exception as error:  # noqa: BLE001 - told, with a crash report where it is a fault of ours
        failure = _for_supervisors(error)
        if stay_down and not dry_run and node_end.stay_down(failure):
            raise typer.Exit(failure.exit_code) from None
        raise failure from None
    if dry_run:
        document = {"node_id": config.node.node_id, "genesis_hash": genesis.hash.hex(), "ok": True}
        output.emit(document, lambda console: console.print("configuration, genesis and keys: ok"))


def _for_supervisors(error: Exception) -> output.Failure:
    """A failure with a code that a supervisor knows: a damaged key and a file that is not there are
    what only the operator can mend, as the configuration is.
    """
    failure = output.describe(error) or node_end.failure_of(error, None)
    if failure.exit_code in (ExitCode.REFUSED, ExitCode.USAGE, ExitCode.BAD_DATA):
        failure.exit_code = ExitCode.CONFIG
    return failure


def _prepare(
    flags: Mapping[str, object], password_file: Path | None, resume_above: list[str]
) -> tuple[Config, Genesis, Keys]:
    """What is read before anything runs."""
    with _collector_off():
        config = output.load_config(flags)
        genesis = read_genesis(config)
        unlocked = unlock_keys(config, password_file)
        return config, genesis, replace(unlocked, resume_above=_resume_above(resume_above, genesis))


@contextmanager
def _collector_off() -> Iterator[None]:
    """While modules are imported: all of it stays, and looking for garbage is a tenth of it."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _resume_above(texts: list[str], genesis: Genesis) -> dict[str, int]:
    from gridtokenx.chain.genesis import is_incarnation_name

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
    from gridtokenx.home import keystore
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
    from gridtokenx.network.libp2p_overrides.private_network import parse_key
    from gridtokenx.runtime.text_files import read_text

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
    from gridtokenx.runtime.private_files import keep_private
    from gridtokenx.runtime.stopping import leaves
    from gridtokenx.views.metrics import configure_logging

    keep_private()
    opened = tighten_home(config)
    configure_logging(config.logging, config.log_path)
    if opened:
        structlog.get_logger("gridtokenx").warning(
            "home.tightened", paths=len(opened), first=str(opened[0])
        )
    _calm_collector()
    _share_interpreter()
    give_back_memory()
    node = Node(config, genesis, unlocked)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_stop_on_signal, nursery.cancel_scope)
            await node.run()

    try:
        trio.run(main)
    except BaseException as error:
        if not all(isinstance(leaf, Exception) for leaf in leaves(error)):
            raise  # Ctrl-C, twice.
        raise node_end.failure_of(error, config, node.heights()) from None


def tighten_home(config: Config) -> list[Path]:
    """What a node keeps in its home and in its data and logs that was open to others, and no
    longer is.

    Not keys and passwords: one that others may have read is refused where it is used.
    """
    from gridtokenx.runtime.private_files import tighten

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

    With the interpreter's own settings the search takes a ninth of a busy node's CPU time. It stops
    all threads, consensus too, for as long as it has objects to look at: the young ones are few.
    """
    gc.collect()
    gc.freeze()  # Modules and classes are never garbage.
    gc.set_threshold(COLLECT_AFTER_OBJECTS, 5, 400)


def _share_interpreter() -> None:
    """Let threads of the node give way to each other after half a millisecond instead of five.

    The loop that serves consensus waits so long after each call of the system while another thread
    computes: with the API at work that made a second of a block's round.
    """
    sys.setswitchinterval(SWITCH_S)


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
