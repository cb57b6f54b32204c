"""Code of the user's cannot end the program, and leaves the working directory as it was."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mcscore.errors import ModelError
from mcscore.fence import user_code


@pytest.mark.parametrize(("code", "said"), [(0, "0"), (None, ""), (2, "2"), ("no data", "'no data'")])
def test_an_exit_is_an_error_that_names_the_code(code: object, said: str) -> None:
    with pytest.raises(ModelError) as caught, user_code("net.py"):
        raise SystemExit(code)
    assert str(caught.value).startswith(f"net.py ended the program: sys.exit({said}). ")


@pytest.mark.parametrize("kind", [KeyboardInterrupt, ValueError, GeneratorExit])
def test_everything_else_passes(kind: type[BaseException]) -> None:
    with pytest.raises(kind), user_code("net.py"):
        raise kind


@pytest.mark.parametrize("fails", [False, True])
def test_the_working_directory_is_put_back(tmp_path: Path, fails: bool) -> None:
    before = Path.cwd()
    try:
        with user_code("net.py"):
            os.chdir(tmp_path)
            if fails:
                raise OSError
    except OSError:
        assert fails
    assert Path.cwd() == before


def test_a_working_directory_that_is_gone_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with user_code("net.py"):
        pass
