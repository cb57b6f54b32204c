"""What must hold of the passes before scores are made of them: sites matter, passes differ, the output is logits."""

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
    """Each site in turn drops everything: an output that stays the same to the last bit shows a site that does not matter.

    That of all sites is an error, that of some is said: a branch may be unused, or still zero as it was initialized.

    Deterministic, so that no chance of the masks can raise a false alarm. Gradients clear most sites in one pass; what they do
    not is tried by one forward pass of a small batch per site.
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
            continue  # a pass that fails with everything dropped there is one that looks at it
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
    """Does any of some other passes' numbers at this site change pass 0? Where an end of the law does not (argsort of a constant)."""
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
    """Sites with a gradient of the output by a factor on their tensor: one pass instead of one per site."""
    zero = ZeroSite(passes.found.constants, scales={})
    assert zero.scales is not None
    try:
        # Backward too: what is computed again for it (checkpoints) must run in evaluation as well.
        with evaluating(passes.model, passes.found.training, passes.found.written, grad=True):
            output = passes.forward(inputs, zero, None, grad=True).logits
            scales = list(zero.scales.items())
            if not scales or not output.requires_grad:
                return set()
            weights = torch.linspace(1.0, 2.0, output.numel(), device=output.device).reshape(
                output.shape
            )  # no sums that cancel
            total = (output.float() * weights).sum()
            gradients = torch.autograd.grad(total, [scale for _, scale in scales], allow_unused=True)
    except (SiteError, OutputError):
        raise
    except (RuntimeError, ValueError, TypeError, NotImplementedError):  # no gradient to be had: every site is tried
        return set()
    return {
        name
        for (name, _), gradient in zip(scales, gradients, strict=True)
        if gradient is not None and bool(gradient != 0)
    }


def require_different_passes(passes: Passes, logits_TBC: Tensor, inputs: Any) -> None:
    """Passes that do not differ carry no information: an error, not a quiet zero. A single pass is compared with dropout off."""
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
