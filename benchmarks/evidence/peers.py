"""Top-k BALD by baal (Atighehchian, Branchaud-Charron and Lacoste 2020), side by side: what a round takes, and what it teaches.

Network, first labels, training, passes and budget are the same. baal repeats the whole network for each pass, keeps all probabilities
and ranks them; its dropout draws from PyTorch's generator. It is installed by ``pip install baal==2.1.0``.
"""

from __future__ import annotations

import copy
import importlib.util
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from mcscore import Pool, Scorer, score_pool
from mcscore.demo import balanced_start

from . import curves
from .data import NoDataError, mnist
from .experiment import Claim, Setting, above_zero
from .kept import kept, pool_of
from .repeats import items, normalized
from .stats import Floats, area
from .training import classifier, cnn_for_cpu

QUESTION = "what does a round of BALD take with baal, and does it teach the same?"
DATA = "mnist"
SEEDS, QUICK_SEEDS = (0, 1, 2), (0, 1, 2, 3, 4)
FIRST, BATCH, TEST_PASSES = 20, 10, 20
TASKS = {"digits": 1, "repeats": 4}  # copies of each digit in the pool
FULL = {"pool": 4000, "passes": 50, "steps": 200, "rounds": 14, "test": 10_000}
SMALL = {"pool": 1000, "passes": 20, "steps": 100, "rounds": 2, "test": 1000}
OURS, THEIRS = "mcscore, BALD", "baal, BALD"
Ints = npt.NDArray[np.int64]
Pick = Callable[[nn.Module, Pool, Ints, int, int, Path], Ints]


def by_mcscore(model: nn.Module, pool: Pool, unlabeled: Ints, passes: int, seed: int, work: Path) -> Ints:
    shutil.rmtree(work / "run", ignore_errors=True)
    scorer = Scorer(model, passes, ("bald",), errors=False, seed=seed)
    run = score_pool(pool, scorer, work / "run", progress=False, check="off")
    return run.select(BATCH, by="bald", diversity="none").ids


def by_baal(model: nn.Module, pool: Pool, unlabeled: Ints, passes: int, seed: int, work: Path) -> Ints:
    from baal.active.heuristics import BALD
    from baal.bayesian.dropout import patch_module
    from baal.modelwrapper import ModelWrapper, TrainingArgs

    torch.manual_seed(seed)
    images = torch.utils.data.TensorDataset(torch.from_numpy(pool.take(unlabeled)))
    wrapper = ModelWrapper(patch_module(copy.deepcopy(model)), TrainingArgs(batch_size=32, use_cuda=False, workers=0))
    outputs_NCT = wrapper.predict_on_dataset(images, iterations=passes, verbose=False)
    return unlabeled[BALD()(outputs_NCT)[:BATCH]]


def at_random(model: nn.Module, pool: Pool, unlabeled: Ints, passes: int, seed: int, work: Path) -> Ints:
    return np.random.default_rng(seed).choice(unlabeled, BATCH, replace=False)


METHODS: dict[str, Pick] = {OURS: by_mcscore, THEIRS: by_baal, "random": at_random}


def run(setting: Setting) -> curves.JSON:
    size = SMALL if setting.quick else FULL
    mnist(setting.data)  # asked for before all else
    if importlib.util.find_spec("baal") is None:
        raise NoDataError("baal is not installed: pip install baal==2.1.0")
    found: curves.JSON = {"of": size, "tasks": {}, "minutes": 0.0}
    for task in TASKS:
        cycles = {method: [_cycle(task, method, seed, size, setting) for seed in setting.seeds] for method in METHODS}
        found["tasks"][task] = {
            "labels": [FIRST + BATCH * n for n in range(size["rounds"] + 1)],
            "measures": {
                method: {"accuracy": [[turn["accuracy"] for turn in turns] for turns in seeds]}
                for method, seeds in cycles.items()
            },
            # of the median round: the first one of a process is slower
            "seconds": {
                method: [float(np.median([turn["seconds"] for turn in turns[:-1]])) for turns in seeds]
                for method, seeds in cycles.items()
            },
        }
        found["minutes"] += sum(turn["minutes"] for seeds in cycles.values() for turns in seeds for turn in turns)
    return found


def _cycle(task: str, method: str, seed: int, size: dict[str, int], setting: Setting) -> list[dict[str, Any]]:
    """The rounds of one cycle, each kept as soon as it is done; in the last one nothing is selected."""
    data, copies = mnist(setting.data), TASKS[task]
    digits = size["pool"] // copies
    images, labels = items(data, digits, copies, seed)
    test = torch.from_numpy(normalized(data.test[: size["test"]]))
    answers = torch.from_numpy(data.test_labels[: size["test"]])
    work = setting.work / task / method / f"seed-{seed}"
    pool, labeled = pool_of(work / "pool", images), balanced_start(labels[:digits], FIRST, seed)

    def turn(n: int) -> dict[str, Any]:
        setting.tell(f"{task}, {method}, seed {seed}: round {n}")
        begin = time.perf_counter()
        model = classifier(cnn_for_cpu, pool, labeled, seed * 1000 + n, size["steps"])
        predicted = Scorer(model, TEST_PASSES, ("entropy",)).predict(test).mean.argmax(1)
        trained = time.perf_counter()
        chosen = np.empty(0, np.int64)
        if n < size["rounds"]:
            unlabeled = np.setdiff1d(np.arange(pool.n), labeled)
            chosen = METHODS[method](model, pool, unlabeled, size["passes"], seed * 1000 + n, work)
        end = time.perf_counter()
        return {
            "accuracy": float((predicted == answers).double().mean()),
            "seconds": end - trained,
            "minutes": (end - begin) / 60,
            "chosen": chosen.tolist(),
        }

    turns = []
    for n in range(size["rounds"] + 1):
        pool.set_labels(labeled, labels[labeled])
        turns.append(kept(work / f"round-{n:02d}.json", lambda n=n: turn(n)))
        labeled = np.union1d(labeled, np.array(turns[-1]["chosen"], np.int64))
    return turns


def _area(found: curves.JSON, method: str) -> Floats:
    return area(found["labels"], curves.values(found, method, "accuracy"))


def seconds(found: curves.JSON, method: str) -> Floats:
    return np.array(found["seconds"][method], np.float64)


def claims(results: curves.JSON) -> list[Claim]:
    claimed = []
    for task, found in results["tasks"].items():
        saved = seconds(found, THEIRS) - seconds(found, OURS)
        claimed.append(above_zero(f"{task}: mcscore takes fewer seconds to score and select than baal", saved))
        if results["of"] == FULL:
            over = _area(found, OURS) - _area(found, THEIRS)
            claimed.append(
                above_zero(f"{task}: accuracy over all rounds is less than 0.01 below that of baal", over + 0.01)
            )
    return claimed
