"""Which items of a pool get all passes: a function of the committed scores of the first stage and of a recorded cut."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from ...selection.screen import Cut, audited
from ..stored import StoredScores
from .options import Screen

Flags = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float32]
Stream = Callable[[], Iterator[tuple[Floats, Floats, Floats]]]


def columns_of(first: StoredScores, by: str) -> tuple[str, str, str]:
    """The stored rows that decide: the score, its standard error and its bias (the error again where it has no bias)."""
    bias = f"{by}_bias"
    return by, f"{by}_se", bias if bias in first.header.rows else ""


def stream_of(first: StoredScores, by: str) -> Stream:
    """A function that starts a stream of (score, standard error, bias), float32 (n,) each, of the committed spans."""

    def start() -> Iterator[tuple[Floats, Floats, Floats]]:
        for record in first.records:
            yield _part(first, by, record.span.start, record.span.stop)

    return start


class Wanted:
    """The items that get all passes, by ranges of ids: survivors of a cut, and the dropped items that are audited."""

    def __init__(self, first: StoredScores, screen: Screen, cut: Mapping[str, Any]) -> None:
        self._first, self._by, self._cut = first, screen.by, Cut(**cut)
        self._seed = first.header.settings.seed

    def __getitem__(self, part: slice) -> Flags:
        survivors, drawn = self.of(part.start, part.stop)
        return survivors | drawn

    def of(self, start: int, stop: int) -> tuple[Flags, Flags]:
        """(survivors, audited) of the items start..stop-1; no item is both."""
        columns = _part(self._first, self._by, start, stop)
        survivors: Flags = self._cut.survives(*columns)
        return survivors, audited(self._cut, np.arange(start, stop), *columns, self._seed) & ~survivors


def _part(first: StoredScores, by: str, start: int, stop: int) -> tuple[Floats, Floats, Floats]:
    score, error, bias = columns_of(first, by)
    values = first.part(score, start, stop)
    biases = first.part(bias, start, stop) if bias else np.where(np.isnan(values), values, np.float32(0))
    return values, first.part(error, start, stop), biases
