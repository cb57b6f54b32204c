"""The rows, page and picture of ``relevance``."""

from __future__ import annotations

from matplotlib.figure import Figure

from .. import curves
from ..experiment import Row
from ..relevance import BATCH, FIRST, PASSES, STEPS

WHY = "BALD is above random in four folds and below in the fifth, by 0.009; MQ2008 has no more of them to decide it."


def rows(results: curves.JSON) -> list[Row]:
    last = {method: curves.values(results, method, "average precision")[:, -1].mean() for method in ("BALD", "random")}
    return [
        Row(f"MQ2008, average precision at {results['labels'][-1]} labels, {method}", None, float(value), 3)
        for method, value in last.items()
    ]


def page(results: curves.JSON) -> str:
    at = [n for n in (50, 100, 200, 300) if n in results["labels"]]
    tables = []
    for measure in ("average precision", "NDCG@10"):
        tables += [f"## {measure}", "", *curves.table(results, measure, at), ""]
    return "\n".join(
        [
            "LETOR MQ2008: 15,211 documents of 784 queries with 46 features, five folds; a document with grade 1 "
            f"or 2 is relevant (19 %). From {FIRST} labels, half of them relevant, {BATCH} more in each round; the "
            f"pool is all documents of the three training parts. An MLP with two hidden layers and dropout, {STEPS} "
            f"steps of Adam from fresh weights in each round; {PASSES} passes for scores and for test predictions. "
            "A fold is a seed. The part for validation is not used: nothing is tuned.",
            "",
            *tables,
            curves.BELOW_TABLE,
        ]
    )


def draw(results: curves.JSON) -> Figure:
    figure = curves.figure(10, 4.2)
    left, right = figure.subplots(1, 2)
    curves.plot(left, results, "average precision", "average precision, mean over test queries")
    curves.plot(right, results, "NDCG@10", "NDCG@10")
    return figure
