"""Benchmark of a user's model: mcscore's T passes, a plain loop of T passes, and one forward pass.

The loop draws its masks from PyTorch's generator, so its scores differ from mcscore's. Both did the same work if that
difference is not much larger than the difference between two seeds of mcscore.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..montecarlo.ops.intercept import call_model
from ..scorer.scorer import Scorer
from . import baselines
from .clock import Clock, in_turns
from .table import quantity

LIMIT = 3.0  # ratio to the difference between two seeds; it is 1 on average, and up to 2 by chance with eight items


@dataclass(frozen=True)
class Comparison:
    """Times and scores of mcscore and of the plain loop on one model."""

    items: int
    passes: int
    seconds: float  # mcscore, for all items
    loop_seconds: float  # T passes of the model with dropout on
    forward_seconds: float  # one deterministic pass
    difference: float  # mean absolute difference between the scores of mcscore and of the loop
    seed_difference: float  # mean absolute difference between the scores of two seeds of mcscore

    @property
    def same(self) -> bool:
        """Whether the scores of the loop and of mcscore differ no more than ``LIMIT`` allows."""
        return self.difference <= LIMIT * self.seed_difference

    def to_dict(self) -> dict[str, Any]:
        """Return the fields, and the rates computed from them, for JSON."""
        rates = {
            "items_per_s": self.items / self.seconds,
            "loop_items_per_s": self.items / self.loop_seconds,
            "times_loop": self.loop_seconds / self.seconds,
            "forward_passes": self.seconds / self.forward_seconds,
        }
        return {**dataclasses.asdict(self), **rates, "same": self.same}

    def lines(self) -> list[str]:
        """Format the comparison for a terminal."""
        rows = (
            ("mcscore", self.seconds, f"costs {self.seconds / self.forward_seconds:.3g} forward passes"),
            ("plain loop", self.loop_seconds, f"{self.loop_seconds / self.seconds:.3g} times as long"),
        )
        return [
            f"{name:12} {quantity(self.items / taken):>8} items/s {quantity(self.items * self.passes / taken):>8} passes/s   {more}"
            for name, taken, more in rows
        ]


def compare(scorer: Scorer, items_B: Any, clock: Clock, seconds: float, say: Callable[[str], None]) -> Comparison:
    """Time mcscore, the plain loop and one forward pass on ``items_B``, and compare the scores.

    scorer has the one score that ``baselines.disagreement`` computes, and is left prepared for these items. SiteError if
    the model has no dropout; errors that the model raises with dropout on pass through.
    """
    model, T, (score,), seed = scorer.model, scorer.passes, scorer.scores, scorer.seed
    ids = np.arange(len(items_B))
    inputs = scorer.inputs(items_B)

    def of_seed(number: int) -> Tensor:
        scorer.seed = number
        scorer.prepare(items_B, ids)
        return scorer(items_B, ids)[score]

    def loop() -> Tensor:
        return baselines.loop(model, lambda: call_model(model, inputs), T, scorer.likelihood)

    def forward() -> Tensor:
        with torch.no_grad():
            outputs: Tensor = call_model(model, inputs)
            return outputs

    say("scoring with two seeds")
    model.eval()
    other, ours = of_seed(seed ^ 1), of_seed(seed)
    say(f"{T} passes in a loop")
    looped = loop()
    say("taking turns")
    taken = in_turns([lambda: scorer(items_B, ids), loop, forward], clock, seconds)
    differences = (float((ours - theirs).abs().mean()) for theirs in (looped, other))
    return Comparison(len(ids), T, *taken, *differences)
