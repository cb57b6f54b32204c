"""The item and the label in a sample: every form that datasets have, and those that have two readings."""

from __future__ import annotations

import collections
import re
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mcscore.errors import SampleError
from mcscore.ingest.samples import array_of, parts

X = np.arange(6, dtype=np.float32).reshape(1, 2, 3)
PICTURE = Image.fromarray(np.arange(18, dtype=np.uint8).reshape(2, 3, 3))
Pair = collections.namedtuple("Pair", ["x", "y"])


@pytest.mark.parametrize(
    ("sample", "item", "label"),
    [
        (X, X, None),
        ((X,), X, None),
        ((X, 3), X, 3),
        ([X, "cat"], X, "cat"),
        (Pair(X, 2.5), X, 2.5),
        ((X, X[0]), X, X[0]),
        ({"image": X, "label": 3, "name": "a"}, X, 3),
        ({"pixels": X, "labels": X[0]}, X, X[0]),
        (collections.UserDict(x=X, y=1), X, 1),
        ({"x": X}, X, None),
    ],
)
def test_the_item_and_the_label_are_found(sample: Any, item: Any, label: Any) -> None:
    found = parts(sample)
    assert found.item is item
    assert np.array_equal(found.label, label)


@pytest.mark.parametrize(
    ("sample", "named", "item", "label"),
    [
        ((X, 7, 8), {"item": 0, "label": 2}, X, 8),
        ((3, X), {"item": 1}, X, 3),
        ((3, X), {"label": 0}, X, 3),
        ((3, X, 9), {"item": 1}, X, None),
        ({"a": X, "b": X[0], "y": 1}, {"item": "b"}, X[0], 1),
        ({"a": X, "age": 41.5, "y": 1}, {"label": "age"}, X, 41.5),
        ({"rows": [[1, 2], [3, 4]], "y": 1}, {"item": "rows"}, [[1, 2], [3, 4]], 1),
    ],
)
def test_parts_are_named(sample: Any, named: dict[str, Any], item: Any, label: Any) -> None:
    found = parts(sample, **named)
    assert np.array_equal(found.item, item)
    assert found.label == label


@pytest.mark.parametrize(
    ("sample", "named", "said"),
    [
        ((X, 1, 2), {}, "only a pair is known to be (item, label): say where they stand, item=0, label=1"),
        (([1, 2, 3], 0), {}, "begins with a list"),
        ([1.0, 2.0], {}, "begins with a float"),
        (3, {}, "it is an int; an array"),
        (torch.tensor(3.0), {}, "a Tensor without dimensions"),
        ("a.png", {}, "it is a str"),
        (X, {"item": "x"}, "it is an ndarray"),
        ({"a": X, "b": X}, {}, "2 arrays, 'a', 'b', among 'a', 'b': say which is the item, item='a'"),
        ({"text": "hello"}, {}, "no array among 'text'"),
        ({"a": X, "label": 1, "y": 2}, {}, "'label', 'y': say which is the label, label='label'"),
        ({"a": X}, {"item": "image"}, "no 'image', which item= names; it has 'a'"),
        ({"a": X}, {"label": "y"}, "no 'y', which label= names; it has 'a'"),
        ((X, 1), {"label": 2}, "a tuple of 2, and label=2 is no position"),
        ((X, 1), {"item": "x"}, "item='x' is no position"),
        ((X, 1), {"item": 0, "label": 0}, "one part of the sample"),
    ],
)
def test_two_readings_are_refused(sample: Any, named: dict[str, Any], said: str) -> None:
    with pytest.raises(SampleError, match=re.escape(said)):
        parts(sample, **named)


def test_items_become_arrays() -> None:
    assert array_of(PICTURE).tolist() == np.arange(18).reshape(2, 3, 3).transpose(2, 0, 1).tolist()
    assert array_of(PICTURE.convert("L")).shape == (1, 2, 3)
    assert array_of(torch.ones(2, 3, requires_grad=True)).tolist() == [[1, 1, 1], [1, 1, 1]]
    assert array_of([[1, 2], [3, 4]]).tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize(
    ("item", "said"),
    [
        (PICTURE.convert("RGBA"), "mode RGBA"),
        (torch.ones(2, dtype=torch.bfloat16), "torch.bfloat16, which NumPy does not have"),
        ([[1], [2, 3]], "makes no array"),
        ("text", "a str, and numbers are needed"),
        ({"a": 1}, "a dict, and numbers are needed"),
    ],
)
def test_what_makes_no_array_is_refused(item: Any, said: str) -> None:
    with pytest.raises(SampleError, match=re.escape(said)):
        array_of(item)
