"""The methods of selection: one table, ``DIVERSITY``, with one row per method; the command line, its help, docs and tests read it.

N: items of the pool. M: candidates, the items of the highest scores. k: items to choose. D: width of an embedding. C: classes.

A ranked method gives every item of the pool one value, by ``perturb``, and takes the k highest: it streams, in memory O(k). Any other
chooses from M candidates, by ``pick``. Both are named as "module:function" and imported on first use: naming methods needs no NumPy.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

NEEDS = {
    "ranks": "the scores of all items once more",
    "embeddings": "one deterministic pass of the candidates",
    "probabilities": "all passes of the candidates once more",
    "samples": "all passes of the candidates once more, with masks that all items share",
    "targets": "the same of the items whose predictions matter",
}
"""What a method may need of its candidates beside their scores, and what it takes to make that."""


@dataclass(frozen=True)
class Method:
    """One way to choose k items.

    Attributes:
        family: "ranked", "spread" or "joint".
        text: what is chosen, as a line of --help.
        cost: of choosing, after the needs are met.
        source: where the method is from; "" if it is our own or needs none.
        needs: what it needs of the candidates, of NEEDS.
        parameters: options that it takes beside the seed, with their defaults; None: found by the method.
        draws: whether it depends on the seed.
        has_cut: whether it goes down the scores, so that the last item chosen has the lowest.
        perturb: of a ranked method, ``perturb(scores_B, ids_B, ranks_B, beta, seed) -> values_B``.
        pick: of the others, ``pick(candidates, k, room, **parameters, seed) -> Picks``.
    """

    family: str
    text: str
    cost: str
    source: str = ""
    needs: tuple[str, ...] = ()
    parameters: Mapping[str, float | None] = field(default_factory=dict)
    draws: bool = False
    has_cut: bool = False
    perturb: str | Callable[..., Any] | None = None
    pick: str | Callable[..., Any] | None = None

    @property
    def needs_of_model(self) -> set[str]:
        """What the model must make of the candidates: all needs but ranks."""
        return set(self.needs) - {"ranks"}

    @property
    def function(self) -> Callable[..., Any]:
        """``perturb`` of a ranked method, else ``pick``; imported if it is named."""
        found = self.perturb if self.family == "ranked" else self.pick
        if isinstance(found, str):
            module, _, name = found.partition(":")
            found = getattr(importlib.import_module(module), name)
        assert callable(found)
        return found


_HERE = "mcscore.selection"

DIVERSITY: dict[str, Method] = {
    "radius": Method(
        "spread",
        "best first, but no two nearer than a radius to each other or to a labeled item; the radius is as large as K items allow",
        "k M D for each radius that is tried",
        needs=("embeddings",),
        parameters={"radius": None},
        has_cut=True,
        pick=f"{_HERE}.radius:pick",
    ),
    "none": Method("ranked", "the K highest scores", "N", has_cut=True, perturb=f"{_HERE}.stochastic:none"),
    "power": Method(
        "ranked",
        "at random, without repetition, in proportion to score^BETA",
        "N random numbers",
        "Kirsch et al., Stochastic batch acquisition, 2023",
        parameters={"beta": 4.0},
        draws=True,
        perturb=f"{_HERE}.stochastic:power",
    ),
    "softmax": Method(
        "ranked",
        "at random, without repetition, in proportion to exp(BETA x score)",
        "N random numbers",
        "Kirsch et al., Stochastic batch acquisition, 2023",
        parameters={"beta": 8.0},
        draws=True,
        perturb=f"{_HERE}.stochastic:softmax",
    ),
    "softrank": Method(
        "ranked",
        "at random, without repetition, in proportion to rank^-BETA",
        "N random numbers, scores read twice",
        "Kirsch et al., Stochastic batch acquisition, 2023",
        needs=("ranks",),
        parameters={"beta": 1.0},
        draws=True,
        perturb=f"{_HERE}.stochastic:softrank",
    ),
    "k-center": Method(
        "spread",
        "each time the candidate farthest from all chosen and labeled items",
        "k M D at most",
        "Sener and Savarese, Active learning for convolutional neural networks: a core-set approach, 2018",
        needs=("embeddings",),
        pick=f"{_HERE}.spread:k_center",
    ),
    "k-means++": Method(
        "spread",
        "at random, in proportion to the squared distance from the nearest chosen or labeled item",
        "k M D at most",
        "Arthur and Vassilvitskii, k-means++: the advantages of careful seeding, 2007",
        needs=("embeddings",),
        draws=True,
        pick=f"{_HERE}.spread:k_means_pp",
    ),
    "badge": Method(
        "spread",
        "k-means++ on gradients of the last layer: far from each other, and large where the model is unsure",
        "k M (C + D) at most",
        "Ash et al., Deep batch active learning by diverse, uncertain gradient lower bounds, 2020",
        needs=("embeddings", "probabilities"),
        draws=True,
        pick=f"{_HERE}.spread:badge",
    ),
    "cluster": Method(
        "spread",
        "the best of each of K clusters (k-means)",
        "11 k M D at most",
        "Citovsky et al., Batch active learning at scale, 2021",
        needs=("embeddings",),
        draws=True,
        pick=f"{_HERE}.cluster:pick",
    ),
    "batchbald": Method(
        "joint",
        "the items whose labels together say most of the model",
        "less than k M 10,000 T C",
        "Kirsch et al., BatchBALD: efficient and diverse batch acquisition for deep Bayesian active learning, 2019",
        needs=("samples",),
        draws=True,
        pick=f"{_HERE}.joint.batchbald:pick",
    ),
    "epig": Method(
        "joint",
        "the items whose labels say most of the predictions for target items",
        "M J T C^2 for J targets",
        "Bickford Smith et al., Prediction-oriented Bayesian active learning, 2023",
        needs=("samples", "targets"),
        draws=True,
        pick=f"{_HERE}.joint.epig:pick",
    ),
}


def method_of(name: str) -> Method:
    """The row of a method.

    Raises:
        ValueError: there is none of that name; the message lists them.
    """
    if name not in DIVERSITY:
        raise ValueError(f"diversity {name!r} is unknown; choose from {', '.join(DIVERSITY)}")
    return DIVERSITY[name]


def parameters_of(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of a method: those given that are not None, and the defaults of the rest.

    >>> parameters_of("power", {"radius": None, "beta": 2.0}), parameters_of("softmax", {})
    ({'beta': 2.0}, {'beta': 8.0})

    Raises:
        ValueError: one that the method does not have is given.
    """
    own = method_of(name).parameters
    for parameter, value in given.items():
        if value is not None and parameter not in own:
            others = [other for other, row in DIVERSITY.items() if parameter in row.parameters]
            choice = f", or choose diversity {' or '.join(map(repr, others))}" if others else ""
            raise ValueError(
                f"diversity {name!r} has no {parameter}, got {parameter}={value}: leave {parameter} out{choice}"
            )
    return {**own, **{parameter: value for parameter, value in given.items() if value is not None}}


def as_markdown() -> str:
    """The table as it stands in docs/selection.md."""
    lines = ["| method | chooses | needs, beside scores | cost | source |", "| --- | --- | --- | --- | --- |"]
    for name, row in DIVERSITY.items():
        needs = "; ".join(f"{need} ({NEEDS[need]})" for need in row.needs)
        defaults = ", ".join(
            f"{parameter} = {value:g}" for parameter, value in row.parameters.items() if value is not None
        )
        text = row.text + (f"; default {defaults}" if defaults else "")
        lines.append(f"| `{name}` | {text} | {needs} | {row.cost} | {row.source} |")
    return "\n".join(lines)
