"""The rows, page and picture of ``peers``."""

from __future__ import annotations

from matplotlib.figure import Figure

from .. import curves
from ..experiment import Row
from ..peers import BATCH, FIRST, OURS, TASKS, THEIRS, seconds
from ..stats import with_error


def rows(results: curves.JSON) -> list[Row]:
    of, told = results["of"], []
    for task, found in results["tasks"].items():
        what = (
            f"{task}: seconds to score {of['pool']:,} images with {of['passes']} passes and select, baal's beside ours"
        )
        told.append(Row(what, seconds(found, THEIRS).mean(), seconds(found, OURS).mean(), 2))
        what = f"{task}: accuracy at {found['labels'][-1]} labels of top-k BALD, baal's beside ours"
        last = [float(curves.values(found, method, "accuracy")[:, -1].mean()) for method in (THEIRS, OURS)]
        told.append(Row(what, *last, 3))
    return told


def page(results: curves.JSON) -> str:
    of = results["of"]
    lines = [
        f"A pool of {of['pool']:,} images of MNIST's training set (digits), and one of {of['pool'] // TASKS['repeats']:,} images "
        f"four times with noise (repeats), as in [repeats](repeats.md). The same small CNN, {of['steps']} steps from fresh weights "
        f"in each round, from {FIRST} labels, {BATCH} more in each round, the best by BALD of {of['passes']} passes over all "
        f"unlabeled images. Accuracy on {of['test']:,} test images. One thread; seconds are those of scoring and selecting alone, of "
        "the median round. baal 2.1.0 as it comes: batches of 32 images, repeated in memory for all passes. Network, labels and "
        "first weights are the same; masks are not."
    ]
    for task, found in results["tasks"].items():
        lines += ["", f"## {task}", "", "| method | seconds per round |", "| --- | --- |"]
        lines += [f"| {method} | {with_error(seconds(found, method), 2)} |" for method in (OURS, THEIRS)]
        at = sorted({found["labels"][len(found["labels"]) // 2], found["labels"][-1]})
        lines += ["", *curves.table(found, "accuracy", at), "", curves.BELOW_TABLE]
    return "\n".join(lines)


def draw(results: curves.JSON) -> Figure:
    figure = curves.figure(13, 4.5)
    for axes, (task, found) in zip(figure.subplots(1, 2), results["tasks"].items(), strict=True):
        curves.plot(axes, found, "accuracy", "test accuracy")
        ratio = (seconds(found, THEIRS) / seconds(found, OURS)).mean()
        axes.set_title(f"{task}: a round of baal takes {ratio:.0f} times as long")
    return figure
