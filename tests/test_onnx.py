"""Networks that come as ONNX files, and a baked sampler that goes out as one."""

from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file

import stepsmith as ss
from stepsmith import tuning
from stepsmith.cli import cli
from stepsmith.errors import InputError
from stepsmith.measure import choosing

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

BATCH = torch.export.Dim("batch")
SHAPE = (2, 4, 4)


class Denoiser(torch.nn.Module):
    """A small one that is not linear; sigma 0-d or (batch,), with a condition where one is given."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = torch.nn.Conv2d(2, 2, 3, padding=1)

    def forward(self, x, sigma, label=None):
        level = sigma.reshape(-1, 1, 1, 1)
        shift = 0 if label is None else label.reshape(-1, 1, 1, 1)
        return torch.tanh(self.conv(x / (1 + level**2).sqrt())) + shift


def exported(path, net, dynamic=BATCH, **inputs):
    shapes = {name: {0: dynamic} if value.ndim else {} for name, value in inputs.items()}
    given = {"dynamo": True, "dynamic_shapes": shapes if dynamic else None, "external_data": False, "verbose": False}
    torch.onnx.export(net.eval(), kwargs=inputs, f=path, **given)
    return path


@pytest.mark.parametrize("sigma", [torch.rand(2), torch.tensor(0.5)], ids=["a sigma a sample", "one sigma"])
def test_a_denoiser_of_a_file_samples_as_its_module_does(sigma, tmp_path):
    net = Denoiser()
    network = ss.networks.onnx(exported(tmp_path / "net.onnx", net, x=torch.rand(2, *SHAPE), sigma=sigma))
    own = ss.networks.denoiser(net, SHAPE)
    grid = ss.TimeGrid.logsnr(ss.load_sde("psld"), 5)
    one, two = (ss.sample("psld_rvv2", each, grid, range(3)) for each in (network, own))
    assert torch.allclose(one, two, atol=1e-5) and network.kind == "denoiser" and network.shape == SHAPE
    assert len(network.digest) == 64 and ss.networks.load(tmp_path / "net.onnx").digest == network.digest


def test_further_inputs_are_conditions(tmp_path):
    net, label = Denoiser(), torch.tensor([0.3, -0.2, 0.1])
    file = exported(tmp_path / "net.onnx", net, x=torch.rand(2, *SHAPE), sigma=torch.rand(2), label=torch.rand(2))
    network, grid = ss.networks.onnx(file), ss.TimeGrid.logsnr(ss.load_sde("vp"), 3)
    one, two = (
        ss.sample("vp_ddim", each, grid, range(3), cond={"label": label}) for each in (network, ss.networks.denoiser(net, SHAPE))
    )
    assert torch.allclose(one, two, atol=1e-5)
    with pytest.raises(InputError, match="its conditions are label, given are none"):
        ss.sample("vp_ddim", network, grid, range(3))


def test_a_network_of_two_components_is_called_at_its_time(tmp_path):
    class Eps(torch.nn.Module):
        def forward(self, x, t):
            return x * (1 + t).reshape(-1, 1, 1, 1)

    file = exported(tmp_path / "eps.onnx", Eps(), x=torch.rand(2, 4, 3, 3), t=torch.rand(2))
    network, z = ss.networks.onnx(file, "eps-L", components=2), torch.rand(2, 3, 2, 3, 3)
    found = network(tuple(z), torch.tensor(0.25, dtype=torch.float64))
    assert (network.inputs, network.outputs, network.shape) == (2, 2, (2, 3, 3))
    assert torch.allclose(torch.stack(found), 1.25 * z)


def test_a_file_of_another_kind_is_sampled_and_tuned_to_on_the_command_line(tmp_path, monkeypatch):
    """``--kind eps``: the same pictures as from Python; ``tune`` derives for that kind, and its file runs with the network."""

    class Eps(torch.nn.Module):
        def forward(self, x, t):
            return torch.tanh(x) * (1 - t / 2).reshape(-1, 1, 1, 1)

    file = exported(tmp_path / "eps.onnx", Eps(), x=torch.rand(2, *SHAPE), t=torch.rand(2))
    monkeypatch.chdir(tmp_path)
    named = ("--network", str(file), "--kind", "eps", "--seeds", "0-7")
    words = ["sample", "--sde", "vp", "--sampler", "ddim", *named, "--steps", "4", "--out", "a.safetensors"]
    drawn = CliRunner().invoke(cli, words)
    assert drawn.exit_code == 0, drawn.output
    grid = ss.TimeGrid.logsnr(ss.load_sde("vp"), 4)
    wanted = ss.sample(ss.load(ss.emit(ss.derive("vp", "ddim", "eps-L"))), ss.networks.onnx(file, "eps-L"), grid, range(8))
    (found,) = load_file("a.safetensors").values()
    assert torch.allclose(found, wanted, atol=1e-5)
    monkeypatch.setattr(choosing, "ROWS", (choosing.BASELINE,))
    monkeypatch.setattr(tuning, "SEARCH", 1)
    words = ["tune", "--sde", "vp", *named, "--nfe", "3", "--teacher", "20", "--out", "tuned"]
    tuned = CliRunner().invoke(cli, words)
    assert tuned.exit_code == 0, tuned.output
    module = ss.load(tmp_path / "tuned" / "vp_tuned_3.py")
    assert module.NETWORK == "eps-L"
    assert ss.sample(module, ss.networks.onnx(file, "eps-L"), None, range(3)).isfinite().all()


class Half(torch.nn.Module):
    def forward(self, x, sigma):
        return (x / (1 + sigma.reshape(-1, 1, 1, 1) ** 2)).to(x.dtype)


def test_the_noise_level_has_the_type_of_the_file(tmp_path):
    """Weights of half precision beside a noise level of float32, as networks are often exported."""
    file = exported(tmp_path / "half.onnx", Half(), x=torch.rand(2, *SHAPE).half(), sigma=torch.rand(2))
    y = torch.rand(3, *SHAPE)
    (found,) = ss.networks.onnx(file)((y,), torch.tensor(0.5, dtype=torch.float64))
    assert torch.allclose(found, y / 1.25, atol=1e-3)


def test_what_onnxruntime_refuses_at_a_call_is_told(tmp_path):
    file = exported(tmp_path / "net.onnx", Denoiser(), x=torch.rand(2, *SHAPE), sigma=torch.rand(2))
    with pytest.raises(InputError, match="network: onnxruntime cannot run it"):
        ss.sample("vp_ddim", ss.networks.onnx(file, shape=(3, 8, 8)), ss.TimeGrid.logsnr(ss.load_sde("vp"), 3), range(2))


class Two(torch.nn.Module):
    def forward(self, x, sigma):
        return 2 * x, x + sigma.reshape(-1, 1, 1, 1)


class Other(torch.nn.Module):
    def forward(self, sample, timestep):
        return sample * timestep.reshape(-1, 1, 1, 1)


@pytest.mark.parametrize(
    ("net", "inputs", "given", "words"),
    [
        (Other(), {"sample": torch.rand(2, *SHAPE), "timestep": torch.rand(2)}, {}, "it has the inputs sample, timestep and"),
        (Two(), {"x": torch.rand(2, *SHAPE), "sigma": torch.rand(2)}, {}, "x, sigma and 2 outputs; export a denoiser with"),
        (Denoiser(), {"x": torch.rand(2, *SHAPE), "sigma": torch.rand(2)}, {"dynamic": None}, "the batch dynamic"),
        (Denoiser(), {"x": torch.rand(2, *SHAPE), "sigma": torch.tensor([1, 2])}, {}, r"sigma is tensor\(int64\)"),
    ],
    ids=["other names", "two outputs", "a fixed batch", "a whole level"],
)
def test_a_file_that_is_no_such_network_is_told(net, inputs, given, words, tmp_path):
    file = exported(tmp_path / "net.onnx", net, **given, **inputs)
    with pytest.raises(InputError, match=words):
        ss.networks.onnx(file)


def test_what_is_no_model_is_told(tmp_path):
    (tmp_path / "net.onnx").write_bytes(b"not a model")
    with pytest.raises(InputError, match="network: onnxruntime cannot load it"):
        ss.networks.load(tmp_path / "net.onnx")
    with pytest.raises(InputError, match="network: onnxruntime cannot load it"):
        ss.networks.load(tmp_path / "none.onnx")


def test_the_run_of_a_baked_module_is_one_graph(tmp_path, monkeypatch):
    """The snippet of docs/hosts.md: what onnxruntime makes of its file is the run, for any batch."""
    import onnxruntime

    monkeypatch.chdir(tmp_path)
    page = (Path(__file__).parents[1] / "docs" / "hosts.md").read_text()
    space = {}
    exec(page[page.index("## ONNX") :].split("```")[1].removeprefix("python"), space)
    normals = torch.randn(3, 1, 8, 8)
    with torch.no_grad():
        expected = space["Run"](space["Denoiser"]())(normals)
    (found,) = onnxruntime.InferenceSession("run.onnx").run(None, {"noise": normals.numpy()})
    assert torch.allclose(torch.from_numpy(found), expected, atol=1e-5) and 0.8 < expected.std() < 1.2
