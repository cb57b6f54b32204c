"""Small networks with dropout, trained from fresh weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mcscore import Pool


def mlp(sizes: Sequence[int], rates: Sequence[float]) -> nn.Sequential:
    """Linear layers of these sizes; ReLU and dropout of these rates behind each but the last."""
    layers: list[nn.Module] = []
    for inputs, outputs, rate in zip(sizes[:-2], sizes[1:-1], rates, strict=True):
        layers += [nn.Linear(inputs, outputs), nn.ReLU(), nn.Dropout(rate)]
    return nn.Sequential(*layers, nn.Linear(*sizes[-2:]))


def cnn() -> nn.Sequential:
    """Gal's CNN made small, for images (B, 1, 28, 28) of ten classes: what precedes dropout runs once for all passes."""
    return nn.Sequential(
        *(nn.Conv2d(1, 8, 5), nn.MaxPool2d(2), nn.ReLU()),  # (B, 8, 12, 12)
        *(nn.Conv2d(8, 16, 5), nn.MaxPool2d(2), nn.ReLU(), nn.Flatten()),  # (B, 256)
        *(nn.Dropout(0.25), nn.Linear(256, 64), nn.ReLU(), nn.Dropout(0.5), nn.Linear(64, 10)),
    )


def cnn_for_cpu() -> nn.Module:
    """``cnn`` in channels-last format, in which a step takes a third less time on a CPU."""
    return cnn().to(memory_format=torch.channels_last)


def trained(
    make: Callable[[], nn.Module],
    loss: Callable[[nn.Module, Tensor], Tensor],
    rows: int,
    seed: int,
    steps: int,
    batch: int = 32,
    rate: float = 2e-3,
    decay: float = 1e-3,
    device: str = "cpu",
) -> nn.Module:
    """A new network, by Adam: each step draws a batch of row numbers, and ``loss`` is that of the network on these."""
    torch.manual_seed(seed)
    model, gpu = make().to(device).train(), torch.device(device).type == "cuda"
    optimizer = torch.optim.Adam(model.parameters(), rate, weight_decay=decay, fused=gpu or None, capturable=gpu)

    def step() -> None:
        optimizer.zero_grad()
        loss(model, torch.randint(rows, (batch,), device=device)).backward()
        optimizer.step()

    (_replayed if gpu else _repeated)(step, steps)
    optimizer.zero_grad()
    return model.eval()


def _repeated(step: Callable[[], None], times: int) -> None:
    for _ in range(times):
        step()


def _replayed(step: Callable[[], None], times: int) -> None:
    """Repeat a step by a CUDA graph: with a small network the host needs several times as long to launch its kernels as they run."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        _repeated(step, 3)  # what a first step allocates must be there before one is recorded
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
        step()  # is recorded, and not run
    for _ in range(times - 3):
        graph.replay()
    torch.cuda.synchronize()


def classifier(
    make: Callable[[], nn.Module],
    pool: Pool,
    labeled: npt.NDArray[np.int64],
    seed: int,
    steps: int,
    device: str = "cpu",
) -> nn.Module:
    """A new network, trained on the labeled items of a pool; pixels of 8 bits become 0 to 1."""
    x, y = (torch.from_numpy(each).to(device) for each in (pool.take(labeled), pool.labels[labeled].astype(np.int64)))
    x = x if x.is_floating_point() else x.float() / 255
    loss = lambda model, batch: F.cross_entropy(model(x[batch]), y[batch])  # noqa: E731
    return trained(make, loss, len(y), seed, steps, device=device)
