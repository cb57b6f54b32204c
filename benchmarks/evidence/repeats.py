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
from matplotlib.figure import Figure
from torch import nn

from mcscore import Dropout, Scorer
from mcscore.cycle import Round, cycles
from mcscore.demo import balanced_start

from . import curves
from .data import Images, mnist
from .experiment import Claim, Row, Setting, above_zero
from .kept import pool_of
from .stats import Floats, mean_and_error, permutation_test
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
# Test accuracy at 300 labels with each digit once, twice and four times, from the logs of Kirsch et al. (2023), 5 seeds
PUBLISHED = {
    SHARED: (0.957, 0.922, 0.880),
    "power": (0.964, 0.963, 0.966),
    "softmax": (0.964, 0.963, 0.965),
    "softrank": (0.960, 0.962, 0.961),
    "BatchBALD": (0.961, 0.960, 0.960),
    "BADGE": (0.928, 0.921, 0.925),
    "random": (0.925, 0.929, 0.933),
}


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
        name: {**METHODS[name], "scorer": scorer("shared" if name == SHARED else "independent")}
        for name in (QUICK if setting.quick else METHODS)
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


def rows(results: curves.JSON) -> list[Row]:
    told = []
    for copies, found in results["pools"].items():
        at, place = found["labels"][-1], COPIES.index(int(copies))
        for method in found["measures"]:
            published = PUBLISHED.get(method) if at == 300 else None
            ours = float(curves.values(found, method, "accuracy")[:, -1].mean())
            what = f"Repeated MNIST x{copies}, accuracy at {at} labels, {method}"
            told.append(Row(what, published[place] if published else None, ours, 3))
    return told


def page(results: curves.JSON) -> str:
    size, full = results["of"], results["of"] == FULL
    times = {"1": "once (x1)", "2": "twice (x2)", "4": "four times (x4)"}
    there, missing = ([text for n, text in times.items() if (n in results["pools"]) == kept] for kept in (True, False))
    lines = [
        f"A pool has {size['digits']:,} digits of MNIST's training set, each {' or '.join(there)}, with noise "
        f"of standard deviation {NOISE} (images have 1). A CNN with 8 and 16 filters and 64 hidden units, dropout 1/4 and 1/2 "
        f"behind the convolutions, {size['steps']} steps of Adam on batches of 32 from fresh weights in each round; all of the "
        f"pool is scored with {size['passes']} passes, {size['test']:,} test images with {TEST_PASSES}, whose mean predicts. "
        f"Labels are those a network was trained on: {FIRST}, two of each class, then {BATCH} more in each round. A seed stands "
        "for digits, noise, first labels, weights and masks, which all methods share. Masks are independent for each item but "
        "where shared masks are said, and for BatchBALD's joint probabilities."
        + (f" Not run: digits {' and '.join(missing)}." if missing else ""),
        "",
        "Published: accuracy at 300 labels, from the logs of 5 runs each of Kirsch et al. (2023). Theirs differ: masks are always "
        "shared, T = 100; a CNN with 32 and 64 filters and 128 hidden units, dropout 1/2 behind each; a pool of all digits but 4,096 "
        "for validation; BatchBALD in batches of 5. Here BatchBALD chooses from the best 1,000 by BALD, BADGE from all items. So "
        "orders can be compared with theirs, levels cannot. The network and its learning rate were chosen, of five networks, by "
        "accuracy on 5,000 training images, 300 others labeled; nothing was tuned afterwards.",
    ]
    for copies, found in results["pools"].items():
        at = [n for n in (100, 200, 300) if n in found["labels"]] or found["labels"][-1:]
        base, rounds = last(found, "random"), min(LAST, len(found["labels"]))
        lines += [
            "",
            f"## x{copies}",
            "",
            f"| method | seeds | {' | '.join(f'at {n}' for n in at)} | published at 300 | last {rounds} rounds | above random | p "
            "| p, below | copies within a batch | copies of labeled |",
            "|" + " --- |" * (len(at) + 9),
        ]
        for method in found["measures"]:
            each, end = curves.values(found, method, "accuracy"), last(found, method)
            cells = ["{:.3f} ± {:.3f}".format(*mean_and_error(each[:, found["labels"].index(n)])) for n in at]
            published = f"{PUBLISHED[method][COPIES.index(int(copies))]:.3f}" if full and method in PUBLISHED else ""
            compared = ["", "", ""] if method == "random" else [
                f"{(end - base).mean():+.3f}", *(f"{permutation_test(s * (end - base)):.2g}" for s in (1, -1))
            ]  # fmt: skip
            shares = [f"{share:.1%}" for share in np.mean(found["copied"][method], 0)]
            ended = "{:.3f} ± {:.3f}".format(*mean_and_error(end))
            cells = [method, str(len(each)), *cells, published, ended, *compared, *shares]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(
        [
            *lines,
            "",
            "Above random: mean difference over the last rounds; p: one-sided permutation tests over the seeds that it is "
            "above, and below. ± is the standard error over the seeds. Copies: shares of all selected items.",
        ]
    )


def draw(results: curves.JSON) -> Figure:
    figure = curves.figure(13, 10) if len(results["pools"]) > 1 else curves.figure(13, 5)
    places = iter(figure.subplots(len(results["pools"]) // 2 + 1, 2, squeeze=False).ravel())
    for copies, found in results["pools"].items():
        axes = next(places)
        lowest = min(float(last(found, method).min()) for method in found["measures"])
        axes.set_ylim(max(0.0, lowest - 0.2), 1.0)  # the first rounds are below
        curves.plot(axes, found, "accuracy", "test accuracy")
        axes.set_title(f"each digit {copies} time{'s' * (copies != '1')}")
    axes, found = next(places), next(iter(results["pools"].values()))
    for n, method in enumerate(found["copied"]):
        shares = np.array(found["copied"][method])[:, 0]
        axes.barh(n, shares.mean(), color=curves.COLORS[0], alpha=0.5)
        axes.plot(shares, np.full(len(shares), n), "o", color=curves.COLORS[0], markersize=3)
    axes.set(yticks=range(len(found["copied"])), yticklabels=list(found["copied"]), xlim=(0, 1))
    axes.set(xlabel=f"copies of another of the batch, each digit {next(iter(results['pools']))} times; dots are seeds")
    axes.spines[["top", "right"]].set_visible(False)
    return figure
