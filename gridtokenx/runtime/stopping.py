"""Why a node ends itself rather than go on: each is told by its own exit code.

Whatever else ends it is unforeseen: a supervisor starts it again. The codes of the process are in
`cli.node_end`.
"""

from __future__ import annotations


class Ending(Exception):  # noqa: N818 - an order to the whole process
    """The node must end; the text says why and what to do, and begins with a code (GTX-...)."""


class StopNode(Ending):
    """Our key is in use elsewhere, or our state contradicts the chain."""


class Contradicted(StopNode):
    """What the validators of a chain have decided is not valid here: it cannot go on here."""


class Untrusted(StopNode):
    """Only its operator can say which history is the chain's."""


class NotMissing(Ending):
    """`resume_above` was given for a chain whose safety record is here."""


class NotPresent(Ending):
    """`resume_above` was given for an incarnation that is over; the text names the present one."""


class Damaged(Ending):
    """Our state contradicts what the validators decided. The node must stop and say so."""


class DatabaseError(Ending):
    """The data folder cannot be used. Codes GTX-DB-*."""


class FolderInUse(DatabaseError):  # noqa: N818 - an order, as the others
    """Another process has it, perhaps for a moment more. Code GTX-DB-001."""


class DiskFull(Ending):
    """No room for another block; stopping now keeps the data intact. Code GTX-DSK-001."""


class DiskFailed(Ending):
    """The disk cannot be read or written. Code GTX-DSK-002."""


def leaves(error: BaseException) -> list[BaseException]:
    """The errors inside a group of groups; at least one."""
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in leaves(inner)]
    return [error]


def ends_node(error: BaseException) -> bool:
    """Whether it, or something in its group, is an order to end."""
    return any(isinstance(leaf, Ending) for leaf in leaves(error))
