"""The rows, page and picture of ``bandit``."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from .. import curves
from ..bandit import BLOCK, POLICIES, RATE, STEPS
from ..experiment import Row
from ..stats import permutation_test, with_error

WHY = (
    "Not established. Orders differ more than rules do: greedy's regret is 2,050 in the best and 3,090 in the worst, Thompson's 2,190 "
    "and 3,030, those of 0.1-greedy, which tries every digit again and again, less; so dropout of 0.2 seems to explore little."
)


def rows(results: curves.JSON) -> list[Row]:
    n = results["labels"][-1]
    return [
        Row(
            f"MNIST bandit, regret of {n:,} decisions, {policy}",
            None,
            float(curves.values(results, policy, "regret")[:, -1].mean()),
        )
        for policy in POLICIES
    ]


def page(results: curves.JSON) -> str:
    at = [n for n in (500, 1000, 2500, 5000, 10_000) if n <= results["labels"][-1]]
    lines = [
        f"| policy | {' | '.join(f'regret of {n:,}' for n in at)} | of the last {BLOCK} wrong | below it, Thompson, p |",
        "|" + " --- |" * (len(at) + 3),
    ]
    ours = curves.values(results, "Thompson", "regret")
    for policy in POLICIES:
        regret = curves.values(results, policy, "regret")
        cells = [with_error(regret[:, results["labels"].index(n)], 0) for n in at]
        p = "" if policy == "Thompson" else f"{permutation_test(regret[:, -1] - ours[:, -1]):.2g}"
        lines.append(f"| {policy} | {' | '.join(cells)} | {(regret[:, -1] - regret[:, -2]).mean():.1f} | {p} |")
    return "\n".join(
        [
            f"{results['labels'][-1]:,} images of MNIST's training set in random order, {len(ours)} orders. An MLP "
            f"with two hidden layers of 100 and dropout {RATE} behind each is trained anew every {BLOCK} decisions "
            f"by {STEPS} steps of Adam; the first {BLOCK} are drawn at random. A decision that is wrong costs 1. "
            "Nothing is tuned; a fixed ε and a fixed rate of dropout never stop to explore.",
            "",
            *lines,
            "",
            "p: one-sided permutation test over the orders, at the end. ± is the standard error over them.",
        ]
    )


def draw(results: curves.JSON) -> Figure:
    figure = curves.figure()
    axes = figure.subplots()
    measures = dict(results["measures"])
    uniform = np.mean(measures.pop("uniform")["regret"], 0)[-1]  # beside it all others look alike
    curves.plot(axes, {**results, "measures": measures}, "regret", "wrong decisions so far")
    axes.set(xlabel="decisions", title=f"not shown: uniform, {uniform:,.0f} at the end")
    return figure
