"""MC dropout on eight UCI regression sets, with the published splits.

A network with one hidden layer of 50 (protein: 100), dropout before both layers, is trained on normalized rows, as Gal
and Ghahramani (2016) do. Their repository DropoutUncertaintyExps trains 4,000 epochs (protein: 2,000) for the figures
that it calls those of a grid search; its logs of 400 epochs have an RMSE of 5.6 on concrete instead of 4.8. What its
files call the standard RMSE is that of one pass. Rate of dropout, precision tau of the noise and number of epochs are
chosen on a fifth of the training rows, by log likelihood; then the network is trained on all of them. The log
likelihood of a test row is that of a mixture: log mean_t N(y; f_t, 1 / tau).
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mcscore import Scorer

from . import curves
from .data import UCI, Table, uci
from .experiment import Claim, Setting, above_zero
from .kept import kept
from .stats import Floats, mean_and_error

QUESTION = "are MC dropout's predictions as good as published, and better than those of dropout switched off?"
DATA = "uci-regression"
SPLITS = tuple(range(20))  # those published; protein has five
SEEDS, QUICK_SEEDS = SPLITS, (0, 1, 2, 3, 4)
RATES, PASSES, BATCH = (0.005, 0.01, 0.05, 0.1), 1000, 128
LARGE = 5000
PARTS = UCI
QUICK, EPOCHS, QUICK_EPOCHS = ("concrete", "yacht"), (400, 1300, 4000), (100, 400)
PUBLISHED = {  # RMSE and log likelihood by grid, each with its standard error: the readme of DropoutUncertaintyExps
    "concrete": (4.82, 0.16, -2.93, 0.02),
    "energy": (0.54, 0.06, -1.21, 0.01),
    "kin8nm": (0.08, 0.00, 1.14, 0.01),
    "naval-propulsion-plant": (0.00, 0.00, 4.45, 0.00),
    "power-plant": (4.01, 0.04, -2.80, 0.01),
    "protein-tertiary-structure": (4.27, 0.02, -2.87, 0.00),
    "wine-quality-red": (0.62, 0.01, -0.93, 0.01),
    "yacht": (0.67, 0.05, -1.25, 0.01),
}


class Fitted:
    """A network and the units of its data."""

    def __init__(self, table: Table, train: np.ndarray, rate: float, seed: int) -> None:
        X, y = table.X[train], table.y[train]
        self.mean, self.std = X.mean(0), np.where(X.std(0) > 0, X.std(0), 1)
        self.center, self.scale, self.seed = y.mean(), y.std(), seed
        self.x, self.y = self.rows(X), torch.from_numpy(((y - self.center) / self.scale).astype(np.float32))[:, None]
        torch.manual_seed(seed)
        hidden = 100 if len(table.y) > 40_000 else 50  # protein
        layers = (nn.Dropout(rate), nn.Linear(X.shape[1], hidden), nn.ReLU(), nn.Dropout(rate), nn.Linear(hidden, 1))
        self.model = nn.Sequential(*layers)

    def rows(self, X: Floats) -> Tensor:
        return torch.from_numpy(((X - self.mean) / self.std).astype(np.float32))

    def train(self, stops: tuple[int, ...]) -> Iterator[int]:
        """Train by Adam on the squared error, and stop after these numbers of epochs."""
        optimizer = torch.optim.Adam(self.model.parameters(), 1e-3, weight_decay=1e-6, fused=True)
        for epoch in range(1, stops[-1] + 1):
            self.model.train()
            for batch in torch.randperm(len(self.y)).split(BATCH):
                optimizer.zero_grad()
                F.mse_loss(self.model(self.x[batch]), self.y[batch]).backward()
                optimizer.step()
            if epoch in stops:
                self.model.eval()
                yield epoch

    def outputs(self, X: Floats) -> Floats:
        """Those of all passes, (T, N), in the units of the target."""
        scorer = Scorer(self.model, PASSES, ("variance",), likelihood="gaussian", seed=self.seed)
        return scorer.samples(self.rows(X))[..., 0].double().numpy() * self.scale + self.center

    def output(self, X: Floats) -> Floats:
        """Those with dropout off, (N,)."""
        with torch.no_grad():
            return self.model(self.rows(X))[:, 0].double().numpy() * self.scale + self.center


def run(setting: Setting) -> curves.JSON:
    sets, epochs = (QUICK, QUICK_EPOCHS) if setting.quick else (setting.parts or UCI, EPOCHS)
    found: dict[str, Any] = {"sets": {}, "minutes": 0.0, "epochs": list(epochs)}
    for name in sets:
        table = uci(setting.data, name)
        each = []
        for split in (each for each in setting.seeds if each < len(table.tests)):
            setting.tell(f"{name}, split {split + 1} of {len(table.tests)}")
            stops = tuple(n // 4 for n in epochs) if len(table.y) > LARGE else epochs
            path = setting.work / f"{name}-{split:02d}.json"
            row = kept(path, lambda t=table, s=split, stops=stops: one_split(t, s, stops))
            each.append(row | {"rmse_mean": of_the_mean(table, split)})
        found["sets"][name] = {measure: [row[measure] for row in each] for measure in each[0]}
        found["minutes"] += sum(row["seconds"] for row in each) / 60
    return found


def one_split(table: Table, split: int, stops: tuple[int, ...]) -> dict[str, float]:
    """RMSE of the mean of the passes, of one pass and of dropout switched off, and log likelihood, in the units of the target."""
    begin = time.process_time()
    train, test = _parts(table, split)
    order = np.random.default_rng(split).permutation(train)
    held, rest = order[: len(order) // 5], order[len(order) // 5 :]
    choices = []
    for rate in RATES:
        trying = Fitted(table, rest, rate, split)
        for epochs in trying.train(stops):
            outputs = trying.outputs(table.X[held])
            for tau in np.geomspace(0.5, 5000, 25) / trying.scale**2:
                choices.append((log_likelihood(outputs, table.y[held], tau), rate, tau, epochs))
    _, rate, tau, epochs = max(choices)
    fitted = Fitted(table, train, rate, split)
    list(fitted.train((epochs,)))
    outputs, y = fitted.outputs(table.X[test]), table.y[test]
    return {
        "rmse": _rmse(outputs.mean(0), y),
        "rmse_one": _rmse(outputs[0], y),
        "rmse_off": _rmse(fitted.output(table.X[test]), y),
        "log_likelihood": log_likelihood(outputs, y, tau),
        **{"rate": rate, "epochs": epochs, "seconds": time.process_time() - begin},
    }


def of_the_mean(table: Table, split: int) -> float:
    """RMSE of the mean of the training targets, which knows no features."""
    train, test = _parts(table, split)
    return _rmse(table.y[train].mean(), table.y[test])


def _parts(table: Table, split: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The rows to train on, and those to test on."""
    test = table.tests[split]
    return np.setdiff1d(np.arange(len(table.y)), test), test


