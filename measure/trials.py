"""What a long run found so far, a line of JSON each: a run that is stopped goes on from there."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, eq=False)
class Trials:
    """Values by name, those of one ``setting`` in a file that other settings may share; without a path they are not kept."""

    setting: str
    path: Path | None = None
    known: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, setting: str, path: str | os.PathLike[str] | None) -> Trials:
        """With what the file has of the setting; a last line that was cut short is left out."""
        found = cls(setting, None if path is None else Path(path))
        if found.path is not None and found.path.is_file():
            for line in found.path.read_text(encoding="utf-8", errors="replace").splitlines():
                found._read(line)
        return found

    def _read(self, line: str) -> None:
        try:
            entry = json.loads(line)
            if entry["setting"] == self.setting:
                self.known[str(entry["name"])] = entry["value"]
        except (ValueError, KeyError, TypeError, RecursionError):
            return

    def add(self, name: str, value: Any) -> Any:
        """Keep a value, at once."""
        self.known[name] = value
        if self.path is not None:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"setting": self.setting, "name": name, "value": value}) + "\n")
        return value
