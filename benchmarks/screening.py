"""Screening against flat runs: what part of the truly best items is found, for how many passes, in what time.

    python -m benchmarks.screening DATA --out OUT [--networks gal vit] [--seeds 3]

DATA is a folder with MNIST's training images and labels, as published (train-images-idx3-ubyte.gz, train-labels-idx1-ubyte.gz).
Networks are trained on 100 labels; the pool is all images. The truly best items by BALD are those of 3,000 passes with other masks,
among the best 5,000 of a flat run of 100. Each seed has its own masks, the same for all ways of spending passes.

OUT gets results.json, table.txt and recall.png, written anew after every network; the same command goes on where it was ended, and other
--items or --top need another OUT.
On one core of an AMD EPYC (Zen 3) a seed takes 6 minutes for Gal's CNN, 11 for DropCNN and 22 for the ViT, and the true scores 5, 10 and
18: so this is a script and no pytest benchmark.
"""

from __future__ import annotations

import argparse
import gzip
import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median, pstdev
from typing import Any

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import nn

from mcscore import Pool, Scorer, Screen, score_pool
from mcscore.atomic import replaced
from mcscore.run import Run

from .screening_nets import NETWORKS, balanced, trained

LABELED = 100
TRUTH_PASSES, TRUTH_SEED = 3000, 1 << 32
CANDIDATES = 5  # for each of the top: the items that may be the truly best
SCREEN = 16


@dataclass(frozen=True)
class Way:
    """A way to spend passes on a pool: so many for every item, or at most so many per item after a first stage."""

    passes: int
    screened: bool

    @property
    def name(self) -> str:
        return f"{'screened' if self.screened else 'flat'} {self.passes}"

    def score(self, pool: Pool, model: nn.Module, out: Path, seed: int, top: int) -> Run:
        scorer = Scorer(model, passes=100 if self.screened else self.passes, scores=("bald", "entropy"), seed=seed)
        screen = Screen(top=top, passes=SCREEN, by="bald", budget=self.passes) if self.screened else None
        return score_pool(pool, scorer, out, screen=screen)


# The screened ways stand around the flat one they are compared with: what else the machine does changes slowly.
WAYS = (Way(20, False), Way(33, True), Way(100, False), Way(40, True), Way(100, True))
AGAINST = "flat 100"


def sizes(top: int) -> tuple[int, ...]:
    """The numbers of best items that recall is told for."""
    return top // 20, top // 5, top


def best(scores_N: np.ndarray, k: int) -> np.ndarray:
    """The ids of the k best; NaN is none of them."""
    order = np.argsort(-scores_N, kind="stable")[:k]
    return order[~np.isnan(scores_N[order])]


def shared(a: np.ndarray, b: np.ndarray) -> float:
    return len(np.intersect1d(a, b)) / max(len(a), len(b))


def idx(path: Path, header: int) -> np.ndarray:
    with gzip.open(path) as file:
        return np.frombuffer(file.read(), np.uint8, offset=header).copy()


class Evaluation:
    """The runs of one network in a folder, and what was measured of them."""

    def __init__(self, out: Path, pool: Pool, model: nn.Module, top: int) -> None:
        self.out, self.pool, self.model, self.top = out, pool, model, top
        self._file = out / "results.json"
        self.rows: list[dict[str, Any]] = json.loads(self._file.read_text()) if self._file.exists() else []

    def run(self, way: Way, seed: int) -> Run:
        """The run of a seed, made if it is not there; an unfinished one is begun anew, as its time would not count."""
        path = self.out / f"seed-{seed}-{way.name.replace(' ', '-')}"
        if any(row["way"] == way.name and row["seed"] == seed for row in self.rows):
            return Run.open(path)
        shutil.rmtree(path, ignore_errors=True)
        begin = time.perf_counter()
        run = way.score(self.pool, self.model, path, seed, self.top)
        seconds = time.perf_counter() - begin
        spent = run.passes_spent / self.pool.n
        passes = run.meta["passes"]
        row = {"way": way.name, "seed": seed, "passes": passes, "spent": spent, "survivors": run.scored / self.pool.n}
        self.rows.append({**row, "seconds": seconds})
        self.write()
        return run

    def truth(self) -> np.ndarray:
        """(N,) BALD of TRUTH_PASSES passes of the candidates, NaN for the others.

        The candidates are a pool of their own, with ids and so masks that no run of the pool has.
        """
        ids = np.sort(best(self.run(Way(100, False), 0).scores("bald"), CANDIDATES * self.top))
        path = self.out / "candidates.zarr"
        pool = Pool.open(path) if path.exists() else Pool.create(path, self.pool.take(ids))
        scorer = Scorer(self.model, passes=TRUTH_PASSES, scores=("bald",), seed=TRUTH_SEED)
        scores_N = np.full(self.pool.n, np.nan)
        scores_N[ids] = score_pool(pool, scorer, self.out / "truth").scores("bald")
        return scores_N

    def measure(self, seeds: int) -> None:
        """Make all runs and fill in recall, and the overlap of each seed's best with those of the seed before."""
        truth_N = self.truth()
        for seed in range(seeds):
            for way in WAYS:
                run = self.run(way, seed)
                row = next(row for row in self.rows if (row["way"], row["seed"]) == (way.name, seed))
                found = run.scores("bald")
                row["recall"] = {str(k): shared(best(found, k), best(truth_N, k)) for k in sizes(self.top)}
                row["expected"] = run.meta["certificate"]["expected_recall"] if way.screened else None
                if seed:
                    before = self.run(way, seed - 1)
                    row["overlap"] = {
                        score: {
                            str(k): shared(best(run.scores(score), k), best(before.scores(score), k))
                            for k in sizes(self.top)
                        }
                        for score in (("bald",) if way.screened else ("bald", "entropy"))
                    }
                self.write()

    def write(self) -> None:
        with replaced(self._file) as file:
            file.write((json.dumps(self.rows, indent=1) + "\n").encode())


