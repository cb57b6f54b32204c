"""Items of a pool as a dataset of PyTorch: as the Scorer sees them, in every process."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from mcscore import Scorer
from mcscore.errors import PoolError
from mcscore.pool import Pool, with_label_column

N = 23
X = np.random.default_rng(0).integers(0, 256, (N, 2, 3, 5), np.uint8)
LABELS = np.where(np.arange(N) % 2, np.arange(N) % 4, -1)


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    path = tmp_path_factory.mktemp("training") / "p"
    return Pool.create(path, X, labels=LABELS, mean=[0.5, 0.25], std=[0.25, 0.5], chunk_items=4)


class Seen(nn.Module):
    """A model that keeps what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.dropout, self.linear = nn.Dropout(0.5), nn.Linear(30, 3)
        self.given: torch.Tensor | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.given = x.detach().clone()
        return self.linear(self.dropout(x.flatten(1)))


def test_a_model_is_trained_on_what_the_scorer_gives_it(pool: Pool) -> None:
    scorer, model = Scorer(Seen(), passes=2), Seen()
    assert pool.mean is not None
    scorer.normalize(pool.mean, pool.std)
    dataset = pool.as_dataset()
    want = (torch.from_numpy(X).float() / 255 - torch.tensor([0.5, 0.25])[:, None, None]) / torch.tensor([0.25, 0.5])[
        :, None, None
    ]
    items = torch.stack([item for item, _ in dataset])  # type: ignore[attr-defined]
    assert dataset.ids.tolist() == list(range(1, N, 2))
    assert torch.allclose(items, want[1::2])
    assert dataset.labels.dtype == torch.int64
    assert dataset.labels.tolist() == LABELS[1::2].tolist()
    from mcscore.scorer.inputs import ModelInputs

    seen = ModelInputs(torch.device("cpu"), model.linear.weight.dtype, mean_std=scorer.normalization)(X[1::2])
    assert torch.equal(items, seen), "bit for bit"


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("held", [0, 1 << 20])
def test_a_loader_gives_each_item_with_its_label(
    pool: Pool, workers: int, held: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mcscore.training._HELD_BYTES", held)
    dataset = pool.as_dataset(transform=lambda x: x[0, 0, :2].to(torch.int64))
    loader = DataLoader(dataset, 4, shuffle=True, num_workers=workers, generator=torch.Generator().manual_seed(1))
    got = [(x.tolist(), int(y)) for xs, ys in loader for x, y in zip(xs, ys, strict=True)]
    assert sorted(got) == sorted((X[i, 0, 0, :2].tolist(), int(LABELS[i])) for i in range(1, N, 2))


def test_a_pickled_dataset_opens_the_pool_for_itself(pool: Pool) -> None:
    dataset = pool.as_dataset([5, 3])
    assert len(pickle.dumps(dataset)) < 4000
    dataset[0]
    again = pickle.loads(pickle.dumps(dataset))
    assert again._opened is None
    assert torch.equal(again[1][0], dataset[1][0])
    assert (int(again[0][1]), int(again[-1][1])) == (LABELS[5], LABELS[3])


def test_a_batch_decodes_each_chunk_once(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mcscore.training._HELD_BYTES", 0)
    asked: list[list[int]] = []
    take = Pool.take
    monkeypatch.setattr(Pool, "take", lambda self, ids: (asked.append(list(ids)), take(self, ids))[1])
    next(iter(DataLoader(pool.as_dataset(), 5)))
    assert asked == [[1, 3, 5, 7, 9]]


def test_numbers_and_other_columns_are_labels_too(tmp_path: Path) -> None:
    pool = Pool.create(tmp_path / "p", X, labels=LABELS)
    pool = with_label_column(pool, "age", kind="number")
    pool.set_labels([2, 7], [0.5, -1], name="age")
    pool.set_excluded([7])
    ages = pool.as_dataset(name="age")
    assert (ages.ids.tolist(), ages.labels.tolist(), ages.labels.dtype) == ([2], [0.5], torch.float32)
    assert ages[0][1].dtype == torch.float32, "no float64 in a batch"


def test_what_has_no_label_is_refused(pool: Pool) -> None:
    with pytest.raises(PoolError, match="2 of the items have no label 'label': 0, 2"):
        pool.as_dataset([0, 1, 2])
    with pytest.raises(PoolError, match="outside the pool"):
        pool.as_dataset([N])
    with pytest.raises(PoolError, match="no column of labels 'age'; it has label"):
        pool.as_dataset(name="age")
    with pytest.raises(PoolError, match="ids are flags"):
        pool.as_dataset(pool.labeled)
    with pytest.raises(IndexError):
        pool.as_dataset()[N]
