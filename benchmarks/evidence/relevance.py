"""Learning to rank from few labels: MC dropout on LETOR MQ2008.

An item is a document of a query, labeled relevant (grade 1 or 2) or not. Fold k trains on three parts, which are the
pool, and tests on one; the one for validation is not used, as nothing is tuned. From 20 labels, ten of them relevant, a
small MLP is trained anew in each round; it ranks the documents of the test queries by its mean probability of
relevance.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from mcscore import Pool, Scorer
from mcscore.cycle import cycles
from mcscore.demo import balanced_start

from . import curves
from .data import Queries, mq2008
from .experiment import Claim, Setting, above_zero
from .kept import pool_of
from .stats import average_precision, ndcg
from .training import classifier, mlp

QUESTION = "do labels chosen by uncertainty rank search results better?"
DATA = "letor-mq2008"
SPLITS = (1, 2, 3, 4, 5)  # the published folds
SEEDS = QUICK_SEEDS = SPLITS
FIRST, BATCH, PASSES, STEPS = 20, 10, 100, 300
METHODS: dict[str, dict[str, Any]] = {
    "BALD": {"select": {"by": "bald", "diversity": "none"}},
    "entropy": {"select": {"by": "entropy", "diversity": "none"}},
    "mean std": {"select": {"by": "mean_std", "diversity": "none"}},
    "random": {"select": "random"},
}
QUICK = ("BALD", "random")


def fit(pool: Pool, labeled: npt.NDArray[np.int64], seed: int) -> nn.Module:
    return classifier(lambda: mlp((*pool.item_shape, 64, 64, 2), (0.25, 0.5)), pool, labeled, seed, STEPS)


def run(setting: Setting) -> curves.JSON:
    data = mq2008(setting.data)
    folds = {fold: _fold(data, fold, setting) for fold in setting.seeds}
    results = {method: [folds[fold][method][0] for fold in setting.seeds] for method in setting.chosen(METHODS, QUICK)}
    return curves.of_cycles(results)


def _fold(data: Queries, fold: int, setting: Setting) -> dict:
    """All methods on one fold, whose parts are numbered as LETOR does: fold 1 trains on 1 2 3 and tests on 5."""
    train = [(fold - 1 + n) % 5 + 1 for n in range(3)]
    where = np.isin(data.part, train)
    X, relevant = _scaled(data.X, where), (data.relevance >= 1).astype(np.int32)
    pool_X, pool_y = X[where], relevant[where]
    path = setting.work / f"fold-{fold}"
    pool = pool_of(path / "pool", pool_X)
    test = np.flatnonzero(data.part == (fold + 3) % 5 + 1)
    test_X, grades, query = torch.from_numpy(X[test]), data.relevance[test], data.query[test]

    def evaluate(model: nn.Module) -> dict[str, float]:
        chance = Scorer(model, PASSES, ("entropy",)).predict(test_X).mean[:, 1].numpy()
        of_query = [np.flatnonzero(query == q) for q in np.unique(query)]
        precisions = [average_precision(chance[i], grades[i] >= 1) for i in of_query]
        gains = [ndcg(chance[i], grades[i]) for i in of_query]
        return {"average precision": float(np.nanmean(precisions)), "NDCG@10": float(np.nanmean(gains))}

    return cycles(
        pool,
        methods=setting.chosen(METHODS, QUICK),
        seeds=[fold],
        out=path / "cycles",
        start=lambda seed: balanced_start(pool_y, FIRST, seed),
        fit=fit,
        evaluate=evaluate,
        oracle=lambda ids: pool_y[ids],
        rounds=8 if setting.quick else 28,
        k=BATCH,
        scorer={"passes": PASSES, "scores": ("bald", "entropy", "mean_std")},
        progress=lambda stage: setting.tell(f"fold {fold}, {stage}"),
    )


def _scaled(X: np.ndarray, train: np.ndarray) -> np.ndarray:
    mean, std = X[train].mean(0), X[train].std(0)
    return ((X - mean) / np.where(std > 0, std, 1)).astype(np.float32)


def claims(results: curves.JSON) -> list[Claim]:
    if results["size"] == "full":
        over = curves.over_random(results, "average precision")["BALD"]
        return [above_zero("BALD's average precision, mean over all rounds, is above random's", over)]
    bald, random = (curves.values(results, name, "average precision")[:, -3:].mean(1) for name in QUICK)
    return [above_zero("BALD's average precision, mean of the last three rounds, is above random's", bald - random)]
