"""Checkpoints of the papers' repositories: names and shapes as they write them, weights at random."""

import pickle

import pytest
import torch
from torch import nn

import stepsmith as ss
from stepsmith.errors import InputError

SHAPE = (3, 8, 8)


class NCSNpp(nn.Module):
    """The frame of the repositories' network: everything in the list all_modules, the components as channels."""

    def __init__(self, outputs, width=8):
        super().__init__()
        layers = [nn.Linear(1, width), nn.Linear(width, width), nn.Conv2d(6, width, 3, padding=1)]
        self.all_modules = nn.ModuleList([*layers, nn.GroupNorm(2, width), nn.Conv2d(width, 3 * outputs, 3, padding=1)])

    def forward(self, z, t):
        first, second, wide, norm, out = self.all_modules
        h = wide(z) + second(first(t[:, None]).tanh())[:, :, None, None]
        return out(norm(h).relu())


def lightning(path, network, average, **more):
    tensors = {f"score_fn.{key}": value for key, value in network.state_dict().items()}
    tensors |= {f"ema_score_fn.{key}": value for key, value in average.state_dict().items()}
    torch.save({"epoch": 3, "state_dict": tensors, "optimizer_states": [{"state": {}}], **more}, path)
    return path


def distributed(path, network, average):
    shadow = {"decay": 0.9999, "num_updates": 7, "shadow_params": [p.detach() for p in average.parameters()]}
    model = {f"module.{key}": value for key, value in network.state_dict().items()}
    torch.save({"optimizer": {"state": {}}, "model": model, "ema": shadow, "step": 7}, path)
    return path


def state(batch=2):
    return tuple(torch.randn(batch, *SHAPE, generator=torch.Generator().manual_seed(k)) for k in (1, 2))


@pytest.mark.parametrize("ema", [True, False])
def test_a_checkpoint_of_psld_gives_what_its_network_gives(tmp_path, ema):
    plain, average = NCSNpp(2), NCSNpp(2)
    network = ss.networks.psld(lightning(tmp_path / "epoch.ckpt", plain, average), NCSNpp(2), SHAPE, ema=ema)
    z, t = state(), torch.tensor(0.4, dtype=torch.float64)
    expected = (average if ema else plain)(torch.cat(z, 1), t.float().expand(2))
    assert torch.equal(torch.cat(network(z, t), 1), expected) and network.kind == "eps-L"
    assert ss.sample("psld_conjugate_eps_l", network, ss.TimeGrid.quadratic(ss.load_sde("psld"), 3), [0]).shape == (1, *SHAPE)


@pytest.mark.parametrize("ema", [True, False])
def test_a_checkpoint_of_cld_has_the_score_of_its_repository(tmp_path, ema):
    plain, average, law = NCSNpp(1), NCSNpp(1), ss.load("cld_conjugate")
    network = ss.networks.cld(distributed(tmp_path / "checkpoint.pth", plain, average), NCSNpp(1), SHAPE, law, ema=ema)
    (x, v), t = state(), torch.tensor(0.4, dtype=torch.float64)
    raw = (average if ema else plain)(torch.cat((x, v), 1), t.float().expand(2))
    S = ss.load_sde("cld").at().covariance(0.4)
    multiplier = -((S[0, 0] / (S[0, 0] * S[1, 1] - S[0, 1] ** 2)) ** 0.5)
    score = -v / S[1, 1] + raw * multiplier  # get_score_fn of models/utils.py
    _, e_v = network((x, v), t)
    assert torch.allclose(-e_v / law.start(0.4)[1, 1].float(), score, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("sde", "params"), [("cld", {}), ("psld", {"Gamma": 0.0, "nu": 4.0})])
def test_the_second_epsilon_follows_from_the_first_where_the_data_are_known(tmp_path, sde, params):
    class Known(NCSNpp):
        def forward(self, z, t):
            return e_v

    law = ss.load(f"{sde}_conjugate")
    data, e_x, e_v = (torch.randn(1, *SHAPE, dtype=torch.float64) for _ in range(3))
    L, p = law.start(0.3, **params), law.start_data(0.3, **params)[:, 0]
    z = (p[0] * data + L[0, 0] * e_x, p[1] * data + L[1, 0] * e_x + L[1, 1] * e_v)
    if sde == "psld":
        path = lightning(tmp_path / "one.ckpt", NCSNpp(1), NCSNpp(1))
        network = ss.networks.psld(path, Known(1), SHAPE, law=law, params=params)
    else:
        path = distributed(tmp_path / "one.pth", NCSNpp(1), NCSNpp(1))
        network = ss.networks.cld(path, Known(1), SHAPE, law, mixed=False)
    found = network(z, torch.tensor(0.3, dtype=torch.float64))
    assert torch.allclose(found[0], e_x, atol=1e-9) and torch.allclose(found[1], e_v)


class Config:
    """What a checkpoint may carry beside tensors."""


def test_what_is_no_such_checkpoint_is_refused_in_one_line(tmp_path):
    path = lightning(tmp_path / "more.ckpt", NCSNpp(2), NCSNpp(2), hyper_parameters=Config())
    with pytest.raises(InputError, match="pickle=True"):
        ss.networks.psld(path, NCSNpp(2), SHAPE)
    assert ss.networks.psld(path, NCSNpp(2), SHAPE, pickle=True).outputs == 2
    with pytest.raises(InputError, match="size mismatch"):
        ss.networks.psld(path, NCSNpp(2, width=16), SHAPE, pickle=True)
    path = distributed(tmp_path / "other.pth", NCSNpp(1), NCSNpp(1, width=16))
    with pytest.raises(InputError, match="do not fit"):
        ss.networks.cld(path, NCSNpp(1), SHAPE, ss.load("cld_conjugate"))
    with pytest.raises(InputError, match="no such entry"):
        ss.networks.psld(path, NCSNpp(2), SHAPE)
    (tmp_path / "list.pt").write_bytes(pickle.dumps([1, 2]))
    with pytest.raises(InputError, match="tensors alone"):
        ss.networks.psld(tmp_path / "list.pt", NCSNpp(2), SHAPE)
    with pytest.raises(InputError, match="no such file"):
        ss.networks.psld(tmp_path / "none.ckpt", NCSNpp(2), SHAPE)
