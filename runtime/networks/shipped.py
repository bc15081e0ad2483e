"""Networks by name: those in the package, the one that is fetched, checkpoints and callables of the user's own."""

from __future__ import annotations

import os
import re
from functools import partial
from pathlib import Path
from typing import Any

import torch

from stepsmith.errors import InputError
from stepsmith.runtime.networks import galaxies, onnx_model, unet
from stepsmith.runtime.networks.base import Network
from stepsmith.runtime.usercode import module_of

WEIGHTS = Path(__file__).parent / "weights"
IN_PACKAGE = ("fashion", "fashion-psld-eps-l", "digits")
SHIPPED: dict[str, Any] = {name: partial(unet.load, WEIGHTS / f"{name}.safetensors", name=name) for name in IN_PACKAGE}
SHIPPED["galaxies"] = galaxies.load


def load(name_or_path: str | os.PathLike[str], device: Any = None, dtype: torch.dtype | None = None) -> Network:
    """``fashion``, ``fashion-psld-eps-l``, ``digits`` (in the package), ``galaxies`` (fetched on first use), a ``.safetensors``
    file of ``examples/train.py``, an ``.onnx`` file of a denoiser (:func:`onnx`), or ``module:name`` (or ``file.py:name``), a
    Network of your own or a function without arguments that makes one; its code is executed.

    ``dtype`` is what the weights of all but the last run in, float32 unless given; the state keeps its own.  InputError (key
    ``network``) for any other name, and for weights that cannot be read.
    """
    name, run = os.fspath(name_or_path), dtype or torch.float32
    if name in SHIPPED:
        return SHIPPED[name](device, run)
    if re.fullmatch(r"[\w.]+:\w+|.+\.py:\w+", name):
        return _imported(name)
    if name.endswith(".onnx"):
        return onnx_model.onnx(name)
    if not name.endswith(".safetensors"):
        fix = f"name one of {', '.join(SHIPPED)}, a .safetensors or .onnx file, or module:name of a Network of yours"
        raise InputError("-", "network", f"unknown network {name!r}", fix)
    return unet.load(name, device, run)


def _imported(name: str) -> Network:
    """The Network that ``module:name`` is or makes; modules of the folder at hand are found too."""
    place, _, attribute = name.rpartition(":")
    try:
        found = getattr(module_of(place), attribute)
        made = found if isinstance(found, Network | torch.nn.Module) else found()
    except Exception as error:  # a user's module raises what it likes
        what = f"{name} does not give a network ({type(error).__name__}: {error})"
        raise InputError("-", "network", what, "name a Network, or a function that makes one") from error
    if not isinstance(made, Network):
        what = f"{name} is not a Network but {type(made).__name__}, and does not say what it predicts"
        raise InputError("-", "network", what, "make a Network of it, as by networks.denoiser(net, shape=(1, 28, 28))")
    return made
