"""The rows, page and picture of ``map``."""

from __future__ import annotations

import itertools

import numpy as np
from matplotlib.figure import Figure

from .. import curves
from ..experiment import Row
from ..map import BINS, EDGE, MAPS, PASSES, PLANES, SIDE, far
from ..stats import permutation_test, with_error


def rows(results: curves.JSON) -> list[Row]:
    return [
        Row(f"{told}, uncertainty far from the data, {name}", None, float(far(results, plane, name).mean()), 2)
        for plane, told in PLANES.items()
        for name in MAPS
    ]


def page(results: curves.JSON) -> str:
    ranges = [f"{low:g} to {high:g}" for low, high in itertools.pairwise(BINS)] + [f"over {BINS[-1]:g}"]
    lines = [
        f"200 points, an MLP with two hidden layers of 64 and dropout 0.2, softmax with dropout off, {PASSES} "
        "passes with it on, a Gaussian process with an RBF kernel fitted to the same points. Uncertainty is "
        "entropy (or BALD) as a share of log C. Distance is to the nearest training point, in standard deviations "
        "of an axis. The picture shows the first seed; means and standard errors are over all of them.",
        "",
        "MC dropout is unsure in wedges between the classes, which widen with the distance, and not wherever data are "
        "missing. The last column is the share of points farther than 2 where a map is below 0.1.",
    ]
    for plane, told in PLANES.items():
        lines += ["", f"## {told}", "", f"| distance | {' | '.join(ranges)} | sure |", "|" + " --- |" * (len(BINS) + 2)]
        for name in MAPS:
            each = results["planes"][plane][name]
            cells = [with_error(values, 2) for values in np.transpose(each["profile"])]
            lines.append(f"| {name} | {' | '.join(cells)} | {np.mean(each['sure']):.0%} |")
        p = permutation_test(far(results, plane, "MC dropout") - far(results, plane, "softmax"))
        lines += ["", f"Farther than 2 from the data, MC dropout above softmax: p = {p:.2g}."]
    return "\n".join(lines)


def draw(results: curves.JSON) -> Figure:
    figure = curves.figure(15, 6)
    axes = figure.subplots(len(PLANES), len(MAPS) + 1)
    middle = [float(each) for each in (BINS + np.append(BINS[1:], BINS[-1] + 0.5)) / 2]
    for row, (plane, told) in zip(axes, PLANES.items(), strict=True):
        first = results["planes"][plane]["first"]
        for place, name in zip(row, MAPS, strict=False):
            shown = np.array(first["maps"][name]).reshape(SIDE, SIDE)
            place.imshow(shown, vmin=0, vmax=1, origin="lower", extent=(-EDGE, EDGE, -EDGE, EDGE))
            place.scatter(
                *np.array(first["points"]).T, c=first["classes"], s=6, cmap="spring", edgecolors="black", linewidths=0.3
            )
            place.set(title=f"{told}: {name}" if name == MAPS[0] else name, xticks=[], yticks=[])
        for name, color in zip(MAPS, curves.COLORS, strict=False):
            profile = np.array(results["planes"][plane][name]["profile"])
            row[-1].plot(middle, profile.T, color=color, linewidth=0.5, alpha=0.35)
            row[-1].plot(middle, profile.mean(0), color=color, linewidth=2, label=name)
        row[-1].set(xlabel="distance to the nearest training point", ylabel="uncertainty / log C", ylim=(0, 1))
        row[-1].spines[["top", "right"]].set_visible(False)
    axes[0, -1].legend(fontsize=7, frameon=False, loc="center left", bbox_to_anchor=(0, 0.7))
    return figure
