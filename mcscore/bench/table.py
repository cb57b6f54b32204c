"""Tables of results, for a terminal of 100 columns."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch

from ..kernels import backends
from ..kernels.roofline import Ceilings
from .cases import KERNELS
from .measure import Row

LEGEND = (
    "% roof: 100 = the least bytes or FLOPs of the task at the speed of the copy or the matrix",
    "product above; data that stays in cache can exceed it. x eager, x compile: time of plain",
    "PyTorch, without and with torch.compile, over mcscore's. x floor: mcscore's time over that of",
    "the floor. extra: peak memory beyond the inputs, results included. error: the greatest error",
    "against float64.",
)


def quantity(value: float | None, digits: int = 3) -> str:
    """Format a number with a unit prefix: 1234567 -> 1.23M; None -> -."""
    if value is None:
        return "-"
    if not math.isfinite(value):
        return str(value)
    for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{_digits(value / size, digits)}{letter}"
    return _digits(value, digits)


def _digits(value: float, digits: int) -> str:
    """Format a number with ``digits`` significant digits and no exponent: 0.0123, 1.23, 12.3, 1234."""
    whole = math.floor(math.log10(abs(value))) + 1 if value else 1
    return f"{value:.{min(9, max(0, digits - whole))}f}"


def _bytes(value: int | None) -> str:
    return "-" if value is None else "0" if value < 1000 else f"{quantity(value, 2)}B"


def _error(row: Row) -> str:
    return ("0" if row.error == 0 else f"{row.error:.0e}") + ("" if row.right else " WRONG")


Cell = Callable[[Row], str]
# Name, width (negative: aligned left), and text of a cell.
_COLUMNS: tuple[tuple[str, int, Cell], ...] = (
    ("shape", -30, lambda row: row.shape),
    ("dtype", -8, lambda row: row.dtype),
    ("items/s", 7, lambda row: quantity(row.items_per_s)),
    ("GB/s", 7, lambda row: quantity(row.GB_per_s)),
    ("% roof", 6, lambda row: _digits(row.percent_of_roof, 2)),
    ("x eager", 7, lambda row: quantity(row.times_eager, 2)),
    ("x compile", 9, lambda row: quantity(row.times_compile, 2)),
    ("x floor", 7, lambda row: quantity(row.times_floor, 2)),
    ("extra", 5, lambda row: _bytes(row.extra_bytes)),
    ("error", 5, _error),
)


def columns(kernel: str) -> tuple[tuple[str, int, Cell], ...]:
    """Return the columns of a kernel's table; kernels that multiply have GFLOP/s in place of GB/s."""
    if KERNELS[kernel].unit == "GB/s":
        return _COLUMNS
    rate = ("GFLOP/s", 7, lambda row: quantity(row.GFLOP_per_s))
    return tuple(rate if name == "GB/s" else (name, width, cell) for name, width, cell in _COLUMNS)


def heading(kernel: str) -> list[str]:
    """Format the lines above a kernel's rows."""
    info = KERNELS[kernel]
    floor = f"; floor: {info.floor}" if info.floor else ""
    names = " ".join(f"{name:{_align(width)}}" for name, width, _ in columns(kernel))
    return [f"{kernel}: {info.does}{floor}; error: {info.error}", names.rstrip()]


def line(row: Row) -> str:
    """Format one row of the table for a terminal."""
    return " ".join(f"{cell(row):{_align(width)}}" for _, width, cell in columns(row.kernel)).rstrip()


def _align(width: int) -> str:
    return f"<{-width}" if width < 0 else f">{width}"


def machine_line(device: torch.device, machine: Mapping[str, Any]) -> str:
    """Describe processor or GPU, threads, version of torch, and the kernels that run."""
    if device.type == "cuda":
        where = torch.cuda.get_device_name(device)
    else:
        where = f"{machine['processor']}, {machine['torch_threads']} of {machine['cores']} cores"
    kind = backends.select(device)
    kernels = f"{kind} kernels" if kind == "eager" else f"{kind} kernels ({backends.status()[kind][1]})"
    return f"{where}; torch {torch.__version__}; {kernels}"


def roof_line(ceilings: Mapping[torch.dtype, Ceilings]) -> str:
    """Format the ceilings, with each distinct rate of the matrix product."""
    rates: dict[float, str] = {}
    for dtype, ceiling in ceilings.items():
        rates.setdefault(ceiling.matmul, str(dtype).removeprefix("torch."))
    products = ", ".join(f"{name} {quantity(rate / 1e9)} GFLOP/s" for rate, name in rates.items())
    copy = next(iter(ceilings.values())).copy
    return f"roof, measured just now: copy {quantity(copy / 1e9)} GB/s; matrix product {products}"


def ceilings_facts(ceilings: Mapping[torch.dtype, Ceilings]) -> dict[str, Any]:
    """Return the ceilings for JSON."""
    copy = next(iter(ceilings.values())).copy
    rates = {str(dtype).removeprefix("torch."): ceiling.matmul / 1e9 for dtype, ceiling in ceilings.items()}
    return {"copy_GB_per_s": copy / 1e9, "matmul_GFLOP_per_s": rates}
