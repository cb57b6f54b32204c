"""Choose the fastest strategy that gives the logits of one pass at a time, on a small batch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..errors import OutputError, RowsError, SiteError, first_line
from .apply_masks import BatchedMasks, SingleSite
from .discovery.sites import Site
from .passes import Passes, PassResult, Strategy, paths_on
from .tensors import close_to

# What PyTorch and models raise where a strategy does not work. Any other exception, such as an interrupt, has another cause.
_NO_RULE = (
    RuntimeError,
    ValueError,
    AssertionError,
    AttributeError,
    NotImplementedError,
    TypeError,
    IndexError,
)


def choose_strategy(passes: Passes, inputs: Any, ids_B: Tensor, T: int) -> Strategy:
    """Return the fastest strategy that gives what ``loop`` gives on this batch, with the reasons against faster ones.

    Raises:
        SiteError: two runs of the same passes differ; or items see each other with masks on.
        OutputError: the model's output is not logits.
    """
    passes_t = torch.arange(min(T, 3), device=ids_B.device)
    one_by_one = passes.run(inputs, ids_B, passes_t, Strategy("loop"))
    truth, reads = one_by_one.logits, ", ".join(sorted(one_by_one.reads))
    why: list[str] = []
    for path in paths_on(ids_B.device):
        if reads and path in ("fork", "repeat"):
            # A branch on values of all passes together is taken for all of them; one pass at a time decides for itself.
            why.append(f"{path}: {reads} looks at values that masks have touched")
            continue
        reason = ""
        for fused in (passes.site_names, frozenset[str]()):
            try:
                chunks = list(passes_t.split(2))
                results = list(passes.results(inputs, ids_B, chunks, Strategy(path, fused), strict=True))
            except RowsError as error:
                reason = first_line(error)
                continue
            except (SiteError, OutputError, torch.OutOfMemoryError):
                raise
            except _NO_RULE as error:
                reason = first_line(error)
                continue
            found = PassResult.of(torch.cat([result.logits for result in results]), results)
            if close_to(found.logits, truth, truth.dtype):
                strategy = Strategy(path, fused & (found.fused - found.escaped), "; ".join(why))
                _require_independence(passes, inputs, ids_B, passes_t[:2], strategy, found.logits[:2])
                return strategy
            reason = "gives other numbers than one pass at a time"
        if path != "head":  # few models end that way, so that is no news
            why.append(f"{path}: {reason}")
    raise SiteError(
        f"{type(passes.model).__name__}: two runs of the same passes differ ({'; '.join(why)}); is something else random?"
    )


def _require_independence(
    passes: Passes, inputs: Any, ids_B: Tensor, passes_t: Tensor, strategy: Strategy, together_tBC: Tensor
) -> None:
    """SiteError if removing the last item changes the others with masks on: DropBlock, experts of limited capacity."""
    n = len(ids_B) - 1
    if n < 1 or together_tBC.shape[1] != len(ids_B):
        return
    fewer = passes.each_batch(inputs, n + 1, lambda x: x[:n])
    (alone_tBC,) = passes.chunks(fewer, ids_B[:n], [passes_t], strategy)
    if not close_to(alone_tBC, together_tBC[:, :n], together_tBC.dtype):
        sites = _dependent_sites(passes, inputs, fewer, ids_B) or passes.found.sites
        raise SiteError(
            f"{type(passes.model).__name__}: with masks on, the output of {n} items changes when another joins the batch, so scores "
            f"would depend on the batch. Sites: {', '.join(map(str, sites))}. "
            "Rescale by an item's own share or by the expected one (DropBlock), give experts no capacity limit, or leave the site "
            "off by choosing the others with Dropout(sites=[...])"
        )


def _dependent_sites(passes: Passes, inputs: Any, fewer: Any, ids_B: Tensor) -> list[Site]:
    """Return the active sites that, masked alone, let items depend on each other."""
    n = len(ids_B) - 1
    first = torch.zeros(1, dtype=torch.int64, device=ids_B.device)

    def masked_alone(site: Site, inputs: Any, ids: Tensor) -> Tensor:
        rows = BatchedMasks(passes.stream(ids), first)
        return passes.forward(inputs, SingleSite(rows, site.name, passes.found.constants), None).logits

    dependent = []
    for site in passes.found.sites:
        if site.active:
            alone, both = masked_alone(site, fewer, ids_B[:n]), masked_alone(site, inputs, ids_B)
            if not close_to(alone, both[:n], both.dtype):
                dependent.append(site)
    return dependent
