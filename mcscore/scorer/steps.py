"""Scores of one step: all passes of as many items as the plan allows, in one or more chunks of passes."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import SiteError
from ..events import event
from ..jackknife import columns
from ..kernels import backends
from ..kernels.score import score_logits
from ..moments import Moments
from ..montecarlo import Passes
from ..montecarlo.checks import require_different_passes
from ..montecarlo.compiled import recorded
from ..montecarlo.plan import Plan
from ..own_scores import holding
from .graphs import GraphedSteps

_HEAD_PASSES = 64  # passes whose logits a head computes at a time; all passes would take T x C values per item


@dataclass(frozen=True)
class Reduction:
    """Settings of the reduction of T passes to scores."""

    passes: int
    scores: tuple[str, ...]
    likelihood: str
    input: str
    noise_variance: float | None
    reduction: str | float
    errors: bool

    @property
    def settings(self) -> dict[str, Any]:
        """The keyword arguments of ``score_logits`` and ``Moments``."""
        return {
            "likelihood": self.likelihood,
            "input": self.input,
            "noise_variance": self.noise_variance,
            "reduction": self.reduction,
            "errors": self.errors,
        }

    def empty(self, items: int, device: torch.device) -> dict[str, Tensor]:
        """Allocate the results of ``items`` items."""
        results = {name: torch.empty(items, device=device) for name in columns(self.scores, self.errors)}
        dtype = torch.float32 if self.likelihood == "gaussian" else torch.int32
        results["prediction"] = torch.empty(items, dtype=dtype, device=device)
        return results


class Steps:
    """The prepared passes of a model, their plan, and the checks of the first step.

    inert: names of active sites that did not change the output for the first items.
    """

    def __init__(
        self,
        passes: Passes,
        plan: Plan,
        reduction: Reduction,
        inert: frozenset[str],
        compile: bool,
        graphs: bool = False,
    ) -> None:
        self.passes, self.plan, self.reduction, self.inert = passes, plan, reduction, inert
        self.differ = False  # whether the passes of the first step were found to differ
        self._compile = compile
        self._recorded: Hashable = ()  # state of the model when its passes were compiled, or a graph made
        # A model that writes into its buffers is put back after every pass, which takes a look at them.
        self._graphed = (
            GraphedSteps(type(passes.model).__name__, self._scores) if graphs and not passes.found.written else None
        )
        if compile:
            passes.compile_for(plan.items, plan.passes)

    def scores(self, inputs: Any, ids_B: Tensor) -> dict[str, Tensor]:
        """Compute scores and prediction (B,), which hold until the next step. SiteError if the passes of the first step do not differ."""
        if self._graphed is not None and self.differ and len(ids_B) == self.plan.items:
            return self._graphed(inputs, ids_B)
        return self._scores(inputs, ids_B)

    def _scores(self, inputs: Any, ids_B: Tensor) -> dict[str, Tensor]:
        passes_T = torch.arange(self.reduction.passes, device=ids_B.device)
        plan = self.plan
        if plan.path == "head":
            head = self.passes.head(inputs, ids_B)
            if head is not None:
                if not self.differ:
                    self._check_first_logits(head.of_first(2).logits(passes_T[:_HEAD_PASSES]), inputs)
                return head.scores(passes_T, self.reduction.scores, self.reduction.likelihood, self.reduction.errors)
            backends.warn_once(
                f"{type(self.passes.model).__name__} ends in dropout and Linear for the first items, but not for all: "
                "batches in which it does not are scored one pass at a time"
            )
            plan = dataclasses.replace(plan, path="loop", passes=1)
        chunks = list(torch.split(passes_T, plan.passes))
        if len(chunks) == 1 or holding(self.reduction.scores):
            parts = list(self.passes.chunks(inputs, ids_B, chunks, plan.strategy))
            logits_TBC = parts[0] if len(parts) == 1 else torch.cat(parts)
            self._check_first_logits(logits_TBC, inputs)
            return score_logits(logits_TBC, self.reduction.scores, **self.reduction.settings)
        moments = Moments(self.reduction.scores, **self.reduction.settings)
        firsts = []  # two items of each chunk, until passes are found to differ
        for logits_tBC in self.passes.chunks(inputs, ids_B, chunks, plan.strategy):
            if not self.differ:
                firsts.append(logits_tBC[:, :2].clone())
            moments.update(logits_tBC)
        if firsts:
            self._check_first_logits(torch.cat(firsts), inputs)
        return moments.compute()

    def chunks(self, inputs: Any, ids_B: Tensor) -> Iterator[Tensor]:
        """Yield logits_tBC of all passes, chunk by chunk; for the path "head", _HEAD_PASSES passes at a time."""
        strategy, t = self.plan.strategy, self.plan.passes
        if strategy.path == "head":
            head = self.passes.head(inputs, ids_B)
            if head is not None:
                passes_T = torch.arange(self.reduction.passes, device=ids_B.device)
                yield from map(head.logits, torch.split(passes_T, _HEAD_PASSES))
                return
            strategy, t = dataclasses.replace(strategy, path="loop"), 1
        passes_T = torch.arange(self.reduction.passes, device=ids_B.device)
        yield from self.passes.chunks(inputs, ids_B, torch.split(passes_T, t), strategy)

    def _check_first_logits(self, logits_tBC: Tensor, inputs: Any) -> None:
        """Raise SiteError if the passes of the first step are equal. logits_tBC may hold the first items of the step alone."""
        if not self.differ:
            require_different_passes(self.passes, logits_tBC, inputs)
            self.differ = True

    def require_independence(
        self, alone: Mapping[str, Tensor], together: Mapping[str, Tensor], ids: Sequence[int], B: int, coarse: bool
    ) -> None:
        """Raise SiteError unless items have the same scores alone, from the transform on, as in the first batch of B.

        The probe ran on three items. Experts of limited capacity and cropping to the longest item show in larger batches only.
        """
        for name in self.reduction.scores:
            ours, theirs = alone[name], together[name]
            slack = 2.0 / self.reduction.passes if name == "variation_ratio" else 2e-2 if coarse else 1e-4
            scale = float(theirs.nan_to_num().abs().max().clamp(max=1.0))
            close = {"rtol": 2e-2 if coarse else 2e-3, "atol": slack * scale + 1e-6}
            if not torch.allclose(ours, theirs, **close, equal_nan=True):
                raise SiteError(
                    f"{type(self.passes.model).__name__}: {name} of items {list(ids)} is {ours.tolist()} by themselves and "
                    f"{theirs.tolist()} in a batch of {B}: scores depend on the batch. Check whether the model or the transform uses "
                    "other items (a crop to the longest, experts of limited capacity, statistics of the batch, random numbers for "
                    "whole buffers), and leave that layer off by choosing the other sites with Dropout(sites=[...]); there are "
                    f"{', '.join(map(str, self.passes.found.sites[:8]))}"
                )

    def halve(self, device: torch.device) -> bool:
        """After an out-of-memory error: free the graph, else halve the items of a step, then its passes; False if nothing is left."""
        if self._graphed is not None and self._graphed.stop():
            torch.cuda.empty_cache()
            backends.warn_once(
                f"{device} has no memory for a step beside its CUDA graph; scoring continues without graphs"
            )
            return True
        before, after = self.plan, self.plan.halved()
        if after is None:
            return False
        self.plan = after
        if self._compile:
            self.passes.compile_for(after.items, after.passes)
        torch.cuda.empty_cache()
        event(__name__, "step halved", logging.WARNING, device=str(device), items=after.items, passes=after.passes)
        backends.warn_once(
            f"{device} has no memory for {before.items} items x {before.passes} passes at a time; scoring continues "
            f"with {after.items} x {after.passes}, which may change the last bits of scores"
        )
        return True

    def before_batch(self, items: int) -> None:
        """Compile and record again if the model has changed; warn of batches that are smaller than a compiled step."""
        if self._graphed is None and not self._compile:
            return
        now = recorded(self.passes.model)
        if now != self._recorded:
            self._recorded = now
            if self._graphed is not None:
                self._graphed.forget()
            if self._compile:
                self.passes.compile_for(self.plan.items, self.plan.passes)
        if self._compile and items < self.plan.items:
            backends.warn_once(
                f"compile=True compiles steps of {self.plan.items} items; batches of {items} run uncompiled. "
                "Pass larger batches, or a smaller Execution(memory=...)"
            )

    def after_batch(self) -> None:
        """Record the state of the model after the call, so that a model that counts its calls is not compiled for each."""
        if self._compile:
            self._recorded = recorded(self.passes.model)
