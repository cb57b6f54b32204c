"""The demo: active learning with BALD on handwritten digits, compared with labels chosen at random.

scikit-learn's wheel holds the data, 1,797 images of 8 x 8 pixels (Alpaydin & Kaynak 1998), so nothing is downloaded. One
fifth is held out for testing. A small Bayesian CNN is trained on 20 labels. Each round scores the pool with Monte Carlo
dropout, labels a diverse selection of the items with the highest BALD, and trains the CNN anew. The baseline labels the
same number of items at random.
"""

from __future__ import annotations

import re
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .atomic import replaced
from .cycle import Round, cycles
from .errors import RunError
from .paths import exists, is_directory, local_path, names_in
from .pool import Pool

START, PER_ROUND, ROUNDS, SEEDS, PASSES = 20, 10, 10, 3, 100
_STEPS, _BATCH = 200, 32
_SOURCE = "scikit-learn digits"
_MADE = re.compile(r"pool\.zarr|curves\.png|cycles")  # what stands in the directory of a demo


class BayesianCNN(nn.Module):
    """Two convolutions, then dropout before each dense layer, as in Gal, Islam & Ghahramani 2017, for 8 x 8 images."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 3, padding=1)
        self.conv2 = nn.Conv2d(16, 32, 3, padding=1)
        self.dropout1 = nn.Dropout(0.25)
        self.dense1 = nn.Linear(32 * 4 * 4, 64)
        self.dropout2 = nn.Dropout(0.5)
        self.dense2 = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Compute logits (B, 10) of images (B, 1, 8, 8)."""
        x = F.relu(self.conv2(F.relu(self.conv1(x))))
        x = self.dropout1(F.max_pool2d(x, 2).flatten(1))
        return self.dense2(self.dropout2(F.relu(self.dense1(x))))


@dataclass(frozen=True)
class Digits:
    """Images and labels, divided into a pool and a test set."""

    pool_images: npt.NDArray[np.uint8]  # (N, 1, 8, 8)
    pool_labels: npt.NDArray[np.int32]
    test_images: npt.NDArray[np.uint8]
    test_labels: npt.NDArray[np.int32]


def load_digits() -> Digits:
    """Load the digits, shuffled once with a fixed seed; pixel values 0..16 become 0..255."""
    try:
        from sklearn.datasets import load_digits as sklearn_digits
    except ImportError as error:
        raise ImportError("the demo's images ship with scikit-learn: pip install 'mcscore[demo]'") from error
    bunch = sklearn_digits()
    order = np.random.default_rng(0).permutation(len(bunch.target))
    images = np.rint(bunch.images[order] * (255 / 16)).astype(np.uint8)[:, None]
    labels = bunch.target[order].astype(np.int32)
    held_out = len(labels) // 5
    return Digits(images[held_out:], labels[held_out:], images[:held_out], labels[:held_out])


def new_pool(path: Path, digits: Digits) -> Pool:
    """Write the images of the pool to ``path``, without labels."""
    return Pool.create(path, digits.pool_images, classes=[str(d) for d in range(10)], source=_SOURCE)


