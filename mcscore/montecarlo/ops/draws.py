"""The kinds of call that draw random numbers themselves, by hand: each is recognized by its function and driven by its law.

``torch.rand(...) < p``, ``torch.bernoulli(keep)``, ``x + sigma * torch.randn_like(x)``, DropPath, LayerDrop, DropBlock, Gumbel noise.
What the model does with the numbers stays its own; the numbers become a function of (seed, site, pass, item, element), as masks are.
Every law comes from one of two, which have kernels (``kernels.draws``): uniform on [0, 1) and standard normal.

A draw says nothing of its polarity: 1 means "keep" to DropPath and "drop" to DropBlock. So nothing is assumed: discovery measures for
which constant in place of the numbers the model gives what it gives in evaluation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from .dropout import Arguments, DropoutOp, RandomSource

_Args = tuple[Any, ...]
_Kwargs = Mapping[str, Any]


class DrawOp(DropoutOp):
    """An op whose ``run`` takes random numbers from ``source.draw`` and ``source.bernoulli`` instead of masks."""

    def bind(self, args: _Args, kwargs: _Kwargs) -> dict[str, Any]:
        """The call as it stands: the signatures of these functions have too many forms for one list of names."""
        return {"args": args, "kwargs": dict(kwargs)}


def _given(call: Arguments, place: int, name: str, default: Any = None) -> Any:
    """The argument at this place or of this name."""
    args, kwargs = call["args"], call["kwargs"]
    return args[place] if len(args) > place else kwargs.get(name, default)


def _creation(create: Callable[..., Tensor], law: str) -> Callable[[Arguments, RandomSource], Tensor]:
    """rand, randn and their _like: ``create`` (empty, empty_like) makes the tensor that the numbers fill."""

    def run(call: Arguments, source: RandomSource) -> Tensor:
        kwargs = {name: value for name, value in call["kwargs"].items() if name not in ("generator", "requires_grad")}
        return source.draw(create(*call["args"], **kwargs), law)

    return run


def _filling(
    law: str, finish: Callable[[Tensor, float, float], Tensor], *parameters: tuple[str, float]
) -> Callable[[Arguments, RandomSource], Tensor]:
    """x.uniform_(a, b), x.normal_(mean, std) and their like: ``finish`` makes the law with these parameters of standard numbers."""

    def run(call: Arguments, source: RandomSource) -> Tensor:
        x = call["args"][0]
        values = [_given(call, place, name, default) for place, (name, default) in enumerate(parameters, 1)]
        z = source.draw(torch.empty_like(x, dtype=_real(x.dtype)), law)
        return source.fill(x, finish(z, *values).to(x.dtype))

    return run


def _real(dtype: torch.dtype) -> torch.dtype:
    """The dtype to draw in: 16-bit uniforms are too coarse to be turned into other laws."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def _bernoulli(call: Arguments, source: RandomSource) -> Tensor:
    """torch.bernoulli(p_tensor) and Tensor.bernoulli; with a second argument that is the probability, and the tensor only a shape."""
    x = call["args"][0] if call["args"] else call["kwargs"]["input"]
    p = _given(call, 1, "p")
    like = torch.empty_like(x, dtype=_real(x.dtype))
    return source.bernoulli(like, x if p is None else p).to(x.dtype)


def _bernoulli_(call: Arguments, source: RandomSource) -> Tensor:
    x = call["args"][0]
    like = torch.empty_like(x, dtype=_real(x.dtype))
    return source.fill(x, source.bernoulli(like, _given(call, 1, "p", 0.5)).to(x.dtype))


def _normal(call: Arguments, source: RandomSource) -> Tensor:
    """torch.normal(mean, std) of tensors or numbers, or with a size."""
    mean, std, size = _given(call, 0, "mean", 0.0), _given(call, 1, "std", 1.0), _given(call, 2, "size")
    tensors = [value for value in (mean, std) if isinstance(value, Tensor)]
    if tensors:
        shape = torch.broadcast_shapes(*(t.shape for t in tensors))
        like = tensors[0].new_empty(shape)
        for t in tensors:  # under vmap ``like`` must be mapped where one of them is
            like = like + torch.zeros_like(t)
    else:
        settings = {k: v for k, v in call["kwargs"].items() if k in ("dtype", "device", "layout")}
        like = torch.empty(size, **settings)
    return mean + std * source.draw(like, "normal")


def _integers(u: Tensor, low: int, high: int, dtype: torch.dtype) -> Tensor:
    """Low + floor(u (high - low)) for u in [0, 1) with 32 random bits."""
    return (low + (u * (high - low)).floor()).clamp_(max=high - 1).to(dtype)


