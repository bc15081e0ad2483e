"""A folder of emitted files: compared byte for byte, orphans included, and written completely or not at all."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from stepsmith.errors import InputError
from stepsmith.files import LEFT, write_whole

OURS = "stepsmith.generated"  # stands in our __init__.py
EMITTED = re.compile(r'^DIGEST = "[0-9a-f]{64}"$', re.MULTILINE)  # a line of every emitted module


@dataclass(frozen=True)
class Difference:
    """A file that is missing, differs, or is an orphan: nothing emits it."""

    file: str
    diff: str
    orphan: bool = False

    @property
    def name(self) -> str:
        """The module's name, or the name of a file that is no module."""
        return self.file.removesuffix(".py")


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
    """What writing ``texts``, by file name, would change; with ``orphans`` also the files that no text stands for.

    In a folder that is not our package only an emitted module is an orphan: the rest is the user's.
    """
    found = []
    for file, text in texts.items():
        path = place / file
        old = _text(path)
        if old != text:
            lines = difflib.unified_diff(
                old.splitlines(True), text.splitlines(True), f"{path} (file)", f"{path} (derived)"
            )
            found.append(Difference(file, "".join(lines)))
    return found + (_orphans(place, texts) if orphans and place.is_dir() else [])


def _orphans(place: Path, texts: Mapping[str, str]) -> list[Difference]:
    ours = OURS in _text(place / "__init__.py")
    others = [path for path in sorted(place.iterdir()) if path.is_file() and path.name not in {*texts, "__init__.py"}]
    others = [path for path in others if not path.match(LEFT)]  # another run may be writing it
    return [
        Difference(path.name, f"{path}: an orphan, nothing of the catalogue is kept there", orphan=True)
        for path in others
        if ours or EMITTED.search(_text(path))
    ]


def _text(path: Path) -> str:
    return path.read_bytes().decode("utf-8", "replace") if path.is_file() else ""


def write(place: Path, texts: Mapping[str, str], remove: Iterable[str] = ()) -> None:
    """Each file whole or not at all (stepsmith.files)."""
    place.mkdir(parents=True, exist_ok=True)
    for file, text in texts.items():
        write_whole(place / file, text.encode("utf-8"))
    for file in remove:
        (place / file).unlink()
