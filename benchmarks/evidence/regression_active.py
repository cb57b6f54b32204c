"""Active learning of numbers: UCI regression sets, rows chosen by predictive variance of MC dropout against rows chosen at random.

From 20 labels, 10 more in each round; the pool is all training rows of a published split, and the test rows are its
own. A split is a seed. A network with two hidden layers of 50 and dropout 0.05 is trained anew in each round.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import nn

from mcscore import Pool, Scorer
from mcscore.cycle import Round, cycles

from . import curves
from .data import uci
from .experiment import Claim, Setting, above_zero
from .kept import pool_of
from .training import mlp, trained

QUESTION = "do rows chosen by predictive variance teach more than random ones?"
DATA = "uci-regression"
SPLITS = tuple(range(20))  # those published
SEEDS, QUICK_SEEDS = tuple(range(10)), (0, 1, 2, 3, 4)
SETS, QUICK = ("concrete", "energy", "kin8nm"), ("energy",)
FIRST, BATCH, PASSES, STEPS, RATE = 20, 10, 100, 1000, 0.05
METHODS: dict[str, dict[str, Any]] = {
    "variance": {"select": {"by": "variance", "diversity": "none"}},
    "variance, power": {"select": {"by": "variance", "diversity": "power"}},
    "random": {"select": "random"},
}
QUICK_METHODS = ("variance", "random")


def fit(pool: Pool, labeled: npt.NDArray[np.int64], seed: int) -> nn.Module:
    x, y = torch.from_numpy(pool.take(labeled)), torch.from_numpy(pool.labels[labeled]).float()[:, None]
    return trained(
        lambda: mlp((x.shape[1], 50, 50, 1), (RATE, RATE)),
        lambda model, batch: F.mse_loss(model(x[batch]), y[batch]),
        len(y),
        seed,
        STEPS,
    )


def run(setting: Setting) -> curves.JSON:
    results: curves.JSON = {"sets": {}, "minutes": 0.0}
    for name in QUICK if setting.quick else SETS:
        each = [_split(name, split, setting) for split in setting.seeds]
        results["sets"][name] = curves.of_cycles(
            {name: [one[name][0] for one in each] for name in setting.chosen(METHODS, QUICK_METHODS)}
        )
        results["minutes"] += results["sets"][name]["minutes"]
    return results


def _split(name: str, split: int, setting: Setting) -> dict[str, list[list[Round]]]:
    table = uci(setting.data, name)
    test = table.tests[split]
    train = np.setdiff1d(np.arange(len(table.y)), test)
    mean, std = table.X[train].mean(0), table.X[train].std(0)  # of rows, which need no labels
    X = ((table.X - mean) / np.where(std > 0, std, 1)).astype(np.float32)
    y = ((table.y - table.y[train].mean()) / table.y[train].std()).astype(np.float32)
    path = setting.work / f"{name}-{split:02d}"
    pool = pool_of(path / "pool", X[train], label_kind="number")

    def evaluate(model: nn.Module) -> dict[str, float]:
        predicted = (
            Scorer(model, PASSES, ("variance",), likelihood="gaussian").predict(torch.from_numpy(X[test])).mean.numpy()
        )
        return {"RMSE": float(np.sqrt(((predicted - y[test]) ** 2).mean()))}

    return cycles(
        pool,
        methods=setting.chosen(METHODS, QUICK_METHODS),
        seeds=[split],
        out=path / "cycles",
        start=lambda seed: np.random.default_rng(seed).choice(len(train), FIRST, replace=False),
        fit=fit,
        evaluate=evaluate,
        oracle=lambda ids: y[train][ids],
        rounds=8 if setting.quick else 18,
        k=BATCH,
        scorer={"passes": PASSES, "scores": ("variance",), "likelihood": "gaussian"},
        progress=lambda stage: setting.tell(f"{name}, split {split}, {stage}"),
    )


def claims(results: curves.JSON) -> list[Claim]:
    """That labels help, which is all that a few rounds show; with all of them, that variance beats random."""
    claimed = []
    for name, found in results["sets"].items():
        rmse_SR = curves.values(found, "variance", "RMSE")
        claimed.append(above_zero(f"{name}: the last RMSE is below the first", rmse_SR[:, 0] - rmse_SR[:, -1]))
        if results["size"] == "full":
            lower = curves.over_random(found, "RMSE", better=-1)["variance"]
            claimed.append(above_zero(f"{name}: RMSE of variance, mean over all rounds, is below random's", lower))
    return claimed
