"""What several test files share: one thread, the catalogue emitted once, and a device that is not there."""

import contextlib
import functools
import gc
import os
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

torch.set_num_threads(1)


LONG = ("test_tune", "test_measure", "test_site", "test_diffusers", "test_adams", "test_stability", "test_search", "test_report")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files that take longest come first, so that no process is left alone with one at the end."""
    items.sort(key=lambda item: item.path.stem not in LONG)


def pytest_collection_finish() -> None:
    """What is imported and collected by now stays to the end, and is not searched for garbage again and again."""
    gc.freeze()
    gc.set_threshold(100_000, 50, 50)


class NoCopyToHost(TorchDispatchMode):
    """Refuse any operation that takes a tensor of a device and gives one on the CPU."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        sources = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        results = [leaf for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        if any(s.device.type != "cpu" for s in sources) and any(r.device.type == "cpu" for r in results):
            raise AssertionError(f"{func} copies to the host")
        return result


@contextlib.contextmanager
def guard(host=False):
    """Tensors made in here on a device are fake; reading one on the host, mixing devices and copies to the CPU raise, and
    computing with real tensors does unless some are made on the ``host`` and uploaded."""
    with FakeTensorMode(allow_non_fake_inputs=host), NoCopyToHost(), torch.no_grad():
        yield


@pytest.fixture
def fake_cuda(monkeypatch):
    """``guard()``, and ``run(module, network, grid, ...)``: the loop with fake tensors on a device, its uploads replaced by
    fake tensors of their shapes; the samples and the shapes that were uploaded."""
    from stepsmith.runtime import noise, plan, sampler
    from stepsmith.runtime import start as begin

    def run(module, network, grid, dtype=torch.float32, last="denoise", shape=(2, 3), device="cuda", **given):
        uploads = []

        def upload(tensor, device):
            uploads.append(tuple(tensor.shape))
            return torch.empty(tensor.shape, dtype=tensor.dtype, device=device)

        monkeypatch.setattr(noise, "upload", upload)
        monkeypatch.setattr(sampler, "upload", upload)
        monkeypatch.setattr(begin, "upload", upload)
        ready = plan.make_plan(
            module, network, grid, range(3), shape=shape, device=device, dtype=dtype, last=last, **given
        )
        with guard(host=device == "mps"):
            return sampler.run_plan(ready, sampler.Watch(module, network, grid.times)), uploads

    return SimpleNamespace(guard=guard, run=run)


class Emitted(Mapping):
    """The catalogue, derived in this process, each row when it is first asked for, and written without a certificate.

    name -> SimpleNamespace(row, method, text, module).  What one process of a session has written, the others read in ``folder``.
    """

    def __init__(self, folder: Path):
        from stepsmith.derive import catalogue

        self.rows, self.found, self.folder = {row.name: row for row in catalogue.rows()}, {}, folder
        folder.mkdir(exist_ok=True)

    def __iter__(self):
        return iter(self.rows)

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, name):
        from stepsmith.runtime import load

        if name not in self.found:
            method = self.rows[name].derive()
            text = self.text(method)
            module = load(text)
            if field := getattr(module, "FIELD", ""):  # one frequency, unless a test gives others
                module.coefficients = functools.partial(module.coefficients, **{field: 2.0})
                module.start = functools.partial(module.start, **{field: 2.0})
            self.found[name] = SimpleNamespace(row=self.rows[name], method=method, text=text, module=module)
        return self.found[name]

    def text(self, method) -> str:
        from stepsmith.certificate import written
        from stepsmith.files import write_whole

        place = self.folder / f"{method.name}.py"
        if not place.exists():
            write_whole(place, written(method).encode())
        return place.read_bytes().decode()


@pytest.fixture(scope="session")
def emitted(tmp_path_factory):
    own = tmp_path_factory.getbasetemp()
    return Emitted((own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "emitted")
