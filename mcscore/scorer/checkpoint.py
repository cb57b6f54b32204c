"""Load weights from a state dict, or from a checkpoint that contains one, with or without a wrapper's prefix in its names.

A set of tensors fits a model if PyTorch's strict ``load_state_dict`` accepts it on a copy of the model. If exactly one set in the
file fits, it is loaded, and a warning names it unless it is the whole file. If none or several fit, the error names all of them; of
several, ``FILE::NAME`` chooses one, as in ``last.ckpt::state_dict``.
"""

from __future__ import annotations

import copy
import warnings
from collections import Counter, OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ModelError
from .weights_file import MAX_NAMED, RESAVE, Unread, index_of, read_weights, some

if TYPE_CHECKING:
    from torch import Tensor, nn

_DEEPEST = 3  # levels of nested dicts that are searched
# What torch.compile, FSDP and activation checkpointing put into the names of a module's tensors.
_WRAPPERS = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")


@dataclass(frozen=True)
class Part:
    """A set of named tensors from a file.

    Attributes:
        keys: keys of the nested dicts that lead to the set.
        prefix: prefix that was removed from the names.
        state: name -> tensor.
        left: names without the prefix, which are not in ``state``.
        wrappers: names of wrappers that were removed inside the names.
        added: prefix that was put before the names, as the model has it.
    """

    keys: tuple[str, ...]
    prefix: str
    state: OrderedDict[str, Any]
    left: tuple[str, ...] = ()
    wrappers: tuple[str, ...] = ()
    added: str = ""

    def __str__(self) -> str:
        where = "".join(f"[{key!r}]" for key in self.keys)
        told = (
            where,
            f"without the prefix {self.prefix!r}" if self.prefix else "",
            f"without {' and '.join(map(repr, self.wrappers))} in their names" if self.wrappers else "",
            f"as those of the model's {self.added.removesuffix('.')!r}" if self.added else "",
        )
        return " ".join(filter(None, told)) or "all"

    @property
    def path(self) -> tuple[str, ...]:
        """What chooses the part: the keys that lead to it, and its prefix."""
        return (*self.keys, self.prefix) if self.prefix else self.keys

    @property
    def told(self) -> str:
        """Name of the part in messages, with the names it leaves out."""
        left = f", leaving out {some(list(self.left))}" if self.left else ""
        return f"{self}{left}"


def load_weights(module: nn.Module, path: Path, chosen: tuple[str, ...] = ()) -> str | None:
    """Copy the weights in ``path`` into ``module``.

    Args:
        module: gets the weights.
        path: the file.
        chosen: keys, and perhaps a prefix, of the set of tensors that is meant; (): the only one that fits.

    Returns:
        The name of the part of the file that was loaded; None if the whole file was.

    Raises:
        ModelError: no part or several parts of the file fit; the message names them and says what to do.
    """
    from torch import nn

    inner = getattr(
        module, "_orig_mod", None
    )  # what torch.compile wraps: the same tensors, by the names that files have
    module = inner if isinstance(inner, nn.Module) else module
    content = read_weights(path)
    tried: list[Part] = []
    for ways in _ways(module.state_dict(), content):
        parts = [part for part in ways if part.path[: len(chosen)] == chosen]
        tried += parts
        fit = [part for part in parts if _fits(module, part)]
        if len(fit) > 1:
            raise ModelError(_several(module, fit, path))
        if fit:
            module.load_state_dict(fit[0].state)
            if str(fit[0]) == "all":
                return None
            warnings.warn(f"{path}: took the tensors {fit[0].told}", stacklevel=2)
            return str(fit[0])
    if chosen and not tried:
        held = ["::".join(keys) for keys, _ in _dicts(content, ()) if keys]
        raise ModelError(f"{path} holds no tensors under {'::'.join(chosen)!r}, but under {some(held) or 'no name'}")
    raise ModelError(_misfit(module, content, tried, path))


