"""``Moments``: scores from passes that arrive a few at a time, in any split."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .acquisition import bald_noise, check_scores
from .jackknife import columns, require_passes
from .kernels import eager
from .kernels.groups import Groups
from .kernels.score import accumulate, check_outputs, errors_of, reduce_dense
from .likelihoods import check_input, reduction_share
from .own_scores import require_finish

_SETTINGS = ("scores", "likelihood", "input", "noise_variance", "reduction", "errors")


class Moments:
    """Streaming reduction over passes: O(B C) memory for any T, and equal scores for any split of the passes.

    Ensembles and Laplace samples are passes too.

    >>> moments = Moments(scores=("bald", "entropy"))
    >>> for logit in (4.0, -4.0, 4.0):
    ...     _ = moments.update(torch.tensor([[[logit, 0.0]]]))  # (t, B, C), t may vary
    >>> scores = moments.compute()
    >>> moments.n, sorted(scores), scores["prediction"].tolist()
    (3, ['bald', 'entropy', 'prediction'], [0])

    Arguments, results and errors are those of ``mcscore.score_logits``; dense outputs (t, B, C, *pixels) keep their sums
    per pixel. ``n`` is the number of passes so far.

    With ``errors`` the sums of up to 32 groups of consecutive passes are kept as well, O(32 B C) memory. After T passes they are the
    groups of ``jackknife.groups(T)``, so errors do not depend on the split either. ``merge`` appends the groups of the other and
    joins neighbors where there are too many. These may be other groups than those of the same passes in one stream: the errors are
    then another estimate of the same quantity, as good as that one.
    """

    def __init__(
        self,
        scores: Sequence[str] = ("bald", "entropy"),
        likelihood: str = "categorical",
        input: str = "logits",
        noise_variance: float | None = None,
        reduction: str | float = "mean",
        errors: bool = False,
    ) -> None:
        self.scores = check_scores(scores, likelihood, noise_variance)
        require_finish(self.scores, "a stream of passes cannot make values")
        check_input(input, likelihood)
        reduction_share(reduction)
        self.likelihood, self.input, self.noise_variance, self.reduction = likelihood, input, noise_variance, reduction
        self.errors = errors
        self.n = 0
        self._bald_noise = 0.0  # of the coarsest passes so far
        self._shape: tuple[int, ...] | None = None  # of one pass: (B, C, *pixels)
        self._state: eager.State = {}
        self._groups: Groups | None = None

    def update(self, logits_tBC: Tensor) -> Moments:
        """Add t >= 1 passes over the same B items. ValueError if their shape or device is not that of earlier passes."""
        check_outputs(logits_tBC, self.scores, self.likelihood, self.input, self.noise_variance)
        shape = tuple(logits_tBC.shape[1:])
        if self._shape is None:
            B, C, *pixels = shape
            rows = torch.Size((B, *pixels)).numel()
            new_state = functools.partial(eager.new_state, self.scores, self.likelihood, rows, C, logits_tBC.device)
            state = new_state()
            self._groups = Groups(new_state, self.likelihood) if self.errors else None
        else:
            self._check_same(shape, logits_tBC.device)
            state = self._state
        add = functools.partial(accumulate, likelihood=self.likelihood, input=self.input)
        add(logits_tBC, state)
        if self._groups is not None:
            self._groups.add(logits_tBC, add)
        self._shape, self._state = shape, state
        self._bald_noise = max(self._bald_noise, bald_noise(logits_tBC.dtype))
        self.n += len(logits_tBC)
        return self

    def merge(self, other: Moments) -> Moments:
        """Add the passes of ``other`` (left as it is). Associative. ValueError names the setting in which they differ."""
        for name in _SETTINGS:
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine != theirs:
                raise ValueError(f"cannot merge moments whose {name} differ: {mine!r} and {theirs!r}")
        if other._shape is None:
            return self
        self._bald_noise = max(self._bald_noise, other._bald_noise)
        if self._shape is None:
            self._shape, self.n = other._shape, other.n
            self._state = {name: sums.clone() for name, sums in other._state.items()}
            self._groups = other._groups.copy() if other._groups is not None else None
            return self
        self._check_same(other._shape, other._state["bad"].device)
        eager.merge(self._state, other._state, self.likelihood)
        if self._groups is not None and other._groups is not None:
            self._groups.merge(other._groups)
        self.n += other.n
        return self

    def compute(self) -> dict[str, Tensor]:
        """The scores of the passes so far, as ``score_logits`` returns them. More passes may follow.

        Raises:
            ValueError: no pass yet, or with errors fewer than 2.
        """
        if self._shape is None:
            raise ValueError("no pass yet: call update(logits) before compute()")
        if self.errors:
            require_passes(self.n)
        results = eager.finish(self._state, self.scores, self.likelihood, self.n, self.noise_variance, self._bald_noise)
        results = reduce_dense(results, (self.n, *self._shape), self.likelihood, self.reduction)
        if self._groups is None:
            return results
        whole, without = self._groups.scores(self.scores, self.noise_variance)
        results |= errors_of(whole, without, self._groups.sizes, self._shape, self.reduction)
        return {name: results[name] for name in (*columns(self.scores, True), "prediction")}

    def means(self) -> dict[str, Tensor]:
        """The mean over the passes so far: "p", float64 mean probabilities (B, C, *pixels), NaN where an output was none.

        Likelihood gaussian: "mu" the mean, "var" its variance over the passes, and "noise" the mean variance that the model predicts, or
        ``noise_variance`` if that is given; (B, *pixels) each.

        >>> Moments().update(torch.zeros(3, 1, 2)).means()["p"].tolist()
        [[0.5, 0.5]]
        """
        if self._shape is None:
            raise ValueError("no pass yet: call update(logits) before means()")
        B, C, *pixels = self._shape
        spoiled = self._state["bad"]
        if self.likelihood != "gaussian":
            p_RC = (self._state["p"] / self.n).masked_fill(spoiled[:, None], math.nan)
            return {"p": p_RC.view(B, *pixels, C).movedim(-1, 1)}
        found = {"mu": self._state["mu"], "var": self._state["var"] / self.n}
        if "noise" in self._state:
            found["noise"] = self._state["noise"] / self.n
        elif self.noise_variance is not None:
            found["noise"] = torch.full_like(found["mu"], self.noise_variance)
        return {name: values.masked_fill(spoiled, math.nan).view(B, *pixels) for name, values in found.items()}

    def _check_same(self, shape: tuple[int, ...], device: torch.device) -> None:
        if shape != self._shape:
            raise ValueError(
                f"passes of shape (t, B, C, ...) = (t, {_tail(shape)}) after passes of (t, {_tail(self._shape)})"
            )
        if device != self._state["bad"].device:
            raise ValueError(f"passes on {device} after passes on {self._state['bad'].device}")


def _tail(shape: tuple[int, ...] | None) -> str:
    return ", ".join(map(str, shape or ()))
