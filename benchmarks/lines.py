"""Lines of the emitted modules, formatted by ``ruff format`` at 120 columns, and those of stepsmith 0.1 beside them.

    python benchmarks/lines.py [--json] [FOLDER]

counts the modules of FOLDER, or derives and emits the catalogue.  lines-0.1.txt was counted so, once, from the modules of 0.1.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

BEFORE = Path(__file__).with_name("lines-0.1.txt")
FORMAT = ["-m", "ruff", "format", "--isolated", "--quiet", "--line-length", "120"]


def formatted(texts: Mapping[str, str]) -> dict[str, str]:
    """The texts by name, as ruff formats them."""
    with tempfile.TemporaryDirectory() as folder:
        for name, text in texts.items():
            Path(folder, f"{name}.py").write_text(text, encoding="utf-8")
        subprocess.run([sys.executable, *FORMAT, folder], check=True)
        return {name: Path(folder, f"{name}.py").read_text(encoding="utf-8") for name in texts}


def catalogue() -> dict[str, str]:
    """The texts of every row, emitted now."""
    from stepsmith import certificate
    from stepsmith.cli.build import emit_all
    from stepsmith.derive.catalogue import rows

    modules = emit_all(rows(), None, certificate.written, as_json=True)
    return {module.name: module.text for module in modules}


def of_folder(folder: Path) -> dict[str, str]:
    """The texts of the modules in a folder."""
    return {path.stem: path.read_text(encoding="utf-8") for path in sorted(folder.glob("[!_]*.py"))}


def blocks(text: str) -> int:
    """How many blocks a module's diffusion has, its constant components left out."""
    counts = [
        len(re.findall(r'"\w+"', found))
        for found in re.findall(r"^(?:COMPONENTS|CONSTANTS) = (.*)$", text, re.MULTILINE)
    ]
    return counts[0] - sum(counts[1:])


def counted(texts: Mapping[str, str]) -> list[dict[str, Any]]:
    """A row a module: its name, its blocks, its lines now and those of 0.1 (None where it had none)."""
    before = {name: int(lines) for name, lines in map(str.split, BEFORE.read_text(encoding="utf-8").splitlines())}
    return [
        {"module": name, "blocks": blocks(text), "lines": len(text.splitlines()), "before": before.get(name)}
        for name, text in texts.items()
    ]


def summary(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The median and the range of the modules of one block and of those of several."""
    lines = []
    for words, several in (("one block", False), ("several blocks", True)):
        for key, when in (("lines", "now"), ("before", "0.1")):
            found = [row[key] for row in rows if (row["blocks"] > 1) == several and row[key] is not None]
            if found:
                middle = statistics.median(found)
                lines.append(
                    f"{words}, {when}: {len(found)} modules, median {middle:g}, {min(found)} to {max(found)} lines"
                )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, help="count these modules instead of the catalogue")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    given = parser.parse_args()
    texts = formatted(of_folder(given.folder) if given.folder else catalogue())
    rows = counted(texts)
    if given.json:
        print(json.dumps({"modules": rows}, indent=2))
        return
    print(f"{'module':40} blocks  lines   0.1")
    for row in rows:
        before = "-" if row["before"] is None else row["before"]
        print(f"{row['module']:40} {row['blocks']:6} {row['lines']:6} {before:>5}")
    wide = sum(len(line) > 120 for text in texts.values() for line in text.splitlines())
    print("\n".join([*summary(rows), f"{wide} lines are longer than 120 columns"]))


if __name__ == "__main__":
    main()
