"""Active learning of handwritten digits, after Gal, Islam and Ghahramani (2017, section 5.1): which acquisition needs how many labels.

MNIST's 60,000 training images are the pool, all of which is scored in each round; theirs was a subsample. From 20 labels,
two of each digit, 10 more in each round. Their network is trained anew in each round, and tested on the 10,000 test
images by the mean of its passes. Screened scoring, with few passes for all images and with all of them only for those that may be
among the best 10, is compared with flat scoring by the models of some of BALD's rounds.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from mcscore import Execution, Pool, Scorer, Screen, score_pool
from mcscore.cycle import Round, cycles
from mcscore.demo import balanced_start

from ..models import GalCNN
from . import curves
from .data import Images, mnist
from .experiment import Claim, Setting, above_zero
from .kept import kept, pool_of
from .training import classifier, cnn

QUESTION = "how many labels of handwritten digits does each acquisition need?"
DATA = "mnist"
SEEDS, QUICK_SEEDS = (0, 1, 2), (0, 1, 2, 3, 4)
FIRST, BATCH, ROUNDS, PASSES, FEW, STEPS = 20, 10, 21, 100, 20, 400
SCREEN = Screen(top=BATCH, passes=16, by="bald")
COMPARED = (0, 8, 18)  # rounds of BALD of the first seed whose models score the pool flat and screened
POWER = "BALD, power"  # drawn, so that a batch does not repeat itself; beta as in repeats. FEW passes do, as the draw is random
# How far a method is followed: without a GPU a round of PASSES takes five minutes, one of FEW a minute and a half, random's half of that
METHODS: dict[str, dict[str, Any]] = {
    "BALD": {"select": {"by": "bald", "diversity": "none"}, "rounds": 28},
    POWER: {"select": {"by": "bald", "diversity": "power", "beta": 4.0}, "rounds": 38},
    "entropy": {"select": {"by": "entropy", "diversity": "none"}},
    "variation ratios": {"select": {"by": "least_confidence", "diversity": "none"}},
    "mean std": {"select": {"by": "mean_std", "diversity": "none"}},
    "random": {"select": "random", "rounds": 38},
}
APART = tuple(METHODS)
QUICK = ("BALD", "random")


class Task:
    """The pool, the network and its test, at the size of a setting."""

    def __init__(self, setting: Setting) -> None:
        images, quick = mnist(setting.data), setting.quick
        n, tested = (2000, 1000) if quick else (len(images.pool), len(images.test))
        self.data = Images(images.pool[:n], images.pool_labels[:n], images.test[:tested], images.test_labels[:tested])
        self.quick, self.device = quick, setting.device
        self.rounds, self.passes, self.steps = (4, 20, 150) if quick else (ROUNDS, PASSES, STEPS)
        self.network = cnn if quick else GalCNN
        self.pool = pool_of(setting.work / "pool", self.data.pool)
        self.test = torch.from_numpy(self.data.test.copy()).to(setting.device)
        self.digits = torch.from_numpy(self.data.test_labels).to(setting.device)

    def make(self) -> nn.Module:
        model = self.network()
        # Twice as fast on a CPU
        return model.to(memory_format=torch.channels_last) if self.device == "cpu" else model

    def fit(self, pool: Pool, labeled: npt.NDArray[np.int64], seed: int) -> nn.Module:
        return classifier(self.make, pool, labeled, seed, self.steps, self.device)

    def methods(self, names: Sequence[str]) -> dict[str, dict[str, Any]]:
        chosen = {name: dict(METHODS[name]) for name in names}
        for name, own in chosen.items():
            own["rounds"] = self.rounds if self.quick else own.get("rounds", self.rounds)
            if name == POWER:
                own["scorer"] = self.scorer_of_few
        return chosen

    def scorer_of_few(self, model: nn.Module, seed: int) -> Scorer:
        return self.scorer(model, seed, FEW)

    def scorer(self, model: nn.Module, seed: int, passes: int = 0) -> Scorer:
        """On a GPU in bfloat16, its default for this network, and in steps of 1 GiB, as other processes need memory, too."""
        gpu = self.device != "cpu"
        scores = ("bald", "entropy", "least_confidence", "mean_std")
        execution = Execution(memory=1 << 30, dtype="bfloat16") if gpu else Execution()
        return Scorer(model, passes or self.passes, scores, seed=seed, execution=execution)

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        scorer = Scorer(model, self.passes, ("entropy",), execution=Execution(memory=1 << 30, dtype="model"))
        return {"error": float((scorer(self.test)["prediction"] != self.digits).double().mean())}


def run(setting: Setting) -> curves.JSON:
    task = Task(setting)
    device = torch.cuda.get_device_name(setting.device) if setting.device != "cpu" else "one thread of a CPU"
    kept(setting.work / f"device-{setting.device}.json", lambda: {"name": device})
    chosen = setting.methods or (QUICK if setting.quick else tuple(METHODS))
    rounds = cycles(
        task.pool,
        methods=task.methods(chosen),
        seeds=setting.seeds,
        out=setting.work / "cycles",
        start=lambda seed: balanced_start(task.data.pool_labels, FIRST, seed),
        fit=task.fit,
        evaluate=task.evaluate,
        oracle=lambda ids: task.data.pool_labels[ids],
        k=BATCH,
        scorer=task.scorer,
        progress=setting.tell,
    )
    results = curves.of_cycles(rounds)
    if not setting.methods:  # all are done, and no process is beside this one: times count
        first = rounds["BALD"][0]
        results["devices"] = [
            json.loads(file.read_text())["name"] for file in sorted(setting.work.glob("device-*.json"))
        ]
        shown = [first[n] for n in COMPARED if n < task.rounds]
        results["picked"] = [
            {"labels": turn.labels, "items": turn.chosen.tolist(), "digits": turn.given.tolist()} for turn in shown
        ]
        results["_images"] = [task.data.pool[turn.chosen] for turn in shown]
        results["screening"] = [
            kept(
                setting.work / f"screened-{n:02d}.json", lambda n=n: screened(task, setting.seeds[0], first, n, setting)
            )
            for n in COMPARED
            if n < task.rounds
        ]
        results["minutes"] += sum(each["flat"] + each["screened"] for each in results["screening"]) / 60
    return results


def screened(task: Task, seed: int, turns: list[Round], n: int, setting: Setting) -> curves.JSON:
    """Score the pool by the model of a round, flat and screened: seconds of each, and how many of their best 10 are the same."""
    setting.tell(f"seed {seed}: the model of round {n} scores the pool flat and screened")
    own = Pool.open(setting.work / "cycles" / "BALD" / f"seed-{seed}" / "pool")
    labeled = np.concatenate([balanced_start(task.data.pool_labels, FIRST, seed), *(turn.chosen for turn in turns[:n])])
    model = task.fit(own, np.sort(labeled), seed * 1000 + n)
    result, best = {"labels": len(labeled)}, []
    for name, screen in (("flat", None), ("screened", SCREEN)):
        out = setting.work / f"compared-{seed}"
        shutil.rmtree(out, ignore_errors=True)  # of an attempt that was killed: its time would not count
        begin = time.perf_counter()
        scored = score_pool(task.pool, task.scorer(model, seed), out, screen=screen, labeled=True, progress=False)
        best.append(scored.select(BATCH, by="bald", diversity="none", seed=seed).ids)
        result |= {name: time.perf_counter() - begin, f"{name}_passes": scored.passes_spent / task.pool.n}
        shutil.rmtree(out)
    return result | {"shared": len(np.intersect1d(*best))}


def claims(results: curves.JSON) -> list[Claim]:
    """That labels help, which is all that a few rounds show; with all of them, that their choice does."""
    error_SR = curves.values(results, "BALD", "error")
    claimed = [above_zero("the last error of BALD is below its first", error_SR[:, 0] - error_SR[:, -1])]
    if results["size"] == "full":
        lower = curves.over_random(results, "error", better=-1)
        for method in ("BALD", "variation ratios", POWER):
            claimed.append(above_zero(f"error of {method}, mean over its rounds, is below random's", lower[method], 4))
    return claimed
