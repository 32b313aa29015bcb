"""Who may propose: smooth weighted round robin, a pure function.

Source: protocols/consensus.md 2.5.
"""

from __future__ import annotations

from gridtokenx.primitives.validators import ValidatorSet


class LeaderSchedule:
    """The sequence of leaders of one epoch, extended on demand and remembered.

    Position p = (height - first height of the epoch) + view. Among any W consecutive positions
    (W: summed weight) a member of weight w leads w times. The sequence repeats as soon as all
    priorities are zero again, so equal weights cost n entries however long the epoch is.
    """

    def __init__(self, validators: ValidatorSet) -> None:
        self._weights = [member.weight for member in validators.members]
        self._total = validators.total_weight
        self._current = [0] * len(self._weights)
        self._sequence: list[int] = []
        self._complete = False

    def leader(self, position: int) -> int:
        """Index of the member that leads at `position` (>= 0)."""
        while not self._complete and len(self._sequence) <= position:
            self._sequence.append(self._pick())
            self._complete = not any(self._current)
        return self._sequence[position % len(self._sequence)]

    def _pick(self) -> int:
        for index, weight in enumerate(self._weights):
            self._current[index] += weight
        picked = self._current.index(max(self._current))  # Ties go to the lowest index.
        self._current[picked] -= self._total
        return picked
