"""The instruction sets that a test of the C++ kernels runs with."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from mcscore.kernels import native


@pytest.fixture(params=native.available_isas() if native.available()[0] else [])
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    with native.use_isa(request.param):
        yield request.param
