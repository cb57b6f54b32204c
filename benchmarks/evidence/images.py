"""Classes of photographs from few labels, and what their probabilities are worth: MC dropout in a ResNet on a part of CIFAR-10.

3,000 training images are the pool, all of which is scored in each round, and 1,000 test images the test. From 100 labels,
ten of each class, 100 more in each round; a small ResNet with dropout inside its blocks is trained anew in each round. The
network of each round also says how well it is calibrated, with dropout on (mean of the passes) and off, and how often it is
wrong about each tenth of the test images, from the most certain to the least.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mcscore import Pool, Scorer
from mcscore.cycle import cycles
from mcscore.demo import balanced_start

from . import curves
from .data import cifar10
from .experiment import Claim, Setting, above_zero
from .kept import pool_of
from .stats import Floats, calibration_error
from .training import trained

QUESTION = "do labels chosen by uncertainty classify photographs better, and is the uncertainty calibrated?"
DATA = "cifar10-subset"
SEEDS, QUICK_SEEDS = (0, 1, 2, 3, 4), (0, 1, 2, 3, 4)
FIRST, WIDTH, RATE = 100, 16, 0.2
FULL = {"steps": 300, "passes": 20, "rounds": 9, "batch": 100}
SMALL = {"steps": 100, "passes": 10, "rounds": 1, "batch": 400}
METHODS: dict[str, dict[str, Any]] = {
    "BALD": {"select": {"by": "bald", "diversity": "none"}},
    "BALD, power": {"select": {"by": "bald", "diversity": "power"}},
    "BALD, radius": {"select": {"by": "bald", "diversity": "radius"}},
    "entropy": {"select": {"by": "entropy", "diversity": "none"}},
    "random": {"select": "random"},
}
QUICK = ("BALD", "random")
UNSURE = ("entropy", "BALD", "entropy, dropout off")  # by which the tenths are made


class Block(nn.Module):
    """Two convolutions with dropout between them, beside a convolution of 1 x 1, in half the height and width."""

    def __init__(self, inside: int, width: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(inside, width, 3, 2, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.norm2 = nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)
        self.skip, self.drop = nn.Conv2d(inside, width, 1, 2), nn.Dropout(RATE)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.drop(F.relu(self.norm1(self.conv1(x))))
        return F.relu(self.norm2(self.conv2(inner)) + self.skip(x))


class ResNet(nn.Module):
    """Images (B, 3, 32, 32) -> logits (B, 10): a convolution and two blocks, to 16, 32 and 64 channels of 16, 8 and 4 pixels a side."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, WIDTH, 5, 2, 2, bias=False), nn.BatchNorm2d(WIDTH), nn.ReLU())
        self.blocks = nn.Sequential(Block(WIDTH, 2 * WIDTH), Block(2 * WIDTH, 4 * WIDTH))
        self.dense = nn.Linear(4 * WIDTH, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.dense(self.blocks(self.stem(x)).mean((2, 3)))


def fit(pool: Pool, labeled: npt.NDArray[np.int64], seed: int, steps: int) -> nn.Module:
    """A new network; each image of a batch is mirrored or not."""
    x, y = torch.from_numpy(pool.take(labeled)), torch.from_numpy(pool.labels[labeled]).long()

    def loss(model: nn.Module, batch: Tensor) -> Tensor:
        images = x[batch]
        mirrored = torch.where(torch.rand(len(images), 1, 1, 1) < 0.5, images.flip(3), images)
        return F.cross_entropy(model(mirrored), y[batch])

    # channels_last: a step of a CPU takes less time
    return trained(lambda: ResNet().to(memory_format=torch.channels_last), loss, len(y), seed, steps)


def measures(model: nn.Module, images: Tensor, labels: npt.NDArray[np.int32], passes: int) -> dict[str, float]:
    """Accuracy and calibration with dropout on and off, and the error rate in each tenth by uncertainty, 1 the most certain."""
    found = Scorer(model, passes, ("entropy", "bald")).predict(images)
    with torch.no_grad():
        off_NC = model(images).double().softmax(1)
    told: dict[str, float] = {}
    for name, p_NC in (("", found.mean), (", dropout off", off_NC)):
        confidence, predicted = (each.numpy() for each in p_NC.max(1))
        of_label = p_NC.numpy()[np.arange(len(labels)), labels]
        told[f"accuracy{name}"] = float((predicted == labels).mean())
        told[f"ECE{name}"] = calibration_error(confidence, predicted == labels)
        told[f"negative log likelihood{name}"] = float(-np.log(np.maximum(of_label, 1e-12)).mean())
    wrong, wrong_off = ((p_NC.argmax(1).numpy() != labels) for p_NC in (found.mean, off_NC))
    entropy_off = torch.special.entr(off_NC).sum(1)
    by = ((found.scores["entropy"], wrong), (found.scores["bald"], wrong), (entropy_off, wrong_off))
    for name, (score, missed) in zip(UNSURE, by, strict=True):
        tenths = np.array_split(missed[np.argsort(score.numpy(), kind="stable")], 10)
        told |= {f"{name}, tenth {n}": float(each.mean()) for n, each in enumerate(tenths, 1)}
    return told


def run(setting: Setting) -> curves.JSON:
    data, size = cifar10(setting.data), SMALL if setting.quick else FULL
    pixels = data.pool.astype(np.float32)
    mean, std = pixels.mean((0, 2, 3), keepdims=True), pixels.std((0, 2, 3), keepdims=True)
    test = torch.from_numpy((data.test - mean) / std)
    rounds = cycles(
        pool_of(setting.work / "pool", (pixels - mean) / std),
        methods=setting.chosen(METHODS, QUICK),
        seeds=setting.seeds,
        out=setting.work / "cycles",
        start=lambda seed: balanced_start(data.pool_labels, FIRST, seed),
        fit=lambda pool, labeled, seed: fit(pool, labeled, seed, size["steps"]),
        evaluate=lambda model: measures(model, test, data.test_labels, size["passes"]),
        oracle=lambda ids: data.pool_labels[ids],
        rounds=size["rounds"],
        k=size["batch"],
        scorer={"passes": size["passes"], "scores": ("bald", "entropy"), "errors": False},
        progress=setting.tell,
    )
    return curves.of_cycles(rounds) | {"of": size}


def tenths(results: curves.JSON, by: str) -> Floats:
    """The error rate in each tenth by uncertainty, mean over the rounds of random labels, (S, 10)."""
    each = [curves.values(results, "random", f"{by}, tenth {n}").mean(1) for n in range(1, 11)]
    return np.stack(each, 1)


def _off(results: curves.JSON, measure: str) -> Floats:
    """How much lower a measure is with dropout on than off, mean over the rounds of random labels, (S,)."""
    on, off = (curves.values(results, "random", name) for name in (measure, f"{measure}, dropout off"))
    return (off - on).mean(1)


def claims(results: curves.JSON) -> list[Claim]:
    """That labels help and uncertainty finds errors, which few rounds show; with all rounds, what choosing and averaging gain."""
    accuracy, by_entropy = curves.values(results, "random", "accuracy"), tenths(results, "entropy")
    claimed = [
        above_zero("accuracy of the last round is above the first's, random labels", accuracy[:, -1] - accuracy[:, 0]),
        above_zero(
            "the error rate is higher in the least certain tenth than in the most certain, by entropy",
            by_entropy[:, -1] - by_entropy[:, 0],
        ),
    ]
    if results["of"] == FULL:
        for measure in ("ECE", "negative log likelihood"):
            claimed.append(above_zero(f"{measure} is lower with dropout on than off", _off(results, measure)))
        for method, over in curves.over_random(results, "accuracy").items():
            claimed.append(above_zero(f"accuracy of {method}, mean over all rounds, is above random's", over))
    return claimed
