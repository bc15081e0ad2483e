"""The density of a step: that of the normals that were drawn, with the Jacobian; its gradient; what has none is refused."""

import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import stepsmith as ss
from stepsmith.errors import InputError

ROOT = Path(__file__).parents[1]


def network_of(module, W):
    """Outputs that are linear in the inputs, with a weight that gradients reach."""
    return lambda inputs, time: tuple(W * sum(inputs) for _ in range(module.OUTPUTS))


def drawn(name, seed=1, batch=5, shape=(3,)):
    module = ss.load(name)
    generator = torch.Generator().manual_seed(seed)
    tensors = lambda n: tuple(torch.randn(batch, *shape, dtype=torch.float64, generator=generator) for _ in range(n))  # noqa: E731
    table = module.coefficients([0.6, 0.45, 0.3, 0.2])
    return module, table[2], tensors(len(module.COMPONENTS)), tensors(module.DRAWS), tensors(module.HISTORY)


@pytest.mark.parametrize(
    "name", ["vp_ddim_eta", "vp_sde_dpmpp_2m", "vp_sde_dpmpp_3m", "vp_sa_solver", "psld_euler_maruyama", "vp_euler_maruyama"]
)
def test_the_density_is_that_of_the_normals_over_the_jacobian_of_the_step(name):
    module, row, state, noise, history = drawn(name)
    network = network_of(module, torch.tensor(0.3, dtype=torch.float64))
    new, after, found = ss.step_with_logprob(module, row, state, network, noise, history)
    told, kept = module.step(state, row.unbind(), network, noise, history)
    assert all(torch.allclose(a, b, rtol=1e-13, atol=1e-13) for a, b in zip((*new, *after), (*told, *kept), strict=True))
    step = lambda xi: torch.stack(module.step(state, row.unbind(), network, xi.unbind(0), history)[0])  # noqa: E731
    J = torch.autograd.functional.jacobian(step, torch.stack(noise))[:, 0, :, :, 0, :].flatten(0, 1).flatten(1)
    normal = -sum(xi.square().sum(1) for xi in noise) / 2 - module.DRAWS * 3 / 2 * math.log(2 * math.pi)
    assert torch.allclose(found, normal - torch.linalg.slogdet(J)[1], rtol=1e-11)


def test_the_score_of_the_weights_is_that_of_the_gaussian():
    module, row, state, noise, _ = drawn("vp_ddim_eta")
    W = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    new = tuple(z.detach() for z in ss.step_with_logprob(module, row, state, network_of(module, W), noise)[0])
    found = ss.transition(module, row, state, network_of(module, W)).log_prob(new)
    (slope,) = torch.autograd.grad(found.sum(), W)
    up, down = (
        ss.transition(module, row, state, network_of(module, W.detach() + e)).log_prob(new).sum() for e in (1e-5, -1e-5)
    )
    assert slope.item() == pytest.approx((up - down).item() / 2e-5, rel=1e-6)


def test_with_fewer_draws_than_components_it_is_the_density_on_their_range():
    module, row, state, noise, _ = drawn("cld_euler_maruyama")
    assert module.DRAWS == 1 and len(module.COMPONENTS) == 2
    law = ss.transition(module, row, state, network_of(module, torch.tensor(0.3)))
    assert (law.factor[0] == 0).all() and law.factor[1] > 0  # the position draws nothing
    scale = law.factor[1].item()
    found = law.log_prob(law.draw(noise))
    told = (-noise[0].square() / 2 - math.log(scale) - math.log(2 * math.pi) / 2).sum(1)
    assert torch.allclose(found, told, rtol=1e-12)


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("psld_roba", "calls its network after a draw"),
        ("psld_sscs", "calls its network after a draw"),
        ("vp_ddim", "draws no noise"),
        ("blurring_oso_eps_l", "works on frequencies"),
    ],
)
def test_a_step_without_such_a_density_is_refused(name, what):
    module = ss.load(name)
    field = {"k2": torch.zeros(2, 2)} if hasattr(module, "FIELD") else {}
    row, z = module.coefficients([0.6, 0.4], **field)[0], torch.zeros(2, 3)
    with pytest.raises(InputError, match=what):
        ss.transition(module, row, (z,) * len(module.COMPONENTS), network_of(module, torch.tensor(1.0)))


def test_the_example_earns_more_after_fifty_updates():
    told = subprocess.run([sys.executable, ROOT / "examples" / "flow_rl.py"], capture_output=True, text=True, check=True).stdout
    first, last = (float(told.split()[k]) for k in (1, 7))
    assert last > first + 0.2
