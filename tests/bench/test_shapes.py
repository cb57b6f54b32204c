"""Shapes are read as documented, refused with the reason, and the default tables hold the cases that matter."""

from __future__ import annotations

import pytest
import torch

from mcscore.bench.cases import KERNELS
from mcscore.bench.shapes import FORMS, ShapeError, default_specs, parse, specs


@pytest.mark.parametrize("text", ["T20xB512xC1000", "T3xE7xI2xP0.25", "T2xD8xC3xP0.3xshared", "N50000000xK3xQ2"])
def test_a_shape_reads_as_it_is_written(text: str) -> None:
    assert str(parse(text)) == text


def test_a_shape_is_measured_for_every_kernel_that_takes_it() -> None:
    assert [spec.kernel for spec in specs("T20xC10")] == ["score_logits", "moments"]
    assert [spec.kernel for spec in specs("T20xD64xC10xshared")] == ["dropout_linear", "dropout_head"]
    assert [spec.kernel for spec in specs("T20xD64xC10xown")] == ["dropout_linear"]
    assert [spec.kernel for spec in specs("T20xB3xC10", only=("moments",))] == ["moments"]
    assert [spec.dtype for spec in specs("T20xE10", ("float32", "bfloat16"))] == ["float32", "bfloat16"]
    assert [spec.dtype for spec in specs("N9xK2", ("bfloat16",))] == ["float32"]
    assert specs("T20xE10")[0].shape.numbers["P"] == 0.5


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "'' is neither a letter"),
        ("T20xC", "'C' is neither a letter with a number"),
        ("20xC3", "'20' is neither a letter"),
        ("T20xcold", "'cold' is neither a letter with a number nor errors or normal or own or shared"),
        ("T20xC3xC4", "'C4' comes twice"),
        ("T2xD3xC4xsharedxshared", "'shared' comes twice"),
        ("T2.5xC3", "T must be a whole number"),
        ("T0xC3", "T must be a whole number of at least 1"),
        ("T20xC1", "C must be a whole number of at least 2"),
        ("T20xE3xP1", "P must lie strictly between 0 and 1"),
        ("T20xD3", "fits no kernel; kernels take score_logits TxC[xB]"),
        ("T20xC3xshared", "fits no kernel"),
    ],
)
def test_what_is_no_shape_is_refused_with_the_part_that_is_wrong(text: str, says: str) -> None:
    with pytest.raises(ShapeError, match=says.replace("[", r"\[")):
        specs(text)


def test_every_form_has_a_builder_and_default_cases() -> None:
    assert list(FORMS) == list(KERNELS)
    assert {spec.kernel for spec in default_specs("cpu")} == set(FORMS)
    assert {spec.kernel for spec in default_specs("cuda")} == {
        "score_logits",
        "dropout",
        "draw",
        "dropout_linear",
        "dropout_head",
    }


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_default_cases_are_distinct_and_can_be_asked_for_by_what_is_printed(device: str) -> None:
    found = default_specs(device)
    assert len({str(spec) for spec in found}) == len(found)
    for spec in found:
        assert spec in specs(str(spec.shape), (spec.dtype,), (spec.kernel,))
        assert isinstance(getattr(torch, spec.dtype), torch.dtype)


def test_default_cases_can_be_narrowed() -> None:
    found = default_specs("cpu", ("score_logits",), ("float16",))
    assert {(spec.kernel, spec.dtype) for spec in found} == {("score_logits", "float16")}
    assert {spec.shape["C"] for spec in found} >= {10, 100, 1000, 20_000}
