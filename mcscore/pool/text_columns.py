"""Columns of text as Arrow has them: a million keys take their bytes, and no Python object each."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..cells import FORMULA
from .class_names import WHOLE

PART = 20_000  # rows that are there as Python objects at a time


def text_array(texts: list[str]) -> Any:
    """Return texts as an Arrow array.

    >>> text_array(["a", "", "é"]).to_pylist()
    ['a', '', 'é']
    """
    encoded = [text.encode() for text in texts]
    offsets = np.zeros(len(encoded) + 1, np.int64)
    np.cumsum(np.fromiter(map(len, encoded), np.int64, len(encoded)), out=offsets[1:])
    return _array(offsets, b"".join(encoded))


def compact(texts: Any) -> Any:
    """Return a copy of an Arrow array of texts, without null, in buffers that fit; those that Arrow fills may be twice as large.

    >>> compact(text_array(["a", "bc", "d"])[1:]).to_pylist()
    ['bc', 'd']
    """
    if not len(texts):
        return text_array([])
    _, offsets, data = texts.buffers()
    ends = np.frombuffer(offsets, np.int64)[texts.offset : texts.offset + len(texts) + 1]
    return _array(ends - ends[0], b"" if data is None else bytes(memoryview(data)[ends[0] : ends[-1]]))


def _array(offsets: np.ndarray, data: bytes) -> Any:
    import pyarrow

    buffers = [None, pyarrow.py_buffer(offsets), pyarrow.py_buffer(data)]
    return pyarrow.Array.from_buffers(pyarrow.large_string(), len(offsets) - 1, buffers)


def text_column(parts: list[Any]) -> Any:
    """Return Arrow arrays of text, in this order, as one column."""
    import pyarrow

    return pyarrow.chunked_array(parts, pyarrow.large_string())


def trimmed(texts: Any) -> Any:
    r"""Return texts without the blanks around them: those that str.strip takes away.

    >>> trimmed(text_array([" a b\n", "\u2003"])).to_pylist()
    ['a b', '']
    """
    from pyarrow import compute

    return compute.utf8_trim_whitespace(texts)


def integers(values: Any) -> np.ndarray:
    """Return an Arrow array, or column, of integers without null as one of NumPy.

    Arrow's own ``to_numpy`` imports pandas where it is installed, which takes 35 MB.

    >>> import pyarrow
    >>> integers(pyarrow.array([1, 2])), integers(pyarrow.chunked_array([], pyarrow.int32()))
    (array([1, 2]), array([], dtype=int32))
    """
    import pyarrow

    parts = values.chunks if isinstance(values, pyarrow.ChunkedArray) else [values]
    return np.concatenate([np.empty(0, np.int32), *(np.from_dlpack(part) for part in parts if len(part))])


def mask(flags: Any) -> np.ndarray:
    """Return an Arrow array, or column, of flags without null as one of NumPy."""
    import pyarrow

    return integers(flags.cast(pyarrow.uint8())) != 0


def empty(texts: Any) -> np.ndarray:
    """Return which texts are "".

    >>> empty(text_array(["a", ""]))
    array([False,  True])
    """
    from pyarrow import compute

    return integers(compute.binary_length(texts)) == 0


def without_blanks(column: Any, rows: np.ndarray) -> tuple[np.ndarray, Any]:
    """Return which of some rows have blanks around their text, and the texts of these without the blanks, as a column.

    >>> without_blanks(text_column([text_array([" a", "b", "c "])]), np.array([True, True, False]))[0]
    array([ True, False, False])
    """
    from pyarrow import compute

    texts, found, at = [], np.zeros(len(rows), bool), 0
    for part in column.chunks:
        bare, here = trimmed(part), slice(at, at + len(part))
        found[here] = rows[here] & mask(compute.not_equal(bare, part))
        if found[here].any():
            texts.append(compact(bare.filter(found[here])))
        at += len(part)
    return found, text_column(texts)


def unguarded_texts(texts: Any) -> Any:
    """Return the texts that cells of a CSV file hold (see mcscore.cells.unguarded).

    >>> unguarded_texts(text_array(["'=1+1", "''=x", "=1+1", "'tis"])).to_pylist()
    ['=1+1', "'=x", '=1+1', "'tis"]
    """
    from pyarrow import compute

    if not compute.any(compute.match_substring_regex(texts, f"^'{FORMULA}")).as_py():
        return texts
    return compute.replace_substring_regex(texts, f"^'({FORMULA})", r"\1")


def whole_numbers(column: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return the integers that texts are, blanks around them aside, -1 for others; and which are (see class_names.whole_number).

    >>> whole_numbers(text_column([text_array(["2.0", " 7", "x"])]))
    (array([ 2,  7, -1]), array([ True,  True, False]))
    """
    import pyarrow
    from pyarrow import compute

    numbers, found = [np.empty(0, np.int64)], [np.empty(0, bool)]
    for part in column.chunks:  # what is made of a whole column takes as much memory as that
        texts = trimmed(part)
        are = compute.match_substring_regex(texts, rf"^{WHOLE}\z")
        digits = compute.replace_substring_regex(texts.filter(are), r"\.0*\z", "")
        found.append(mask(are))
        numbers.append(np.full(len(part), -1))
        numbers[-1][found[-1]] = integers(digits.cast(pyarrow.int64()))
    return np.concatenate(numbers), np.concatenate(found)


def real_numbers(column: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return the numbers that texts are, blanks around them aside, NaN for others; and which are.

    >>> real_numbers(text_column([text_array(["2", " -.5e1", "+3.25", "1,5", "nan", "inf"])]))
    (array([ 2.  , -5.  ,  3.25,   nan,   nan,   nan]), array([ True,  True,  True, False, False, False]))
    """
    import pyarrow
    from pyarrow import compute

    numbers, found = [np.empty(0)], [np.empty(0, bool)]
    for part in column.chunks:
        texts = trimmed(part)
        are = compute.match_substring_regex(texts, r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,4})?\z")
        found.append(mask(are))
        numbers.append(np.full(len(part), np.nan))
        bare = compute.replace_substring_regex(texts.filter(are), r"^\+", "")
        numbers[-1][found[-1]] = np.from_dlpack(bare.cast(pyarrow.float64()))
    return np.concatenate(numbers), np.concatenate(found)


def distinct(column: Any) -> tuple[list[str], np.ndarray]:
    """Return the different texts of a column, in the order of their first rows, and which of them each row has.

    >>> distinct(text_column([text_array(["b", "a", "b"])]))
    (['b', 'a'], array([0, 1, 0], dtype=int32))
    """
    from pyarrow import compute

    values = compute.unique(column)
    return values.to_pylist(), integers(compute.index_in(column, value_set=values))


def as_text(values: Any) -> Any:
    """Return an Arrow array of any type as text: what str() makes of each value, "" for null and NaN.

    >>> import pyarrow
    >>> as_text(pyarrow.array([1.0, float("nan"), None])).to_pylist(), as_text(pyarrow.array([7, None])).to_pylist()
    (['1.0', '', ''], ['7', ''])
    """
    import pyarrow
    from pyarrow import compute

    if pyarrow.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    kind = values.type
    if pyarrow.types.is_integer(kind) or pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind):
        values.validate(full=True)  # Parquet does not see to it that its texts are UTF-8
        texts = values.cast(pyarrow.large_string())
        return compact(compute.fill_null(texts, "") if texts.null_count else texts)
    # Of numbers with a point, times and the like Arrow writes other texts than Python does.
    return text_array(["" if v is None or v != v else str(v) for v in values.to_pylist()])