def _as_input(images: npt.NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(images).float() / 255


def fit(pool: Pool, labeled: npt.NDArray[np.int64], seed: int) -> BayesianCNN:
    """Train a new model; continuing from the weights of the last round overfits the oldest labels."""
    images, labels = _as_input(pool.take(labeled)), torch.from_numpy(pool.labels[labeled]).long()
    threads = torch.get_num_threads()
    # A second thread makes a step on 32 images of 8 x 8 pixels no faster, and up to 10 times slower on a busy machine.
    torch.set_num_threads(1)
    try:
        return _train(images, labels, seed)
    finally:
        torch.set_num_threads(threads)


def _train(images: Tensor, labels: Tensor, seed: int) -> BayesianCNN:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = BayesianCNN()
        optimizer = torch.optim.Adam(model.parameters(), lr=2e-3, weight_decay=1e-4)
        model.train()
        for _ in range(_STEPS):
            batch = torch.randint(len(labels), (min(_BATCH, len(labels)),))
            optimizer.zero_grad()
            F.cross_entropy(model(images[batch]), labels[batch]).backward()
            optimizer.step()
    return model.eval()


def main(
    out: Path, *, seeds: int = SEEDS, rounds: int = ROUNDS, passes: int = PASSES, quiet: bool = False
) -> dict[str, object]:
    """Run the demo and print the table of accuracies.

    Args:
        out: directory for pools, runs and pictures; an earlier demo there is replaced.
        seeds: number of repetitions, each with other first labels and weights.
        rounds: number of rounds per repetition.
        passes: stochastic forward passes per item.
        quiet: whether to leave out the progress on stderr.

    Returns:
        {"table": rows, "seconds": number} and the paths "pool", "runs", "report" and "curves".

    Raises:
        FileExistsError: ``out`` is a file, or a directory that does not hold an earlier demo.
        ImportError: scikit-learn or matplotlib is not installed.
    """
    out = local_path(out, "the demo", RunError)
    _require_former_demo(out)
    if exists(out):
        shutil.rmtree(out)
    begin = time.perf_counter()
    line = _ProgressLine(quiet)
    digits = load_digits()
    line(f"write {len(digits.pool_images)} images to a Zarr pool")
    pool = new_pool(out / "pool.zarr", digits)
    test_images, test_labels = _as_input(digits.test_images), torch.from_numpy(digits.test_labels)

    def evaluate(model: nn.Module) -> float:
        with torch.no_grad():
            return float((model(test_images).argmax(1) == test_labels).float().mean())

    results = cycles(
        pool,
        methods={"bald": {"select": {"by": "bald"}}, "random": {"select": "random"}},
        seeds=range(seeds),
        start=lambda seed: balanced_start(digits.pool_labels, START, seed),
        fit=fit,
        evaluate=evaluate,
        oracle=lambda ids: digits.pool_labels[ids],
        rounds=rounds,
        k=PER_ROUND,
        scorer={"passes": passes},
        out=out / "cycles",
        progress=line,
    )
    table = _table(results)
    line("draw the curves and the report")
    curves_png = _draw(table, out / "curves.png")
    report = None
    last_run = next((turn.run for turn in reversed(results["bald"][-1]) if turn.run is not None), None)
    if last_run is not None:
        from .report import write_report
        from .run import Run

        report = write_report(Run.open(last_run), Pool.open(last_run.parent / "pool"))
    line.close()
    seconds = time.perf_counter() - begin
    _print(table, seeds, seconds)
    for name, path in (("pool", out / "pool.zarr"), ("runs", out), ("report", report), ("curves", curves_png)):
        print(f"{name:>7}: {path}")
    return {
        "table": table,
        "pool": str(out / "pool.zarr"),
        "runs": str(out),
        "report": str(report),
        "curves": str(curves_png),
        "seconds": seconds,
    }


def _require_former_demo(out: Path) -> None:
    """FileExistsError if there is anything at ``out`` that no demo wrote: what is there will be removed."""
    if exists(out) and not is_directory(out):
        raise FileExistsError(f"{out} exists and is a file; choose another --out")
    names = names_in(out)
    foreign = [name for name in names if not _MADE.fullmatch(name)]
    if foreign or (names and Pool.open(out / "pool.zarr").source != _SOURCE):
        raise FileExistsError(f"{out} holds {(foreign or names)[0]} and is not a former demo; choose another --out")


def balanced_start(labels: npt.NDArray[np.int32], n: int, seed: int) -> npt.NDArray[np.int64]:
    """Choose the same number of items from each class at random, as the papers do for the first labels."""
    rng = np.random.default_rng(seed)
    classes = np.unique(labels)
    picks = [rng.choice(np.flatnonzero(labels == c), size=n // len(classes), replace=False) for c in classes]
    return np.sort(np.concatenate(picks))


def _table(results: dict[str, list[list[Round]]]) -> list[dict[str, float]]:
    rows = []
    for index in range(len(results["bald"][0])):
        row: dict[str, float] = {"labels": results["bald"][0][index].labels}
        for strategy, curves in results.items():
            accuracies = np.array([curve[index].accuracy for curve in curves])
            row[strategy], row[f"{strategy}_std"] = float(accuracies.mean()), float(accuracies.std())
        row["seconds"] = float(np.mean([curve[index].seconds for curve in results["bald"]]))
        rows.append(row)
    return rows


def _print(table: list[dict[str, float]], seeds: int, seconds: float) -> None:
    print(f"\nAccuracy on held-out digits, mean ± standard deviation over {seeds} seeds\n")
    print(f"{'labels':>7}  {'BALD':>15}  {'random':>15}  {'seconds per BALD round':>22}")
    for row in table:
        cells = "  ".join(f"{row[s]:>7.1%} ± {row[f'{s}_std']:>5.1%}" for s in ("bald", "random"))
        print(f"{row['labels']:>7.0f}  {cells}  {row['seconds']:>22.2f}")
    print(f"\n{seconds:.0f} s in all. Wrote:")


def _draw(table: list[dict[str, float]], path: Path) -> Path:
    """Draw accuracy against number of labels, and write the chart to ``path`` as PNG."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("the demo draws with matplotlib: pip install 'mcscore[demo]'") from error
    figure = Figure(figsize=(6, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    labels = [row["labels"] for row in table]
    for strategy, name, color in (("bald", "BALD, diverse", "#2563eb"), ("random", "random", "#9ca3af")):
        mean = np.array([row[strategy] for row in table])
        std = np.array([row[f"{strategy}_std"] for row in table])
        axes.plot(labels, mean, color=color, label=name, marker="o", markersize=3)
        axes.fill_between(labels, mean - std, mean + std, color=color, alpha=0.2, linewidth=0)
    axes.set(xlabel="labels", ylabel="accuracy on held-out digits")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    with replaced(path) as file:
        figure.savefig(file, format="png", dpi=120)
    return path


class _ProgressLine:
    """Progress on stderr: one line, rewritten in place, on a terminal; else one line per stage."""

    def __init__(self, quiet: bool) -> None:
        self._quiet, self._live, self._begin = quiet, sys.stderr.isatty(), time.perf_counter()

    def __call__(self, stage: str) -> None:
        if not self._quiet:
            text = f"[{time.perf_counter() - self._begin:6.1f} s] {stage}"
            print(
                f"\r\033[2K{text}" if self._live else text, end="" if self._live else "\n", file=sys.stderr, flush=True
            )

    def close(self) -> None:
        if not self._quiet and self._live:
            print("\r\033[2K", end="", file=sys.stderr, flush=True)
