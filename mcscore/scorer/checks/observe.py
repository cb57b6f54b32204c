"""The answer of a prepared model to a batch, with every dropout site off, and what reaches its first BatchNorm."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._pytree import tree_map_only

from ...likelihoods import probabilities
from ...montecarlo.apply_masks import ZeroSite
from ..steps import Steps
from .seen import Answer, Floats, Norm, Values


def observe(steps: Steps, inputs: Any, B: int) -> Answer:
    """Run the model on B items, as many at a time as the plan has in a step. Raises what a forward pass raises."""
    passes, reduction = steps.passes, steps.reduction
    watch = _FirstNorm(passes.model)
    parts = []
    try:
        for lo in range(0, B, steps.plan.items):
            part = _rows(inputs, B, lo, lo + steps.plan.items)
            parts.append(passes.forward(part, ZeroSite(passes.found.constants), None).logits.detach().double())
            watch.end_of_pass()
    finally:
        watch.remove()
    outputs_BC = torch.cat(parts)
    p_BC = probabilities(outputs_BC[None], reduction.likelihood, reduction.input)[0]
    p_BC = p_BC[:, None] if p_BC.ndim == 1 else p_BC.flatten(2).mean(2) if p_BC.ndim > 2 else p_BC
    return Answer(p_BC.cpu().numpy(), watch.norm(), outputs_BC.shape[1], dense=outputs_BC.ndim > 2)


def _rows(inputs: Any, B: int, start: int, stop: int) -> Any:
    """Items start..stop-1 of an input; what has not one row per item is for all of them."""
    if start == 0 and stop >= B:
        return inputs
    return tree_map_only(Tensor, lambda x: x[start:stop] if x.ndim and len(x) == B else x, inputs)


def values_of(x: Any) -> Values:
    """Statistics of an array or a tensor."""
    x = torch.as_tensor(np.asarray(x)) if not isinstance(x, Tensor) else x.detach().cpu()
    y = x.double()
    dtype = str(x.dtype).removeprefix("torch.")
    return Values(
        tuple(x.shape[1:]), dtype, float(y.min()), float(y.max()), float(y.mean()), float(y.std(correction=0))
    )


class _FirstNorm:
    """Sums over the input of whichever BatchNorm runs first."""

    def __init__(self, model: nn.Module) -> None:
        self._first: tuple[str, _BatchNorm] | None = None
        self._sums: list[tuple[int, Floats, Floats]] = []
        self._seen = False
        self._handles = [
            module.register_forward_pre_hook(lambda module, given, name=name: self._look(name, module, given))
            for name, module in model.named_modules()
            if isinstance(module, _BatchNorm) and module.running_mean is not None
        ]

    def _look(self, name: str, module: Any, given: tuple[Any, ...]) -> None:
        if self._seen or not given or not isinstance(given[0], Tensor) or given[0].ndim < 2:
            return
        self._first = self._first or (name, module)
        if module is not self._first[1]:
            return
        self._seen = True
        x_CN = given[0].detach().double().transpose(0, 1).flatten(1)
        self._sums.append((x_CN.shape[1], x_CN.mean(1).cpu().numpy(), x_CN.var(1, correction=0).cpu().numpy()))

    def end_of_pass(self) -> None:
        """Look again in the next pass."""
        self._seen = False

    def remove(self) -> None:
        """Leave the model as it was."""
        for handle in self._handles:
            handle.remove()

    def norm(self) -> Norm | None:
        """What was seen; None: no BatchNorm ran."""
        if self._first is None or not self._sums:
            return None
        name, module = self._first
        n = sum(count for count, _, _ in self._sums)
        mean_C = np.sum([count * mean for count, mean, _ in self._sums], axis=0) / n
        var_C = np.sum([count * (var + (mean - mean_C) ** 2) for count, mean, var in self._sums], axis=0) / n
        assert module.running_mean is not None
        assert module.running_var is not None
        running = (part.detach().double().cpu().numpy() for part in (module.running_mean, module.running_var))
        return Norm(name, mean_C, var_C, *running)
