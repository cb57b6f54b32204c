"""The rows, page and picture of ``text``."""

from __future__ import annotations

from matplotlib.figure import Figure

from .. import curves
from ..experiment import Row
from ..text import BATCH, CANDIDATES, FIRST, METHODS, PASSES, STEPS


def rows(results: curves.JSON) -> list[Row]:
    at = results["labels"][-1]
    last = {method: float(curves.values(results, method, "average precision")[:, -1].mean()) for method in METHODS}
    told = [
        Row(f"Cranfield, average precision at {at} labels, {method}", None, value, 3) for method, value in last.items()
    ]
    cosines = [
        Row(f"Cranfield, average precision without labels, cosine of {name}", None, ap, 3)
        for name, ap in results["unlabeled"].items()
    ]
    return [*told, *cosines]


def page(results: curves.JSON) -> str:
    at = [n for n in (20, 50, 80, 100, 200, 300) if n in results["labels"]]
    cosines = " and ".join(f"{precision:.3f} ({name})" for name, precision in results["unlabeled"].items())
    return "\n".join(
        [
            f"Cranfield: 1,400 abstracts, 225 queries; 150 queries, each with the {CANDIDATES} abstracts that tf-idf ranks "
            "first, are the pool, 75 are held out. A pair that is not judged, or only by the code -1, is not relevant. "
            "Hashed words, tf-idf, 64 directions of their singular value decomposition; an encoder and two hidden "
            f"layers of 32, dropout 0.25, {STEPS} steps of Adam from fresh weights in each round; {PASSES} passes for "
            f"scores and for test predictions. From {FIRST} labels, half of them relevant, {BATCH} more in each round. "
            "The number of steps, 100 or 300, was chosen on training queries of two other splits; nothing else is tuned. "
            "Two choices were made after test figures of an earlier design had been seen: a pool of each query's first "
            "abstracts in place of all pairs, and a network that adds to what cosines say. Seeds 5 to 9 were added when the first five had "
            "left it undecided whether BALD is above random. "
            f"Cosines, which need no label, have average precisions of {cosines}.",
            "",
            *curves.table(results, "average precision", at),
            "",
            curves.BELOW_TABLE,
        ]
    )


def draw(results: curves.JSON) -> Figure:
    figure = curves.figure()
    axes = figure.subplots()
    curves.plot(axes, results, "average precision", "average precision, mean over held-out queries")
    for name, precision in results["unlabeled"].items():
        axes.axhline(precision, color=curves.GRAY, linestyle=":", linewidth=1)
        axes.annotate(
            f"no labels, {name}", (results["labels"][0], precision), color=curves.GRAY, fontsize=8, va="bottom"
        )
    return figure
