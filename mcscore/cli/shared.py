"""Options that several verbs take: each is declared once, with one help text. --help lists them in sections."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from ..acquisition import SCORES
from ..likelihoods import INPUTS, LIKELIHOODS
from .options import COMMA, PATH, POOL, PROBABILITY, byte_size, either, names

Decorator = Callable[[Any], Any]
_REST = "Options"  # the section of options that belong to no other


class Option(click.Option):
    """An option that belongs to a section of --help."""

    def __init__(self, *words: Any, section: str = _REST, **settings: Any) -> None:
        super().__init__(*words, **settings)
        self.section = section


class Command(click.Command):
    """A verb whose --help lists its options by section, in the order in which they are declared; the rest comes last."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, a list for each section."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            if isinstance(param, click.Option) and (record := param.get_help_record(ctx)) is not None:
                sections.setdefault(getattr(param, "section", _REST), []).append(record)
        for name in sorted(sections, key=lambda name: name == _REST):  # stable
            with formatter.section(name):
                formatter.write_dl(sections[name])


def together(*options: Decorator) -> Decorator:
    """One decorator that gives a command several options, listed by --help in this order."""

    def give(command: Any) -> Any:
        for option in reversed(options):  # as a stack of decorators: --help lists the last one applied first
            command = option(command)
        return command

    return give


def _in(section: str) -> Callable[..., Decorator]:
    def option(*words: Any, **settings: Any) -> Decorator:
        return click.option(*words, cls=Option, section=section, **settings)

    return option


_model, _scores, _dropout, _execution = map(_in, ("Model", "Scores", "Dropout", "Execution"))

passes = _scores(
    "--passes",
    type=click.IntRange(1, 65536),
    default=100,
    show_default=True,
    help="Stochastic forward passes per item.",
)
errors = _scores(
    "--errors",
    is_flag=True,
    help="Store the standard error and bias of each score, too: how far it may lie from the score of infinitely many passes.",
)
likelihood = _scores(
    "--likelihood",
    type=click.Choice(LIKELIHOODS),
    default="categorical",
    show_default=True,
    help="How outputs become a distribution: one of C classes, labels that may each hold, or a number.",
)


def scores(default: str | None, told: str) -> Decorator:
    """--scores, whose default differs: ``told`` says what it is."""
    text = f"Scores to compute, out of {', '.join(SCORES)}; default: {told}."
    return _scores("--scores", callback=names, default=default, metavar=COMMA, help=text)


model = together(
    _model(
        "--model",
        "spec",
        required=True,
        metavar="FILE.py:NAME",
        help="Function or class that builds the model; package.module:NAME names an installed one.",
    ),
    _model(
        "--weights",
        type=PATH,
        help="Weights of the model: .safetensors, a state dict or checkpoint (.pt, .pth, .ckpt, .bin, .pth.tar), an index of several "
        "files (.index.json), or a folder of save_pretrained. FILE::NAME chooses one of several sets in a checkpoint; "
        "default: as the model is built.",
    ),
)
outputs = together(
    _scores(
        "--input",
        type=click.Choice(INPUTS),
        default="logits",
        show_default=True,
        help="What the model returns.",
    ),
    likelihood,
    _scores("--noise-variance", type=float, help="Known variance of the noise, for --likelihood gaussian."),
    _scores(
        "--reduction",
        callback=either,
        default="mean",
        show_default=True,
        metavar="mean|max|SHARE",
        help="How the scores of pixels become one score per item: their mean, their maximum, or the mean of the highest "
        "SHARE of them, such as 0.1.",
    ),
)
dropout = together(
    _dropout("--sites", callback=names, metavar=COMMA, help="Dropout sites to use, by name; default: all."),
    _dropout("--p", type=PROBABILITY, help="One drop probability for all sites; default: the model's own."),
    _dropout(
        "--masks",
        type=click.Choice(["independent", "shared"]),
        default="independent",
        show_default=True,
        help="A mask for each item and pass, or one for each pass that all items share.",
    ),
    _dropout(
        "--weight-dropout",
        type=PROBABILITY,
        help="Probability of dropping each weight of the linear and convolutional layers, for a model without dropout.",
    ),
)
seed = _dropout(
    "--seed", type=click.IntRange(0, 2**64 - 1), default=0, show_default=True, help="Seed of the dropout masks."
)
execution = together(
    _execution("--device", help="Device to compute on, such as cpu or cuda:0; default: cuda if there is one."),
    _execution(
        "--dtype",
        type=click.Choice(["model", "bfloat16", "auto", "tf32"]),
        help="Compute products in bfloat16; auto: only where bfloat16 is fast and keeps the ranking. tf32: float32 products "
        "and convolutions in TF32, on GPUs. model: the model's own type, float32 in full precision. Default: auto on a GPU, "
        "else model.",
    ),
    _execution(
        "--memory",
        callback=byte_size,
        metavar="SIZE",
        help="Memory for the activations of a step, such as 512MiB or 8GiB; default: on a GPU a quarter of what is free, at most "
        "8GiB, elsewhere 256MiB.",
    ),
    _execution("--channels-last", is_flag=True, help="Give images to the model in channels-last format."),
    _execution("--compile", is_flag=True, help="Compile the model with torch.compile."),
    _execution(
        "--deterministic",
        is_flag=True,
        help="Fill up every step to its full size, so that scores have the same bits in any batch; short batches cost more.",
    ),
)

check = click.option(
    "--check",
    type=click.Choice(["off", "warn", "strict"]),
    default="warn",
    show_default=True,
    help="Look first whether model and input fit each other: normalization, layout, predictions, labels, class names, weights. warn: say "
    "what looks wrong. strict: end with an error, before anything is written.",
)
quiet = click.option("--quiet", is_flag=True, help="No progress on stderr.")
pool_now = click.option(
    "--pool", "pool_path", type=POOL, help="Where the pool is now; default: the place that `score` recorded."
)


def seconds(default: float) -> Decorator:
    """--seconds of a measurement."""
    return click.option(
        "--seconds",
        type=click.FloatRange(0, min_open=True),
        default=default,
        show_default=True,
        help="Time to measure each candidate for; each runs at least three times.",
    )
