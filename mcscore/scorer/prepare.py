"""Preparation of the steps of a model on its first batch: sites, strategy, plan and precision."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..acquisition import KERNEL_SCORES
from ..errors import PrecisionError, first_line
from ..kernels import backends
from ..kernels import head as head_kernel
from ..montecarlo import Passes, discover
from ..montecarlo import autocast as bfloat16
from ..montecarlo.checks import require_effect
from ..montecarlo.passes import Fuses
from ..montecarlo.plan import Plan, make_plan
from ..own_scores import holding
from .inputs import Items, ModelInputs, rows
from .options import Dropout, Execution
from .steps import Reduction, Steps


def prepare(
    model: nn.Module,
    inputs: ModelInputs,
    dropout: Dropout,
    execution: Execution,
    reduction: Reduction,
    seed: int,
    items_B: Items,
    recorded: Mapping[str, Any] | None,
) -> Steps:
    """Find the sites, choose the path, and plan the steps on a first batch, or adopt a recorded plan.

    Raises:
        SiteError: the model has no dropout that can be driven.
        OutputError: the model does not return logits.
        PrecisionError: the model does not run in the requested precision.
        ValueError: there is no item, or no site is active.
    """
    B = len(items_B)
    if B == 0:
        raise ValueError("prepare needs at least one item")
    if execution.dtype == "tf32":
        require_tf32(inputs)
    three_items = rows(items_B, np.unique([0, B // 2, B - 1]) if B >= 3 else np.resize(np.arange(B), 3))
    three, two = inputs(three_items), inputs(three_items[:2])
    found = discover(model, two, three, dropout.sites, dropout.p, dropout.weights)
    if not any(site.active for site in found.sites):
        raise ValueError("sites: no dropout site is left on")
    reduces: Fuses = functools.partial(head_kernel.fits, likelihood=reduction.likelihood, input=reduction.input)
    if not set(reduction.scores) <= set(KERNEL_SCORES):  # a registered score has no kernel
        reduces = _no_kernel
    if held := holding(reduction.scores):
        backends.warn_once(
            f"score {held[0]!r} is computed from the outputs of all passes, in float64: those of a step are held, and steps are small. "
            "Registered with finish= from moments it streams"
        )
    passes = Passes(model, found, seed=seed, shared=dropout.masks == "shared", reduces=reduces)
    inert = require_effect(passes, three)
    if recorded is None:
        three_ids = torch.arange(3, device=inputs.device)
        plan = make_plan(passes, three, three_ids, reduction.passes, execution.memory, bool(held))
        plan = _with_precision(plan, passes, reduction, execution, inputs, items_B)
    else:
        plan = Plan.from_dict(recorded)
        if plan.threads != torch.get_num_threads():
            backends.warn_once(
                f"the recorded plan was made with {plan.threads} torch thread(s), now there are {torch.get_num_threads()}: "
                "the last bits of scores may differ (set OMP_NUM_THREADS to repeat them exactly)"
            )
    if plan.autocast:
        passes = passes.in_precision(bfloat16.Autocast())
    if plan.path not in ("head", "vmap", *(["fork"] if inputs.device.type == "cuda" else [])):
        backends.warn_once(f"{type(model).__name__}: passes run by {plan.path!r}, not vmap ({plan.why})")
    graphs = execution.graphs and inputs.device.type == "cuda" and plan.path != "loop"
    return Steps(passes, plan, reduction, inert, execution.compile, graphs)


def _no_kernel(_x: Tensor, _weight: Tensor, _p: float) -> bool:
    return False


def _with_precision(
    plan: Plan, passes: Passes, reduction: Reduction, execution: Execution, inputs: ModelInputs, items_B: Items
) -> Plan:
    """Return the plan with the requested precision, or with the one that "auto" chooses."""
    by_default = execution.dtype is None and inputs.device.type == "cuda" and inputs.dtype == torch.float32
    if execution.dtype in (None, "model") and not by_default:
        return plan
    if execution.dtype == "tf32":  # one of the modes of the whole call, see ``numeric``
        return dataclasses.replace(plan, precision="float32 products and convolutions in TF32, as asked for")
    if execution.dtype == "bfloat16":
        _trial(plan, passes, reduction, inputs, items_B[:2], True)
        return dataclasses.replace(plan, autocast="bfloat16", precision="asked for")
    name = "bald" if "bald" in reduction.scores else reduction.scores[0]
    first = items_B[: bfloat16.ITEMS]
    taken, why = bfloat16.choose(
        inputs.device, lambda rounded: _trial(plan, passes, reduction, inputs, first, rounded)[name]
    )
    other = "; dtype='model' keeps the model's own" if by_default and taken else ""
    backends.warn_once(f"dtype='auto' takes {taken or str(inputs.dtype).removeprefix('torch.')}: {why}{other}")
    return dataclasses.replace(plan, autocast=taken, precision=why)


def require_tf32(inputs: ModelInputs) -> None:
    """Raise PrecisionError unless the device has TF32 and the model computes in float32."""
    device = inputs.device
    if device.type != "cuda" or torch.version.hip or torch.cuda.get_device_capability(device) < (8, 0):
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"device {device}"
        raise PrecisionError(
            f"dtype='tf32': {name} has no TF32, which NVIDIA GPUs have from Ampere on (capability 8.0); dtype='model' is full float32"
        )
    if inputs.dtype != torch.float32:
        raise PrecisionError(
            f"dtype='tf32' rounds float32 products, and the model computes in {str(inputs.dtype).removeprefix('torch.')}: leave it out"
        )


def _trial(
    plan: Plan, passes: Passes, reduction: Reduction, inputs: ModelInputs, items_B: Items, rounded: bool
) -> dict[str, Tensor]:
    """Score the first items step by step. PrecisionError if the model does not run in bfloat16."""
    plain = dataclasses.replace(reduction, errors=False)
    steps = Steps(passes.in_precision(bfloat16.Autocast() if rounded else None), plan, plain, frozenset(), False)
    ids = torch.arange(len(items_B), device=inputs.device)
    try:
        parts = [
            steps.scores(inputs(items_B[lo : lo + plan.items]), ids[lo : lo + plan.items])
            for lo in range(0, len(items_B), plan.items)
        ]
    except (RuntimeError, TypeError, NotImplementedError) as error:
        if not rounded or isinstance(error, torch.OutOfMemoryError):
            raise
        raise PrecisionError(
            f"{type(passes.model).__name__} does not run in bfloat16 on {inputs.device} ({first_line(error)})"
        ) from error
    return {name: torch.cat([part[name] for part in parts]) for name in reduction.scores}
