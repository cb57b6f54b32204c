"""Checks that judge settings, weights and predictions, each as a function of what was seen; and what becomes of findings."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import mcscore
from mcscore import CheckError, Pool, Scorer, score_pool
from mcscore.scorer.checks import CHECKS
from mcscore.scorer.checks.seen import Answer, Norm, Seen, Values


def seen(votes: Any, C: int = 4, labels: Any = None, norm: Norm | None = None, **more: Any) -> Seen:
    """What the checks look at, for a model that predicts these classes, rather surely."""
    votes = np.asarray(votes)
    p_BC = np.full((len(votes), C), 0.1 / (C - 1))
    p_BC[np.arange(len(votes)), votes] = 0.9
    p_BC[:, 0] += np.linspace(0, 1e-3, len(votes))
    labels = np.full(len(votes), -1) if labels is None else np.asarray(labels)
    values = Values((3, 8, 8), "uint8", 0.0, 255.0, 120.0, 60.0)
    given = {
        "likelihood": "categorical",
        "passes": 50,
        "scores": ("bald",),
        "items": values,
        "input": values,
        "spread": len(votes),
    }
    return Seen(model="Net", answer=Answer(p_BC, norm, C), labels_B=labels, **{**given, **more})


def said(name: str, what: Seen) -> str | None:
    """What one check says, where no other says anything."""
    others = {other: check(what) for other, check in CHECKS.items() if other != name}
    assert not any(others.values()), others
    return CHECKS[name](what)


VARIED = np.arange(40) % 4


def test_one_class_name_too_many_is_told() -> None:
    assert said("classes", seen(VARIED, classes=list("abcd"))) is None
    text = said("classes", seen(VARIED, classes=list("abcde")))
    assert text is not None
    assert "gives 4 outputs, and the pool has 5 class names" in text
    assert said("classes", seen(VARIED % 2, C=2, classes=list("abc"), likelihood="bernoulli")) is not None
    assert said("classes", seen(VARIED, classes=list("abc"), likelihood="gaussian")) is None


def test_a_label_without_an_output_is_told() -> None:
    labels = np.where(np.arange(40) == 3, 4, -1)
    text = said("labels", seen(VARIED, labels=labels))
    assert text is not None
    assert "the label 4, and Net gives 4 outputs, 0 to 3" in text
    assert said("labels", seen(VARIED, labels=np.where(np.arange(40) == 3, 3, -1))) is None


@pytest.mark.parametrize(
    ("scores", "zero"), [(("bald", "entropy"), "bald is 0"), (("bald", "mean_std"), "bald and mean_std are 0")]
)
def test_one_pass_is_too_few_for_scores_of_spread(scores: tuple[str, ...], zero: str) -> None:
    text = said("passes", seen(VARIED, passes=1, scores=scores))
    assert text is not None
    assert zero in text
    assert said("passes", seen(VARIED, passes=2, scores=scores)) is None
    assert said("passes", seen(VARIED, passes=1, scores=("entropy", "margin"))) is None


def test_a_mean_of_255_units_is_told() -> None:
    text = said("units", seen(VARIED, mean_std=((123.7, 116.3, 103.5), (58.4, 57.1, 57.4))))
    assert text is not None
    assert "the mean 123.7, 116.3, 103.5" in text
    assert said("units", seen(VARIED, mean_std=((0.5,), (0.25,)))) is None
    of_floats = Values((4,), "float32", 0.0, 255.0, 120.0, 60.0)
    assert said("units", seen(VARIED, mean_std=((123.7,), (58.4,)), items=of_floats)) is None


def test_outputs_that_are_not_finite_are_counted() -> None:
    what = seen(VARIED)
    what.answer.p_BC[[3, 5], 1] = np.nan
    text = said("finite", what)
    assert text is not None
    assert "NaN or infinity for 2 of 40 items" in text


def test_a_constant_output_is_told_of_any_likelihood() -> None:
    for likelihood in ("categorical", "bernoulli", "gaussian"):
        constant = dataclasses.replace(
            seen(VARIED, likelihood=likelihood), answer=Answer(np.full((40, 4), 0.25), None, 4)
        )
        text = said("collapse", constant)
        assert text is not None
        assert "the same output for all 40 items" in text


def test_one_class_for_nearly_all_is_told_unless_labels_agree() -> None:
    votes = np.where(np.arange(40) < 39, 2, 1)
    text = said("collapse", seen(votes))
    assert text is not None
    assert "class 2 for 98% of 40 items" in text
    assert said("collapse", seen(np.where(np.arange(40) < 36, 2, 1))) is None  # may well be
    most = np.where(np.arange(40) < 35, 2, 3)
    assert said("collapse", seen(votes, labels=most)) is None


def test_background_in_most_pixels_of_every_item_is_no_collapse() -> None:
    background = seen(np.full(40, 2), labels=np.arange(40) % 4)
    assert CHECKS["collapse"](background) is not None
    dense = dataclasses.replace(background, answer=dataclasses.replace(background.answer, dense=True))
    assert not any(check(dense) for check in CHECKS.values())


def test_three_quarters_in_one_class_are_told_where_labels_say_otherwise() -> None:
    votes = np.where(np.arange(40) < 32, 2, np.arange(40) % 4)
    labels = np.arange(40) // 2 % 4
    assert CHECKS["collapse"](seen(votes, labels=labels)) is not None
    assert CHECKS["collapse"](seen(votes, labels=np.where(np.arange(40) < 30, 2, 1))) is None


def test_agreement_by_chance_is_told_and_another_order_of_classes_named() -> None:
    labels = np.arange(60) % 4
    assert said("agreement", seen(labels, labels=labels)) is None
    text = said("agreement", seen((labels + 1 + np.arange(60) // 4 % 3) % 4, labels=labels))
    assert text is not None
    assert "0 of 60 labeled items, as many as by chance: the model does not know this task" in text
    turned = said("agreement", seen((labels + 1) % 4, labels=labels, classes=list("abcd")))
    assert turned is not None
    assert "0 ('a') as 1 ('b')" in turned
    assert "100% if classes are numbered otherwise" in turned


def test_statistics_of_a_new_batch_norm_are_told() -> None:
    zero, one = np.zeros(5), np.ones(5)
    text = said("statistics", seen(VARIED, norm=Norm("bn1", zero + 0.3, one * 0.2, zero, one)))
    assert text is not None
    assert "BatchNorm 'bn1' of Net has the running statistics of a new one" in text
    assert said("statistics", seen(VARIED, norm=Norm("bn1", zero + 0.3, one * 0.2, zero + 0.1, one * 0.3))) is None
    far = said("statistics", seen(VARIED, norm=Norm("bn1", zero + 9, one * 0.2, zero + 0.1, one * 0.3)))
    assert far is not None
    assert "lies 5 nats" in far


def test_the_distance_is_the_divergence_of_normal_distributions() -> None:
    norm = Norm("bn", np.array([1.0, 0.0, 3.0]), np.array([2.0, 0.25, 1.0]), np.zeros(3), np.array([1.0, 1.0, 1e-9]))
    ours = torch.distributions.Normal(torch.tensor([1.0, 0.0]), torch.tensor([2.0, 0.25]).sqrt())
    expected = torch.distributions.kl_divergence(
        ours, torch.distributions.Normal(0.0, 1.0)
    ).mean()  # the third one is dead
    assert norm.distance == pytest.approx(float(expected), rel=1e-6)


# -- weights, and what becomes of findings ---------------------------------------------------------------------------------

NET = """
import torch
from torch import nn

