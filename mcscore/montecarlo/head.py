"""Scores of a model that ends in dropout and Linear: after one forward pass, one kernel does the rest."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from ..kernels.head import dropout_head
from .apply_masks import BatchedMasks, MaskStream
from .deferred import FusedLinear


@dataclass(frozen=True)
class Head:
    """The last features of a batch, which all passes share, and the dropout and Linear behind them."""

    stream: MaskStream
    end: FusedLinear

    def of_first(self, n: int) -> Head:
        """Return the head of the first n items alone, for checks."""
        few = dataclasses.replace(self.stream, ids_B=self.stream.ids_B[:n])
        return Head(few, dataclasses.replace(self.end, x=self.end.x[:n]))

    def logits(self, passes_t: Tensor) -> Tensor:
        """Return logits_tBC of some passes, for checks."""
        y_tBC = BatchedMasks(self.stream, passes_t).linear(self.end.site, self.end.x, self.end.weight, self.end.bias)
        return y_tBC.unflatten(0, (len(passes_t), -1))

    def scores(
        self, passes_t: Tensor, scores: Sequence[str], likelihood: str, errors: bool = False
    ) -> dict[str, Tensor]:
        """Return scores, with ``errors`` their errors, and prediction (B,) over these passes."""
        return dropout_head(
            self.end.x,
            self.stream.masks(self.end.site, passes_t),
            self.end.weight,
            self.end.bias,
            scores,
            likelihood=likelihood,
            errors=errors,
        )
