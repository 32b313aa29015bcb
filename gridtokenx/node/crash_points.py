"""Test only: end the process by SIGKILL at a chosen boundary between two effects.

`GRIDTOKENX_CRASH_POINT=after-persist.commit:3` ends it the third time a COMMIT has been synced.
The part `.commit` (propose, prepare, commit, timeout) and the part `:3` may be missing: any
message, the first time. Read once, at start; without it nothing here does anything.
Source: protocols/consensus.md 2.8.
"""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass

import trio

from gridtokenx.consensus.messages import Message, Proposal, Timeout, Vote

VARIABLE = "GRIDTOKENX_CRASH_POINT"
SEND_SECONDS = 0.2  # By then what was published has left the process.
NAMES = (
    "before-persist",
    "after-persist",
    "before-broadcast",
    "after-broadcast",
    "mid-effects",
    "before-commit",
    "after-commit",
)
KINDS = ("propose", "prepare", "commit", "timeout")


@dataclass(slots=True)
class CrashPoint:
    """Where to crash; `kind` "" is any message, `left` counts down to the time meant."""

    name: str
    kind: str
    left: int


def parse(text: str) -> CrashPoint | None:
    """`name[.kind][:n]`, None for "". Errors: ValueError."""
    if not text:
        return None
    where, _, times = text.partition(":")
    name, _, kind = where.partition(".")
    if name not in NAMES or kind not in ("", *KINDS) or not (times or "1").isdecimal():
        raise ValueError(f"{VARIABLE}={text} is not NAME[.KIND][:N] of {', '.join(NAMES)}")
    return CrashPoint(name, kind, int(times or "1"))


_armed = parse(os.environ.get(VARIABLE, ""))


def reach(name: str, message: Message | None = None) -> None:
    """A boundary, with the message it is about; never returns where the crash is due."""
    if _armed is not None and _is_due(_armed, name, message):
        os.kill(os.getpid(), signal.SIGKILL)


async def reach_sent(name: str, message: Message) -> None:
    """As `reach`, once the message that was published has left."""
    if _armed is not None and _is_due(_armed, name, message):
        await trio.sleep(SEND_SECONDS)
        os.kill(os.getpid(), signal.SIGKILL)


def _is_due(armed: CrashPoint, name: str, message: Message | None) -> bool:
    if armed.name != name or armed.kind not in ("", _kind(message)):
        return False
    armed.left -= 1
    return armed.left == 0


def _kind(message: Message | None) -> str:
    if isinstance(message, Vote):
        return message.phase.name.lower()
    if isinstance(message, Proposal):
        return "propose"
    return "timeout" if isinstance(message, Timeout) else ""