def _rmse(predicted_N: Floats | float, y_N: Floats) -> float:
    return float(np.sqrt(((predicted_N - y_N) ** 2).mean()))


def log_likelihood(outputs_TN: Floats, y_N: Floats, tau: float) -> float:
    """Mean over rows of log mean_t N(y; f_t, 1 / tau) (Gal and Ghahramani 2016, equation 8)."""
    exponents = torch.from_numpy(-0.5 * tau * (y_N - outputs_TN) ** 2)
    each = torch.logsumexp(exponents, 0) - math.log(len(outputs_TN)) - 0.5 * math.log(2 * math.pi / tau)
    return float(each.mean())


def claims(results: curves.JSON) -> list[Claim]:
    """That features help, which is all that few epochs show; with all of them, against one pass and what is published."""
    told = []
    for name, found in results["sets"].items():
        mean, one, ours = (np.array(found[measure]) for measure in ("rmse_mean", "rmse_one", "rmse"))
        told.append(above_zero(f"{name}: RMSE is below that of the training rows' mean", mean - ours))
        if results["epochs"] == list(EPOCHS):
            told.append(above_zero(f"{name}: RMSE of the passes' mean is below that of one pass", one - ours))
            told += _as_published(name, found)
    return told


def _as_published(name: str, found: curves.JSON) -> Iterator[Claim]:
    """Not worse than published by more than two standard errors of the difference, and half a unit of the last digit."""
    rmse, rmse_error, likelihood, likelihood_error = PUBLISHED[name]
    for what, sign, published, of_it in (
        ("rmse", 1, rmse, rmse_error),
        ("log_likelihood", -1, likelihood, likelihood_error),
    ):
        ours, error = mean_and_error(found[what])
        worse, allowed = sign * (ours - published), 2 * math.hypot(error, of_it) + 0.005
        text = f"{name}: {what.replace('_', ' ')} {ours:.3f} is not worse than {published} as published (allowed: {allowed:.3f})"
        yield Claim(text, "holds" if worse <= allowed else "does not hold", "2.3%: two standard errors, one side")
