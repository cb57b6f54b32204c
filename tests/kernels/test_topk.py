"""The filter of the top-k: every instruction set and the NumPy way take the same items, and stop at the same one."""

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
    first=st.sampled_from([0, 1000, 2**32 - 100, 2**33 - 7, 2**63 - 300]),
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
    where = at[cut_at % len(at)] if at and cut_at >= 0 else None
    cut = topk.NO_CUT if where is None else (float(x[where]), int(ids[where]))
    expected = np.zeros(room, np.int64), np.zeros(room, np.float32)
    want = topk._filter_above_numpy(ids, x, exclude, cut, *expected)
    better = [
        (int(ids[i]), float(x[i]))
        for i in at
        if (-x[i], int(ids[i])) < (-cut[0], cut[1]) and (exclude is None or not exclude[i])
    ]
    assert list(zip(expected[0][: want[0]].tolist(), expected[1][: want[0]].tolist(), strict=True)) == better[:room]
    assert not np.signbit(expected[1][expected[1] == 0]).any()
    for isa in ISAS:
        with native.use_isa(isa):
            found = np.zeros(room, np.int64), np.zeros(room, np.float32)
            assert topk.filter_above(ids, x, exclude, cut, *found) == want
            assert (found[0] == expected[0]).all()
            assert found[1].tobytes() == expected[1].tobytes()


@pytest.mark.parametrize("n", [0, 1, 31, 32, 33, 127, 1000])
def test_a_full_buffer_loses_nothing(n: int) -> None:
    x = np.random.default_rng(n).normal(size=n).astype(np.float32)
    first, at, found_ids, found_scores = 2**32 - 50, 0, [], []
    while at < n:
        ids, scores = np.empty(7, np.int64), np.empty(7, np.float32)
        found, taken = topk.filter_above(range(first + at, first + n), x[at:], None, topk.NO_CUT, ids, scores)
        found_ids += ids[:found].tolist()
        found_scores += scores[:found].tolist()
        at += taken
    assert found_ids == list(range(first, first + n))
    assert found_scores == x.tolist()


@pytest.mark.parametrize("n", [2, 100])
def test_a_negative_id_is_named(n: int) -> None:
    room = np.empty(n, np.int64), np.empty(n, np.float32)
    for keep in (topk.filter_above, topk._filter_above_numpy):
        with pytest.raises(ValueError, match=r"ids must lie in \[0, 2\*\*63\): found -1"):
            keep(np.append(np.arange(n - 1), -1), np.ones(n, np.float32), None, topk.NO_CUT, *room)


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
