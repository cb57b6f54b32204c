"""Checks before scoring: each site changes the output, passes differ, the output is logits."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from ..errors import OutputError, SiteError
from ..kernels import backends
from .apply_masks import BatchedMasks, RedrawnSite, ZeroSite
from .discovery.sites import Site
from .guard.state import evaluating
from .passes import Passes
from .tensors import check_output, equal_bits


def require_effect(passes: Passes, inputs: Any) -> frozenset[str]:
    """Find active sites without effect: the output stays the same to the last bit when the site drops everything.

    SiteError if no site has an effect. A warning names them if some have none: a branch may be unused, or still zero as initialized.

    The check is deterministic, so masks cannot raise a false alarm by chance. Gradients show the effect of most sites in one
    backward pass; each other site takes one forward pass of a small batch.
    """
    constants = passes.found.constants
    active = [site for site in passes.found.sites if site.active]
    moving = _sites_with_gradient(passes, inputs)
    whole: Tensor | None = None
    inert: list[Site] = []
    for site in active:
        if site.name in moving:
            continue
        if whole is None:
            whole = passes.forward(inputs, ZeroSite(constants), None).logits
        try:
            output = passes.forward(inputs, ZeroSite(constants, site.name), None).logits
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            if isinstance(error, (SiteError, OutputError)):
                raise
            continue  # a pass that fails when the site drops everything depends on the site
        if equal_bits(output, whole) and not (site.draws and _changes_when_redrawn(passes, inputs, site)):
            inert.append(site)
    names = frozenset(site.name for site in inert)
    if not inert or whole is None or whole.isnan().all():
        return names
    named = f"{', '.join(map(str, inert))} of {type(passes.model).__name__}"
    if len(inert) == len(active):
        raise SiteError(
            f"{named}: the output for the first items does not change when everything there is dropped. Is what they drop used, "
            "and is the model trained?"
        )
    backends.warn_once(
        f"{named}: the output for the first items does not change when everything there is dropped; the scores come from "
        "the other sites"
    )
    return names


def _changes_when_redrawn(passes: Passes, inputs: Any, site: Site) -> bool:
    """Return whether numbers of other passes at this site change pass 0, for sites where a constant does not (argsort of a constant)."""
    leaf = next(x for x in tree_leaves(passes.each_batch(inputs, 3, lambda x: x)) if isinstance(x, Tensor))
    ids_B = torch.arange(3, device=leaf.device)
    first, stream = torch.zeros(1, dtype=torch.int64, device=leaf.device), passes.stream(ids_B)
    whole = passes.forward(inputs, BatchedMasks(stream, first), None).logits
    for other in range(1, 9):
        output = passes.forward(inputs, RedrawnSite(stream, first, site.name, first + other), None).logits
        if not equal_bits(output, whole):
            return True
    return False


def _sites_with_gradient(passes: Passes, inputs: Any) -> set[str]:
    """Return the sites with a nonzero gradient of the output by a factor on their tensor: one pass instead of one per site."""
    zero = ZeroSite(passes.found.constants, scales={})
    assert zero.scales is not None
    try:
        # The backward pass is inside the block too: checkpointed parts are computed again there, and must run in evaluation mode.
        with evaluating(passes.model, passes.found.training, passes.found.written, grad=True):
            output = passes.forward(inputs, zero, None, grad=True).logits
            scales = list(zero.scales.items())
            if not scales or not output.requires_grad:
                return set()
            # Different weights, so that gradients of different outputs do not cancel.
            weights = torch.linspace(1.0, 2.0, output.numel(), device=output.device).reshape(output.shape)
            total = (output.float() * weights).sum()
            gradients = torch.autograd.grad(total, [scale for _, scale in scales], allow_unused=True)
    except (SiteError, OutputError):
        raise
    except (RuntimeError, ValueError, TypeError, NotImplementedError):  # the model has no gradient: every site is tried
        return set()
    return {
        name
        for (name, _), gradient in zip(scales, gradients, strict=True)
        if gradient is not None and bool(gradient != 0)
    }


def require_different_passes(passes: Passes, logits_TBC: Tensor, inputs: Any) -> None:
    """SiteError if all passes are equal, since they carry no information. A single pass is compared with dropout off."""
    if logits_TBC.shape[0] == 1:
        other = check_output(passes.model, passes.deterministic(inputs))
        same = torch.equal(other[: logits_TBC.shape[1]], logits_TBC[0])
    else:
        same = bool((logits_TBC[1:] == logits_TBC[:1]).all())
    # LayerDrop with p = 0.05 leaves most passes alike.
    rare = any(site.draws and site.active for site in passes.found.sites)
    if same and logits_TBC.numel() and not rare:
        active = ", ".join(str(site) for site in passes.found.sites if site.active)
        raise SiteError(
            f"all {logits_TBC.shape[0]} passes of the first batch gave the same output although these sites fired: {active}. "
            "Does what they drop reach the output, and is p large enough for the width of the layer?"
        )
