"""Written samples: what is in the file, that it appears whole or not at all, and what is refused beforehand."""

import json
import os

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open

from stepsmith.errors import InputError
from stepsmith.runtime import check_output, write
from stepsmith.runtime.output import image_grid

torch.set_num_threads(1)
RECORD = {"sde": "vp", "seeds": [0, 1], "grid": {"times": [1.0, 0.1]}, "note": "größer"}


def images(channels=1, batch=5):
    return torch.linspace(-1.2, 1.2, batch * channels * 64).reshape(batch, channels, 8, 8)


def test_npz_and_safetensors_give_the_samples_and_the_record_back(tmp_path):
    for dtype in (torch.float32, torch.float64, torch.float16):
        samples = images().to(dtype)
        with np.load(write(tmp_path / "a.npz", samples, RECORD)) as found:
            assert np.array_equal(found["samples"], samples.numpy()) and json.loads(str(found["record"])) == RECORD
        with safe_open(write(str(tmp_path / "a.safetensors"), samples, RECORD), "pt") as found:
            assert torch.equal(found.get_tensor("samples"), samples)
            assert json.loads(found.metadata()["record"]) == RECORD
    half = images().bfloat16()
    with np.load(write(tmp_path / "b.npz", half, RECORD)) as found:
        assert np.array_equal(found["samples"], half.float().numpy())
    with safe_open(write(tmp_path / "b.safetensors", half.transpose(2, 3), RECORD), "pt") as found:
        assert torch.equal(found.get_tensor("samples"), half.transpose(2, 3))


@pytest.mark.parametrize("channels", [1, 3])
def test_a_png_shows_every_image_enlarged_and_holds_the_record(tmp_path, channels):
    samples = images(channels)
    with Image.open(write(tmp_path / "a.PNG", samples, RECORD)) as picture:
        pixels = np.asarray(picture)
        assert picture.mode == ("L" if channels == 1 else "RGB") and json.loads(picture.text["record"]) == RECORD
    side = 96 + 2
    assert pixels.shape[:2] == (2 * side + 2, 3 * side + 2)
    want = ((samples.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    for i in range(5):
        top, left = 2 + (i // 3) * side, 2 + (i % 3) * side
        found = pixels[top : top + 96 : 12, left : left + 96 : 12].reshape(8, 8, channels)
        assert np.array_equal(found, want[i].permute(1, 2, 0).numpy())
        assert np.array_equal(pixels[top + 11, left + 11], pixels[top, left])
    assert (pixels[2 + side :, 2 + 2 * side :] == 255).all()  # the place of the sixth image is empty


def test_values_outside_and_not_a_number_are_clamped():
    pixels = image_grid(torch.tensor([[[-9.0, 9.0], [float("nan"), 0.0]]]))
    assert [pixels[2, 2], pixels[2, 60], pixels[60, 2], pixels[60, 60]] == [0, 255, 0, 128]
    assert image_grid(torch.zeros(1, 3, 200, 100)).shape == (204, 104, 3)  # a large image keeps its size


@pytest.mark.parametrize("shape", [(4,), (4, 2), (4, 2, 8, 8), (0, 1, 8, 8), (2, 1, 4, 4, 4)], ids=str)
def test_samples_that_are_no_images_are_refused_as_png_and_leave_no_file(tmp_path, shape):
    with pytest.raises(InputError, match="no images") as caught:
        write(tmp_path / "a.png", torch.zeros(shape), RECORD)
    assert caught.value.key == "out" and os.listdir(tmp_path) == []


def test_places_that_cannot_be_written_are_refused_before_anything_is_made(tmp_path):
    (tmp_path / "folder.npz").mkdir()
    (tmp_path / "file").touch()
    cases = ("a.jpg", "a", "file/a.npz", "folder.npz")
    for name in cases:
        with pytest.raises(InputError) as caught:
            check_output(tmp_path / name)
        assert caught.value.key == "out" and caught.value.where == str(tmp_path / name)
    for name in ("a.npz", "nowhere/a.npz"):
        assert check_output(tmp_path / name) == tmp_path / name
    assert sorted(os.listdir(tmp_path)) == ["file", "folder.npz"]


def test_a_folder_without_permission_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(InputError, match="cannot be written"):
        check_output(tmp_path / "a.npz")


def test_a_write_that_fails_keeps_the_old_file_and_leaves_nothing_beside_it(tmp_path, monkeypatch):
    target = write(tmp_path / "a.npz", images(), RECORD)
    old = target.read_bytes()

    def fail(*args):
        raise OSError("the disk is full")

    for name in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, fail)
            with pytest.raises(OSError, match="full"):
                write(target, images() * 0, RECORD)
        assert target.read_bytes() == old and os.listdir(tmp_path) == ["a.npz"]
    write(target, images() * 0, RECORD)
    assert target.read_bytes() != old


def test_the_file_has_the_permissions_of_any_new_file(tmp_path):
    (tmp_path / "plain").write_text("")
    target = write(tmp_path / "a.npz", images(), RECORD)
    assert target.stat().st_mode == (tmp_path / "plain").stat().st_mode
