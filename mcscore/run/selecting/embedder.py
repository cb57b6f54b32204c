"""Embeddings of items that lie anywhere in a pool, computed in this process or by workers."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ..scoring.errands import embedded
from ..scoring.orders import Embed
from ..scoring.workers import Staff, crew_of, staff_of
from .gather import gathered, gathered_by

if TYPE_CHECKING:
    from ...pool import Pool
    from ...scorer.scorer import Scorer

Embeddings = Callable[[npt.NDArray[np.int64]], npt.NDArray[np.floating]]


@contextlib.contextmanager
def embedder(pool: Pool, step: int, scorer: Scorer, workers: int | Staff | None) -> Iterator[Embeddings]:
    """A function that computes the embeddings (n, D) of ids (n,), here or by workers; ``step`` as of ``gathered``."""
    staff = staff_of(workers)
    if staff is None:
        yield lambda ids: gathered(pool, ids, step, scorer.embed)
        return
    with crew_of(pool, scorer, staff) as crew:

        def of_each(parts: Iterable[npt.NDArray[np.int64]]) -> Iterator[tuple[int, npt.NDArray[np.floating]]]:
            for done in embedded(crew, (Embed(number, part) for number, part in enumerate(parts))):
                yield done.part, done.rows

        yield lambda ids: gathered_by(pool, ids, step, of_each)
