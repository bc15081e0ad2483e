"""Images to train on and to compare with: Fashion-MNIST, folders of pictures and .npz files, as tensors in [-1, 1].

Nothing is downloaded.  Fashion-MNIST is read from the idx files of Debian's package ``dataset-fashion-mnist`` or of a folder.
"""

from __future__ import annotations

import gzip
import math
import os
import struct
import zipfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from stepsmith.errors import InputError

FEW = Path(__file__).parent / "networks" / "weights" / "fashion_images.npz"  # images (256, 28, 28), classes (256,), bytes
DEBIAN = Path("/usr/share/datasets/fashion-mnist")
GET = "install Debian's package dataset-fashion-mnist, or give the folder that holds the four idx files"
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")


def fashion(folder: str | os.PathLike[str] | None = None, split: str = "train") -> tuple[Tensor, Tensor]:
    """Fashion-MNIST: images (n, 1, 28, 28) in [-1, 1] float32, and classes (n,) of 0 to 9.

    ``split`` is "train" (60,000), "test" (10,000) or "few": the first 256 of the test images, which come with stepsmith
    (Zalando Research, under the MIT licence).
    ``folder`` holds ``train-images-idx3-ubyte`` and its like, with or without .gz.  Raises InputError (key ``data``) where a
    file is missing or broken.
    """
    if split not in ("train", "test", "few"):
        raise InputError("-", "data", f"there is no split {split!r}", "ask for train, test or few")
    if split == "few":
        with np.load(FEW, allow_pickle=False) as kept:
            return _scaled(kept["images"][:, None]), torch.from_numpy(kept["classes"].astype(np.int64))
    place = DEBIAN if folder is None else Path(folder)
    head = {"train": "train", "test": "t10k"}[split]
    images, classes = (_idx(place / f"{head}-{kind}-ubyte") for kind in ("images-idx3", "labels-idx1"))
    if images.ndim != 3 or classes.shape != images.shape[:1]:
        raise InputError(str(place), "data", "the files of images and of classes do not belong together", GET)
    return _scaled(images[:, None]), torch.from_numpy(classes.astype(np.int64))


def _idx(path: Path) -> np.ndarray:
    """An idx file of bytes: two zeros, the type 8, the number of axes, their lengths, the values."""
    source = next((p for p in (path, path.with_name(f"{path.name}.gz")) if p.is_file()), None)
    if source is None:
        raise InputError(str(path), "data", "there is no such file", GET)
    try:
        data = source.read_bytes()
        data = gzip.decompress(data) if source.suffix == ".gz" else data
        zero, kind, axes = struct.unpack(">HBB", data[:4])
        shape = struct.unpack(f">{axes}I", data[4 : 4 + 4 * axes])
    except (OSError, EOFError, struct.error) as error:
        raise InputError(str(source), "data", f"it cannot be read ({error})", GET) from None
    if zero or kind != 8 or len(data) != 4 + 4 * axes + math.prod(shape):
        raise InputError(str(source), "data", "it is no whole idx file of bytes", GET)
    return np.frombuffer(data, np.uint8, offset=4 + 4 * axes).reshape(shape)


def images(source: str | os.PathLike[str]) -> Tensor:
    """The images of a folder (all of one size, in the order of their names) or of an .npz file: (n, channels, H, W) in [-1, 1].

    Pictures are 1 or 3 channels of bytes.  An .npz holds ``images`` or ``samples``, (n, H, W) or (n, H, W, 3) of bytes, or
    (n, channels, H, W) of floats in [-1, 1].  Raises InputError (key ``data``) that names the file.
    """
    path = Path(source)
    if path.is_dir():
        return _folder(path)
    if path.suffix != ".npz" or not path.is_file():
        raise InputError(str(path), "data", "it is neither a folder of pictures nor an .npz file", "give one of them")
    try:
        with np.load(path, allow_pickle=False) as file:
            array = next(file[key] for key in ("images", "samples") if key in file)
    except (OSError, ValueError, StopIteration, zipfile.BadZipFile):
        raise InputError(str(path), "data", "it holds no array images or samples", "write it with numpy.savez") from None
    if array.dtype == np.uint8:
        array = array[:, None] if array.ndim == 3 else np.moveaxis(array, -1, 1)
        return _scaled(array)
    found = torch.from_numpy(array).float()
    if found.ndim != 4 or not bool((found.abs() <= 1).all()):
        raise InputError(str(path), "data", "its floats are not (n, channels, H, W) in [-1, 1]", "scale them, or give bytes")
    return found


def _folder(path: Path) -> Tensor:
    from PIL import Image, UnidentifiedImageError

    found: list[np.ndarray] = []
    for file in sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES):
        try:
            with Image.open(file) as opened:
                picture = opened.convert("L" if opened.mode in ("1", "L", "I;16") else "RGB")
                array = np.asarray(picture).reshape(picture.height, picture.width, -1).transpose(2, 0, 1)
        except (OSError, UnidentifiedImageError) as error:
            raise InputError(str(file), "data", f"it cannot be read ({error})", "take it out of the folder") from None
        if found and array.shape != found[0].shape:
            what = f"it is {array.shape[2]} x {array.shape[1]} with {array.shape[0]} channels, the first picture is not"
            raise InputError(str(file), "data", what, "bring all pictures to one size and mode")
        found.append(array)
    if not found:
        raise InputError(str(path), "data", f"it has no pictures ({', '.join(SUFFIXES)})", "give another folder")
    return _scaled(np.stack(found))


def _scaled(array: np.ndarray) -> Tensor:
    """Bytes to [-1, 1]."""
    return torch.from_numpy(array.astype(np.float32)) / 127.5 - 1
