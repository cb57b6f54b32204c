"""The rows, page and picture of ``regression_active``."""

from __future__ import annotations

from matplotlib.figure import Figure

from .. import curves
from ..experiment import Row
from ..regression_active import BATCH, FIRST, PASSES, RATE, STEPS

WHY = (
    "Not established. Rows drawn by their variance (power) teach more than those of the highest in all three sets, which suggests that a "
    "batch of the highest repeats itself; on kin8nm they teach less than random ones all the same."
)


def rows(results: curves.JSON) -> list[Row]:
    return [
        Row(
            f"{name}, RMSE at {found['labels'][-1]} labels, {method}",
            None,
            float(curves.values(found, method, "RMSE")[:, -1].mean()),
            3,
        )
        for name, found in results["sets"].items()
        for method in found["measures"]
    ]


def page(results: curves.JSON) -> str:
    tables = []
    for name, found in results["sets"].items():
        at = [n for n in (50, 100, 150, 200) if n in found["labels"]]
        tables += [f"## {name}", "", *curves.table(found, "RMSE", at, better=-1), ""]
    return "\n".join(
        [
            f"RMSE in standard deviations of the target. From {FIRST} labels, {BATCH} more in each round out of all "
            f"training rows of a published split. Two hidden layers of 50, dropout {RATE}, {STEPS} steps of Adam "
            f"from fresh weights in each round, {PASSES} passes for scores and for test predictions. Nothing is "
            "tuned.",
            "",
            *tables,
            curves.BELOW_TABLE,
        ]
    )


def draw(results: curves.JSON) -> Figure:
    figure = curves.figure(5.5 * len(results["sets"]), 4)
    for axes, (name, found) in zip(
        figure.subplots(1, len(results["sets"]), squeeze=False)[0], results["sets"].items(), strict=True
    ):
        curves.plot(axes, found, "RMSE", "RMSE / standard deviation")
        axes.set_title(name)
    return figure
