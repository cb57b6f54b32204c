"""Methods of selection on a pool with repeats: test accuracy from 20 labels to 300, on Repeated MNIST (Kirsch et al. 2019).

    python -m benchmarks.repeated_mnist DATA --out OUT [--methods radius power] [--seeds 0 1 2] [--digits 2000]

DATA is a folder with MNIST as published (four idx files, gzip). The pool has each of the digits four times, each time with its own
Gaussian noise of sd 0.1 (images have mean 0 and sd 1). A seed stands for digits, noise, first labels, weights and masks, which all
methods share. In each round a network is trained anew on all labels, the pool is scored by BALD, and ten items are selected.

OUT gets results.jsonl, a line for each method and seed once it is done, and from all lines in it table.txt and selection.png. The same
command goes on where it was ended; other sizes need another OUT. Several processes with other seeds may share one.
"""

from __future__ import annotations

import argparse
import gzip
import json
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional as F

from mcscore import Dropout, Scorer, TopK
from mcscore.atomic import replaced
from mcscore.methods import DIVERSITY
from mcscore.selection import select

Ints = npt.NDArray[np.int64]
REPEATS, NOISE = 4, 0.1
MEAN, STD = 0.1307, 0.3081  # of the pixels of MNIST
CLASSES, BATCH, LAST = 10, 10, 300
STEPS = 250
COLORS = {  # of the methods, all with their defaults; "shared masks": of the scoring, so that repeats have nearly the same score
    "power": "#d97706",
    "batchbald": "#7c3aed",
    "radius": "#059669",
    "k-center": "#0891b2",
    "badge": "#db2777",
    "random": "#6b7280",
    "none": "#dc2626",
    "none, shared masks": "#7f1d1d",
}
# Logs of Kirsch et al. 2023 (BatchBALD in batches of five)
PUBLISHED = {"power": 0.966, "batchbald": 0.960, "badge": 0.925, "random": 0.933, "none, shared masks": 0.880}


def read(data: Path, part: str) -> tuple[Tensor, Ints]:
    """Normalized images (N, 1, 28, 28) and labels (N,) of "train" or "t10k"."""
    with gzip.open(data / f"{part}-images-idx3-ubyte.gz") as file:
        pixels = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 1, 28, 28)
    with gzip.open(data / f"{part}-labels-idx1-ubyte.gz") as file:
        labels = np.frombuffer(file.read(), np.uint8, offset=8).astype(np.int64)
    return (torch.from_numpy(pixels.copy()).float() / 255 - MEAN) / STD, labels


def network() -> nn.Module:
    """Gal's CNN made small: two convolutions, then dropout, 64 hidden units, dropout. What precedes dropout runs once for all passes."""
    return nn.Sequential(
        *(nn.Conv2d(1, 8, 5), nn.MaxPool2d(2), nn.ReLU()),  # (B, 8, 12, 12)
        *(nn.Conv2d(8, 16, 5), nn.MaxPool2d(2), nn.ReLU(), nn.Flatten()),  # (B, 256)
        *(nn.Dropout(0.25), nn.Linear(256, 64), nn.ReLU(), nn.Dropout(0.5), nn.Linear(64, CLASSES)),
    )


def trained(images: Tensor, labels: Tensor, seed: int) -> nn.Module:
    """A new network, by Adam, in batches of 32 drawn with replacement."""
    torch.manual_seed(seed)
    model = network().train()
    optimizer = torch.optim.Adam(model.parameters(), 2e-3, weight_decay=1e-4, fused=True)
    for _ in range(STEPS):
        batch = torch.randint(len(labels), (32,))
        optimizer.zero_grad()
        F.cross_entropy(model(images[batch]), labels[batch]).backward()
        optimizer.step()
    return model.eval()


@dataclass(frozen=True)
class Sizes:
    """Digits of the pool, passes, and candidates of joint methods; the others have ten for each item, as ``mcscore select``."""

    digits: int
    passes: int
    candidates: int


