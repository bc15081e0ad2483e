"""Networks of the papers' repositories, from their checkpoints: PSLD (mandt-lab/PSLD) and CLD (nv-tlabs/CLD-SGM).

Both are called as f(z, t), the components side by side as channels, t of shape (batch,) forward in time, and both repositories
write pickles; these are read without running code unless ``pickle`` allows it.  The architecture is the caller's module.

    PSLD    {"state_dict": {"score_fn.KEY": ..., "ema_score_fn.KEY": ...}}; f gives epsilon, z = mean + L epsilon
    CLD     {"model": {"module.KEY": ...}, "ema": {"shadow_params": [...]}}, the moving average in the order of the trained
            parameters; f gives the rest of a mixed score, epsilon_v = L_vv v/Sigma_vv + f

Where noise enters v alone a network gives epsilon_v alone.  The other follows, since z = p x0 + L epsilon has two equations:

    (L^-1 z)_v = (L^-1 p)_v x0 + epsilon_v,    epsilon_x = (x - p_x x0)/L_xx

with L and p from ``law``, an emitted module of the diffusion with its ``params`` (``start`` and ``start_data``), read once a call
on the host.
"""

from __future__ import annotations

import functools
import hashlib
import os
import pickle as pickles
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stepsmith.errors import InputError
from stepsmith.runtime.networks.adapters import channels
from stepsmith.runtime.networks.base import Network, Tensors, recorded
from stepsmith.runtime.networks.checkpoint import fill

FIX = "give a checkpoint of the repository, and the module with the configuration that it was trained with"
Path_ = str | os.PathLike[str]
Factor = list[list[float]]


@recorded
def psld(
    path: Path_, model: nn.Module, shape: tuple[int, ...], *, law: Any = None, params: Mapping[str, float] | None = None,
    ema: bool = True, kind: str = "eps-L", pickle: bool = False,
) -> Network:  # fmt: skip
    """The network of a checkpoint of PSLD, filled into ``model``, with the averaged weights unless ``ema`` is False.

    ``shape`` is that of a component, ``kind`` eps-L or eps-U as ``decomp_mode`` lower or upper.  ``law``, a module of the
    diffusion, and its ``params`` go with a network of one epsilon, trained for noise in the momentum alone (Gamma = 0).

    Raises InputError for a file that is no such checkpoint, cannot be read without ``pickle``, or does not fit the module.
    """
    tensors = _entry(path, _read(path, pickle), "state_dict")
    prefix = "ema_score_fn." if ema else "score_fn."
    fill(model, _under(path, tensors, prefix), path, FIX)
    if law is None:
        return channels(model, 2, shape, kind, **_known(path, model))
    return _completed(path, model, shape, functools.partial(_law, law, params or {}), lambda factor, v, out: out)


@recorded
def cld(
    path: Path_, model: nn.Module, shape: tuple[int, ...], law: Any, *, params: Mapping[str, float] | None = None,
    ema: bool = True, mixed: bool = True, pickle: bool = False,
) -> Network:  # fmt: skip
    """The network of a checkpoint of CLD, filled into ``model``; arguments as in :func:`psld`, ``mixed`` as ``mixed_score``."""
    found = _read(path, pickle)
    fill(model, _under(path, _entry(path, found, "model"), "module."), path, FIX)
    if ema:
        _average(path, model, _entry(path, _entry(path, found, "ema"), "shadow_params", list))

    def epsilon(factor: Factor, v: Tensor, out: Tensor) -> Tensor:
        _, (low, last) = factor
        return out + last / (low**2 + last**2) * v if mixed else out

    return _completed(path, model, shape, functools.partial(_law, law, params or {}), epsilon)


def _completed(
    path: Path_, model: nn.Module, shape: tuple[int, ...], law: Callable[[float], tuple[Factor, list[float]]],
    epsilon: Callable[[Factor, Tensor, Tensor], Tensor],
) -> Network:  # fmt: skip
    """eps-L of two blocks from a network of one output, ``epsilon(L, v, f)`` = epsilon_v."""
    table = functools.lru_cache(maxsize=4096)(law)

    def call(inputs: Tensors, time: Tensor, **cond: Any) -> Tensors:
        x, v = inputs
        factor, (p_x, p_v) = table(float(time))
        (l_xx, _), (l_vx, l_vv) = factor
        run = torch.promote_types(x.dtype, torch.float32)
        out = model(torch.cat((x, v), 1).to(torch.float32), time.to(torch.float32).expand(len(x)), **cond).to(run)
        e_v = epsilon(factor, v.to(run), out)
        data = (v - l_vx / l_xx * x - l_vv * e_v) / (p_v - l_vx / l_xx * p_x)
        return ((x - p_x * data) / l_xx).to(x.dtype), e_v.to(x.dtype)

    return Network(call, "eps-L", tuple(shape), None, 2, 2, **_known(path, model))


def _law(law: Any, params: Mapping[str, float], time: float) -> tuple[Factor, list[float]]:
    """L, row by row, and p of a time."""
    return law.start(time, **params).tolist(), law.start_data(time, **params)[:, 0].tolist()


def _known(path: Path_, model: nn.Module) -> dict[str, Any]:
    return {"module": model, "name": os.fspath(path), "digest": hashlib.sha256(Path(path).read_bytes()).hexdigest()}


def _read(path: Path_, pickle: bool) -> Any:
    name = os.fspath(path)
    if not os.path.isfile(name):
        raise InputError(name, "checkpoint", "there is no such file", FIX)
    try:
        return torch.load(name, map_location="cpu", weights_only=not pickle)
    except pickles.UnpicklingError as error:
        what = f"it is not readable as tensors alone ({type(error).__name__})"
        raise InputError(name, "checkpoint", what, "if you trust whoever made it, allow it to run code: pickle=True") from None
    except (OSError, RuntimeError, EOFError) as error:
        raise InputError(name, "checkpoint", f"torch cannot read it ({str(error).splitlines()[0][:120]})", FIX) from None


def _entry(path: Path_, found: Any, key: str, form: type = dict) -> Any:
    entry = found.get(key) if isinstance(found, Mapping) else None
    if not isinstance(entry, form):
        raise InputError(os.fspath(path), key, "the checkpoint has no such entry", FIX)
    return entry


def _under(path: Path_, tensors: Mapping[str, Any], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with a prefix, without it."""
    found = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
    if not found or not all(isinstance(value, Tensor) for value in found.values()):
        raise InputError(os.fspath(path), prefix + "*", "the checkpoint has no tensors of that name", FIX)
    return found


def _average(path: Path_, model: nn.Module, average: list[Any]) -> None:
    """Put a moving average in the place of the parameters, which are in the order in which they were trained."""
    own = list(model.parameters())
    shapes = [tuple(value.shape) if isinstance(value, Tensor) else None for value in average]
    if shapes != [tuple(value.shape) for value in own]:
        what = f"{len(average)} tensors of the average do not fit the module's {len(own)} parameters"
        raise InputError(os.fspath(path), "shadow_params", what, FIX)
    with torch.no_grad():
        for parameter, value in zip(own, average, strict=True):
            parameter.copy_(value)
