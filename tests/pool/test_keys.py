"""Keys are checked, found and grown without a Python object for each."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pyarrow
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcscore.errors import PoolError
from mcscore.ingest import append_blocks
from mcscore.pool import Pool
from mcscore.pool.keys import KnownKeys, as_arrow, encoded_keys

from .helpers import images, listing, small_pool

NAMES = st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=6), max_size=12)


@settings(max_examples=10)
@given(parts=st.lists(NAMES.filter(bool), min_size=1, max_size=3), asked=NAMES)
def test_keys_are_found_as_a_dictionary_finds_them(
    tmp_path_factory: pytest.TempPathFactory, parts: list[list[str]], asked: list[str]
) -> None:
    path = tmp_path_factory.mktemp("p") / "p"
    used: set[str] = set()
    keys: list[str] = []
    for at, part in enumerate(parts):
        # What is appended has keys of its own; within a pool that is made at once they may repeat.
        fresh = part if at == 0 else list(dict.fromkeys(key for key in part if key not in used))
        items = np.zeros((len(fresh), 2), np.uint8)
        pool = Pool.create(path, items, keys=fresh) if at == 0 else append_blocks(path, items, keys=fresh)
        keys += fresh
        used.update(fresh)
    asked = [*asked, *keys[::2]]
    want = [-1 if not key or key not in keys else -2 if keys.count(key) > 1 else keys.index(key) for key in asked]
    assert pool.find_keys(asked).tolist() == want
    assert pool.find_keys(pyarrow.array(asked, pyarrow.string())).tolist() == want
    assert pool.find_keys(np.array(asked)).tolist() == want
    known = KnownKeys(pool.storage.keys)
    assert [key in known for key in asked] == [key != "" and key in used for key in asked]
    assert pool.keys is not None
    assert pool.keys.tolist() == keys


def test_rows_of_padded_keys_become_arrow_and_inner_zeros_stay() -> None:
    rows = np.array([[97, 0, 98, 0], [0, 0, 0, 0], [1, 2, 3, 4]], np.uint8)
    assert as_arrow(rows).to_pylist() == [b"a\0b", b"", b"\1\2\3\4"]
    assert as_arrow(rows[:0]).to_pylist() == []


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        (["a\0b"], "key 0 cannot be stored, it contains a zero byte"),
        (["a", "b" * 5000], "key 1 cannot be stored, it has 5,000 bytes, a key has at most 4,096"),
        (["caf\udce9"], "key 0 cannot be stored, it is not valid UTF-8"),
    ],
)
def test_what_cannot_be_a_key_is_said_before_items_are_read(tmp_path: Path, keys: list[str], says: str) -> None:
    def never() -> object:
        raise AssertionError("read")
        yield

    with pytest.raises(PoolError, match=says):
        Pool.create(tmp_path / "p", never(), keys=keys)
    with pytest.raises(PoolError, match=r"label 1099511627776 at position 0 is outside"):
        Pool.create(tmp_path / "p", never(), labels=[2**40])
    assert listing(tmp_path) == []


def test_keys_that_still_fit_go_into_the_array_that_is_there(tmp_path: Path) -> None:
    pool = small_pool(tmp_path / "p", n=3, keys=["longest", "b", "c"])
    append_blocks(tmp_path / "p", images(5)[3:5])
    pool = append_blocks(tmp_path / "p", images(7)[5:7], keys=["d", "e"])
    assert pool.storage.attributes.keys == (("keys", 0, 7),)
    assert pool.keys_of([6, 4, 0]) is not None
    assert pool.keys_of([6, 4, 0]).tolist() == ["e", "", "longest"]  # type: ignore[union-attr]
    assert encoded_keys([], None).shape == (0, 1)
    assert pool.find_keys(["caf\udce9", "d"]).tolist() == [-1, 5], "a name that is not UTF-8 is no key"
    assert pool.find_keys([]).tolist() == []


def test_memory_does_not_grow_with_the_keys(tmp_path: Path) -> None:
    """100,000 keys of 84 characters: 34 MB as an array of str, 13 MB more as objects; what is held is one part."""
    code = """
        import resource, sys
        import numpy as np
        from mcscore.ingest import append_blocks
        from mcscore.pool import Pool
        from mcscore.pool.keys import KnownKeys

        pool = Pool.open(sys.argv[1])
        pool.find_keys(["nobody"])
        append_blocks(sys.argv[1], np.zeros((1, 4), np.uint8), keys=["first"])
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        pool = append_blocks(sys.argv[2], np.zeros((2, 4), np.uint8), keys=["x", "y" * 90])
        names = [f"{i:084d}" for i in range(0, 100_000, 1000)]
        assert pool.find_keys(names).tolist() == list(range(0, 100_000, 1000))
        assert pool.has_keys and pool.keys_of([99_999, 100_000]).tolist() == [f"{99_999:084d}", "x"]
        known = KnownKeys(pool.storage.keys)
        assert names[3] in known and "z" not in known
        print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
    """
    Pool.create(tmp_path / "small", np.zeros((3, 4), np.uint8), keys=["a", "b", "c"])
    Pool.create(tmp_path / "p", np.zeros((100_000, 4), np.uint8), keys=[f"{i:084d}" for i in range(100_000)])
    command = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path / "small"), str(tmp_path / "p")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 90, "MB"
