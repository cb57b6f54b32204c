"""The filter of the top-k: every instruction set and the NumPy way give the same keys, and stop at the same item."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcscore.kernels import native, topk

ISAS = native.available_isas() if native.available()[0] else []
SPECIAL = [0.0, -0.0, np.inf, -np.inf, np.nan, 1e-45, -1e-45, 0.5, 1.0, -1.0]


@given(
    scores=st.lists(st.one_of(st.sampled_from(SPECIAL), st.floats(width=32)), max_size=300),
    first=st.integers(0, 1000),
    cut_at=st.integers(-1, 300),
    room=st.integers(0, 40),
    ranged=st.booleans(),
    shuffled=st.booleans(),
    flagged=st.booleans(),
)
@settings(max_examples=200)
def test_native_and_numpy_take_the_same(scores, first, cut_at, room, ranged, shuffled, flagged) -> None:
    x = np.array(scores, np.float32)
    ids: np.ndarray | range = range(first, first + len(x)) if ranged else np.arange(first, first + len(x))
    if shuffled and isinstance(ids, np.ndarray):
        ids = np.random.default_rng(0).permutation(ids)
    exclude = np.arange(len(x)) % 3 == 0 if flagged else None
    at = [i for i in range(len(x)) if not np.isnan(x[i])]
    cut = (
        int(topk.keys_of(np.array([list(ids)[at[cut_at % len(at)]]]), x[[at[cut_at % len(at)]]])[0])
        if at and cut_at >= 0
        else 0
    )
    expected = np.zeros(room, np.uint64)
    want = topk._filter_above_numpy(ids, x, exclude, cut, expected)
    for isa in ISAS:
        with native.use_isa(isa):
            keys = np.zeros(room, np.uint64)
            assert topk.filter_above(ids, x, exclude, cut, keys) == want
            assert (keys == expected).all()


@pytest.mark.parametrize("n", [0, 1, 31, 32, 33, 127, 1000])
def test_a_full_buffer_loses_nothing(n: int) -> None:
    x = np.random.default_rng(n).normal(size=n).astype(np.float32)
    keys, at = [], 0
    while at < n:
        room = np.empty(7, np.uint64)
        found, taken = topk.filter_above(range(at, n), x[at:], None, 0, room)
        keys.append(room[:found].copy())
        at += taken
    assert np.array_equal(np.concatenate([np.empty(0, np.uint64), *keys]), topk.keys_of(np.arange(n), x))


def test_an_id_beyond_32_bits_is_named() -> None:
    for keep in (topk.filter_above, topk._filter_above_numpy):
        with pytest.raises(ValueError, match=r"ids must lie in \[0, 2\*\*32\): found 4294967296"):
            keep(np.array([1, 2**32]), np.ones(2, np.float32), None, 0, np.empty(5, np.uint64))
        with pytest.raises(ValueError, match="found -1"):
            keep(np.array([1, -1]), np.ones(2, np.float32), None, 0, np.empty(5, np.uint64))


def _isa_of_process(wanted: str) -> subprocess.CompletedProcess[str]:
    code = "from mcscore.kernels import native; print(native.isa())"
    environment = {**os.environ, "MCSCORE_ISA": wanted}
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)


@pytest.mark.parametrize("isa", ISAS)
def test_an_environment_variable_forces_the_instruction_set(isa: str) -> None:
    assert _isa_of_process(isa).stdout.strip() == isa


@pytest.mark.skipif(not ISAS, reason="the native extension is not built")
def test_an_instruction_set_that_is_not_there_is_an_error_that_names_the_choices() -> None:
    done = _isa_of_process("avx1024")
    assert done.returncode != 0
    assert "MCSCORE_ISA='avx1024'" in done.stderr
    assert ", ".join(ISAS) in done.stderr
