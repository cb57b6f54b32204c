"""A model and a number of passes, turned into scores of a batch."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any, Concatenate, ParamSpec, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, fx, nn
from torch._ops import OpOverload
from torch.utils._pytree import tree_map_only

from ..acquisition import check_scores
from ..errors import DrawError, SiteError
from ..kernels import backends, head
from ..kernels.score import score_logits
from ..kernels.weight_cache import keeping
from ..likelihoods import INPUTS, LIKELIHOODS
from ..masks import MAX_PASSES
from ..moments import Moments
from ..montecarlo import Passes, discover
from ..montecarlo import autocast as precision
from ..montecarlo.compiled import recorded
from ..montecarlo.embedding import embeddings
from ..montecarlo.exclusive import PREPARING, exclusive
from ..montecarlo.passes import first_line
from ..montecarlo.plan import Plan, explain, make_plan
from .fingerprint import fingerprint
from .inputs import check_items, check_rows, check_transformed, ordinary, require_one_device, require_weights
from .options import Dropout, Execution

Items = npt.NDArray[Any] | Tensor
MeanStd = tuple[tuple[float, ...], tuple[float, ...]]
P = ParamSpec("P")
R = TypeVar("R")


def _in_turn(
    *holding: Callable[[Scorer], object],
) -> Callable[[Callable[Concatenate[Scorer, P], R]], Callable[Concatenate[Scorer, P], R]]:
    """A method of a Scorer for one thread at a time, which also holds these, in the modes of PyTorch that scores are defined in."""

    def of(call: Callable[Concatenate[Scorer, P], R]) -> Callable[Concatenate[Scorer, P], R]:
        @functools.wraps(call)
        def alone(scorer: Scorer, *args: P.args, **kwargs: P.kwargs) -> R:
            with exclusive(scorer, *(each(scorer) for each in holding)), scorer._own_modes(), keeping():
                return call(scorer, *args, **kwargs)

        return alone

    return of


class Scorer:
    """Acquisition scores of a batch from T stochastic passes of ``model`` (Gal & Ghahramani 2016).

    model: any nn.Module with dropout; left exactly as it was after every call, also after an exception. Never in
    training mode. passes: T, 1 to 65536. scores: names from ``mcscore.SCORES``. likelihood, input: what the model's output
    is, see ``likelihoods``. seed: of the masks, 0 <= seed < 2^64. transform: maps a batch (Tensor on the
    device, as stored in the pool) to the model's input: a tensor, or a tuple or dict of arguments. Without one, uint8 becomes
        float / 255, normalized if ``normalize`` was called; anything else goes in as it is, floats in the dtype of the model's
        parameters.
    device: where to run; default: where the model's first parameter is.
    dropout: which sites act, how strongly, and whether items share masks, see ``Dropout``.
    noise_variance, reduction: for likelihood gaussian and for dense outputs, see ``score_logits``.
    execution: memory of a step, dtype, memory format, torch.compile, see ``Execution``.
    embedding: name of the module whose output ``embed`` returns; default: the input of the last Linear.
    spec, weights, weights_part: where the model came from, kept for the record.

    A score depends on (model, item, id, seed, passes) alone: not on the batch, its order or its size.
    """

    def __init__(
        self,
        model: nn.Module,
        passes: int = 100,
        scores: Sequence[str] = ("bald", "entropy"),
        *,
        likelihood: str = "categorical",
        input: str = "logits",
        seed: int = 0,
        transform: Callable[[Tensor], Any] | None = None,
        device: str | torch.device | None = None,
        noise_variance: float | None = None,
        reduction: str | float = "mean",
        dropout: Dropout = Dropout(),  # noqa: B008  (frozen)
        execution: Execution = Execution(),  # noqa: B008
        embedding: str | None = None,
        spec: str | None = None,
        weights: str | None = None,
        weights_part: str | None = None,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"model must be an nn.Module, got {type(model).__name__}")
        if isinstance(model, torch.jit.ScriptModule):
            raise TypeError("a scripted module hides its dropout from Python; score the nn.Module it was scripted from")
        if isinstance(model, fx.GraphModule) and any(isinstance(n.target, OpOverload) for n in model.graph.nodes):
            raise TypeError("an exported graph has its dropout frozen in; score the nn.Module it was exported from")
        model = getattr(
            model, "_orig_mod", model
        )  # torch.compile's wrapper: dropout must be seen by Python to be driven
        if not 1 <= passes <= MAX_PASSES:
            raise ValueError(f"passes must lie in 1..{MAX_PASSES}, got {passes}")
        if not 0 <= seed < 2**64:
            raise ValueError(f"seed must fit 64 bits, got {seed}")
        if likelihood not in LIKELIHOODS:
            raise ValueError(f"likelihood must be one of {', '.join(LIKELIHOODS)}, got {likelihood!r}")
        if input not in INPUTS:
            raise ValueError(f"input must be one of {', '.join(INPUTS)}, got {input!r}")
        if embedding is not None and embedding not in dict(model.named_modules()):
            raise ValueError(f"embedding: the model has no module named {embedding!r}")
        self.model = model
        self.passes, self.seed = int(passes), int(seed)
        self.dropout, self.execution = dropout, execution
        self.scores = check_scores(tuple(scores), likelihood, noise_variance)
        self.likelihood, self.input, self.noise_variance, self.reduction = likelihood, input, noise_variance, reduction
        self.transform = transform
        self.spec, self.weights, self.weights_part = spec, weights, weights_part
        parameter = next(model.parameters(), None)
        require_weights(model)
        self._device = (
            torch.device(device)
            if device is not None
            else parameter.device
            if parameter is not None
            else torch.device("cpu")
        )
        if device is not None:
            model.to(self._device)
        require_one_device(model)
        self._dtype = parameter.dtype if parameter is not None and parameter.is_floating_point() else torch.float32
        self._embedding = embedding
        self._mean_std: MeanStd | None = None
        self._passes: Passes | None = None
        self._plan: Plan | None = None
        self._live = False
        self._recorded: Hashable = ()  # the model as it was when the passes were compiled

    def copy(self) -> Scorer:
        """A scorer of the same model with the same settings, but with a plan and a normalization of its own."""
        twin = copy.copy(self)
        twin._passes = twin._plan = None
        return twin

    def adopt(self, other: Scorer) -> None:
        """Take over the plan of a copy that is no longer used, if this scorer has none yet."""
        with exclusive(self):
            if self._plan is None:
                self._passes, self._plan, self._live = other._passes, other._plan, other._live
                self._recorded = other._recorded

    @contextlib.contextmanager
    def _own_modes(self) -> Iterator[None]:
        """Neither inference mode, under which no tensor tells that it was changed, nor autocast, nor gradients."""
        with contextlib.ExitStack() as stack:
            if torch.is_inference_mode_enabled():
                stack.enter_context(torch.inference_mode(False))
            for kind in {"cpu", self._device.type}:
                if torch.is_autocast_enabled(kind):
                    backends.warn_once(
                        f"torch.autocast on {kind} is switched off while mcscore scores: a score must not depend on where "
                        "it is asked for. For lower precision use Scorer(..., execution=Execution(dtype='bfloat16'))"
                    )
                    stack.enter_context(torch.autocast(kind, enabled=False))
            stack.enter_context(torch.no_grad())
            yield

    # -- scoring
    # ----------------------------------------------------------------------------------------------------------------------

    @_in_turn()
    def __call__(self, items_B: Items, ids_B: npt.ArrayLike | Tensor) -> dict[str, Tensor]:
        """Scores (B,) float32 by name, and "prediction" (int32; float32 for likelihood gaussian), on the model's device.

        items_B: (B, ...) as the pool stores them; ids_B: their int64 ids, 0 <= id < 2^63. NaN scores mark items whose
        logits were not finite. SiteError and OutputError explain what is wrong with the model; ValueError what is wrong
        with the arguments.
        """
        ids = self._check_ids(items_B, ids_B)
        if self._plan is None and len(ids):
            self.prepare(items_B, ids_B)
        if self.execution.compile and 0 < len(ids) < self._ready()[1].items:
            backends.warn_once(
                f"compile=True compiles steps of {self._ready()[1].items} items; batches of {len(ids)} run without. "
                "Give larger batches, or a smaller memory="
            )
        if self.execution.compile and len(ids) and recorded(self.model) != self._recorded:
            _, plan = self._ready()
            self._ready()[0].compile_for(plan.items, plan.passes)
        # Room for all results before the first step: kept one by one, the results of each would lie in blocks that its tensors left,
        # and glibc gives a block with a hole to no tensor of the next step (16 MiB more with every step of an MLP).
        results = self._empty(len(ids))
        lo = 0
        while lo < len(ids):
            _, plan = self._ready()
            try:
                first = not self._live
                part = self._step(self._inputs(items_B[lo : lo + plan.items]), ids[lo : lo + plan.items])
                check_rows(self.model, len(part["prediction"]), len(ids[lo : lo + plan.items]))
                if first:
                    self._require_independence(items_B[lo : lo + plan.items], ids[lo : lo + plan.items], part)
                for name, values in part.items():
                    results[name][lo : lo + plan.items] = values
                lo += plan.items
            except torch.OutOfMemoryError:
                self._plan = plan.halved()
                if self._plan is None:
                    raise
                if self.execution.compile:
                    self._ready()[0].compile_for(self._plan.items, self._plan.passes)
                torch.cuda.empty_cache()
                backends.warn_once(
                    f"{self.device} has no memory for {plan.items} items x {plan.passes} passes at a time; "
                    f"going on with {self._plan.items} x {self._plan.passes}, which may change the last bits of scores"
                )
        if self.execution.compile and len(
            ids
        ):  # as it is after the call: a model that counts its calls is not compiled for each
            self._recorded = recorded(self.model)
        return results

    def _empty(self, items: int) -> dict[str, Tensor]:
        """Room for the results of so many items."""
        results = {name: torch.empty(items, device=self._device) for name in self.scores}
        kind = torch.float32 if self.likelihood == "gaussian" else torch.int32
        results["prediction"] = torch.empty(items, dtype=kind, device=self._device)
        return results

    def _step(self, inputs: Any, ids_B: Tensor) -> dict[str, Tensor]:
        passes, plan = self._ready()
        passes_T = torch.arange(self.passes, device=self._device)
        if plan.path == "head":
            end = passes.head(inputs, ids_B)
            if end is not None:
                if not self._live:
                    self._require_life(end.of_first(2).logits(passes_T[:64]), inputs)
                return end.scores(passes_T, self.scores, self.likelihood)
            backends.warn_once(
                f"{type(self.model).__name__} does not end in dropout and Linear for all items as it did for the first: "
                "batches where it does not are scored one pass at a time"
            )
            plan = dataclasses.replace(plan, path="loop", passes=1)
        chunks = list(passes_T.split(plan.passes))
        settings: dict[str, Any] = {
            "likelihood": self.likelihood,
            "input": self.input,
            "noise_variance": self.noise_variance,
            "reduction": self.reduction,
        }
        if len(chunks) == 1:
            (logits_TBC,) = passes.chunks(inputs, ids_B, chunks, plan.path)
            self._require_life(logits_TBC, inputs)
            return score_logits(logits_TBC, self.scores, **settings)
        moments = Moments(self.scores, **settings)
        firsts = []  # a pass of each chunk, until life has shown
        for logits_tBC in passes.chunks(inputs, ids_B, chunks, plan.path):
            if not self._live:
                firsts.append(logits_tBC[:, :2].clone())
            moments.update(logits_tBC)
        if firsts:
            self._require_life(torch.cat(firsts), inputs)
        return moments.compute()

    def _require_life(self, logits_tBC: Tensor, inputs: Any) -> None:
        """The passes of the first step must show that the masks reach the output. logits_tBC may hold its first items alone."""
        passes, _ = self._ready()
        if not self._live:
            passes.require_difference(logits_tBC, inputs)
            self._live = True

    def _require_independence(self, items_B: Items, ids_B: Tensor, scores: Mapping[str, Tensor]) -> None:
        """SiteError unless two items of the first step get the same scores by themselves, from the transform on.

        The probe saw three items. What shows in larger batches only: experts of limited capacity, cropping to the longest item.
        """
        n = len(ids_B)
        if n < 3:
            return
        some = np.array([0, n - 1])
        alone = self._step(self._inputs(items_B[some]), ids_B[some])
        coarse = self._dtype in (torch.float16, torch.bfloat16) or self._ready()[0].lower is not None
        for name in self.scores:
            ours, theirs = alone[name], scores[name][some]
            slack = 2.0 / self.passes if name == "variation_ratio" else 2e-2 if coarse else 1e-4
            scale = float(scores[name].nan_to_num().abs().max().clamp(max=1.0))
            if not torch.allclose(
                ours, theirs, rtol=2e-2 if coarse else 2e-3, atol=slack * scale + 1e-6, equal_nan=True
            ):
                raise SiteError(
                    f"{type(self.model).__name__}: {name} of items {ids_B[some].tolist()} is {ours.tolist()} by themselves and "
                    f"{theirs.tolist()} in a batch of {n}: scores depend on the batch. Does the model or the transform look at other "
                    "items (a crop to the longest, experts of limited capacity, statistics of the batch, random numbers for whole "
                    "buffers)? Leave the layer off by choosing the other sites with sites=[...]; there are "
                    f"{', '.join(map(str, self._ready()[0].found.sites[:8]))}"
                )

    # -- preparing
    # --------------------------------------------------------------------------------------------------------------------

    @_in_turn(lambda self: self.model, lambda _: PREPARING)
    def prepare(
        self, items_B: Items, ids_B: npt.ArrayLike | Tensor, plan: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """Find the sites, choose how to run, and plan the steps on a first batch; or adopt a recorded plan. Returns the
        plan as a dict.

        Happens by itself on the first call. Raises SiteError if the model has no dropout that can be driven.
        """
        B = len(self._check_ids(items_B, ids_B))
        if B == 0:
            raise ValueError("prepare needs at least one item")
        spread = [0, B // 2, B - 1]
        probe_items = items_B[np.unique(spread)] if B >= 3 else items_B[np.resize(np.arange(B), 3)]
        three = self._inputs(probe_items)
        two = self._inputs(probe_items[:2])
        found = discover(self.model, two, three, self.dropout.sites, self.dropout.p, self.dropout.weights)
        if not any(site.active for site in found.sites):
            raise ValueError("sites: no dropout site is left on")
        reduces = functools.partial(head.fits, likelihood=self.likelihood, input=self.input)
        self._passes = Passes(self.model, found, seed=self.seed, shared=self.dropout.masks == "shared", reduces=reduces)
        self._live = False
        self._passes.require_reach(three)
        if plan is not None:
            self._plan = Plan.from_dict(plan)
            self._passes.fused = frozenset(self._plan.fused)
            if self._plan.threads != torch.get_num_threads():
                backends.warn_once(
                    f"the recorded plan was made with {self._plan.threads} torch thread(s), now there are {torch.get_num_threads()}: "
                    "the last bits of scores may differ (set OMP_NUM_THREADS to repeat them exactly)"
                )
        else:
            probe_ids = torch.arange(3, device=self._device)
            self._plan = make_plan(self._passes, three, probe_ids, self.passes, self.execution.memory)
        self._choose_precision(items_B, ids_B, recorded=plan is not None)
        if self.execution.compile:
            self._passes.compile_for(self._plan.items, self._plan.passes)
        if self._plan.path not in ("head", "vmap"):
            backends.warn_once(
                f"{type(self.model).__name__}: passes run by {self._plan.path!r}, not vmap ({self._plan.why})"
            )
        return self._plan.to_dict()

    def _choose_precision(self, items_B: Items, ids_B: npt.ArrayLike | Tensor, *, recorded: bool) -> None:
        """Which precision the plan has: the recorded one, the one asked for, or what ``auto`` finds."""
        passes, plan = self._ready()
        if not recorded and self.execution.dtype is not None:
            lower, why = "bfloat16", "asked for"
            if self.execution.dtype == "auto":
                measured = self.scores[0] if "bald" not in self.scores else "bald"
                lower, why = precision.choose(
                    self._device, lambda rounded: self._first_scores(items_B, ids_B, measured, rounded)
                )
                backends.warn_once(f"dtype='auto' takes {lower or str(self._dtype).removeprefix('torch.')}: {why}")
            else:
                self._first_scores(items_B[:2], ids_B[:2], self.scores[0], True)  # type: ignore[index]
            self._plan = plan = dataclasses.replace(plan, lower=lower, precision=why)
        passes.lower = precision.Lower() if plan.lower else None

    def _first_scores(self, items_B: Items, ids_B: npt.ArrayLike | Tensor, name: str, rounded: bool) -> Tensor:
        passes, _ = self._ready()
        passes.lower = precision.Lower() if rounded else None
        n = precision.ITEMS
        try:
            return self(items_B[:n], ids_B[:n])[name]  # type: ignore[index]
        except (RuntimeError, TypeError, NotImplementedError) as error:
            if not rounded:
                raise
            raise precision.PrecisionError(
                f"{type(self.model).__name__} does not run in bfloat16 on {self._device} ({first_line(error)})"
            ) from error

    def _ready(self) -> tuple[Passes, Plan]:
        if self._passes is None or self._plan is None:
            raise RuntimeError("the scorer has not been prepared")
        return self._passes, self._plan

    def plan(self, items_B: Items, ids_B: npt.ArrayLike | Tensor | None = None) -> str:
        """Sites, p, shapes, share of the FLOPs before the first site, path and why, step size and memory, as text."""
        if self._plan is None:
            self.prepare(items_B, np.arange(len(items_B)) if ids_B is None else ids_B)
        passes, plan = self._ready()
        return explain(plan, passes, self.passes, self.execution.compile)

    def normalize(self, mean: Sequence[float] | None, std: Sequence[float] | None) -> None:
        """Per-channel mean and std, in units of [0, 1], for uint8 items when there is no transform. None, None: off."""
        if (mean is None) != (std is None):
            raise ValueError("give both mean and std, or neither")
        self._mean_std = (tuple(mean), tuple(std)) if mean is not None and std is not None else None

    @property
    def normalization(self) -> MeanStd | None:
        """The mean and std that ``normalize`` was given."""
        return self._mean_std

    # -- embeddings
    # -------------------------------------------------------------------------------------------------------------------

    @_in_turn(lambda self: self.model)
    def embed(self, items_B: Items, ids_B: npt.ArrayLike | Tensor | None = None) -> npt.NDArray[np.float32]:
        """Embeddings (B, D) float32 from one deterministic pass: the input of the last Linear, or the output of ``embedding``."""
        check_items(items_B)
        step = 256
        parts = [self._embeddings(items_B[lo : lo + step]) for lo in range(0, len(items_B), step)]
        return np.concatenate(parts) if parts else np.empty((0, 0), np.float32)

    def _embeddings(self, items_B: Items) -> npt.NDArray[np.float32]:
        inputs = self._inputs(items_B)
        if self._passes is None:
            try:
                return embeddings(self.model, inputs, self._embedding, None)
            except DrawError:  # which constants its draws have when they are off is measured first
                self.prepare(items_B, np.arange(len(items_B)))
        found = self._ready()[0].found
        return embeddings(self.model, inputs, self._embedding, found.quiet, found.written)

    # -- the record
    # -------------------------------------------------------------------------------------------------------------------

    @property
    def device(self) -> str:
        return str(self._device)

    @property
    def fingerprint(self) -> str:
        """sha256 over the model's structure and every parameter, buffer and extra state: name, dtype, shape, bytes.

        Computed anew each time, for nothing tells for certain that a weight has changed; 1 GB takes about a second.
        """
        return fingerprint(self.model)

    def describe(self) -> dict[str, Any]:
        """What was scored with what, as JSON. Sites and plan are empty before ``prepare``."""
        sites = self._passes.found.sites if self._passes is not None else ()
        return {
            "model": {
                "class": f"{type(self.model).__module__}.{type(self.model).__qualname__}",
                "fingerprint": self.fingerprint,
                "spec": self.spec,
                "weights": self.weights,
                "weights_part": self.weights_part,
            },
            "passes": self.passes,
            "seed": self.seed,
            "masks": self.dropout.masks,
            "scores": list(self.scores),
            "likelihood": self.likelihood,
            "input": self.input,
            "noise_variance": self.noise_variance,
            "reduction": self.reduction,
            "weight_dropout": self.dropout.weights,
            "sites": [
                {"index": s.index, "name": s.name, "kind": s.kind, "p": s.p, "shape": list(s.shape), "active": s.active}
                for s in sites
            ],
            "device": self.device,
            "dtype": str(self._dtype).removeprefix("torch."),
            "precision": self.execution.dtype,
            "channels_last": self.execution.channels_last,
            "compile": self.execution.compile,
            "threads": torch.get_num_threads(),
            "normalize": [list(part) for part in self._mean_std] if self._mean_std else None,
            "plan": self._plan.to_dict() if self._plan is not None else {},
        }

    # -- inputs
    # -----------------------------------------------------------------------------------------------------------------------

    def _check_ids(self, items_B: Items, ids_B: npt.ArrayLike | Tensor) -> Tensor:
        check_items(items_B)
        ids = torch.as_tensor(ids_B if isinstance(ids_B, Tensor) else np.asarray(ids_B))
        if ids.ndim != 1:
            raise ValueError(f"ids must be a 1-d array, one id per item, got shape {tuple(ids.shape)}")
        if ids.numel() and (ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool):
            raise ValueError(f"ids must be integers, got {ids.dtype}; if they are whole numbers: ids.astype(np.int64)")
        if len(ids) != len(items_B):
            raise ValueError(f"{len(items_B)} items but {len(ids)} ids")
        ids = ordinary(ids).to(torch.int64)
        if ids.numel() and int(ids.min()) < 0:
            raise ValueError(f"ids must not be negative, got {int(ids.min())}")
        return ids.to(self._device)

    def _inputs(self, items_B: Items) -> Any:
        inputs = self._transformed(items_B)
        if not self.execution.channels_last:
            return inputs
        return tree_map_only(
            Tensor, lambda v: v.contiguous(memory_format=torch.channels_last) if v.ndim == 4 else v, inputs
        )

    def _transformed(self, items_B: Items) -> Any:
        x = torch.from_numpy(np.ascontiguousarray(items_B)) if isinstance(items_B, np.ndarray) else items_B
        x = ordinary(x).to(self._device)
        if self.transform is not None:
            inputs = tree_map_only(Tensor, lambda v: ordinary(v).to(self._device), self.transform(x))
            check_transformed(inputs, len(x))
            return inputs
        if x.is_complex():
            raise ValueError(
                f"items are {x.dtype}, which is not given to a model unasked: transform=torch.view_as_real gives real and "
                "imaginary parts in a last dimension of 2, transform=lambda x: x gives them as they are"
            )
        if x.dtype == torch.uint8:
            x = x.to(self._dtype).div_(255)  # in place: a third of the time of a new tensor's pages
            if self._mean_std is not None:
                channels = (1, -1, *[1] * (x.ndim - 2))
                mean, std = (
                    torch.tensor(part, dtype=self._dtype, device=self._device).reshape(channels)
                    for part in self._mean_std
                )
                x = x.sub_(mean).div_(std)
            return x
        return x.to(self._dtype) if x.is_floating_point() else x
