"""Replicating dropout, dropout with Linear, and the whole head, against the PyTorch calls they stand for."""

from __future__ import annotations

import pytest

from mcscore.bench.shapes import default_specs


@pytest.mark.parametrize("spec", default_specs("cpu", ("dropout", "dropout_linear", "dropout_head")), ids=str)
def test_dropout(measured, spec):
    measured(spec)
