"""Find the sites of a model: a probe finds the calls, a trace measures each of them.

1. *Probe.* Two items go through a private copy of the model in training mode (normalization layers stay in evaluation),
   with every stochastic call intercepted. What would drop or draw there is the list of sites. This finds what lists of module
   classes miss: functional dropout, ``dropout_p=self.p if self.training else 0``, attention dropout, stochastic depth.
   Masks keep everything and draws are constants meanwhile, so every generator must stay where it was, and a second run must
   end alike: else something is random that is not seen.
2. *Trace.* Another copy in evaluation mode must reach the same calls. Where one hides behind ``if self.training``, its owner, then
   the owner's parents are put in training mode for the length of a forward pass (never a normalization layer). With nothing
   dropped, the model must then give what it gives in evaluation.
3. *Shapes.* Two items, then three: the one dimension that grows by half is where a site's tensor holds the items.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from ...errors import SiteError
from ...kernels import backends
from ...masks import MAX_SITES
from ..guard.exclusive import exclusive
from ..guard.state import checksums, require_unchanged
from ..ops.dropout import RECURRENT, WEIGHT_OPS, ConstantSource
from ..ops.intercept import Call, is_dense
from . import generators
from .probe import PassRecord, ProbeResult, probe
from .sites import Discovery, Site, call_name, choose, with_p
from .trace import Tracer, find_constants, probability_text, reach_sites


def discover(
    model: nn.Module,
    inputs_2: Any,
    inputs_3: Any,
    chosen: Sequence[str | int] | None = None,
    p: float | Mapping[str | int, float] | None = None,
    weight_p: float | None = None,
) -> Discovery:
    """Find the sites of ``model`` with two and with three items as input, the same two first. The model itself is not run.

    Args:
        model: any module; left as it is.
        inputs_2: its input for two items.
        inputs_3: its input for three items.
        chosen: names (shell patterns) or indices of the sites to use; the others are switched off. None: all.
        p: a drop probability for all sites, or by name (shell pattern) or index, instead of the model's own.
        weight_p: for a model without dropout, drop the weights of Linear and convolution with this probability.

    Raises:
        SiteError: no dropout at all, randomness that cannot be driven, a site that evaluation mode cannot reach, a site whose
            tensor holds the items in a way that cannot be followed, a name that matches nothing, a model that a copy's
            forward pass changes.
    """
    before = checksums(model)
    with exclusive(model), generators.preserved(model):
        found = _discover(model, inputs_2, inputs_3, chosen, p, weight_p)
    require_unchanged(model, before, "the probe of its dropout sites")
    return found


def _discover(
    model: nn.Module,
    inputs_2: Any,
    inputs_3: Any,
    chosen: Sequence[str | int] | None,
    p: float | Mapping[str | int, float] | None,
    weight_p: float | None,
) -> Discovery:
    who = type(model).__name__
    probed = probe(model, inputs_2, weight_p)
    calls, random_calls = probed.seen.calls, probed.seen.random_calls
    trace = Tracer(model, weight_p, probed.extremes, probed.reseeded)
    _refuse_unsupported(who, probed, trace, inputs_2, chosen)
    if not random_calls:
        never = ", ".join(calls) or "none"
        raise SiteError(
            f"{who} has no live dropout: all passes would be equal (stochastic calls that do nothing: {never}). Score a model "
            "that was trained with dropout, set p > 0 on its dropout layers, drop weights instead with Dropout(weights=0.1), "
            "or feed passes of another posterior (an ensemble, Laplace samples) to mcscore.Moments"
        )
    own = [name for name, (call, _) in calls.items() if name in random_calls and call.function not in WEIGHT_OPS]
    if weight_p is not None and own:
        raise SiteError(f"Dropout(weights=...) is for models without dropout; {who} has {', '.join(own)}")
    sites: list[Site] = []
    for name, (shape, mask_rank) in probed.seen.shapes.items():
        op = calls[call_name(name)][0].op
        assert op is not None
        number = random_calls[call_name(name)].p
        guess = shape[1:] if shape[:1] == (2,) else shape
        sites.append(Site(len(sites), name, op.name, number, number, guess, None, 1, mask_rank, draws=op.draws))
    if len(sites) > MAX_SITES:
        raise SiteError(f"{len(sites)} sites; the mask counter has room for {MAX_SITES}")
    sites = list(choose(sites, chosen))
    active = {call_name(site.name): random_calls[call_name(site.name)] for site in sites if site.active}
    reached = reach_sites(who, trace, inputs_2, active, probed.seen)
    training = reached.training
    if trace.moved:
        raise SiteError(
            f"{who} draws randomness that masks cannot drive while it is scored: {generators.join(trace.moved)}. Remove it"
        )
    _refuse_new_calls(who, reached.seen, probed.seen, training)
    off, distance = find_constants(who, trace, inputs_2, reached)
    extremes = probed.extremes if off is None else (off, *probed.extremes[1:])
    trace = Tracer(model, weight_p, extremes, probed.reseeded)
    seen, seen_3 = trace(inputs_2, training), trace(inputs_3, training)
    sites = [_measured(site, seen, seen_3, distance) for site in sites]
    if off is None:
        silent = [str(s) for s in sites if s.draws and not s.active and s.name in seen.shapes]
        if silent:
            raise SiteError(
                f"{who}: {'; '.join(silent)} cannot be left off: it is drawn where other sites are reached, and no constant in its "
                "place gives what evaluation gives. Choose it too, or give it a module of its own"
            )
    _same_calls(who, seen, seen_3)
    if any(site.axis is not None for site in sites):
        swapped = tree_map_only(Tensor, lambda x: x.flip(0) if x.ndim and x.shape[0] == 2 else x, inputs_2)
        _check_order(sites, seen.tensors, trace(swapped, training).tensors)
    _check_independence(who, sites, seen, seen_3)
    idle = tuple(name for name in calls if name not in random_calls)
    leaves = zip(tree_leaves(inputs_2), tree_leaves(inputs_3), strict=False)
    batched = tuple(isinstance(a, Tensor) and a.ndim > 0 and (len(a), len(b)) == (2, 3) for a, b in leaves)
    written = tuple(sorted(trace.written))
    return Discovery(
        tuple(with_p(sites, p)),
        idle,
        training,
        weight_p,
        None if chosen is None else tuple(chosen),
        off or ConstantSource(),
        written,
        tuple(sorted(probed.reseeded)),
        batched,
    )


def _refuse_unsupported(
    who: str, probed: ProbeResult, trace: Tracer, inputs: Any, chosen: Sequence[str | int] | None
) -> None:
    """SiteError if something is random that masks cannot drive, unless the user chose sites and it can be left off."""
    unsupported = [f"{name} ({_described(call)})" for name, call in probed.seen.unsupported.items()] + list(
        probed.hidden
    )
    if not unsupported or (chosen is not None and probed.seen.random_calls):
        return
    at_rest = trace(inputs, ())
    if at_rest.unsupported or trace.moved:
        advice = "It is random in evaluation mode too, so it cannot be left off: remove it"
    elif probed.seen.random_calls:
        some = next(iter(probed.seen.random_calls))
        advice = f"Remove it, or leave it off and choose the dropout sites to use: Dropout(sites=[{some!r}, ...])"
    else:
        advice = "Write it with torch.rand, torch.randn, torch.bernoulli or nn.Dropout, which can be driven"
    raise SiteError(
        f"{who} draws randomness in training mode that masks cannot drive: {generators.join(unsupported)}. {advice}"
    )


def _described(call: Call) -> str:
    if call.function in RECURRENT:
        return f"{call.function.__name__} dropout on a packed sequence"
    return str(getattr(call.function, "__name__", call.function))


def _refuse_new_calls(who: str, seen: PassRecord, expected: PassRecord, training: tuple[str, ...]) -> None:
    """SiteError if the model as it will be scored is random where its training-mode pass was not."""
    strangers = [f"{name} ({_described(call)})" for name, call in seen.unsupported.items()]
    if strangers:
        raise SiteError(
            f"{who}: {'; '.join(strangers)} cannot be left off: it is random while the chosen sites are reached (modules in training "
            f"mode: {', '.join(map(repr, training)) or 'none'}). Remove it, or give it a module of its own"
        )
    new = [
        f"{name} ({s.function}{probability_text(s.p)})"
        for name, s in seen.random_calls.items()
        if name not in expected.calls
    ]
    if new:
        raise SiteError(
            f"{who} drops in evaluation mode where it does not in training mode: {'; '.join(new)}. Drop in both, or in training mode alone"
        )


def _same_calls(who: str, two: PassRecord, three: PassRecord) -> None:
    both = set(two.random_calls) ^ set(three.random_calls)
    if both:
        raise SiteError(
            f"{who}: {', '.join(sorted(both))} is called for two items and not for three, or the other way round; the number of dropout "
            "calls must not depend on the batch. Draw for all items at once, pad them to one length in the transform, or leave it off by "
            "choosing the others with Dropout(sites=[...])"
        )


def _measured(site: Site, seen: PassRecord, seen_3: PassRecord, distance: Mapping[str, float]) -> Site:
    """The site with the shape, item axis and polarity that were found."""
    p = site.p
    if site.draws and p is not None:
        # A draw of 1 may mean keep or drop. The constant under which the model is nearer to evaluation keeps.
        keeps = distance.get("1.0", 0.0) <= distance.get("0.0", float("inf"))
        p = 1.0 - p if keeps else p
    if site.name not in seen.shapes:
        if site.active:
            raise SiteError(f"{site} was not reached a second time; is the number of calls random?")
        return replace(site, p=p)
    shape, mask_rank = seen.shapes[site.name]
    axis, rows = _item_axis(site.name, shape, seen_3.shapes.get(site.name, ((), 0))[0], strict=site.active)
    if axis is not None and axis >= mask_rank:
        raise SiteError(
            f"{site} on {shape} reads its input as one unbatched item, so one mask would cover "
            "several items of the batch; give it a tensor with a batch dimension"
        )
    item_shape = tuple(n for d, n in enumerate(shape) if d != axis)
    item_shape = item_shape if rows == 1 else (rows, *item_shape)
    return replace(site, p=p, shape=item_shape, axis=axis, rows=rows, mask_rank=mask_rank)


def _item_axis(
    name: str, shape_2: tuple[int, ...], shape_3: tuple[int, ...], *, strict: bool
) -> tuple[int | None, int]:
    """(the dimension that holds the items, how many of its rows are one item's); (None, 1) if there is none."""
    if not strict:
        grown = [d for d, (n2, n3) in enumerate(zip(shape_2, shape_3, strict=False)) if n2 != n3]
        return (grown[0], 1) if len(grown) == 1 and shape_2[grown[0]] == 2 else (None, 1)
    if len(shape_2) != len(shape_3):
        raise SiteError(
            f"site {name}: its tensor is {shape_2} for two items and {shape_3} for three; the rank must not depend on the batch"
        )
    grown = [d for d, (n2, n3) in enumerate(zip(shape_2, shape_3, strict=True)) if n2 != n3]
    if not grown:
        return None, 1
    if len(grown) > 1 or shape_2[grown[0]] * 3 != shape_3[grown[0]] * 2:
        raise SiteError(
            f"site {name}: its tensor is {shape_2} for two items and {shape_3} for three, so no single dimension holds the items; "
            "a mask per item cannot be defined there. Pad all items to one length in the transform, and give every layer all rows"
        )
    return grown[0], shape_2[grown[0]] // 2


def _check_order(sites: Sequence[Site], before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> None:
    """Swapping the two items of the input must swap them in every site's tensor, and change nothing else.

    Otherwise the rows are in another order than the items (sorted by length, patch after patch), or one item's values
    depend on its neighbors: masks and scores would depend on the batch.
    """
    for site in sites:
        # Numbers are drawn row by row: a site that draws has nothing to swap.
        if site.axis is None or site.draws or not site.active:
            continue
        first, second = before[site.name].movedim(site.axis, 0), after[site.name].movedim(site.axis, 0)
        swapped = first.roll(site.rows, 0)
        if torch.equal(first, swapped):
            if site.rows > 1:
                backends.warn_once(
                    f"{site}: the two probe items look alike, so the order of its {site.rows} rows per item could not be verified"
                )
        elif not torch.allclose(swapped, second, rtol=1e-3, atol=1e-5, equal_nan=True):
            raise SiteError(
                f"{site}: swapping two items of the batch does not swap their {'' if site.rows == 1 else f'{site.rows} '}rows in "
                f"dimension {site.axis} of its input. Keep the items in order, item after item, and independent of each other"
            )


def _check_independence(who: str, sites: Sequence[Site], two: PassRecord, three: PassRecord) -> None:
    """A third item must not change what becomes of the first two: batch statistics in evaluation, attention across items."""
    pairs = [
        (str(site), two.tensors[site.name].movedim(site.axis, 0), three.tensors[site.name].movedim(site.axis, 0))
        for site in sites
        if site.axis is not None and site.active and not site.draws
    ]
    output_2, output_3 = two.output, three.output
    if (
        isinstance(output_2, Tensor)
        and isinstance(output_3, Tensor)
        and is_dense(output_2)
        and output_2.ndim
        and output_2.is_floating_point()
    ):
        pairs.append(("the output", output_2, output_3))
    for where, alone, together in pairs:
        if alone.shape[1:] != together.shape[1:] or len(alone) * 3 != len(together) * 2:
            continue
        scale = float(alone.nan_to_num(0.0, 0.0, 0.0).abs().max()) if alone.numel() else 0.0
        if not torch.allclose(alone, together[: len(alone)], rtol=1e-2, atol=1e-2 * scale + 1e-6, equal_nan=True):
            raise SiteError(
                f"{who}: {where} of two items changes when a third joins the batch, so scores would depend on the batch. "
                "Does a layer use the statistics of the batch (BatchNorm without running statistics), or items see each other?"
            )
