"""What a screened run says of its stages, as text and as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...text import count, duration, number
from ..schema import RunHeader
from ..stored import StoredScores
from .cut import FixedCut


def told(certificate: Mapping[str, Any]) -> list[str]:
    """What a certificate says, line by line."""
    audit, top = certificate["audit"], certificate["top"]
    each = certificate["passes"] / max(1, certificate["items"])
    lines = [
        f"{count(certificate['survivors'], 'survivor')} of {count(certificate['items'], 'item')}, and "
        f"{certificate['audited']:,} of the rest for the audit: {each:.1f} passes per item instead of "
        f"{certificate['passes_in_full'] / max(1, certificate['items']):.0f}",
    ]
    if certificate["reason"]:
        return [*lines, f"nothing was dropped: {certificate['reason']}"]
    lines.append(
        f"expected: {certificate['expected_survival']:.1%} of the true best {top:,} survived, and "
        f"{certificate['expected_recall']:.1%} are among the best {top:,} found, if {certificate['assumption']}"
    )
    bound = (
        f"at least {audit['least_recall']:.1%} of what all passes of every item would have found, with 95 % confidence"
        if audit["least_recall"] > 0
        else "a sample of this size proves nothing: a larger share for the audit does"
    )
    lines.append(
        f"audit: {sum(audit['entered'])} of {sum(audit['sampled']):,} sampled items would have entered "
        f"({audit['expected']:.1f} expected); {bound}"
    )
    return lines


def told_cut(header: RunHeader) -> str:
    """The last cut of a run, in a line."""
    if not header.cuts:
        return "not fixed: the first stage is not complete"
    fixed, screen = FixedCut.from_json(header.cuts[-1]), header.screen
    assert screen is not None
    said = f"{count(fixed.cut.survivors, 'survivor')} of {fixed.cut.items:,}"
    if fixed.cut.threshold is None:
        return f"{said}: {fixed.cut.reason}"
    return f"{said}, those with {screen.by} - bias >= {number(fixed.cut.threshold)}; {fixed.passes:,} passes each"


def told_second(header: RunHeader, first: StoredScores, left: int) -> str:
    """What the second stage does, as it begins with ``left`` items of the pool left: how many items, and for how long."""
    share = FixedCut.from_json(header.cuts[-1]).share
    return (
        f"stage 2 of 2, {count(round(left * share), 'item')}, about {duration(seconds_of_second(header, first, left))}"
    )


def seconds_of_second(header: RunHeader, first: StoredScores, left: int) -> float:
    """What the second stage is expected to take for ``left`` items of the pool, at the pace of the first one's passes."""
    fixed = FixedCut.from_json(header.cuts[-1])
    pace = first.seconds / max(1, first.scored * first.header.settings.passes)
    return left * fixed.share * fixed.passes * pace
