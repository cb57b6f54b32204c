"""Scores of the user's own: ``register_score`` adds one to the catalog, after it was tried on an example.

A score that has ``finish`` is computed from means over the passes, which the kernels keep (``likelihoods.LIKELIHOOD_MOMENTS``): passes
stream, and nothing of size T exists. One that has an oracle alone gets the outputs of all passes of a step at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from .acquisition import BUILT_IN, SCORES, Finish, Means, Oracle, Samples, Score, samples_of
from .likelihoods import LIKELIHOOD_MOMENTS, LIKELIHOODS, GaussianSamples

if TYPE_CHECKING:
    from torch import Tensor

_COLUMNS = {"id", "key", "rank", "score", "prediction", "passes", "item", "label"}  # of tables and exports
_PASSES, _ITEMS, _OUTPUTS = 7, 5, {"categorical": 3, "bernoulli": 3, "gaussian": 2}  # of the example
_CLOSE = 1e-6


def _unbounded(_C: int, _likelihood: str) -> tuple[float, float]:
    return -math.inf, math.inf


def register_score(
    name: str,
    oracle: Oracle | None = None,
    finish: Finish | None = None,
    *,
    moments: Sequence[str] = (),
    likelihoods: Sequence[str] = ("categorical",),
    bounds: Callable[[int, str], tuple[float, float]] = _unbounded,
    smooth: bool = False,
    text: str = "",
    replace: bool = False,
) -> Score:
    """Add a score to the catalog ``SCORES``, so that everything that takes names of scores takes it.

    Give ``finish`` where the score is a function of means over the passes: it is as fast as the others. Give ``oracle`` for any other: it
    is computed in float64 from the outputs of all passes of a step, which are held for that. Give both to have them compared.

    The code is part of what a run is resumed with, as the model's is. Worker processes get it with the scorer. The command line knows the
    score if the file of the model registers it when it is imported.

    Args:
        name: how it is asked for, and the name of its column: a Python identifier.
        oracle: called as oracle(p_TBC, likelihood) with the probabilities of every pass, float64; for likelihood "gaussian" with
            ``likelihoods.GaussianSamples``. Returns (B,), higher where a label tells more. Each item for itself.
        finish: called as finish(means, likelihood) with {moment: tensor} of ``moments``: p (B, C) mean probability, p2 (B, C) mean of
            its square, h (B,) mean entropy of a pass, votes (B, C) share of the passes that call a class most probable; gaussian: mu, var,
            noise (B,) each, the mean, its variance over the passes and the mean noise variance. Returns (B,).
        moments: the moments that ``finish`` reads.
        likelihoods: what it is defined for, of "categorical", "bernoulli" and "gaussian".
        bounds: called as bounds(C, likelihood): the closed range of values. Default: unbounded.
        smooth: whether it is a smooth function of the moments, so that its bias can be estimated (``errors=True``).
        text: the formula and its source in one line, for reports.
        replace: take the place of a score of this name that was registered with other code.

    Returns:
        The row of the catalog.

    Raises:
        ValueError: the name is taken or no identifier; there is no function; a function fails on an example, reads a moment that is not
            named, returns another shape, mixes items, or leaves the bounds; the two functions differ.

    Example:
        >>> import torch, mcscore
        >>> score = mcscore.register_score("gini", finish=lambda m, likelihood: 1 - m["p"].square().sum(-1), moments=["p"])
        >>> logits_TBC = torch.tensor([[[2.0, -2.0], [0.0, 0.0]], [[2.0, -2.0], [0.0, 0.0]]])
        >>> [round(float(value), 3) for value in mcscore.score_logits(logits_TBC, ("gini",))["gini"]]
        [0.035, 0.5]
    """
    _check_name(name)
    if oracle is None and finish is None:
        raise ValueError(f"score {name!r} has no function: give finish, oracle or both")
    unknown = [each for each in likelihoods if each not in LIKELIHOODS]
    if isinstance(likelihoods, str) or not likelihoods or unknown:
        raise ValueError(f"likelihoods must be names out of {', '.join(LIKELIHOODS)}, got {likelihoods!r}")
    known = [moment for each in likelihoods for moment in LIKELIHOOD_MOMENTS[each]]
    if isinstance(moments, str) or (wrong := [each for each in moments if each not in known]):
        shown = repr(moments) if isinstance(moments, str) else ", ".join(map(repr, wrong))
        raise ValueError(
            f"moments of score {name!r} must be names out of {', '.join(dict.fromkeys(known))}, got {shown}"
        )
    own = oracle if oracle is not None else _oracle_of(finish, tuple(moments))  # type: ignore[arg-type]
    score = Score(name, tuple(likelihoods), tuple(moments), bounds, own, finish, text, smooth and finish is not None)
    for likelihood in likelihoods:
        _try(score, likelihood, given=oracle is not None)
    before = SCORES.get(name)
    if before is not None and not replace and not _same(before, score):
        raise ValueError(
            f"score {name!r} is registered already, with other code: choose another name, or give replace=True to replace it"
        )
    SCORES[name] = score
    return score


def registered(scores: Sequence[str]) -> tuple[Score, ...]:
    """The scores that are no part of the package, of those asked for."""
    return tuple(SCORES[name] for name in scores if name not in BUILT_IN)


def holding(scores: Sequence[str]) -> tuple[str, ...]:
    """The names of the scores that need the outputs of all passes at once."""
    return tuple(name for name in scores if SCORES[name].finish is None)


OF_SCORE = "score {}: "
"""Begins the names of what a registered score computes with, among the code of a model."""
NO_ERROR = "there is no standard error"


def require_finish(scores: Sequence[str], what: str) -> None:
    """Raise ValueError, which begins with ``what``, if a score cannot be computed from moments."""
    if held := holding(scores):
        raise ValueError(
            f"{what} of score {held[0]!r}: it was registered by its oracle alone, which needs the outputs of all passes at once; "
            "register it with finish= from moments"
        )


def from_outputs(
    outputs_TnC: Tensor, scores: Sequence[str], likelihood: str, input: str, noise_variance: float | None, rows: int
) -> dict[str, Tensor]:
    """Scores (n,) float64 by their oracles, ``rows`` items at a time; NaN where one is not finite."""
    import torch

    parts = []
    for block in torch.split(outputs_TnC, max(1, rows), 1):
        samples = samples_of(block.double(), likelihood, input, noise_variance)
        parts.append([SCORES[name].oracle(samples, likelihood) for name in scores])
    values = [torch.cat(column) for column in zip(*parts, strict=True)]
    return {name: torch.where(column.isfinite(), column, math.nan) for name, column in zip(scores, values, strict=True)}


def means_of(samples: Samples, likelihood: str) -> Means:
    """All moments of the outputs of T passes, in float64."""
    import torch

    if likelihood == "gaussian":
        mean_TB = samples.mean_TB
        return {"mu": mean_TB.mean(0), "var": mean_TB.var(0, correction=0), "noise": samples.noise_B()}
    p_TBC = samples
    if likelihood == "bernoulli":
        votes, h_TB = p_TBC >= 0.5, (torch.special.entr(p_TBC) + torch.special.entr(1 - p_TBC)).sum(-1)
    else:
        votes = torch.nn.functional.one_hot(p_TBC.argmax(-1), p_TBC.shape[-1])
        h_TB = torch.special.entr(p_TBC).sum(-1)
    return {"p": p_TBC.mean(0), "p2": p_TBC.square().mean(0), "h": h_TB.mean(0), "votes": votes.double().mean(0)}


def _oracle_of(finish: Finish, moments: tuple[str, ...]) -> Oracle:
    return lambda samples, likelihood: finish(_only(means_of(samples, likelihood), moments), likelihood)


def _only(means: Means, moments: Sequence[str]) -> Means:
    return {name: value for name, value in means.items() if name in moments}


def _check_name(name: str) -> None:
    if name in BUILT_IN:
        raise ValueError(f"score {name!r} is one of the package's own; choose another name")
    ends = name.endswith(("_se", "_bias")) or name.startswith("screen_")
    if not isinstance(name, str) or not name.isidentifier() or name in _COLUMNS or ends:
        raise ValueError(
            f"name {name!r} cannot be a score's: it is a column of tables, so it must be a Python identifier, other than "
            f"{', '.join(sorted(_COLUMNS))}, and not end in _se or _bias"
        )


def _same(one: Score, other: Score) -> bool:
    """Whether two rows have the same code, as a file or a cell that is run again gives it."""

    def told(score: Score) -> list[Any]:
        functions = (score.oracle, score.finish, score.bounds)
        return [getattr(each, "__code__", each) for each in functions] + [
            score.likelihoods,
            score.moments,
            score.smooth,
        ]

    return told(one) == told(other)


def _try(score: Score, likelihood: str, given: bool) -> None:
    """Call the functions of a score on an example, and check what they return. ``given``: whether the oracle is the user's."""
    import torch

    samples = _example(likelihood)
    shape = f"an example of {_PASSES} passes and {_ITEMS} items (likelihood {likelihood!r})"
    results = {}
    for what, call in (
        ("oracle", score.oracle if given else None),
        ("finish", None if score.finish is None else _oracle_of(score.finish, score.moments)),
    ):
        if call is None:
            continue
        where = f"{what} of score {score.name!r}"
        try:
            values, first = call(samples, likelihood), call(_first_of(samples), likelihood)
        except KeyError as error:
            raise ValueError(f"{where} reads {error}, which is not among moments={list(score.moments)}") from error
        except Exception as error:
            raise ValueError(f"{where} fails on {shape}: {type(error).__name__}: {error}") from error
        if not isinstance(values, torch.Tensor) or values.shape != (_ITEMS,) or not values.is_floating_point():
            got = f"{values.dtype} {tuple(values.shape)}" if isinstance(values, torch.Tensor) else type(values).__name__
            raise ValueError(
                f"{where} must return a tensor of floats of shape (B,), one for each item; for {shape} it gave {got}"
            )
        if not torch.allclose(first, values[:2], rtol=_CLOSE, atol=_CLOSE, equal_nan=True):
            raise ValueError(
                f"{where} mixes items: the first two have {first.tolist()} by themselves and {values[:2].tolist()} among {_ITEMS}"
            )
        low, high = score.bounds(_OUTPUTS[likelihood], likelihood)
        if not bool(((values >= low - _CLOSE) & (values <= high + _CLOSE)).all()):
            raise ValueError(f"{where} leaves its bounds {low}..{high} on {shape}: {values.tolist()}")
        results[what] = values
    if len(results) == 2 and not torch.allclose(results["oracle"], results["finish"], rtol=_CLOSE, atol=_CLOSE):
        raise ValueError(
            f"oracle and finish of score {score.name!r} differ on {shape}: {results['oracle'].tolist()} and {results['finish'].tolist()}"
        )


def _first_of(samples: Samples) -> Samples:
    """The first two items."""
    if isinstance(samples, GaussianSamples):
        return samples._replace(mean_TB=samples.mean_TB[:, :2], variance_TB=samples.variance_TB[:, :2])  # type: ignore[index]
    return samples[:, :2]


def _example(likelihood: str) -> Samples:
    """Outputs of a few passes: unsure items, and sure ones."""
    import torch

    values = _PASSES * _ITEMS * _OUTPUTS[likelihood]
    x_TBC = torch.linspace(-40, 41, values, dtype=torch.float64).sin().view(_PASSES, _ITEMS, -1)
    return samples_of(x_TBC * torch.tensor([0.1, 1, 2, 4, 8], dtype=torch.float64)[:, None], likelihood, "logits", None)
