"""T stochastic passes of a batch, with the prefix computed once per item.

Five ways to run; each is compared with ``loop``, which is right by construction, before it is used:

``head``    one forward pass; then the last dropout, the Linear behind it and the reduction to scores are one kernel. For models whose
            only active site stands before the Linear that gives the output.
``vmap``    torch.vmap over the pass index with the input closed over: what no mask has touched is computed once per batch, residual
            branches broadcast by themselves.
``fork``    the batch runs once to the first site, which replicates it: for models vmap has no rules for. Wrong where a branch from
            before the first site meets the replicated rows; then the shapes clash, or the comparison with ``loop``
            fails.
``repeat``  the input is repeated t times: always possible unless the model looks at its batch size.
``loop``    one pass at a time.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map_only, tree_unflatten

from ..errors import first_line
from ..kernels import backends
from ..kernels.linear import fuses
from .apply_masks import BatchedMasks, Masks, MaskStream, VmapMasks
from .autocast import Autocast
from .compiled import CompiledHead, CompiledPasses
from .deferred import FusedLinear
from .discovery.sites import Discovery
from .guard.state import evaluating
from .head import Head
from .masked_forward import MaskedForward, deterministic_call
from .ops.intercept import Call, Interceptor, call_model
from .tape import Tape, TapeError
from .tensors import check_output, close_to

PATHS = ("head", "vmap", "fork", "repeat", "loop")


def paths_on(device: torch.device) -> tuple[str, ...]:
    """The paths, fastest first. On a GPU fork comes before vmap.

    Under vmap, batch and layer norm are taken apart (normalize, then scale, then shift, each through memory; batch norm moves the
    passes into the channels and back besides), and each operation costs the host twice as long.
    """
    return ("head", "fork", "vmap", "repeat", "loop") if device.type == "cuda" else PATHS


Fuses = Callable[[Tensor, Tensor, float], bool]
"""(x, weight, p): is there a kernel for x dropped and multiplied by the weight?"""


@dataclass(frozen=True)
class Strategy:
    """How passes run: a path of PATHS, the sites fused with the Linear behind them, and why no faster path runs."""

    path: str
    fused: frozenset[str] = frozenset()
    why: str = ""


@dataclass(frozen=True)
class PassResult:
    """The logits of one or several forward passes, and what happened at their sites."""

    logits: Tensor  # of one forward: as the model returns it; of a chunk of passes: tBC
    fused: frozenset[str] = frozenset()  # sites whose output went into a Linear
    escaped: frozenset[str] = frozenset()  # sites whose output met something else
    reads: frozenset[str] = frozenset()  # places where Python looked at values that masks have touched
    end: FusedLinear | None = None  # the Linear that took over a dropout and gave the output

    @staticmethod
    def of(logits: Tensor, parts: Sequence[PassResult]) -> PassResult:
        """The result of several forward passes whose logits were put together."""
        none = frozenset[str]()
        return PassResult(
            logits,
            none.union(*(part.fused for part in parts)),
            none.union(*(part.escaped for part in parts)),
            none.union(*(part.reads for part in parts)),
        )


class Passes:
    """The stochastic passes of one model. A pass is a function of (seed, pass index, ids, inputs) alone.

    Args:
        model: any module; left as it was after every call.
        found: its sites.
        seed: of the masks.
        shared: items share the mask of a pass.
        reduces: is there a kernel from features, dropped and multiplied, straight to the scores?
        autocast: run in lower precision.
    """

    def __init__(
        self,
        model: nn.Module,
        found: Discovery,
        *,
        seed: int,
        shared: bool,
        reduces: Fuses = lambda _x, _weight, _p: False,
        autocast: Autocast | None = None,
    ) -> None:
        self.model, self.found, self.seed, self.shared, self.reduces = model, found, seed, shared, reduces
        self.autocast = autocast
        self.site_names = frozenset(site.name for site in found.sites)
        self._compile_for: tuple[int, int] | None = None
        self._compiled: CompiledPasses | CompiledHead | None = None

    def in_precision(self, autocast: Autocast | None) -> Passes:
        """Return the same passes in another precision."""
        options: dict[str, Any] = {"seed": self.seed, "shared": self.shared, "reduces": self.reduces}
        return Passes(self.model, self.found, **options, autocast=autocast)

    def deterministic(self, inputs: Any) -> Any:
        """Run one pass with every dropout off."""

        def handler(call: Call) -> Any:
            return (
                call.execute() if call.name in self.found.reseeded else deterministic_call(call, self.found.constants)
            )

        with evaluating(self.model, (), self.found.written), Interceptor(self.model, handler, self.found.weight_p):
            return call_model(self.model, inputs)

    def head(self, inputs: Any, ids_B: Tensor) -> Head | None:
        """One forward pass; None unless its output is the Linear behind the only active site."""
        compiled = self._compiled_for(inputs, ids_B, self._compile_head)
        if isinstance(compiled, CompiledHead):
            return compiled.head(inputs, self.stream(ids_B))
        return self._head(inputs, ids_B)

    def _head(self, inputs: Any, ids_B: Tensor) -> Head | None:
        """Run pass 0 of the masks, to see what the output is made of."""
        first = torch.zeros(1, dtype=torch.int64, device=ids_B.device)
        result = self.forward(inputs, BatchedMasks(self.stream(ids_B), first), None, self.site_names, self.reduces)
        active = sum(site.active for site in self.found.sites)
        if result.end is None or active != 1 or result.reads:
            return None
        return Head(self.stream(ids_B), result.end)

    def chunks(self, inputs: Any, ids_B: Tensor, chunks: Sequence[Tensor], strategy: Strategy) -> Iterator[Tensor]:
        """Yield logits_tBC for each chunk of pass indices (int64, on the model's device). The prefix runs once for all of them.

        path "head" has no logits; asked for them it gives those of its features.
        """
        for result in self.results(inputs, ids_B, chunks, strategy):
            yield result.logits

    def results(
        self, inputs: Any, ids_B: Tensor, chunks: Sequence[Tensor], strategy: Strategy, strict: bool = False
    ) -> Iterator[PassResult]:
        """Yield a PassResult for each chunk, as ``chunks`` yields logits. strict: raise what keeps a chunk from running so."""
        path = strategy.path
        if path == "head":
            head = self.head(inputs, ids_B)
            if head is None:
                raise RuntimeError("the output is not the Linear behind the only active site")
            for passes_t in chunks:
                yield PassResult(head.logits(passes_t), fused=frozenset({head.end.site.name}))
            return
        if path != "loop":
            compiled = self._compiled_for(inputs, ids_B, functools.partial(self._compile_passes, strategy))
            if isinstance(compiled, CompiledPasses):
                yield from map(PassResult, compiled.chunks(inputs, ids_B, chunks))
                return
        tape = Tape() if path == "loop" or (len(chunks) > 1 and path != "repeat") else None
        for passes_t in chunks:
            try:
                yield self.run(inputs, ids_B, passes_t, strategy, tape)
            except TapeError as error:
                backends.warn_once(
                    f"{type(self.model).__name__}: the part before the first dropout is computed for every chunk of passes ({error})"
                )
                tape = None
                yield self.run(inputs, ids_B, passes_t, strategy)
            except (RuntimeError, IndexError) as error:
                if strict or path not in ("fork", "repeat") or isinstance(error, torch.OutOfMemoryError):
                    raise
                backends.warn_once(
                    f"{type(self.model).__name__}: {len(ids_B)} items x {len(passes_t)} passes cannot run by {path!r} "
                    f"({first_line(error)}): they run one pass at a time"
                )
                yield self.run(inputs, ids_B, passes_t, Strategy("loop", strategy.fused))

    def run(
        self, inputs: Any, ids_B: Tensor, passes_t: Tensor, strategy: Strategy, tape: Tape | None = None
    ) -> PassResult:
        """Run one chunk of passes by ``vmap``, ``fork``, ``repeat`` or ``loop``: logits_tBC."""
        way = {"vmap": self._vmap, "fork": self._fork, "repeat": self._repeat, "loop": self._loop}[strategy.path]
        return way(inputs, ids_B, passes_t, strategy.fused, tape)

    def compile_for(self, items: int, passes: int) -> None:
        """Run steps of this size under torch.compile, from the next one on."""
        self._compile_for, self._compiled = (items, passes), None

    def _compiled_for(
        self, inputs: Any, ids_B: Tensor, make: Callable[[Any, Tensor], CompiledPasses | CompiledHead]
    ) -> CompiledPasses | CompiledHead | None:
        """What is compiled for such inputs, or None. Compiles now if need be; if that fails, warns and runs on without."""
        if self._compile_for is None or ids_B.numel() != self._compile_for[0]:
            return None
        if self._compiled is None:
            try:
                self._compiled = make(inputs, ids_B)
            except torch.OutOfMemoryError:
                raise
            except (RuntimeError, ValueError, TypeError, NotImplementedError, AssertionError) as error:
                self._compile_for = None
                backends.warn_once(f"{type(self.model).__name__} runs without torch.compile ({first_line(error)})")
                return None
        return self._compiled if self._compiled.fits(inputs, ids_B) else None

    def _compile_passes(self, strategy: Strategy, inputs: Any, ids_B: Tensor) -> CompiledPasses:
        """Compile steps like this one, and try them on other inputs and passes. RuntimeError if that gives other numbers."""
        assert self._compile_for is not None
        passes_t = torch.arange(self._compile_for[1], device=ids_B.device)
        compiled = CompiledPasses(lambda x, ids, t: self.run(x, ids, t, strategy).logits, inputs, ids_B, passes_t)
        flipped = self.each_batch(inputs, len(ids_B), lambda x: x.flip(0))
        (ours,) = compiled.chunks(flipped, ids_B, [passes_t.flip(0)])
        self._require_close(ours, self.run(flipped, ids_B, passes_t.flip(0), strategy).logits)
        return compiled

    def _compile_head(self, inputs: Any, ids_B: Tensor) -> CompiledHead:
        """Compile the forward pass up to the last dropout, and try it on other inputs. RuntimeError if that gives other numbers."""
        compiled = CompiledHead(self._head, inputs, ids_B)
        flipped = self.each_batch(inputs, len(ids_B), lambda x: x.flip(0))
        truth = self._head(flipped, ids_B)
        if truth is None:
            raise RuntimeError("its output is not for all items the Linear behind the only active site")
        self._require_close(compiled.head(flipped, self.stream(ids_B)).end.x, truth.end.x)
        return compiled

    def _require_close(self, ours: Tensor, truth: Tensor) -> None:
        if not close_to(ours, truth, torch.bfloat16 if self.autocast is not None else truth.dtype):
            raise RuntimeError("gives other numbers than without")

    def _vmap(
        self, inputs: Any, ids_B: Tensor, passes_t: Tensor, fused: Collection[str], tape: Tape | None
    ) -> PassResult:
        stream, parts = self.stream(ids_B), list[PassResult]()

        def one_pass(index: Tensor) -> Tensor:  # called once, for all passes
            parts.append(self.forward(inputs, VmapMasks(stream, index), tape, fused))
            return parts[0].logits

        logits_tBC = torch.vmap(one_pass, randomness="error")(passes_t)
        return PassResult.of(logits_tBC, parts)

    def _fork(
        self, inputs: Any, ids_B: Tensor, passes_t: Tensor, fused: Collection[str], tape: Tape | None
    ) -> PassResult:
        result = self.forward(inputs, BatchedMasks(self.stream(ids_B), passes_t), tape, fused)
        return PassResult.of(_unstacked(result.logits, ids_B.numel(), passes_t.numel()), [result])

    def _repeat(
        self, inputs: Any, ids_B: Tensor, passes_t: Tensor, fused: Collection[str], tape: Tape | None
    ) -> PassResult:
        t, B = passes_t.numel(), ids_B.numel()
        repeated = self.each_batch(inputs, B, lambda x: torch.cat([x] * t))  # which keeps the memory format
        result = self.forward(repeated, BatchedMasks(self.stream(ids_B), passes_t), tape, fused)
        return PassResult.of(_unstacked(result.logits, B, t), [result])

    def _loop(
        self, inputs: Any, ids_B: Tensor, passes_t: Tensor, fused: Collection[str], tape: Tape | None
    ) -> PassResult:
        stream = self.stream(ids_B)
        parts = []
        for index in passes_t:
            result = self.forward(inputs, BatchedMasks(stream, index[None]), tape, fused)
            parts.append(dataclasses.replace(result, end=None))
        return PassResult.of(torch.stack([part.logits for part in parts]), parts)

    def each_batch(self, inputs: Any, B: int, change: Callable[[Tensor], Tensor]) -> Any:
        """The inputs with ``change`` made to those that hold the items, as two and three items showed when the sites were found."""
        leaves, spec = tree_flatten(inputs)
        batched = self.found.batched
        if batched is None or len(batched) != len(leaves):
            batched = tuple(isinstance(x, Tensor) and x.ndim > 0 and len(x) == B for x in leaves)
        return tree_unflatten([change(x) if holds else x for x, holds in zip(leaves, batched, strict=True)], spec)

    def forward(
        self,
        inputs: Any,
        masks: Masks,
        tape: Tape | None,
        fused: Collection[str] = (),
        fuses: Fuses = fuses,
        grad: bool = False,
    ) -> PassResult:
        """Call the model once with these masks."""
        # A model may work in place on its input; the next chunk needs it whole.
        inputs = tree_map_only(Tensor, torch.clone, inputs)
        forward = MaskedForward(self.model, self.found, masks, tape, fused, fuses, self.autocast)
        if tape is not None:
            tape.start()
        with evaluating(self.model, self.found.training, self.found.written, grad=grad), forward:
            output = call_model(self.model, inputs)
        output = check_output(self.model, forward.deferred.materialize_output(output))
        forward.check_all_fired(self.model)
        deferred = forward.deferred
        return PassResult(
            output,
            frozenset(deferred.fused),
            frozenset(deferred.escaped),
            frozenset(forward.reads),
            deferred.linear_of(output),
        )

    def stream(self, ids_B: Tensor) -> MaskStream:
        """Return the stream of masks for these items."""
        return MaskStream(self.seed, ids_B, self.shared)


def _unstacked(output: Tensor, B: int, t: int) -> Tensor:
    if output.shape[0] != t * B:
        raise RuntimeError(f"the output has {output.shape[0]} rows for {t} passes of {B} items")
    return output.unflatten(0, (t, B))
