"""What a model and a transform compute with beside tensors: the source of their code, the values it refers to, their attributes."""

from __future__ import annotations

import importlib.util
import sys
import types
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from .bytecode import Names, bytecode_of, names_of
from .content import Content, Unseen
from .found import Found
from .hashes import hashed
from .members import class_is_users, contents_of, functions_in, is_data, is_descriptor, script_text
from .source import distribution, is_users, label, runs_users, text_of

_BASE = frozenset(vars(nn.Module()))  # what every module has
_HOOKS = ("_forward_pre_hooks", "_forward_hooks")
_ROOTS = frozenset(("forward", "__call__"))
# Files and the environment, which may hold something else the next time.
_READING = frozenset(("open", "environ", "getenv", "read_text", "read_bytes", "fromfile", "loadtxt"))
# Methods that no forward pass calls. What __init__ makes is seen in the attributes; its text counts, what it refers to does not.
_NOT_RUN = frozenset(
    f"__{name}__"
    for name in (
        *("init", "new", "repr", "str", "del", "reduce", "reduce_ex", "getstate", "setstate", "copy", "deepcopy"),
        *("init_subclass", "class_getitem", "setattr"),
    )
)


class Walk:
    """Follows a model's classes, a transform and everything of the user's own that their code names."""

    def __init__(self, model: nn.Module, weights: Callable[[nn.Module], str]) -> None:
        self.found = Found()
        self._weights = weights
        self._known = {id(module) for module in model.modules()}
        self._others: dict[int, str] = {}
        self._modules: list[nn.Module] = list(model.modules())
        self._classes = {each for module in self._modules for each in type(module).__mro__}
        self._seen: set[Any] = set()
        self._keep: list[Any] = []  # whose ids are in _seen
        self._reads: set[str] = set()  # attributes that the user's code outside of modules reads
        self._writes: set[str] = set()
        self._sets: set[str] = set()  # variables that the code writes
        self._dynamic = False
        self._values: list[tuple[str, str, Any, str]] = []  # held back until it is known what the code writes
        self._content = Content(self._code, self._module)
        self._at = "the model"

    def follow(self, transform: Any) -> Found:
        """Follow everything. Returns what was found."""
        self._at = "transform"
        self._add("transform", transform)
        visited = -1
        while visited != len(self._seen):  # an attribute may be a function, which reads others
            visited = len(self._seen)
            attributes = self._attributes()
            for name, _, value in attributes:
                self._at = name
                self._content_of(value)
        for name, path, value in attributes:
            self._add(name, value, path=path)
        for name, written, value, file in self._values:
            if written in self._writes if "." in name.partition(" in ")[0] else written in self._sets:
                self.found.unseen[f"{name}, which the code itself changes"] = None
            else:
                self._add(name, value, file)
        return self.found

    # -- modules and their attributes

    def _module(self, module: nn.Module) -> str:
        """A module that is met as a value: part of the model, or one with weights of its own."""
        if id(module) in self._known:
            return "of the model"
        if id(module) not in self._others:
            there = {id(each) for each in self._modules}
            self._modules += [each for each in module.modules() if id(each) not in there]
            self._others[id(module)] = self._weights(module)
        return self._others[id(module)]

    def _attributes(self) -> list[tuple[str, str, Any]]:
        """(name, path, value) of every attribute that the forward pass may read and does not write itself."""
        reads, writes, dynamic = self._reached()
        found: list[tuple[str, str, Any]] = []
        for number, module in enumerate(self._modules):
            kind = type(module)
            if isinstance(module, torch.jit.ScriptModule):
                self.found.add(
                    f"source of the scripted {module.original_name}", hashed(str(number), script_text(module))
                )
                continue
            members = {
                name: value
                for each in reversed(kind.__mro__)
                if each not in (nn.Module, object) and class_is_users(each)
                for name, value in vars(each).items()
                if not name.startswith("__") and not callable(value) and not is_descriptor(value)
            }
            for name, value in (members | vars(module)).items():
                all_of_it = dynamic and class_is_users(kind)
                if name not in _BASE and name not in writes and (all_of_it or name in reads):
                    found.append((f"attribute {name} of {kind.__qualname__}", str(number), value))
            for table in _HOOKS:
                if hooks := list(vars(module).get(table, {}).values()):
                    found.append((f"hooks of {kind.__qualname__}", f"{number} {table}", hooks))
        return found

    def _reached(self) -> tuple[set[str], set[str], bool]:
        """The attributes that a forward pass may read and write, as far as names tell, and whether it makes up names."""
        classes = dict.fromkeys(each for module in self._modules for each in type(module).__mro__)
        methods: dict[str, list[tuple[types.FunctionType, type]]] = {}
        for kind in classes:
            if kind in (nn.Module, object):
                continue
            if kind.__module__ != "builtins" and not class_is_users(kind):
                self._version(kind.__module__)
            for name, value in vars(kind).items():
                for function in functions_in(value):
                    methods.setdefault(name, []).append((function, kind))
        for module in self._modules:
            for value in vars(module).values():
                for function in functions_in(value) if callable(value) and not isinstance(value, nn.Module) else ():
                    methods.setdefault("forward", []).append((function, type(module)))
        reads, writes, dynamic = set(_ROOTS), set(self._writes), self._dynamic
        todo = {*_ROOTS, *self._reads} | {
            name for name in methods if name.startswith("__") and name.endswith("__") and name not in _NOT_RUN
        }
        reads |= todo
        made_up = False
        while todo:
            new: set[str] = set()
            for name in todo:
                for function, kind in methods.get(name, ()):
                    used = names_of(function.__code__)
                    new |= used.attributes
                    writes |= used.set_attributes
                    self._sets |= used.set_variables
                    dynamic = dynamic or (used.dynamic and runs_users(function))
                    self._function(function, owner=kind)
            todo = new - reads
            if dynamic and not made_up:  # any method of the user's classes
                made_up = True
                todo |= {name for name, all_of_it in methods.items() if name not in _NOT_RUN and _any_users(all_of_it)}
            reads |= todo
        for (
            functions
        ) in methods.values():  # of a class the whole text counts, what it refers to only where it is reached
            for function, kind in functions:
                if runs_users(function):
                    self._text(function, kind)
        return reads, writes, dynamic

    # -- code

    def _code(self, value: Any) -> str:
        """A function or class that is met: what names it. If it is the user's, it is followed."""
        if isinstance(value, type):
            if value.__module__ == "builtins":
                return value.__qualname__
            self._class(value)
            return (
                f"class {value.__qualname__}" if class_is_users(value) else f"{value.__module__}.{value.__qualname__}"
            )
        if isinstance(value, torch.jit.ScriptFunction):
            return hashed(script_text(value))
        functions = list(functions_in(value))
        for function in functions:
            self._function(function)
        if functions and runs_users(functions[-1]):
            return functions[-1].__qualname__
        within = getattr(value, "__self__", None) or getattr(value, "__objclass__", None)
        module = (
            getattr(value, "__module__", None) or getattr(within, "__module__", None) or getattr(within, "__name__", "")
        )
        self._version(module or "")
        self._extension(module or "", value)
        return f"{module}.{getattr(value, '__qualname__', type(value).__qualname__)}"

    def _class(self, kind: type) -> None:
        """Follow all methods of a class of the user's that is no module of the model, and of its bases."""
        for each in kind.__mro__:
            if each in (object, nn.Module) or each in self._classes or not self._first(each):
                continue
            if not class_is_users(each):
                self._version(each.__module__)
            for name, value in vars(each).items():
                for function in functions_in(value):
                    if not runs_users(function):
                        continue
                    if name in _NOT_RUN:
                        self._text(function, each)
                    else:
                        self._function(function, owner=each)
                if class_is_users(each) and not name.startswith("__") and name != "_abc_impl" and is_data(value):
                    self._later(f"value of {each.__qualname__}.{name}", name, value, "")

    def _function(self, function: types.FunctionType, owner: type | None = None) -> None:
        """Note the text of a function and follow what it refers to."""
        if not self._first(function):
            return
        code = function.__code__
        if not runs_users(function):
            self._version(function.__module__ or "")
            for cell in function.__closure__ or ():  # a decorator of a library around a function of the user's
                inner = contents_of(cell)
                if callable(inner) or isinstance(inner, (dict, list, tuple)):
                    self._content_of(inner)
            return
        self._text(function, owner)
        used, file = names_of(code), label(code.co_filename)
        if owner is None or not issubclass(owner, nn.Module):
            self._reads |= used.attributes
            self._writes |= used.set_attributes
            self._sets |= used.set_variables
            self._dynamic = self._dynamic or used.dynamic
        names = used.globals | ({str(each) for each in code.co_consts} if used.dynamic else set())
        for name in sorted(names):
            if name in function.__globals__:
                self._refer(name, function.__globals__[name], used, file)
        imports = set(used.imports)
        if {"import_module", "__import__"} & (used.attributes | used.globals):
            imports |= {each for each in code.co_consts if isinstance(each, str) and _is_module(each)}
        for module in sorted(imports):
            self._import(module, function, used, file)
        if read := sorted(_READING & (used.attributes | used.globals)):
            self.found.unseen[f"what {function.__qualname__} reads when it runs ({', '.join(read)})"] = None
        for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
            if name != "__class__":
                self._refer(name, contents_of(cell), used, file, f"value of {name} in {function.__qualname__}")
        defaults: dict[Any, Any] = {**dict(enumerate(function.__defaults__ or ())), **(function.__kwdefaults__ or {})}
        if defaults:
            self._later(f"value of defaults in {function.__qualname__}", "", defaults, file)
        if attributes := {name: value for name, value in vars(function).items() if name != "__wrapped__"}:
            for name, value in attributes.items():
                self._later(f"value of {function.__qualname__}.{name}", name, value, file)

    def _text(self, function: types.FunctionType, owner: type | None) -> None:
        """Note the source text of a function; without text its bytecode, and that is told."""
        if not self._first((id(function), "text")):
            return
        self._keep.append(function)
        name, code = function.__qualname__, function.__code__
        text = text_of(function)
        if text is None:
            generated = code.co_filename.startswith("<") and owner is not None and code.co_name.startswith("__")
            if not generated:  # as dataclasses make them
                file = label(code.co_filename)
                why = (
                    f"{file} holds other text than what runs: start again after editing"
                    if file
                    else "it has no source text"
                )
                self.found.unseen[f"source of {name} is compared by its bytecode ({why})"] = None
            text = bytecode_of(code)
        self.found.add(f"source of {name}", hashed(text), label(code.co_filename))

    def _refer(self, name: str, value: Any, used: Names, file: str, called: str = "") -> None:
        """Follow what a name in a function stands for."""
        if isinstance(value, types.ModuleType):
            if name != value.__name__.rpartition(".")[2] and not is_users(
                getattr(value, "__file__", None) or "<frozen>"
            ):
                self._later(called or f"value of {name}", name, value, file)
            self._members(value, used)
        elif getattr(value, "__name__", None) == name and (
            (isinstance(value, type) and class_is_users(value))
            or (isinstance(value, types.FunctionType) and runs_users(value) and not value.__closure__)
        ):
            self._code(value)  # its source says it all
        else:
            self._later(called or f"value of {name}", name, value, file)

    def _members(self, module: types.ModuleType, used: Names) -> None:
        """Follow the members of a module that a function may mean; of a library's those that the user has put there."""
        own = is_users(getattr(module, "__file__", None) or "<frozen>")
        if not own:
            self._version(module.__name__)
        file = label(getattr(module, "__file__", None) or "")
        there = [name for name in sorted(used.attributes) if name in vars(module)]
        for name in there:
            value = vars(module)[name]
            self._keep.append(module)
            if not self._first((id(module), name, used if isinstance(value, types.ModuleType) else None)):
                continue
            if isinstance(value, types.ModuleType):
                if own or is_users(getattr(value, "__file__", None) or "<frozen>"):
                    self._members(value, used)
            elif own:
                self._refer(name, value, used, file)
            elif any(runs_users(each) for each in functions_in(value)):
                self._code(value)
        if own and (used.dynamic or not there) and self._first((id(module), "all")):
            self._whole(module.__name__, getattr(module, "__file__", None))

    def _import(self, name: str, function: types.FunctionType, used: Names, file: str) -> None:
        """A module that a function imports when it runs: it may not be there yet."""
        package = function.__globals__.get("__package__") or ""
        for full in dict.fromkeys((name, f"{package}.{name}".strip("."))):
            if full in sys.modules:
                self._members(sys.modules[full], used)
                return
            try:
                found = importlib.util.find_spec(full)
            except (ImportError, ValueError, AttributeError):
                continue
            if found is not None:
                if found.origin and is_users(found.origin):
                    self._whole(full, found.origin)
                else:
                    self._version(full)
                return
        self.found.unseen[f"module {name} (in {file}), which is imported when the code runs"] = None

    def _whole(self, name: str, file: str | None) -> None:
        """A module whose whole text counts."""
        self._keep.append(name)
        if file is None:
            return
        with open(file, "rb") as handle:
            self.found.add(f"source of module {name.rpartition('.')[2]}", hashed(handle.read()), label(file))

    def _version(self, module: str) -> None:
        if (known := distribution(module)) is not None:
            self.found.add(f"version of {known[0]}", known[1])

    def _extension(self, module: str, value: Any) -> None:
        """Compiled code of the user's own: the file that holds it."""
        file = getattr(sys.modules.get(module), "__file__", None)
        if file and is_users(file) and not file.endswith(".py"):
            self._whole(module, file)
        elif not module and not isinstance(value, type):
            self.found.unseen[f"code of {value!r:.80} (in {self._at})"] = None

    # -- values

    def _later(self, name: str, written: str, value: Any, file: str) -> None:
        """A value that code refers to: it counts unless code is found to write it. Functions in it are followed at once."""
        self._values.append((name, written, value, file))
        before, self._at = self._at, name
        self._content_of(value)
        self._at = before

    def _add(self, name: str, value: Any, file: str = "", path: str = "") -> None:
        self._at = name
        part = self._content_of(value)
        if part is not None:
            self.found.add(name, hashed(path, part), file)

    def _content_of(self, value: Any) -> str | None:
        """The hash of a value; None, and that is told, if its content cannot be seen."""
        try:
            return self._content.of(value)
        except Unseen as error:
            self.found.unseen[f"{self._at} ({error})"] = None
        except Exception as error:  # whatever the user's own properties and iterators raise
            self.found.unseen[f"{self._at} ({type(error).__name__} when it was read)"] = None
        return None

    def _first(self, thing: Any) -> bool:
        key = thing if isinstance(thing, tuple) else id(thing)
        if key in self._seen:
            return False
        self._seen.add(key)
        self._keep.append(thing)
        return True


def _any_users(methods: Iterable[tuple[types.FunctionType, type]]) -> bool:
    return any(runs_users(function) for function, _ in methods)


def _is_module(name: str) -> bool:
    """Whether a text names a module that can be found without running its package."""
    if not all(part.isidentifier() for part in name.split(".")):
        return False
    return name in sys.modules or ("." not in name and importlib.util.find_spec(name) is not None)
