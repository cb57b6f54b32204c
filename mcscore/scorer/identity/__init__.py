"""What a run must go on with beside the tensors of its model: code, the values it refers to, attributes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from .fingerprint import fingerprint
from .found import summary
from .walk import Walk

__all__ = ["Identity", "fingerprint", "identity_of"]


@dataclass(frozen=True)
class Identity:
    """Code and values by name ("source of Net.forward", "value of MEAN", "attribute scale of Net"): a hash, and the file.

    unseen: what could not be compared, and why.
    """

    code: Mapping[str, str]
    unseen: tuple[str, ...]


def identity_of(model: nn.Module, transform: Any) -> Identity:
    """What ``model`` and ``transform`` compute with, beside the tensors that ``fingerprint`` covers."""
    found = Walk(model, fingerprint).follow(transform)
    return Identity(summary(found), tuple(sorted(found.unseen)))
