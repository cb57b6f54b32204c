"""What /proc/self/mountinfo says of a path, and which locks it lets us trust."""

from __future__ import annotations

from pathlib import Path

import pytest

from mcscore.store import mount
from mcscore.store.mount import Mount, locks_reach_other_machines, mount_of

TABLE = r"""
22 27 0:21 / /proc rw,relatime - proc proc rw
27 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard
30 27 0:50 / /scratch rw,nosuid shared:5 - lustre 10.0.0.1@tcp:/fs rw,flock,lazystatfs
31 27 0:51 / /scratch/local rw - lustre 10.0.0.1@tcp:/fs rw,localflock
32 27 0:52 / /home rw,relatime - nfs4 server:/home rw,vers=4.2,local_lock=none,addr=10.0.0.2
33 27 0:53 / /old rw - nfs server:/old rw,vers=3,nolock,local_lock=all
34 27 0:54 / /my\040bucket rw - fuse.gcsfuse bucket rw,user_id=0
35 27 0:55 / /over rw - ext4 /dev/vdb rw
36 35 0:56 / /over rw - fuse.sshfs host: rw
"""


@pytest.fixture(autouse=True)
def _table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mountinfo").write_text(TABLE.strip() + "\n")
    monkeypatch.setattr(mount, "_MOUNTS", tmp_path / "mountinfo")


@pytest.mark.parametrize(
    ("path", "type", "local", "agree", "why"),
    [
        ("/data/run", "ext4", True, False, ""),
        ("/scratches/run", "ext4", True, False, ""),
        ("/scratch/run", "lustre", False, True, ""),
        ("/scratch/local/run", "lustre", False, False, "it is mounted with localflock"),
        ("/home/me/run", "nfs4", False, True, ""),
        ("/old", "nfs", False, False, "it is mounted with local_lock=all, nolock"),
        ("/my bucket/run", "fuse.gcsfuse", False, False, "fuse.gcsfuse may keep locks to each machine"),
        ("/over/run", "fuse.sshfs", False, False, "fuse.sshfs may keep locks to each machine"),
    ],
)
def test_a_path_is_on_the_last_and_deepest_that_is_mounted(
    path: str, type: str, local: bool, agree: bool, why: str
) -> None:
    found = mount_of(Path(path))
    assert (found.type, found.local, found.why_locks_stay) == (type, local, why)
    assert locks_reach_other_machines(Path(path)) is agree
    assert found.bucket is (type == "fuse.gcsfuse")


def test_a_lustre_without_a_word_on_locks_has_none() -> None:
    assert Mount("lustre", frozenset({"rw"})).why_locks_stay == "it is mounted without flock"


def test_where_the_system_says_nothing_nothing_is_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mount, "_MOUNTS", tmp_path / "missing")
    assert mount_of(tmp_path) == Mount("", frozenset())
    assert mount_of(tmp_path).why_locks_stay == "its file system may keep locks to each machine"
    assert not locks_reach_other_machines(tmp_path)