def build():
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.Dropout(), nn.Linear(8, 3))

def seeded():
    torch.manual_seed(5)
    return build()
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "net.py").write_text(NET)
    monkeypatch.delitem(sys.modules, "net", raising=False)
    return tmp_path


def scorer_of(folder: Path, name: str, **more: Any) -> Scorer:
    from mcscore.recipe import FromSpec

    return FromSpec(f"{folder / 'net.py'}:{name}", options={"passes": 5, **more}).build("cpu")


def pool_of(folder: Path, **more: Any) -> Pool:
    items = np.random.default_rng(0).integers(0, 256, (50, 1, 4, 4), dtype=np.uint8)
    return Pool.create(folder / "pool", items, **more)


def test_random_weights_are_told_before_scoring(folder: Path) -> None:
    with pytest.warns(UserWarning, match="Sequential has other parameters each time it is built") as told:
        run = score_pool(pool_of(folder), scorer_of(folder, "build"), folder / "run")
    assert run.meta["findings"][0]["check"] == "weights"
    assert run.meta["findings"][0]["text"] in str(told[0].message)


def test_weights_that_are_built_in_are_not(folder: Path, recwarn: pytest.WarningsRecorder) -> None:
    run = score_pool(pool_of(folder), scorer_of(folder, "seeded"), folder / "run")
    assert "weights" not in [each["check"] for each in run.meta["findings"]]
    assert not any("each time it is built" in str(each.message) for each in recwarn)


