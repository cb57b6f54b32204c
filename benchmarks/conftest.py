"""Benchmarks run on one thread, and print items/s, share of the measured roof, ratios to PyTorch, and error.

    pytest benchmarks -s --benchmark-disable-gc                         # everything
    pytest benchmarks/bench_dropout.py -s --without-compile             # no ratios to torch.compile, which saves minutes
    pytest benchmarks --benchmark-autosave; ...; --benchmark-compare    # comparison with an earlier state

``mcscore.bench`` measures the kernels, on the cases of ``mcscore bench kernels``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from mcscore.bench import cases, table
from mcscore.bench.clock import rotating
from mcscore.bench.measure import Bench, Row
from mcscore.bench.shapes import Spec


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--without-compile", action="store_true", help="no ratios to torch.compile")


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def bench(request: pytest.FixtureRequest) -> Bench:
    """One thread of this CPU, with measured ceilings."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    opened = Bench.open(torch.device("cpu"), compile=not request.config.getoption("--without-compile"))
    torch.set_num_threads(before)
    return opened


@pytest.fixture(scope="session")
def headed() -> list[str]:
    """The kernels whose heading is printed already."""
    return []


@pytest.fixture
def measured(
    benchmark: Any, bench: Bench, headed: list[str], capsys: pytest.CaptureFixture[str]
) -> Callable[[Spec], Row]:
    """measured(spec) measures a case, prints its row, stores it with the benchmark, and asserts that it is right."""

    def run(spec: Spec) -> Row:
        row = bench.measure(spec)
        benchmark.extra_info.update(row.to_dict())
        with capsys.disabled():
            if row.kernel not in headed:
                headed.append(row.kernel)
                print("\n\n" + "\n".join(table.heading(row.kernel)), end="")
            print("\n" + table.line(row), end="", flush=True)
        case = cases.build(spec, bench.device)
        benchmark(rotating(case.ours, case.inputs))
        assert row.right, f"error {row.error:.3g} > {row.tolerance:.3g}"
        return row

    return run
