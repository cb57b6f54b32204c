"""The rows, page and picture of ``images``."""

from __future__ import annotations

from matplotlib.figure import Figure

from .. import curves
from ..experiment import Row
from ..images import FIRST, RATE, UNSURE, WIDTH, tenths
from ..stats import with_error

WHY = (
    "Not established. The network is right on 25 to 40 % of the photographs; Hacohen, Dekel and Weinshall (2022) find, too, that with few "
    "labels uncertain items teach less than others."
)


def rows(results: curves.JSON) -> list[Row]:
    at = results["labels"][-1]
    last = {method: curves.values(results, method, "accuracy")[:, -1].mean() for method in results["measures"]}
    calibrated = [
        Row(
            f"CIFAR-10 subset, ECE, mean over rounds, {told}",
            None,
            float(curves.values(results, "random", n).mean()),
            3,
        )
        for told, n in (("dropout on", "ECE"), ("dropout off", "ECE, dropout off"))
    ]
    return [
        *(
            Row(f"CIFAR-10 subset, accuracy at {at} labels, {name}", None, float(each), 3)
            for name, each in last.items()
        ),
        *calibrated,
    ]


def page(results: curves.JSON) -> str:
    at = [n for n in (100, 200, 500, 1000) if n in results["labels"]]
    size = results["of"]
    lines = [
        "| error rate in tenths by | " + " | ".join(["most certain", *map(str, range(2, 10)), "least certain"]) + " |",
        "|" + " --- |" * 11,
    ]
    for by in UNSURE:
        cells = [with_error(each, 2) for each in tenths(results, by).T]
        lines.append(f"| {by} | {' | '.join(cells)} |")
    calibrated = [f"| with random labels | {' | '.join(f'at {n}' for n in at)} |", "|" + " --- |" * (len(at) + 1)]
    for name in ("ECE", "ECE, dropout off", "negative log likelihood", "negative log likelihood, dropout off"):
        each = curves.values(results, "random", name)
        cells = [with_error(each[:, results["labels"].index(n)], 3) for n in at]
        calibrated.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(
        [
            "CIFAR-10, of which 3,000 training images are the pool and 1,000 test images the test. A ResNet of a convolution "
            f"and two blocks ({WIDTH}, {2 * WIDTH}, {4 * WIDTH} channels), dropout {RATE} between the convolutions of a "
            f"block, {size['steps']} steps of Adam on batches of 32, each image mirrored or not, from fresh weights in each "
            f"round; {size['passes']} passes for scores and for test predictions. Labels are those a network was trained on: "
            f"{FIRST}, ten of each class, then {size['batch']} more in each round. A seed stands for first labels, weights, "
            "batches and masks. The size of the network was chosen for its cost on one core, so levels are far below those "
            "of a ResNet-18; dropout, learning rate and decay were chosen among six by accuracy on 1,500 images of the pool "
            "with 1,000 others labeled, one seed; nothing else is tuned.",
            "",
            "## Accuracy",
            "",
            *curves.table(results, "accuracy", at),
            "",
            curves.BELOW_TABLE,
            "",
            "## Calibration",
            "",
            *calibrated,
            "",
            "ECE: expected calibration error, 15 bins of equal width (Guo et al. 2017).",
            "",
            "## Error rate by uncertainty",
            "",
            *lines,
            "",
            "Tenths of the test images, means over the rounds of random labels; ± is the standard error over the seeds.",
        ]
    )


def draw(results: curves.JSON) -> Figure:
    figure = curves.figure(15, 4.4)
    left, middle, right = figure.subplots(1, 3)
    curves.plot(left, results, "accuracy", "test accuracy")
    on_off = {told: {"ECE": curves.values(results, "random", name)} for told, name in
              (("dropout on", "ECE"), ("dropout off", "ECE, dropout off"))}  # fmt: skip
    curves.plot(middle, {"labels": results["labels"], "measures": on_off}, "ECE", "calibration error, random labels")
    errors = {by: {"error": tenths(results, by)} for by in UNSURE}
    curves.plot(right, {"labels": list(range(1, 11)), "measures": errors}, "error", "error rate")
    right.set(xlabel="tenth of the test images by uncertainty, 10 the least certain")
    return figure
