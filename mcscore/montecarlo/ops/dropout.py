"""The kinds of call that make a forward pass stochastic: how each is recognized, what it masks and how it is driven.

One table, ``DROPOUT_OPS``, read by discovery, by the passes and by the tests. An op's ``run`` computes what the call would
return in training, but takes its masks from ``source(tensor, mask_rank, affine)``: the first ``mask_rank`` dimensions
of the tensor have mask elements of their own, the others share them. Discovery passes a source that only looks;
scoring passes one that drops. Calls that draw their random numbers by hand are in ``draws``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...kernels.dropout import Affine, alpha, indicator, inverted

AffineOf = Callable[[float], Affine]


class RandomSource(Protocol):
    """Where a call takes its randomness from."""

    def __call__(self, x: Tensor, mask_rank: int, affine: AffineOf, inplace: bool = False, part: int = 0) -> Tensor:
        """``x`` masked. ``part`` tells the sites of one call apart: a recurrent net drops between each two of its layers."""

    def draw(self, like: Tensor, law: str) -> Tensor:
        """Random numbers of the law "uniform" (on [0, 1)) or "normal" (standard), of the shape and dtype of ``like``."""

    def bernoulli(self, like: Tensor, p: float | Tensor) -> Tensor:
        """1 with probability p, else 0, of the shape and dtype of ``like``."""

    def fill(self, x: Tensor, value: Tensor) -> Tensor:
        """``x`` after ``value`` was written into it."""


class ConstantSource:
    """The source of a pass in which nothing is random: masks keep everything, and each draw is a constant.

    uniform: the constant of uniform draws; None: the largest number below 1. hit: that of Bernoulli draws; None: their mean.
    """

    def __init__(self, uniform: float | None = None, hit: float | None = 1.0) -> None:
        self.uniform, self.hit = uniform, hit

    def __call__(self, x: Tensor, mask_rank: int, affine: AffineOf, inplace: bool = False, part: int = 0) -> Tensor:
        """``x``, with nothing dropped."""
        # A model may assign the result where a Parameter is not allowed, as fastai's WeightDropout does.
        return x.view_as(x) if isinstance(x, nn.Parameter) else x

    def draw(self, like: Tensor, law: str) -> Tensor:
        """The constant, in the shape of ``like``."""
        below_1 = 1.0 - torch.finfo(like.dtype).eps / 2
        return torch.full_like(like, 0.0 if law == "normal" else below_1 if self.uniform is None else self.uniform)

    def bernoulli(self, like: Tensor, p: float | Tensor) -> Tensor:
        """The constant, or the mean p, in the shape of ``like``."""
        if self.hit is None:
            return torch.zeros_like(like) + p
        return torch.full_like(like, self.hit)

    def fill(self, x: Tensor, value: Tensor) -> Tensor:
        """``x`` after ``value`` was written into it."""
        return x.copy_(value)


Arguments = Mapping[str, Any]


@dataclass(frozen=True)
class DropoutOp:
    """One kind of stochastic call: the functions it is recognized by, its arguments, how it runs with masks."""

    name: str
    functions: tuple[Callable[..., Any], ...]
    parameters: tuple[tuple[str, Any], ...]  # names and defaults, in the order of the function's own signature
    probability: Callable[[Arguments], float | None]  # of dropping; of drawing 1; None: not one number
    is_random: Callable[[Arguments], bool]  # would the call, as it stands, drop anything?
    run: Callable[[Arguments, RandomSource], Any]
    masks: str  # what one mask element covers, for people
    can_defer: bool = False  # run ends in the mask of single values, so a Linear that follows could take it over
    # False: a form of the call that is not driven
    covers: Callable[[tuple[Any, ...], Mapping[str, Any]], bool] = lambda _args, _kwargs: True
    draws: bool = False  # random numbers drawn by hand (``draws``), not masks

    def bind(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """The call's arguments by name, defaults included."""
        bound = dict(self.parameters)
        bound.update(zip((name for name, _ in self.parameters), args, strict=False))
        bound.update(kwargs)
        return bound

    def run_constant(self, call: Arguments, constants: ConstantSource) -> Any:
        """What the call gives when nothing is random."""
        return self.run(call, constants)


