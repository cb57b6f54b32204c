"""The rows, page and picture of ``regression``."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from .. import curves
from ..data import UCI
from ..experiment import Row
from ..regression import PASSES, PUBLISHED, RATES
from ..stats import mean_and_error, permutation_test, with_error

WHY = "Of the published splits (twenty, of protein five) only the first were run: more of them would decide."


def rows(results: curves.JSON) -> list[Row]:
    table = []
    for name, found in results["sets"].items():
        rmse, _, likelihood, _ = PUBLISHED[name]
        table.append(Row(f"{name}, RMSE", rmse, mean_and_error(found["rmse"])[0], 3))
        table.append(Row(f"{name}, log likelihood", likelihood, mean_and_error(found["log_likelihood"])[0], 2))
    return table


def page(results: curves.JSON) -> str:
    missing = [name for name in UCI if name not in results["sets"]]
    lines = [
        "One hidden layer of 50 (protein: 100), dropout before both layers, Adam in batches of 128. The number of "
        f"epochs, out of {results['epochs']} (sets of over 5,000 rows, whose epochs have more steps: a quarter), the "
        f"rate of dropout, out of {list(RATES)}, and the precision of the noise are chosen on a fifth of the training "
        f"rows. {PASSES} passes. The published splits; ± is the standard error over them."
        + (f" Not run: {', '.join(missing)}." if missing else ""),
        "",
        "| set | splits | RMSE published | RMSE | one pass | dropout off | p | log likelihood published | log likelihood |",
        "|" + " --- |" * 9,
    ]
    for name, found in results["sets"].items():
        measures = (found[measure] for measure in ("rmse", "rmse_one", "rmse_off", "log_likelihood"))
        ours, one, off, likelihood = (with_error(each, 3) for each in measures)
        p = permutation_test(np.array(found["rmse_off"]) - np.array(found["rmse"]))
        published = PUBLISHED[name]
        lines.append(
            f"| {name} | {len(found['rmse'])} | {published[0]} | {ours} | {one} | {off} | {p:.2g} | {published[2]} | {likelihood} |"
        )
    return "\n".join(
        [*lines, "", "p: one-sided permutation test over the splits that the passes' mean is better than dropout off."]
    )


def draw(results: curves.JSON) -> Figure:
    figure = curves.figure(8, 1 + 0.5 * len(results["sets"]))
    axes = figure.subplots()
    names = list(results["sets"])[::-1]
    for place, name in enumerate(names):
        ratio = np.array(results["sets"][name]["rmse"]) / np.array(results["sets"][name]["rmse_off"])
        axes.plot(ratio, np.full(len(ratio), place), "o", color=curves.COLORS[0], alpha=0.35, markersize=4)
        axes.plot(ratio.mean(), place, "D", color=curves.COLORS[0], markersize=7)
    axes.axvline(1, color=curves.GRAY, linewidth=1)
    axes.set_yticks(range(len(names)), names)
    axes.set(
        xlabel="RMSE of the passes' mean / RMSE with dropout off (points: splits; diamond: mean)",
        ylim=(-0.6, len(names) - 0.4),
    )
    axes.spines[["top", "right"]].set_visible(False)
    return figure
