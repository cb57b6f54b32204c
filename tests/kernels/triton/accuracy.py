"""How far a score of a Triton kernel may be from its float64 formula."""

from __future__ import annotations

import torch
from torch import Tensor

from mcscore.acquisition import SCORES


def check_accuracy(
    got: dict[str, Tensor],
    truth: dict[str, Tensor],
    naive: dict[str, Tensor],
    classes: int,
    likelihood: str,
    share: float,
) -> None:
    """Error at most twice that of naive code, plus ``share`` of the largest possible value; NaN where the truth is NaN.

    got and truth hold the prediction too, naive the scores alone.
    """
    names = [name for name in got if name != "prediction"]
    for name in names:
        assert got[name].dtype == torch.float32
        assert torch.equal(got[name].isnan(), truth[name].isnan()), name
        ok = ~truth[name].isnan()
        if not ok.any():
            continue
        error = (got[name] - truth[name])[ok].abs().max().item()
        yardstick = (naive[name] - truth[name])[ok].abs().max().item()
        largest = max(1.0, SCORES["entropy" if name == "bald" else name].bounds(classes, likelihood)[1])
        assert error <= 2 * yardstick + share * largest, f"{name}: error {error:.2g}, naive {yardstick:.2g}"
        assert (got[name][ok] >= 0).all(), name
    assert torch.equal(got["prediction"] == -1, truth["prediction"] == -1)
