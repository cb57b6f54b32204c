"""The item and the label in one sample of a dataset, in the forms that datasets have: array, tensor, picture, pair, dict.

The same forms hold a whole batch, where a DataLoader made one: ``parts`` looks at no sizes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import SampleError

LABEL_NAMES = ("label", "labels", "target", "targets", "y")
Name = str | int


@dataclass(frozen=True)
class Parts:
    """Item and label of a sample, as the dataset gave them.

    Attributes:
        item: an array, a tensor or a picture of PIL; of a dict whose key was named, anything.
        label: anything; None: the sample has none.
    """

    item: Any
    label: Any


def parts(sample: Any, item: Name | None = None, label: Name | None = None, *, labels: bool = True) -> Parts:
    """Return the item and the label in a sample.

    An array, a tensor or a picture of PIL is an item without a label. In a tuple or list the item comes first and the label second, as
    in every dataset of torchvision; longer ones need ``item``. In a dict the item is the only value that is an array, tensor or
    picture, labels aside; where several are, ``item`` names it. Labels of a dict are found under one of LABEL_NAMES.

    Args:
        sample: what the dataset gave.
        item: key (or, of a tuple, position) of the item; None: found as above.
        label: the same of the label.
        labels: False: labels are not asked for, and need not be told from each other.

    Raises:
        SampleError: the item cannot be told, or there are two readings; the message says how to say which.

    >>> parts((np.zeros((1, 2, 2)), 7)).label
    7
    >>> parts({"image": np.zeros((1, 2, 2)), "label": 3, "name": "a"}).label
    3
    """
    if item is not None and item == label:
        raise SampleError(f"item={item!r} and label={label!r} are one part of the sample, and two are needed")
    if isinstance(sample, Mapping):
        return _of_dict(sample, item, label, labels)
    if isinstance(sample, (tuple, list)):
        return _of_tuple(sample, item, label)
    if item is not None or label is not None:
        raise SampleError(f"item={item!r} and label={label!r} name parts of a sample, and it is {_kind(sample)}")
    if not _is_array(sample):
        raise SampleError(
            f"it is {_kind(sample)}; an array, a tensor, a picture, a pair (item, label) or a dict is needed"
        )
    return Parts(sample, None)


def array_of(item: Any) -> np.ndarray:
    """Return an item as an array of numbers; a picture of PIL as uint8 (1 or 3, height, width).

    Raises:
        SampleError: it is none, or a picture that is neither RGB nor gray of 8 bits.

    >>> array_of([[1, 2], [3, 4]]).shape
    (2, 2)
    """
    if hasattr(item, "getbands"):
        if item.mode not in ("RGB", "L"):
            raise SampleError(
                f"the picture has mode {item.mode}, and RGB or L (gray) is needed: picture.convert('RGB') in the dataset's transform"
            )
        pixels = np.asarray(item)
        return pixels[None] if pixels.ndim == 2 else np.ascontiguousarray(np.moveaxis(pixels, -1, 0))
    if hasattr(item, "detach"):
        tensor = item.detach().cpu()
        if not _has_numpy_type(tensor):
            raise SampleError(f"the item is {tensor.dtype}, which NumPy does not have: convert it, item.float()")
        return np.asarray(tensor.resolve_conj().resolve_neg().numpy())
    try:
        array = np.asarray(item)
    except ValueError as error:  # rows of several lengths
        raise SampleError(f"the item is {_kind(item)} that makes no array: {error}") from error
    if array.dtype.kind not in "biufc":
        raise SampleError(f"the item is {_kind(item)}, and numbers are needed")
    return array


def _of_dict(sample: Mapping[Any, Any], item: Name | None, label: Name | None, labels: bool) -> Parts:
    for name, what in ((item, "item"), (label, "label")):
        if name is not None and name not in sample:
            raise SampleError(f"it has no {name!r}, which {what}= names; it has {_listed(sample)}")
    named = [name for name in LABEL_NAMES if name in sample and name != item]
    if label is None:
        if len(named) > 1 and labels:
            raise SampleError(f"it has {_listed(named)}: say which is the label, label={named[0]!r}")
        label = named[0] if named else None
    if item is None:
        found = [name for name, value in sample.items() if name not in (label, *named) and _is_array(value)]
        if len(found) != 1:
            example = found[0] if found else next(iter(sample), "image")
            what = f"{len(found)} arrays, {_listed(found)}," if found else "no array"
            raise SampleError(f"it has {what} among {_listed(sample)}: say which is the item, item={example!r}")
        item = found[0]
    return Parts(sample[item], None if label is None else sample[label])


def _of_tuple(sample: Sequence[Any], item: Name | None, label: Name | None) -> Parts:
    for name, what in ((item, "item"), (label, "label")):
        if name is not None and (not isinstance(name, int) or not 0 <= name < len(sample)):
            raise SampleError(
                f"it is a {type(sample).__name__} of {len(sample)}, and {what}={name!r} is no position in it"
            )
    if item is None and label is None and len(sample) not in (1, 2):
        raise SampleError(
            f"it is a {type(sample).__name__} of {len(sample)}, and only a pair is known to be (item, label): say where they stand, "
            "item=0, label=1"
        )
    at = (1 if label == 0 and len(sample) == 2 else 0) if item is None else int(item)
    where = label if label is not None or len(sample) != 2 else 1 - at
    if item is None and not _is_array(sample[at]):
        raise SampleError(
            f"it is a {type(sample).__name__} that begins with {_kind(sample[at])}; an array, a tensor or a picture is needed there "
            "(np.asarray makes one of a list of numbers)"
        )
    return Parts(sample[at], None if where is None else sample[int(where)])


def _is_array(value: Any) -> bool:
    """Whether a value is an array, tensor or picture, and no single number."""
    if hasattr(value, "getbands"):  # a picture of PIL, which need not be installed
        return True
    return hasattr(value, "__array__") and len(getattr(value, "shape", ())) > 0


def _has_numpy_type(tensor: Any) -> bool:
    return str(tensor.dtype) not in ("torch.bfloat16",) and "float8" not in str(tensor.dtype)


def _kind(value: Any) -> str:
    name = type(value).__name__
    article = "an" if name[0] in "aeiouAEIOU" or name == "ndarray" else "a"
    return f"{article} {name}" + (" without dimensions" if hasattr(value, "__array__") and not _is_array(value) else "")


def _listed(names: Any) -> str:
    return ", ".join(repr(name) for name in names) or "nothing"
