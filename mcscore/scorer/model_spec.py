"""A user's model from two strings: where it is built (``net.py:build``) and where its weights lie.

The two strings are written into run.json, so that a later command can build the same model again; both are kept with
absolute paths, because that command may be given in another directory.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import os
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import FunctionType, ModuleType
from typing import TYPE_CHECKING, Any

from ..errors import ModelError, first_line
from ..fence import user_code
from .checkpoint import load_weights
from .weights_file import chosen_set, kind_of, some, weights_file

if TYPE_CHECKING:
    from torch import Tensor, nn

_OURS = "mcscore_model_"  # before the name of a model file whose own name another module has
SPEC_FORM = "FILE.py:NAME or package.module:NAME"


@dataclass(frozen=True)
class LoadedModel:
    """A module with its weights in place, its optional input transform, and the strings that lead to it again.

    part: what was taken of the weights file, if it held more than the tensors of this module by their names.
    spec_sha256: of the bytes of the file that the spec names.
    """

    module: nn.Module
    transform: Callable[[Tensor], Tensor] | None
    spec: str
    weights: str | None
    part: str | None = None
    spec_sha256: str | None = None


def load_model(spec: str, weights: str | os.PathLike[str] | None = None) -> LoadedModel:
    """Build the model that ``spec`` names and, if given, load ``weights`` into it.

    ``spec`` is ``FILE.py:NAME`` or ``package.module:NAME``; NAME is called without arguments and returns an nn.Module,
    or (nn.Module, transform) where transform maps a batch of pool items on the device to model input. ``weights`` is a
    .safetensors file, a state dict or checkpoint of PyTorch's, read with ``weights_only=True`` so that no code in it can run,
    the index of weights in several files, or a folder that ``save_pretrained`` wrote; see ``weights_file`` and ``checkpoint``.
    ``FILE::NAME`` chooses one of several sets of tensors in a checkpoint.

    Raises ModelError, which names the file, the attribute or the tensors that are wrong.
    """
    digest = spec_sha256(spec)  # before it runs: what it is now is what runs
    spec, build = find_builder(spec)
    module, transform = _build(spec, build)
    if weights is not None:
        given, chosen = chosen_set(os.fspath(weights))
        path = weights_file(given)
        with user_code(f"{type(module).__name__} of {spec}, when weights were loaded into it,"):
            part = load_weights(module, path, chosen)
        return LoadedModel(module, transform, spec, "::".join((str(path), *chosen)), part, digest)
    return LoadedModel(module, transform, spec, None, None, digest)


def build_again(spec: str) -> nn.Module | None:
    """Call the function that ``spec`` names once more, in the module that ``load_model`` imported; None if that fails.

    Random numbers of torch that it draws are not those of the first time, and leave no trace.
    """
    import torch

    where, _, name = spec.rpartition(":")
    stem = Path(where).stem
    names = (f"mcscore_model_{stem}", stem) if where.endswith(".py") else (where,)
    file = str(_file_of(where))
    found = (sys.modules[each] for each in names if each in sys.modules)
    module = next((each for each in found if getattr(each, "__file__", None) == file), None)
    if module is None:
        return None
    try:
        with torch.random.fork_rng([]):
            torch.random.manual_seed(torch.random.initial_seed() ^ 0x5EED)
            return _build(spec, getattr(module, name))[0]
    except (ModelError, AttributeError):  # of a function that can be called once only
        return None


def spec_sha256(spec: str) -> str | None:
    """sha256 of the file that a spec names, without running anything; None if there is no such file."""
    file = _file_of(spec.rpartition(":")[0])
    return hashlib.sha256(file.read_bytes()).hexdigest() if file is not None and file.is_file() else None


def _file_of(where: str) -> Path | None:
    """The file of FILE.py or package.module. Not by importlib, which runs the packages that a module lies in."""
    if where.endswith(".py"):
        return Path(where).absolute()
    loaded = getattr(sys.modules.get(where), "__file__", None)
    if loaded is not None:
        return Path(loaded)
    folders = [Path(folder or os.curdir) for folder in (os.getcwd(), *sys.path)]
    inner = where.replace(".", "/")
    candidates = (folder / name for folder in folders for name in (f"{inner}/__init__.py", f"{inner}.py"))
    return next((file.absolute() for file in candidates if file.is_file()), None)


def find_builder(spec: str) -> tuple[str, Callable[[], Any]]:
    """Import what a spec names: the spec with an absolute path, and the callable. ModelError if there is none."""
    where = spec.rpartition(":")[0]
    with user_code(f"model file {Path(where).absolute() if where.endswith('.py') else where}, when imported,"):
        return _find(spec)


def _find(spec: str) -> tuple[str, Callable[[], Any]]:
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
        raise ModelError(f"{where} has no {name!r}; it defines {some(here) if here else 'no function or class'}")
    build = getattr(module, name)
    spec = f"{where}:{name}"
    import torch

    if isinstance(build, torch.nn.Module):
        raise ModelError(
            f"{spec} is a ready module; name a function or class that builds it, such as `def build(): return {name}`"
        )
    if not callable(build):
        raise ModelError(f"{spec} is {kind_of(build)}, not a function or class that builds the model")
    return spec, build


def _import_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise ModelError(f"{path}: no such model file")
    # As `python FILE.py` would: the file's neighbors can be imported, now and from inside forward().
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))
    # Registered, because dataclasses and pickle look their module up there; under the name its neighbors import it by,
    # unless that is taken: a model in torch.py must not replace torch.
    taken = getattr(sys.modules.get(path.stem), "__file__", str(path)) != str(path)
    name = f"{_OURS}{path.stem}" if taken else path.stem
    module = _import_as(name, path)
    _warn_of_namesakes(module, path)
    return module


def _warn_of_namesakes(module: ModuleType, path: Path) -> None:
    """Say which neighbors a model file did not get, because the process had imported others of their names."""
    values = list(vars(module).values())
    names = {value.__name__ for value in values if isinstance(value, ModuleType)}
    names |= {str(value.__module__) for value in values if isinstance(value, (FunctionType, type))}
    for name in sorted({name.partition(".")[0] for name in names}):
        loaded = getattr(sys.modules.get(name), "__file__", None)
        for neighbor in (path.parent / f"{name}.py", path.parent / name / "__init__.py"):
            if (
                loaded is not None
                and neighbor != path
                and neighbor.is_file()
                and neighbor.resolve() != Path(loaded).resolve()
            ):
                warnings.warn(
                    f"{path} has {name!r} of {loaded}, which this process imported before, not of {neighbor} beside it: load the "
                    "models of several projects in a process for each",
                    stacklevel=2,
                )


def imported_files() -> dict[str, str]:
    """The model files that were imported under a name of ours, by that name: another process does not find them by it."""
    modules = {name: module for name, module in sys.modules.items() if name.startswith(_OURS)}
    return {name: str(module.__file__) for name, module in modules.items()}


def import_files(files: Mapping[str, str]) -> None:
    """Import model files under the names that another process imported them by. ModelError if one cannot be imported."""
    for name, file in files.items():
        if name not in sys.modules:
            _import_as(name, Path(file))


def _import_as(name: str, path: Path) -> ModuleType:
    found = importlib.util.spec_from_file_location(name, path)
    if found is None or not isinstance(found.loader, SourceFileLoader):
        raise ModelError(f"{path} cannot be imported as Python")
    module = importlib.util.module_from_spec(found)
    sys.modules[name] = module
    done = False
    try:
        # Compiled from the file itself: __pycache__ takes an edit of the same size within the same second for none.
        exec(found.loader.source_to_code(path.read_bytes(), str(path)), module.__dict__)
        done = True
    except Exception as error:
        raise ModelError(f"{path} failed when imported: {first_line(error)}") from error
    finally:
        if not done:  # also after SystemExit
            sys.modules.pop(name, None)
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
        raise ModelError(f"model module {name!r} failed when imported: {first_line(error)}") from error


def _build(spec: str, build: Callable[[], Any]) -> tuple[nn.Module, Callable[[Tensor], Tensor] | None]:
    with user_code(spec):
        return _built(spec, build)


def _built(spec: str, build: Callable[[], Any]) -> tuple[nn.Module, Callable[[Tensor], Tensor] | None]:
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
        raise ModelError(f"{spec} failed when called: {first_line(error)}") from error
    module, transform = built if isinstance(built, tuple) and len(built) == 2 else (built, None)
    if not isinstance(module, nn.Module):
        raise ModelError(f"{spec} must return an nn.Module or (nn.Module, transform), but returned {kind_of(built)}")
    if transform is not None and not callable(transform):
        raise ModelError(f"{spec}: the transform it returned is {kind_of(transform)}, not callable")
    return module, transform
