"""Reading weights to the CPU: safetensors, PyTorch's files and checkpoints, files in several parts, folders of Hugging Face.

No code of a file runs: PyTorch's are read with ``weights_only=True``. Objects in them that are not tensors, such as the
hyperparameters of a Lightning checkpoint, are not built: an empty stand-in takes the place of each.
"""

from __future__ import annotations

import json
import pickle
import re
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import ModelError, first_line

RESAVE = (
    "save the tensors alone: safetensors.torch.save_model(model, 'weights.safetensors'), "
    "or torch.save(model.state_dict(), 'weights.pt')"
)
SUFFIXES = (".safetensors", ".pt", ".pth", ".ckpt", ".bin", ".tar")
INDEX = ".index.json"  # ends the name of a file that says which part has which tensor
# What save_pretrained writes, in the order in which from_pretrained looks for them.
PRETRAINED = tuple(name + end for name in ("model.safetensors", "pytorch_model.bin") for end in ("", INDEX))
MAX_NAMED = 6  # names listed in an error; a wrong architecture has hundreds
_PART = re.compile(r"(.+)-\d{5}-of-\d{5}(\.\w+)")


class Unread:
    """Stands for an object in a file of PyTorch's that was not built; ``what`` is its class or function."""

    what = ""

    def __new__(cls, *_args: Any) -> Any:
        """Take what the class would be called with."""
        return super().__new__(cls)

    def __setstate__(self, _state: Any) -> None:
        pass


def chosen_set(given: str) -> tuple[Path, tuple[str, ...]]:
    """Split FILE::NAME, which chooses one set of tensors in a file, into the absolute path and the names.

    >>> chosen_set("/a/last.ckpt::ema::model")[1]
    ('ema', 'model')
    """
    if Path(given).exists():
        return Path(given).absolute(), ()
    file, *names = given.split("::")
    return Path(file).absolute(), tuple(names)


def weights_file(given: Path) -> Path:
    """Return the file of weights that a path means: itself, or in a folder the one that save_pretrained wrote.

    Raises:
        ModelError: a folder without such a file; the message names the files that can be given.
    """
    if not given.is_dir():
        return given
    for name in PRETRAINED:
        if (given / name).is_file():
            return given / name
    found = sorted(file.name for file in given.iterdir() if file.name.lower().endswith((*SUFFIXES, INDEX)))
    what = f"give one of its files: {some(found)}" if found else f"it holds none that ends in {', '.join(SUFFIXES)}"
    raise ModelError(f"{given} is a folder without {PRETRAINED[0]} or {PRETRAINED[2]}; {what}")


def read_weights(path: Path) -> Mapping[Any, Any]:
    """Read a weights file or checkpoint to the CPU, without running code from it; a part of several gives all of an index.

    Raises:
        ModelError: no such file, damaged, of an unknown kind, or no state dict; the message says what to do.
    """
    if not path.is_file():
        raise ModelError(f"{path}: no such weights file")
    if path.name.endswith(INDEX):
        return _read_parts(path)
    suffix = path.suffix.lower()
    if suffix == ".safetensors":
        return _read_safetensors(path)
    if suffix not in SUFFIXES:
        raise ModelError(
            f"{path}: weights must be {', '.join((*SUFFIXES, INDEX)[:-1])} or {INDEX}, not {suffix or 'a file without suffix'!r}; {RESAVE}"
        )
    content = _read_torch(path)
    if isinstance(content, Unread):
        raise ModelError(f"{path} holds a whole {content.what}, which cannot be built without running code; {RESAVE}")
    if not isinstance(content, Mapping):
        raise ModelError(f"{path} holds {kind_of(content)}, not a state dict; {RESAVE}")
    return content


def index_of(path: Path) -> Path | None:
    """Return the index beside one part of weights in several files; None if the file is no part of any.

    >>> index_of(Path("model-00001-of-00002.safetensors")) is None
    True
    """
    found = _PART.fullmatch(path.name)
    index = path.with_name(f"{found[1]}{found[2]}{INDEX}") if found else None
    return index if index is not None and index.is_file() else None