_REQUIRED: Any = object()


def _training(call: Arguments) -> bool:
    return bool(call.get("training", call.get("train"))) and call["p"] > 0.0


def _elementwise(call: Arguments, source: RandomSource) -> Tensor:
    x = call["input"]
    return source(x, x.ndim, inverted, call.get("inplace", False))


def _channelwise(unbatched_rank: int) -> Callable[[Arguments, RandomSource], Tensor]:
    """Feature dropout masks (N, C); of the rank that PyTorch reads as one unbatched item, (C, ...), the first dimension alone."""

    def run(call: Arguments, source: RandomSource) -> Tensor:
        x = call["input"]
        return source(x, 1 if x.ndim == unbatched_rank else 2, inverted, call.get("inplace", False))

    return run


def _alpha(mask_rank: int | None) -> Callable[[Arguments, RandomSource], Tensor]:
    def run(call: Arguments, source: RandomSource) -> Tensor:
        x = call["input"]
        return source(x, mask_rank or x.ndim, alpha, call.get("inplace", False))

    return run


def _native(call: Arguments, source: RandomSource) -> tuple[Tensor, Tensor]:
    """torch.native_dropout also returns which values it kept."""
    x = call["input"]
    keep = source(torch.ones_like(x), x.ndim, indicator)
    return x * keep * inverted(call["p"])[0], keep.bool()


