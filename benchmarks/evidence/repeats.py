"""Selection from a pool with repeats: Repeated MNIST (Kirsch, van Amersfoort and Gal 2019; Kirsch et al. 2021, 2023).

A pool has each digit once, twice or four times, each time with its own Gaussian noise. The ten items of the highest BALD
are then copies of few digits, which teach little; methods that draw, or that look at the batch as a whole, are not
misled. From 20 labels, two of each class, ten more in each round. The published code scores with masks that all items
share ("consistent MC dropout"), so that copies have nearly the same score; mcscore's default are masks of each item's
own. Top-k BALD is run with both.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from mcscore import Dropout, Scorer
from mcscore.cycle import Round, cycles
from mcscore.demo import balanced_start

from . import curves
from .data import Images, mnist
from .experiment import Claim, Setting, above_zero
from .kept import pool_of
from .stats import Floats
from .training import classifier, cnn_for_cpu

QUESTION = "which methods of selection are not misled by copies?"
DATA = "mnist"
SEEDS, QUICK_SEEDS = (0, 1, 2, 3, 4), (0, 1, 2, 3, 4)
COPIES, FIRST, BATCH, NOISE, TEST_PASSES, LAST = (1, 2, 4), 20, 10, 0.1, 20, 5
FEWER = {1: 3, 2: 3}  # seeds; claims are of x4 alone
PARTS = ("x4", "x1", "x2")
MEAN, STD = 0.1307, 0.3081  # of the pixels of MNIST, as published
FULL = {"digits": 2000, "passes": 50, "steps": 200, "rounds": 28, "test": 10_000}
SMALL = {"digits": 500, "passes": 20, "steps": 100, "rounds": 2, "test": 2000}
SHARED = "BALD, shared masks"
METHODS: dict[str, dict[str, Any]] = {
    "BALD": {"select": {"by": "bald", "diversity": "none"}},
    SHARED: {"select": {"by": "bald", "diversity": "none"}},
    "power": {"select": {"by": "bald", "diversity": "power", "beta": 4.0}},
    "softmax": {"select": {"by": "bald", "diversity": "softmax", "beta": 8.0}},
    "softrank": {"select": {"by": "bald", "diversity": "softrank", "beta": 1.0}},
    "BatchBALD": {"select": {"by": "bald", "diversity": "batchbald", "candidates": 1000}},
    "BADGE": {"select": {"by": "bald", "diversity": "badge", "candidates": 1_000_000}},  # all
    "radius": {"select": {"by": "bald", "diversity": "radius"}},
    "random": {"select": "random"},
}
QUICK = ("BALD", SHARED, "radius", "random")


def items(data: Images, digits: int, copies: int, seed: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int32]]:
    """Images and classes of a pool: item n is a copy of digit n % digits; those with more copies begin with those with fewer."""
    rng = np.random.default_rng(seed)
    drawn = rng.choice(len(data.pool), digits, replace=False)
    noise = rng.standard_normal((max(COPIES), digits, *data.pool.shape[1:]), np.float32)[:copies]
    images = normalized(data.pool[drawn]) + NOISE * noise
    return images.reshape(-1, *data.pool.shape[1:]).astype(np.float32), np.tile(data.pool_labels[drawn], copies)


def normalized(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    return ((images / np.float32(255) - MEAN) / STD).astype(np.float32)


def copied(turns: Sequence[Round], first: npt.NDArray[np.int64], digits: int) -> tuple[float, float]:
    """The shares of the selected items that are copies of another one of their batch, and of one that was labeled before."""
    before, of_batch, of_labeled, n = set((first % digits).tolist()), 0, 0, 0
    for turn in turns:
        chosen = (turn.chosen % digits).tolist()
        times = Counter(chosen)
        of_batch += sum(times[digit] > 1 for digit in chosen)
        of_labeled += sum(digit in before for digit in chosen)
        before.update(chosen)
        n += len(chosen)
    return of_batch / n, of_labeled / n


def run(setting: Setting) -> curves.JSON:
    data, size = mnist(setting.data), SMALL if setting.quick else FULL
    results: curves.JSON = {"of": size, "pools": {}, "minutes": 0.0}
    each = {
        copies: [_cycles(data, copies, seed, size, setting) for seed in setting.seeds[: FEWER.get(copies)]]
        for copies in (int(part[1:]) for part in (PARTS[:1] if setting.quick else setting.parts or PARTS))
    }
    for copies, seeds in each.items():
        found = curves.of_cycles({method: [one[method][0] for one, _ in seeds] for method in seeds[0][0]})
        found["copied"] = {
            method: [copied(one[method][0], first, size["digits"]) for one, first in seeds] for method in seeds[0][0]
        }
        results["pools"][str(copies)] = found
        results["minutes"] += found["minutes"]
    return results


def _cycles(
    data: Images, copies: int, seed: int, size: dict[str, int], setting: Setting
) -> tuple[dict[str, list[list[Round]]], npt.NDArray[np.int64]]:
    """All methods on one pool, and the ids that are labeled at first, which are the same with more copies."""
    images, labels = items(data, size["digits"], copies, seed)
    path = setting.work / f"seed-{seed}" / f"copies-{copies}"
    test = torch.from_numpy(normalized(data.test[: size["test"]]))
    answers = torch.from_numpy(data.test_labels[: size["test"]])
    first = balanced_start(labels[: size["digits"]], FIRST, seed)

    def evaluate(model: nn.Module) -> float:
        found = Scorer(model, TEST_PASSES, ("entropy",)).predict(test).mean.argmax(1)
        return float((found == answers).double().mean())

    def scorer(masks: str) -> dict[str, Any]:
        options = {"passes": size["passes"], "scores": ("bald",), "errors": False}
        return {**options, "dropout": Dropout(masks=masks)}

    methods = {
        name: {**own, "scorer": scorer("shared" if name == SHARED else "independent")}
        for name, own in setting.chosen(METHODS, QUICK).items()
    }
    found = cycles(
        pool_of(path / "pool", images),
        methods=methods,
        seeds=[seed],
        out=path / "cycles",
        start=lambda seed: first,
        fit=lambda pool, labeled, seed: classifier(cnn_for_cpu, pool, labeled, seed, size["steps"]),
        evaluate=evaluate,
        oracle=lambda ids: labels[ids],
        rounds=size["rounds"],
        k=BATCH,
        progress=lambda stage: setting.tell(f"x{copies}, of seed {seed}: {stage}"),
    )
    return found, first


def last(found: curves.JSON, method: str) -> Floats:
    """Test accuracy over the last rounds, as single ones move by 0.02, (S,)."""
    return curves.values(found, method, "accuracy")[:, -LAST:].mean(1)


def claims(results: curves.JSON) -> list[Claim]:
    """What is copied, which few rounds show; with all of them, what it costs."""
    if "4" not in results["pools"]:
        return []
    found = results["pools"]["4"]
    shares = {method: np.array(each)[:, 0] for method, each in found["copied"].items()}
    claimed = [
        above_zero(
            "x4: top-k BALD selects more copies with shared masks than with independent",
            shares[SHARED] - shares["BALD"],
        ),
        above_zero(
            "x4: top-k BALD with independent masks selects more copies than radius", shares["BALD"] - shares["radius"]
        ),
    ]
    if results["of"] == FULL:
        base = last(found, "random")
        at = "x4: accuracy from 260 labels to 300 of"
        claimed.append(above_zero(f"{at} top-k BALD with shared masks is below random's", base - last(found, SHARED)))
        for method in ("power", "softmax", "softrank", "BatchBALD", "radius"):
            claimed.append(above_zero(f"{at} {method} is above random's", last(found, method) - base))
        over = last(found, "BALD") - last(found, SHARED)
        claimed.append(above_zero(f"{at} top-k BALD is higher with independent masks than with shared", over))
    return claimed
