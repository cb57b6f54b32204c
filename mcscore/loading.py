"""A user's model from two strings: where it is built (``net.py:build``) and where its weights lie.

The two strings are written into run.json, so that a later command can build the same model again; both are kept with
absolute paths, because that command may be given in another directory.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import pickle
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

SPEC_FORM = "FILE.py:NAME or package.module:NAME"
RESAVE = (
    "save the tensors alone: safetensors.torch.save_model(model, 'weights.safetensors'), "
    "or torch.save(model.state_dict(), 'weights.pt')"
)
MAX_NAMED = 6  # tensors listed per kind in an error; a wrong architecture has hundreds


class ModelError(ValueError):
    """The model cannot be built as asked, or its weights do not fit it."""


@dataclass(frozen=True)
class LoadedModel:
    """A module with its weights in place, its optional input transform, and the strings that lead to it again."""

    module: nn.Module
    transform: Callable[[Tensor], Tensor] | None
    spec: str
    weights: str | None


def load_model(spec: str, weights: str | os.PathLike[str] | None = None) -> LoadedModel:
    """Build the model that ``spec`` names and, if given, load ``weights`` into it.

    ``spec`` is ``FILE.py:NAME`` or ``package.module:NAME``; NAME is called without arguments and returns an nn.Module,
    or (nn.Module, transform) where transform maps a batch of pool items on the device to model input. ``weights`` is a
    .safetensors file, or a .pt/.pth state dict, read with ``weights_only=True`` so that no code in it can run.

    Raises ModelError, which names the file, the attribute or the tensors that are wrong.
    """
    spec, build = _find(spec)
    module, transform = _build(spec, build)
    if weights is not None:
        path = Path(weights).absolute()
        _fill(module, read_weights(path), path)
        return LoadedModel(module, transform, spec, str(path))
    return LoadedModel(module, transform, spec, None)


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors by name in a .safetensors, .pt or .pth file, on the CPU. Never runs code from the file."""
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
    if suffix not in (".pt", ".pth"):
        raise ModelError(
            f"{path}: weights must be .safetensors, .pt or .pth, not {suffix or 'a file without suffix'!r}; {RESAVE}"
        )
    import torch

    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"{path} is damaged, or holds more than tensors, which could run code when read; {RESAVE}"
        ) from error
    except Exception as error:  # torch's reader raises KeyError, EOFError, RuntimeError and others on a damaged file
        raise ModelError(
            f"{path} is not a readable torch file: {type(error).__name__}: {_first_line(error)}"
        ) from error
    if not isinstance(state, Mapping):
        raise ModelError(f"{path} holds {_kind(state)}, not a state dict; {RESAVE}")
    others = [str(name) for name, value in state.items() if not isinstance(value, torch.Tensor)]
    if others:
        raise ModelError(
            f"{path} is a checkpoint with other things beside tensors ({_some(others)}), not a state dict; {RESAVE}"
        )
    return dict(state)


def _find(spec: str) -> tuple[str, Callable[[], Any]]:
    """The spec with an absolute path, and the callable it names."""
    where, colon, name = spec.rpartition(":")
    if not (colon and where and name):
        raise ModelError(f"model {spec!r} is not of the form {SPEC_FORM}")
    if where.endswith(".py"):
        path = Path(where).absolute()
        module = _import_file(path)
        where = str(path)
    else:
        module = _import_module(where)
    if not hasattr(module, name):
        here = [
            key
            for key, value in vars(module).items()
            if callable(value) and getattr(value, "__module__", "") == module.__name__
        ]
        raise ModelError(f"{where} has no {name!r}; it defines {_some(here) if here else 'no function or class'}")
    build = getattr(module, name)
    spec = f"{where}:{name}"
    import torch

    if isinstance(build, torch.nn.Module):
        raise ModelError(
            f"{spec} is a ready module; name a function or class that builds it, such as `def build(): return {name}`"
        )
    if not callable(build):
        raise ModelError(f"{spec} is {_kind(build)}, not a function or class that builds the model")
    return spec, build


