"""Constant components: images that are given to a run and never change, such as the mean of a mean-reverting SDE.

A module that has them lists their names in ``CONSTANTS``, the last of its ``COMPONENTS``, and has ``start_mean(time)``,
(n, m + 1): what multiplies the m constants and 1 in the mean of the start.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from stepsmith.errors import InputError
from stepsmith.runtime.networks.base import fingerprint

SUFFIXES = (".safetensors", ".npz", ".png")


def names_of(module: Any) -> tuple[str, ...]:
    """The names of a module's constant components."""
    return tuple(getattr(module, "CONSTANTS", ()))


def blocks_of(module: Any) -> int:
    """How many components of a module move: the others are constant."""
    return len(module.COMPONENTS) - len(names_of(module))


def check_constants(
    module: Any, given: Mapping[str, Any] | None, seeds: int, shape: Sequence[int], dtype: torch.dtype
) -> tuple[torch.Tensor, ...]:
    """One tensor a constant component, (seeds or 1, *shape) in ``dtype`` on the host.

    ``given``: name -> a tensor (or what becomes one) that broadcasts to (seeds, *shape). Raises InputError (key
    ``constants``) for a name that is missing or unknown, a shape that does not fit, values that are not finite.
    """
    names, given = names_of(module), dict(given or {})
    for name in given:
        if name not in names:
            known = ", ".join(names) or "none"
            raise _refuse(f"{module.SDE} has no constant component {name!r}", f"known are: {known}")
    found = []
    for name in names:
        if name not in given:
            raise _refuse(f"{name} of {module.SDE} is missing", f'give constants={{"{name}": tensor}}, or --constant {name}=FILE')
        found.append(fitted("constants", name, given[name], (seeds, *shape), dtype))
    return tuple(found)


def fitted(key: str, name: str, value: Any, like: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """What broadcasts to ``like``, (seeds, *shape), as (seeds or 1, *shape) in ``dtype`` on the host.

    Raises InputError (``key``) for what does not, and for values that are not finite.
    """
    try:
        tensor = real(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError("-", key, f"{name} is no tensor ({error})", "give an array of numbers") from None
    tensor = tensor.reshape((1,) * (len(like) - tensor.dim()) + tuple(tensor.shape))
    if tensor.dim() != len(like) or any(have not in (1, want) for have, want in zip(tensor.shape, like, strict=True)):
        what = f"{name} of shape {tuple(tensor.shape)} does not broadcast to {like}"
        raise InputError("-", key, what, "give one image, or one a seed")
    if not torch.isfinite(tensor.to(dtype)).all():
        raise InputError("-", key, f"{name} is not finite everywhere in {dtype}", "give finite values")
    return tensor.to(dtype).expand(tensor.shape[0], *like[1:])


def real(value: Any) -> torch.Tensor:
    """``value`` as float64 on the host, whatever it becomes a tensor of; TypeError, ValueError or RuntimeError if it is none."""
    if torch.as_tensor(value).is_complex():
        raise TypeError("complex numbers")
    return torch.as_tensor(value, dtype=torch.float64).detach().cpu()


def digest(tensors: Mapping[str, Any] | None) -> dict[str, str]:
    """The fingerprint of each constant as float64, for a record."""
    return {name: fingerprint(torch.as_tensor(value, dtype=torch.float64)) for name, value in (tensors or {}).items()}


def read_constant(path: str | os.PathLike[str]) -> torch.Tensor:
    """A constant component from a file: .png as (channels, H, W) from -1 to 1, .npz and .safetensors as the array in it.

    Of several arrays the one named ``samples`` is taken. Raises InputError (key ``constant``) for a file that is none of
    these.
    """
    place = Path(path)
    if place.suffix.lower() not in SUFFIXES or not os.path.isfile(place):
        what = "there is no such file" if place.suffix.lower() in SUFFIXES else "its suffix is not known"
        raise InputError(str(place), "constant", what, f"give a file that ends in {', '.join(SUFFIXES)}")
    try:
        arrays = _READERS[place.suffix.lower()](place)
    except Exception as error:  # the three libraries raise what they like
        what = f"it cannot be read ({type(error).__name__})"
        raise InputError(str(place), "constant", what, "write it again") from None
    arrays = {name: value for name, value in arrays.items() if name != "record"}
    if len(arrays) > 1 and "samples" in arrays:
        arrays = {"samples": arrays["samples"]}
    if len(arrays) != 1:
        raise InputError(str(place), "constant", f"it holds {len(arrays)} arrays", "keep one, or name it samples")
    try:
        return real(next(iter(arrays.values())))
    except (TypeError, ValueError):
        raise InputError(str(place), "constant", "it holds no real numbers", "write them as float64") from None


def _png(place: Path) -> dict[str, Any]:
    import numpy as np
    from PIL import Image

    with Image.open(place) as image:
        pixels = np.asarray(image.convert("L" if image.mode in ("1", "L", "I", "F") else "RGB"), dtype=np.float64)
    pixels = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
    return {"samples": pixels / 127.5 - 1}


def _npz(place: Path) -> dict[str, Any]:
    import numpy as np

    with np.load(place, allow_pickle=False) as file:
        return {name: file[name] for name in file.files if name != "record"}


def _safetensors(place: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return dict(load_file(place))


_READERS = {".png": _png, ".npz": _npz, ".safetensors": _safetensors}


def _refuse(what: str, fix: str) -> InputError:
    return InputError("-", "constants", what, fix)
