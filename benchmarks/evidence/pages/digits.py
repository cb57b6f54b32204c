"""The rows, page and picture of ``digits``."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from .. import curves
from ..digits import BATCH, FEW, FIRST, PASSES, POWER, SCREEN, STEPS
from ..experiment import Row
from ..stats import labels_to

# Table 1: labels to a test error of 10 % and of 5 %
PUBLISHED = {
    "BALD": (145, 335),
    "entropy": (165, 355),
    "variation ratios": (120, 295),
    "mean std": (230, 695),
    "random": (255, 835),
}
TARGETS = (0.10, 0.05)

WHY = (
    "The best ten of 60,000 repeat each other: a batch of BALD's has 5.1 different digits on average, one of random's 6.5. Drawn in "
    "proportion to BALD's fourth power it has 6.0, and the same scores reach 10 % error with 140 labels and 5 % with 300, fewer than "
    "published for BALD (145 and 335); 400 random labels leave 6.3 %. Power has less error than random with each of the three seeds, "
    "which is as much as three can show."
)


def _labels(results: curves.JSON, method: str, target: float) -> list[int | None]:
    return [labels_to(results["labels"][: len(error)], error, target) for error in results["measures"][method]["error"]]


def _last(results: curves.JSON, method: str) -> int:
    """The labels of the method's last round."""
    return int(results["labels"][len(results["measures"][method]["error"][0]) - 1])


def rows(results: curves.JSON) -> list[Row]:
    """The mean of the seeds, if all of them got there."""
    found = []
    for target, published in zip(TARGETS, zip(*PUBLISHED.values(), strict=True), strict=True):
        theirs = dict(zip(PUBLISHED, published, strict=True))
        for method in results["measures"]:
            each = _labels(results, method, target)
            ours = None if None in each else float(np.mean(each))
            what, over = f"MNIST, labels to {target:.0%} error, {method}", f"over {_last(results, method)}"
            found.append(Row(what, theirs.get(method), ours, instead=over))
    return found


def page(results: curves.JSON) -> str:
    targets = " | ".join(f"labels to {t:.0%}: Gal 2017 | ours | seeds" for t in TARGETS)
    lines = [f"| method | {targets} | seconds per round |", "|" + " --- |" * 8]
    for method in results["measures"]:
        cells, last = [], _last(results, method)
        for n, target in enumerate(TARGETS):
            each = _labels(results, method, target)
            known = [labels for labels in each if labels is not None]
            mean = f"{np.mean(known):.0f}" if len(known) == len(each) else f"over {last}"
            told = ", ".join(f"> {last}" if labels is None else str(labels) for labels in each)
            cells += [str(PUBLISHED[method][n]) if method in PUBLISHED else "", mean, told]
        lines.append(f"| {method} | {' | '.join(cells)} | {results['seconds_per_round'][method]:.1f} |")
    lines += [
        "",
        "## Error",
        "",
        *curves.table(results, "error", [n for n in (60, 100, 200, 300, 400) if n in results["labels"]], 4, -1),
    ]
    lines += ["", curves.BELOW_TABLE, "", *_screening(results)]
    task = (
        "The first 2,000 training images, a smaller network, 150 steps, 20 passes, the first 1,000 test images."
        if results["size"] == "quick"
        else f"All 60,000 training images of MNIST are the pool and all are scored in each round, with {PASSES} passes. Gal, Islam "
        f"and Ghahramani's CNN, {STEPS} steps of Adam on batches of 32 from fresh weights in each round, rate 0.002, weight decay "
        f"0.001; error on the 10,000 test images by the mean of {PASSES} passes. {POWER}, is not of their paper: items are drawn in "
        f"proportion to BALD to the power of 4 (Kirsch et al. 2023), of {FEW} passes. Curves end at different labels, as a round of "
        f"{PASSES} passes takes five minutes of a CPU's core."
    )
    return "\n".join(
        [
            f"{task} From {FIRST} labels, two of each digit, {BATCH} more in each round. Nothing is tuned; they chose weight decay on "
            "100 validation images. Labels are those the first network was trained on whose error was as low, the first 20 "
            "included. They scored a subsample of the pool in each round, which also keeps a batch apart; here a batch is the "
            "best 10 of all, where no power is said. Variation ratios: `least_confidence`, which is theirs for a mean "
            "prediction. The picture shows what BALD picked in some rounds of the first seed, and the digits. "
            f"Trained and scored on {' and '.join(results['devices'])}.",
            "",
            *lines,
        ]
    )


def _screening(results: curves.JSON) -> list[str]:
    lines = [
        f"## Screened by {SCREEN.passes} passes, against flat",
        "",
        "The models of BALD's rounds score the pool both ways, in one process.",
        "",
        f"| labels | of the best {BATCH} the same | passes per image, flat | screened | seconds, flat | screened |",
        "|" + " --- |" * 6,
    ]
    for each in results["screening"]:
        passes = " | ".join(f"{each[name + '_passes']:.1f}" for name in ("flat", "screened"))
        lines.append(
            f"| {each['labels']} | {each['shared']} | {passes} | {each['flat']:.1f} | {each['screened']:.1f} |"
        )
    return lines


def draw(results: curves.JSON) -> Figure:
    figure = curves.figure(13, 4.5)
    left, right = figure.subfigures(1, 2, width_ratios=(1.2, 1))
    axes = left.subplots()
    curves.plot(axes, results, "error", "test error")
    for target in TARGETS:
        axes.axhline(target, color=curves.GRAY, linestyle=":", linewidth=1)
    axes.set_ylim(0, 0.5)
    rows = right.subplots(len(results["picked"]), BATCH)
    for row, picked, images in zip(np.atleast_2d(rows), results["picked"], results["_images"], strict=True):
        for place, image, digit in zip(row, images, picked["digits"], strict=True):
            place.imshow(image[0], cmap="gray_r")
            place.set_title(str(digit), fontsize=8)
            place.set(xticks=[], yticks=[])
        row[0].set_ylabel(f"{picked['labels']} labels", fontsize=8)
    right.suptitle("picked next by BALD, and what they are", fontsize=9)
    return figure
