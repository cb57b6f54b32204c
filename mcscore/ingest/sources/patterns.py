"""Patterns of files: braces as a shell expands them, and globs. Each file that is named must be there."""

from __future__ import annotations

import glob
import os
import re
from collections import Counter
from pathlib import Path

from ...errors import PoolError

MAX_FILES = 1_000_000  # that a pattern may name
_BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}|\{([^{}]*,[^{}]*)\}")
_NAMED = 5  # missing files that an error names


def files_of(pattern: str) -> list[Path]:
    """Return the files that a pattern names, in its order.

    Raises:
        PoolError: nothing is there; a part of the pattern (one of {000..127}) names no file; a file is named twice.
    """
    if os.path.exists(pattern):
        return [Path(pattern)]
    parts = expand_braces(pattern)
    found = [[part] if os.path.exists(part) else sorted(glob.glob(part)) for part in parts]
    missing = [part for part, names in zip(parts, found, strict=True) if not names]
    if len(missing) == len(parts):
        raise PoolError(f"{pattern}: no such file, and no file matches the pattern")
    if missing:
        some = ", ".join(missing[:_NAMED]) + (", ..." if len(missing) > _NAMED else "")
        raise PoolError(
            f"{len(missing)} of the {len(parts)} files that {pattern} names are missing: {some}. Restore them, or give a "
            "pattern that names only the files that are there, such as a glob with *"
        )
    names = [name for part in found for name in part]
    twice = [name for name, count in Counter(map(os.path.realpath, names)).items() if count > 1]
    if twice:
        raise PoolError(f"{pattern} names {twice[0]} more than once: its items would come twice")
    return [Path(name) for name in names]


def expand_braces(pattern: str) -> list[str]:
    """Expand the braces of a pattern, as a shell does.

    Raises:
        PoolError: more than MAX_FILES names; counted before any is made.

    Example:
        >>> expand_braces("a-{08..10}.tar")
        ['a-08.tar', 'a-09.tar', 'a-10.tar']
        >>> expand_braces("{x,y}.tar")
        ['x.tar', 'y.tar']
    """
    count = 1
    for first, last, listed in _BRACES.findall(pattern):
        if max(len(first), len(last)) > 18:  # int() of thousands of digits is slow
            raise PoolError(f"{pattern}: a number in braces has more than 18 digits")
        count *= listed.count(",") + 1 if listed else abs(int(last) - int(first)) + 1
        if count > MAX_FILES:
            raise PoolError(f"{pattern} names more than {MAX_FILES:,} files: give a narrower pattern, or one with *")
    return _expanded(pattern)


def _expanded(pattern: str) -> list[str]:
    found = _BRACES.search(pattern)
    if not found:
        return [pattern]
    first, last, listed = found.groups()
    if listed is not None:
        parts = listed.split(",")
    else:
        step = 1 if int(last) >= int(first) else -1
        parts = [f"{i:0{len(first)}d}" for i in range(int(first), int(last) + step, step)]
    rest = _expanded(pattern[found.end() :])
    return [pattern[: found.start()] + part + end for part in parts for end in rest]
