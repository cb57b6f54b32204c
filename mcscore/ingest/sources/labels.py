"""The labels of a source, turned into class numbers as the entries come."""

from __future__ import annotations

from dataclasses import dataclass

from ...errors import ImageError, PoolError
from ...labels import UNLABELED
from ...pool.class_names import ClassReader


@dataclass(frozen=True)
class LabelOptions:
    """What the user says of the labels: whether to take them, the class names in order, and how digits are read."""

    take: bool = False
    classes: tuple[str, ...] | None = None
    reading: str | None = None

    def reader(self) -> ClassReader:
        """Return a reader of labels that follow these options."""
        return ClassReader(self.classes, self.reading)


def label_of(reader: ClassReader, value: object) -> int:
    """Return the class number of a label; UNLABELED for None and "".

    Raises:
        ImageError: there is no such class; the item is then refused.
        TwoReadingsError: the label has two readings.
    """
    if value is None or value != value:  # NaN: a gap in a column of floats
        return UNLABELED
    text = str(value).strip()
    number = reader.number(text) if text else UNLABELED
    if number is None:
        short = text if len(text) <= 40 else f"{text[:40]}..."
        raise ImageError(f"label {short!r} is {_wanted(reader)}")
    return number


def _wanted(reader: ClassReader) -> str:
    if reader.classes is None:
        return "not a class number (0 to 2147483647, -1: unlabeled), and no class names are given (--classes)"
    return f"neither the name nor the number of one of the {len(reader.classes)} classes"


def numbers_of(found: list[str], given: tuple[str, ...] | None, where: object) -> tuple[list[str], dict[str, int]]:
    """Return the class names in order, and the number of each name that was found.

    Raises:
        PoolError: names are given, and one that was found is not among them.
    """
    if given is None:
        return found, {name: number for number, name in enumerate(found)}
    unknown = [name for name in found if name not in given]
    if unknown:
        raise PoolError(
            f"{where} has the class {unknown[0]!r}, which is not among the given classes ({', '.join(given)}): name all "
            f"classes in --classes, or remove it from the source ({len(unknown)} such classes)"
        )
    return list(given), {name: given.index(name) for name in found}


def alphabet_remark(classes: list[str]) -> tuple[str, ...]:
    """Return a remark if class names are numbers whose order is not that of the classes.

    >>> alphabet_remark(["0", "1", "10", "2"])[0]
    "class names are numbers, in the order of the alphabet: '10' is class number 2; --classes gives another order"
    """
    for number, name in enumerate(classes):
        if name.isascii() and name.isdigit() and int(name[:18]) != number:
            return (
                f"class names are numbers, in the order of the alphabet: {name!r} is class number {number}; --classes gives "
                "another order",
            )
    return ()