def _randint(call: Arguments, source: RandomSource) -> Tensor:
    """torch.randint([low,] high, size)."""
    args, kwargs = list(call["args"]), dict(call["kwargs"])
    kwargs.pop("generator", None)
    size = kwargs.pop("size") if "size" in kwargs else args.pop()
    high = kwargs.pop("high") if "high" in kwargs else args.pop()
    low = kwargs.pop("low", 0) if "low" in kwargs or not args else args.pop()
    dtype = kwargs.pop("dtype", None) or torch.int64
    kwargs.pop("requires_grad", None)
    return _integers(source.draw(torch.empty(size, dtype=torch.float64, **kwargs), "uniform"), low, high, dtype)


def _randint_like(call: Arguments, source: RandomSource) -> Tensor:
    """torch.randint_like(x, [low,] high)."""
    x, kwargs = call["args"][0], call["kwargs"]
    bounds = list(call["args"][1:])
    bounds += [kwargs[name] for name in ("low", "high") if name in kwargs]
    low, high = bounds if len(bounds) == 2 else (0, bounds[0])
    u = source.draw(torch.empty_like(x, dtype=torch.float64), "uniform")
    return _integers(u, low, high, kwargs.get("dtype") or x.dtype)


def _affine(z: Tensor, mean: Any, std: Any) -> Tensor:
    return mean + std * z


def _exponential(u: Tensor, rate: float) -> Tensor:
    return torch.log1p(-u).neg_().div_(rate).clamp_(min=torch.finfo(u.dtype).tiny)  # as PyTorch's: never 0


_LAWS: tuple[tuple[str, tuple[Any, ...], Callable[[Arguments, RandomSource], Tensor]], ...] = (
    ("uniform", (torch.rand,), _creation(torch.empty, "uniform")),
    ("uniform", (torch.rand_like,), _creation(torch.empty_like, "uniform")),
    ("normal", (torch.randn,), _creation(torch.empty, "normal")),
    ("normal", (torch.randn_like,), _creation(torch.empty_like, "normal")),
    ("normal", (torch.normal,), _normal),
    ("bernoulli", (torch.bernoulli, Tensor.bernoulli), _bernoulli),
    ("bernoulli", (Tensor.bernoulli_,), _bernoulli_),
    (
        "uniform",
        (Tensor.uniform_,),
        _filling("uniform", lambda u, a, b: a + (b - a) * u, ("from", 0.0), ("to", 1.0)),
    ),
    ("normal", (Tensor.normal_,), _filling("normal", _affine, ("mean", 0.0), ("std", 1.0))),
    (
        "log-normal",
        (Tensor.log_normal_,),
        _filling("normal", lambda z, mean, std: (mean + std * z).exp(), ("mean", 1.0), ("std", 2.0)),
    ),
    (
        "exponential",
        (Tensor.exponential_,),
        _filling("uniform", lambda u, rate: _exponential(u, rate), ("lambd", 1.0)),  # type: ignore[arg-type, misc]
    ),
    (
        "Cauchy",
        (Tensor.cauchy_,),
        _filling("uniform", lambda u, m, s: m + s * torch.tan(math.pi * (u - 0.5)), ("median", 0.0), ("sigma", 1.0)),
    ),
    (
        "geometric",
        (Tensor.geometric_,),
        _filling("uniform", lambda u, p: (torch.log1p(-u) / math.log1p(-p)).ceil().clamp_(min=1), ("p", 0.5)),  # type: ignore[arg-type, misc]
    ),
    ("integers", (torch.randint,), _randint),
    ("integers", (torch.randint_like,), _randint_like),
)

BERNOULLI = frozenset({torch.bernoulli, Tensor.bernoulli, Tensor.bernoulli_})


def _probability(function: Any) -> Callable[[Arguments], float | None]:
    """The number with which a Bernoulli call draws 1, if it is one number for all; None for every other draw."""

    def probability(call: Arguments) -> float | None:
        if function not in BERNOULLI:
            return None
        p = _given(call, 1, "p", 0.5 if function is Tensor.bernoulli_ else None)
        return float(p) if isinstance(p, (int, float)) else None

    return probability


def _covers(args: _Args, kwargs: _Kwargs) -> bool:
    """Not into a given tensor, not with named dimensions, and no complex numbers."""
    kinds = [kwargs.get("dtype"), *(x.dtype for x in args if isinstance(x, Tensor))]
    plain = not any(isinstance(dtype, torch.dtype) and dtype.is_complex for dtype in kinds)
    return plain and kwargs.get("out") is None and kwargs.get("names") is None


def _is_random(function: Any) -> Callable[[Arguments], bool]:
    """Every draw is random, save a Bernoulli one whose probability is the number 0 or 1."""
    probability = _probability(function)
    return lambda call: probability(call) not in (0.0, 1.0)


DRAW_OPS: tuple[DrawOp, ...] = tuple(
    DrawOp(
        name=f"{law} ({functions[0].__name__})",
        functions=functions,
        parameters=(),
        probability=_probability(functions[0]),
        is_random=_is_random(functions[0]),
        run=run,
        masks="one drawn number",
        covers=_covers,
        draws=True,
    )
    for law, functions, run in _LAWS
)
"""Recognized by function, as ``kinds.DROPOUT_OPS`` are."""
