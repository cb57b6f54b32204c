"""The checks of model and input: 16 mistakes are told, and of 20 healthy models nothing is said. All are trained on real data."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mcscore import Pool, Scorer
from mcscore.run.scoring.normalize import own_scorer
from mcscore.run.scoring.sample import sample_of
from mcscore.scorer.checks import Finding

from .trained import CIFAR, IMAGENET, MNIST, Patches, Standardize, cifar, convnet, mlp, mnist, train

OF_CIFAR = {"mean": (0.4914, 0.4822, 0.4465), "std": (0.247, 0.2435, 0.2616)}
OF_IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
OF_MNIST = {"mean": 0.1307, "std": 0.3081}
HALF = {"mean": 0.5, "std": 0.5}


def unit(images: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(images.copy()).float() / 255


def tensor(labels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(labels.copy()).long()


def some(labels: np.ndarray, n: int = 250) -> np.ndarray:
    """The labels of n items, the others -1."""
    shown = np.full(len(labels), -1)
    at = np.random.default_rng(0).permutation(len(labels))[:n]
    shown[at] = labels[at]
    return shown


def tokens(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Texts (n, 20) of 100 words, of three topics that prefer different words."""
    random = np.random.default_rng(0)
    topics, words = random.integers(0, 3, n), random.integers(0, 100, (n, 20))
    own = random.random((n, 20)) < 0.4
    return np.where(own, topics[:, None] * 30 + words % 30, words).astype(np.uint8), topics


