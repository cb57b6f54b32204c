"""The active-learning cycle: train, score, select, label, repeat.

    labeled ids ──fit──▶ model ──score_pool──▶ run ──select──▶ ids ──oracle──▶ labels of the pool ──▶ labeled ids

The caller trains: ``fit`` gets the pool and the labeled ids, and returns a model. ``cycle`` does the rest.
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
    """The result of one round of the cycle.

    Attributes:
        index: number of the round, from 0.
        labels: number of labels that the model was trained on.
        accuracy: accuracy of the model, as ``evaluate`` returned it.
        chosen: ids that were labeled after training; empty in the last round.
        seconds: time for training, scoring and selecting.
        run: the run directory; None in the last round and for the random baseline.
    """

    index: int
    labels: int
    accuracy: float
    chosen: Ids
    seconds: float
    run: Path | None


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
    """Run ``rounds`` rounds that acquire ``k`` labels each, and train once more at the end.

    Each round's labels are written to the pool when the round ends.

    Args:
        pool: items, some of them labeled.
        fit: (pool, labeled ids, seed) -> a model trained from scratch.
        evaluate: model -> its accuracy on held-out data.
        oracle: ids -> the true labels, int.
        rounds: number of rounds that acquire labels.
        k: labels per round.
        out: directory that gets the run directories, ``round-00`` and so on.
        by: the score to select by, or None for the random baseline.
        diversity: a method of ``mcscore.selection.DIVERSITY``.
        passes: stochastic forward passes per item.
        seed: seed of training, masks, what a method draws, and the random baseline.
        progress: called with a sentence at the start of each stage.

    Yields:
        rounds + 1 results.

    >>> import tempfile
    >>> items = np.random.default_rng(0).random((40, 4), np.float32)
    >>> labels = (items.sum(1) > 2).astype(np.int32)
    >>> def fit(pool, labeled, seed):  # a real one trains the model on pool.take(labeled), pool.labels[labeled]
    ...     return nn.Sequential(nn.Linear(4, 16), nn.Dropout(0.5), nn.Linear(16, 2))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     pool = Pool.create(f"{folder}/pool", items, labels=[*labels[:2], *[-1] * 38])
    ...     turns = cycle(pool, fit=fit, evaluate=lambda model: 0.5, oracle=lambda ids: labels[ids],
    ...                   rounds=2, k=5, out=Path(folder), passes=10)
    ...     [(turn.labels, len(turn.chosen)) for turn in turns]
    [(2, 5), (7, 5), (12, 0)]
    """
    for index in range(rounds + 1):
        start = time.perf_counter()
        has = pool.labeled
        labeled = np.flatnonzero(has)
        progress(f"round {index}: train on {len(labeled)} labels")
        model = fit(pool, labeled, seed * 1000 + index)
        accuracy = evaluate(model)
        chosen: Ids = np.empty(0, np.int64)
        where: Path | None = None
        if index < rounds and by is None:
            left = np.flatnonzero(~has & ~pool.excluded)
            chosen = np.sort(np.random.default_rng([seed, index]).choice(left, size=k, replace=False))
        elif index < rounds and by is not None:
            progress(f"round {index}: score {int((~has).sum())} items with {passes} passes")
            where = out / f"round-{index:02d}"
            scores = tuple(dict.fromkeys((by, "bald", "entropy")))
            scorer = Scorer(model, passes, scores, seed=seed, errors=passes > 1)
            run = score_pool(pool, scorer, where)
            progress(f"round {index}: select {k} by {by}")
            chosen = np.asarray(run.select(k, by=by, diversity=diversity, seed=seed * 1000 + index).ids)
        if len(chosen):
            pool.set_labels(chosen, oracle(chosen))
        yield Round(index, len(labeled), accuracy, chosen, time.perf_counter() - start, where)
