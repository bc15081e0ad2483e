"""A user's own code, executed because the user named it."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from pathlib import Path
from typing import Any


def module_of(place: str) -> Any:
    """The module of a dotted name, those of the folder at hand included, or of a file that ends in ``.py``."""
    sys.path.insert(0, os.getcwd())
    try:
        return _of_file(Path(place)) if place.endswith(".py") else importlib.import_module(place)
    finally:
        sys.path.remove(os.getcwd())


def _of_file(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module
