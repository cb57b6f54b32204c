"""Score the images of a torch Dataset in memory: batches in, ids and scores out, the best k kept on the way.

    python examples/own_dataset.py

No pool is written. An item's id is its index in the dataset, so its masks, and with them its scores, do not depend on the batches.
"""

from __future__ import annotations

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

import mcscore


class Digits(Dataset[tuple[int, Tensor]]):
    """Any dataset will do whose items carry their index."""

    def __init__(self) -> None:
        self.images = torch.from_numpy(load_digits().images).float()[:, None] / 16

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[int, Tensor]:
        return index, self.images[index]


def main(k: int = 10) -> np.ndarray:
    """Returns the ids of the k images with the highest BALD."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Dropout(0.5), nn.Linear(128, 10))
    scorer = mcscore.Scorer(model, passes=100, scores=("bald", "entropy"), seed=0)
    best = mcscore.TopK(k)
    for ids, images in DataLoader(Digits(), batch_size=256):
        scores = scorer(images, ids)
        best.update(ids.numpy(), scores["bald"].numpy())
    ids, bald = best.result()
    for item, score in zip(ids, bald, strict=True):
        print(f"item {item:4}  bald {score:.4f}")
    return np.asarray(ids)


if __name__ == "__main__":
    main()
