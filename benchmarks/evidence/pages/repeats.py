"""The rows, page and picture of ``repeats``."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from .. import curves
from ..experiment import Row
from ..repeats import BATCH, COPIES, FIRST, FULL, LAST, NOISE, SHARED, TEST_PASSES, last
from ..stats import permutation_test, with_error

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
            cells = [with_error(each[:, found["labels"].index(n)], 3) for n in at]
            published = f"{PUBLISHED[method][COPIES.index(int(copies))]:.3f}" if full and method in PUBLISHED else ""
            compared = ["", "", ""] if method == "random" else [
                f"{(end - base).mean():+.3f}", *(f"{permutation_test(s * (end - base)):.2g}" for s in (1, -1))
            ]  # fmt: skip
            shares = [f"{share:.1%}" for share in np.mean(found["copied"][method], 0)]
            ended = with_error(end, 3)
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
