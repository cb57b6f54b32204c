"""Load weights from a state dict, or from a checkpoint that contains one, with or without a wrapper's prefix in its names.

A set of tensors fits a model if PyTorch's strict ``load_state_dict`` accepts it on a copy of the model. If exactly one set in the
file fits, it is loaded, and a warning names it unless it is the whole file. If none or several fit, the error names all of them.
"""

from __future__ import annotations

import copy
import pickle
import warnings
from collections import Counter, OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ModelError, first_line

if TYPE_CHECKING:
    from torch import Tensor, nn

RESAVE = (
    "save the tensors alone: safetensors.torch.save_model(model, 'weights.safetensors'), "
    "or torch.save(model.state_dict(), 'weights.pt')"
)
SUFFIXES = (".safetensors", ".pt", ".pth", ".ckpt", ".bin", ".tar")
MAX_NAMED = 6  # tensors listed per kind in an error; a wrong architecture has hundreds
_DEEPEST = 3  # levels of nested dicts that are searched


@dataclass(frozen=True)
class Part:
    """A set of named tensors from a file.

    Attributes:
        keys: keys of the nested dicts that lead to the set.
        prefix: prefix that was removed from the names.
        state: name -> tensor.
        left: names without the prefix, which are not in ``state``.
    """

    keys: tuple[str, ...]
    prefix: str
    state: OrderedDict[str, Any]
    left: tuple[str, ...]

    def __str__(self) -> str:
        where = "".join(f"[{key!r}]" for key in self.keys)
        return " ".join(filter(None, (where, f"without the prefix {self.prefix!r}" if self.prefix else ""))) or "all"

    @property
    def told(self) -> str:
        """Name of the part in messages, with the names it leaves out."""
        left = f", leaving {some(list(self.left))}" if self.left else ""
        return f"{self}{left}"


def load_weights(module: nn.Module, path: Path) -> str | None:
    """Copy the weights in ``path`` into ``module``.

    Returns:
        The name of the part of the file that was loaded; None if the whole file was.

    Raises:
        ModelError: no part or several parts of the file fit; the message names them and says what to do.
    """
    content = read_weights(path)
    parts = list(_parts(module, content))
    whole = [part for part in parts if not part.keys and not part.prefix]
    fit = [part for part in whole if _fits(module, part)] or [p for p in parts if p not in whole and _fits(module, p)]
    if len(fit) > 1:
        one = "".join(f"[{key!r}]" for key in fit[-1].keys)
        raise ModelError(
            f"{path} holds {len(fit)} sets of tensors that fit {type(module).__name__}: {'; '.join(map(str, fit))}. Save the one you "
            f"mean alone, such as torch.save(torch.load({path.name!r}, weights_only=True){one}, 'weights.pt')"
            + (", its names without the prefix" if fit[-1].prefix else "")
        )
    if not fit:
        raise ModelError(_misfit(module, content, parts, path))
    (part,) = fit
    module.load_state_dict(part.state)
    if part in whole:
        return None
    warnings.warn(f"{path}: took the tensors {part.told}", stacklevel=2)
    return str(part)


def read_weights(path: Path) -> Mapping[Any, Any]:
    """Read a weights file or checkpoint to the CPU, without running code from it."""
    if not path.is_file():
        raise ModelError(f"{path}: no such weights file")
    suffix = path.suffix.lower()
    if suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path, device="cpu")
        except SafetensorError as error:
            raise ModelError(f"{path} is not a readable safetensors file: {error}") from error
    if suffix not in SUFFIXES:
        raise ModelError(
            f"{path}: weights must be {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}, not {suffix or 'a file without suffix'!r}; {RESAVE}"
        )
    import torch

    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"{path} is damaged, or holds more than tensors{_unsafe(path)}, which could run code when read; {RESAVE}"
        ) from error
    except Exception as error:  # torch.load raises KeyError, EOFError, RuntimeError and others on a damaged file
        raise ModelError(f"{path} is not a readable torch file: {first_line(error)}") from error
    if not isinstance(content, Mapping):
        raise ModelError(f"{path} holds {kind_of(content)}, not a state dict; {RESAVE}")
    return content


def _unsafe(path: Path) -> str:
    """List the classes in a file that weights_only=True refuses, in parentheses."""
    from torch.serialization import get_unsafe_globals_in_checkpoint

    try:
        names = get_unsafe_globals_in_checkpoint(path)
    except Exception:  # the file is damaged, or older than the zip format: the error then has no names
        return ""
    return f" ({some(sorted(names))})" if names else ""


# -- parts of a file ---------------------------------------------------------------------------------------------------


def _parts(module: nn.Module, content: Mapping[Any, Any]) -> Iterator[Part]:
    """Yield each dict of tensors in ``content``: as it is, and without each prefix that precedes names of the model."""
    own = module.state_dict()
    for keys, state in _dicts(content, ()):
        yield _part(own, keys, state, "")
        behind = Counter(
            name[: dot + 1]
            for name in state
            for dot, letter in enumerate(name)
            if letter == "." and name[dot + 1 :] in own
        )
        for prefix, names in sorted(behind.items()):
            # A prefix before fewer names is that of a submodule, such as a layer, of which there are many.
            if names * 2 >= len(own):
                yield _part(own, keys, state, prefix)


def _dicts(content: Mapping[Any, Any], keys: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Mapping[str, Any]]]:
    import torch

    if all(isinstance(key, str) for key in content) and any(isinstance(v, torch.Tensor) for v in content.values()):
        yield keys, content
    if len(keys) < _DEEPEST:
        for key, value in content.items():
            if isinstance(value, Mapping) and isinstance(key, str):
                yield from _dicts(value, (*keys, key))


