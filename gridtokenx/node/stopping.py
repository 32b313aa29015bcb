"""Why a node ends itself rather than go on: each is told by its own exit code."""

from __future__ import annotations


class StopNode(Exception):  # noqa: N818 - an order to the whole process
    """The node must end: our key is in use elsewhere, or our state contradicts the chain."""


class Contradicted(StopNode):
    """What the validators of a chain have decided is not valid here: it cannot go on here."""


class Untrusted(StopNode):
    """Only its operator can say which history is the chain's."""


class NotMissing(Exception):  # noqa: N818 - an operator's mistake, told in the words of start
    """`resume_above` was given for a chain whose safety record is here."""
