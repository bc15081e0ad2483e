"""What tuning gives: a baked module and its record, as objects and as files."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stepsmith.files import write_whole
from stepsmith.measure.choosing import Error
from stepsmith.runtime import TimeGrid, modules
from stepsmith.templates import attach


@dataclass(frozen=True, repr=False)
class Tuned:
    """A baked module and its record: what was tried, and the error of what was kept on both halves of the paths."""

    text: str
    record: Mapping[str, Any]

    def __repr__(self) -> str:
        learned = self.record.get("learned", {"kept": False})
        kept = f"learned from {learned['from']}" if learned["kept"] else self.record["kept"]
        return f"Tuned({self.name}: {kept})"

    @property
    def module(self) -> Any:
        return modules.from_text(self.text)

    @property
    def grid(self) -> TimeGrid:
        return TimeGrid.explicit(self.module.TIMES)

    @property
    def name(self) -> str:
        """<sde>_tuned_<nfe>, of the files."""
        return f"{self.record['sde']}_tuned_{self.record['nfe']}".replace("-", "_").lower()

    def write(self, folder: str | os.PathLike[str], dialect: str = "torch") -> Path:
        """The module, for a host where a ``dialect`` is given (docs/hosts.md), and its record, <name>.py and <name>.json; the
        path of the module."""
        folder, text = Path(folder), attach(self.text, dialect)
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / f"{self.name}.json", (json.dumps(self.record, indent=2) + "\n").encode())
        write_whole(folder / f"{self.name}.py", text.encode())
        return folder / f"{self.name}.py"


def summary(record: Mapping[str, Any], error: Error) -> list[str]:
    """What the docstring of a tuned module says of it."""
    return [
        f"Tuned to the network {record['network']['name']}: {len(record['candidates'])} candidates on seeds {record['seeds']}.",
        f"On paths that did not choose: error {error.pooled:.2g} pooled, {error.median:.2g} median; adams-3 with a",
        f"corrector on log-SNR has {record['baseline']['pooled']:.2g} and {record['baseline']['median']:.2g} there.",
    ]
