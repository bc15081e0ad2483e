"""Networks by name: the one in the package, the one that is fetched, and checkpoints of the user's own."""

from __future__ import annotations

import os
from typing import Any

import torch

from stepsmith.errors import InputError
from stepsmith.runtime.networks import digits, galaxies
from stepsmith.runtime.networks.base import Network

SHIPPED = {"digits": digits.load, "galaxies": galaxies.load}


def load(name_or_path: str | os.PathLike[str], device: Any = None, dtype: torch.dtype | None = None) -> Network:
    """``digits`` (in the package), ``galaxies`` (fetched on first use) or a ``.safetensors`` file in the format of the digits.

    ``dtype`` is what the weights run in, float32 unless given; the state keeps its own.  InputError (key ``network``) for any
    other name, and for weights that cannot be read.
    """
    name, run = os.fspath(name_or_path), dtype or torch.float32
    if name in SHIPPED:
        return SHIPPED[name](device, run)
    if not name.endswith(".safetensors"):
        fix = f"name one of {', '.join(SHIPPED)}, or a .safetensors file"
        raise InputError("-", "network", f"unknown network {name!r}", fix)
    return digits.load(device, run, path=name, name=name)
