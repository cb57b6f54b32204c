"""``Scorer``: acquisition scores of batches by Monte Carlo dropout."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ..acquisition import check_scores
from ..errors import DrawError
from ..fence import user_code
from ..jackknife import require_passes
from ..likelihoods import INPUTS, LIKELIHOODS
from ..likelihoods import probabilities as probabilities_of
from ..masks import MAX_PASSES
from ..montecarlo.embedding import embeddings
from ..montecarlo.guard.exclusive import PREPARING, exclusive
from ..montecarlo.plan import explain
from ..own_scores import NO_ERROR, require_finish
from .checks import Finding, Sample, look
from .identity import fingerprint, identity_of
from .inputs import (
    Items,
    MeanStd,
    ModelInputs,
    as_compiled,
    check_items,
    check_rows,
    checked_ids,
    require_one_device,
    rows,
    scorable,
)
from .modes import one_at_a_time
from .options import Dropout, Execution
from .prediction import Prediction, joined, predict_step
from .prepare import prepare
from .record import describe
from .steps import Reduction, Steps

_EMBEDDED = 256  # items per forward pass for embeddings


class Scorer:
    """Acquisition scores of a batch from T stochastic passes of ``model`` (Gal & Ghahramani 2016).

    A score depends on model, item, id, seed and passes, and not on the batch, its order or its size.

    Args:
        model: any nn.Module with dropout. Every call, also one that raises, leaves it as it was. It is never put into training mode.
        passes: number of stochastic forward passes T, 1 to 65536.
        scores: names from ``mcscore.SCORES``.
        likelihood: distribution that the outputs parametrize: "categorical", "bernoulli" or "gaussian".
        input: kind of the outputs: "logits", "log_probs" or "probs".
        seed: seed of the masks, 0 <= seed < 2^64.
        transform: maps a batch (Tensor on the device, as stored in the pool) to the model's input: a tensor, or a tuple or dict of
            arguments. Without one, uint8 becomes float / 255 and uint16 float / 65535, normalized if ``normalize`` was called; other
            floats are cast to the dtype of the model's parameters, and other integers are passed unchanged.
        device: device to run on; default: that of the model's first parameter.
        dropout: dropout sites to use, their probabilities, and whether items share masks.
        execution: memory of a step, dtype, memory format, torch.compile.
        noise_variance: known variance of the noise, for likelihood "gaussian".
        reduction: reduction of pixel scores to one per item, for dense outputs: "mean", "max", or the share of highest pixels whose
            mean is taken.
        errors: also compute the Monte Carlo standard error of each score and the bias of those that are smooth; see
            ``score_logits``. The scores stay the same. Needs at least 2 passes.
        embedding: name of the module whose output ``embed`` returns; default: the input of the last Linear.
        spec, weights, weights_part, spec_sha256: origin of the model, for the record.

    Raises:
        TypeError: ``model`` is not an nn.Module, or its dropout is hidden from Python (scripted, exported).
        ValueError: an argument is out of range, or a weight of the model has no values yet.

    Example:
        >>> import torch, mcscore
        >>> _ = torch.manual_seed(0)
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 32), torch.nn.Dropout(0.5), torch.nn.Linear(32, 3))
        >>> scorer = mcscore.Scorer(model, passes=50, scores=("bald", "entropy"))
        >>> scores = scorer(torch.randn(5, 4))
        >>> sorted(scores), tuple(scores["bald"].shape)
        (['bald', 'entropy', 'prediction'], (5,))
        >>> bool((scores["bald"] <= scores["entropy"]).all())
        True
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
        dropout: Dropout = Dropout(),  # noqa: B008  (frozen)
        execution: Execution = Execution(),  # noqa: B008
        noise_variance: float | None = None,
        reduction: str | float = "mean",
        errors: bool = False,
        embedding: str | None = None,
        spec: str | None = None,
        weights: str | None = None,
        weights_part: str | None = None,
        spec_sha256: str | None = None,
    ) -> None:
        model, execution = scorable(model), as_compiled(model, execution)
        if not 1 <= passes <= MAX_PASSES:
            raise ValueError(f"passes must lie in 1..{MAX_PASSES}, got {passes}")
        if errors:
            require_passes(passes)
            require_finish(check_scores(scores, likelihood), NO_ERROR)
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
        self.errors = errors
        self.spec, self.weights, self.weights_part, self.spec_sha256 = spec, weights, weights_part, spec_sha256
        if device is not None:
            model.to(device)
        require_one_device(model)
        first = next(model.parameters(), None)
        where = (
            torch.device(device) if device is not None else first.device if first is not None else torch.device("cpu")
        )
        dtype = first.dtype if first is not None and first.is_floating_point() else torch.float32
        self.inputs = ModelInputs(where, dtype, transform, execution.channels_last)
        self.steps: Steps | None = None  # from ``prepare``
        self.changing: frozenset[str] = (
            frozenset()
        )  # what of the model's identity a forward pass changes, so that it is none
        self._embedding = embedding

    @one_at_a_time()
    def __call__(self, items_B: Items, ids_B: npt.ArrayLike | Tensor | None = None) -> dict[str, Tensor]:
        """Compute scores (B,) float32 by name, and "prediction" (int32; float32 for likelihood gaussian), on the model's device.

        Args:
            items_B: (B, ...) as the pool stores them.
            ids_B: int64 ids of the items, 0 <= id < 2^63, on which their masks depend; default: 0..B-1.

        Returns:
            name -> (B,), with ``errors`` also name_se and name_bias. An item whose logits are not finite has NaN scores and prediction -1.

        Raises:
            SiteError: the model's dropout cannot be driven or did not fire, or scores depend on other items.
            OutputError: the model does not return logits for every item.
            TypeError, ValueError: items or ids have the wrong type, shape or values.
        """
        ids = checked_ids(items_B, ids_B, self.inputs.device)
        results = self._reduction.empty(len(ids), self.inputs.device)
        if not len(ids):
            return results
        # Results are allocated before the first step. Allocated step by step, they would occupy parts of blocks that the step's
        # tensors had left, which glibc then cannot reuse for the next step: an MLP took 16 MiB more with every step.
        steps = self._prepared(items_B, ids)
        steps.before_batch(len(ids))
        lo = 0
        while lo < len(ids):
            part = slice(lo, lo + steps.plan.items)
            try:
                scores = self._step(steps, *self._full(items_B[part], ids[part], steps.plan.items))
            except torch.OutOfMemoryError:
                if not steps.halve(self.inputs.device):
                    raise
                continue
            for name, values in scores.items():
                results[name][part] = values[: len(ids[part])]
            lo = part.stop
        steps.after_batch()
        return results

    def _full(self, items_B: Items, ids_B: Tensor, n: int) -> tuple[Items, Tensor]:
        """Items and ids of a step; if execution is deterministic n of them, the last one repeated."""
        B = len(ids_B)
        if not self.execution.deterministic or n <= B:
            return items_B, ids_B
        which = np.minimum(np.arange(n), B - 1)
        return rows(items_B, which), ids_B[torch.from_numpy(which).to(ids_B.device)]

    def _step(self, steps: Steps, items_B: Items, ids_B: Tensor) -> dict[str, Tensor]:
        """Score one step. In the first step two items are also scored alone, and must get the same scores."""
        first, B = not steps.differ, len(ids_B)
        scores = steps.scores(self.inputs(items_B), ids_B)
        check_rows(self.model, len(scores["prediction"]), B)
        if first and B >= 3:
            two = np.array([0, B - 1])
            alone = steps.scores(self.inputs(rows(items_B, two)), ids_B[two])
            coarse = steps.passes.autocast is not None or self.inputs.dtype in (torch.float16, torch.bfloat16)
            together = {name: values[two] for name, values in scores.items()}
            steps.require_independence(alone, together, ids_B[two].tolist(), B, coarse)
        return scores

    @one_at_a_time()
    def samples(
        self, items_B: Items, ids_B: npt.ArrayLike | Tensor | None = None, *, probabilities: bool = False
    ) -> Tensor:
        """Compute the outputs of all passes, logits_TBC (T, B, C), as the model returns them. Memory grows with T x B.

        The masks are those of the scores. With ``probabilities`` outputs become float64 probabilities; likelihood gaussian: means (T, B).
        Raises what scoring raises.

        Example:
            >>> import torch, mcscore
            >>> model = torch.nn.Sequential(torch.nn.Dropout(0.5), torch.nn.Linear(4, 3))
            >>> tuple(mcscore.Scorer(model, passes=20).samples(torch.randn(5, 4)).shape)
            (20, 5, 3)
        """
        outputs_TBC = torch.cat([torch.cat(list(chunks)) for chunks in self._chunks("samples", items_B, ids_B)], 1)
        return probabilities_of(outputs_TBC.double(), self.likelihood, self.input) if probabilities else outputs_TBC

    @one_at_a_time()
    def predict(self, items_B: Items, ids_B: npt.ArrayLike | Tensor | None = None) -> Prediction:
        """Compute mean probabilities, or mean and variance, with scores and their errors, of the same passes as scoring.

        Passes run in chunks, so memory does not grow with T. Raises what scoring raises.

        Example:
            >>> import torch, mcscore
            >>> model = torch.nn.Sequential(torch.nn.Dropout(0.5), torch.nn.Linear(4, 3))
            >>> found = mcscore.Scorer(model, passes=20).predict(torch.randn(5, 4))
            >>> tuple(found.mean.shape), torch.allclose(found.mean.sum(1), torch.ones(5, dtype=torch.float64))
            ((5, 3), True)
            >>> sorted(found.scores)
            ['bald', 'entropy', 'prediction']
        """
        return joined([predict_step(chunks, self._reduction) for chunks in self._chunks("predict", items_B, ids_B)])

    def _chunks(self, what: str, items_B: Items, ids_B: npt.ArrayLike | Tensor | None) -> Iterator[Iterator[Tensor]]:
        """Yield the logits_tBC of each step, chunk by chunk."""
        ids = checked_ids(items_B, ids_B, self.inputs.device)
        if not len(ids):
            raise ValueError(f"{what} needs at least one item, as the model decides the number of outputs; got none")
        steps = self._prepared(items_B, ids)
        step = steps.plan.items
        for lo in range(0, len(ids), step):
            yield steps.chunks(self.inputs(items_B[lo : lo + step]), ids[lo : lo + step])

    @one_at_a_time(lambda self: self.model, lambda _: PREPARING)
    def prepare(
        self, items_B: Items, ids_B: npt.ArrayLike | Tensor | None = None, plan: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """Find the sites, choose the path, and plan the steps on a first batch, or adopt a recorded plan. Returns the plan.

        The first call that scores does this if it has not been done.

        Raises:
            SiteError: the model has no dropout that can be driven.
            OutputError: the model does not return logits.
            PrecisionError: the model does not run in the requested precision.
            ValueError: there is no item, or no site is active.
        """
        checked_ids(items_B, ids_B, self.inputs.device)
        before = identity_of(self.model, self.transform).code
        self.steps = prepare(
            self.model, self.inputs, self.dropout, self.execution, self._reduction, self.seed, items_B, plan
        )
        after = identity_of(self.model, self.transform).code
        self.changing |= {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
        return self.steps.plan.to_dict()

    def _prepared(self, items_B: Items, ids_B: Tensor) -> Steps:
        if self.steps is None:
            self.prepare(items_B, ids_B)
        assert self.steps is not None
        return self.steps

    @property
    def _reduction(self) -> Reduction:
        return Reduction(
            self.passes,
            self.scores,
            self.likelihood,
            self.input,
            self.noise_variance,
            self.reduction,
            self.errors,
        )

    def plan(self, items_B: Items, ids_B: npt.ArrayLike | Tensor | None = None) -> str:
        """Describe sites, share of the FLOPs before the first site, path and its reason, step size and memory, as text.

        >>> import torch, mcscore
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Dropout(0.5), torch.nn.Linear(8, 3))
        >>> mcscore.Scorer(model, passes=20).plan(torch.randn(5, 4)).splitlines()[1].split()[:3]
        ['0', '0.5', 'yes']
        """
        if self.steps is None:
            self.prepare(items_B, ids_B)
        assert self.steps is not None
        return explain(self.steps.plan, self.steps.passes, self.passes, self.execution.compile, self.steps.inert)

    @one_at_a_time()
    def look(self, sample: Sample) -> tuple[Finding, ...]:
        """Check on a sample of a pool whether model and input look right together. Raises what scoring raises."""
        self._prepared(sample.items_B, torch.arange(len(sample.items_B)))
        return look(self, sample)

    def normalize(self, mean: Sequence[float] | None, std: Sequence[float] | None) -> None:
        """Set per-channel mean and std in units of [0, 1], for uint8 and uint16 items without a transform. None, None: switch off."""
        if (mean is None) != (std is None):
            raise ValueError("give both mean and std, or neither")
        given = (tuple(mean), tuple(std)) if mean is not None and std is not None else None
        self.inputs = dataclasses.replace(self.inputs, mean_std=given)

    @property
    def normalization(self) -> MeanStd | None:
        """The mean and std that ``normalize`` set, or None."""
        return self.inputs.mean_std

    @one_at_a_time(lambda self: self.model)
    def embed(self, items_B: Items, ids_B: npt.ArrayLike | Tensor | None = None) -> npt.NDArray[np.float32]:
        """Compute embeddings (B, D) float32 in one deterministic pass: the input of the last Linear, or the output of ``embedding``.

        >>> import torch, mcscore
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Dropout(0.5), torch.nn.Linear(8, 3))
        >>> mcscore.Scorer(model).embed(torch.randn(5, 4)).shape
        (5, 8)
        """
        check_items(items_B)
        parts = [self._embeddings(items_B[lo : lo + _EMBEDDED]) for lo in range(0, len(items_B), _EMBEDDED)]
        return np.concatenate(parts) if parts else np.empty((0, 0), np.float32)

    def _embeddings(self, items_B: Items) -> npt.NDArray[np.float32]:
        inputs = self.inputs(items_B)
        if self.steps is None:
            try:
                return embeddings(self.model, inputs, self._embedding, None)
            except DrawError:  # ``prepare`` finds the constants that stand for its random numbers
                self.prepare(items_B)
        assert self.steps is not None
        found = self.steps.passes.found
        return embeddings(self.model, inputs, self._embedding, found.constants, found.written)

    def copy(self, passes: int | None = None, errors: bool | None = None) -> Scorer:
        """Copy the scorer: same model and settings, except those given, but its own plan and normalization."""
        twin = copy.copy(self)
        twin.steps = None
        twin.passes = self.passes if passes is None else passes
        twin.errors = self.errors if errors is None else errors
        if twin.errors:
            require_finish(twin.scores, NO_ERROR)
        return twin

    def adopt(self, other: Scorer) -> None:
        """Take the plan of a copy that is no longer used, if this scorer has none yet and the copy computes the same."""
        with exclusive(self):
            if self.steps is None and self._reduction == other._reduction:
                self.steps = other.steps

    @property
    def transform(self) -> Callable[[Tensor], Any] | None:
        """The ``transform`` that the scorer was made with."""
        return self.inputs.transform

    @property
    def named(self) -> str:
        """The user's code that scores, for messages."""
        name = type(self.model).__name__ + (f" of {self.spec}" if self.spec else "")
        return f"the forward pass of {name}" + (" or its transform" if self.transform is not None else "")

    @property
    def device(self) -> str:
        """Name of the device on which the model runs."""
        return str(self.inputs.device)

    @property
    def recorded_plan(self) -> dict[str, Any]:
        """The plan as in ``describe``; empty before ``prepare``."""
        return self.steps.plan.to_dict() if self.steps is not None else {}

    @property
    def fingerprint(self) -> str:
        """sha256 over the model's structure and every parameter, buffer and extra state: name, dtype, shape, bytes.

        It is computed each time, as no cheaper test finds every change of a weight; 1 GB takes about a second.
        """
        with user_code(self.named):
            return fingerprint(self.model)

    def describe(self) -> dict[str, Any]:
        """Describe model, options, sites and plan as JSON. Sites and plan are empty before ``prepare``."""
        with user_code(self.named):
            return describe(self)
