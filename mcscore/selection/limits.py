"""Constraints of a selection, as a user gives them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .room import Room


@dataclass(frozen=True)
class Limits:
    """What a selection must respect, by any method. What cannot be met is an error that says by how much.

    Attributes:
        per_group: the most items of one group; below 1: the share of k, rounded down.
        groups: the group of each item, integers or strings: (M,) in the order of the candidates; in ``Run.select`` (N,), one for each
            item of the pool, where a negative number says that the item has none and is left out.
        per_class: the same as per_group, with the predicted classes as groups; in ``Run.select`` only.
        costs: the cost of each item, >= 0; shaped as groups.
        budget: the most that all chosen items may cost.
        leave_out: ids that are not chosen.
        labeled_distance: candidates within this distance of a labeled item are left out; Euclidean, of embeddings.
        group_name: what a group is called in errors.

    Raises:
        ValueError: half of a pair is missing, two quotas are given, or a number is out of its range.
    """

    per_group: float | None = None
    groups: Any = None
    per_class: float | None = None
    costs: Any = None
    budget: float | None = None
    leave_out: Any = None
    labeled_distance: float | None = None
    group_name: str = "group"

    def __post_init__(self) -> None:
        for one, other in (("groups", "per_group"), ("costs", "budget")):
            if (getattr(self, one) is None) != (getattr(self, other) is None):
                raise ValueError(f"{one} and {other} belong together: give both, or neither")
        if self.per_class is not None and self.per_group is not None:
            raise ValueError(
                "per_class and per_group are two quotas, and a selection has one: give groups that are pairs of both"
            )
        for name in ("per_class", "per_group"):
            value = getattr(self, name)
            if value is not None and not (0 < value < 1 or (value >= 1 and value == int(value))):
                raise ValueError(f"{name} must be a whole number of items, or a share of k in (0, 1), got {value}")
        for name in ("budget", "labeled_distance"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < np.inf:
                raise ValueError(f"{name} must be finite and >= 0, got {value}")

    @property
    def quota(self) -> float | None:
        """per_group or per_class."""
        return self.per_group if self.per_class is None else self.per_class

    def most(self, k: int) -> int | None:
        """The quota as a number of items; None if there is none.

        Raises:
            ValueError: a share of k that is less than one item.
        """
        if self.quota is None:
            return None
        most = int(self.quota) if self.quota >= 1 else int(self.quota * k * (1 + 1e-12))
        if most < 1 and k:
            raise ValueError(f"a quota of {self.quota:g} of {k:,} items is less than one item: choose a larger share")
        return most

    def at(self, positions: npt.NDArray[np.int64]) -> Limits:
        """The same for some of the items."""
        groups, costs = (None if part is None else np.asarray(part)[positions] for part in (self.groups, self.costs))
        return dataclasses.replace(self, groups=groups, costs=costs)

    def room(self, k: int, M: int) -> Room:
        """Room for k of M candidates, whose groups and costs these are.

        Raises:
            ValueError: shapes do not match, or there are no k candidates within quota and budget.
        """
        for name in ("groups", "costs"):
            if (given := getattr(self, name)) is not None and np.shape(given) != (M,):
                raise ValueError(f"{name} have shape {np.shape(given)}; ({M},) is needed, one for each candidate")
        return Room(
            k,
            M,
            groups=self.groups,
            most=self.most(k),
            costs=self.costs,
            budget=self.budget,
            group_name=self.group_name,
        )