class Experiment:
    """The pool and first labels of a seed, and what a method does with them."""

    def __init__(self, images: Tensor, labels: Ints, test: tuple[Tensor, Ints], seed: int, sizes: Sizes) -> None:
        rng = np.random.default_rng(seed)
        digits = rng.choice(len(labels), sizes.digits, replace=False)
        self.digit_N = np.tile(np.arange(sizes.digits), REPEATS)  # which digit an item is a repeat of
        self.label_N = labels[digits][self.digit_N]
        noise = torch.randn(len(self.digit_N), 1, 28, 28, generator=torch.Generator().manual_seed(seed))
        self.images_N = images[digits][self.digit_N] + NOISE * noise
        first = [rng.choice(np.flatnonzero(self.label_N == c), 2, replace=False) for c in range(CLASSES)]
        self.first = np.concatenate(first)
        self.test, self.seed, self.sizes = test, seed, sizes

    def run(self, method: str) -> dict[str, Any]:
        """Test accuracies from 20 labels to LAST, and of each selected batch how many are repeats of its others, or of labeled items."""
        begin, labeled = time.perf_counter(), self.first
        row: dict[str, Any] = {"method": method, "seed": self.seed, **asdict(self.sizes)}
        row |= {"labels": [], "accuracy": [], "repeats": [], "known": []}
        while True:
            seed = 1000 * self.seed + len(labeled)
            model = trained(self.images_N[labeled], torch.from_numpy(self.label_N[labeled]), seed)
            with torch.no_grad():
                found = torch.cat([model(part).argmax(1) for part in self.test[0].split(500)]).numpy()
            row["labels"].append(len(labeled))
            row["accuracy"].append(round(float((found == self.test[1]).mean()), 4))
            if len(labeled) >= LAST:
                return {**row, "seconds": round(time.perf_counter() - begin, 1)}
            chosen = self.choose(method, model, labeled, seed)
            times, before = Counter(self.digit_N[chosen].tolist()), set(self.digit_N[labeled].tolist())
            row["repeats"].append(sum(times[digit] > 1 for digit in self.digit_N[chosen].tolist()))
            row["known"].append(sum(digit in before for digit in self.digit_N[chosen].tolist()))
            labeled = np.concatenate([labeled, chosen])

    def choose(self, name: str, model: nn.Module, labeled: Ints, seed: int) -> Ints:
        """The ids of BATCH unlabeled items, by a method of ``select`` with BALD as score, or at random."""
        left = np.setdiff1d(np.arange(len(self.digit_N)), labeled)
        if name == "random":
            return np.random.default_rng(seed).choice(left, BATCH, replace=False)
        name, _, shared = name.partition(", ")
        scorer, joint = (
            Scorer(model, self.sizes.passes, ("bald",), seed=seed, dropout=Dropout(masks=masks))
            for masks in ("shared" if shared else "independent", "shared")
        )
        ids, scores = left, scorer(self.images_N[left], left)["bald"].numpy()
        method, given = DIVERSITY[name], dict[str, Any]()
        if method.family != "ranked":  # from the best M, as a run does
            M = self.sizes.candidates if method.family == "joint" else 10 * BATCH
            ids, scores = TopK(M).update(left, scores).result()
        images = self.images_N[ids]
        if "embeddings" in method.needs:
            given["embeddings"] = scorer.embed(images)
            given["labeled_embeddings"] = scorer.embed(self.images_N[labeled])
        if "probabilities" in method.needs:
            given["probabilities"] = scorer.predict(images, ids).mean.float().numpy()
        if "samples" in method.needs:
            given["samples"] = joint.samples(images, ids).softmax(-1).transpose(0, 1).contiguous().numpy()
        return select(ids, scores, BATCH, diversity=name, seed=seed, **given).ids


Rows = list[dict[str, Any]]


def of(rows: Rows, method: str, column: str) -> np.ndarray:
    """(seeds, rounds) of a column."""
    return np.array([row[column] for row in rows if row["method"] == method], float)


