"""The active-learning cycle: train, score, select, label, and again.

    labeled ids ──fit──▶ model ──score_pool──▶ run ──select──▶ ids ──oracle──▶ labels of the pool ──▶ labeled ids

Training is the user's: ``fit`` gets the pool and the labeled ids and returns a model. Everything else is the engine.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from torch import nn

from .pool import Pool
from .run import score_pool
from .scorer.scorer import Scorer

Ids = npt.NDArray[np.int64]
Labels = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Round:
    """One turn of the cycle: a model trained on what was labeled, and what was chosen to be labeled next."""

    index: int
    labels: int  # the model was trained on
    accuracy: float
    chosen: Ids  # empty in the last round
    seconds: float  # training, scoring and selecting
    run: Path | None  # the run directory; None in the last round and for the random baseline


def cycle(
    pool: Pool,
    *,
    fit: Callable[[Pool, Ids, int], nn.Module],
    evaluate: Callable[[nn.Module], float],
    oracle: Callable[[Ids], Labels],
    rounds: int,
    k: int,
    out: Path,
    by: str | None = "bald",
    diversity: str = "radius",
    passes: int = 100,
    seed: int = 0,
    progress: Callable[[str], None] = lambda _stage: None,
) -> Iterator[Round]:
    """Go ``rounds`` times through the cycle, acquiring ``k`` labels each time, and train once more at the end.

    The pool's labels are written as they are acquired.

    Args:
        pool: items, some of them labeled.
        fit: (pool, labeled ids, seed) -> a model trained from scratch.
        evaluate: model -> its accuracy on held-out data.
        oracle: ids -> the true labels, int.
        rounds: how often labels are acquired.
        k: labels per round.
        out: where the run directories go, ``round-00`` and so on.
        by: the score to select by, or None for the random baseline.
        diversity: how the selection is spread, see ``mcscore.select``.
        passes: stochastic forward passes per item.
        seed: of training, masks and the random baseline.
        progress: is called with a sentence at the start of each stage.

    Yields:
        rounds + 1 results.
    """
    for index in range(rounds + 1):
        start = time.perf_counter()
        labels = pool.labels
        labeled = np.flatnonzero(labels >= 0)
        progress(f"round {index}: train on {len(labeled)} labels")
        model = fit(pool, labeled, seed * 1000 + index)
        accuracy = evaluate(model)
        chosen: Ids = np.empty(0, np.int64)
        where: Path | None = None
        if index < rounds and by is None:
            left = np.flatnonzero((labels < 0) & ~pool.excluded)
            chosen = np.sort(np.random.default_rng([seed, index]).choice(left, size=k, replace=False))
        elif index < rounds and by is not None:
            progress(f"round {index}: score {int((labels < 0).sum())} items with {passes} passes")
            where = out / f"round-{index:02d}"
            scorer = Scorer(model, passes=passes, scores=tuple(dict.fromkeys((by, "bald", "entropy"))), seed=seed)
            run = score_pool(pool, scorer, where)
            progress(f"round {index}: select {k} by {by}")
            chosen = np.asarray(run.select(k, by=by, diversity=diversity).ids)
        if len(chosen):
            pool.set_labels(chosen, oracle(chosen))
        yield Round(index, len(labeled), accuracy, chosen, time.perf_counter() - start, where)