class Text(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words, self.norm = nn.Embedding(100, 16), nn.LayerNorm(16)
        self.drop, self.head = nn.Dropout(0.2), nn.Linear(16, 3)

    def forward(self, words_BL: torch.Tensor) -> torch.Tensor:
        return self.head(self.drop(self.norm(self.words(words_BL).mean(1))))


class Models:
    """The models, each trained once, and what they are shown. Pools hold what no model was trained on."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        images, labels = cifar(folder)
        self.colors, self.of_colors = images[3000:], labels[3000:].astype(int)
        digits, of_digits = mnist(folder)
        self.digits, self.of_digits = digits[5000:6000], of_digits[5000:6000].astype(int)

    @functools.cached_property
    def wine(self) -> tuple[np.ndarray, np.ndarray]:
        file = np.load(self.folder / "uci-regression" / "wine-quality-red.npz")
        return file["X"].astype(np.float32), file["y"]

    @functools.cache  # noqa: B019  (one object, for the module)
    def colored(self, kind: str) -> nn.Module:
        images, labels = cifar(self.folder)
        x, y = unit(images[:3000]), tensor(labels[:3000])
        torch.manual_seed(1)
        if kind == "batch":
            return train(convnet(3), (x - CIFAR[0]) / CIFAR[1], y, 4)
        if kind == "none":
            return train(convnet(3, norm="none"), (x - IMAGENET[0]) / IMAGENET[1], y, 5)
        assert kind == "mlp"
        return train(mlp(3072), x, y, 5)

    @functools.cache  # noqa: B019
    def digit(self, kind: str, epochs: int = 1) -> nn.Module:
        images, labels = mnist(self.folder)
        x, y = unit(images[:4000]), tensor(labels[:4000])
        torch.manual_seed(1)
        normal = (x - MNIST[0]) / MNIST[1]
        nets: dict[str, Callable[[], tuple[nn.Module, torch.Tensor]]] = {
            "batch": lambda: (convnet(1), normal),
            "half": lambda: (convnet(1), (x - 0.5) / 0.5),
            "group": lambda: (convnet(1, norm="group"), normal),
            "patches": lambda: (Patches(1), normal),
            "unit": lambda: (convnet(1), x),
            "raw": lambda: (convnet(1), x * 255),
            "inside": lambda: (nn.Sequential(Standardize(MNIST), *convnet(1, norm="none")), x),
            "layer": lambda: (mlp(784, norm="layer"), x),
            "two": lambda: (convnet(1, C=2), normal),
        }
        model, given = nets[kind]()
        return train(model, given, (y == 3).long() if kind == "two" else y, epochs)

    @functools.cache  # noqa: B019
    def tabular(self, kind: str) -> nn.Module:
        x, y = (torch.from_numpy(part).float() for part in self.wine)
        torch.manual_seed(1)
        standard = (x - x.mean(0)) / x.std(0)
        if kind == "classes":
            return train(mlp(11, C=3, norm="batch"), standard, self.of_wine(), 8)
        if kind == "raw":
            return train(nn.Sequential(nn.BatchNorm1d(11), *mlp(11, C=3)), x, self.of_wine(), 8)
        if kind == "labels":
            target = torch.stack([y > 5, x[:, 10] > 10, x[:, 1] > 0.5], 1).float()
            return train(mlp(11, C=3), standard, target, 8, F.binary_cross_entropy_with_logits)
        assert kind == "number"
        return train(mlp(11, C=1), standard, (y - y.mean())[:, None] / y.std(), 8, F.mse_loss)

    def of_wine(self) -> torch.Tensor:
        return torch.bucketize(torch.from_numpy(self.wine[1]), torch.tensor([5.5, 6.5]).double())

    def standard_wine(self) -> np.ndarray:
        x = self.wine[0]
        return (x - x.mean(0)) / x.std(0)

    @functools.cache  # noqa: B019
    def text(self) -> nn.Module:
        words, topics = tokens(2000)
        torch.manual_seed(1)
        return train(Text(), tensor(words), tensor(topics), 3)


@pytest.fixture(scope="module")
def models(data_dir: Path) -> Models:
    return Models(data_dir)


def looked(folder: Path, model: nn.Module, items: np.ndarray, labels: Any = None, **more: Any) -> tuple[Finding, ...]:
    """What the checks find for a model and a pool."""
    facts = {name: more.pop(name) for name in ("mean", "std", "classes") if name in more}
    pool = Pool.create(folder / "pool", np.ascontiguousarray(items), labels=labels, **facts)
    scorer = own_scorer(Scorer(model, passes=more.pop("passes", 8), **more), pool)
    return scorer.look(sample_of(pool))


def hwc(images: np.ndarray) -> np.ndarray:
    return images.transpose(0, 2, 3, 1)


def viewed(x: torch.Tensor) -> torch.Tensor:
    return (x.reshape(-1, 3, 32, 32).float() / 255 - CIFAR[0]) / CIFAR[1]


Case = Callable[[Models], tuple[nn.Module, np.ndarray, dict[str, Any]]]

# name: (what the finding says, the case)
WRONG: dict[str, tuple[str, Case]] = {
    "forgotten, BatchNorm, colors": ("--mean 0.49", lambda m: (m.colored("batch"), m.colors, {})),
    "forgotten, BatchNorm, digits": ("of MNIST", lambda m: (m.digit("batch"), m.digits, {})),
    "forgotten, [-1, 1]": ("[-1, 1]", lambda m: (m.digit("half"), m.digits, {})),
    "forgotten, no norm": (
        "normalized by mean and std of",
        lambda m: (m.colored("none"), m.colors, {"labels": some(m.of_colors)}),
    ),
    "forgotten, GroupNorm": (
        "of MNIST",
        lambda m: (m.digit("group", 3), m.digits, {"labels": some(m.of_digits)}),
    ),
    "forgotten, transformer": ("of MNIST", lambda m: (m.digit("patches", 3), m.digits, {"labels": some(m.of_digits)})),
    "normalized twice": (
        "without the pool's mean and std",
        lambda m: (m.digit("unit"), m.digits, OF_MNIST),
    ),
    "normalized by 0.5, trained by MNIST's": (
        "by mean and std of MNIST in place of the pool's",
        lambda m: (m.digit("batch"), m.digits, HALF),
    ),
    "mean and std exchanged": (
        "by mean and std of CIFAR-10 in place of the pool's",
        lambda m: (
            m.colored("batch"),
            m.colors,
            {"labels": some(m.of_colors), "mean": OF_CIFAR["std"], "std": OF_CIFAR["mean"]},
        ),
    ),
    "scaled to [0, 1], trained on 0..255": ("multiplied by 255", lambda m: (m.digit("raw"), m.digits, {})),
    "transform without / 255": (
        "divided by 255",
        lambda m: (m.digit("unit"), m.digits, {"transform": lambda x: x.float()}),
    ),
    "view in place of permute": (
        "permute(0, 3, 1, 2)",
        lambda m: (m.colored("batch"), hwc(m.colors), {"transform": viewed}),
    ),
    "BGR": (
        "x.flip(1)",
        lambda m: (m.colored("batch"), m.colors[:, ::-1], {"labels": some(m.of_colors), **OF_CIFAR}),
    ),
    "height and width swapped": (
        "height and width swapped",
        lambda m: (m.digit("batch"), m.digits.transpose(0, 1, 3, 2), {"labels": some(m.of_digits), **OF_MNIST}),
    ),
    "HWC for CHW": (
        "channels first (CHW)",
        lambda m: (m.colored("mlp"), hwc(m.colors), {"labels": some(m.of_colors)}),
    ),
    "features as they are": ("standard deviation 1 in every feature", lambda m: (m.tabular("classes"), m.wine[0], {})),
}


@pytest.mark.parametrize("name", WRONG)
def test_mistakes_in_the_input_are_told(name: str, models: Models, tmp_path: Path) -> None:
    says, case = WRONG[name]
    model, items, more = case(models)
    found = looked(tmp_path, model, items, **more)
    assert [each.check for each in found] == ["input"], found
    assert says.lower() in found[0].text.lower()


def uneven(models: Models, share: float) -> np.ndarray:
    """Positions of digits of which so many are threes."""
    threes, others = np.flatnonzero(models.of_digits == 3), np.flatnonzero(models.of_digits != 3)
    at = np.concatenate([threes, others[: int(len(threes) * (1 / share - 1))]])
    return np.random.default_rng(0).permutation(at)


def uneven_case(models: Models, share: float, **more: Any) -> tuple[nn.Module, np.ndarray, dict[str, Any]]:
    at = uneven(models, share)
    labels = {"labels": some(models.of_digits[at], 60)} if more.pop("labeled", False) else {}
    return models.digit(more.pop("model", "batch")), models.digits[at], {**OF_MNIST, **labels, **more}


RIGHT: dict[str, Case] = {
    "BatchNorm, colors": lambda m: (m.colored("batch"), m.colors, {"labels": some(m.of_colors), **OF_CIFAR}),
    "BatchNorm, colors, no labels": lambda m: (m.colored("batch"), m.colors, OF_CIFAR),
    "no norm, colors": lambda m: (m.colored("none"), m.colors, {"labels": some(m.of_colors), **OF_IMAGENET}),
    "no norm, colors, no labels": lambda m: (m.colored("none"), m.colors, OF_IMAGENET),
    "Linear, [0, 1]": lambda m: (m.colored("mlp"), m.colors, {"labels": some(m.of_colors)}),
    "Linear, [0, 1], no labels": lambda m: (m.colored("mlp"), m.colors, {}),
    "LayerNorm, [0, 1]": lambda m: (m.digit("layer"), m.digits, {"labels": some(m.of_digits)}),
    "GroupNorm": lambda m: (m.digit("group"), m.digits, OF_MNIST),
    "transformer": lambda m: (m.digit("patches", 3), m.digits, {"labels": some(m.of_digits), **OF_MNIST}),
    "normalization in the model": lambda m: (m.digit("inside"), m.digits, {"labels": some(m.of_digits)}),
    "values of 0..255, by a transform": lambda m: (m.digit("raw"), m.digits, {"transform": lambda x: x.float()}),
    "[0, 1] with BatchNorm": lambda m: (m.digit("unit"), m.digits, {"classes": list("0123456789")}),
    "normalized by a transform": lambda m: (
        m.digit("half"),
        m.digits,
        {"transform": lambda x: x.float() / 127.5 - 1.0, "labels": some(m.of_digits)},
    ),
    "features": lambda m: (m.tabular("classes"), m.standard_wine(), {"labels": some(m.of_wine().numpy())}),
    "features, BatchNorm first": lambda m: (m.tabular("raw"), m.wine[0], {"labels": some(m.of_wine().numpy())}),
    "several labels": lambda m: (m.tabular("labels"), m.standard_wine(), {"likelihood": "bernoulli"}),
    "regression": lambda m: (
        m.tabular("number"),
        m.standard_wine(),
        {"likelihood": "gaussian", "scores": ("variance",)},
    ),
    "text": lambda m: (m.text(), tokens(3000)[0][2000:], {"transform": lambda x: x.long(), "classes": list("abc")}),
    "most items of one class": lambda m: uneven_case(m, 0.85),
    "most items of one class, labels": lambda m: uneven_case(m, 0.9, labeled=True),
    "all items of one of two classes": lambda m: (m.digit("two"), m.digits[m.of_digits != 3], OF_MNIST),
    "darker than in training": lambda m: (m.digit("batch"), (m.digits * 0.75).astype(np.uint8), OF_MNIST),
    "sorted by class": lambda m: (
        m.digit("batch"),
        m.digits[np.argsort(m.of_digits, kind="stable")],
        {"labels": some(np.sort(m.of_digits)), **OF_MNIST},
    ),
    "five items": lambda m: (m.digit("batch"), m.digits[:5], OF_MNIST),
}


@pytest.mark.parametrize("name", RIGHT)
def test_of_healthy_models_nothing_is_said(name: str, models: Models, tmp_path: Path) -> None:
    model, items, more = RIGHT[name](models)
    assert looked(tmp_path, model, items, **more) == ()


def test_the_mistakes_and_models_are_as_many_as_promised() -> None:
    assert len(WRONG) >= 12
    assert len(RIGHT) >= 20
