"""The folder of emitted modules: compared byte for byte, orphans included, and written whole or not at all."""

from __future__ import annotations

import difflib
import os
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from stepsmith.errors import InputError

KEPT = ("__init__.py",)


@dataclass(frozen=True)
class Difference:
    """A module whose file is missing, differs, or is an orphan: emitted by nothing."""

    name: str
    diff: str
    orphan: bool = False


def folder(out: Path | None) -> Path:
    """Where modules go: ``out``, else ./generated of a checkout; never the installed package."""
    place = out if out is not None else Path("generated")
    if out is None and not (Path("pyproject.toml").is_file() and place.is_dir()):
        raise InputError("-", "out", "this folder is no checkout of stepsmith", "name a folder with --out")
    nearest = next(p for p in (place, *place.resolve().parents) if p.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise InputError(str(place), "out", "the folder cannot be written", "choose another with --out")
    return place


def compare(place: Path, texts: Mapping[str, str], orphans: bool) -> list[Difference]:
    """What writing ``texts`` would change; with ``orphans`` also the files that no text stands for."""
    found = []
    for name, text in texts.items():
        path = place / f"{name}.py"
        old = path.read_text(encoding="utf-8") if path.is_file() else ""
        if old != text:
            lines = difflib.unified_diff(
                old.splitlines(True), text.splitlines(True), f"{path} (file)", f"{path} (derived)"
            )
            found.append(Difference(name, "".join(lines)))
    if orphans and place.is_dir():
        for path in sorted(place.iterdir()):
            if path.is_file() and path.name not in KEPT and path.stem not in texts:
                found.append(Difference(path.name, f"{path}: an orphan, no row of the catalogue emits it", orphan=True))
    return found


def write(place: Path, texts: Mapping[str, str], remove: Iterable[str] = ()) -> None:
    """Each module by way of a temporary file beside it, so that none is ever half written."""
    place.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        handle, temporary = tempfile.mkstemp(dir=place, suffix=".tmp")
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(temporary, 0o644)
        os.replace(temporary, place / f"{name}.py")
    for name in remove:
        (place / name).unlink()
