"""Decoding processes: they end with their parent, import nothing of its script, and wait in bounded memory."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mcscore.errors import PoolError
from mcscore.ingest import pipeline
from mcscore.ingest.decoders import decoders
from mcscore.ingest.sources import Entry, Source
from mcscore.ingest.staging_log import StagingLog
from mcscore.ingest.worker import DecodedImage, ImageFormat
from mcscore.pool.pictures.pixel_format import PixelFormat

from .helpers import Here, bad_of, cli, color, folder, imported, tar_of

FORMAT = ImageFormat(PixelFormat((4, 4)), False)


def children_of(pid: int) -> list[int]:
    """The processes whose parent is ``pid``, and, after its end, those in their groups."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                fields = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[1]) == pid and fields[0] != "Z":
                found.append(int(entry))
    return found


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not os.path.isdir("/proc"), reason="processes are read from /proc")
@pytest.mark.parametrize(
    ("number", "busy"),
    [(signal.SIGKILL, False), (signal.SIGKILL, True), (signal.SIGTERM, False), (signal.SIGHUP, False)],
)
def test_no_decoding_process_outlives_its_parent(number: signal.Signals, busy: bool) -> None:
    """Killed while its processes import, and once they wait for work."""
    program = (
        "from mcscore.ingest.decoders import Decoders\nfrom mcscore.ingest.worker import ImageFormat\n"
        "from mcscore.ingest.sources import Entry\nimport time\n"
        "from mcscore.pool.pictures.pixel_format import PixelFormat\n"
        "made = Decoders(2, ImageFormat(PixelFormat((4, 4)), False))\n"
        f"{'[made.submit([]).result() for _ in range(4)]' if busy else ''}\nprint('ready', flush=True)\ntime.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    assert parent.stdout.readline() == b"ready\n"
    workers = children_of(parent.pid)
    assert len(workers) == 2
    parent.send_signal(number)
    parent.wait()
    parent.stdout.close()
    end = time.monotonic() + 5
    while any(map(runs, workers)) and time.monotonic() < end:
        time.sleep(0.01)
    assert not any(map(runs, workers))


def test_a_script_without_a_guard_imports_once(tmp_path: Path) -> None:
    folder(tmp_path / "src")
    script = tmp_path / "script.py"
    script.write_text(
        "from mcscore.ingest import import_images\n"
        f"print(import_images({str(tmp_path / 'src')!r}, {str(tmp_path / 'p')!r}, size=4, workers=2).n)\n"
    )
    where = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])}
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60, env=where, check=False)
    assert (done.stdout, done.returncode) == ("6\n", 0), done.stderr


def test_a_process_that_is_killed_is_an_error_that_names_its_entries() -> None:
    with decoders(1, FORMAT) as made:
        entries = [Entry((0, i), f"{i}.png", -1, color(i)) for i in range(3)]
        assert [image.rows[0, 0, 0, 0] for image in made.submit(entries).result() if image.rows is not None] == [
            0,
            1,
            2,
        ]
        made._started[0].kill()
        made._started[0].wait()
        for _ in range(2):  # and no call waits for ever
            with pytest.raises(PoolError, match=r"ended \(exit code -9\) at one of the entries '0.png' to '2.png'"):
                made.submit(entries).result()


def test_what_waits_is_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """300 entries of 6 MB: at no time are more submitted and not yet taken than AHEAD_BYTES allow."""
    size, waiting, most = 6 << 20, 0, 0

    class Counting(Here):
        def submit(self, entries: list[Entry]) -> Any:
            nonlocal waiting, most
            waiting += sum(entry.size for entry in entries)
            most = max(most, waiting)
            return super().submit(entries)

    monkeypatch.setattr("tests.ingest.helpers.decode_entry", lambda *_: DecodedImage(None, "no image"))

    def entries(_: object) -> Iterator[Entry]:
        for i in range(300):
            yield Entry((0, i), str(i), -1, b"", None, size)

    source = Source("tar", None, "", None, entries)
    ahead = pipeline._decode_ahead(
        source, FORMAT, StagingLog(tmp_path / "log"), Counting(FORMAT), set(), 64, lambda *_: None
    )  # type: ignore[arg-type]
    for count, (entry, _) in enumerate(ahead, 1):
        if count % 2 == 0:  # a block has two of them, and counts until its last is taken
            waiting -= 2 * entry.size
    assert pipeline.AHEAD_BYTES // 2 < most <= pipeline.AHEAD_BYTES


def test_members_of_a_plain_tar_are_not_read_by_the_parent(tmp_path: Path) -> None:
    from mcscore.ingest.sources import Part, open_source

    tar_of(tmp_path / "t.tar", {"a.png": color(1)})
    (entry,) = open_source(tmp_path / "t.tar").entries((0, 0))
    assert entry.data == Part(tmp_path / "t.tar", 512, len(color(1)))


def test_the_command_counts_in_text_and_json(tmp_path: Path, here: None) -> None:
    src = folder(tmp_path / "src")
    (src / "cat" / "bad.png").write_bytes(b"")
    (src / "cat" / "note.txt").write_bytes(b"")
    code, facts = cli(
        "pool", "import", src, tmp_path / "p", "--size", "4x8", "--source-labels", "--quiet", "--workers", 1
    )
    assert code == 0
    assert (facts["items"], facts["item_shape"], facts["classes"]) == (6, [3, 4, 8], ["cat", "dog"])
    assert {
        name: facts[name]
        for name in ("read", "stored", "refused", "refused_why", "passed_over", "converted", "bad_list")
    } == {
        "read": 7,
        "stored": 6,
        "refused": 1,
        "refused_why": {"the file is empty": 1},
        "passed_over": {"suffix .txt": 1},
        "converted": {"cut to the middle": 6},
        "bad_list": str(tmp_path / "p.bad.csv"),
    }
    (src / "cat" / "new.png").write_bytes(color(1))
    code, facts = cli("pool", "append", tmp_path / "p", src, "--source-labels", "--quiet", "--workers", 1)
    assert code == 0
    assert (facts["added"], facts["stored"], facts["refused"]) == (1, 1, 7)
    assert facts["refused_why"] == {"an earlier item has the same key": 6, "the file is empty": 1}


def test_litter_of_a_killed_call_is_gone_after_the_next(tmp_path: Path, here: None) -> None:
    src = folder(tmp_path / "src")
    (src / "bad.png").write_bytes(b"x")
    with pytest.raises(PoolError, match="max_bad=0"):
        imported(src, tmp_path / "p", max_bad=0)
    for where in ("p.bad.csv", ".p.import/log/00000000.json", ".p.import/pool/items/c.0.0.0.0"):
        (tmp_path / where).with_name(f"{Path(where).name}.12345678-1-0.tmp").write_bytes(b"half")
    pool, _ = imported(src, tmp_path / "p")
    assert pool.n == 6
    assert not list(tmp_path.rglob("*.tmp"))
    assert not list(tmp_path.glob(".p*"))
    assert list(bad_of(tmp_path / "p")) == ["bad.png"]
