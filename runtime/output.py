"""Write samples and the record of how they were made: .png, .npz or .safetensors, by the suffix of the path.

The file appears whole or not at all (stepsmith.files). The record is a dict that JSON can hold. It goes into the key
``record`` of the file: a text chunk of the PNG, a 0-d string array of the .npz, the metadata of the .safetensors.
"""

from __future__ import annotations

import io
import json
import math
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from stepsmith.errors import InputError
from stepsmith.files import write_whole

_SMALL_SIDE = 96  # a smaller image is enlarged by a whole factor, up to about this many pixels a side
_BORDER = 2


def check_output(path: str | os.PathLike[str]) -> Path:
    """``path`` if a file can be written there, with a suffix that is known; else :class:`InputError` (key ``out``).
    Writes nothing; folders that do not exist yet are made by ``write``."""
    target = Path(path)
    if target.suffix.lower() not in _ENCODERS:
        known = ", ".join(_ENCODERS)
        raise InputError(str(target), "out", f"the suffix {target.suffix!r} is not known", f"use one of {known}")
    if target.is_dir():
        raise InputError(str(target), "out", "it is a folder", "give the path of a file")
    _check_writable(target, target.parent)
    return target


def check_folder(path: str | os.PathLike[str]) -> Path:
    """``path`` if files can be written into it, a folder that exists or can be made; else :class:`InputError` (key ``out``)."""
    target = Path(path)
    if target.exists() and not target.is_dir():
        raise InputError(str(target), "out", "it is a file", "give the name of a folder, or a file with a suffix")
    _check_writable(target, target)
    return target


def _check_writable(target: Path, inside: Path) -> None:
    folder = next(place for place in (inside, *inside.absolute().parents) if place.exists())
    if not folder.is_dir() or not _writable(folder):
        raise InputError(str(target), "out", f"the folder {folder} cannot be written to", "choose another place")


def _writable(folder: Path) -> bool:
    """Whether a file can be made there: permissions do not tell all of it, so one is made that is gone at once."""
    if not os.access(folder, os.W_OK | os.X_OK):
        return False
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def write(path: str | os.PathLike[str], samples: torch.Tensor, record: Mapping[str, Any]) -> Path:
    """Write ``samples`` (batch, *shape) and ``record`` to ``path`` and return it.

    .png: a grid of the images, (batch, H, W), (batch, 1, H, W) or (batch, 3, H, W), values -1 .. 1 to 0 .. 255, small
    ones enlarged.
    .npz and .safetensors: the array ``samples`` as it is (bfloat16 becomes float32 in .npz, which has no such type).

    Raises :class:`InputError` (key ``out``) as :func:`check_output`, and for samples that are no images where a .png is
    asked for.
    """
    target = check_output(path)
    data = _ENCODERS[target.suffix.lower()](samples.detach().to("cpu"), json.dumps(dict(record)), str(target))
    target.parent.mkdir(parents=True, exist_ok=True)
    write_whole(target, data)
    return target


def image_grid(samples: torch.Tensor, where: str = "-", columns: int | None = None) -> np.ndarray:
    """The images of ``samples`` side by side, in rows of ``columns`` (a square where it is None): uint8 (rows, columns)
    or (rows, columns, 3). Values are clamped to -1 .. 1; NaN is black.

    Each image is enlarged by the whole factor that brings its longer side to about 96 pixels; between images is a white
    line.
    """
    images = samples.detach().to("cpu", torch.float32)
    if images.dim() == 3:
        images = images.unsqueeze(1)
    if images.dim() != 4 or images.shape[1] not in (1, 3) or 0 in images.shape:
        what = f"samples of shape {tuple(samples.shape)} are no images with 1 or 3 channels"
        raise InputError(where, "out", what, "write them as .npz or .safetensors")
    pixels = ((images.nan_to_num(-1.0).clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    factor = max(1, round(_SMALL_SIDE / max(pixels.shape[2:])))
    pixels = pixels.repeat_interleave(factor, 2).repeat_interleave(factor, 3)
    batch, channels, height, width = pixels.shape
    columns = columns or math.ceil(math.sqrt(batch))
    rows = math.ceil(batch / columns)
    size = (channels, rows * (height + _BORDER) + _BORDER, columns * (width + _BORDER) + _BORDER)
    sheet = torch.full(size, 255, dtype=torch.uint8)
    for i, image in enumerate(pixels):
        top, left = _BORDER + (i // columns) * (height + _BORDER), _BORDER + (i % columns) * (width + _BORDER)
        sheet[:, top : top + height, left : left + width] = image
    return sheet[0].numpy() if channels == 1 else sheet.permute(1, 2, 0).contiguous().numpy()


def _png(samples: torch.Tensor, record: str, where: str) -> bytes:
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_text("record", record, zip=True)
    buffer = io.BytesIO()
    Image.fromarray(image_grid(samples, where)).save(buffer, "PNG", pnginfo=info)
    return buffer.getvalue()


def _npz(samples: torch.Tensor, record: str, where: str) -> bytes:
    array = samples.float().numpy() if samples.dtype == torch.bfloat16 else samples.numpy()
    buffer = io.BytesIO()
    np.savez(buffer, samples=array, record=np.array(record))
    return buffer.getvalue()


def _safetensors(samples: torch.Tensor, record: str, where: str) -> bytes:
    from safetensors.torch import save

    return save({"samples": samples.contiguous()}, metadata={"record": record})


_ENCODERS = {".png": _png, ".npz": _npz, ".safetensors": _safetensors}
