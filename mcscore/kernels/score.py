"""``score_logits``: scores from the outputs of T passes. Checks, the choice of backend, and dense outputs.

    native, triton   (T, B, C) float32, float16 or bfloat16 logits, categorical or bernoulli; every logit is read once
    eager            everything else: float64, gaussian, bernoulli (log-)probabilities, other devices; PyTorch, in steps

Registered scores have no kernel of their own: where a kernel serves the others it also adds up their moments, in another reading of the
logits, and PyTorch finishes them. So they do not change a bit of the others.

Dense outputs go to the same kernels as blocks of pixels in rows, at most 16 MB at a time (256 MB on a GPU). ``accumulate`` on a GPU
reads them as they lie.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from ..acquisition import KERNEL_SCORES, SCORES, bald_noise, check_scores
from ..jackknife import MAX_GROUPS, columns, estimate, require_passes
from ..likelihoods import (
    check_input,
    check_noise,
    check_shape,
    ok_outputs,
    reduce_pixels,
    reduce_predictions,
    reduction_share,
)
from ..own_scores import NO_ERROR, from_outputs, holding, require_finish
from . import backends, eager
from .groups import Groups

# Of rows cut from a larger output, or of their sums. A GPU needs larger blocks to be busy.
_BLOCK_BYTES = {"cpu": 16 << 20, "cuda": 256 << 20}
_IMAGE = 1 << 16  # pixels of an item that keep a GPU busy
_ERROR_ROWS = 1 << 15  # whose scores without each group are kept at a time: 8 MB per score


def score_logits(
    logits_TBC: Tensor,
    scores: Sequence[str] = ("bald", "entropy"),
    *,
    likelihood: str = "categorical",
    input: str = "logits",
    noise_variance: float | None = None,
    reduction: str | float = "mean",
    errors: bool = False,
    backend: str | None = None,
) -> dict[str, Tensor]:
    """Compute acquisition scores of B items from the outputs of T stochastic passes; higher is more informative.

    >>> logits_TBC = torch.tensor([[[9.0, -9.0], [0.0, 0.0]], [[-9.0, 9.0], [0.0, 0.0]]])
    >>> scores = score_logits(logits_TBC, ("bald", "entropy"))
    >>> [round(float(value), 3) for value in scores["bald"]], [round(float(value), 3) for value in scores["entropy"]]
    ([0.693, 0.0], [0.693, 0.693])

    Args:
        logits_TBC: (T, B, C), or dense (T, B, C, *pixels); float16, bfloat16, float32 or float64; any strides; never
            changed. T >= 1, B may be 0. Categorical: C >= 2 classes; bernoulli: C >= 1 labels; gaussian: C = 1 (mean)
            or C = 2 (mean, log-variance).
        scores: names from ``mcscore.SCORES``, which has formulas, ranges and sources.
        likelihood: "categorical", "bernoulli" or "gaussian"; never guessed.
        input: "logits", "log_probs" or "probs"; never guessed.
        noise_variance: gaussian with C = 1, "bald": the variance of the observation noise.
        reduction: dense outputs are scored per pixel, then averaged ("mean"), maximized ("max"), or a share in (0, 1] of
            the pixels, the highest, is averaged.
        errors: also the Monte Carlo standard error of each score and the bias of those that are smooth, by the jackknife over
            groups of passes (``mcscore.jackknife``). The scores stay the same bit for bit; score - bias is the corrected score.
        backend: "native", "triton" or "eager" instead of the automatic choice.

    Returns:
        {name: (B,) float32}, with errors also name_se and name_bias, and "prediction" (B,): int32 argmax of the mean probability,
            ties to the smallest class; one bernoulli label: 1 if its mean probability >= ½; dense: the majority class; gaussian: the
            float32 mean. An item with NaN or +inf outputs, or a categorical row of all -inf, has NaN scores and errors and prediction
            -1 (gaussian NaN). -inf logits are probability 0. BALD of at most 2^-20 of the entropy is noise, and 0
            (``acquisition.BALD_NOISE``).

    Raises:
        ValueError: an argument that does not fit the others; a backend that cannot serve the call; errors of fewer than 2 passes.
    """
    names = check_scores(scores, likelihood, noise_variance)
    check_outputs(logits_TBC, names, likelihood, input, noise_variance)
    reduction_share(reduction)
    T, B, C = logits_TBC.shape[:3]
    if errors:
        require_passes(T)
    device = logits_TBC.device
    chosen = choose(logits_TBC, likelihood, input, backend)
    rows = math.prod((B, *logits_TBC.shape[3:]))
    held = holding(names)
    fast = [name for name in names if chosen != "eager" and name in KERNEL_SCORES]
    summed = [name for name in names if name not in held and name not in fast]  # by PyTorch, from sums over the passes
    if errors:
        require_finish(names, NO_ERROR)
    fused = errors and logits_TBC.ndim == 3
    results = {
        name: torch.empty(rows, dtype=torch.float32, device=device) for name in (*columns(fast, fused), *summed, *held)
    }
    results["prediction"] = torch.empty(
        rows, dtype=torch.float32 if likelihood == "gaussian" else torch.int32, device=device
    )
    for first, outputs in row_blocks(logits_TBC, likelihood, input, chosen):
        block: dict[str, Tensor] = {}
        if summed or not fast:
            state = eager.new_state(summed, likelihood, outputs.shape[1], C, device)
            _add_rows(outputs, state, likelihood=likelihood, input=input, chosen=chosen)
            block |= eager.finish(state, summed, likelihood, T, noise_variance, bald_noise(logits_TBC.dtype))
        if fast:
            block |= _kernels(chosen).score(outputs, fast, likelihood, errors=fused)
        if held:
            budget = _BLOCK_BYTES.get(device.type, _BLOCK_BYTES["cpu"]) // (8 * T * C)
            own = from_outputs(outputs, held, likelihood, _kind(likelihood, input), noise_variance, budget)
            spoiled = ~ok_outputs(outputs, likelihood, _kind(likelihood, input))
            block |= {name: values.float().masked_fill(spoiled, math.nan) for name, values in own.items()}
        for name, values in block.items():
            results[name][first : first + len(values)] = values
    results = reduce_dense(results, logits_TBC.shape, likelihood, reduction)
    if errors and (rest := summed if fused else names):
        results |= _errors(logits_TBC, rest, likelihood, input, noise_variance, reduction, chosen)
    return {name: results[name] for name in (*columns(names, errors), "prediction")}


def _errors(
    logits_TBC: Tensor,
    scores: Sequence[str],
    likelihood: str,
    input: str,
    noise_variance: float | None,
    reduction: str | float,
    chosen: str,
) -> dict[str, Tensor]:
    """The errors of ``score_logits``, {name: (B,) float32}, from the sums of each group of passes."""
    B, C, *pixels = logits_TBC.shape[1:]
    S = math.prod(pixels)
    device = logits_TBC.device
    found = {name: torch.empty(B, device=device) for name in columns(scores, True)[len(scores) :]}
    items = max(1, _ERROR_ROWS // S)  # whole items: their pixels are reduced before anything is estimated
    for b in range(0, B, items):
        part = logits_TBC[:, b : b + items]
        pieces = []
        for _, outputs in row_blocks(part, likelihood, input, "eager", sums=MAX_GROUPS):
            rows = outputs.shape[1]
            groups = Groups(functools.partial(eager.new_state, scores, likelihood, rows, C, device), likelihood)
            groups.add(outputs, functools.partial(_add_rows, likelihood=likelihood, input=input, chosen=chosen))
            pieces.append(groups.scores(scores, noise_variance))
        whole = {name: torch.cat([piece[0][name] for piece in pieces]) for name in scores}
        without = {name: torch.cat([piece[1][name] for piece in pieces], 1) for name in scores}
        for name, values in errors_of(whole, without, groups.sizes, part.shape[1:], reduction).items():
            found[name][b : b + items] = values
    return found


def errors_of(
    whole: dict[str, Tensor],
    without: dict[str, Tensor],
    sizes: Sequence[int],
    shape: Sequence[int],
    reduction: str | float,
) -> dict[str, Tensor]:
    """The errors (B,) float32 of outputs of this shape (B, C, *pixels), from ``Groups.scores`` of its rows."""
    found = {}
    for name, theta in whole.items():
        theta_B, without_GB = theta, without[name]
        if len(shape) > 2:
            S = math.prod(shape[2:])
            theta_B = reduce_pixels(theta.view(shape[0], S), reduction)
            without_GB = torch.stack([reduce_pixels(row.view(shape[0], S), reduction) for row in without_GB])
        se, bias = estimate(theta_B, without_GB, sizes)
        found[f"{name}_se"], found[f"{name}_bias"] = se.float(), bias.float()
    return {name: found[name] for name in columns(tuple(whole), True)[len(whole) :]}


def accumulate(
    logits_tBC: Tensor, state: eager.State, likelihood: str, *, input: str = "logits", backend: str | None = None
) -> None:
    """Add t passes to ``state`` (see ``kernels.eager``) in place. logits_tBC: (t, B, C) or dense, as in ``score_logits``.

    The caller has checked shapes and settings; ``state`` holds one row per item, or per pixel in item-major order.
    """
    chosen = choose(logits_tBC, likelihood, input, backend)
    if chosen == "triton" and _raw(likelihood, input):  # which reads dense outputs as they lie
        _add_rows(logits_tBC.detach(), state, likelihood=likelihood, input=input, chosen=chosen)
        return
    for first, outputs in row_blocks(logits_tBC, likelihood, input, chosen):
        part = {name: sums[first : first + outputs.shape[1]] for name, sums in state.items()}
        _add_rows(outputs, part, likelihood=likelihood, input=input, chosen=chosen)


def _add_rows(outputs_tnC: Tensor, state: eager.State, *, likelihood: str, input: str, chosen: str) -> None:
    """Add passes over rows, as ``row_blocks`` gives them, to ``state`` in place."""
    if chosen == "native":
        _kernels(chosen).accumulate(outputs_tnC, state, likelihood)
    elif chosen == "triton":
        from .triton.accumulate import accumulate as triton_accumulate

        triton_accumulate(outputs_tnC, state, likelihood)
    else:
        eager.accumulate(outputs_tnC, state, likelihood, _kind(likelihood, input))


def check_outputs(
    outputs: Tensor, scores: Sequence[str], likelihood: str, input: str, noise_variance: float | None = None
) -> None:
    """ValueError unless shape, dtype, settings and, for (log-)probabilities, the values fit. Logits are not read."""
    kind = outputs.dtype if isinstance(outputs, Tensor) else type(outputs).__name__
    if kind not in (*backends.KERNEL_DTYPES, torch.float64):
        raise ValueError(f"outputs must be a tensor of float16, bfloat16, float32 or float64, got {kind}")
    check_input(input, likelihood)
    check_shape(outputs.shape, likelihood)
    noisy = [name for name in scores if "noise" in SCORES[name].moments]
    check_noise(noisy, likelihood, outputs.shape[2], noise_variance)
    if _raw(likelihood, input):
        return
    pixels = math.prod(outputs.shape[3:])
    for first, block in row_blocks(outputs, likelihood, input, "eager", as_logits=False):
        _check_range(block, likelihood, input, first, pixels)


def _raw(likelihood: str, input: str) -> bool:
    """Are outputs logits as they are? So are log-probabilities of a softmax, which a constant added to a row does not change."""
    return input == "logits" or (likelihood == "categorical" and input == "log_probs")


def choose(outputs: Tensor, likelihood: str, input: str, backend: str | None = None) -> str:
    """The backend that serves these outputs. Where a kernel exists but cannot serve them, that is announced once."""
    if backend is not None and backend not in backends.BACKENDS:
        raise ValueError(f"unknown backend {backend!r}; choose from {', '.join(backends.BACKENDS)}")
    if backend == "eager":
        return "eager"
    if likelihood == "gaussian":
        obstacle = "likelihood 'gaussian' has no kernel: one or two numbers per item and pass need none"
    elif outputs.dtype not in backends.KERNEL_DTYPES:
        obstacle = f"{outputs.dtype} outputs have no kernel; float32, float16 and bfloat16 have"
    elif likelihood == "bernoulli" and input != "logits":
        obstacle = f"likelihood 'bernoulli' with input={input!r} has no kernel; input='logits' has"
    elif backend is not None:
        backends.require(backend, outputs.device)
        return backend
    else:
        return backends.select(outputs.device)
    if backend is not None:
        raise ValueError(f"backend {backend!r} cannot serve this call: {obstacle}")
    if likelihood != "gaussian" and outputs.device.type in ("cpu", "cuda"):
        backends.warn_once(f"{obstacle}; mcscore takes the slower PyTorch path")
    return "eager"


def row_blocks(
    outputs: Tensor, likelihood: str, input: str, backend: str, *, as_logits: bool = True, sums: int = 1
) -> Iterator[tuple[int, Tensor]]:
    """Cut (T, B, C) or (T, B, C, *pixels) into (first row, (T, rows, C)) blocks; a row is an item or one of its pixels.

    Categorical probabilities come out as logits, unless as_logits is False. Logits (T, B, C) for a kernel come out whole.
    sums: how many sums of the passes of a row the caller keeps at a time.
    """
    outputs = outputs.detach()
    T, B, C, *pixels = outputs.shape
    S = math.prod(pixels)
    raw = _raw(likelihood, input)
    if raw and not pixels and backend != "eager":
        yield 0, outputs
        return
    budget = _BLOCK_BYTES.get(outputs.device.type, _BLOCK_BYTES["cpu"])
    # PyTorch sums hold up to 20 bytes per row and class (p, p2, votes) and finishing one makes as much again.
    per_row = C * max(4 * T if not raw or pixels else 0, 20 * (sums + 1) if backend == "eager" else 0)
    rows = max(1, budget // per_row)
    items = max(1, rows // S)
    if backend == "triton" and S >= _IMAGE and C <= 32:
        items = 1  # the pixels of one item are class-major logits: the kernel reads them as they lie
    for b in range(0, B, items):
        part = outputs[:, b : b + items].flatten(3) if pixels else outputs[:, b : b + items, :, None]
        for s in range(0, S, rows):
            block = part[..., s : s + rows].transpose(2, 3).flatten(1, 2)  # (T, rows, C), item-major
            first = b * S + s
            if as_logits and input == "probs" and likelihood == "categorical":
                block = (block if block.dtype == torch.float64 else block.float()).clamp_min(0.0).log()
            yield first, block


def _kind(likelihood: str, input: str) -> str:
    """Return what the blocks of ``row_blocks`` hold: logits if categorical, else the input."""
    return "logits" if likelihood == "categorical" else input


def reduce_dense(
    results: dict[str, Tensor], shape: Sequence[int], likelihood: str, reduction: str | float
) -> dict[str, Tensor]:
    """Per-row results -> per-item results of outputs of this shape; the results themselves where it is (T, B, C)."""
    if len(shape) == 3:
        return results
    pixels = {name: values.view(shape[1], math.prod(shape[3:])) for name, values in results.items()}
    reduced = {name: reduce_pixels(values, reduction) for name, values in pixels.items() if name != "prediction"}
    return {**reduced, "prediction": reduce_predictions(pixels["prediction"], likelihood, shape[2])}


def _check_range(outputs_TnC: Tensor, likelihood: str, input: str, first_row: int, pixels: int) -> None:
    """Raise ValueError if finite ``outputs`` are not the (log-)probabilities that they are declared as; they may be logits.

    Tolerates two roundings of the dtype, at least 1e-4; categorical probabilities are normalized later.
    """
    slack = max(1e-4, 2 * torch.finfo(outputs_TnC.dtype).eps)
    x = outputs_TnC if outputs_TnC.dtype == torch.float64 else outputs_TnC.float()
    if input == "log_probs":
        wrong_TnC, rule = (x > slack) & (x < math.inf), "a log-probability is at most 0"
    else:
        wrong_TnC, rule = ((x < -slack) | (x > 1 + slack)) & x.isfinite(), "a probability lies in [0, 1]"
    if wrong_TnC.any():
        t, n, c = wrong_TnC.nonzero()[0].tolist()
        item = (first_row + n) // pixels
        raise ValueError(f"input={input!r}, but pass {t}, item {item}, class {c} holds {float(x[t, n, c]):.6g}: {rule}")
    if input == "probs" and likelihood == "categorical":
        sums_Tn = x.sum(-1)
        wrong_Tn = ((sums_Tn - 1).abs() > slack) & sums_Tn.isfinite()
        if wrong_Tn.any():
            t, n = wrong_Tn.nonzero()[0].tolist()
            item = (first_row + n) // pixels
            raise ValueError(f"input='probs', but pass {t} of item {item} sums to {float(sums_Tn[t, n]):.6g}, not 1")


def _kernels(backend: str) -> Any:
    """The module of a kernel backend: ``score(logits, names, likelihood, errors)``; native: ``accumulate(logits, state, likelihood)``."""
    if backend == "native":
        from . import native

        return native
    from .triton import score as triton_score

    return triton_score
