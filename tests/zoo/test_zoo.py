"""Real architectures are driven with the statistics of plain PyTorch, or refused by name; the user's model stays as it was."""

from __future__ import annotations

import copy
import gc
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from mcscore.errors import SiteError
from mcscore.montecarlo import Passes, Strategy
from mcscore.montecarlo.ops.intercept import call_model

from .entry import Entry, first, rows
from .models import MODELS

IDS = torch.tensor([12, 5, 2**40 + 1])
PASSES = 200
LOGITS = 48  # of dense outputs that many are looked at, evenly spread
DRIVEN = [name for name, entry in MODELS.items() if entry.refused is None]
REFUSED = [name for name, entry in MODELS.items() if entry.refused is not None]


@pytest.fixture
def entry(name: str) -> Iterator[Entry]:
    found = MODELS[name]
    pytest.importorskip(found.package)
    yield found
    gc.collect()  # models hold cycles; without this some hundred of them wait for the collector


def run(passes: Passes, inputs: Any, ids: Tensor, T: int, strategy: Strategy, chunk: int = 50) -> Tensor:
    return torch.cat(list(passes.chunks(inputs, ids, list(torch.arange(T).split(chunk)), strategy)))


def plain_passes(entry: Entry, model: nn.Module, inputs: Any, T: int) -> Tensor:
    """The baseline everybody writes: dropout left on, normalization in evaluation, one pass after another."""
    model = copy.deepcopy(model).train()
    for name, module in model.named_modules():
        if hasattr(module, "running_mean"):
            module.eval()
        if entry.sites is not None and isinstance(module, nn.Dropout) and name not in entry.sites:
            module.eval()
    torch.manual_seed(2)
    with torch.no_grad():
        return torch.stack([call_model(model, inputs) for _ in range(T)])


def variance_error(samples_TN: Tensor) -> Tensor:
    """Squared standard error of the variance, (mu_4 - sigma^4) / T."""
    centered = samples_TN - samples_TN.mean(0)
    return ((centered**4).mean(0) - centered.var(0) ** 2).clamp_min(0) / len(samples_TN)


def largest_z(difference_N: Tensor, squared_error_N: Tensor, rounding: float) -> float:
    return float(((difference_N.abs() - rounding).clamp_min(0) / squared_error_N.sqrt().clamp_min(rounding)).max())


def few(logits_TBC: Tensor) -> Tensor:
    flat = logits_TBC.flatten(1).double()
    return flat[:, torch.linspace(0, flat.shape[1] - 1, min(LOGITS, flat.shape[1])).long()]


def rounding_of(model: nn.Module, inputs: Any) -> float:
    """What float32 alone does to the logits of plain evaluation: 1e-4 of the largest in an untrained EfficientNet."""
    exact = copy.deepcopy(model).eval().double()
    with torch.no_grad():
        rounded = call_model(copy.deepcopy(model).eval(), inputs)
        wide = tree_map_only(Tensor, lambda x: x.double() if x.is_floating_point() else x, inputs)
        return float((rounded - call_model(exact, wide)).abs().max())


def states() -> tuple[Tensor, Any, tuple[Any, ...]]:
    return torch.get_rng_state(), random.getstate(), np.random.get_state()  # noqa: NPY002  the global one is meant


@pytest.mark.parametrize("name", DRIVEN)
def test_driven_models_have_the_statistics_of_plain_pytorch(entry: Entry) -> None:
    """z-tests of mean and variance of up to 48 logits of a model.

    The variance is that of 200 passes: with a limit of 4 standard errors a scale that is off by half, as rescaling left
    out gives at p = 0.3, shows at once.
    """
    model, x = entry.build(3)
    passes, strategy = entry.prepare(model, x)
    ours = few(run(passes, x, IDS, PASSES, strategy))
    theirs = few(plain_passes(entry, model, x, PASSES))
    assert ours.isfinite().all()
    assert (ours.std(0) > 0).any()
    rounding = 1e-5 * float(theirs.abs().max())
    mean = largest_z(ours.mean(0) - theirs.mean(0), (ours.var(0) + theirs.var(0)) / PASSES, rounding)
    variance = largest_z(
        ours.var(0) - theirs.var(0),
        variance_error(ours) + variance_error(theirs),
        rounding * float(theirs.std(0).max()),
    )
    assert mean < 4, f"mean: |z| = {mean:.1f} on path {strategy.path}"
    assert variance < 4, f"variance: |z| = {variance:.1f} on path {strategy.path}"


