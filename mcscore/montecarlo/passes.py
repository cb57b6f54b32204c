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

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map_only, tree_unflatten

from ..errors import OutputError, RowsError, SiteError
from ..kernels import backends
from ..kernels.linear import fuses
from .apply_masks import Fixed, Masks, OnePass, OnlySite, Redrawn, Rows, Stream
from .autocast import Lower
from .compiled import CompiledPasses
from .discovery.sites import Discovery, Site
from .guard.state import evaluating
from .head import Head
from .masked_forward import Driven, quietly
from .ops.intercept import Call, Interceptor, call_model, is_dense
from .tape import Tape, TapeError

PATHS = ("head", "vmap", "fork", "repeat", "loop")


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
            return call.execute() if call.name in self.found.fixed else quietly(call, self.found.quiet)

        with evaluating(self.model, (), self.found.written), Interceptor(self.model, handler, self.found.weight_p):
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
            except (RuntimeError, IndexError) as error:
                if path not in ("fork", "repeat") or isinstance(error, torch.OutOfMemoryError):
                    raise
                backends.warn_once(
                    f"{type(self.model).__name__}: {len(ids_B)} items x {len(passes_t)} passes cannot run by {path!r} "
                    f"({first_line(error)}): they run one pass at a time"
                )
                yield self._loop(inputs, ids_B, passes_t, None)

    def compile_for(self, items: int, passes: int) -> None:
        """Run the tail of steps of this size under torch.compile, from the next one on."""
        self._compile_for, self._compiled = (items, passes), None

    def _compile(self, inputs: Any, ids_B: Tensor, path: str) -> None:
        """Compile the tail for steps like this one, and try it on others; if that fails, say so and run on without."""
        assert self._compile_for is not None
        passes_t = torch.arange(self._compile_for[1], device=ids_B.device)
        run = {"vmap": self._vmap, "fork": self._fork, "repeat": self._repeat}[path]
        flipped = self._each_batch(inputs, len(ids_B), lambda x: x.flip(0))
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
        repeated = self._each_batch(inputs, B, lambda x: x.repeat(t, *[1] * (x.ndim - 1)))
        output = self._forward(repeated, Rows(self._stream(ids_B), passes_t), tape)
        return self._unstack(output, B, t)

    def _loop(self, inputs: Any, ids_B: Tensor, passes_t: Tensor, tape: Tape | None) -> Tensor:
        stream = self._stream(ids_B)
        return torch.stack([self._forward(inputs, Rows(stream, index[None]), tape) for index in passes_t])

    def _each_batch(self, inputs: Any, B: int, change: Callable[[Tensor], Tensor]) -> Any:
        """The inputs with ``change`` made to those that hold the items, as two and three items showed when the sites were found."""
        leaves, spec = tree_flatten(inputs)
        batched = self.found.batched
        if batched is None or len(batched) != len(leaves):
            batched = tuple(isinstance(x, Tensor) and x.ndim > 0 and len(x) == B for x in leaves)
        return tree_unflatten([change(x) if holds else x for x, holds in zip(leaves, batched, strict=True)], spec)

    def _forward(self, inputs: Any, masks: Masks, tape: Tape | None) -> Tensor:
        return self._drive(inputs, masks, tape)[0]

    def _drive(
        self,
        inputs: Any,
        masks: Masks,
        tape: Tape | None,
        fuses: Callable[[Tensor, Tensor, float], bool] = fuses,
        grad: bool = False,
    ) -> tuple[Tensor, Driven]:
        # A model may work in place on its input; the next chunk needs it whole.
        inputs = tree_map_only(Tensor, torch.clone, inputs)
        driven = Driven(self.model, self.found, masks, tape, self.fused, fuses, self.lower)
        if tape is not None:
            tape.start()
        with evaluating(self.model, self.found.training, self.found.written, grad=grad), driven:
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
                except RowsError as error:
                    reason = first_line(error)
                    continue
                except (SiteError, OutputError, torch.OutOfMemoryError):
                    raise
                except (
                    RuntimeError,
                    ValueError,
                    AssertionError,
                    AttributeError,
                    NotImplementedError,
                    TypeError,
                    IndexError,
                ) as error:
                    reason = first_line(error)
                    continue
                if _close(logits, truth, truth.dtype):
                    self.fused &= frozenset(self._led_to_linear - self._met)
                    self._require_independence(inputs, ids_B, passes_t[:2], path, logits[:2])
                    return path, "; ".join(why)
                reason = "gives other numbers than one pass at a time"
            if path != "head":  # no news: few models end that way
                why.append(f"{path}: {reason}")
        raise SiteError(
            f"{type(self.model).__name__}: two runs of the same passes differ ({'; '.join(why)}); is something else random?"
        )

    def _require_independence(
        self, inputs: Any, ids_B: Tensor, passes_t: Tensor, path: str, together_tBC: Tensor
    ) -> None:
        """SiteError if the first items come out otherwise without the last one, masks on: DropBlock, experts of limited capacity."""
        n = len(ids_B) - 1
        if n < 1 or together_tBC.shape[1] != len(ids_B):
            return
        fewer = self._each_batch(inputs, n + 1, lambda x: x[:n])
        (alone_tBC,) = self.chunks(fewer, ids_B[:n], [passes_t], path)
        if not _close(alone_tBC, together_tBC[:, :n], together_tBC.dtype):
            raise SiteError(
                f"{type(self.model).__name__}: with masks on, the output of {n} items changes when another joins the batch, so scores "
                f"would depend on the batch. Sites: {', '.join(str(s) for s in self._dependent(inputs, ids_B) or self.found.sites)}. "
                "Rescale by an item's own share or by the expected one (DropBlock), give experts no capacity limit, or leave the site "
                "off by choosing the others with sites=[...]"
            )

    def _dependent(self, inputs: Any, ids_B: Tensor) -> list[Site]:
        """The active sites which, masked alone, let items see each other."""
        guilty = []
        self.fused = frozenset()
        n = len(ids_B) - 1
        first = torch.zeros(1, dtype=torch.int64, device=ids_B.device)
        fewer = self._each_batch(inputs, n + 1, lambda x: x[:n])
        for site in self.found.sites:
            if site.active:
                alone = self._forward(
                    fewer, OnlySite(Rows(self._stream(ids_B[:n]), first), site.name, self.found.quiet), None
                )
                both = self._forward(
                    inputs, OnlySite(Rows(self._stream(ids_B), first), site.name, self.found.quiet), None
                )
                if not _close(alone, both[:n], both.dtype):
                    guilty.append(site)
        return guilty

    def require_reach(self, inputs: Any) -> None:
        """Each site in turn drops everything: an output that stays the same to the last bit shows a site that does not matter.

        That of all sites is an error, that of some is said: a branch may be unused, or still zero as it was initialized.

        Deterministic, so that no chance of the masks can raise a false alarm. Gradients clear most sites in one pass; what they do
        not is tried by one forward pass of a small batch per site.
        """
        self.fused = frozenset()
        quiet = self.found.quiet
        active = [site for site in self.found.sites if site.active]
        moving = self._moving(inputs)
        whole: Tensor | None = None
        inert: list[Site] = []
        for site in active:
            if site.name in moving:
                continue
            if whole is None:
                whole = self._forward(inputs, Fixed(quiet), None)
            try:
                output = self._forward(inputs, Fixed(quiet, site.name), None)
            except (RuntimeError, ValueError, TypeError, IndexError) as error:
                if isinstance(error, (SiteError, OutputError)):
                    raise
                continue  # a pass that fails with everything dropped there is one that looks at it
            if _equal(output, whole) and not (site.draws and self._redraws(inputs, site)):
                inert.append(site)
        self.inert = frozenset(site.name for site in inert)
        if not inert or whole is None or whole.isnan().all():
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

    def _redraws(self, inputs: Any, site: Site) -> bool:
        """Does any of some other passes' numbers at this site change pass 0? Where an end of the law does not (argsort of a constant)."""
        leaf = next(x for x in tree_leaves(self._each_batch(inputs, 3, lambda x: x)) if isinstance(x, Tensor))
        ids_B = torch.arange(3, device=leaf.device)
        first, stream = torch.zeros(1, dtype=torch.int64, device=leaf.device), self._stream(ids_B)
        whole = self._forward(inputs, Rows(stream, first), None)
        for other in range(1, 9):
            output = self._forward(inputs, Redrawn(stream, first, site.name, first + other), None)
            if not _equal(output, whole):
                return True
        return False

    def _moving(self, inputs: Any) -> set[str]:
        """Sites with a gradient of the output by a factor on their tensor: one pass instead of one per site."""
        fixed = Fixed(self.found.quiet, scales={})
        assert fixed.scales is not None
        try:
            # Backward too: what is computed again for it (checkpoints) must run in evaluation as well.
            with evaluating(self.model, self.found.training, self.found.written, grad=True):
                output, _ = self._drive(inputs, fixed, None, grad=True)
                scales = list(fixed.scales.items())
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

    def require_difference(self, logits_TBC: Tensor, inputs: Any) -> None:
        """Passes that do not differ carry no information: an error, not a quiet zero. A single pass is compared with dropout off."""
        if logits_TBC.shape[0] == 1:
            other = check_output(self.model, self.deterministic(inputs))
            same = torch.equal(other[: logits_TBC.shape[1]], logits_TBC[0])
        else:
            same = bool((logits_TBC[1:] == logits_TBC[:1]).all())
        rare = any(
            site.draws and site.active for site in self.found.sites
        )  # LayerDrop with p = 0.05 leaves most passes alike
        if same and logits_TBC.numel() and not rare:
            active = ", ".join(str(site) for site in self.found.sites if site.active)
            raise SiteError(
                f"all {logits_TBC.shape[0]} passes of the first batch gave the same output although these sites fired: {active}. "
                "Does what they drop reach the output, and is p large enough for the width of the layer?"
            )


def _equal(one: Tensor, other: Tensor) -> bool:
    """To the last bit, NaN being equal to NaN."""
    return one.shape == other.shape and bool(((one == other) | (one.isnan() & other.isnan())).all())


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
            "for one output per item return (B, 1), e.g. x.unsqueeze(-1), with likelihood bernoulli or gaussian"
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
