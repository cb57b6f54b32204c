"""Full steps as a CUDA graph: one launch in place of hundreds, so that the host is never in the way.

A step of Gal's CNN is some 60 launches of a few microseconds of work each, and the Python that makes them takes longer than the GPU.
The first full step runs as it is; the second is recorded while nothing runs, replayed, and must give the bits that it gave without.
From then on a full step is a copy into the graph's input buffers and one replay. Shorter steps run as they are, by the same kernels.

The graph reads weights where they lie, so changes of their content are seen. It takes for granted what ``recorded`` lists: a model
that changes there is recorded anew.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map_only

from ..errors import first_line
from ..kernels import backends
from ..kernels.weight_cache import keeping, keeping_nothing
from ..montecarlo.tensors import equal_bits, form_of

Step = Callable[[Any, Tensor], dict[str, Tensor]]
"""(inputs, ids_B) -> scores (B,) by name, without waiting for the device"""

_FULL = (
    2  # full steps after which one is recorded: the first one compiles kernels, and checks what waits for the device
)


class _Graph:
    """One recorded step, its inputs and its scores."""

    def __init__(self, step: Step, inputs: Any, ids_B: Tensor) -> None:
        """Record. Raises RuntimeError if the step waits for the device, or uses what a graph cannot hold."""
        self._inputs, self._ids_B = tree_map_only(Tensor, torch.clone, inputs), ids_B.clone()
        self._form = form_of(inputs, ids_B)
        self._graph = torch.cuda.CUDAGraph()
        # What was made from weights before lives shorter than the graph: it is made anew, from the graph's own memory.
        # Other threads may go on: the reader of a run allocates and copies meanwhile.
        recording = torch.cuda.graph(self._graph, capture_error_mode="thread_local")
        with keeping_nothing(), keeping(), recording:
            self._scores = step(self._inputs, self._ids_B)

    def fits(self, inputs: Any, ids_B: Tensor) -> bool:
        """Whether inputs and ids have the shapes of those that were recorded, and other arguments their values."""
        return form_of(inputs, ids_B) == self._form

    def replay(self, inputs: Any, ids_B: Tensor) -> dict[str, Tensor]:
        """The scores of these items. They are overwritten by the next replay."""
        for ours, given in zip(tree_flatten(self._inputs)[0], tree_flatten(inputs)[0], strict=True):
            if isinstance(ours, Tensor):
                ours.copy_(given, non_blocking=True)
        self._ids_B.copy_(ids_B, non_blocking=True)
        self._graph.replay()
        return self._scores


class GraphedSteps:
    """Runs full steps, from a graph as soon as there is one.

    Args:
        name: of the model, for messages.
        step: computes the scores of a step.
    """

    def __init__(self, name: str, step: Step) -> None:
        self._name, self._step = name, step
        self._full, self._off = 0, False
        self._graph: _Graph | None = None

    def __call__(self, inputs: Any, ids_B: Tensor) -> dict[str, Tensor]:
        """Compute the scores of one full step."""
        if self._graph is not None and self._graph.fits(inputs, ids_B):
            return self._graph.replay(inputs, ids_B)
        scores = self._step(inputs, ids_B)
        self._full += 1
        if self._full >= _FULL and self._graph is None and not self._off:
            self._record(inputs, ids_B, scores)
        return scores

    def forget(self) -> bool:
        """Free the graph and its memory; the next full steps make another. Returns whether there was one."""
        there, self._graph, self._full = self._graph is not None, None, 0
        return there

    def stop(self) -> bool:
        """Free the graph and record no other. Returns whether there was one."""
        self._off = True
        return self.forget()

    def _record(self, inputs: Any, ids_B: Tensor, scores: dict[str, Tensor]) -> None:
        """Record the step that gave ``scores``; if that fails, or gives other bits, say so and go on without."""
        torch.cuda.synchronize(ids_B.device)
        torch.cuda.empty_cache()  # a graph has memory of its own, as much again
        try:
            graph = _Graph(self._step, inputs, ids_B)
            again = graph.replay(inputs, ids_B)
            different = [name for name, values in scores.items() if not equal_bits(values, again[name])]
            why = f"its {', '.join(different)} have other bits" if different else ""
        except torch.OutOfMemoryError:
            why = "there is no memory for it"
        except (RuntimeError, ValueError, TypeError, NotImplementedError, AssertionError) as error:
            why = first_line(error)
        if why:
            self._off = True
            torch.cuda.empty_cache()
            backends.warn_once(f"{self._name}: full steps run without a CUDA graph ({why})")
            return
        self._graph = graph