@pytest.mark.parametrize("name", DRIVEN)
def test_driven_models_do_not_depend_on_the_batch_and_stay_as_they_were(entry: Entry) -> None:
    model, x = entry.build(3)
    for module in list(model.modules())[::2]:  # flags no mode sets by itself
        module.training = True
    before = {key: value.detach().clone() for key, value in (*model.named_parameters(), *model.named_buffers())}
    own_rounding = rounding_of(model, x)
    inputs, flags = copy.deepcopy(x), [module.training for module in model.modules()]
    hooks = [(len(module._forward_hooks), len(module._forward_pre_hooks)) for module in model.modules()]
    random_states = states()

    passes, strategy = entry.prepare(model, x)
    whole = run(passes, x, IDS, 6, strategy)
    alone = torch.cat([run(passes, rows(x, slice(i, i + 1)), IDS[i : i + 1], 6, strategy) for i in range(3)], dim=1)

    allowed = max(1e-5 * float(whole.abs().max()), 8 * own_rounding)
    differ = float((alone - whole).abs().max())
    assert differ <= allowed, (
        f"batch and one by one differ by {differ:.1e}, path {strategy.path}, scale {float(whole.abs().max()):.1e}"
    )
    after = dict((*model.named_parameters(), *model.named_buffers()))
    assert after.keys() == before.keys()
    assert not [key for key, value in after.items() if not torch.equal(value, before[key])]
    assert [module.training for module in model.modules()] == flags
    assert [(len(module._forward_hooks), len(module._forward_pre_hooks)) for module in model.modules()] == hooks
    torch.testing.assert_close(x, inputs, rtol=0, atol=0)
    torch_now, python_now, numpy_now = states()
    assert torch.equal(torch_now, random_states[0])
    assert python_now == random_states[1]
    assert all(np.array_equal(a, b) for a, b in zip(numpy_now, random_states[2], strict=True))


@pytest.mark.parametrize("name", REFUSED)
def test_refused_models_are_refused_for_the_reason_named(entry: Entry) -> None:
    assert entry.refused is not None
    model, x = entry.build(3)
    before = {key: value.detach().clone() for key, value in model.state_dict().items()}
    with pytest.raises(SiteError) as error:
        entry.prepare(model, x)
    assert entry.refused in str(error.value).lower()
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not any(module.training for module in model.modules())


def test_weights_swapped_by_an_average_are_the_ones_scored() -> None:
    """torch_ema writes through ``.data``, which no version counter sees."""
    torch_ema = pytest.importorskip("torch_ema")
    model = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Dropout(0.3), nn.Linear(64, 3))
    average = torch_ema.ExponentialMovingAverage(model.parameters(), decay=0.5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter))
    average.update()
    x = torch.randn(3, 8)
    from mcscore import Scorer

    scorer = Scorer(model, passes=20, seed=1)
    raw = scorer(x, IDS)["bald"]
    with average.average_parameters():
        averaged = scorer(x, IDS)["bald"]
        fresh = Scorer(copy.deepcopy(model), passes=20, seed=1)(x, IDS)["bald"]
    assert not torch.allclose(raw, averaged)
    torch.testing.assert_close(averaged, fresh)
    torch.testing.assert_close(scorer(x, IDS)["bald"], raw)


def test_first_takes_items_of_every_argument() -> None:
    assert first({"a": torch.arange(4), "b": torch.arange(8).view(4, 2)}, 2)["b"].shape == (2, 2)