def _several(module: nn.Module, fit: list[Part], path: Path) -> str:
    by_keys = all(part.keys for part in fit) and len({part.keys for part in fit}) == len(fit)
    names = ["::".join(part.keys if by_keys else part.path) for part in fit]
    return (
        f"{path} holds {len(fit)} sets of tensors that fit {type(module).__name__}: {'; '.join(map(str, fit))}. Choose one: give "
        + " or ".join(f"{path.name}::{name}" for name in names[:MAX_NAMED])
    )


# -- parts of a file ---------------------------------------------------------------------------------------------------


def _ways(own: Mapping[str, Any], content: Mapping[Any, Any]) -> Iterator[list[Part]]:
    """Yield the sets of tensors in ``content`` that may fit, in the order in which they are tried.

    First the whole file; then the dicts in it, as they are and without each prefix that precedes names of the model; then
    without names of wrappers inside the names; last, the same for the one part of the model that has all its tensors.
    """
    dicts = list(_dicts(content, ()))
    parts = [part for keys, state in dicts for part in _parts(own, keys, state)]
    whole = [part for part in parts if str(part) == "all"]
    yield whole
    yield [part for part in parts if part not in whole]
    yield [part for keys, state in dicts for part in _unwrapped(own, keys, state)]
    yield [part for added in _wraps(own) for keys, state in dicts for part in _within(own, keys, state, added)]


def _parts(own: Mapping[str, Any], keys: tuple[str, ...], state: Mapping[str, Any]) -> Iterator[Part]:
    """Yield a dict of tensors as it is, and without each prefix that precedes names of the model."""
    yield _part(own, keys, state, "")
    behind = Counter(
        name[: dot + 1] for name in state for dot, letter in enumerate(name) if letter == "." and name[dot + 1 :] in own
    )
    for prefix, names in sorted(behind.items()):
        # A prefix before fewer names is that of a submodule, such as a layer, of which there are many.
        if names * 2 >= len(own):
            yield _part(own, keys, state, prefix)


def _unwrapped(own: Mapping[str, Any], keys: tuple[str, ...], state: Mapping[str, Any]) -> Iterator[Part]:
    """Yield the parts of a dict whose names have wrappers in them, as of ``layer1._orig_mod.weight``, without these."""
    wrappers = tuple(word for word in _WRAPPERS if any(word in name for name in state))
    bare: dict[str, Any] = {}
    for name, value in state.items():
        for word in wrappers:
            name = name.replace(word, "")
        bare[name] = value
    if wrappers and len(bare) == len(state):
        for part in _parts(own, keys, bare):
            yield replace(part, wrappers=tuple(word.removesuffix(".") for word in wrappers))


def _wraps(own: Mapping[str, Any]) -> list[str]:
    """Return the prefixes that all names of a model have, as one that holds another model in ``self.model``.

    >>> _wraps({"model.net.weight": 0, "model.net.bias": 0})
    ['model.', 'model.net.']
    """
    first = next(iter(own), "")
    prefixes = [first[: dot + 1] for dot, letter in enumerate(first) if letter == "."]
    return [prefix for prefix in prefixes if all(name.startswith(prefix) for name in own)]


def _within(own: Mapping[str, Any], keys: tuple[str, ...], state: Mapping[str, Any], added: str) -> Iterator[Part]:
    """Yield the parts of a dict that may fit the model inside ``added``, by the names of the whole model."""
    inner = {name.removeprefix(added): tensor for name, tensor in own.items()}
    for part in _parts(inner, keys, state):
        renamed = OrderedDict((f"{added}{name}", value) for name, value in part.state.items())
        yield replace(part, state=renamed, added=added)


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
    index = index_of(path)
    told += f". {path.name} is one part of several: give {index.name}" if index else ""
    return f"{path} does not fit {type(module).__name__}; {told}"


def _size(value: Any) -> str:
    import torch

    if isinstance(value, Unread):
        return f" (an object of {value.what}, which is not built)"
    if not isinstance(value, Mapping):
        return ""
    return f" (a dict of {sum(isinstance(v, torch.Tensor) for v in value.values())} tensors)"


def _form(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {'×'.join(map(str, tensor.shape)) or 'scalar'}"