def _attention(call: Arguments, source: RandomSource) -> Tensor:
    """scaled_dot_product_attention by its definition, so that the weights (..., L, S) exist to be masked."""
    q, k, v = call["query"], call["key"], call["value"]
    if call["enable_gqa"]:
        k = k.repeat_interleave(q.size(-3) // k.size(-3), -3)
        v = v.repeat_interleave(q.size(-3) // v.size(-3), -3)
    scale = 1.0 / math.sqrt(q.size(-1)) if call["scale"] is None else call["scale"]
    logits = (q * scale) @ k.transpose(-2, -1)
    bias = call["attn_mask"]
    if call["is_causal"]:
        causal = torch.ones(q.size(-2), k.size(-2), dtype=torch.bool, device=q.device).tril()
        logits = logits.masked_fill(~causal, float("-inf"))
    if bias is not None:
        logits = logits.masked_fill(~bias, float("-inf")) if bias.dtype == torch.bool else logits + bias
    weights = torch.softmax(logits, dim=-1, dtype=torch.promote_types(logits.dtype, torch.float32)).to(v.dtype)
    return source(weights, weights.ndim, inverted) @ v


def _recurrent(function: Callable[..., Any]) -> Callable[[Arguments, RandomSource], Any]:
    """A stack of recurrent layers one at a time, with the dropout between them where masks can reach it."""

    def run(call: Arguments, source: RandomSource) -> Any:
        layers, directions = call["num_layers"], 1 + call["bidirectional"]
        states = [call["hx"]] if isinstance(call["hx"], Tensor) else list(call["hx"])
        per_layer = len(call["params"]) // layers
        x, finals = call["input"], []
        for layer in range(layers):
            own = [state[layer * directions : (layer + 1) * directions] for state in states]
            rows = x.shape[0 if call["batch_first"] else 1]
            own = [state.repeat(1, rows // state.shape[1], 1) if rows != state.shape[1] else state for state in own]
            x, *final = function(
                x,
                own[0] if isinstance(call["hx"], Tensor) else own,
                call["params"][layer * per_layer : (layer + 1) * per_layer],
                call["has_biases"],
                1,
                0.0,
                False,
                call["bidirectional"],
                call["batch_first"],
            )
            finals.append(final)
            if layer < layers - 1:
                x = source(x, x.ndim, inverted, part=layer)
        # Layers below the first mask may hold fewer rows than those above (one copy of the batch, not one per pass).
        rows = finals[-1][0].shape[1]
        columns = [
            torch.cat([s.repeat(1, rows // s.shape[1], 1) if s.shape[1] != rows else s for s in part])
            for part in zip(*finals, strict=True)
        ]
        return (x, *columns)

    return run


def _not_packed(args: tuple[Any, ...], _kwargs: Mapping[str, Any]) -> bool:
    """A packed sequence comes as (data, batch_sizes, ...): its rows are time steps of different items."""
    return len(args) > 2 and isinstance(args[2], (list, tuple)) and not isinstance(args[3], (list, tuple))


def _dropout_like(name: str, functions: tuple[Any, ...], training: bool, run: Any, masks: str) -> DropoutOp:
    parameters = (("input", _REQUIRED), ("p", 0.5), ("training", training), ("inplace", False))
    return DropoutOp(name, functions, parameters, lambda call: call["p"], _training, run, masks, run is _elementwise)


def _aten_like(name: str, functions: tuple[Any, ...], run: Any, masks: str) -> DropoutOp:
    parameters = (("input", _REQUIRED), ("p", _REQUIRED), ("train", _REQUIRED))
    return DropoutOp(name, functions, parameters, lambda call: call["p"], _training, run, masks, run is _elementwise)


def _aten_inplace(run: Callable[[Arguments, RandomSource], Any]) -> Callable[[Arguments, RandomSource], Any]:
    return lambda call, source: run({**call, "inplace": True}, source)


_RECURRENT_PARAMETERS = (
    "input",
    "hx",
    "params",
    "has_biases",
    "num_layers",
    "p",
    "train",
    "bidirectional",
    "batch_first",
)

DROPOUT_OPS: tuple[DropoutOp, ...] = (
    _dropout_like("dropout", (F.dropout,), True, _elementwise, "one value"),
    _dropout_like("dropout1d", (F.dropout1d,), True, _channelwise(2), "one channel"),
    _dropout_like("dropout2d", (F.dropout2d,), True, _channelwise(-1), "one channel"),
    _dropout_like("dropout3d", (F.dropout3d,), True, _channelwise(4), "one channel"),
    _dropout_like("alpha_dropout", (F.alpha_dropout,), False, _alpha(None), "one value"),
    _dropout_like("feature_alpha_dropout", (F.feature_alpha_dropout,), False, _alpha(2), "one channel"),
    _aten_like("dropout", (torch.dropout,), _elementwise, "one value"),
    _aten_like("dropout", (torch.dropout_,), _aten_inplace(_elementwise), "one value"),
    _aten_like("feature_dropout", (torch.feature_dropout,), _channelwise(-1), "one channel"),
    _aten_like("feature_dropout", (torch.feature_dropout_,), _aten_inplace(_channelwise(-1)), "one channel"),
    _aten_like("alpha_dropout", (torch.alpha_dropout,), _alpha(None), "one value"),
    _aten_like("feature_alpha_dropout", (torch.feature_alpha_dropout,), _alpha(2), "one channel"),
    DropoutOp(
        "attention dropout",
        (F.scaled_dot_product_attention,),
        (
            ("query", _REQUIRED),
            ("key", _REQUIRED),
            ("value", _REQUIRED),
            ("attn_mask", None),
            ("dropout_p", 0.0),
            ("is_causal", False),
            ("scale", None),
            ("enable_gqa", False),
        ),
        lambda call: call["dropout_p"],
        lambda call: call["dropout_p"] > 0.0,
        _attention,
        "one attention weight",
    ),
    DropoutOp(
        "dropout",
        (torch.native_dropout,),
        (("input", _REQUIRED), ("p", _REQUIRED), ("train", _REQUIRED)),
        lambda call: call["p"],
        lambda call: call["train"] is not False and call["p"] > 0.0,
        _native,
        "one value",
    ),
    *(
        DropoutOp(
            f"{function.__name__} dropout",
            (function,),
            tuple((name, _REQUIRED) for name in _RECURRENT_PARAMETERS),
            lambda call: call["p"],
            lambda call: call["train"] and call["p"] > 0.0 and call["num_layers"] > 1,
            _recurrent(function),
            "one output value of one layer",
            covers=_not_packed,
        )
        for function in (torch.lstm, torch.gru, torch.rnn_tanh, torch.rnn_relu)
    ),
)
"""Recognized by the function that PyTorch dispatches, so modules, functional calls and user code all meet in one place."""


def _weights(function: Callable[..., Any]) -> Callable[[Arguments, RandomSource], Any]:
    def run(call: Arguments, source: RandomSource) -> Any:
        weight = source(call["weight"], call["weight"].ndim, inverted)
        rest = {name: value for name, value in call.items() if name not in ("input", "weight", "p")}
        return function(call["input"], weight, **rest)

    return run


def _weight_op(function: Callable[..., Any], names: tuple[str, ...]) -> DropoutOp:
    parameters = (
        ("input", _REQUIRED),
        ("weight", _REQUIRED),
        *((name, default) for name, default in _CONVOLUTION if name in names),
    )
    return DropoutOp(
        "weight dropout",
        (function,),
        parameters,
        lambda call: call["p"],
        lambda call: True,
        _weights(function),
        "one weight",
    )


_CONVOLUTION = (("bias", None), ("stride", 1), ("padding", 0), ("dilation", 1), ("groups", 1))
WEIGHT_OPS: dict[Any, DropoutOp] = {
    F.linear: _weight_op(F.linear, ("bias",)),
    **{f: _weight_op(f, tuple(name for name, _ in _CONVOLUTION)) for f in (torch.conv1d, torch.conv2d, torch.conv3d)},
}
"""DropConnect (Wan et al. 2013), for models without any dropout: p comes from the user, one mask of weights per pass."""

UNSUPPORTED_RANDOM: frozenset[Any] = frozenset(
    {
        torch.randperm,
        torch.multinomial,
        torch.poisson,
        torch.binomial,
        torch._standard_gamma,
        torch._sample_dirichlet,
        torch.rrelu,
        torch.rrelu_,
        torch.lstm,
        torch.gru,
        torch.rnn_tanh,
        torch.rnn_relu,
        F.rrelu,
        F.fractional_max_pool2d,
        F.fractional_max_pool3d,
        Tensor.random_,
        Tensor.multinomial,
    }
)
"""Other sources of randomness: named in an error instead of being left out in silence. The list is for good messages alone: what it
lacks is found because the generators have moved (``generators``)."""
RECURRENT = frozenset({torch.lstm, torch.gru, torch.rnn_tanh, torch.rnn_relu})


def unsupported_is_random(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """Whether the call is random as it stands: a recurrent net without dropout or out of training, an rrelu out of training, are not."""
    if func in RECURRENT:
        # (input, hx, params, has_biases, num_layers, dropout, train, bidirectional, batch_first), packed: (data,
        # batch_sizes, hx, ...)
        numbers = [a for a in args if isinstance(a, (bool, int, float)) and not isinstance(a, Tensor)]
        dropout, train = next(((p, t) for p, t in pairwise(numbers) if isinstance(p, float)), (0.0, False))
        return bool(train) and dropout > 0.0
    if func in {torch.rrelu, torch.rrelu_, F.rrelu}:
        return bool(kwargs.get("training", args[3] if len(args) > 3 else False))
    return True


def check_states(func: Any, args: tuple[Any, ...]) -> None:
    """RuntimeError if a recurrent call has states for another number of items than its input.

    PyTorch does not check, and reads beyond them. Of a packed sequence PyTorch makes the states itself.
    """
    if func not in RECURRENT or len(args) < 9 or isinstance(args[3], (list, tuple)):
        return
    x, states, batch_first = args[0], args[1], args[8]
    for state in [states] if isinstance(states, Tensor) else states:
        rows = x.shape[0 if batch_first else 1] if x.ndim == 3 else 1
        if state.ndim == 3 and state.shape[1] != rows:
            raise RuntimeError(f"{func.__name__} gets {rows} items and states for {state.shape[1]}")
