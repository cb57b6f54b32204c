"""The data sets, read from a folder that is not part of the project; the README beside this file says where each is published."""

from __future__ import annotations

import gzip
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
ENV = "MCSCORE_DATA"
_NEAR = Path(__file__).resolve().parents[2].parent / "shared" / "data"


class NoDataError(Exception):
    """A data set, or a library that is compared with, is not there; the message says how to get it."""


def folder(given: Path | None, name: str) -> Path:
    """The folder of a data set below the one given, MCSCORE_DATA, or ../shared/data. NoDataError if it is not there."""
    root = given or Path(os.environ.get(ENV, _NEAR))
    if not (root / name).is_dir():
        raise NoDataError(
            f"{root / name} is not there. benchmarks/evidence/README.md says where {name} is published and which files it needs; "
            f"put them there, or name their parent by --data or {ENV}"
        )
    return root / name


@dataclass(frozen=True)
class Images:
    """Images (N, channels, height, width) of 8 bits and their classes, for the pool and for the test."""

    pool: npt.NDArray[np.uint8]
    pool_labels: npt.NDArray[np.int32]
    test: npt.NDArray[np.uint8]
    test_labels: npt.NDArray[np.int32]


def mnist(given: Path | None) -> Images:
    """MNIST as published: 60,000 images for the pool and 10,000 for the test, (1, 28, 28)."""
    where = folder(given, "mnist")

    def read(file: str, offset: int) -> npt.NDArray[np.uint8]:
        with gzip.open(where / file) as stream:
            return np.frombuffer(stream.read(), np.uint8, offset=offset)

    parts = []
    for part in ("train", "t10k"):
        parts.append(read(f"{part}-images-idx3-ubyte.gz", 16).reshape(-1, 1, 28, 28))
        parts.append(read(f"{part}-labels-idx1-ubyte.gz", 8).astype(np.int32))
    return Images(*parts)


def cifar10(given: Path | None) -> Images:
    """A part of CIFAR-10: the first 3,000 images of its training set for the pool and 1,000 of its test set, (3, 32, 32)."""
    from PIL import Image

    where = folder(given, "cifar10-subset")
    rows = [np.asarray(Image.open(where / f"cifar10_batch_{n:02d}.png").convert("RGB")) for n in (0, 1, 2, 50)]
    images = np.concatenate(rows).reshape(-1, 32, 32, 3).transpose(0, 3, 1, 2)
    labels = np.load(where / "labels.npy").astype(np.int32)
    return Images(images[:3000].copy(), labels[:3000], images[3000:].copy(), labels[3000:])


@dataclass(frozen=True)
class Table:
    """Rows of numbers, what is to be predicted of each, and the published splits: ids of the test rows."""

    X: npt.NDArray[np.float64]
    y: npt.NDArray[np.float64]
    tests: tuple[npt.NDArray[np.int64], ...]


UCI = (
    *("concrete", "energy", "kin8nm", "naval-propulsion-plant", "power-plant", "protein-tertiary-structure"),
    *("wine-quality-red", "yacht"),
)


def uci(given: Path | None, name: str) -> Table:
    """A set of the UCI repository with the splits of Hernández-Lobato and Adams (2015)."""
    held = np.load(folder(given, "uci-regression") / f"{name}.npz")
    tests = sorted(key for key in held.files if key.startswith("test_"))
    return Table(held["X"].astype(np.float64), held["y"].ravel().astype(np.float64), tuple(held[key] for key in tests))


@dataclass(frozen=True)
class Queries:
    """Documents of search queries: features, grades of relevance, query and part (1 to 5, from which the folds are made)."""

    X: npt.NDArray[np.float32]
    relevance: npt.NDArray[np.int64]
    query: npt.NDArray[np.int64]
    part: npt.NDArray[np.int64]


def mq2008(given: Path | None) -> Queries:
    """LETOR 4.0 MQ2008: 784 queries, 15,211 documents, 46 features, grades 0 to 2."""
    held = np.load(folder(given, "letor-mq2008") / "mq2008.npz")
    return Queries(
        held["X"].astype(np.float32), *(held[name].astype(np.int64) for name in ("relevance", "qid", "part"))
    )


@dataclass(frozen=True)
class Collection:
    """Texts of documents and of queries, and which documents are relevant to a query (queries, documents)."""

    documents: tuple[str, ...]
    queries: tuple[str, ...]
    relevant: npt.NDArray[np.bool_]


def cranfield(given: Path | None) -> Collection:
    """Cranfield: 1,400 abstracts, 225 queries. Judgments of code -1 are left out: their meaning is not published."""
    where = folder(given, "cranfield")

    def texts(file: str) -> tuple[str, ...]:
        found = []
        for record in (where / file).read_text().split("\n.I "):
            title, _, rest = record.partition("\n.W\n")
            head = title.partition("\n.T\n")[2].partition("\n.A\n")[0]
            found.append(f"{head} {rest}".replace("\n", " ").strip())
        return tuple(found)

    rows = [line.split() for line in (where / "cranqrel").read_text().splitlines() if line.strip()]
    documents, queries = texts("cran.all.1400"), texts("cran.qry")
    relevant = np.zeros((len(queries), len(documents)), bool)
    for query, document, code in rows:  # numbers from 1
        relevant[int(query) - 1, int(document) - 1] |= int(code) > 0
    return Collection(documents, queries, relevant)
