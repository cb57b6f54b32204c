"""Numbers as a person reads them, and names with every character to be seen."""

from __future__ import annotations

import math
import re

# Control characters, bytes of a name that is not UTF-8, line breaks, and what turns the direction of the text after it.
_UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff\u2028\u2029\u202a-\u202e\u2066-\u2069]")


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


def visible(text: str) -> str:
    r"""Text with characters that cannot be seen, or change what stands around them, as escapes; the rest as it is.

    >>> visible("a\nb"), visible("\x1b[31m"), visible("\udcff.png"), visible(r"$\foo$")
    ('a\\nb', '\\x1b[31m', '\\udcff.png', '$\\foo$')
    """
    return _UNSEEN.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)
