"""Replicated dropout, dropout with Linear, and dropout with Linear and scores, against the same in PyTorch."""

from __future__ import annotations

import pytest

from mcscore.bench.shapes import default_specs


@pytest.mark.parametrize("spec", default_specs("cpu", ("dropout", "dropout_linear", "dropout_head")), ids=str)
def test_dropout(measured, spec):
    measured(spec)
