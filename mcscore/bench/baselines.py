"""Plain PyTorch implementations, to which every ratio is taken. Shapes are those of the kernels."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn


def bald_and_entropy(logits_TBC: Tensor) -> tuple[Tensor, Tensor]:
    """Compute BALD and entropy from softmax in float32."""
    p_TBC = torch.softmax(logits_TBC, -1, dtype=torch.float32)
    entropy_B = torch.special.entr(p_TBC.mean(0)).sum(-1)
    return entropy_B - torch.special.entr(p_TBC).sum(-1).mean(0), entropy_B


def add_passes(logits_tBC: Tensor, p_BC: Tensor, h_B: Tensor) -> None:
    """Add passes to the sums of p and of entropies, in place."""
    p_tBC = torch.softmax(logits_tBC, -1, dtype=torch.float32)
    p_BC += p_tBC.sum(0)
    h_B += torch.special.entr(p_tBC).sum((0, 2))


# The batch is replicated T times: on one core that is 1.0 to 1.2 times as fast as a loop over passes of F.dropout and
# F.linear, and torch.compile gets one graph instead of T.
def dropout(x_sBEI: Tensor, t: int, p: float) -> Tensor:
    """Drop T copies of x with a mask each; a mask element covers the I values of a channel."""
    copies = x_sBEI.expand(t, *x_sBEI.shape[1:])
    if x_sBEI.shape[3] == 1:
        return F.dropout(copies, p)
    return F.dropout1d(copies.flatten(0, 1), p)


def dropout_linear(x_sBD: Tensor, weight_CD: Tensor, bias_C: Tensor, t: int, p: float) -> Tensor:
    """Drop T copies of x with a mask each, and apply a Linear."""
    return F.linear(F.dropout(x_sBD.expand(t, *x_sBD.shape[1:]), p), weight_CD, bias_C)


def dropout_head(x_BD: Tensor, weight_CD: Tensor, bias_C: Tensor, t: int, p: float) -> tuple[Tensor, Tensor]:
    """Compute BALD and entropy of ``dropout_linear``."""
    return bald_and_entropy(dropout_linear(x_BD[None], weight_CD, bias_C, t, p))


def shared_dropout_linear(x_sBD: Tensor, weight_CD: Tensor, bias_C: Tensor, t: int, p: float) -> Tensor:
    """Apply the one mask of each pass to the weights, so that all passes are one matrix product."""
    mask_tD = F.dropout(weight_CD.new_ones(t, weight_CD.shape[1]), p)
    weights_tCD = weight_CD * mask_tD[:, None]
    if len(x_sBD) == 1:
        y_BtC = F.linear(x_sBD[0], weights_tCD.flatten(0, 1), bias_C.repeat(t)).view(-1, t, len(weight_CD))
        return y_BtC.transpose(0, 1)
    return torch.baddbmm(bias_C, x_sBD, weights_tCD.transpose(1, 2))


def shared_dropout_head(x_BD: Tensor, weight_CD: Tensor, bias_C: Tensor, t: int, p: float) -> tuple[Tensor, Tensor]:
    """Compute BALD and entropy of ``shared_dropout_linear``."""
    return bald_and_entropy(shared_dropout_linear(x_BD[None], weight_CD, bias_C, t, p))


def top_k(scores_N: np.ndarray, k: int) -> Tensor:
    """Select the k best; ties are broken arbitrarily."""
    return torch.topk(torch.from_numpy(scores_N), min(k, len(scores_N)), sorted=False).indices


def count_above(scores_N: np.ndarray, threshold: float, block: int = 1 << 16) -> int:
    """Count the scores above a threshold: a lower bound of the work of any top-k."""
    return sum(int(np.count_nonzero(scores_N[at : at + block] > threshold)) for at in range(0, len(scores_N), block))


# ---- models -------------------------------------------------------------------------------------------------------


def disagreement(outputs_TBC: Tensor, likelihood: str) -> Tensor:
    """Compute BALD (B,), or for likelihood gaussian the variance of the mean; pixels are averaged."""
    if likelihood == "gaussian":
        found = outputs_TBC[:, :, 0].float().var(0, correction=0)
    elif likelihood == "categorical":
        p = torch.softmax(outputs_TBC, 2, dtype=torch.float32)
        found = torch.special.entr(p.mean(0)).sum(1) - torch.special.entr(p).sum(2).mean(0)
    else:
        p = torch.sigmoid(outputs_TBC.float())
        found = _bernoulli(p.mean(0)).sum(1) - _bernoulli(p).sum(2).mean(0)
    return found.flatten(1).mean(1) if found.ndim > 1 else found


def _bernoulli(p: Tensor) -> Tensor:
    entropy: Tensor = torch.special.entr(p) + torch.special.entr(1 - p)
    return entropy


def loop(model: nn.Module, forward: Callable[[], Tensor], T: int, likelihood: str = "categorical") -> Tensor:
    """Compute ``disagreement`` (B,) by a loop of T forward passes with dropout on and normalization in evaluation mode.

    forward() runs ``model`` on its batch. Training flags are restored.
    """
    with dropping(model):
        return disagreement(torch.stack([forward() for _ in range(T)]), likelihood)


def batched_loop(
    model: nn.Module,
    forward: Callable[[Tensor], Tensor],
    x_B: Tensor,
    T: int,
    batch: int,
    likelihood: str = "categorical",
) -> Tensor:
    """Compute the same by forward passes of ``batch`` rows, in which each item is repeated for its T passes."""
    item_n = torch.arange(len(x_B) * T, device=x_B.device) // T
    with dropping(model):
        outputs_n = torch.cat([forward(x_B[part]) for part in item_n.split(batch)])
        return disagreement(outputs_n.unflatten(0, (len(x_B), T)).transpose(0, 1), likelihood)


@contextlib.contextmanager
def dropping(model: nn.Module) -> Iterator[None]:
    """Switch dropout on, leave normalization in evaluation mode, and compute no gradients; training flags are restored."""
    was = {module: module.training for module in model.modules()}
    model.train()
    for module in model.modules():
        if hasattr(module, "running_mean"):
            module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in was.items():
            module.training = training
