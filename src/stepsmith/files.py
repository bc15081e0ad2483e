"""Files that are whole or not there: written beside their place under a temporary name, flushed and renamed."""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from pathlib import Path

LEFT = ".stepsmith-*.tmp"  # what a writer that was killed leaves behind
STALE = 3600.0  # seconds after which nobody is still writing it


def write_whole(target: Path, data: bytes) -> None:
    """Put ``data`` at ``target`` in one move; whatever fails, the old file stays.  Sweeps what killed writers left there."""
    sweep(target.parent)
    handle, name = tempfile.mkstemp(prefix=".stepsmith-", suffix=".tmp", dir=target.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(name, 0o666 & ~mask)  # mkstemp makes it private
        os.replace(name, target)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(name)
        if isinstance(error, OSError) and error.errno and error.filename is None:  # a full disk does not say where
            error.filename = str(target)
        raise


def sweep(folder: Path) -> None:
    """Remove the temporary files in a folder that nobody has written to for an hour."""
    for path in folder.glob(LEFT):
        with contextlib.suppress(OSError):  # another run sweeps too
            if time.time() - path.stat().st_mtime > STALE:
                path.unlink()
