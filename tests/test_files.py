"""Files are whole or not there; what a killed writer leaves is swept, and what another one is writing stays."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from stepsmith import files
from stepsmith.runtime import cache
from stepsmith.templates import files as modules

KILLED = """
import os, signal, sys
from pathlib import Path
from stepsmith import files
os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
files.write_whole(Path(sys.argv[1]), b"new")
"""


def left(folder: Path) -> list[Path]:
    return sorted(folder.glob(files.LEFT))


def age(path: Path, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(path, (then, then))


def test_a_killed_writer_leaves_the_old_file_and_a_later_one_sweeps_what_it_left(tmp_path: Path) -> None:
    target = tmp_path / "samples.npz"
    files.write_whole(target, b"old")
    ended = subprocess.run([sys.executable, "-c", KILLED, str(target)], check=False)
    assert ended.returncode == -signal.SIGKILL and target.read_bytes() == b"old"
    (remains,) = left(tmp_path)
    files.write_whole(target, b"newer")
    assert left(tmp_path) == [remains]  # it may still be being written
    age(remains, files.STALE + 60)
    files.write_whole(target, b"newest")
    assert not left(tmp_path) and target.read_bytes() == b"newest"


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files.write_whole(tmp_path / "a", b"old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        files.write_whole(tmp_path / "a", b"new")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a", b"old")]


def test_every_writer_sweeps_and_a_build_takes_no_file_that_another_one_writes_for_an_orphan(tmp_path: Path) -> None:
    for write in (
        lambda: cache.write_cached(tmp_path / "m.py", b"x"),
        lambda: modules.write(tmp_path, {"m.py": "x"}),
    ):
        for name in (".stepsmith-old.tmp", ".stepsmith-new.tmp"):
            (tmp_path / name).write_text(f'DIGEST = "{"0" * 64}"\n')
        age(tmp_path / ".stepsmith-old.tmp", files.STALE + 60)
        write()
        assert [path.name for path in left(tmp_path)] == [".stepsmith-new.tmp"]
        assert modules.compare(tmp_path, {"m.py": "x"}, orphans=True) == []


def test_a_written_file_can_be_read_as_the_umask_says(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        files.write_whole(tmp_path / "a", b"x")
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640
