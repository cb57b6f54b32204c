"""The passes under torch.compile: ``CompiledPasses``, or ``CompiledHead`` where one forward pass is followed by a kernel.

Masks are found by looking at Python frames, which torch.compile cannot trace. So one step is recorded first, as a graph of
plain operations (make_fx; it fails on branches that depend on data), and cut in two where the pass index first matters: the
prefix, which runs once per batch, and the tail. Both are compiled. The graph fits one shape of step; other shapes run uncompiled.

The graph reads the parameters where they lay when it was recorded, and the model's Python values as they were: ``recorded`` tells
whether that still holds.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.passes.split_module import split_module
from torch.utils._pytree import tree_flatten, tree_unflatten

from ..kernels.packed_mask import fusable, fusable_images
from ..kernels.weight_cache import keeping_nothing
from .apply_masks import MaskStream
from .deferred import FusedLinear
from .head import Head
from .ops.norms import PLAIN
from .tensors import form_of

_FUSABLE: dict[Any, Callable[..., Any]] = {
    torch.ops.mcscore.masked_passes.default: fusable,
    torch.ops.mcscore.image_passes.default: fusable_images,
}

Run = Callable[[Any, Tensor, Tensor], Tensor]
"""(inputs, ids_B, passes_t) -> logits_tBC"""


class _Once(nn.Module):
    """The prefix, computed when first asked for and kept until the next batch."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.result: Any = None

    def forward(self, *args: Tensor) -> Any:
        if self.result is None:
            self.result = self.module(*args)
        return self.result


class CompiledPasses:
    """``run``, compiled for the shapes of the inputs, ids and passes with which it was made."""

    def __init__(self, run: Run, inputs: Any, ids_B: Tensor, passes_t: Tensor) -> None:
        """Trace and compile. Raises what make_fx or torch.compile raise."""
        leaves, spec = tree_flatten(inputs)
        graph = _recorded(
            lambda ids, passes, *leaves: run(tree_unflatten(list(leaves), spec), ids, passes), ids_B, passes_t, *leaves
        )
        self._parts = _split(graph)
        modules = dict(self._parts.named_children())
        for part in modules.values():
            part.compile(dynamic=False)
        self._prefix = _Once(modules["submod_0"]) if "submod_0" in modules else None
        if self._prefix is not None:
            self._parts.submod_0 = self._prefix
        self._shape, self._passes = form_of(inputs, ids_B), passes_t.numel()
        for _ in self.chunks(inputs, ids_B, [passes_t]):  # compile now
            pass

    def fits(self, inputs: Any, ids_B: Tensor) -> bool:
        """Whether inputs and ids have the shapes that this was compiled for."""
        return form_of(inputs, ids_B) == self._shape

    def chunks(self, inputs: Any, ids_B: Tensor, chunks: Sequence[Tensor]) -> Iterator[Tensor]:
        """logits_tBC for each chunk of passes. Chunks of fewer passes than compiled for are filled up with their last one."""
        if self._prefix is not None:
            self._prefix.result = None
        leaves = tree_flatten(inputs)[0]
        for passes_t in chunks:
            missing = self._passes - passes_t.numel()
            filled = torch.cat([passes_t, passes_t[-1:].expand(missing)])
            with torch.no_grad():
                yield self._parts(ids_B, filled, *leaves)[: passes_t.numel()]


class CompiledHead:
    """The forward pass up to the last dropout, compiled for the shapes of the inputs with which it was made."""

    def __init__(self, head: Callable[[Any, Tensor], Head | None], inputs: Any, ids_B: Tensor) -> None:
        """Trace and compile. Raises RuntimeError if there is no head, and what make_fx or torch.compile raise."""
        leaves, spec = tree_flatten(inputs)
        ends: list[FusedLinear] = []

        def flat(*leaves: Any) -> tuple[Tensor | None, ...]:
            found = head(tree_unflatten(list(leaves), spec), ids_B)
            if found is None:
                raise RuntimeError("the output is not the Linear behind the only active site")
            ends.append(found.end)
            return (
                found.end.x,
                found.end.weight,
                found.end.bias,
            )  # weights too: they may be computed, from other weights

        self._graph = _recorded(flat, *leaves)
        self._site, self._shape = ends[-1].site, form_of(inputs, ids_B)
        # Dead: the product of pass 0, from which the head was recognized.
        self._graph.graph.eliminate_dead_code()
        self._graph.recompile()
        self._graph.compile(dynamic=False)

    def fits(self, inputs: Any, ids_B: Tensor) -> bool:
        """Whether inputs and ids have the shapes that this was compiled for."""
        return form_of(inputs, ids_B) == self._shape

    def head(self, inputs: Any, stream: MaskStream) -> Head:
        """Run the forward pass."""
        with torch.no_grad():
            x, weight, bias = self._graph(*tree_flatten(inputs)[0])
        return Head(stream, FusedLinear(self._site, x, weight, bias))


def _recorded(step: Callable[..., Any], *arguments: Any) -> fx.GraphModule:
    """Record a step. Its graph contains what is computed from weights, or it would miss later changes of the weights."""
    on_gpu = any(isinstance(each, Tensor) and each.device.type == "cuda" for each in arguments)
    # On a CPU the dropout kernel, one pass over memory, is faster than masks that are packed and unpacked.
    plain = PLAIN | (_FUSABLE if on_gpu else {})
    with torch.no_grad(), keeping_nothing():
        return make_fx(torch.func.functionalize(step), decomposition_table=plain)(*arguments)


def recorded(model: nn.Module) -> Hashable:
    """Return what a recorded step takes for granted: the model's tensors, their addresses, and its plain Python values."""
    return tuple((id(module), *_taken_for_granted(module)) for module in model.modules())


def _taken_for_granted(module: nn.Module) -> Iterator[Hashable]:
    for name, value in (*vars(module).items(), *module._parameters.items(), *module._buffers.items()):
        if name != "training":
            yield name, _value(value)


def _value(value: Any) -> Hashable:
    """Plain values as they are, containers by their members, tensors with their address, all else by identity."""
    if isinstance(value, Tensor):
        return id(value), value.data_ptr() if value.layout == torch.strided else 0
    if value is None or isinstance(value, (int, float, str, bytes)):
        return value
    if isinstance(value, (list, tuple)):
        return tuple(map(_value, value))
    if isinstance(value, dict):
        return tuple((id(key) if not isinstance(key, (int, str)) else key, _value(each)) for key, each in value.items())
    return id(value)


def _split(graph: fx.GraphModule) -> fx.GraphModule:
    """Split into submod_0, which does not need the passes, and submod_1, which does."""
    _, passes, *_ = (node for node in graph.graph.nodes if node.op == "placeholder")
    behind = {passes}
    for node in graph.graph.nodes:
        if not behind.isdisjoint(node.all_input_nodes):
            behind.add(node)
    return split_module(graph, graph, lambda node: int(node in behind), keep_original_order=False)
