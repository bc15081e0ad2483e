"""Networks as ONNX files, run by onnxruntime (the extra ``stepsmith[onnx]``)."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stepsmith.errors import InputError
from stepsmith.runtime.networks.adapters import channels, denoiser
from stepsmith.runtime.networks.base import Network, Range, recorded

DTYPES = {"tensor(float)": torch.float32, "tensor(float16)": torch.float16, "tensor(double)": torch.float64}
CPU = ("CPUExecutionProvider",)


@recorded
def onnx(
    path: str | os.PathLike[str], kind: str = "denoiser", shape: tuple[int, ...] | None = None,
    sigma_range: Range | None = None, *, components: int = 1, providers: Sequence[str] = CPU, **known: Any,
) -> Network:  # fmt: skip
    """A network from an ONNX file with one output, like its input ``x`` (batch, *shape), the batch dynamic.

    A denoiser has the inputs ``x`` and ``sigma``, x = data + sigma noise.  One of another ``kind`` has ``x`` and ``t``, and in
    ``x`` its ``components`` side by side as channels.  ``sigma`` and ``t`` are 0-d or of shape (batch,); every further input is a
    condition, by its name.  ``shape``, that of one component, is what the file says of ``x`` unless given.

    It runs where ``providers`` of onnxruntime run, on as many threads as torch; tensors of another device travel there and
    back at every call.  Raises InputError (key ``network``) for a file that is not such a network, and without onnxruntime.
    """
    name = os.fspath(path)
    session = _session(name, providers)
    level = "sigma" if kind == "denoiser" else "t"
    x, at, extra = _inputs(session, name, kind, level)

    def fn(state: Tensor, time: Tensor, **cond: Any) -> Tensor:
        if set(cond) != extra:
            what = f"its conditions are {', '.join(sorted(extra)) or 'none'}, given are {', '.join(sorted(cond)) or 'none'}"
            raise InputError(name, "cond", what, "give each by its name")
        given = {"x": state, level: (time if at.shape else time[0]).to(DTYPES[at.type]), **cond}
        arrays = {key: torch.as_tensor(value).cpu().numpy() for key, value in given.items()}
        try:
            (out,) = session.run(None, arrays)
        except Exception as error:  # onnxruntime has classes of its own for each fault
            what = f"onnxruntime cannot run it ({' '.join(str(error).split())[:300]})"
            raise InputError(name, "network", what, "give samples and conditions of the shapes and types that it has") from None
        return torch.from_numpy(out).to(state.device)

    size = tuple(x.shape[1:]) if shape is None else tuple(shape)
    if not all(isinstance(n, int) for n in size):
        raise InputError(name, "network", f"it leaves the shape of x open, {x.shape}", "give shape=(channels, height, width)")
    said = {"name": name, "digest": hashlib.sha256(Path(name).read_bytes()).hexdigest(), "dtype": DTYPES[x.type], **known}
    if kind == "denoiser":
        return denoiser(fn, size, sigma_range, batched=True, **said)
    if shape is None:
        size = (size[0] // components, *size[1:])
    return channels(fn, components, size, kind, **said)


def _inputs(session: Any, name: str, kind: str, level: str) -> tuple[Any, Any, set[str]]:
    """The inputs x and level, and the names of the conditions; refused where they do not fit."""
    inputs = {value.name: value for value in session.get_inputs()}
    if not {"x", level} <= set(inputs) or len(session.get_outputs()) != 1:
        what = f"it has the inputs {', '.join(inputs)} and {len(session.get_outputs())} outputs"
        raise InputError(name, "network", what, f"export a {kind} with the inputs x and {level} and one output")
    x, at, least = inputs["x"], inputs[level], 1 if kind == "denoiser" else 2
    fixed = len(x.shape) < least or isinstance(x.shape[0], int) or any(isinstance(n, int) for n in at.shape)
    if fixed or len(at.shape) > 1 or not {x.type, at.type} <= set(DTYPES):
        what = f"x is {x.type} of shape {x.shape}, {level} is {at.type} of shape {at.shape}"
        raise InputError(name, "network", what, f"export x (batch, ...) and {level} () or (batch,), floats, the batch dynamic")
    return x, at, set(inputs) - {"x", level}


def _session(name: str, providers: Sequence[str]) -> Any:
    try:
        import onnxruntime
    except ImportError:
        what = "onnxruntime, which runs .onnx files, is not installed"
        raise InputError(name, "network", what, "pip install 'stepsmith[onnx]'") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        return onnxruntime.InferenceSession(name, options, providers=list(providers))
    except Exception as error:  # onnxruntime has classes of its own for each fault
        what = f"onnxruntime cannot load it ({error})"
        raise InputError(name, "network", what, "give a whole ONNX model") from None
