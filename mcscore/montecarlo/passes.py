"""T stochastic passes of a batch, with the prefix computed once per item.

Five ways to run, fastest first; each is compared with ``loop``, which is right by construction, before it is used:

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

import functools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from ..kernels import backends
from ..kernels.linear import fuses
from .apply import Cut, Masks, OnePass, Rows, Stream
from .compiled import CompiledPasses
from .discover import Discovery, Site, SiteError, call_name, evaluating, part_name
from .fuse import Waiting, may_wait
from .head import Head
from .intercept import Call, Interceptor, call_model, is_dense
from .kinds import AffineOf
from .precision import Lower
from .tape import Tape, TapeError

PATHS = ("head", "vmap", "fork", "repeat", "loop")

_READS = {
    Tensor.__bool__,
    Tensor.__int__,
    Tensor.__float__,
    Tensor.__index__,
    Tensor.__contains__,
    Tensor.item,
    Tensor.tolist,
    Tensor.numpy,
    Tensor.__array__,
    torch.is_nonzero,
    Tensor.is_nonzero,
    torch.equal,
    Tensor.equal,
    torch.allclose,
    Tensor.allclose,
}
"""Tensors become Python values here, and a model may branch on them."""


class OutputError(ValueError):
    """The model's output is not what the link needs. The message shows its shape."""


