"""The certificate of a screened run: what it cost, what it is expected to have found, and what an audit of the rest shows."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from ...selection.audit import audit_result
from ...selection.topk import TopK
from ...text import count, duration
from ..journal import Journal, Record
from ..schema import as_json
from ..start import Job
from ..stored import StoredScores
from .cut import FixedCut, Wanted

ASSUMPTION = (
    "errors of the screen's scores are normal with the spread that was estimated for items of that score, and independent "
    "between items"
)


def certify(journal: Journal, committed: list[Record], first: StoredScores) -> dict[str, Any]:
    """Make the certificate, as JSON, of a run whose stages are complete. Memory does not grow with the pool."""
    screen, full = journal.header.screen, StoredScores(journal, committed)
    assert screen is not None
    fixed = FixedCut.from_json(journal.header.cuts[-1])
    wanted = Wanted(first, screen.by, fixed)
    best, survivors = TopK(min(screen.top, full.n)), 0
    strata, audited = [np.empty(0, np.int8)], [np.empty(0, np.float32)]
    for ids, scores in full.spans(screen.by):
        survives, stratum = wanted.of(int(ids[0]), int(ids[-1]) + 1)
        scored = np.isfinite(scores)
        # What was audited or survived by a former cut is selected from as well: it has the same scores.
        best.update(ids, scores, ~scored)
        survivors += int((survives & scored).sum())
        strata.append(stratum[scored & (stratum >= 0)])
        audited.append(scores[scored & (stratum >= 0)])
    _, top = best.result()
    sample = np.concatenate(audited)
    kth = float(top[-1]) if len(top) else -np.inf
    audit = audit_result(fixed.audit, np.concatenate(strata), sample, kth, max(1, len(top)))
    spent = first.scored * screen.passes + full.scored * journal.header.settings.passes
    return dict(
        as_json(
            {
                "items": first.scored,
                "cut_items": fixed.items,
                "survivors": survivors,
                "audited": len(sample),
                "top": len(top),
                "passes": spent,
                "passes_in_full": first.scored * journal.header.settings.passes,
                "expected_survival": fixed.cut.expected_recall,
                "expected_recall": fixed.expected_recall,
                "assumption": ASSUMPTION,
                "reason": fixed.cut.reason,
                "audit": dataclasses.asdict(audit),
            }
        )
    )


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
    lines.append(
        f"audit: {sum(audit['entered'])} of {sum(audit['sampled']):,} sampled items would have entered "
        f"({audit['expected']:.1f} expected); at least {audit['least_recall']:.1%} of what all passes of every item would "
        "have found, with 95 % confidence"
    )
    return lines


def told_of(job: Job, first: StoredScores) -> str:
    """What the second stage does, as it begins: how many items, how many passes, and for how long."""
    fixed = FixedCut.from_json(job.journal.header.cuts[-1])
    share = (fixed.cut.survivors + fixed.audit.samples) / max(1, fixed.cut.items)
    left = sum(task.span.n - task.held_n for task in job.tasks)
    pace = first.seconds / max(1, first.scored * first.header.settings.passes)
    seconds = left * share * fixed.passes * pace
    return f"stage 2 of 2, {count(round(left * share), 'item')}, about {duration(seconds)}"
