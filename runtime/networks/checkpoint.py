"""Files of weights: safetensors that name their format, read with every check and written without a half-written file."""

from __future__ import annotations

import os
from pathlib import Path

import safetensors
import safetensors.torch
from torch import Tensor, nn

from stepsmith.errors import InputError
from stepsmith.files import write_whole


def read_checkpoint(path: str | os.PathLike[str], form: str, fix: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and metadata of a safetensors file that says it is of this format."""
    name = os.fspath(path)
    if not os.path.isfile(name):  # a folder, or a pipe that would be waited for
        raise InputError(name, "checkpoint", "there is no such file", fix)
    try:
        with safetensors.safe_open(name, framework="pt") as file:
            meta = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
    except (OSError, safetensors.SafetensorError) as error:
        raise InputError(name, "checkpoint", f"not a whole safetensors file ({error})", fix) from None
    if meta.get("format") != form:
        raise InputError(name, "format", f"{meta.get('format')!r} where {form!r} was expected", fix)
    return tensors, meta


def write_checkpoint(path: str | os.PathLike[str], tensors: dict[str, Tensor], meta: dict[str, str]) -> None:
    """Write a safetensors file: whole, or not at all."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    write_whole(target, safetensors.torch.save({key: value.detach().cpu().contiguous() for key, value in tensors.items()}, meta))


def fill(module: nn.Module, tensors: dict[str, Tensor], path: str | os.PathLike[str], fix: str) -> None:
    """Put the tensors into the module, every one of them and no other, and freeze it."""
    name = os.fspath(path)
    try:
        weights = {key: value.float() for key, value in tensors.items() if not value.is_complex()}
        if not all(bool(value.isfinite().all()) for value in weights.values()):
            raise InputError(name, "weights", "not all of them are finite in float32", fix)
        module.load_state_dict(weights)
    except RuntimeError as error:
        raise InputError(name, "weights", " ".join(str(error).split())[:200], fix) from None
    module.eval().requires_grad_(False)
