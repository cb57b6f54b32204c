"""What becomes of the findings of the checks: nothing, a warning, or an error before anything is written."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal, get_args

from ..errors import CheckError, RunError

if TYPE_CHECKING:
    from ..scorer.checks import Finding

Check = Literal["off", "warn", "strict"]


def require_check(check: str) -> None:
    """Raise RunError if ``check`` is none of the words."""
    if check not in get_args(Check):
        raise RunError(f"check must be one of {', '.join(get_args(Check))}, not {check!r}")


def told(findings: Sequence[Finding], check: Check) -> tuple[Mapping[str, str], ...]:
    """Warn of each finding, and return them as run.json keeps them.

    Raises:
        CheckError: ``check`` is strict, and there are findings.
    """
    if findings and check == "strict":
        every = "; ".join(f"({number}) {finding}" for number, finding in enumerate(findings, 1))
        raise CheckError(
            f"nothing was scored, as this does not look right: {every}. check='warn' (--check warn) scores all the same"
        )
    for finding in findings:
        warnings.warn(f"this does not look right: {finding}", stacklevel=2)
    return tuple({"check": finding.check, "text": finding.text} for finding in findings)
