"""Pools of datasets: every kind of sample, resumed after an error or a kill, errors that name the index."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from mcscore.errors import PoolError, SampleError
from mcscore.ingest import append_blocks
from mcscore.pool import Pool
from mcscore.pool.verify import verify

from ..pool.helpers import images, listing
from ..steps import at_step, killed_at

N = 50
X = images(N)
Y = np.arange(N) % 3


class Samples(Dataset[Any]):
    """(item, label) pairs; counts what is read, and fails where it is told to."""

    def __init__(self, fails: int | None = None) -> None:
        self.read: list[int] = []
        self.fails = fails

    def __len__(self) -> int:
        return N

    def __getitem__(self, i: int) -> tuple[np.ndarray, int]:
        self.read.append(i)
        if i == self.fails:
            raise OSError("the disk is away")
        return X[i], int(Y[i])


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        yield from zip(X, Y, strict=True)


@pytest.fixture
def _small_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of 8 items."""
    monkeypatch.setattr("mcscore.pool.schema.CHUNK_BYTES", 8 * X[0].nbytes)
    monkeypatch.setattr("mcscore.pool.schema.SHARD_BYTES", 8 * X[0].nbytes)


@pytest.mark.parametrize(
    "dataset",
    [
        Samples(),
        Stream(),
        TensorDataset(torch.from_numpy(X), torch.from_numpy(Y)),
        [{"image": x, "label": y, "name": "a"} for x, y in zip(X, Y, strict=True)],
        ((torch.from_numpy(x), torch.tensor([y])) for x, y in zip(X, Y, strict=True)),
    ],
    ids=["indexed", "iterable", "tensors", "dicts", "generator"],
)
def test_items_and_labels_come_in_order(tmp_path: Path, dataset: Any) -> None:
    pool = Pool.from_dataset(dataset, tmp_path / "p", labels=True, keys=[f"k{i}" for i in range(N)], mean=0.5, std=0.25)
    assert np.array_equal(pool.read(0, N), X)
    assert np.array_equal(pool.labels, Y)
    assert pool.keys is not None
    assert (pool.keys[49], pool.mean, pool.source) == ("k49", (0.5,), type(dataset).__name__)
    assert list(verify(pool)) == []
    assert listing(tmp_path) == ["p"]
    assert append_blocks(tmp_path / "p", X[:3], labels=[-1, 0, 1]).labels[N:].tolist() == [-1, 0, 1]


@pytest.mark.usefixtures("_small_files")
def test_an_iterable_of_many_files_has_the_same_items(tmp_path: Path) -> None:
    pool = Pool.from_dataset(Stream(), tmp_path / "p", labels=True)
    assert np.array_equal(pool.read(0, N), X)
    assert np.array_equal(pool.labels, Y)
    assert pool.storage.rows.files == 7


def test_labels_are_kept_only_if_asked_for(tmp_path: Path) -> None:
    assert not Pool.from_dataset(Samples(), tmp_path / "p").labeled.any()
    both = [{"x": X[0], "label": 1, "age": 41.5}, {"x": X[1], "label": 0, "age": None}]
    pool = Pool.from_dataset(both, tmp_path / "q", label="age", label_kind="number")
    assert np.array_equal(pool.labels, np.array([41.5, np.nan], np.float32), equal_nan=True)
    named = Pool.from_dataset([(X[0], "dog"), (X[1], None)], tmp_path / "r", labels=True, classes=["cat", "dog"])
    assert named.labels.tolist() == [1, -1]


def test_pictures_become_channels_first(tmp_path: Path) -> None:
    pixels = np.arange(2 * 4 * 5 * 3, dtype=np.uint8).reshape(2, 4, 5, 3)
    pool = Pool.from_dataset([Image.fromarray(one) for one in pixels], tmp_path / "p")
    assert np.array_equal(pool.read(0, 2), pixels.transpose(0, 3, 1, 2))


@pytest.mark.usefixtures("_small_files")
def test_a_dataset_read_by_index_goes_on_behind_the_last_full_file(tmp_path: Path) -> None:
    with pytest.raises(SampleError, match=r"sample 29 of Samples cannot be read: OSError: the disk is away"):
        Pool.from_dataset(Samples(fails=29), tmp_path / "p", labels=True)
    again = Samples()
    pool = Pool.from_dataset(again, tmp_path / "p", labels=True)
    assert again.read == [0, *range(24, N)]
    assert np.array_equal(pool.read(0, N), X)
    assert np.array_equal(pool.labels, Y)
    whole = Pool.from_dataset(Samples(), tmp_path / "q", labels=True)
    assert pool.storage.attributes.content == whole.storage.attributes.content
    assert listing(tmp_path) == ["p", "q"]


