"""`gridtokenx governance propose TYPE ...`: a command for each type of proposal.

The seed's form, `propose --type TYPE ...` with options in any order, means the same.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer
from typer.core import TyperGroup

from gridtokenx.cli import output, proposal_terms, remote, show
from gridtokenx.cli.keys import PasswordFile

if TYPE_CHECKING:
    from rich.console import Console

    from gridtokenx.client import Client
    from gridtokenx.governance.model import Content, Propose

TYPES = tuple(build.__name__.replace("_", "-") for build in proposal_terms.TYPES)
_LOST = ("energy_wh", "thb_uthb", "gtx_ugtx")


class ByType(TyperGroup):
    """Takes the type as a command, or as the option `--type` wherever it stands."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, self.type_first(args))

    def type_first(self, args: Sequence[str]) -> list[str]:
        """What is said, in the form `TYPE ...`."""
        flags = {
            name
            for command in self.commands.values()
            for option in command.params
            if getattr(option, "is_flag", False)
            for name in (*option.opts, *option.secondary_opts)
        }
        return type_first(args, {*flags, "--help", "-h"})


def type_first(args: Sequence[str], flags: set[str]) -> list[str]:
    """`--title T --type upgrade ...` as `upgrade --title T ...`; `flags` take no value.

    Errors: BadParameter where options come without a type, or with an unknown one.
    """
    if not args or not args[0].startswith("-"):
        return list(args)
    kind: str | None = None
    rest: list[str] = []
    at = 0
    while at < len(args):
        name, equals, value = args[at].partition("=")
        width = 1 if equals or name in flags or not name.startswith("-") else 2
        if name == "--type":
            kind = value if equals else "".join(args[at + 1 : at + 2])
        else:
            rest += args[at : at + width]
        at += width
    if kind is None and {"--help", "-h"} & set(rest):
        return list(args)
    return [_known_type(kind), *rest]


def _known_type(kind: str | None) -> str:
    wanted = "" if kind is None else kind.strip().lower().replace("_", "-")
    if wanted in TYPES:
        return wanted
    near = difflib.get_close_matches(wanted, TYPES, 1)
    also = f"; did you mean {near[0]}?" if near else ""
    told = "" if kind is None else f", not {kind[:40]!r}"
    raise typer.BadParameter(f"one of {', '.join(TYPES)}{told}{also}", param_hint="--type")


app = typer.Typer(
    cls=ByType,
    help="Put something to the vote. Takes a deposit, which comes back, and a fee. A wrong name "
    "or value is refused before anything is signed. The type may also be given as --type TYPE.",
    no_args_is_help=True,
)


def _put(
    content: Content,
    title: Annotated[str, typer.Option(metavar="TEXT", help="1 to 140 characters.")],
    description: Annotated[str, typer.Option(metavar="TEXT", help="Why.")] = "",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show old and new values; sign nothing.")
    ] = False,
    key: remote.OwnKey = None,
    wait: remote.Wait = True,
    password_file: PasswordFile = None,
) -> None:
    """Sign a proposal and send it, or show what it would do."""
    payload = _proposal(title, description, content)
    if dry_run:
        with remote.connect() as client:
            preview = _simulate(client, payload, None)
        output.emit(preview, lambda console: _draw_preview(console, preview))
        return
    signer, password = remote.own_key(key, password_file)
    with remote.connect(pinned=True) as client:
        for line in _preview_lines(_simulate(client, payload, signer)):
            output.note(line)
        document = remote.command(client, client.national(), payload, signer, password, wait=wait)
    number = remote.event_of(document, "proposal_submitted").get("proposal")
    document["proposal"] = number

    def draw(console: Console) -> None:
        remote.draw_command(console, document)
        if number is not None:
            show.line(console, f"see: gridtokenx governance show {number}")

    output.emit(document, draw)


def _options(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """The parameters of a function as typer reads them; what they return needs no import here."""
    hints = get_type_hints(function, localns={"Content": object}, include_extras=True)
    return {
        name: one.replace(annotation=hints[name], kind=inspect.Parameter.KEYWORD_ONLY)
        for name, one in inspect.signature(function).parameters.items()
        if name != "content"
    }


def _add(kind: str, build: Callable[..., Content]) -> None:
    """A command whose options are the title, those of `build`, and those of `_put`."""
    own, shared = _options(build), _options(_put)

    def run(**given: Any) -> None:
        content = build(**{name: given[name] for name in own})
        _put(content, **{name: given[name] for name in shared})

    text, _, example = inspect.cleandoc(build.__doc__ or "").partition("\n\n")
    options = {"title": shared["title"], **own, **shared}
    run.__signature__ = inspect.Signature(list(options.values()))  # type: ignore[attr-defined]
    words = f'gridtokenx governance propose {kind} --title "..." \\'
    app.command(kind, help=text, epilog=f"Example:\n  {words}\n    {example}")(run)


for _kind, _build in zip(TYPES, proposal_terms.TYPES, strict=True):
    _add(_kind, _build)


def _proposal(title: str, description: str, content: Content) -> Propose:
    from gridtokenx.governance.model import MAX_DESCRIPTION_BYTES, Propose

    if not 1 <= len(title.encode()) <= 140 or not title.isprintable():
        raise typer.BadParameter("1 to 140 bytes on one line", param_hint="--title")
    if len(description.encode()) > MAX_DESCRIPTION_BYTES:
        detail = f"at most {MAX_DESCRIPTION_BYTES} bytes"
        raise typer.BadParameter(detail, param_hint="--description")
    return Propose(title, description, content)


def _simulate(client: Client, payload: Propose, signer: str | None) -> dict[str, Any]:
    """What the node says it would do. Errors: what it would be refused with."""
    from gridtokenx.primitives.document import to_document
    from gridtokenx.primitives.types import format_address

    client.national()
    proposer = None if signer is None else format_address(remote.address_of(signer))
    content = to_document(payload.content, text_integers=True)
    found: dict[str, Any] = client.call(
        "gov_simulateProposal",
        content=content,
        proposer=proposer,
        title=payload.title,
        description=payload.description or None,
    )
    return found


def _preview_lines(preview: dict[str, Any]) -> list[str]:
    lines = [show.printable(preview["summary"])] if not preview["changes"] else []
    lines += [
        show.printable(f"{one['parameter']}: {one['old']} -> {one['new']} {one['unit']}")
        for one in preview["changes"]
    ]
    if preview["lost"] is not None:
        lost = told_lost(preview["lost"])
        lines.append(f"lost, as it has left the region since that block: {lost}")
    deposit, fee = (show.millionths(preview[name]) for name in ("deposit_ugtx", "fee_ugtx"))
    lines.append(f"deposit {deposit} GTX, fee {fee} GTX")
    return lines


def _draw_preview(console: Console, preview: dict[str, Any]) -> None:
    for line in _preview_lines(preview):
        show.line(console, line)
    executes = preview["executes_ms"]
    show.fields(
        console,
        [
            ("acts on", ", ".join(preview["chains"])),
            ("vote ends", show.zoned(preview["voting_ends_ms"])),
            ("in force", None if executes is None else show.zoned(executes)),
            ("must approve", ", ".join(preview["approvers"]) or None),
        ],
    )
    show.line(console, "nothing was signed or sent")


def told_lost(lost: dict[str, Any] | None) -> str | None:
    if lost is None:
        return None
    return ", ".join(show.field(name, lost[name])[1] for name in _LOST)
