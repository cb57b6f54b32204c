"""What an import did with each thing that its source holds: the closing count."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from .sources import shown

MAX_REASONS = 20  # that are counted one by one; the rest counts as OTHER
OTHER = "other reasons, see the list"


@dataclass
class Counts:
    """The closing count of an import or an append.

    Attributes:
        stored: items that the source gave.
        refused: entries that cannot be used, by reason; ``bad_list`` names the file that lists each.
        passed_over: what is no entry, by reason.
        converted: stored items whose pixels were changed beside the resizing, by kind.
        remarks: sentences about choices that the user should know of.
        bad_list: the file that lists what was refused; None if nothing was.
    """

    stored: int
    refused: dict[str, int] = field(default_factory=dict)
    passed_over: dict[str, int] = field(default_factory=dict)
    converted: dict[str, int] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()
    bad_list: str | None = None

    @property
    def read(self) -> int:
        """Entries that were read: stored or refused."""
        return self.stored + sum(self.refused.values())

    def to_json(self) -> dict[str, Any]:
        """Return the count for ``--json``."""
        return {
            "read": self.read,
            "stored": self.stored,
            "refused": sum(self.refused.values()),
            "refused_why": self.refused,
            "passed_over": self.passed_over,
            "converted": self.converted,
            "remarks": list(self.remarks),
            "bad_list": self.bad_list,
        }

    def lines(self) -> list[str]:
        """Return the count as lines of text; a line that would say nothing is left out.

        >>> Counts(7, {"the file is empty": 1}, {"hidden": 2}).lines()[0]
        '8 entries read: 7 stored, 1 refused (1 the file is empty)'
        >>> Counts(9, converted=dict.fromkeys("abcdefgh", 1)).lines()[1]  # every kind
        'converted: 1 a, 1 b, 1 c, 1 d, 1 e, 1 f, 1 g, 1 h'
        """
        refused = sum(self.refused.values())
        listed = f", listed in {self.bad_list}" if self.bad_list else ""
        why = f" ({_listed(self.refused)}){listed}" if refused else ""
        lines = [f"{self.read:,} entries read: {self.stored:,} stored, {refused:,} refused{why}"]
        if self.passed_over:
            lines.append(f"{sum(self.passed_over.values()):,} others passed over: {_listed(self.passed_over)}")
        if self.converted:
            lines.append(f"converted: {_listed(self.converted, most=len(self.converted))}")
        return [*lines, *self.remarks]


Report = Callable[[Counts], None]


def reasons_of(bad: Iterable[Iterable[str]]) -> dict[str, int]:
    """Return how many entries have each reason, the most frequent first.

    >>> reasons_of([["a", "empty"], ["b", "cut off"], ["c", "empty"]])
    {'empty': 2, 'cut off': 1}
    """
    counted = Counter(shown(reason) for _, reason in bad).most_common()
    found = dict(counted[:MAX_REASONS])
    rest = sum(count for _, count in counted[MAX_REASONS:])
    return {**found, **({OTHER: rest} if rest else {})}


def _listed(counts: dict[str, int], most: int = 6) -> str:
    ordered = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    rest = sum(count for _, count in ordered[most:])
    parts = [f"{count:,} {why}" for why, count in ordered[:most]]
    return ", ".join([*parts, *([f"{rest:,} for other reasons"] if rest else [])])
