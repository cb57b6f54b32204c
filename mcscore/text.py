"""Numbers as a person reads them."""

from __future__ import annotations

import math


def number(value: float) -> str:
    """A score or prediction as the page prints it: three significant digits or more, and never a bare row of zeros."""
    size = abs(value)
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else str(value)
    if size >= 1000 or size < 0.001:
        return f"{value:.3g}" if size >= 1000 else f"{value:.1e}"
    return f"{value:.{4 if size < 0.1 else 3 if size < 10 else 1}f}"


def count(n: int, thing: str) -> str:
    """1 item, "2,000 items"."""
    return f"{n:,} {thing}{'' if n == 1 else 's'}"


def duration(seconds: float) -> str:
    """Seconds up to a minute and a half, then minutes, then hours."""
    if seconds < 90:
        return f"{seconds:.1f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def size(n: int) -> str:
    """Bytes as a file manager tells them: 900 bytes, 1.2 kB, 3.4 GB."""
    if n < 1000:
        return count(n, "byte")
    power = min((len(str(n)) - 1) // 3, 4)
    return f"{n / 1000**power:.1f} {('kB', 'MB', 'GB', 'TB')[power - 1]}"
