"""Many files of a local place are read and removed several at a time, and come in their order."""

from __future__ import annotations

from pathlib import Path

import pytest

from mcscore.store.place.local import LocalPlace


@pytest.mark.parametrize("n", [3, 128, 129, 1000])
def test_files_come_in_the_order_of_their_names(tmp_path: Path, n: int) -> None:
    place = LocalPlace(tmp_path)
    names = [f"{i}.json" for i in range(n)]
    for i, name in enumerate(names):
        if i != 2:
            (tmp_path / name).write_bytes(b"%d" % i)
    found = list(place.read_each(names))
    assert isinstance(found.pop(2), FileNotFoundError)
    assert found == [b"%d" % i for i in range(n) if i != 2]
    (tmp_path / names[0]).unlink()
    (tmp_path / names[0]).mkdir()  # which cannot be removed as a file
    place.discard(names[: n - 1])
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted({names[0], names[-1]} - {names[2]})
