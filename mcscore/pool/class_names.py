"""Labels as people write them: names of classes, or their numbers. One column has one reading, never both."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from ..errors import PoolError
from ..labels import UNLABELED

READINGS = ("names", "numbers")
WHOLE = r"(-?[0-9]{1,18})(\.0*)?"  # for re and for RE2, which Arrow has
_WHOLE = re.compile(WHOLE)
_TOP = 2**31 - 1


def whole_number(text: str) -> int | None:
    """Return the integer that a text is; "2.0" too, for a spreadsheet with gaps makes that of 2.

    ASCII only, because int() refuses some of the digits that str.isdigit() accepts; 18 digits fit in an int64.

    >>> whole_number("2.0"), whole_number("-1"), whole_number("2.5"), whole_number("²")
    (2, -1, None, None)
    """
    found = _WHOLE.fullmatch(text)
    return int(found[1]) if found else None


class TwoReadingsError(PoolError):
    """A label is a name of one class and the number of another, or of none."""


class ClassReader:
    """Turns what a source or a table says of a class into its number.

    Args:
        classes: names of the classes 0, 1, ...; None: there are only numbers.
        reading: "names" or "numbers"; None: whichever is possible, an error where both are and differ.

    >>> reader = ClassReader(["cat", "dog"])
    >>> reader.number("dog"), reader.number("0"), reader.number("bird")
    (1, 0, None)
    """

    def __init__(self, classes: Sequence[str] | None, reading: str | None = None) -> None:
        if reading not in (None, *READINGS):
            raise PoolError(f"labels are read as {' or '.join(READINGS)}, not as {reading!r}")
        if reading == "names" and classes is None:
            raise PoolError("labels cannot be read as names: the pool has no class names")
        self.classes = None if classes is None else list(classes)
        self.reading = reading
        self._by_name = {name: number for number, name in enumerate(classes or ())}

    def named(self, text: str) -> int | None:
        """Return the number of the class of this name; -1 (unlabeled) has no name."""
        if text not in self._by_name and whole_number(text) == UNLABELED:
            return UNLABELED
        return self._by_name.get(text)

    def numbered(self, text: str) -> int | None:
        """Return the number that the text is, if there is such a class."""
        value = whole_number(text)
        top = _TOP if self.classes is None else len(self.classes) - 1
        return value if value is not None and UNLABELED <= value <= top else None

    def number(self, text: str) -> int | None:
        """Return the class of one label; None if there is none.

        Raises:
            TwoReadingsError: as a name the label is one class, as a number another or none, and the reading is not given.
        """
        if self.reading == "names":
            return self.named(text)
        by_number = self.numbered(text)
        if self.reading == "numbers" or self.classes is None:
            return by_number
        by_name = self.named(text)
        if by_name is not None and whole_number(text) is not None and by_name != by_number:
            raise self._two_readings(text, by_name, by_number)
        return by_number if by_name is None else by_name

    def numbers(self, texts: Iterable[str]) -> list[int | None]:
        """Return the classes of a whole column, read in one way.

        Raises:
            TwoReadingsError: all are names and all are numbers, of different classes, and the reading is not given; or one is both
                and others are only the one or the other.
        """
        column = list(texts)
        if self.reading is None and self.classes is not None:
            by_name, by_number = [self.named(t) for t in column], [self.numbered(t) for t in column]
            if by_name == by_number:
                return by_name
            if None not in by_name and None in by_number and all(whole_number(t) is not None for t in column):
                return by_name  # all digits, and some are no number of a class
        return [self.number(text) for text in column]

    def _two_readings(self, text: str, by_name: int, by_number: int | None) -> TwoReadingsError:
        assert self.classes is not None
        other = "is the number of no class" if by_number is None else f"as a number class {self.classes[by_number]!r}"
        return TwoReadingsError(
            f"label {text!r} has two readings: as a name it is class number {by_name}, {other}. Say which with "
            "--labels-are names or --labels-are numbers (reading= in Python)"
        )
