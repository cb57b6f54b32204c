"""Benchmarks run on one thread and print what a time means: items/s, share of the measured roof, ratios to PyTorch, error.

    pytest benchmarks -s --benchmark-disable-gc                         # everything
    pytest benchmarks/bench_dropout.py -s --without-compile             # no ratios to torch.compile: minutes less
    pytest benchmarks --benchmark-autosave; ...; --benchmark-compare    # against an earlier state

Kernels are measured by ``mcscore.bench``, the cases are those of ``mcscore bench kernels``.
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
    """One thread of this CPU, its ceilings measured."""
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
    """measured(spec): the row of a case, printed, kept with the benchmark, and right."""

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