def table(rows: Rows) -> Iterator[str]:
    """The lines of a table: accuracies are means over seeds, with their range at the last number of labels."""
    at = rows[0]["labels"].index
    yield "| method | seeds | at 100 | at 200 | 260 to 300 | at 300 | published | repeats in a batch | repeats of labeled |"
    yield "| --- | --- | --- | --- | --- | --- | --- | --- | --- |"
    for method in COLORS:
        accuracy = of(rows, method, "accuracy")
        if not len(accuracy):
            continue
        at_100, at_200, last = (accuracy[:, at(n)].mean() for n in (100, 200, LAST))
        means = f"{at_100:.3f} | {at_200:.3f} | {accuracy[:, -5:].mean():.3f} | {last:.3f}"
        low, high = accuracy[:, -1].min(), accuracy[:, -1].max()
        published = f"{PUBLISHED[method]:.3f}" if method in PUBLISHED else ""
        shares = " | ".join(f"{of(rows, method, column).mean() / BATCH:.1%}" for column in ("repeats", "known"))
        yield f"| {method} | {len(accuracy)} | {means} ({low:.3f} to {high:.3f}) | {published} | {shares} |"


def draw(path: Path, rows: Rows) -> None:
    """Accuracy against labels, mean and range of the seeds; beside it the share of repeats in the batches."""
    figure = Figure(figsize=(9.6, 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, width_ratios=(1.75, 1))
    shown = [method for method in COLORS if len(of(rows, method, "accuracy"))]
    shown.sort(key=lambda method: float(of(rows, method, "accuracy")[:, -5:].mean()))
    height = -1.0
    for method in shown:  # from below: a label stands at the end of its line, but above the one before
        color, labels, accuracy = COLORS[method], rows[0]["labels"], of(rows, method, "accuracy")
        left.fill_between(labels, accuracy.min(0), accuracy.max(0), color=color, alpha=0.13, linewidth=0)
        left.plot(labels, accuracy.mean(0), color=color, linewidth=1.8)
        height = max(height + 0.0115, float(accuracy[:, -5:].mean()))
        left.text(LAST + 5, height, method, color=color, fontsize=9, va="center")
    left.set(xlim=(20, LAST), ylim=(0.7, 0.97), xlabel="labels", ylabel="test accuracy", xticks=[20, 100, 200, LAST])
    left.set_title("Accuracy: mean and range of the seeds", fontsize=10)
    shares = [of(rows, method, "repeats").mean() / BATCH for method in shown]
    names = [method.replace(", ", ",\n") for method in shown]
    bars = right.barh(names, shares, color=[COLORS[method] for method in shown])
    right.bar_label(bars, [f"{share:.1%}" for share in shares], padding=3, fontsize=9)
    right.set(xlim=(0, 1.15), xticks=[])
    right.set_title("Repeats within a batch of ten", fontsize=10)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    left.grid(alpha=0.25)
    with replaced(path) as file:
        figure.savefig(file, format="png", dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, metavar="DATA")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--methods", nargs="+", choices=COLORS, default=list(COLORS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--digits", type=int, default=2000, help="of the pool, each of which it has four times")
    parser.add_argument("--passes", type=int, default=50)
    parser.add_argument("--candidates", type=int, default=1000, help="of batchbald")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    given.out.mkdir(parents=True, exist_ok=True)
    sizes = Sizes(given.digits, given.passes, given.candidates)
    lines = given.out / "results.jsonl"
    rows: Rows = [json.loads(line) for line in lines.read_text().splitlines()] if lines.exists() else []
    if any(row[name] != size for row in rows for name, size in asdict(sizes).items()):
        raise SystemExit(f"{lines} has results of other sizes than {sizes}: give another --out")
    train, (images, labels) = read(given.data, "train"), read(given.data, "t10k")
    test = images[::2], labels[::2]
    for seed in given.seeds:
        experiment = Experiment(*train, test, seed, sizes)
        for method in given.methods:
            if any((row["method"], row["seed"]) == (method, seed) for row in rows):
                continue
            rows.append(experiment.run(method))
            with lines.open("a") as file:
                file.write(json.dumps(rows[-1]) + "\n")
            print(method, seed, rows[-1]["accuracy"][-1], f"{rows[-1]['seconds']} s", flush=True)
    rows = [json.loads(line) for line in lines.read_text().splitlines()]
    text = "\n".join(table(rows)) + "\n"
    with replaced(given.out / "table.txt") as file:
        file.write(text.encode())
    draw(given.out / "selection.png", rows)
    print(text)


if __name__ == "__main__":
    main()
