"""Sums of the passes of each jackknife group, and the scores of all passes but those of a group: what errors come from.

Groups of one pass each are begun until there are MAX_GROUPS of them; then neighbors are joined in pairs, and so on. After T passes
the groups are those of ``jackknife.groups(T)``, however the passes came.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..jackknife import MAX_GROUPS
from . import eager

Add = Callable[[Tensor, eager.State], None]
"""Adds passes (t, ...) to a state, in place."""


class Groups:
    """The sums of each group of passes over the same items, in O(MAX_GROUPS B C) memory.

    new_state: makes zero sums. sizes: the passes in each group so far.
    """

    def __init__(self, new_state: Callable[[], eager.State], likelihood: str) -> None:
        self.sizes: list[int] = []
        self._states: list[eager.State] = []
        self._size = 1  # passes in a full group
        self._new_state, self._likelihood = new_state, likelihood

    def add(self, outputs_tBC: Tensor, add: Add) -> None:
        """Add t passes, each to its group."""
        first, t = 0, len(outputs_tBC)
        while len(self.sizes) + -(-(t - self._room) // self._size) > MAX_GROUPS:
            self._join()
        while first < t:
            if not self._room:
                self.sizes.append(0)  # which makes room for _size passes
                self._states.append(self._new_state())
            some = min(self._room, t - first)
            add(outputs_tBC[first : first + some], self._states[-1])
            self.sizes[-1] += some
            first += some

    def merge(self, other: Groups) -> None:
        """Append copies of the groups of ``other``; neighbors are joined where there are too many."""
        self.sizes += other.sizes
        self._states += [{name: sums.clone() for name, sums in state.items()} for state in other._states]
        self._size = max(self._size, other._size)
        while len(self.sizes) > MAX_GROUPS:
            self._join()

    def scores(
        self, scores: Sequence[str], noise_variance: float | None
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The scores of all passes, {name: (B,)}, and of all but those of a group, {name: (G, B)}; not rounded, BALD not clamped."""
        T = sum(self.sizes)
        total = self._new_state()
        for state in self._states:
            eager.merge(total, state, self._likelihood)

        def finished(state: eager.State, passes: int) -> dict[str, Tensor]:
            return eager.finish_scores(state, scores, self._likelihood, passes, noise_variance, None)

        parts = [
            finished(eager.without(total, state, self._likelihood), T - m)
            for m, state in zip(self.sizes, self._states, strict=True)
        ]
        return finished(total, T), {name: torch.stack([part[name] for part in parts]) for name in scores}

    def copy(self) -> Groups:
        """Groups of the same passes, with sums of their own."""
        twin = Groups(self._new_state, self._likelihood)
        twin.merge(self)
        return twin

    @property
    def _room(self) -> int:
        """The passes that the last group still takes."""
        return max(0, self._size - self.sizes[-1]) if self.sizes else 0

    def _join(self) -> None:
        for state, other in zip(self._states[::2], self._states[1::2], strict=False):
            eager.merge(state, other, self._likelihood)
        self._states = self._states[::2]
        self.sizes = [sum(self.sizes[i : i + 2]) for i in range(0, len(self.sizes), 2)]
        self._size *= 2
