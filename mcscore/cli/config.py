"""--config: options of the verbs from a TOML file. Flags win over the environment, which wins over the file.

[score]
passes = 200
scores = ["bald", "entropy"]

[pool.import]
keep-encoded = true
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from .options import PATH

_ENVIRONMENT = "MCSCORE"
_OWN = ("config", "help")  # options that a file cannot set


def add_config(command: click.Command, *words: str) -> None:
    """Let a verb, or every verb of a group, have options from the environment and from a file, which --config names."""
    for name, verb in getattr(command, "commands", {}).items():
        add_config(verb, *words, name)
    if isinstance(command, click.Group):
        return
    options = _options(command)
    names = [name for name, option in options.items() if not option.is_flag]
    name = "passes" if "passes" in names else next(iter(names), "json")
    told = (
        f"TOML file with options: {name} in the table [{'.'.join(words)}]; in the environment: {_variable(*words, name)}. What is given "
        "here wins over the environment, that over FILE."
    )
    config = click.Option(
        ["--config"], type=PATH, metavar="FILE", is_eager=True, expose_value=False, callback=_read, help=told
    )
    command.params.append(config)
    # Not by click's auto_envvar_prefix, which goes by names of parameters, and would read MCSCORE_VERSION as --version.
    for name, option in {**options, "config": config}.items():
        known = option.envvar or []  # such as LABEL_STUDIO_API_KEY
        option.envvar = [_variable(*words, name), *([known] if isinstance(known, str) else known)]


def _variable(*words: str) -> str:
    return "_".join((_ENVIRONMENT, *words)).upper().replace("-", "_")


def _read(ctx: click.Context, param: click.Parameter, file: Path | None) -> None:
    """Take the options of the verb from a file as defaults."""
    if file is None:
        return
    try:
        tables = tomllib.loads(file.read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise click.BadParameter(
            f"{file} cannot be read: {getattr(error, 'strerror', None) or error}", ctx, param
        ) from error
    except tomllib.TOMLDecodeError as error:
        raise click.BadParameter(f"{file} is not TOML: {error}", ctx, param) from error
    root = ctx.find_root()
    for text in _unknown(root.command, tables, ""):
        raise click.BadParameter(f"{file}: {text}", ctx, param)
    words: list[str] = []
    above: click.Context = ctx
    while above.parent is not None:
        words, above = [above.command.name or "", *words], above.parent
    table: Any = tables
    for word in words:
        table = table.get(word, {})
    options = _options(ctx.command)
    defaults: dict[str, Any] = {}
    for key, value in table.items():
        option, name = options[_name(key)], f"{key} in [{'.'.join(words)}]"
        if option.name in defaults:
            raise click.BadParameter(f"{file}: {name} is given twice, once with - and once with _", ctx, param)
        if why := _unfit(option, value):
            raise click.BadParameter(f"{file}: {name} is {json.dumps(value, default=str)}, where {why}", ctx, param)
        defaults[option.name or ""] = _value(option, value)
    ctx.default_map = defaults


def _unknown(command: click.Command, table: Mapping[str, Any], where: str) -> Iterator[str]:
    """What a file says that no verb knows."""
    for key, value in table.items():
        name = f"{where}.{key}" if where else key
        if isinstance(command, click.Group):
            if not isinstance(value, dict):
                yield f"{name} stands in no table of a verb, such as [score]"
            elif (verb := command.commands.get(key)) is None:
                yield f"there is no verb for the table [{name}]; there are {', '.join(command.commands)}"
            else:
                yield from _unknown(verb, value, name)
        elif _name(key) not in _options(command):
            yield f"unknown key {key!r} in [{where}]: {where.replace('.', ' ')} has no option --{_name(key)}"


def _options(command: click.Command) -> dict[str, click.Option]:
    """The options of a verb that a file may set, by their names without dashes."""
    options = [param for param in command.params if isinstance(param, click.Option)]
    named = {option.opts[0].lstrip("-"): option for option in options}
    return {name: option for name, option in named.items() if name not in _OWN}


def _name(key: str) -> str:
    return key.replace("_", "-")


def _unfit(option: click.Option, value: Any) -> str:
    """What an option takes of TOML, if it is not this value; "" where it is."""
    if option.is_flag:
        return "" if isinstance(value, bool) else "true or false is wanted"
    parts = value if isinstance(value, list) else [value]
    if any(isinstance(part, bool) or not isinstance(part, (str, int, float)) for part in parts):
        return "a number, a text, or a list of these is wanted"
    return ""


def _value(option: click.Option, value: Any) -> Any:
    """A value of TOML as the command line would have it: text, with commas in a list of one option; 3.0 is no whole number."""
    if option.is_flag:
        return value
    if isinstance(value, list):
        return [str(each) for each in value] if option.multiple else ",".join(map(str, value))
    return [str(value)] if option.multiple else str(value)


def effective(ctx: click.Context) -> dict[str, Any]:
    """The options that a verb runs with, wherever they are from, as JSON can hold them; those without a value are left out."""
    told: dict[str, Any] = {}
    for param in ctx.command.params:
        name = param.opts[0].lstrip("-") if isinstance(param, click.Option) else param.make_metavar(ctx).lower()
        if (value := ctx.params.get(param.name or "")) is not None:
            told[name] = _plain(value)
    return told


def _plain(value: Any) -> Any:
    if isinstance(value, (tuple, list)):
        return [_plain(each) for each in value]
    return value if isinstance(value, (bool, int, float, str)) else str(value)