def _import_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise ModelError(f"{path}: no such model file")
    # As `python FILE.py` would: the file's neighbours can be imported, now and from inside forward().
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))
    # Registered, because dataclasses and pickle look their module up there; under the name its neighbours import it by,
    # unless that is taken: a model in torch.py must not replace torch.
    taken = getattr(sys.modules.get(path.stem), "__file__", str(path)) != str(path)
    name = f"mcscore_model_{path.stem}" if taken else path.stem
    found = importlib.util.spec_from_file_location(name, path)
    if found is None or found.loader is None:
        raise ModelError(f"{path} cannot be imported as Python")
    module = importlib.util.module_from_spec(found)
    sys.modules[name] = module
    try:
        found.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise ModelError(f"{path} failed when imported: {type(error).__name__}: {_first_line(error)}") from error
    return module


def _import_module(name: str) -> ModuleType:
    # The console script's sys.path starts at its own directory; `python -m` would start at the current one.
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        hint = "; a file is named with its .py: FILE.py:NAME" if error.name == name.partition(".")[0] else ""
        raise ModelError(f"model module {name!r} cannot be imported: {error}{hint}") from error
    except Exception as error:
        raise ModelError(
            f"model module {name!r} failed when imported: {type(error).__name__}: {_first_line(error)}"
        ) from error


def _build(spec: str, build: Callable[[], Any]) -> tuple[nn.Module, Callable[[Tensor], Tensor] | None]:
    from torch import nn

    try:
        inspect.signature(build).bind()
    except TypeError as error:
        raise ModelError(f"{spec} is called without arguments: {error}; give it defaults, or wrap it") from error
    except ValueError:  # no signature to be had (built-in): the call itself will tell
        pass
    try:
        built = build()
    except Exception as error:
        raise ModelError(f"{spec} failed when called: {type(error).__name__}: {_first_line(error)}") from error
    module, transform = built if isinstance(built, tuple) and len(built) == 2 else (built, None)
    if not isinstance(module, nn.Module):
        raise ModelError(f"{spec} must return an nn.Module or (nn.Module, transform), but returned {_kind(built)}")
    if transform is not None and not callable(transform):
        raise ModelError(f"{spec}: the transform it returned is {_kind(transform)}, not callable")
    return module, transform


def _fill(module: nn.Module, state: dict[str, Tensor], path: Path) -> None:
    """Copy ``state`` into ``module`` if every tensor fits; otherwise say which do not, and change nothing."""
    own = module.state_dict()
    # safetensors writes a tensor that two names share only once: the other name is not missing.
    held = {(own[name].data_ptr(), own[name].shape) for name in state if name in own and own[name].numel()}
    missing = [name for name in own if name not in state and (own[name].data_ptr(), own[name].shape) not in held]
    unexpected = [name for name in state if name not in own]
    mismatching = [
        f"{name} (file {_form(state[name])}, model {_form(own[name])})"
        for name in own
        if name in state
        and (own[name].shape != state[name].shape or own[name].is_floating_point() != state[name].is_floating_point())
    ]
    if not (missing or unexpected or mismatching):
        module.load_state_dict(state, strict=False)  # strictness was checked above, with shared tensors allowed for
        return
    wrong = [
        f"{kind}: {_some(names)}"
        for kind, names in (("missing", missing), ("unexpected", unexpected), ("mismatching", mismatching))
        if names
    ]
    hint = ""
    if unexpected and all(name.startswith("module.") for name in state):
        hint = " (every name begins with 'module.': save model.module.state_dict(), without the DataParallel wrapper)"
    raise ModelError(f"{path} does not fit {type(module).__name__}; {'; '.join(wrong)}{hint}")


def _some(names: list[str]) -> str:
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return ", ".join(names[:MAX_NAMED]) + more


def _form(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {'×'.join(map(str, tensor.shape)) or 'scalar'}"


def _kind(value: Any) -> str:
    if isinstance(value, tuple):
        return f"a tuple ({', '.join(type(part).__name__ for part in value)})"
    name = type(value).__name__
    return "None" if value is None else f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), "no message")
