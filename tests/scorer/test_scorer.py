"""Scores of a batch: equal to the float64 formulas, independent of the batch, and honest about models that cannot be scored."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from mcscore import Execution, Scorer
from mcscore.acquisition import oracle_scores
from mcscore.cli.model import grouped
from mcscore.errors import OutputError, SiteError
from mcscore.montecarlo import Strategy
from mcscore.scorer.steps import Steps

from ..montecarlo.zoo import ZOO, GalCNN, TwoHeads, UNet

ALL = ("entropy", "expected_entropy", "bald", "least_confidence", "margin", "variation_ratio", "mean_std")


def gal():
    torch.manual_seed(0)
    return GalCNN().eval(), np.random.default_rng(0).integers(0, 256, (200, 1, 16, 16), dtype=np.uint8)


def logits_of(scorer, items, ids):
    """All passes at once, one by one: the readable way to the same logits."""
    inputs = scorer.inputs(items)
    (logits_TBC,) = scorer.steps.passes.chunks(
        inputs, torch.as_tensor(ids), [torch.arange(scorer.passes)], Strategy("loop")
    )
    return logits_TBC


def test_scores_equal_the_float64_formulas():
    model, items = gal()
    ids = np.arange(1000, 1200)
    scorer = Scorer(model, passes=37, scores=ALL, seed=5)
    scores = scorer(items, ids)
    expected = oracle_scores(logits_of(scorer, items, ids).double(), ALL)
    for name in ALL:
        np.testing.assert_allclose(scores[name].numpy(), expected[name].numpy(), atol=2e-6, err_msg=name)
    assert scores["prediction"].dtype == torch.int32
    np.testing.assert_array_equal(scores["prediction"].numpy(), expected["prediction"].numpy())


@pytest.mark.parametrize("batch", [1, 7, 64, 1000])
def test_scores_do_not_depend_on_batch_size(batch):
    model, items = gal()
    ids = np.arange(len(items))
    whole = Scorer(model, passes=20, scores=ALL)(items, ids)
    scorer = Scorer(model, passes=20, scores=ALL)
    parts = [scorer(items[lo : lo + batch], ids[lo : lo + batch]) for lo in range(0, len(items), batch)]
    for name in ALL:
        np.testing.assert_allclose(
            torch.cat([p[name] for p in parts]).numpy(), whole[name].numpy(), atol=2e-6, err_msg=name
        )


def test_scores_do_not_depend_on_order_or_on_neighbors():
    model, items = gal()
    ids = np.arange(len(items))
    order = np.random.default_rng(1).permutation(len(items))
    scorer = Scorer(model, passes=20)
    straight, shuffled = scorer(items, ids), scorer(items[order], ids[order])
    np.testing.assert_allclose(shuffled["bald"].numpy(), straight["bald"].numpy()[order], atol=2e-6)


def test_the_same_call_gives_the_same_bits():
    model, items = gal()
    scorer = Scorer(model, passes=20)
    scorer.prepare(items, np.arange(200))
    again = Scorer(model, passes=20)
    again.prepare(items[:50], np.arange(50), plan=scorer.describe()["plan"])
    first, second = scorer(items, np.arange(200)), again(items, np.arange(200))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_seed_and_ids_change_the_masks_and_nothing_else_does():
    model, items = gal()
    ids = np.arange(len(items))
    base = Scorer(model, passes=10)(items, ids)["bald"]
    assert not torch.equal(Scorer(model, passes=10, seed=1)(items, ids)["bald"], base)
    assert not torch.equal(Scorer(model, passes=10)(items, ids + 7)["bald"], base)
    torch.manual_seed(99)
    assert torch.equal(Scorer(model, passes=10)(items, ids)["bald"], base)


def test_chunks_of_passes_give_the_same_scores():
    """A small memory budget splits the passes; the scores stay."""
    model, items = gal()
    ids = np.arange(40)
    whole, split = (
        Scorer(model, passes=50, scores=ALL),
        Scorer(model, passes=50, scores=ALL, execution=Execution(memory=30_000)),
    )
    expected, scores = whole(items[:40], ids), split(items[:40], ids)
    assert split.describe()["plan"]["passes"] < 50 <= whole.describe()["plan"]["passes"]
    for name in ALL:
        np.testing.assert_allclose(scores[name].numpy(), expected[name].numpy(), atol=2e-6, err_msg=name)


def test_a_device_without_enough_memory_gets_smaller_steps(monkeypatch):
    model, items = gal()
    ids = np.arange(40)
    expected = Scorer(model, passes=20)(items[:40], ids)
    scorer, tried = Scorer(model, passes=20), []
    scorer.prepare(items, np.arange(200))
    step = Steps.scores

    def small_device(self, inputs, ids_B):
        tried.append(len(ids_B))
        if len(ids_B) > 7:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return step(self, inputs, ids_B)

    monkeypatch.setattr(Steps, "scores", small_device)
    with pytest.warns(UserWarning, match="has no memory for .* items x 20 passes at a time"):
        scores = scorer(items[:40], ids)
    assert max(tried) == 40
    np.testing.assert_allclose(scores["bald"].numpy(), expected["bald"].numpy(), atol=2e-6)

    monkeypatch.setattr(Steps, "scores", lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError("CUDA out of memory")))
    with pytest.raises(torch.OutOfMemoryError):
        scorer(items[:40], ids)


@pytest.mark.parametrize("name", ["mlp", "resnet-blocks", "vit", "lstm", "stochastic-depth", "branching"])
def test_models_of_every_path_are_scored(name):
    make, data = ZOO[name]
    torch.manual_seed(0)
    model, x = make(), data(9)
    scores = Scorer(model, passes=12, scores=("bald", "entropy"))(x, np.arange(9))
    assert torch.isfinite(scores["bald"]).all()
    assert (scores["bald"] <= scores["entropy"] + 1e-6).all()
    assert scores["bald"].max() > 0
    assert model.training


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_models_of_other_precisions_are_scored(dtype):
    model, items = gal()
    expected = Scorer(model, passes=20)(items[:30], np.arange(30))
    scores = Scorer(model.to(dtype), passes=20)(items[:30], np.arange(30))
    tolerance = 2e-6 if dtype == torch.float64 else 0.03  # bfloat16 has 8 bits of mantissa
    np.testing.assert_allclose(scores["entropy"].float().numpy(), expected["entropy"].numpy(), atol=tolerance)


def test_regression_with_predicted_noise():
    torch.manual_seed(0)
    model, x, ids = TwoHeads(), torch.randn(30, 4), np.arange(30)
    scorer = Scorer(model, passes=25, scores=("variance", "bald"), likelihood="gaussian")
    scores = scorer(x, ids)
    expected = oracle_scores(logits_of(scorer, x, ids).double(), ("variance", "bald"), likelihood="gaussian")
    for name in ("variance", "bald", "prediction"):
        np.testing.assert_allclose(scores[name].numpy(), expected[name].numpy(), rtol=1e-4, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("reduction", ["mean", "max", 0.1])
def test_dense_outputs_are_scored_per_pixel_and_reduced(reduction):
    torch.manual_seed(0)
    model, x, ids = UNet(), torch.randn(6, 1, 8, 8), np.arange(6)
    scorer = Scorer(model, passes=15, reduction=reduction)
    scores = scorer(x, ids)
    expected = oracle_scores(logits_of(scorer, x, ids).double(), ("bald", "entropy"), reduction=reduction)
    for name in ("bald", "entropy"):
        np.testing.assert_allclose(scores[name].numpy(), expected[name].numpy(), atol=2e-6, err_msg=name)


class SometimesNaN(nn.Module):
    def __init__(self):
        super().__init__()
        self.drop, self.fc = nn.Dropout(0.5), nn.Linear(4, 3)

    def forward(self, x):
        return self.fc(self.drop(x)) / (x[:, :1] != 0)  # 0 in the first place: x / 0


def test_items_with_logits_that_are_not_finite_are_nan_alone():
    x = torch.rand(5, 4) + 1
    x[3, 0] = 0.0
    scores = Scorer(SometimesNaN(), passes=10)(x, np.arange(5))
    assert torch.isnan(scores["bald"]).tolist() == [False, False, False, True, False]
    assert scores["prediction"][3] == -1


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (lambda h: h[:, 0], r"returned shape \(\d+,\).*unsqueeze"),
        (lambda h: {"logits": h}, r"returned dict.*returns one tensor"),
        (lambda h: (h, h), r"returned tuple"),
        (lambda h: h.argmax(1), r"returned torch.int64, expected logits"),
    ],
)
def test_outputs_of_the_wrong_kind_are_refused(output, message):
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.drop, self.fc = nn.Dropout(0.5), nn.Linear(4, 3)

        def forward(self, x):
            return output(self.fc(self.drop(x)))

    with pytest.raises(OutputError, match=message):
        Scorer(Odd(), passes=4)(torch.randn(5, 4), np.arange(5))


def test_a_model_without_dropout_is_refused():
    with pytest.raises(SiteError, match="no live dropout"):
        Scorer(nn.Linear(4, 3), passes=4)(torch.randn(5, 4), np.arange(5))


def test_scripted_and_exported_models_are_refused_and_compiled_ones_unwrapped():
    torch.manual_seed(0)
    model, x = ZOO["mlp"][0]().eval(), ZOO["mlp"][1](6)
    with pytest.raises(TypeError, match="a scripted module hides its dropout from Python"):
        Scorer(torch.jit.script(model))
    with pytest.raises(TypeError, match="an exported graph has its dropout frozen in"):
        Scorer(torch.export.export(model, (x,)).module())
    wrapped = Scorer(torch.compile(model), 10)
    assert torch.equal(wrapped(x, np.arange(6))["bald"], Scorer(model, 10)(x, np.arange(6))["bald"])


def test_softmax_with_one_class_suggests_sigmoid():
    with pytest.raises(ValueError, match="bernoulli"):
        Scorer(nn.Sequential(nn.Dropout(0.5), nn.Linear(4, 1)), passes=4)(torch.randn(5, 4), np.arange(5))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"passes": 0}, r"passes must lie in 1\.\.65536, got 0"),
        ({"seed": -1}, "seed must fit 64 bits"),
        ({"masks": "both"}, "masks must be 'independent' or 'shared', got 'both'"),
        ({"likelihood": "probit"}, "likelihood must be one of categorical, bernoulli, gaussian, got 'probit'"),
        ({"scores": ("bold",)}, "bold"),
        ({"embedding": "neck"}, "no module named 'neck'"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        Scorer(GalCNN(), **grouped(**arguments))


def test_ids_must_fit_the_items():
    model, items = gal()
    with pytest.raises(ValueError, match="200 items but 3 ids"):
        Scorer(model, passes=2)(items, np.arange(3))
    with pytest.raises(ValueError, match="must not be negative, got -4"):
        Scorer(model, passes=2)(items[:1], np.array([-4]))


def test_an_empty_batch_gives_empty_scores():
    model, items = gal()
    scores = Scorer(model, passes=5)(items[:0], np.empty(0, np.int64))
    assert {name: tuple(s.shape) for name, s in scores.items()} == {"bald": (0,), "entropy": (0,), "prediction": (0,)}


def test_uint8_items_are_scaled_and_normalized():
    model, items = gal()
    scorer = Scorer(model, passes=2)
    scorer.normalize((0.5,), (0.25,))
    expected = (torch.from_numpy(items[:3]).float() / 255 - 0.5) / 0.25
    torch.testing.assert_close(scorer.inputs(items[:3]), expected)
    own = Scorer(model, passes=2, transform=lambda x: x.float() * 2)
    torch.testing.assert_close(own.inputs(items[:3]), torch.from_numpy(items[:3]).float() * 2)


def test_embeddings_are_the_input_of_the_last_linear():
    model, items = gal()
    scorer = Scorer(model, passes=2)
    seen = []
    handle = model.dense2.register_forward_pre_hook(lambda _m, args: seen.append(args[0]))
    with torch.no_grad():
        model(scorer.inputs(items[:5]))
    handle.remove()
    np.testing.assert_array_equal(scorer.embed(items[:5], np.arange(5)), seen[0].numpy())
    named = Scorer(model, passes=2, embedding="conv1")
    assert named.embed(items[:5]).shape == (5, 4 * 13 * 13)


def test_the_fingerprint_tells_models_apart():
    model, _ = gal()
    first = Scorer(model).fingerprint
    assert first == Scorer(model).fingerprint
    with torch.no_grad():
        model.dense2.bias[0] += 1e-6
    second = Scorer(model).fingerprint
    model.drop1.p = 0.3
    assert len({first, second, Scorer(model).fingerprint}) == 3


def test_the_plan_reads_as_a_table():
    model, items = gal()
    text = Scorer(model, passes=100).plan(items)
    assert "drop1" in text
    assert "0.25" in text
    assert "path: vmap" in text
    assert "computed once per item" in text