def _read_safetensors(path: Path) -> dict[str, Any]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path, device="cpu")
    except SafetensorError as error:
        raise ModelError(f"{path} is not a readable safetensors file: {error}") from error


def _read_parts(index: Path) -> OrderedDict[str, Any]:
    """Read all parts that an index names."""
    try:
        parts = json.loads(index.read_bytes())["weight_map"]
        names = sorted(set(parts.values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            f"{index} is no index of weights: it needs an object 'weight_map' of names and files"
        ) from error
    state: OrderedDict[str, Any] = OrderedDict()
    for name in names:
        if not isinstance(name, str) or Path(name).name != name or name.endswith(INDEX):
            raise ModelError(f"{index} names the file {name!r}; a name in the same folder is needed")
        if not (index.parent / name).is_file():
            raise ModelError(f"{index} names {name}, which is not beside it: {len(names)} parts are needed")
        state.update(read_weights(index.parent / name))
    missing = [tensor for tensor in parts if tensor not in state]
    if missing:
        raise ModelError(f"{index}: its parts do not hold {some(missing)}: they are of other weights, or incomplete")
    return state


# -- PyTorch's files ---------------------------------------------------------------------------------------------------


def _read_torch(path: Path) -> Any:
    """Read a file with ``weights_only=True``; stand-ins are allowed where it has other classes."""
    import torch

    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        names = _unsafe(path)
        try:
            return _read_without(path, names)
        except Exception:  # of any kind: a file that cannot be read in this way is told by the first error
            what = f" ({some(names)})" if names else ""
            raise ModelError(
                f"{path} is damaged, or holds more than tensors{what}, which could run code when read; {RESAVE}"
            ) from error
    except Exception as error:  # torch.load raises KeyError, EOFError, RuntimeError and others on a damaged file
        raise ModelError(f"{path} is not a readable torch file: {first_line(error)}") from error


def _unsafe(path: Path) -> list[str]:
    """List the classes and functions in a file that weights_only=True refuses."""
    from torch.serialization import get_unsafe_globals_in_checkpoint

    try:
        return sorted(get_unsafe_globals_in_checkpoint(path))
    except Exception:  # the file is damaged, or older than the zip format: the error then has no names
        return []


def _read_without(path: Path, names: list[str]) -> Any:
    """Read a file with a stand-in for each of ``names``, which is called and filled in place of it.

    PyTorch fills dicts and lists alone, and names the type that it cannot fill: the stand-in then makes one of these instead.
    """
    import torch

    stand_ins: dict[str, type] = {name: _stand_in(name, None) for name in names}
    while True:
        try:
            with torch.serialization.safe_globals([(kind, name) for name, kind in stand_ins.items()]):
                return torch.load(
                    path, map_location="cpu", weights_only=True, mmap=True
                )  # maps: it may read several times
        except pickle.UnpicklingError as error:
            text = str(error)
            unfit = next((name for name, kind in stand_ins.items() if repr(kind) in text), None)
            if unfit is None:
                raise
            stand_ins[unfit] = _stand_in(unfit, list if "list" in text.partition("but got")[0] else OrderedDict)


def _stand_in(name: str, makes: type | None) -> type:
    """Return a class that stands for the class or function of a name: its objects are Unread, or empty ones of ``makes``."""
    body: dict[str, Any] = {"what": name, "__module__": "unread", "__qualname__": name}
    if makes is not None:
        body["__new__"] = lambda _cls, *_args: makes()
    return type(name.rpartition(".")[2], (Unread,), body)


def some(names: list[str]) -> str:
    """Join the first names, and count the others."""
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return ", ".join(names[:MAX_NAMED]) + more


def kind_of(value: Any) -> str:
    """Describe the type of ``value`` for an error: "a list", "a tuple (int, int)", "None"."""
    if isinstance(value, tuple):
        return f"a tuple ({', '.join(type(part).__name__ for part in value)})"
    name = type(value).__name__
    return "None" if value is None else f"{'an' if name[0] in 'aeiou' else 'a'} {name}"
