"""A decorator that runs a Scorer's methods one thread at a time, in the PyTorch modes that scoring needs."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Concatenate, ParamSpec, TypeVar

import torch

from ..fence import user_code
from ..kernels import backends
from ..kernels.weight_cache import keeping
from ..montecarlo.guard.exclusive import exclusive
from .numeric import numeric_modes

if TYPE_CHECKING:
    from .scorer import Scorer

P = ParamSpec("P")
R = TypeVar("R")


def one_at_a_time(
    *holding: Callable[[Scorer], object],
) -> Callable[[Callable[Concatenate[Scorer, P], R]], Callable[Concatenate[Scorer, P], R]]:
    """Decorate a method of a Scorer to run one thread at a time, with the Scorer and ``holding`` locked, in the modes of scoring.

    The user's code that it runs is fenced.
    """

    def decorate(method: Callable[Concatenate[Scorer, P], R]) -> Callable[Concatenate[Scorer, P], R]:
        @functools.wraps(method)
        def alone(scorer: Scorer, /, *args: P.args, **kwargs: P.kwargs) -> R:
            numeric = numeric_modes(scorer.execution.dtype == "tf32")  # first: who waits for them holds no scorer
            held = exclusive(scorer, *(each(scorer) for each in holding))
            with numeric, held, _scoring_modes(torch.device(scorer.device)), keeping(), user_code(scorer.named):
                return method(scorer, *args, **kwargs)

        return alone

    return decorate


@contextlib.contextmanager
def _scoring_modes(device: torch.device) -> Iterator[None]:
    """Switch off gradients, autocast, and inference mode, in which tensors have no version counter to detect changes."""
    with contextlib.ExitStack() as stack:
        if torch.is_inference_mode_enabled():
            stack.enter_context(torch.inference_mode(False))
        for kind in {"cpu", device.type}:
            if torch.is_autocast_enabled(kind):
                backends.warn_once(
                    f"torch.autocast on {kind} is switched off while mcscore scores: a score must not depend on where "
                    "it is asked for. For lower precision use Scorer(..., execution=Execution(dtype='bfloat16'))"
                )
                stack.enter_context(torch.autocast(kind, enabled=False))
        stack.enter_context(torch.no_grad())
        yield
