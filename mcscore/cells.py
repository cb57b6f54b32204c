"""Text in the cells of a CSV file that a spreadsheet would otherwise run as a formula.

A spreadsheet takes a cell that begins with ``=``, ``+``, ``-``, ``@``, their full-width forms, a tab or a line break for a
formula (OWASP, "CSV Injection"). Such a text is written with an apostrophe before it. So that every text reads back as it
was, a text that begins with apostrophes before one of these characters gets one more, and reading takes one away.
"""

from __future__ import annotations

import re

FORMULA = "'*[=+\\-@＝＋－＠\t\r\n]"  # for re and for RE2, which Arrow has
_FORMULA, _GUARDED = re.compile(FORMULA), re.compile(f"'{FORMULA}")


def guarded(text: str) -> str:
    """Return the text as a cell that no spreadsheet runs.

    >>> guarded("=1+1"), guarded("-x.png"), guarded("'=x"), guarded("a=b"), guarded("'tis")
    ("'=1+1", "'-x.png", "''=x", 'a=b', "'tis")
    """
    return f"'{text}" if _FORMULA.match(text) else text


def unguarded(cell: str) -> str:
    """Return the text that a cell holds: the reverse of ``guarded``; other cells are as they are.

    >>> unguarded("'=1+1"), unguarded("''=x"), unguarded("=1+1"), unguarded("'tis")
    ('=1+1', "'=x", '=1+1', "'tis")
    """
    return cell[1:] if _GUARDED.match(cell) else cell