def test_strict_writes_nothing(folder: Path) -> None:
    pool = pool_of(folder, classes=list("abcd"))
    with pytest.raises(
        CheckError, match=r"nothing was scored.*\(1\) .*random.*\(2\) .*3 outputs, and the pool has 4 class names"
    ):
        score_pool(pool, scorer_of(folder, "build"), folder / "run", check="strict")
    assert not (folder / "run").exists()


def test_off_does_not_look(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Scorer, "look", lambda *_: pytest.fail("looked"))
    run = score_pool(pool_of(folder), scorer_of(folder, "build"), folder / "run", check="off")
    assert run.complete
    with pytest.raises(mcscore.RunError, match="check must be one of off, warn, strict, not 'loud'"):
        score_pool(Pool.open(folder / "pool"), scorer_of(folder, "build"), folder / "other", check="loud")  # type: ignore[arg-type]


def test_what_workers_find_comes_back(folder: Path) -> None:
    from mcscore.recipe import FromSpec

    recipe = FromSpec(f"{folder / 'net.py'}:seeded", options={"passes": 5})
    with pytest.raises(CheckError, match="3 outputs, and the pool has 4 class names"):
        score_pool(
            pool_of(folder, classes=list("abcd")), recipe, folder / "run", workers=1, device="cpu", check="strict"
        )
    assert not (folder / "run").exists()


def test_looking_changes_neither_scores_nor_model(folder: Path) -> None:
    pool = pool_of(folder)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Dropout(), nn.Linear(16, 3)).eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.warns(UserWarning, match="running statistics of a new one"):
        looked = score_pool(pool, Scorer(model, passes=5), folder / "run")
    plain = score_pool(pool, Scorer(model, passes=5), folder / "plain", check="off")
    np.testing.assert_array_equal(looked.scores("bald"), plain.scores("bald"))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_items_that_cannot_be_used_are_left_out_of_the_sample(folder: Path) -> None:
    from mcscore.run.scoring.sample import sample_of

    labels = np.full(50, -1)
    labels[10:14] = [2, 0, 1, 2]
    pool = pool_of(folder, labels=labels)
    pool.set_excluded([0, 11], True)
    sample = sample_of(pool)
    kept = [at for at in range(50) if at not in (0, 11)]
    assert sample.spread == 48
    np.testing.assert_array_equal(sample.items_B, pool.read(0, 50)[kept])
    np.testing.assert_array_equal(sample.labels_B, labels[kept])


def test_the_sample_lies_all_over_a_pool_and_has_each_item_once(folder: Path) -> None:
    from mcscore.run.scoring.sample import sample_of

    items = np.arange(1000, dtype=np.float32)[:, None]
    labels = np.where(np.arange(1000) % 3 == 0, np.arange(1000), -1)
    sample = sample_of(Pool.create(folder / "wide", items, labels=labels))
    ids = sample.items_B[:, 0].astype(int)
    assert sample.spread == 64
    assert (ids[0], ids[63], int((np.diff(ids[:64]) != 1).sum())) == (0, 999, 7)  # eight runs
    assert len(np.unique(ids)) == len(ids) > 64 + 100
    np.testing.assert_array_equal(sample.labels_B, labels[ids])
    assert (sample.labels_B[64:] >= 0).all()
