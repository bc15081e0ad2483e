"""The user's cache folder.  It holds what can be fetched or derived again, so that to lose it costs time and nothing else.

A file is trusted for its sha256 alone, which its reader knows from elsewhere.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path

from stepsmith.files import write_whole


def cache_folder() -> Path:
    """STEPSMITH_CACHE, or else ``stepsmith`` in XDG_CACHE_HOME or in ~/.cache."""
    if own := os.environ.get("STEPSMITH_CACHE"):
        return Path(own)
    shared = Path(os.environ.get("XDG_CACHE_HOME") or "")
    return (shared if shared.is_absolute() else Path(os.path.expanduser("~"), ".cache")) / "stepsmith"


def read_cached(path: Path, sha256: str) -> bytes | None:
    """The bytes of a file with this sha256; None where there is no such file, or where it holds anything else."""
    try:
        blob = path.read_bytes() if path.is_file() else b""  # a pipe would be waited for
    except OSError:
        return None
    return blob if hashlib.sha256(blob).hexdigest() == sha256 else None


def write_cached(path: Path, blob: bytes) -> None:
    """Keep a file: never half written, and no error where the folder cannot be written, which costs the work next time."""
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, blob)