@pytest.mark.usefixtures("_small_files")
def test_another_dataset_does_not_go_on(tmp_path: Path) -> None:
    with pytest.raises(SampleError):
        Pool.from_dataset(Samples(fails=29), tmp_path / "p", labels=True)
    with pytest.raises(PoolError, match="cannot be resumed: started with labels=True, now False"):
        Pool.from_dataset(Samples(), tmp_path / "p")
    with pytest.raises(PoolError, match="another source"):
        Pool.from_dataset(TensorDataset(torch.from_numpy(X[::-1].copy())), tmp_path / "p")


@pytest.mark.usefixtures("_small_files")
def test_a_kill_at_any_step_loses_nothing(tmp_path: Path) -> None:
    """Every 12th step, and the last five: from the one behind the rename to the path, the pool is there."""
    data = [(x, int(y)) for x, y in zip(X[:19], Y[:19], strict=True)]

    def make(name: str) -> Pool:
        return Pool.from_dataset(data, tmp_path / name, labels=True)

    with at_step(10**6, lambda *_: None) as steps:
        whole = make("whole").labels
    last = len(steps) - 1
    for n in sorted({*range(0, last, 12), *range(last - 4, last + 1)}):
        name = f"p{n}"
        killed_at(n, lambda name=name: make(name))
        if n >= last - 1:  # the stage has another name already, so nothing is left to do
            with pytest.raises(PoolError, match="exists already"):
                make(name)
        pool = Pool.open(tmp_path / name) if n >= last - 1 else make(name)
        assert np.array_equal(pool.read(0, 19), X[:19]), n
        assert np.array_equal(pool.labels, whole), n
        assert not [left for left in listing(tmp_path) if left.startswith(f".{name}")], n


@pytest.mark.parametrize(
    ("samples", "more", "said"),
    [
        ([X[0], X[1][:1]], {}, "sample 1 of list is uint8 (1, 3, 5), and sample 0 is uint8 (2, 3, 5)"),
        ([X[0], X[1].astype(np.float32)], {}, "sample 1 of list is float32"),
        ([X[0].astype(np.int64)], {}, "sample 0 of list: items are int64; a pool holds uint8"),
        ([X[0][:0]], {}, "sample 0 of list: the item has shape (0, 3, 5)"),
        ([X[0], "text"], {}, "sample 1 of list: it is a str"),
        ([(X[0], 0), (X[1], "cat")], {"labels": True}, "sample 1 of list: the label 'cat' is a name, and no classes="),
        (
            [(X[0], 2)],
            {"labels": True, "classes": ["a", "b"]},
            "sample 0 of list: the label 2 is not the number of a class, 0 to 1",
        ),
        ([(X[0], 0.5)], {"labels": True}, "label_kind='number' keeps numbers to be predicted"),
        ([(X[0], [1, 2])], {"labels": True}, "the label [1, 2] is a list"),
        ([(X[0], np.eye(3)[0])], {"labels": True}, "the label has shape (3,)"),
        ([(X[0], 1e39)], {"labels": True, "label_kind": "number"}, "is not finite in float32"),
        ([], {}, "list holds no samples"),
        (iter([]), {}, "list_iterator holds no samples"),
        (X, {}, "ndarray is an array of items: Pool.create(path, items)"),
        ({"train": [X[0]]}, {}, "dict is a dict of train: give one of its values"),
        (3, {}, "int is no dataset"),
        ("text", {}, "str is no dataset"),
        (DataLoader(Samples()), {}, "DataLoader gives batches"),
    ],
)
def test_what_is_no_pool_names_the_sample_and_leaves_nothing(
    tmp_path: Path, samples: Any, more: dict[str, Any], said: str
) -> None:
    with pytest.raises((SampleError, PoolError), match=re.escape(said)):
        Pool.from_dataset(samples, tmp_path / "p", **more)
    assert listing(tmp_path) == []


def test_an_existing_path_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    data = Samples()
    with pytest.raises(PoolError, match="exists already"):
        Pool.from_dataset(data, tmp_path / "p")
    assert data.read == []


def test_a_failing_stream_names_the_sample(tmp_path: Path) -> None:
    def stream() -> Iterator[np.ndarray]:
        yield X[0]
        raise RuntimeError("no more")

    with pytest.raises(SampleError, match="sample 1 of generator cannot be read: RuntimeError: no more"):
        Pool.from_dataset(stream(), tmp_path / "p")
    assert listing(tmp_path) == []
