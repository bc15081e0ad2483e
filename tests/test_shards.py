"""A folder of shards: the bytes depend on no worker and no interruption; what is missing is made, what differs is refused."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors import safe_open

import stepsmith as ss
from stepsmith import cli
from stepsmith.cli.folder import Worker
from stepsmith.errors import InputError

torch.set_num_threads(1)
OWN = """
import os, signal
import stepsmith as ss

calls = 0

def fn(y, sigma):
    global calls
    calls += 1
    if calls == int(os.environ.get("CALL", 0)) and not os.path.exists("fired"):  # once
        open("fired", "w").close()
        os.kill(os.getpid(), getattr(signal, os.environ["SIGNAL"]))
    return y / (1 + sigma**2) + 0.1 * y.sin()

net = ss.networks.denoiser(fn, shape=(2, 3))
"""
STEPS = 3
VP = ss.load_sde("vp")
SAID = "deriving ddim-eta for vp\n"  # what the command says first, where it is not refused before
COMMAND = ("sample", "--sde", "vp", "--sampler", "ddim-eta", "--network", "shards_own:net", "--steps", STEPS, "--batch", 4)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with a network of one's own."""
    (tmp_path / "shards_own.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "shards_own", raising=False)
    yield tmp_path
    sys.modules.pop("shards_own", None)


@pytest.fixture
def run(here: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any) -> Any:
    """The command line in this process: status, out, err."""

    def run(*words: Any) -> SimpleNamespace:
        monkeypatch.setattr(sys, "argv", ["stepsmith", *map(str, (*COMMAND, *words))])
        sys.modules.pop("shards_own", None)  # its count of calls
        capfd.readouterr()
        with pytest.raises(SystemExit) as caught:
            cli.main()
        return SimpleNamespace(status=caught.value.code or 0, **capfd.readouterr()._asdict())

    return run


def started(*words: Any, **environment: Any) -> subprocess.Popen:
    command = [sys.executable, "-m", "stepsmith", *map(str, (*COMMAND, *words))]
    own = {**os.environ, "OMP_NUM_THREADS": "1", **{name: str(value) for name, value in environment.items()}}
    return subprocess.Popen(command, env=own, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def files(folder: Path) -> dict[str, bytes]:
    """Every file but what a killed writer may have left."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if not path.name.startswith(".")}


def written(folder: Path, network: Any = None, steps: int = 4, module: str = "vp_ddim_eta", **given: Any) -> Any:
    """The folder filled from Python: ten seeds, four a shard."""
    arguments = {"seeds": range(10), "batch": 4, **given}
    return ss.write_samples(folder, module, network or plain(), ss.TimeGrid.uniform(VP, steps), **arguments)


def plain(most: int = 1000, shape: tuple[int, ...] = (2, 3), **known: Any) -> Any:
    """A denoiser that fits into memory with ``most`` samples."""

    def fn(y: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        if len(y) > most:
            raise torch.OutOfMemoryError(f"{len(y)} samples do not fit")
        return y / (1 + sigma**2)

    return ss.networks.denoiser(fn, shape=shape, **known)


def refused(words: str, call: Any, *args: Any, **kwargs: Any) -> None:
    with pytest.raises(InputError) as caught:
        call(*args, **kwargs)
    assert words in str(caught.value), str(caught.value)


def test_shards_are_the_batches_of_one_run_with_their_records(here: Path) -> None:
    done = written(here / "out")
    assert (done.shards, done.made, done.left) == (3, 3, ())
    found = list(ss.read_samples(here / "out"))
    whole = ss.sample("vp_ddim_eta", plain(), ss.TimeGrid.uniform(VP, 4), range(10), batch=4)
    assert [len(samples) for samples in found] == [4, 4, 2] and torch.equal(torch.cat(found), whole)
    names = ["00000000-00000003", "00000004-00000007", "00000008-00000009"]
    assert sorted(files(here / "out")) == [*(f"{name}.safetensors" for name in names), "manifest.json"]
    manifest = json.loads((here / "out" / "manifest.json").read_text())
    with safe_open(here / "out" / f"{names[2]}.safetensors", "pt") as file:
        own = json.loads(file.metadata()["record"])
    assert own == {**manifest, "seeds": "8-9", "batch": 2} and manifest["seeds"] == "0-9" and manifest["batch"] == 4
    assert manifest["digest"] == ss.load("vp_ddim_eta").DIGEST and len(manifest["grid"]["times"]) == 5


def test_a_run_goes_on_by_making_what_is_missing_or_damaged(here: Path) -> None:
    written(here / "whole")
    asked = iter([False, False, True])
    stopped = written(here / "out", stop=lambda: next(asked))
    assert (stopped.shards, stopped.made, stopped.left) == (3, 2, (2,))
    refused("1 of 3 shards are missing or damaged, first 00000008", ss.read_samples, here / "out")
    first, second = (here / "out" / name for name in ("00000000-00000003.safetensors", "00000004-00000007.safetensors"))
    kept = first.stat().st_mtime_ns
    for damage in (second.read_bytes()[:-1], b"", b"not a shard", first.read_bytes()):
        second.write_bytes(damage)
        refused("first 00000004", ss.read_samples, here / "out")
        assert written(here / "out").made in (1, 2)
        assert files(here / "out") == files(here / "whole") and first.stat().st_mtime_ns == kept
    assert written(here / "out").made == 0


@pytest.mark.parametrize("workers", [2, 5])
def test_workers_share_the_shards_and_give_the_bytes_of_one(here: Path, workers: int) -> None:
    written(here / "one")
    shares = [written(here / "out", rank=rank, workers=workers) for rank in reversed(range(workers))]
    assert sum(share.made for share in shares) == 3 and files(here / "out") == files(here / "one")


def test_two_workers_one_killed_in_mid_shard_and_gone_on_give_the_bytes_of_one(run: Any, here: Path) -> None:
    seeds = ("--seeds", "3-20")  # shards of 4, 4, 4, 4 and 2
    assert run(*seeds, "--out", "one").status == 0
    killed = started(*seeds, "--out", "out", RANK=0, WORLD_SIZE=2, CALL=2 * STEPS, SIGNAL="SIGKILL")  # in its second
    other = started(*seeds, "--out", "out", RANK=1, WORLD_SIZE=2)
    out, err = other.communicate(timeout=300)
    assert (other.returncode, err) == (0, "") and "2 shards of worker 1, 2 made now" in out
    assert killed.wait(timeout=300) == -signal.SIGKILL
    names = [f"{first:08d}-{last:08d}.safetensors" for first, last in ((3, 6), (7, 10), (15, 18))]
    assert sorted(files(here / "out")) == [*names, "manifest.json"]
    gone_on = run(*seeds, "--out", "out", "--json")  # by one process, where there were two
    assert (gone_on.status, json.loads(gone_on.out)["made"]) == (0, 2)
    assert files(here / "out") == files(here / "one")


def test_tasks_of_ray_one_killed_in_mid_shard_give_the_bytes_of_one(run: Any, here: Path, monkeypatch: Any) -> None:
    ray = pytest.importorskip("ray")
    assert run("--seeds", "3-20", "--out", "one").status == 0
    monkeypatch.setenv("CALL", str(2 * STEPS))
    monkeypatch.setenv("SIGNAL", "SIGKILL")
    ray.init(num_cpus=2, logging_level="ERROR", log_to_driver=False, include_dashboard=False)
    try:
        found = run("--seeds", "3-20", "--out", "out", "--engine", "ray")
        assert found.status == 0 and "5 shards, 5 made now" in found.out and (here / "fired").exists()
        assert files(here / "out") == files(here / "one")
        (here / "shards_nan.py").write_text(OWN.replace("return y /", "return float('nan') * y /"))
        found = run("--network", "shards_nan:net", "--out", "nan", "--engine", "ray")
        assert found.status == 2 and found.err.startswith(f"{SAID}network: it gives NaN") and found.err.count("\n") == 2
    finally:
        ray.shutdown()


def test_ray_makes_folders_only_and_is_asked_for_where_it_is_missing(run: Any, monkeypatch: Any) -> None:
    found = run("--out", "a.npz", "--engine", "ray")
    assert (found.status, found.err) == (2, "a.npz: engine: ray makes the files of a folder; give --out without a suffix\n")
    monkeypatch.setitem(sys.modules, "ray", None)
    found = run("--out", "out", "--engine", "ray")
    assert found.status == 2 and found.err.startswith(f"{SAID}engine: Ray is not installed; pip install 'stepsmith[ray]'")


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_signal_ends_with_the_shard_in_flight(run: Any, here: Path, monkeypatch: Any, name: str) -> None:
    number, before = getattr(signal, name), [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    monkeypatch.setenv("SIGNAL", name)
    monkeypatch.setenv("CALL", str(STEPS + 1))  # in the first call of the second shard
    found = run("--seeds", "0-13", "--out", "out")
    line = "out: stopped: 2 of 4 shards are left; give the same command again to go on\n"
    assert (found.status, found.out, found.err) == (128 + number, "", SAID + line)
    assert len(files(here / "out")) == 3
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
    monkeypatch.delenv("CALL")
    assert "4 shards, 2 made now" in run("--seeds", "0-13", "--out", "out").out


def test_a_signal_in_the_last_shard_changes_nothing(run: Any, here: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("SIGNAL", "SIGTERM")
    monkeypatch.setenv("CALL", "1")
    assert run("--seeds", "0-1", "--out", "out").status == 0 and len(files(here / "out")) == 2


OTHER = {
    "seeds (0-9 there, 0-10 here)": {"seeds": range(11)},
    "batch (4 there, 5 here)": {"batch": 5},
    "grid.times, nfe (4 there, 5 here)": {"steps": 5},
    "dtype (float32 there, float64 here)": {"dtype": torch.float64},
    "last (none there, denoise here)": {"last": "denoise"},
    "model.digest": {"network": plain(module=torch.nn.Linear(2, 2))},
    "shape ([2, 3] there, [3] here)": {"network": plain(shape=(3,))},
    "params.beta_max (20.0 there, 19.0 here)": {"params": {"beta_max": 19.0}},
    "digest": {"module": "vp_ddim"},
    "specs.sde (None there, vp here)": {"specs": {"sde": "vp"}},
    "cond.label": {"cond": {"label": torch.arange(10.0)}},
}


@pytest.mark.parametrize("words", OTHER)
def test_another_run_is_refused_by_what_differs_and_nothing_is_written(here: Path, words: str) -> None:
    written(here / "out")
    before = files(here / "out")
    refused(words, written, here / "out", **OTHER[words])
    assert files(here / "out") == before


def test_conditions_and_weights_are_told_apart_by_their_digests(here: Path) -> None:
    torch.manual_seed(0)
    layers = [torch.nn.Linear(2, 2) for _ in range(2)]
    written(here / "weights", plain(module=layers[0]))
    assert written(here / "weights", plain(module=layers[0])).made == 0
    refused("model.digest", written, here / "weights", plain(module=layers[1]))
    counts = lambda *shape, **kind: {"label": torch.arange(10, **kind).reshape(shape)}  # noqa: E731
    written(here / "forms", lambda z, t, label: z, shape=(2, 3), cond=counts(10, 1))
    for other in (counts(10), counts(10, 1, dtype=torch.float64)):
        refused("cond.label", written, here / "forms", lambda z, t, label: z, shape=(2, 3), cond=other)
    mean = torch.tensor([[1.0], [2.0]])
    reverting = {"module": "ir_sde_conjugate", "shape": (2, 2)}
    written(here / "mean", lambda z, t: z, constants={"mu": mean}, **reverting)
    refused("constants.mu", written, here / "mean", lambda z, t: z, constants={"mu": mean.T}, **reverting)

    def fn(y: torch.Tensor, sigma: torch.Tensor, label: torch.Tensor, text: list[str]) -> torch.Tensor:
        return y / (1 + sigma**2) + label[:, None, None] + torch.tensor([len(t) for t in text])[:, None, None]

    network = ss.networks.denoiser(fn, shape=(2, 3))
    cond = {"label": torch.arange(10.0), "text": ["a", "ab"] * 5}
    written(here / "cond", network, cond=cond)
    whole = ss.sample("vp_ddim_eta", network, ss.TimeGrid.uniform(VP, 4), range(10), cond=cond, batch=4)
    assert torch.equal(torch.cat(list(ss.read_samples(here / "cond"))), whole)
    refused("cond.text", written, here / "cond", network, cond={**cond, "text": ["a", "abc"] * 5})
    refused("cond: text is a list of what", written, here / "cond", network, cond={**cond, "text": [{1}] * 10})


def test_networks_of_the_same_weights_are_told_apart_by_what_their_adapters_were_given(here: Path) -> None:
    weights, image, null = torch.nn.Linear(2, 2), torch.zeros(2, 3), {"label": torch.zeros(1)}
    known = {"module": weights, "shape": (2, 3)}
    denoiser, inpainting = ss.networks.denoiser, ss.networks.inpainting
    blind, labelled = lambda y, sigma: y, lambda y, sigma, label: y + label[:, None, None]
    guided = lambda *given: ss.networks.guided(denoiser(labelled, **known), *given)  # noqa: E731
    told = inpainting(denoiser(blind, **known), image, image)
    cases = {
        "model.guided.scale (2.0 there, 5.0 here)": (guided(2.0, null), guided(5.0, null)),
        "model.guided.null.label": (guided(2.0, null), guided(2.0, {"label": torch.ones(1)})),
        "model.inpainting.image": (told, inpainting(denoiser(blind, **known), image + 1, image)),
        "model.inpainting.mask": (told, inpainting(denoiser(blind, **known), image, image + 1)),
        "model.inpainting.denoiser.dtype": (told, inpainting(denoiser(blind, dtype=None, **known), image, image)),
        "model.denoiser.sigma_range": (denoiser(blind, **known), denoiser(blind, sigma_range=(0.5, 2.0), **known)),
        "model.cond.label": [denoiser(labelled, cond={"label": torch.tensor([x])}, **known) for x in (0.0, 1.0)],
    }
    for k, (words, (network, other)) in enumerate(cases.items()):
        given = {"cond": null} if "guided" in words else {}
        written(here / f"{k}", network, **given)
        assert written(here / f"{k}", ss.networks.counting(network), **given).made == 0
        refused(words, written, here / f"{k}", other, **given)


def test_a_batch_that_does_not_fit_into_memory_is_halved_and_recorded(here: Path) -> None:
    written(here / "whole", seeds=range(13), batch=8)
    written(here / "out", plain(most=3), seeds=range(13), batch=8)
    for name, batch in (("00000000-00000007", 2), ("00000008-00000012", 3)):
        with safe_open(here / "out" / f"{name}.safetensors", "pt") as file:
            assert json.loads(file.metadata()["record"])["batch"] == batch
    pairs = zip(ss.read_samples(here / "out"), ss.read_samples(here / "whole"), strict=True)
    assert all(torch.allclose(halved, whole, rtol=1e-5, atol=1e-6) for halved, whole in pairs)
    assert written(here / "out", seeds=range(13), batch=8).made == 0
    with pytest.raises(torch.OutOfMemoryError):
        written(here / "none", plain(most=0))


def test_what_is_no_folder_of_this_kind_is_refused(here: Path) -> None:
    refused("no manifest.json", ss.read_samples, here / "none")
    refused("other files (shards_own.py) and no manifest.json", written, here)
    refused("out: it is a file", written, here / "shards_own.py")
    refused("shards_own.py cannot be written to", written, here / "shards_own.py" / "out")
    refused("seeds: they do not ascend", written, here / "out", seeds=[0, 2, 1])
    refused("seeds: they do not ascend", written, here / "out", seeds=[0, 0])
    refused("rank: there is no worker 2 of 2", written, here / "out", rank=2, workers=2)
    refused("batch: 0 seeds", written, here / "out", batch=0)
    assert not (here / "out").exists()
    (here / "out").mkdir()
    for text in ("", "[]", "{}", '{"seeds": "0-9", "batch": 0, "shape": []}', '{"seeds": "x", "batch": 1, "shape": []}'):
        (here / "out" / "manifest.json").write_text(text)
        refused("cannot be read as the manifest", written, here / "out")
        refused("cannot be read as the manifest", ss.read_samples, here / "out")


def test_a_full_disk_is_one_line_and_nothing_is_half_written(run: Any, here: Path, monkeypatch: Any) -> None:
    real, calls = os.fsync, []

    def full(handle: int) -> None:
        calls.append(handle)
        if len(calls) == 3:  # the manifest and a shard fit
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(handle)

    monkeypatch.setattr(os, "fsync", full)
    found = run("--seeds", "0-9", "--out", "out")
    name = "00000004-00000007.safetensors"
    assert (found.status, found.err) == (2, f"{SAID}out/{name}: file: No space left on device; choose another place\n")
    assert sorted(os.listdir("out")) == ["00000000-00000003.safetensors", "manifest.json"]


def test_torchrun_says_which_worker_this_is() -> None:
    assert Worker.of({}) == Worker(0, 1, None) and Worker.of({}).device("cuda") == "cuda"
    worker = Worker.of({"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1"})
    assert worker == Worker(5, 8, 1)
    assert [worker.device(name) for name in ("cuda", "cuda:0", "cpu")] == ["cuda:1", "cuda:0", "cpu"]
    refused("environment: WORLD_SIZE is 'many'", Worker.of, {"RANK": "0", "WORLD_SIZE": "many"})
    refused("environment: RANK is '-1'", Worker.of, {"RANK": "-1", "WORLD_SIZE": "1"})
    refused("environment: one of RANK and WORLD_SIZE", Worker.of, {"WORLD_SIZE": "2"})


def test_moments_of_features_merge_the_shards(here: Path) -> None:
    written(here / "out")
    samples = torch.cat(list(ss.read_samples(here / "out"))).double().flatten(1)
    count, mean, covariance = ss.feature_moments(here / "out", lambda x: x.flatten(1))
    assert count == 10 and torch.allclose(mean, samples.mean(0), rtol=1e-12)
    assert torch.allclose(covariance, samples.T.cov(), rtol=1e-12, atol=1e-15)
    refused("features: they are (4, 2, 3) for 4 samples", ss.feature_moments, here / "out", lambda x: x)
    written(here / "one", seeds=[7])
    refused("one sample has no covariance", ss.feature_moments, here / "one", lambda x: x.flatten(1))
