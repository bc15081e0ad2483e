"""``generated/digests.txt``: what each row of the catalogue derives to, whether its text is kept beside it or not."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import NamedTuple

FILE = "digests.txt"


class Line(NamedTuple):
    """A row of the catalogue: its name, the digest of its program and the sha256 of its text."""

    name: str
    program: str
    text: str

    @classmethod
    def of(cls, name: str, program: str, text: str) -> Line:
        """The line of a module with this text."""
        return cls(name, program, hashlib.sha256(text.encode()).hexdigest())


def written(lines: Iterable[Line]) -> str:
    """The file: a line a row, three words a line."""
    return "".join(f"{' '.join(line)}\n" for line in lines)


def read(text: str) -> dict[str, Line]:
    """The lines of a file by name."""
    return {words[0]: Line(*words) for words in map(str.split, text.splitlines())}
