"""Benchmark cases: inputs, mcscore's call, the same in plain PyTorch, and the error against float64.

A builder per kernel turns a ``Spec`` into a ``Case``. Inputs are random, as constant data draws less power and runs up to 40 %
faster on a GPU. Calls rotate through more inputs than the caches hold.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import masks
from ..acquisition import oracle_scores
from ..kernels import draws, dropout, head, linear, roofline
from ..kernels.score import score_logits
from ..masks import MaskSpec
from ..moments import Moments
from . import baselines
from .shapes import Shape, Spec

# Bytes that a call reads: more than the caches hold. PyTorch's temporaries of that size get new pages at every call. Below
# 32 MiB glibc keeps the pages in some runs only: eager took 23 ms or 42 ms for the same 16 MiB (Zen 3, T = 20, C = 1000).
CPU_BYTES = 64 << 20
# Bytes that a call writes: few enough for glibc to keep their pages. Page faults would cost 12 GB/s down to 1.5 GB/s.
CPU_OUTPUT = 16 << 20
GPU_BYTES = 400_000_000  # bytes that a call reads or writes: eight times the L2 cache of an H100
SCORES = ("bald", "entropy")
SEED = 0
_CHECKED = 1 << 21  # logits or features whose float64 truth is computed, in a second at most
_MAX_INPUTS = 512

Inputs = tuple[Any, ...]


class NoKernel(ValueError):
    """mcscore has no kernel for a case on a device."""


@dataclass(frozen=True)
class Case:
    """One case, with inputs."""

    spec: Spec  # its shape has every letter
    items: int  # per call
    work: roofline.Roofline
    inputs: list[Inputs]
    ours: Callable[..., object]
    eager: Callable[..., object]  # plain PyTorch
    error: Callable[[], float]  # greatest error of ours against float64, in the unit of Kernel.error
    tolerance: float  # the greatest error that is right
    floor: Callable[..., object] | None = None  # a lower bound of the work on these inputs
    compiles: bool = True  # whether torch.compile takes ``eager``


@dataclass(frozen=True)
class Kernel:
    """One row of KERNELS."""

    name: str
    does: str
    unit: str  # unit of its rate: GB/s if memory bounds it, GFLOP/s if products do
    error: str  # unit of the error
    floor: str  # name of the floor, "" if there is none
    build: Callable[[Spec, torch.device], Case]


def build(spec: Spec, device: torch.device) -> Case:
    """Build a case with its inputs. NoKernel, with the reason, if mcscore runs PyTorch operations for it."""
    return KERNELS[spec.kernel].build(spec, device)


# ---- scores -------------------------------------------------------------------------------------------------------


def _score_logits(spec: Spec, device: torch.device) -> Case:
    dtype, shape = _dtype(spec), spec.shape
    T, C = shape["T"], shape["C"]
    B = _items(shape, T * C * dtype.itemsize, device)
    inputs = _tensors((T, B, C), dtype, device, scale=3.0)
    errors, some = "errors" in shape.words, _some(B, T * C)

    def ours(logits_TBC: Tensor) -> dict[str, Tensor]:
        return score_logits(logits_TBC, SCORES, errors=errors)

    def error() -> float:
        return _nats(ours(inputs[0][0]), inputs[0][0][:, some], some)

    return Case(
        _sized(spec, B),
        B,
        roofline.score_logits(T, B, C, dtype, results=7 if errors else 3, errors=errors),
        inputs,
        ours,
        lambda logits: baselines.bald_and_entropy(logits),
        error,
        2e-5,
        floor=lambda logits: logits.sum(),
    )


def _moments(spec: Spec, device: torch.device) -> Case:
    dtype, shape = _dtype(spec), spec.shape
    t, C = shape["T"], shape["C"]
    B = _items(shape, t * C * dtype.itemsize, device)
    inputs = _tensors((t, B, C), dtype, device, scale=3.0)
    some = _some(B, t * C)
    running = Moments(SCORES)
    sums = torch.zeros(B, C, device=device), torch.zeros(B, device=device)

    def error() -> float:
        logits = inputs[0][0]
        first, second = logits[: t // 2], logits[t // 2 :]
        split = Moments(SCORES)
        for part in (first, second):
            if len(part):
                split.update(part)
        return _nats(split.compute(), logits[:, some], some)

    return Case(
        _sized(spec, B),
        B,
        roofline.moments(t, B, C, dtype),
        inputs,
        lambda logits: running.update(logits),
        lambda logits: baselines.add_passes(logits, *sums),
        error,
        2e-5,
        floor=lambda logits: logits.sum(),
    )


# ---- dropout and what follows it ----------------------------------------------------------------------------------


def _dropout(spec: Spec, device: torch.device) -> Case:
    dtype, shape = _dtype(spec), spec.shape
    t, E, I, p = shape["T"], shape["E"], shape.get("I", 1), shape.numbers["P"]
    B = _items(shape, t * E * I * dtype.itemsize, device, written=True)
    inputs = _tensors((1, B, E, I), dtype, device)
    passes, ids, some = torch.arange(t, device=device), torch.arange(B, device=device), _some(B, t * E * I)
    affine = dropout.inverted(p)

    def ours(x_sBEI: Tensor) -> Tensor:
        return dropout.masked_passes(x_sBEI, MaskSpec(SEED, 0, passes, ids, masks.rate(p)), affine)

    def error() -> float:
        x = inputs[0][0]
        truth = torch.where(_keep(passes, ids[some], E, p)[..., None], x[:, some].double() * affine[0], 0.0)
        return _relative(ours(x)[:, some], truth)

    return Case(
        _sized(spec, B),
        B,
        roofline.dropout(t, B, E, I, dtype),
        inputs,
        ours,
        lambda x: baselines.dropout(x, t, p),
        error,
        2 * torch.finfo(dtype).eps,
    )


def _draw(spec: Spec, device: torch.device) -> Case:
    dtype, shape = _dtype(spec), spec.shape
    t, R, law = shape["T"], shape["R"], "normal" if "normal" in shape.words else "uniform"
    B = _items(shape, t * R * dtype.itemsize, device, written=True)
    passes, ids, some = torch.arange(t, device=device), torch.arange(B, device=device), _some(B, t * R)
    torchs = torch.randn if law == "normal" else torch.rand

    def ours(passes: Tensor, ids: Tensor) -> Tensor:
        return draws.draw_passes(law, MaskSpec(SEED, 0, passes, ids), R, dtype)

    def error() -> float:
        # The reference is in float32: by definition, the arguments of a normal number are rounded to float32.
        return _relative(
            ours(passes, ids)[:, some], draws.reference(law, MaskSpec(SEED, 0, passes, ids[some]), R, torch.float32)
        )

    return Case(
        _sized(spec, B),
        B,
        roofline.draw(t, B, R, dtype, law),
        [(passes, ids)],
        ours,
        lambda passes, ids: torchs(t, B, R, dtype=dtype, device=device),
        error,
        2 * torch.finfo(dtype).eps,
    )


def _dropout_linear(spec: Spec, device: torch.device) -> Case:
    dtype, shape = _dtype(spec), spec.shape
    t, L, D, C, p = shape["T"], shape.get("L", 1), shape["D"], shape["C"], shape.numbers["P"]
    B = _items(shape, t * L * (D + C) * dtype.itemsize, device)
    own, shared = "own" in shape.words, "shared" in shape.words
    copies = t if own else 1
    weight, bias = _weights(C, D, dtype, device)
    inputs = _tensors((copies, B, L, D), dtype, device)
    passes, ids, some = torch.arange(t, device=device), _ids(B, shared, device), _some(B, t * L * max(C, D))
    if not linear.fuses(inputs[0][0][0], weight, p):
        raise NoKernel(f"dropout_linear of {spec.dtype} features to {C} outputs has no kernel on {device.type}")

    def ours(x_sBLD: Tensor) -> Tensor:
        return linear.linear_passes(x_sBLD, MaskSpec(SEED, 0, passes, ids, masks.rate(p)), weight, bias)

    def error() -> float:
        x = inputs[0][0]
        return _relative(ours(x)[:, some], _product(x[:, some], passes, ids[some], weight, bias, p))

    def theirs(x_sBLD: Tensor) -> Tensor:
        if shared and L == 1:
            return baselines.shared_dropout_linear(x_sBLD[:, :, 0], weight, bias, t, p)
        return baselines.dropout_linear(x_sBLD, weight, bias, t, p)

    return Case(
        _sized(spec, B),
        B,
        roofline.dropout_linear(t, B * L, D, C, copies, dtype),
        inputs,
        ours,
        theirs,
        error,
        2 * torch.finfo(dtype).eps + 1e-5,
    )


def _dropout_head(spec: Spec, device: torch.device) -> Case:
    dtype, shape = _dtype(spec), spec.shape
    t, D, C, p = shape["T"], shape["D"], shape["C"], shape.numbers["P"]
    B = _items(shape, t * (D + C) * dtype.itemsize, device)
    shared, errors = "shared" in shape.words, "errors" in shape.words
    weight, bias = _weights(C, D, dtype, device)
    inputs = _tensors((B, D), dtype, device)
    passes, ids, some = torch.arange(t, device=device), _ids(B, shared, device), _some(B, t * max(C, D))
    if not head.fits(inputs[0][0], weight, p, "categorical", "logits"):
        raise NoKernel(f"dropout_head of {spec.dtype} features to {C} classes has no kernel on {device.type}")

    def ours(x_BD: Tensor) -> dict[str, Tensor]:
        spec = MaskSpec(SEED, 0, passes, ids, masks.rate(p))
        return head.dropout_head(x_BD, spec, weight, bias, SCORES, likelihood="categorical", errors=errors)

    def error() -> float:
        x_sBLD = inputs[0][0][None, some, None]
        return _nats(ours(inputs[0][0]), _product(x_sBLD, passes, ids[some], weight, bias, p)[:, :, 0], some)

    theirs = baselines.shared_dropout_head if shared else baselines.dropout_head
    return Case(
        _sized(spec, B),
        B,
        roofline.dropout_head(t, B, D, C, 7 if errors else 3, dtype),
        inputs,
        ours,
        lambda x: theirs(x, weight, bias, t, p),
        error,
        5e-5 if dtype == torch.float32 else 1e-2,  # a kernel may round logits to 16 bits before it scores them
    )


def _keep(passes_t: Tensor, ids_B: Tensor, elements: int, p: float) -> Tensor:
    return dropout.reference_mask(MaskSpec(SEED, 0, passes_t, ids_B, masks.rate(p)), elements)


def _product(x_sBLD: Tensor, passes_t: Tensor, ids_B: Tensor, weight_CD: Tensor, bias_C: Tensor, p: float) -> Tensor:
    """Compute dropout and Linear by their definition, float64 (t, B, L, C)."""
    keep_tBLD = _keep(passes_t, ids_B, x_sBLD[0, 0].numel(), p).unflatten(2, x_sBLD.shape[2:])
    return (x_sBLD.double() * keep_tBLD / masks.rate(p).keep) @ weight_CD.double().T + bias_C.double()


# ---- the best of many ---------------------------------------------------------------------------------------------


def _top_k(spec: Spec, device: torch.device) -> Case:
    from ..selection.topk import TopK, best_first

    if device.type != "cpu":
        raise NoKernel(f"top_k runs on the CPU alone, not on {device.type}")
    N, K, Q = spec.shape["N"], spec.shape["K"], spec.shape.get("Q", 0)
    scores = np.random.default_rng(0).random(N, np.float32)
    if Q:
        scores = np.floor(scores * np.float32(Q))
    ids = np.arange(N)
    best = min(K, N)
    threshold = np.partition(scores, N - best)[N - best]

    def error() -> float:
        found, _ = TopK(K).update(ids, scores).result()
        among = np.flatnonzero(scores >= threshold)
        return float(np.count_nonzero(found != among[best_first(among, scores[among])[:best]]))

    return Case(
        spec,
        N,
        roofline.top_k(N),
        [(scores,)],
        lambda scores: TopK(K).update(ids, scores).result(),
        lambda scores: baselines.top_k(scores, K),
        error,
        0.0,
        floor=lambda scores: baselines.count_above(scores, threshold),
        compiles=False,
    )


# ---- pieces -------------------------------------------------------------------------------------------------------


def _dtype(spec: Spec) -> torch.dtype:
    dtype: torch.dtype = getattr(torch, spec.dtype)
    return dtype


def _items(shape: Shape, bytes_per_item: int, device: torch.device, written: bool = False) -> int:
    """Return B; if the shape has none, as many items as fill the device's caches several times."""
    wanted = GPU_BYTES if device.type == "cuda" else CPU_OUTPUT if written else CPU_BYTES
    fitting = max(1, wanted // bytes_per_item)
    return shape.get("B", fitting if fitting < 64 else fitting // 16 * 16)


def _sized(spec: Spec, B: int) -> Spec:
    """Return the spec with B after T in its shape."""
    rest = {letter: number for letter, number in spec.shape.numbers.items() if letter not in "TB"}
    numbers = {"T": spec.shape.numbers["T"], "B": float(B), **rest}
    return dataclasses.replace(spec, shape=Shape(numbers, spec.shape.words))


def _tensors(size: tuple[int, ...], dtype: torch.dtype, device: torch.device, scale: float = 1.0) -> list[Inputs]:
    """Make random tensors of this size: so many that, used in turn, none of them is in a cache."""
    one = max(1, torch.Size(size).numel() * dtype.itemsize)
    enough = 3 * torch.cuda.get_device_properties(device).L2_cache_size if device.type == "cuda" else CPU_BYTES
    number = min(_MAX_INPUTS, -(-enough // one))
    return [(part,) for part in (torch.randn(number, *size, device=device) * scale).to(dtype)]


def _weights(C: int, D: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    return (torch.randn(C, D, device=device) / D**0.5).to(dtype), torch.randn(C, device=device).to(dtype)


def _ids(B: int, shared: bool, device: torch.device) -> Tensor:
    """Make ids; shared masks have one expanded id, which kernels recognize by its stride 0."""
    return torch.full((1,), -1, device=device).expand(B) if shared else torch.arange(B, device=device)


def _some(B: int, values: int) -> Tensor:
    """Return indices of the first and the last items, which have about _CHECKED values in all."""
    half = max(1, _CHECKED // max(1, values) // 2)
    return torch.arange(B) if 2 * half >= B else torch.cat((torch.arange(half), torch.arange(B - half, B)))


def _nats(scores: dict[str, Tensor], logits_TnC: Tensor, some: Tensor) -> float:
    """Compute the greatest error of the scores of these items, NaN if one is NaN. float64 holds every logit exactly."""
    truth = oracle_scores(logits_TnC, SCORES)
    return max(float((scores[name][some].double() - truth[name]).abs().max()) for name in SCORES)


def _relative(found: Tensor, truth: Tensor) -> float:
    """Compute the greatest error in units of the greatest value."""
    return float((found.double() - truth).abs().max() / truth.abs().max())


_BALD = "bald and entropy"
KERNELS = {
    kernel.name: kernel
    for kernel in (
        Kernel("score_logits", f"{_BALD} from logits", "GB/s", "nat", "logits.sum()", _score_logits),
        Kernel("moments", f"Moments.update for {_BALD}", "GB/s", "nat", "logits.sum()", _moments),
        Kernel("dropout", "T masked copies of x", "GB/s", "of the maximum", "", _dropout),
        Kernel("draw", "random numbers of T passes", "GB/s", "of the maximum", "", _draw),
        Kernel("dropout_linear", "dropout and Linear, T passes", "GFLOP/s", "of the maximum", "", _dropout_linear),
        Kernel("dropout_head", f"dropout, Linear, {_BALD}", "GFLOP/s", "nat", "", _dropout_head),
        Kernel("top_k", "the best K of N scores", "GB/s", "wrong ids", "one pass that counts", _top_k),
    )
}
