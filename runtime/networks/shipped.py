"""Networks by name: those in the package, the one that is fetched, checkpoints and callables of the user's own."""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from stepsmith.errors import InputError
from stepsmith.runtime.networks import galaxies, onnx_model, unet
from stepsmith.runtime.networks.adapters import channels, denoiser
from stepsmith.runtime.networks.base import Network
from stepsmith.runtime.usercode import module_of

WEIGHTS = Path(__file__).parent / "weights"
IN_PACKAGE = ("fashion", "fashion-psld-eps-l", "digits")
SHIPPED: dict[str, Any] = {name: partial(unet.load, WEIGHTS / f"{name}.safetensors", name=name) for name in IN_PACKAGE}
SHIPPED["galaxies"] = galaxies.load


def load(
    name_or_path: str | os.PathLike[str],
    device: Any = None,
    dtype: torch.dtype | None = None,
    *,
    kind: str | None = None,
    shape: Sequence[int] | None = None,
    components: int = 1,
    outputs: int | None = None,
) -> Network:
    """``fashion``, ``fashion-psld-eps-l``, ``digits`` (in the package), ``galaxies`` (fetched on first use), a ``.safetensors``
    file of ``examples/train.py``, an ``.onnx`` file (:func:`onnx`), or ``module:name`` (or ``file.py:name``), a Network of your
    own or a function without arguments that makes one; its code is executed.

    With a ``kind`` (what it predicts: ``denoiser``, ``eps-L``, ...), ``module:name`` may also be a module of torch or a function:
    ``fn(y, sigma)`` for a denoiser, else ``fn(z, t)`` as in :func:`channels`, of the ``components`` of the diffusion side by side
    and its time, with ``outputs``.  ``shape`` is that of one component of a sample.  A Network of another kind is refused.

    ``dtype`` is what the weights of all but the last two run in, float32 unless given; the state keeps its own.  InputError (key
    ``network``) for any other name, and for weights that cannot be read.
    """
    name, run = os.fspath(name_or_path), dtype or torch.float32
    size = None if shape is None else tuple(shape)
    if name in SHIPPED:
        found = SHIPPED[name](device, run)
    elif re.fullmatch(r"[\w.]+:\w+|.+\.py:\w+", name):
        found = _imported(name, kind, size, components, outputs, device)
    elif name.endswith(".onnx"):
        found = onnx_model.onnx(name, kind or "denoiser", size, components=components)
    elif name.endswith(".safetensors"):
        found = unet.load(name, device, run)
    else:
        fix = f"name one of {', '.join(SHIPPED)}, a .safetensors or .onnx file, or module:name of a Network of yours"
        raise InputError("-", "network", f"unknown network {name!r}", fix)
    if kind is not None and found.kind != kind:
        raise InputError("-", "kind", f"{name} is a network of kind {found.kind}, not {kind}", f"give {found.kind}, or no kind")
    return found


def _imported(
    name: str, kind: str | None, shape: tuple[int, ...] | None, components: int, outputs: int | None, device: Any
) -> Network:
    """The Network that ``module:name`` is or makes; modules of the folder at hand are found too."""
    place, _, attribute = name.rpartition(":")
    try:
        found = getattr(module_of(place), attribute)
        made = found() if _makes(found) else found
    except Exception as error:  # a user's module raises what it likes
        what = f"{name} does not give a network ({type(error).__name__}: {error})"
        raise InputError("-", "network", what, "name a Network, or a function that makes one") from error
    if isinstance(made, Network):
        return made
    if kind is None or not callable(made):
        what = f"{name} is not a Network but {type(made).__name__}, and does not say what it predicts"
        fix = "say it with kind and shape, or make a Network of it, as by networks.denoiser(net, shape=(1, 28, 28))"
        raise InputError("-", "network", what, fix)
    if shape is None:
        raise InputError("-", "shape", f"{name} does not say the shape of a sample", "give it, such as 1,28,28")
    weights = made.to(device).eval() if isinstance(made, torch.nn.Module) else None
    said: dict[str, Any] = {"module": weights, "name": name}
    if kind == "denoiser":
        return denoiser(made, shape, **said)
    return channels(made, components, shape, kind, outputs=outputs, **said)


def _makes(found: Any) -> bool:
    """Whether it is a class or a function that is called without arguments."""
    if isinstance(found, Network | torch.nn.Module) or not callable(found):
        return False
    optional = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    taken = inspect.signature(found).parameters.values()
    return all(each.default is not each.empty or each.kind in optional for each in taken)
