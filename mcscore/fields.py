"""JSON that is checked before it is believed: how it is parsed, the types of its fields, and a checksum of its meaning.

The checksum is of the fields and not of the file's bytes, so that a file which another program has laid out anew stays
whole, and one in which any value, name or list is another does not.
"""

from __future__ import annotations

import hashlib
import json
import sys
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any

JSON = dict[str, Any]

CHECKSUM = "checksum"
_DEEPEST = 32  # lists and objects within each other; run.json has 4


def parse(data: bytes) -> Any:
    """Read JSON more strictly than the json module does: UTF-8, no name twice in an object, no NaN, bounded nesting.

    Raises:
        ValueError: it is not JSON of this kind; the message says why.

    >>> parse(b'{"n": 1}')
    {'n': 1}
    >>> parse(b'{"n": 1, "n": 2}')
    Traceback (most recent call last):
    ValueError: the name 'n' stands twice in one object
    """
    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=_object, parse_constant=_no_constant)
    except RecursionError:
        raise ValueError("lists or objects within each other without end") from None
    if _deeper(value, _DEEPEST):
        raise ValueError(f"more than {_DEEPEST} lists or objects within each other")
    return value


def sealed(fields: Mapping[str, Any]) -> JSON:
    """The fields and, last, their checksum."""
    return {**fields, CHECKSUM: checksum(fields)}


def unsealed(fields: JSON) -> JSON:
    """The fields without their checksum; one is written since it was introduced, older files have none.

    Raises:
        ValueError: the checksum is not that of the fields.

    >>> unsealed(sealed({"n": 1}))
    {'n': 1}
    >>> unsealed({**sealed({"n": 1}), "n": 2})
    Traceback (most recent call last):
    ValueError: checksum mismatch: a field is not as it was written
    """
    if CHECKSUM not in fields:
        return fields
    rest = {name: value for name, value in fields.items() if name != CHECKSUM}
    if fields[CHECKSUM] != checksum(rest):
        raise ValueError("checksum mismatch: a field is not as it was written")
    return rest


def checksum(fields: Mapping[str, Any]) -> str:
    """The sha256 of the fields as JSON: ASCII, names sorted, no spaces.

    >>> checksum({"b": 0.5, "a": [1]})[:20]
    'sha256:75b7cc25c4d65'
    """
    text = json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def fits(value: Any, wanted: Any) -> bool:
    """Whether a value of JSON is of an annotated type. A bool is no number here, and an integer is one.

    >>> fits(True, int), fits(3, float), fits(["a"], Sequence[str]), fits({"a": 1}, Mapping[str, str])
    (False, True, True, False)
    """
    if wanted is Any:
        return True
    origin, inner = typing.get_origin(wanted), typing.get_args(wanted)
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, each) for each in inner)
    if origin is Sequence:
        return isinstance(value, (list, tuple)) and all(fits(each, inner[0]) for each in value)
    if origin is Mapping:
        return isinstance(value, Mapping) and all(fits(each, inner[1]) for each in value.values())
    if wanted is float:  # 1e999 is read as infinity
        return type(value) in (int, float) and abs(value) <= sys.float_info.max
    return type(value) is wanted if wanted in (int, bool, str, types.NoneType) else isinstance(value, wanted | Mapping)


def kind_of(wanted: Any) -> str:
    """What an annotated type is called in JSON.

    >>> kind_of(Sequence[str]), kind_of(float | None)
    ('a list of strings', 'a number or null')
    """
    origin, inner = typing.get_origin(wanted), typing.get_args(wanted)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(map(kind_of, inner))
    if origin is Sequence:
        many = {str: "strings", float: "numbers"}.get(inner[0], "lists" if _is_list(inner[0]) else "objects")
        return f"a list of {many}"
    if origin is Mapping and inner[1] is str:
        return "an object of strings"
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "a string", types.NoneType: "null"}
    return names.get(wanted, "an object")


def annotations_of(schema: Any) -> dict[str, Any]:
    """The types of the fields of a dataclass."""
    return typing.get_type_hints(schema)


def shown(value: Any, most: int = 60) -> str:
    """A value for a message, cut where it is long."""
    try:
        text = json.dumps(value)
    except (TypeError, ValueError):
        text = repr(value)
    return text if len(text) <= most else text[: most - 4] + " ..."


def _is_list(wanted: Any) -> bool:
    return typing.get_origin(wanted) is Sequence


def _object(pairs: list[tuple[str, Any]]) -> JSON:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(
            f"the name {next(name for name in names if names.count(name) > 1)!r} stands twice in one object"
        )
    return found


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON")


def _deeper(value: Any, levels: int) -> bool:
    """Whether there are more than so many lists and objects within each other."""
    if not isinstance(value, (dict, list)):
        return False
    inner = value.values() if isinstance(value, dict) else value
    return levels == 0 or any(_deeper(each, levels - 1) for each in inner)
