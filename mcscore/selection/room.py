"""Room for choice: which candidates may still be chosen under a quota for each group and a budget.

Both are kept exactly, for any order in which a method chooses. The sets of candidates that respect the quotas are a partition
matroid, so the cheapest completion of a choice is found greedily: sort by cost, and take whatever its group still has room for. A
candidate is open if, once it is taken, the cheapest completion to k items fits the budget. So a method that takes open ones reaches k.

Taking j changes the cheapest completion B by one element: j itself if it is in B, else the dearest element of the circuit that j
closes, which is the dearest of its group in B where that group is full, and the dearest of B otherwise.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]


class Room:
    """Which of M candidates are open for choice; ``take`` is told each one chosen.

    >>> room = Room(2, 3, groups=[0, 0, 1], most=1)
    >>> _ = room.take(0)
    >>> room.open.tolist()
    [False, False, True]

    Args:
        k: the number of items to choose.
        M: the number of candidates.
        groups: (M,) int, the group of each.
        most: the most items of one group.
        costs: (M,) float, the cost of each, >= 0.
        budget: the most that all chosen items may cost.
        group_name: what a group is called in errors.

    Attributes:
        open: (M,) bool.
        bound: how many candidates each constraint has closed.

    Raises:
        ValueError: there are no k candidates that respect quota and budget; says which binds and by how much.
    """

    def __init__(
        self,
        k: int,
        M: int,
        *,
        groups: npt.ArrayLike | None = None,
        most: int | None = None,
        costs: npt.ArrayLike | None = None,
        budget: float | None = None,
        group_name: str = "group",
    ) -> None:
        self.open = np.ones(M, bool)
        self._taken = np.zeros(M, bool)
        self._most = most
        self.bound: dict[str, int] = {}
        self._groups: Ints | None = None
        self._costs: npt.NDArray[np.float64] | None = None
        self._group_name = group_name
        if most is not None:
            assert groups is not None
            self._groups = np.unique(np.asarray(groups), return_inverse=True)[1].astype(np.int64)
            self._left_of_group = np.full(int(self._groups.max(initial=-1)) + 1, most)
            self._refuse_quota(k)
            self.bound["quota"] = 0
        if budget is not None:
            assert costs is not None
            self._costs, self._budget = _checked_costs(costs, M), float(budget)
            self._left = self._budget
            self._refuse_budget(k)
            self._close_dear()
            self.bound["budget"] = int((~self.open).sum())

    def __str__(self) -> str:
        quota = f"at most {self._most:,} of a {self._group_name}" if self._most is not None else ""
        budget = f"a budget of {self._budget:g}" if self._costs is not None else ""
        return " and ".join(filter(None, (quota, budget)))

    @property
    def facts(self) -> dict[str, Any]:
        """Quota, budget and how many candidates each of them closed, for the record of a selection."""
        quota = (
            {}
            if self._most is None
            else {"most": self._most, "of": self._group_name, "closed_by_quota": self.bound["quota"]}
        )
        if self._costs is None:
            return quota
        return {
            **quota,
            "budget": self._budget,
            "spent": float(self._budget - self._left),
            "closed_by_budget": self.bound["budget"],
        }

    @property
    def limited(self) -> bool:
        """Whether there is any constraint."""
        return self._most is not None or self._costs is not None

    def take(self, at: int) -> bool:
        """Note that the candidate at this position is chosen. Returns whether others were closed and are open again."""
        assert self.open[at], f"candidate {at} is not open"
        before = self.open.copy() if self._costs is not None else None
        self.open[at] = False
        self._taken[at] = True
        if self._groups is not None:
            group = self._groups[at]
            self._left_of_group[group] -= 1
            if not self._left_of_group[group]:
                closed = (self._groups == group) & self.open
                self.bound["quota"] += int(closed.sum())
                self.open[closed] = False
        if self._costs is None or before is None:
            return False
        self._left -= self._costs[at]
        self._cheapest[at if self._cheapest[at] else self._replaced_by(at)] = False
        quota_closed = ~self.open & before
        self._close_dear()
        if self._cheapest.any():  # else k are chosen, which closes the rest
            self.bound["budget"] += int((before & ~self.open & ~quota_closed).sum())
        return bool((self.open & ~before).any())

    def _refuse_quota(self, k: int) -> None:
        assert self._groups is not None
        assert self._most is not None
        sizes = np.bincount(self._groups)
        allowed = int(np.minimum(sizes, self._most).sum())
        if allowed < k:
            name = self._group_name
            raise ValueError(
                f"k = {k:,}, but the quota of {self._most:,} for each {name} allows {allowed:,} items, {k - allowed:,} too few: the "
                f"candidates have {len(sizes):,} different values of {name}. Raise the quota to {_enough(sizes, k)}"
            )

    def _refuse_budget(self, k: int) -> None:
        """Find the cheapest k that the quota allows; ValueError if they cost too much."""
        assert self._costs is not None
        order = np.argsort(self._costs, kind="stable")
        if self._groups is not None:
            order = order[rank_in_group(self._groups[order]) < (self._most or 0)]
        sums = np.cumsum(self._costs[order[:k]])
        if k and sums[-1] > self._budget:
            fits = int(np.searchsorted(sums, self._budget, side="right"))
            allowed = " that the quota allows" if self._groups is not None else ""
            raise ValueError(
                f"k = {k:,}, but the {k:,} cheapest candidates{allowed} cost {sums[-1]:g}, {sums[-1] - self._budget:g} more than the "
                f"budget of {self._budget:g}, which pays for {fits:,} at most. Choose a smaller k, a larger budget, or more candidates"
            )
        self._cheapest = np.zeros(len(self.open), bool)
        self._cheapest[order[:k]] = True

    def _full_groups(self) -> npt.NDArray[np.bool_]:
        """(groups,) whether the cheapest completion has as many of the group as may still be chosen."""
        assert self._groups is not None
        in_completion = np.bincount(self._groups[self._cheapest], minlength=len(self._left_of_group))
        return in_completion >= self._left_of_group

    def _replaced_by(self, at: int) -> int:
        """The element of the cheapest completion that ``at`` takes the place of: the dearest of its circuit."""
        assert self._costs is not None
        circuit = self._cheapest
        if self._groups is not None and self._full_groups_before(at):
            circuit = circuit & (self._groups == self._groups[at])
        members = np.flatnonzero(circuit)
        return int(members[len(members) - 1 - np.argmax(self._costs[members][::-1])])

    def _full_groups_before(self, at: int) -> bool:
        """Whether the group of ``at``, which is counted as chosen already, was full with the cheapest completion."""
        assert self._groups is not None
        group = self._groups[at]
        return int((self._cheapest & (self._groups == group)).sum()) > self._left_of_group[group]

    def _close_dear(self) -> None:
        """Open what fits the budget together with the cheapest completion, and close the rest."""
        assert self._costs is not None
        spare = self._left - self._costs[self._cheapest].sum() + 1e-9 * self._budget
        dearest = self._costs[self._cheapest].max(initial=0.0)
        most = np.full(len(self.open), spare + dearest)
        self.open = ~self._taken
        if self._groups is not None:
            of_group = np.zeros(len(self._left_of_group))
            np.maximum.at(of_group, self._groups[self._cheapest], self._costs[self._cheapest])
            full = self._full_groups()[self._groups]
            most[full] = spare + of_group[self._groups[full]]
            self.open &= self._left_of_group[self._groups] > 0
        self.open &= self._cheapest | (self._costs <= most)
        if not self._cheapest.any():
            self.open[:] = False


def rank_in_group(groups_M: Ints) -> Ints:
    """(M,) the place of each element among those of its group, from 0, in their order.

    >>> rank_in_group(np.array([7, 5, 7, 7, 5])).tolist()
    [0, 0, 1, 2, 1]
    """
    order = np.argsort(groups_M, kind="stable")
    ordered = groups_M[order]
    first = np.concatenate([[True], ordered[1:] != ordered[:-1]]) if len(ordered) else np.empty(0, bool)
    starts = np.flatnonzero(first)
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order)) - np.repeat(starts, np.diff(np.append(starts, len(order))))
    return rank


def _checked_costs(costs: npt.ArrayLike, M: int) -> npt.NDArray[np.float64]:
    costs_M = np.asarray(costs, np.float64)
    if costs_M.shape != (M,):
        raise ValueError(f"costs have shape {costs_M.shape}; ({M},) is needed, one for each candidate")
    wrong = np.flatnonzero(~((costs_M >= 0) & (costs_M < np.inf)))
    if len(wrong):
        raise ValueError(f"costs must be finite and >= 0; {len(wrong)} are not, the first is {costs_M[wrong[0]]}")
    return costs_M


def _enough(sizes: Ints, k: int) -> str:
    """The least quota by which k items can be chosen, or that no quota is enough."""
    if sizes.sum() < k:
        return f"any number: there are only {sizes.sum():,} candidates, so choose a smaller k, too"
    low, high = 1, int(sizes.max())
    while low < high:
        middle = (low + high) // 2
        if np.minimum(sizes, middle).sum() >= k:
            high = middle
        else:
            low = middle + 1
    return f"{low:,}, or choose a smaller k"
