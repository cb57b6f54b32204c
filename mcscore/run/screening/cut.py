"""Which items of a pool get all passes: a function of the committed scores of the first stage and of a recorded cut."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from ...selection.screening.audit import AuditPlan, audit_plan, audit_samples
from ...selection.screening.population import Population, measure
from ...selection.screening.screen import Cut, choice_of, choose_passes, fix_cut
from ..stored import StoredScores
from .options import Screen

Flags = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float32]
Columns = tuple[Floats, Floats, Floats]  # score, standard error, bias


@dataclasses.dataclass(frozen=True)
class FixedCut:
    """A cut as run.json has it: who survives, who of the rest is audited, and how the number of all passes was chosen.

    Attributes:
        items: items of the pool when the cut was fixed.
        passes: of the second stage.
        why: of ``passes``, one sentence; empty if they were given.
        expected_recall: share of the truly best that is expected among the best of the second stage.
        cut: who survives.
        audit: who of the dropped is scored in full too.
    """

    items: int
    passes: int
    why: str
    expected_recall: float
    cut: Cut
    audit: AuditPlan

    @property
    def share(self) -> float:
        """The share of the items that get all passes."""
        return (self.cut.survivors + self.audit.samples) / max(1, self.cut.items)

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> FixedCut:
        """Read what ``dataclasses.asdict`` made."""
        return FixedCut(**{**data, "cut": Cut(**data["cut"]), "audit": AuditPlan(**data["audit"])})


def fixed_cut(first: StoredScores, screen: Screen, passes: int, prefix: float, choose: bool) -> FixedCut:
    """Fix the cut by the committed scores of the first stage.

    Args:
        first: the first stage.
        screen: what was asked for.
        passes: of the second stage, unless they are to be chosen.
        prefix: the cost of what runs once per item, in passes.
        choose: choose the number of passes within the budget of the screen.
    """
    population = population_of(first, screen.by, screen.top)
    if choose and screen.budget is not None:
        budget = screen.budget / (1 + screen.audit)
        choice = choose_passes(population, screen.passes, target=screen.recall, budget=budget, prefix=prefix)
    else:
        choice = choice_of(population, screen.passes, passes, fix_cut(population, screen.recall), prefix)
    cut, passes = choice.cut, choice.passes
    spent = first.scored * screen.passes + cut.survivors * passes
    plan = audit_plan(population, cut, audit_samples(spent, passes, screen.audit), first.header.settings.seed)
    return FixedCut(first.n, passes, choice.why, choice.expected_recall, cut, plan)


def population_of(stored: StoredScores, by: str, top: int) -> Population:
    """The true scores behind those that are committed, with their errors."""

    def stream() -> Iterator[Columns]:
        parts = [stored.spans(name) for name in _names(stored, by)]
        for columns in zip(*parts, strict=True):
            yield _with_bias([values for _, values in columns])

    return measure(stream, top)


def columns_of(stored: StoredScores, by: str, start: int, stop: int) -> Columns:
    """(score, standard error, bias) of the items start..stop-1; a score that takes a maximum has bias 0."""
    return _with_bias([stored.part(name, start, stop) for name in _names(stored, by)])


def _names(stored: StoredScores, by: str) -> list[str]:
    return [name for name in (by, f"{by}_se", f"{by}_bias") if name in stored.columns]


def _with_bias(columns: list[Floats]) -> Columns:
    score, error, bias = columns if len(columns) == 3 else [*columns, np.zeros_like(columns[0])]
    return score, error, bias


class Wanted:
    """The items that get all passes, by ranges of ids."""

    def __init__(self, first: StoredScores, by: str, fixed: FixedCut) -> None:
        self._first, self._by, self._fixed = first, by, fixed

    def __getitem__(self, part: slice) -> Flags:
        survivors, strata = self.of(part.start, part.stop)
        return survivors | (strata >= 0)

    def of(self, start: int, stop: int) -> tuple[Flags, npt.NDArray[np.int8]]:
        """Of the items start..stop-1: which survive; the stratum of those that are dropped and audited, -1 for the others."""
        columns = columns_of(self._first, self._by, start, stop)
        return self._fixed.cut.survives(*columns), self._fixed.audit.sampled(np.arange(start, stop), *columns)
