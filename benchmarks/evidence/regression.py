"""MC dropout on UCI regression sets with the published splits, and active learning by predictive variance on three of them.

A network with one hidden layer of 50 (protein: 100), dropout before both layers, is trained on normalized rows, as Gal and Ghahramani (2016)
do. The rate of dropout and the precision tau of the noise are chosen on a fifth of the training rows, by log likelihood; then it is trained
on all of them. The log likelihood of a test row is that of a mixture: log mean_t N(y; f_t, 1 / tau).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor, nn

from mcscore import Scorer

from . import curves
from .data import UCI, Table, uci
from .experiment import Claim, Row, Setting
from .kept import kept
from .stats import mean_and_error, permutation_test

QUESTION = "are MC dropout's predictions as good as published, and better than those of dropout switched off?"
SEEDS, QUICK_SEEDS = tuple(range(20)), (0, 1, 2, 3, 4)  # the published splits; protein has five
RATES, PASSES, BATCH = (0.005, 0.01, 0.05, 0.1), 1000, 128
QUICK = ("concrete", "yacht")
PUBLISHED = {  # RMSE and log likelihood with hyperparameters by grid: Gal's repository DropoutUncertaintyExps
    "concrete": (4.82, -2.93),
    "energy": (0.54, -1.21),
    "kin8nm": (0.08, 1.14),
    "naval-propulsion-plant": (0.00, 4.45),
    "power-plant": (4.01, -2.80),
    "protein-tertiary-structure": (4.27, -2.87),
    "wine-quality-red": (0.62, -0.93),
    "yacht": (0.67, -1.25),
}


def network(features: int, hidden: int, rate: float) -> nn.Module:
    return nn.Sequential(
        *(nn.Dropout(rate), nn.Linear(features, hidden), nn.ReLU()), *(nn.Dropout(rate), nn.Linear(hidden, 1))
    )


def trained(x: Tensor, y: Tensor, hidden: int, rate: float, epochs: int, seed: int) -> nn.Module:
    """A new network, by Adam on the squared error; an epoch sees every row once."""
    torch.manual_seed(seed)
    model = network(x.shape[1], hidden, rate).train()
    optimizer = torch.optim.Adam(model.parameters(), 1e-3, weight_decay=1e-6, fused=True)
    for _ in range(epochs):
        for batch in torch.randperm(len(y)).split(BATCH):
            optimizer.zero_grad()
            F.mse_loss(model(x[batch]), y[batch]).backward()
            optimizer.step()
    return model.eval()


def run(setting: Setting) -> curves.JSON:
    sets = QUICK if setting.quick else UCI
    found: dict[str, Any] = {"sets": {}, "minutes": 0.0}
    for name in sets:
        table = uci(setting.data, name)
        splits = [split for split in setting.seeds if split < len(table.tests)]
        each = []
        for split in splits:
            setting.tell(f"{name}, split {split + 1} of {len(splits)}")
            each.append(kept(setting.work / f"{name}-{split:02d}.json", lambda: one_split(name, table, split)))
        found["sets"][name] = {measure: [row[measure] for row in each] for measure in each[0]}
        found["minutes"] += sum(row["seconds"] for row in each) / 60
    return found


def one_split(name: str, table: Table, split: int) -> dict[str, float]:
    """RMSE of the mean of the passes and of dropout switched off, and log likelihood, in the units of the target."""
    import time

    begin = time.perf_counter()
    protein = name.startswith("protein")
    hidden, epochs = (100, 200) if protein else (50, 400)
    test = table.tests[split]
    train = np.setdiff1d(np.arange(len(table.y)), test)
    order = np.random.default_rng(split).permutation(train)
    held, rest = order[: len(order) // 5], order[len(order) // 5 :]
    choices = []
    for rate in RATES:  # on a fifth of the training rows
        predict, scale = _fitted(table, rest, hidden, rate, epochs, split)
        outputs, y = predict(held), table.y[held]
        for tau in np.geomspace(0.5, 2000, 25) / scale**2:
            choices.append((log_likelihood(outputs, y, tau), rate, tau))
    _, rate, tau = max(choices)
    predict, _ = _fitted(table, train, hidden, rate, epochs, split)
    outputs, y = predict(test), table.y[test]
    return {
        "rmse": float(np.sqrt(((outputs.mean(0) - y) ** 2).mean())),
        "rmse_off": float(np.sqrt(((predict(test, passes=False)[0] - y) ** 2).mean())),
        "log_likelihood": log_likelihood(outputs, y, tau),
        "rate": rate,
        "seconds": time.perf_counter() - begin,
    }


def _fitted(table: Table, train: np.ndarray, hidden: int, rate: float, epochs: int, seed: int) -> Any:
    """(rows, passes=True) -> outputs of all passes (T, rows), or (1, rows) with dropout off; and the standard deviation of the targets."""
    X, y = table.X[train], table.y[train]
    (mean, std), (center, scale) = (X.mean(0), X.std(0)), (y.mean(), y.std())
    std = np.where(std > 0, std, 1)

    def rows_of(X: np.ndarray) -> Tensor:
        return torch.from_numpy(((X - mean) / std).astype(np.float32))

    target = torch.from_numpy(((y - center) / scale).astype(np.float32))[:, None]
    model = trained(rows_of(X), target, hidden, rate, epochs, seed)

    def predict(ids: np.ndarray, passes: bool = True) -> np.ndarray:
        x = rows_of(table.X[ids])
        if passes:
            outputs = Scorer(model, PASSES, ("variance",), likelihood="gaussian", seed=seed).samples(x)[..., 0]
        else:
            with torch.no_grad():
                outputs = model(x).T
        return outputs.double().numpy() * scale + center

    return predict, scale


def log_likelihood(outputs_TN: np.ndarray, y_N: np.ndarray, tau: float) -> float:
    """Mean over rows of log mean_t N(y; f_t, 1 / tau) (Gal and Ghahramani 2016, equation 8)."""
    exponents = torch.from_numpy(-0.5 * tau * (y_N - outputs_TN) ** 2)
    each = torch.logsumexp(exponents, 0) - math.log(len(outputs_TN)) - 0.5 * math.log(2 * math.pi / tau)
    return float(each.mean())


def claims(results: curves.JSON) -> list[Claim]:
    """The mean of the passes is not worse than dropout switched off; p is that of it being so by chance."""
    told = []
    for name, found in results["sets"].items():
        better = np.array(found["rmse_off"]) - np.array(found["rmse"])
        p = permutation_test(better)
        told.append(Claim(f"{name}: RMSE of the passes' mean is below that of dropout off, by {better.mean():.3g} (p = {p:.2g})", better.mean() > 0, f"{p:.2g}"))
    return told


def rows(results: curves.JSON) -> list[Row]:
    table = []
    for name, found in results["sets"].items():
        rmse, likelihood = PUBLISHED[name]
        table.append(Row(f"{name}, RMSE", rmse, mean_and_error(found["rmse"])[0], 2))
        table.append(Row(f"{name}, log likelihood", likelihood, mean_and_error(found["log_likelihood"])[0], 2))
    return table


def page(results: curves.JSON) -> str:
    lines = [
        "One hidden layer of 50 (protein: 100), dropout before both layers, 400 epochs (protein: 200) of Adam in batches of 128; rate of "
        f"dropout out of {RATES} and precision of the noise chosen on a fifth of the training rows. {PASSES} passes. The published splits, all "
        "of them; ± is the standard error over them.",
        "",
        "| set | splits | RMSE published | RMSE | dropout off | p | log likelihood published | log likelihood |",
        "|" + " --- |" * 8,
    ]
    for name, found in results["sets"].items():
        cells = [f"{mean:.3f} ± {error:.3f}" for mean, error in map(mean_and_error, (found["rmse"], found["rmse_off"], found["log_likelihood"]))]
        p = permutation_test(np.array(found["rmse_off"]) - np.array(found["rmse"]))
        rmse, likelihood = PUBLISHED[name]
        lines.append(f"| {name} | {len(found['rmse'])} | {rmse} | {cells[0]} | {cells[1]} | {p:.2g} | {likelihood} | {cells[2]} |")
    return "\n".join([*lines, "", "p: one-sided permutation test over the splits that the passes' mean is better than dropout off."])


def draw(results: curves.JSON) -> Figure:
    figure = curves.figure(8, 0.6 + 0.5 * len(results["sets"]))
    axes = figure.subplots()
    names = list(results["sets"])[::-1]
    for at, name in enumerate(names):
        ratio = np.array(results["sets"][name]["rmse"]) / np.array(results["sets"][name]["rmse_off"])
        axes.plot(ratio, np.full(len(ratio), at), "o", color=curves.COLORS[0], alpha=0.35, markersize=4)
        axes.plot(ratio.mean(), at, "D", color=curves.COLORS[0], markersize=7)
    axes.axvline(1, color=curves.GRAY, linewidth=1)
    axes.set_yticks(range(len(names)), names)
    axes.set(xlabel="RMSE of the passes' mean / RMSE with dropout off; a point for each split, a diamond for their mean", ylim=(-0.6, len(names) - 0.4))
    axes.spines[["top", "right"]].set_visible(False)
    return figure
