"""What file system a path is on, and whether the locks of one machine hold on others that have it mounted, too."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

_MOUNTS = Path("/proc/self/mountinfo")  # Linux; elsewhere nothing is known
_LUSTRE, _NFS = "lustre", ("nfs", "nfs4")
# The locks of these are kept by their servers, or in agreement with all machines that have them mounted.
_AGREEING = {"ceph", "fuse.ceph", "fuse.glusterfs", "gfs2", "gpfs", "ocfs2"}
# Buckets: neither links nor locks nor, mostly, a rename that is one step.
_BUCKETS = {
    "fuse.gcsfuse", "fuse.s3fs", "fuse.goofys", "fuse.mountpoint-s3", "fuse.rclone", "fuse.blobfuse", "fuse.blobfuse2",
    "fuse.geesefs", "fuse.ossfs",
}  # fmt: skip
_LOCAL = {
    "ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "bcachefs", "tmpfs", "ramfs", "overlay", "apfs", "hfs", "reiserfs", "jfs",
    "vfat", "exfat", "ntfs", "ntfs3", "fuseblk", "squashfs",
}  # fmt: skip


@dataclass(frozen=True)
class Mount:
    """A file system as it is mounted.

    Attributes:
        type: its name, such as ext4, nfs4, lustre, fuse.sshfs; empty where the system does not say.
        options: of the file system and of the mount.
    """

    type: str
    options: frozenset[str]

    @property
    def local(self) -> bool:
        """Whether it is a disk or memory of this machine."""
        return self.type in _LOCAL

    @property
    def bucket(self) -> bool:
        """Whether it is an object store that pretends to be a file system."""
        return self.type in _BUCKETS

    @property
    def why_locks_stay(self) -> str:
        """Why a lock that one machine holds may be unknown to another; empty if it is known, or the file system is local."""
        if self.type in _NFS:
            told = sorted(self.options & {"local_lock=all", "local_lock=flock", "nolock"})
            return f"it is mounted with {', '.join(told)}" if told else ""
        if self.type == _LUSTRE:
            told = sorted(self.options & {"flock", "localflock", "noflock"})
            return "" if "flock" in told else f"it is mounted with {told[0]}" if told else "it is mounted without flock"
        if self.local or self.type in _AGREEING:
            return ""
        return f"{self.type or 'its file system'} may keep locks to each machine"


def mount_of(path: Path) -> Mount:
    """The file system that a path is on."""
    real = os.path.realpath(path)
    try:
        lines = _MOUNTS.read_text(errors="surrogateescape").splitlines()
    except OSError:
        return Mount("", frozenset())
    found, depth = Mount("", frozenset()), 0
    for line in lines:
        # 36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue
        before, _, after = line.partition(" - ")
        fields, (kind, _, more) = before.split(" "), after.split(" ", 2)
        where = _unescaped(fields[4])
        # Of two mounted at the same place the later one hides the other.
        if len(where) >= depth and (where == "/" or real == where or real.startswith(where + "/")):
            found, depth = Mount(kind, frozenset((*fields[5].split(","), *more.split(",")))), len(where)
    return found


def locks_reach_other_machines(path: Path) -> bool:
    """Whether a lock (flock) on a file that another machine holds is certain to be seen here."""
    mount = mount_of(path)
    return not mount.local and not mount.why_locks_stay


def _unescaped(text: str) -> str:
    """A field of mountinfo, where a space is written as backslash 040."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), text)