class _Driven(Interceptor):
    """One forward pass (or t at once) with the masks in place."""

    def __init__(
        self,
        model: nn.Module,
        found: Discovery,
        masks: Masks,
        tape: Tape | None,
        fused: Collection[str] = (),
        fuses: Callable[[Tensor, Tensor, float], bool] = fuses,
        lower: Lower | None = None,
    ) -> None:
        super().__init__(model, None, found.weight_p)
        sites = {site.name: site for site in found.sites}
        self._sites, self._masks, self._tape, self._fused = sites, masks, tape, fused
        self._active = {call_name(name) for name, site in sites.items() if site.active}
        self._lower = lower
        self.waiting = Waiting(masks.linear, fuses, lower)
        self.fired: set[str] = set()
        self.reads: set[str] = set()  # places where Python looked at values that masks have touched

    def other(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        if self.fired and func in _READS:
            self.reads.add(f"Tensor.{func.__name__} in {self._owner()[1] or 'the model'}")
        return self.waiting.call(func, args, kwargs, self._execute)

    def _execute(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        def execute() -> Any:
            if self._lower is None:
                return func(*args, **kwargs)
            lowered, named = self._lower.operands(func, (args, dict(kwargs)))
            return func(*lowered, **named)

        return execute() if self._tape is None else self._tape.call(func, args, kwargs, execute)

    def stochastic(self, call: Call) -> Any:
        first = self._sites.get(call.name)
        if first is None:
            if call.live:
                raise SiteError(
                    f"{call.name} ({call.function.__name__}) is random in scoring but did not show in the probe; "
                    "a model whose number of dropout calls depends on its input cannot be scored reproducibly"
                )
            return self.other(call.function, call.args, call.kwargs)
        kind = call.kind
        assert kind is not None
        if kind.probability(call.arguments) != first.model_p:
            raise SiteError(f"{first} was called with p={kind.probability(call.arguments):g} in scoring")
        arguments = self.waiting.redeem_arguments(call.arguments)
        if self._lower is not None:
            arguments = self._lower.operands(call.function, dict(arguments))
        if call.name not in self._active:
            return self.other(kind.without_dropping, (arguments,), {})

        def mask(x: Tensor, mask_rank: int, affine: AffineOf, inplace: bool = False, part: int = 0) -> Tensor:
            site = self._sites[part_name(call.name, part)]
            if not site.active:
                return x
            self._fire(site)
            drop = functools.partial(self._masks.drop, site, x, mask_rank, affine(site.p))
            fusable = site.name in self._fused and kind.may_wait and may_wait(site, x)
            if inplace and self._masks.holds(site, x):
                return drop(inplace=True)
            if inplace or fusable:
                return self.waiting.wait(site, x, functools.partial(drop, inplace=False), inplace, fusable)
            return drop(inplace=False)

        return kind.run(arguments, mask)

    def _fire(self, site: Site) -> None:
        self.fired.add(site.name)
        if self._tape is not None:
            self._tape.site()

    def check(self, model: nn.Module) -> None:
        silent = [str(site) for name, site in self._sites.items() if site.active and name not in self.fired]
        if silent:
            raise SiteError(
                f"{', '.join(silent)} of {type(model).__name__} never fired in scoring. Its passes would be too much alike; "
                "is the module skipped for some inputs, or replaced by a fused or compiled version?"
            )


class Passes:
    """The stochastic passes of one model. A pass is a function of (seed, pass index, ids, inputs), whatever ran before it.

    reduces(x, weight, p): is there a kernel from these, dropped and multiplied, straight to the scores?
    """

    def __init__(
        self,
        model: nn.Module,
        found: Discovery,
        *,
        seed: int,
        shared: bool,
        reduces: Callable[[Tensor, Tensor, float], bool] = lambda _x, _weight, _p: False,
    ) -> None:
        self.model, self.found, self.seed, self.shared, self.reduces = model, found, seed, shared, reduces
        self._sites = {site.name: site for site in found.sites}
        self.fused: frozenset[str] = frozenset()  # sites whose output goes straight into a Linear, and nowhere else
        self.lower: Lower | None = None  # set: run in lower precision
        self._compile_for: tuple[int, int] | None = None
        self._compiled: CompiledPasses | None = None
        self.inert: frozenset[str] = frozenset()  # active sites that changed nothing for the first items
        self._led_to_linear: set[str] = set()
        self._met: set[str] = set()
        self._reads: set[str] = set()

    def deterministic(self, inputs: Any) -> Any:
        """One pass with every dropout off."""

        def handler(call: Call) -> Any:
            if call.name not in self._sites or call.kind is None:
                return call.execute()
            return call.kind.without_dropping(call.arguments)

        with evaluating(self.model, self.found.training), Interceptor(self.model, handler, self.found.weight_p):
            return call_model(self.model, inputs)

    def head(self, inputs: Any, ids_B: Tensor) -> Head | None:
        """One forward pass, with pass 0 of the masks; None unless its output is the Linear behind the only active site."""
        first = torch.zeros(1, dtype=torch.int64, device=ids_B.device)
        output, driven = self._drive(inputs, Rows(self._stream(ids_B), first), None, self.reduces)
        end = driven.waiting.last
        if end is None or output is not end.y or sum(site.active for site in self.found.sites) != 1 or driven.reads:
            return None
        return Head(self._stream(ids_B), end)

    def chunks(self, inputs: Any, ids_B: Tensor, chunks: Sequence[Tensor], path: str) -> Iterator[Tensor]:
        """Yield logits_tBC for each chunk of pass indices (int64, on the model's device). The prefix runs once for all of them.

        path "head" has no logits; asked for them it gives those of its features.
        """
        if path == "head":
            head = self.head(inputs, ids_B)
            if head is None:
                raise RuntimeError("the output is not the Linear behind the only active site")
            yield from map(head.logits, chunks)
            return
        if self._compile_for is not None and path != "loop" and ids_B.numel() == self._compile_for[0]:
            if self._compiled is None:
                self._compile(inputs, ids_B, path)
            if self._compiled is not None and self._compiled.fits(inputs, ids_B):
                yield from self._compiled.chunks(inputs, ids_B, chunks)
                return
        tape = Tape() if path == "loop" or (len(chunks) > 1 and path != "repeat") else None
        run = {"vmap": self._vmap, "fork": self._fork, "repeat": self._repeat, "loop": self._loop}[path]
        for passes_t in chunks:
            try:
                yield run(inputs, ids_B, passes_t, tape)
            except TapeError as error:
                backends.warn_once(
                    f"{type(self.model).__name__}: the part before the first dropout is computed for every chunk of passes ({error})"
                )
                tape = None
                yield run(inputs, ids_B, passes_t, None)

    def compile_for(self, items: int, passes: int) -> None:
        """Run the tail of steps of this size under torch.compile, from the next one on."""
        self._compile_for, self._compiled = (items, passes), None

    def _compile(self, inputs: Any, ids_B: Tensor, path: str) -> None:
        """Compile the tail for steps like this one, and try it on others; if that fails, say so and run on without."""
        assert self._compile_for is not None
        passes_t = torch.arange(self._compile_for[1], device=ids_B.device)
        run = {"vmap": self._vmap, "fork": self._fork, "repeat": self._repeat}[path]
        flipped = tree_map_only(Tensor, lambda x: x.flip(0) if x.ndim and len(x) == len(ids_B) else x, inputs)
        try:
            compiled = CompiledPasses(lambda x, ids, t: run(x, ids, t, None), inputs, ids_B, passes_t)
            (ours,) = compiled.chunks(flipped, ids_B, [passes_t.flip(0)])
            truth = run(flipped, ids_B, passes_t.flip(0), None)
            if not _close(ours, truth, torch.bfloat16 if self.lower is not None else truth.dtype):
                raise RuntimeError("gives other numbers than without")
            self._compiled = compiled
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, ValueError, TypeError, NotImplementedError, AssertionError) as error:
            self._compile_for = None
            backends.warn_once(f"{type(self.model).__name__} runs without torch.compile ({first_line(error)})")

    # -- the four paths: logits_tBC of the given passes ------------------------------------------------

    def _vmap(self, inputs: Any, ids_B: Tensor, passes_t: Tensor, tape: Tape | None) -> Tensor:
        stream = self._stream(ids_B)
        return torch.vmap(lambda index: self._forward(inputs, OnePass(stream, index), tape), randomness="error")(
            passes_t
        )

    def _fork(self, inputs: Any, ids_B: Tensor, passes_t: Tensor, tape: Tape | None) -> Tensor:
        output = self._forward(inputs, Rows(self._stream(ids_B), passes_t), tape)
        return self._unstack(output, ids_B.numel(), passes_t.numel())

    def _repeat(self, inputs: Any, ids_B: Tensor, passes_t: Tensor, tape: Tape | None) -> Tensor:
        t, B = passes_t.numel(), ids_B.numel()
        repeated = tree_map_only(
            Tensor, lambda x: x.repeat(t, *[1] * (x.ndim - 1)) if x.ndim and x.shape[0] == B else x, inputs
        )
        output = self._forward(repeated, Rows(self._stream(ids_B), passes_t), tape)
        return self._unstack(output, B, t)

    def _loop(self, inputs: Any, ids_B: Tensor, passes_t: Tensor, tape: Tape | None) -> Tensor:
        stream = self._stream(ids_B)
        return torch.stack([self._forward(inputs, Rows(stream, index[None]), tape) for index in passes_t])

    def _forward(self, inputs: Any, masks: Masks, tape: Tape | None) -> Tensor:
        return self._drive(inputs, masks, tape)[0]

    def _drive(
        self, inputs: Any, masks: Masks, tape: Tape | None, fuses: Callable[[Tensor, Tensor, float], bool] = fuses
    ) -> tuple[Tensor, _Driven]:
        # A model may work in place on its input; the next chunk needs it whole.
        inputs = tree_map_only(Tensor, torch.clone, inputs)
        driven = _Driven(self.model, self.found, masks, tape, self.fused, fuses, self.lower)
        if tape is not None:
            tape.start()
        with evaluating(self.model, self.found.training), driven:
            output = call_model(self.model, inputs)
        output = driven.waiting.output(output)
        driven.check(self.model)
        self._met |= driven.waiting.met
        self._led_to_linear |= driven.waiting.fused
        self._reads |= driven.reads
        return check_output(self.model, output), driven

    def _stream(self, ids_B: Tensor) -> Stream:
        return Stream(self.seed, ids_B, self.shared)

    def _unstack(self, output: Tensor, B: int, t: int) -> Tensor:
        if output.shape[0] != t * B:
            raise RuntimeError(f"the output has {output.shape[0]} rows for {t} passes of {B} items")
        return output.unflatten(0, (t, B))

    # -- choosing a path -------------------------------------------------------------------------------

    def choose_path(self, inputs: Any, ids_B: Tensor, passes: int) -> tuple[str, str]:
        """The fastest path that gives what ``loop`` gives, on a small batch; and why the faster ones were passed over."""
        passes_t = torch.arange(min(passes, 3), device=ids_B.device)
        self.fused, self._reads = frozenset(), set()
        truth = self._loop(inputs, ids_B, passes_t, None)
        why: list[str] = []
        reads = ", ".join(sorted(self._reads))
        for path in PATHS:
            if reads and path in ("fork", "repeat"):
                # A branch on values of all passes together is taken for all of them; one pass at a time decides for itself.
                why.append(f"{path}: {reads} looks at values that masks have touched")
                continue
            for fused in (frozenset(self._sites), frozenset[str]()):
                self._led_to_linear, self._met = set(), set()
                self.fused = fused
                try:
                    logits = torch.cat(list(self.chunks(inputs, ids_B, list(passes_t.split(2)), path)))
                except (SiteError, OutputError, torch.OutOfMemoryError):
                    raise
                except (RuntimeError, ValueError, NotImplementedError, TypeError, IndexError) as error:
                    reason = first_line(error)
                    continue
                if _close(logits, truth, truth.dtype):
                    self.fused &= frozenset(self._led_to_linear - self._met)
                    return path, "; ".join(why)
                reason = "gives other numbers than one pass at a time"
            if path != "head":  # no news: few models end that way
                why.append(f"{path}: {reason}")
        raise SiteError(
            f"{type(self.model).__name__}: two runs of the same passes differ ({'; '.join(why)}); is something else random?"
        )

    def require_reach(self, inputs: Any) -> None:
        """Each site in turn drops everything: an output that stays the same to the last bit shows a site that does not matter.

        That of all sites is an error, that of some is said: a branch may be unused, or still zero as it was initialised.

        Deterministic, so that no chance of the masks can raise a false alarm. One forward pass of a small batch per site.
        """
        self.fused = frozenset()
        whole = self._forward(inputs, Cut(None), None)
        active = [site for site in self.found.sites if site.active]
        inert: list[Site] = []
        for site in active:
            output = self._forward(inputs, Cut(site.name), None)
            if output.shape == whole.shape and bool(((output == whole) | (output.isnan() & whole.isnan())).all()):
                inert.append(site)
        self.inert = frozenset(site.name for site in inert)
        if not inert or whole.isnan().all():
            return
        named = f"{', '.join(map(str, inert))} of {type(self.model).__name__}"
        if len(inert) == len(active):
            raise SiteError(
                f"{named}: the output for the first items does not change when everything there is dropped. Is what they drop used, "
                "and is the model trained?"
            )
        backends.warn_once(
            f"{named}: the output for the first items does not change when everything there is dropped; the scores come from "
            "the other sites"
        )

    def require_difference(self, logits_TBC: Tensor, inputs: Any) -> None:
        """Passes that do not differ carry no information: an error, not a quiet zero. A single pass is compared with dropout off."""
        if logits_TBC.shape[0] == 1:
            other = check_output(self.model, self.deterministic(inputs))
            same = torch.equal(other, logits_TBC[0])
        else:
            same = bool((logits_TBC[1:] == logits_TBC[:1]).all())
        if same and logits_TBC.numel():
            active = ", ".join(str(site) for site in self.found.sites if site.active)
            raise SiteError(
                f"all {logits_TBC.shape[0]} passes of the first batch gave the same output although these sites fired: {active}. "
                "Does what they drop reach the output, and is p large enough for the width of the layer?"
            )


def check_output(model: nn.Module, output: Any) -> Tensor:
    if not isinstance(output, Tensor):
        hint = (
            "; wrap the model in a module that returns .logits"
            if hasattr(output, "logits")
            else "; wrap the model in a module that returns one tensor"
        )
        raise OutputError(
            f"{type(model).__name__} returned {type(output).__name__}, expected a tensor of logits (B, C){hint}"
        )
    if not is_dense(output):
        raise OutputError(
            f"{type(model).__name__} returned a {'nested' if output.is_nested else 'sparse'} tensor, expected logits (B, C) as a dense "
            "one; wrap the model in a module that returns "
            + ("torch.nested.to_padded_tensor(output, 0.0)" if output.is_nested else "output.to_dense()")
        )
    if not output.is_floating_point():
        raise OutputError(
            f"{type(model).__name__} returned {output.dtype}, expected logits; return them before the argmax"
        )
    if output.ndim < 2:
        raise OutputError(
            f"{type(model).__name__} returned shape {tuple(output.shape)}, expected (B, C) or dense (B, C, H, W); "
            "for one output per item return (B, 1), e.g. x.unsqueeze(-1), with link sigmoid or gaussian"
        )
    return output


def _close(ours: Tensor, truth: Tensor, dtype: torch.dtype) -> bool:
    """Equal up to the rounding that other shapes of the same computation in ``dtype`` may have."""
    scale = truth.float().masked_fill(~truth.isfinite(), 0.0).abs().amax().item()
    close = max(1e-4, 8 * torch.finfo(dtype).eps)  # of the largest logit
    return ours.shape == truth.shape and torch.allclose(
        ours, truth, rtol=10 * close, atol=close * scale + 1e-6, equal_nan=True
    )


def first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"[:160]