def table(name: str, rows: list[dict[str, Any]], top: int) -> Iterator[str]:
    """The lines of a network: means over seeds, and the median of the ratios of times within a seed.

    expected: the recall of the top that the certificates of screened runs tell.
    """
    heads = "".join(f"{f'recall of {k}':>17}" for k in sizes(top))
    yield f"{name:14}{'T':>6}{'all T for':>11}{'passes/item':>13}{heads}{'expected':>10}{'s':>8}{'times faster':>14}"
    seconds = {row["seed"]: row["seconds"] for row in rows if row["way"] == AGAINST}
    for way in WAYS:
        own = [row for row in rows if row["way"] == way.name and "recall" in row]
        if not own:
            continue
        recalls = [[row["recall"][str(k)] for row in own] for k in sizes(top)]
        cells = "".join(f"{f'{mean(found):.1%} ± {pstdev(found):.1%}':>17}" for found in recalls)
        expected = f"{mean(row['expected'] for row in own):.1%}" if way.screened else ""
        faster = median(seconds[row["seed"]] / row["seconds"] for row in own)
        yield (
            f"{way.name:14}{median(row['passes'] for row in own):>6.0f}{mean(row['survivors'] for row in own):>11.1%}"
            f"{mean(row['spent'] for row in own):>13.1f}{cells}{expected:>10}{median(row['seconds'] for row in own):>8.1f}{faster:>14.2f}"
        )
    for way in WAYS:
        for score in ("bald", "entropy"):
            pairs = [
                row["overlap"][score] for row in rows if row["way"] == way.name and score in row.get("overlap", {})
            ]
            if pairs:
                shares = ", ".join(f"{mean(pair[str(k)] for pair in pairs):.1%} of {k}" for k in sizes(top))
                yield f"two seeds of {way.name} share by {score}: {shares}"


def draw(path: Path, rows_of: dict[str, list[dict[str, Any]]], top: int) -> None:
    """Recall against passes per item, a row of plots for each network: flat runs in gray, screened ones in blue."""
    figure = Figure(figsize=(3.2 * len(sizes(top)), 2.8 * len(rows_of)), layout="constrained")
    FigureCanvasAgg(figure)
    axes_RK = figure.subplots(len(rows_of), len(sizes(top)), sharex=True, squeeze=False)
    for (name, rows), axes_K in zip(rows_of.items(), axes_RK, strict=True):
        for k, axes in zip(sizes(top), axes_K, strict=True):
            for screened, color in ((False, "#6b7280"), (True, "#2563eb")):
                names = [way.name for way in WAYS if way.screened == screened]
                groups = [[row for row in rows if row["way"] == way and "recall" in row] for way in names]
                groups = [group for group in groups if group]
                spent = [mean(row["spent"] for row in group) for group in groups]
                found = [mean(row["recall"][str(k)] for row in group) for group in groups]
                label = "screened" if screened else "flat"
                axes.plot(spent, found, marker="o", markersize=4, color=color, label=label)
            axes.set_title(f"{name}, best {k:,}", fontsize=9)
            axes.grid(alpha=0.3)
            axes.set_ylim(top=1)
    for axes in axes_RK[-1]:
        axes.set_xlabel("passes per item")
    for axes in axes_RK[:, 0]:
        axes.set_ylabel("share of the truly best found")
    axes_RK[0, 0].legend(loc="lower right", fontsize=8)
    with replaced(path) as file:
        figure.savefig(file, format="png", dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, metavar="DATA")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--items", type=int, default=60_000, help="of the pool: the first so many images")
    parser.add_argument("--top", type=int, default=1000, help="items that screened runs are made for")
    given = parser.parse_args()
    images = idx(given.data / "train-images-idx3-ubyte.gz", 16).reshape(-1, 1, 28, 28)[: given.items]
    labels = idx(given.data / "train-labels-idx1-ubyte.gz", 8)[: given.items]
    path = given.out / "pool.zarr"
    pool = Pool.open(path) if path.exists() else Pool.create(path, images)
    chosen = balanced(labels, LABELED, seed=0)
    rows_of = {}
    for name in given.networks:
        weights = given.out / name / "weights.pt"
        if weights.exists():
            model = NETWORKS[name].build().eval()
            model.load_state_dict(torch.load(weights, weights_only=True))
        else:
            model = trained(name, images[chosen], labels[chosen])
            weights.parent.mkdir(parents=True, exist_ok=True)
            with replaced(weights) as file:
                torch.save(model.state_dict(), file)
        evaluation = Evaluation(given.out / name, pool, model, given.top)
        evaluation.measure(given.seeds)
        rows_of[name] = evaluation.rows
        text = "\n\n".join("\n".join(table(name, rows, given.top)) for name, rows in rows_of.items()) + "\n"
        with replaced(given.out / "table.txt") as file:
            file.write(text.encode())
        draw(given.out / "recall.png", rows_of, given.top)
        print(text.split("\n\n")[-1], flush=True)


if __name__ == "__main__":
    main()
