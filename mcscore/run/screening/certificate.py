"""The certificate of a screened run: what it cost, what it is expected to have found, and what an audit of the rest shows."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from ...selection.screening import screen as screens
from ...selection.screening.audit import audit_result
from ...selection.topk import TopK
from ..journal import Journal, Record
from ..schema import as_json
from ..stored import StoredScores
from .cut import FixedCut, Wanted, population_of


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
    expected = screens.certify(fixed.cut, population_of(full, screen.by, screen.top))
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
                "expected_survival": expected.survived,
                "expected_recall": expected.expected_recall,
                "assumption": expected.assumption,
                "reason": fixed.cut.reason,
                "audit": dataclasses.asdict(audit),
            }
        )
    )
