"""Shapes of benchmark cases as text, and the tables of default cases.

A shape is letters with numbers, and words, joined by x: T20xC1000, T100xB64xD512xC10xP0.25xshared. Defaults in parentheses:
T passes, B items (as many as fill some memory), C classes, D features, E mask elements of I values each (1), L positions of
D features each (1), P drop probability (0.5), R random numbers per item, N scores of which the best K are selected, rounded
to Q values (not rounded). shared: one mask per pass for all items. own: each pass has its own x. normal: normal random
numbers (uniform). errors: with standard errors, which tests check and benchmarks do not; ratios are to
PyTorch's scores alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

PRECISIONS = ("float32", "bfloat16", "float16")


class ShapeError(ValueError):
    """A shape is malformed, or no kernel accepts it."""


@dataclass(frozen=True)
class Form:
    """The shapes that a kernel accepts: needed letters, optional letters with defaults (None: left out), and words."""

    needs: str
    defaults: dict[str, float | None] = field(default_factory=dict)
    words: tuple[str, ...] = ()

    def takes(self, letters: set[str], words: set[str]) -> bool:
        """Test whether a shape of these letters and words has this form."""
        return set(self.needs) <= letters <= {*self.needs, *self.defaults} and words <= {*self.words}

    def __str__(self) -> str:
        return "x".join(self.needs) + "".join(f"[x{part}]" for part in (*self.defaults, *self.words))


_MASKED: dict[str, float | None] = {"B": None, "P": 0.5}
FORMS = {
    "score_logits": Form("TC", {"B": None}, ("errors",)),
    "moments": Form("TC", {"B": None}),
    "dropout": Form("TE", {"I": None, **_MASKED}),
    "draw": Form("TR", {"B": None}, ("normal",)),
    "dropout_linear": Form("TDC", {"L": None, **_MASKED}, ("shared", "own")),
    "dropout_head": Form("TDC", _MASKED, ("shared", "errors")),
    "top_k": Form("NK", {"Q": None}),
}


@dataclass(frozen=True)
class Shape:
    """Numbers by their letters, and words, as in T100xB512xC10."""

    numbers: dict[str, float]
    words: frozenset[str]

    def __getitem__(self, letter: str) -> int:
        return int(self.numbers[letter])

    def get(self, letter: str, default: int) -> int:
        """Return the number of a letter, or ``default``."""
        return int(self.numbers.get(letter, default))

    def __str__(self) -> str:
        return "x".join([*(f"{letter}{number:.10g}" for letter, number in self.numbers.items()), *sorted(self.words)])


@dataclass(frozen=True)
class Spec:
    """One case to be measured."""

    kernel: str
    shape: Shape
    dtype: str

    def __str__(self) -> str:
        return f"{self.kernel} {self.shape} {self.dtype}"


def parse(text: str) -> Shape:
    """Parse a shape such as T20xB512xC1000. ShapeError names the part that is wrong."""
    numbers: dict[str, float] = {}
    words: set[str] = set()
    every = {word for form in FORMS.values() for word in form.words}
    for part in text.split("x"):
        found = re.fullmatch(r"([A-Z])(\d+(?:\.\d+)?)", part)
        if part in every and part not in words:
            words.add(part)
        elif found is None or found[1] in numbers:
            wrong = (
                "comes twice"
                if found or part in every
                else f"is neither a letter with a number nor {' or '.join(sorted(every))}"
            )
            raise ShapeError(f"shape {text!r}: {part!r} {wrong}; a shape is such as T20xB512xC1000")
        else:
            numbers[found[1]] = _number(text, found[1], float(found[2]))
    return Shape(numbers, frozenset(words))


def _number(text: str, letter: str, number: float) -> float:
    least = 2 if letter == "C" else 1  # the softmax of one class is 1, so it has no uncertainty
    if letter == "P":
        if not 0 < number < 1:
            raise ShapeError(f"shape {text!r}: P must lie strictly between 0 and 1")
    elif number != int(number) or number < least:
        raise ShapeError(f"shape {text!r}: {letter} must be a whole number of at least {least}")
    return number


def specs(text: str, dtypes: Sequence[str] = ("float32",), only: Sequence[str] = ()) -> list[Spec]:
    """List the cases of one shape: each kernel that accepts it, in each dtype (top_k: float32 alone).

    ShapeError if there is none; the message lists the shapes that kernels accept.
    """
    shape = parse(text)
    among = {name: FORMS[name] for name in only or FORMS}
    kernels = [name for name, form in among.items() if form.takes(set(shape.numbers), set(shape.words))]
    if not kernels:
        forms = "; ".join(f"{name} {form}" for name, form in among.items())
        raise ShapeError(f"shape {text!r} fits no kernel; kernels take {forms}")
    found = []
    for kernel in kernels:
        defaults = {k: v for k, v in FORMS[kernel].defaults.items() if v is not None and k not in shape.numbers}
        full = Shape(shape.numbers | defaults, shape.words)
        found += [Spec(kernel, full, dtype) for dtype in (("float32",) if kernel == "top_k" else dtypes)]
    return found


# Kernel, dtypes, shapes. On a CPU products are computed in float32, so there only score_logits has bfloat16 cases.
_CPU = """
score_logits    float32,bfloat16  T20xC10 T100xC10 T20xC100 T20xC1000 T20xC20000
score_logits    float32           T20xB512xC10 T20xB256xC1000
moments         float32           T10xC10 T10xC1000
dropout         float32           T100xE3872xP0.5 T100xE3872xP0.25 T100xE3872xP0.3 T100xE128xP0.5 T20xE32xI169xP0.25
draw            float32           T100xR3872 T100xR3872xnormal
dropout_linear  float32           T100xD3872xC128xP0.5 T100xD3872xC128xP0.25 T100xD3872xC128xP0.3 T100xD3872xC128xP0.5xown
dropout_linear  float32           T100xD512xC10xP0.5 T100xD512xC10xP0.5xshared
dropout_head    float32           T100xD512xC10xP0.5 T100xD512xC10xP0.25 T100xD512xC10xP0.3 T100xD512xC10xP0.5xshared
dropout_head    float32           T100xD2048xC10xP0.5 T100xD768xC1000xP0.5
top_k           float32           N50000000xK10000 N50000000xK10000xQ256 N50000000xK1000
"""
# In order of importance, as cases at the end are left out when time runs out.
_GPU = """
score_logits    bfloat16          T20xC1000 T20xC256
dropout_head    bfloat16          T20xB16384xD2048xC1000xshared
score_logits    bfloat16          T20xC10 T20xC100 T20xC10000 T20xC50000
score_logits    float32           T20xC1000 T20xC10
dropout         bfloat16          T20xE4096xP0.5 T20xE4096xP0.25 T20xE4096xP0.3 T20xE64xI576xP0.25
dropout_head    bfloat16          T20xD512xC10xP0.5 T20xD768xC100xP0.5 T20xB16384xD768xC1000xP0.5
dropout_linear  bfloat16          T20xD2048xC128xP0.5 T20xD2048xC128xP0.25xown
score_logits    float32           T20xC100 T20xC10000 T20xC50000
score_logits    bfloat16          T100xC10 T20xC4096 T20xC16384
dropout_head    float32           T20xD512xC10xP0.5 T20xD768xC100xP0.5 T20xB16384xD2048xC1000xshared
dropout         float32           T20xE4096xP0.5 T20xE4000xP0.25 T20xE512xI49xP0.25
dropout_linear  float32           T20xD2048xC128xP0.5
draw            bfloat16,float32  T20xR4096 T20xR4096xnormal
"""


def default_specs(device: str, kernels: Sequence[str] = (), dtypes: Sequence[str] = ()) -> list[Spec]:
    """List the default cases on "cpu" or "cuda", in order of importance.

    kernels selects kernels, dtypes replaces the dtypes of the table.
    """
    return [
        spec
        for kernel, its_dtypes, texts in _rows(_GPU if device == "cuda" else _CPU)
        if not kernels or kernel in kernels
        for text in texts
        for spec in specs(text, dtypes or its_dtypes, (kernel,))
    ]


def _rows(table: str) -> Iterator[tuple[str, list[str], list[str]]]:
    for line in table.strip().splitlines():
        kernel, dtypes, *texts = line.split()
        yield kernel, dtypes.split(","), texts