def _part(own: Mapping[str, Any], keys: tuple[str, ...], state: Mapping[str, Any], prefix: str) -> Part:
    n = len(prefix)
    cut: OrderedDict[str, Any] = OrderedDict(
        (name[n:], value) for name, value in state.items() if name.startswith(prefix) and name != prefix
    )
    held = {_place(own[name]): cut[name] for name in own if name in cut}
    for name, tensor in own.items():  # safetensors stores a tensor that two names share under one of them
        if name not in cut and _place(tensor) in held:
            cut[name] = held[_place(tensor)]
    # PyTorch converts tensors of older layer versions by this metadata.
    metadata = getattr(state, "_metadata", None)
    if isinstance(metadata, Mapping):
        of = prefix.removesuffix(".")
        versions = {name[n:]: value for name, value in metadata.items() if name == of or name.startswith(prefix)}
        cut._metadata = versions  # type: ignore[attr-defined]
    return Part(keys, prefix, cut, tuple(name for name in state if not name.startswith(prefix)))


def _place(tensor: Any) -> object:
    """Return a key that is equal for two names of the same tensor."""
    import torch

    if not isinstance(tensor, torch.Tensor) or torch.nn.parameter.is_lazy(tensor) or not tensor.numel():
        return object()
    return tensor.data_ptr(), tensor.shape


# -- fit to a model ----------------------------------------------------------------------------------------------------


def _fits(module: nn.Module, part: Part) -> bool:
    """Test whether PyTorch loads ``part`` strictly into a copy of ``module`` without changing floats to integers or back."""
    if _other_kinds(module.state_dict(), part):
        return False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch warns that copying to the meta device is a no-op
        try:
            _hollow(module).load_state_dict(part.state)
        # Errors of strict loading, and of hooks that users registered.
        except (RuntimeError, ValueError, TypeError, KeyError, AttributeError):
            return False
    return True


def _hollow(module: nn.Module) -> nn.Module:
    """Copy ``module`` with tensors on the meta device. If it cannot be copied, return it: the caller has just built it."""
    from torch import nn

    memo: dict[int, Any] = {}
    for parameter in module.parameters():
        if type(parameter) is nn.Parameter:
            memo[id(parameter)] = nn.Parameter(parameter.detach().to("meta"), parameter.requires_grad)
    try:
        return copy.deepcopy(module, memo)
    except Exception:  # a user's __deepcopy__ may raise anything
        return module


def _other_kinds(own: Mapping[str, Any], part: Part) -> list[str]:
    """List the tensors whose shape, or kind (integer, float, complex), differs between file and model."""
    import torch

    def kind(x: Tensor) -> tuple[object, ...]:
        return x.is_floating_point(), x.is_complex()

    pairs = [(name, own[name], part.state[name]) for name in own if name in part.state]
    return [
        f"{name} (file {_form(theirs)}, model {_form(ours)})"
        for name, ours, theirs in pairs
        if isinstance(ours, torch.Tensor)
        and isinstance(theirs, torch.Tensor)
        and not torch.nn.parameter.is_lazy(ours)
        and (ours.shape != theirs.shape or kind(ours) != kind(theirs))
    ]


def _misfit(module: nn.Module, content: Mapping[Any, Any], parts: list[Part], path: Path) -> str:
    """Explain why nothing in the file fits, for the set of tensors that shares most names with the model."""
    found = ", ".join(f"{key!r}{_size(value)}" for key, value in list(content.items())[:MAX_NAMED])
    found += f" and {len(content) - MAX_NAMED} more" if len(content) > MAX_NAMED else ""
    if not parts:
        return f"{path} holds no tensors by name, but {found or 'nothing'}; {RESAVE}"
    own = module.state_dict()
    best = max(parts, key=lambda part: sum(name in own for name in part.state))
    wrong = {
        "missing": [name for name in own if name not in best.state],
        "unexpected": [name for name in best.state if name not in own],
        "mismatching": _other_kinds(own, best),
    }
    told = "; ".join(f"{kind}: {some(names)}" for kind, names in wrong.items() if names)
    if not told:
        try:
            _hollow(module).load_state_dict(best.state)
        except Exception as error:  # PyTorch, or a hook of the model, refused it before: this is the reason
            told = " ".join(str(error).split())
    if best.keys or best.prefix or any(isinstance(value, Mapping) for value in content.values()):
        told += f" (closest of all was {best}; the file holds {found}). {RESAVE[0].upper()}{RESAVE[1:]}"
    return f"{path} does not fit {type(module).__name__}; {told}"


def _size(value: Any) -> str:
    import torch

    if not isinstance(value, Mapping):
        return ""
    return f" (a dict of {sum(isinstance(v, torch.Tensor) for v in value.values())} tensors)"


def some(names: list[str]) -> str:
    """Join the first names, and count the others."""
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return ", ".join(names[:MAX_NAMED]) + more


def _form(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {'×'.join(map(str, tensor.shape)) or 'scalar'}"


def kind_of(value: Any) -> str:
    """Describe the type of ``value`` for an error: "a list", "a tuple (int, int)", "None"."""
    if isinstance(value, tuple):
        return f"a tuple ({', '.join(type(part).__name__ for part in value)})"
    name = type(value).__name__
    return "None" if value is None else f"{'an' if name[0] in 'aeiou' else 'a'} {name}"
