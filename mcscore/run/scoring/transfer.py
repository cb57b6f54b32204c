"""Between the host and the scorer's device: blocks go up while those before are scored, scores come back behind them.

The host waits for the device in one place: for the scores of a block, once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[Any]


@dataclass(frozen=True)
class Scores:
    """Scores of a block on their way to the host.

    Attributes:
        columns: name -> (n,); their values are there once ``wait`` has returned.
        wait: returns when they are; raises what the device reports late.
    """

    columns: dict[str, Values]
    wait: Callable[[], None]


class Transfer:
    """Where the scorer computes on the host: nothing is copied, and scores are there when it returns.

    Four blocks are in memory at a time: one is read, ``ahead`` wait, and ``behind`` + 1 are with the scorer.
    """

    ahead = 2  # blocks that wait ready
    behind = 0  # blocks that are launched before the scores of one are taken

    def allocate(self, size: int) -> npt.NDArray[np.uint8]:
        """Allocate memory that blocks are read into."""
        return np.empty(size, np.uint8)

    def upload(self, items: Values, ids: npt.NDArray[np.int64]) -> Any:
        """Begin the copy to the device, for ``arrived``; both must stay as they are until the scores are on the host."""
        return items, ids

    def arrived(self, uploaded: Any) -> tuple[Any, Any]:
        """Return items and ids as the scorer takes them."""
        items, ids = uploaded
        return items, ids

    def download(self, scores: Mapping[str, Any]) -> Scores:
        """Begin the copy of scores to the host."""
        return Scores({name: values.detach().cpu().numpy() for name, values in scores.items()}, lambda: None)


class CudaTransfer(Transfer):
    """To and from a CUDA device: up on a stream of its own, back on the stream that scores.

    While the device scores a block, the next one is queued behind it. So taking scores and committing a span (7 to 30 ms)
    do not stop the device.
    """

    ahead, behind = 1, 1

    def __init__(self, device: str) -> None:
        import torch

        self._torch: Any = torch
        self._device = torch.device(device)
        self._stream: Any = self._torch.cuda.Stream(self._device)

    def allocate(self, size: int) -> npt.NDArray[np.uint8]:
        """Allocate page-locked memory: only from there does a copy run beside the host's work."""
        memory: npt.NDArray[np.uint8] = self._torch.empty(size, dtype=self._torch.uint8, pin_memory=True).numpy()
        return memory

    def upload(self, items: Values, ids: npt.NDArray[np.int64]) -> Any:
        """Begin the copy to the device, for ``arrived``; both must stay as they are until the scores are on the host."""
        with self._torch.cuda.stream(self._stream):
            pinned = self._torch.from_numpy(items), self._torch.from_numpy(ids).pin_memory()
            copies = tuple(memory.to(self._device, non_blocking=True) for memory in pinned)
            return copies, self._stream.record_event()

    def arrived(self, uploaded: Any) -> tuple[Any, Any]:
        """Return items and ids on the device, for the stream in use: what is queued there from now on waits for them."""
        (items, ids), event = uploaded
        current = self._torch.cuda.current_stream(self._device)
        current.wait_event(event)
        items.record_stream(current)
        ids.record_stream(current)
        return items, ids

    def download(self, scores: Mapping[str, Any]) -> Scores:
        """Begin the copy of scores to page-locked memory, behind what is queued on the stream in use."""
        host = {
            name: self._torch.empty(values.shape, dtype=values.dtype, pin_memory=True).copy_(
                values.detach(), non_blocking=True
            )
            for name, values in scores.items()
        }
        # Blocking: the thread sleeps, and the core is the reader's. Spinning would gain microseconds of a block.
        done = self._torch.cuda.Event(blocking=True)
        done.record(self._torch.cuda.current_stream(self._device))
        return Scores({name: values.numpy() for name, values in host.items()}, done.synchronize)
