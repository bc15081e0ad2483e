"""The density of a step or of its path: that of the normals that were drawn, with the Jacobian; its gradient; what has none
is refused."""

import math
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

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
    "name", ["vp_ddim_eta", "vp_sde_dpmpp_2m", "vp_sde_dpmpp_3m", "psld_euler_maruyama", "vp_euler_maruyama"]
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


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_the_density_of_an_image_in_a_narrow_dtype_is_that_of_the_same_state_in_float64(dtype):
    wide = lambda state: tuple(z.double() for z in state)  # noqa: E731
    for name in ("vp_ddim_eta", "psld_roba"):
        module, row, state, noise, _ = drawn(name, batch=2, shape=(3, 128, 128))
        state, noise = (tuple(z.to(dtype) for z in values) for values in (state, noise))
        network = network_of(module, torch.tensor(0.3, dtype=torch.float64, requires_grad=True))
        path = ss.draw_path(module, row, state, network, noise)
        assert torch.equal(ss.follow_path(module, row, state, network, path.drawn).log_probs, path.log_probs)
        assert path.drawn[0][0].dtype == dtype and path.log_prob.dtype == torch.float32 and path.log_prob.isfinite().all()
        if name == "vp_ddim_eta":
            new, _, found = ss.step_with_logprob(module, row, state, network, noise)
            law = ss.transition(module, row, state, network)
            wanted = type(law)(wide(law.mean), law.factor, ()).log_prob(wide(new))
            assert torch.allclose(found.double(), wanted, rtol=1e-6) and wanted.dtype == torch.float64
            assert torch.equal(law.log_prob(wide(new)), wanted) and found.requires_grad


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


def test_the_density_of_a_step_has_the_gradient_of_the_state_that_was_drawn():
    """Through the state itself the gradient would cancel; a path that is drawn says that it has none."""
    module, row, state, noise, _ = drawn("vp_ddim_eta")
    W = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    network = network_of(module, W)
    new, _, found = ss.step_with_logprob(module, row, state, network, noise)
    wanted = ss.transition(module, row, state, network).log_prob(tuple(z.detach() for z in new))
    slopes = [torch.autograd.grad(each.sum(), W, retain_graph=True)[0].item() for each in (found, wanted)]
    assert slopes[0] == pytest.approx(slopes[1], rel=1e-12) and abs(slopes[0]) > 1e-3 and new[0].requires_grad
    assert not ss.draw_path(module, row, state, network, noise).log_prob.requires_grad


def test_with_fewer_draws_than_components_it_is_the_density_on_their_range():
    module, row, state, noise, _ = drawn("cld_euler_maruyama")
    assert module.DRAWS == 1 and len(module.COMPONENTS) == 2
    law = ss.transition(module, row, state, network_of(module, torch.tensor(0.3)))
    assert (law.factor[0] == 0).all() and law.factor[1] > 0  # the position draws nothing
    scale = law.factor[1].item()
    found = law.log_prob(law.draw(noise))
    told = (-noise[0].square() / 2 - math.log(scale) - math.log(2 * math.pi) / 2).sum(1)
    assert torch.allclose(found, told, rtol=1e-12)


def run(module, table, state, network, shape=(3,), seed=2):
    """The paths of all rows of a module whose steps are all alike, and the normals that they drew."""
    generator = torch.Generator().manual_seed(seed)
    paths, noise = [], []
    for row in table:
        noise += [[torch.randn(len(state[0]), *shape, dtype=torch.float64, generator=generator) for _ in range(module.DRAWS)]]
        paths.append(ss.draw_path(module, row, state, network, noise[-1]))
        state = paths[-1].state
    return paths, noise


def follow(module, table, state, network, paths):
    """The sum of the log-densities of the states that were drawn, for another network."""
    total = torch.zeros(len(state[0]), dtype=torch.float64)
    for row, path in zip(table, paths, strict=True):
        again = ss.follow_path(module, row, state, network, path.drawn)
        total, state = total + again.log_prob, again.state
    return total


SPLIT = ["psld_roba", "psld_sscs", "psld_baoab", "psld_conjugate_oba", "hold_sscs"]


@pytest.mark.parametrize("name", SPLIT)
def test_a_path_is_the_step_and_has_the_density_of_its_normals_over_their_jacobian(name):
    """With a linear network the states that two steps draw are a linear function of all their normals."""
    module, _, state, _, _ = drawn(name, shape=(2,))
    table = module.coefficients([0.6, 0.45, 0.3])
    network = network_of(module, torch.tensor(0.3, dtype=torch.float64))
    paths, noise = run(module, table, state, network, (2,))
    before = (state, *(path.state for path in paths))
    for row, z, xi, path in zip(table, before, noise, paths, strict=False):
        assert all(map(torch.equal, module.step(z, row.unbind(), network, xi)[0], path.state))

    def points(xi):  # of the first place of the first sample
        z, found = tuple(value[:1, :1] for value in state), []
        for row, part in zip(table, xi.reshape(2, module.DRAWS), strict=True):
            path = ss.draw_path(module, row, z, network, tuple(value.reshape(1, 1) for value in part))
            found += [value for u in path.drawn for value in u]
            z = path.state
        return torch.cat(found).flatten()

    J = torch.autograd.functional.jacobian(points, torch.zeros(2 * module.DRAWS, dtype=torch.float64))
    found = sum(path.log_prob for path in paths)
    normal = sum(-(xi.square() + math.log(2 * math.pi)).sum(1) / 2 for step in noise for xi in step)
    if name.endswith("sscs"):  # the first part has a line, of its own length; the second all of the state
        blocks = len(module.COMPONENTS)
        at = lambda k, first, draws: J[2 * blocks * k + first :][:blocks, module.DRAWS * k :][:, draws]  # noqa: E731
        volume = sum(at(k, 0, [0]).norm().log() + at(k, blocks, slice(1, blocks + 1)).det().abs().log() for k in (0, 1))
    else:
        volume = torch.linalg.slogdet(J)[1]
    assert torch.allclose(found, normal - 2 * volume, rtol=1e-10)
    assert torch.allclose(follow(module, table, state, network, paths), found, rtol=1e-10)


def test_the_part_of_roba_is_its_ornstein_uhlenbeck_part_in_other_coordinates():
    """z_O is exact in closed form; u = T z_O with a T that is no matter of the network, and cancels in ratios of densities."""
    module, row, state, noise, _ = drawn("psld_roba")
    p, h, zero = module.PARAMS, 0.3 - 0.2, torch.zeros(1, dtype=torch.float64)  # the third row
    beta, Minv = p["beta_min"], (p["Gamma"] - p["nu"]) ** 2 / 4
    rates = torch.tensor([p["Gamma"] * beta * h, p["nu"] * beta * h], dtype=torch.float64)
    S = torch.diag((-torch.expm1(-rates) * torch.tensor([1.0, 1 / Minv], dtype=torch.float64)).sqrt())
    path = ss.draw_path(module, row, state, network_of(module, torch.tensor(0.3, dtype=torch.float64)), noise)
    mean = torch.stack(state, -1) * torch.exp(-rates / 2)
    z_O = mean + torch.stack(noise, -1) @ S
    exact = torch.distributions.MultivariateNormal(mean, scale_tril=S).log_prob(z_O).sum(1)
    quiet = lambda xi: torch.cat(module.step((zero, zero), row.unbind(), network_of(module, 0.0), xi.split(1))[0])  # noqa: E731
    T = torch.autograd.functional.jacobian(quiet, torch.zeros(2, dtype=torch.float64)) @ torch.linalg.inv(S)
    assert torch.allclose(path.log_prob, exact - 3 * torch.linalg.slogdet(T)[1], rtol=1e-10)
    assert torch.allclose(torch.stack(path.drawn[0], -1), z_O @ T.mT, rtol=1e-10)


@pytest.mark.parametrize("name", SPLIT)
def test_the_score_of_a_path_is_its_slope(name):
    module, _, state, _, _ = drawn(name)
    table = module.coefficients([0.6, 0.45, 0.3, 0.2])
    W = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    with torch.no_grad():
        paths, _ = run(module, table, state, network_of(module, W))
    found = lambda W: follow(module, table, state, network_of(module, W), paths).sum()  # noqa: E731
    (slope,) = torch.autograd.grad(found(W), W)
    up, down = (found(W.detach() + e).item() for e in (1e-5, -1e-5))
    assert abs(slope) > 1e-3 and slope.item() == pytest.approx((up - down) / 2e-5, rel=1e-6)


def test_where_every_draw_comes_last_the_path_is_the_step():
    module, row, state, noise, history = drawn("vp_sde_dpmpp_2m")
    network = network_of(module, torch.tensor(0.3, dtype=torch.float64))
    new, after, told = ss.step_with_logprob(module, row, state, network, noise, history)
    path = ss.draw_path(module, row, state, network, noise, history)
    assert torch.allclose(path.state[0], new[0], rtol=1e-14) and all(map(torch.equal, path.history, after))
    assert torch.allclose(path.log_prob, told, rtol=1e-13) and len(path.drawn) == 1
    assert torch.equal(path.drawn[0][0], new[0])


def test_singular_noise_before_a_call_has_the_density_on_its_range():
    module, row, state, noise, _ = drawn("cld_roba")
    network = network_of(module, torch.tensor(0.3, dtype=torch.float64))
    path = ss.draw_path(module, row, state, network, noise)
    quiet = ss.draw_path(module, row, state, network, tuple(0 * xi for xi in noise))
    moved = torch.stack([a - b for a, b in zip(path.drawn[0], quiet.drawn[0], strict=True)])
    length = (moved[:, 0, 0] / noise[0][0, 0]).norm()
    told = (-noise[0].square() / 2 - length.log() - math.log(2 * math.pi) / 2).sum(1)
    assert module.DRAWS == 1 and torch.allclose(path.log_prob, told, rtol=1e-10)


def test_first_and_last_steps_of_their_own_have_paths():
    """SA-Solver predicts with the noise, calls its network and corrects with the same noise; its last step only predicts."""
    module, row, state, noise, history = drawn("vp_sa_solver")
    network = network_of(module, torch.tensor(0.3, dtype=torch.float64))
    first = module.coefficients([0.6, 0.45, 0.3, 0.2])[0]
    for step, own in ((module.step_first, first), (module.step_last, row)):
        path = ss.draw_path(module, own, state, network, noise, history, step=step)
        told, kept = step(state, own.unbind(), network, noise, history)
        assert torch.equal(path.state[0], told[0]) and all(map(torch.equal, path.history, kept))
    _, _, found = ss.step_with_logprob(module, row, state, network, noise, history, step=module.step_last)
    scale = row[module.COEFFICIENTS.index("x_w1")]
    assert torch.allclose(found, (-noise[0].square() / 2 - scale.log() - math.log(2 * math.pi) / 2).sum(1), rtol=1e-11)
    with pytest.raises(InputError, match="step: it is no step of vp sa-solver"):
        ss.draw_path(module, row, state, network, noise, history, step=len)


def test_states_of_another_number_of_parts_are_refused():
    module, row, state, noise, _ = drawn("psld_sscs")
    network = network_of(module, torch.tensor(0.3, dtype=torch.float64))
    path = ss.draw_path(module, row, state, network, noise)
    with pytest.raises(InputError, match="drawn: there are 1 states, this step of psld sscs has 2 drawing parts"):
        ss.follow_path(module, row, state, network, path.drawn[:1])


def test_no_part_calls_the_network_again():
    module, row, state, noise, _ = drawn("psld_baoab")
    calls = []
    network = lambda inputs, time: (calls.append(time), inputs)[1]  # noqa: E731
    ss.draw_path(module, row, state, network, noise)
    assert len(calls) == module.NFE == 4


def test_noise_that_a_state_does_not_keep_has_no_such_density():
    lost = lambda state, c, network, noise=(), history=(): (network((state[0] + c[0] * noise[0],), c[0]), ())  # noqa: E731
    module = SimpleNamespace(**{**vars(ss.load("vp_ddim_eta")), "step": lost, "COEFFICIENTS": ("c",)})
    z = (torch.zeros(2, 3),)
    with pytest.raises(InputError, match="draws noise that its network sees and its state does not keep"):
        ss.draw_path(module, torch.ones(1).double(), z, lambda inputs, time: inputs, z)


def test_a_step_without_noise_at_these_parameters_is_refused():
    module, _, state, noise, _ = drawn("vp_ddim_eta")
    row = module.coefficients([0.6, 0.4], eta=0.0)[0]
    for ask in (ss.step_with_logprob, ss.draw_path):
        with pytest.raises(InputError, match="draws no noise in this step"):
            ask(module, row, state, network_of(module, torch.tensor(1.0)), noise)


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
    if "its network" not in what:
        with pytest.raises(InputError, match=what):
            ss.draw_path(module, row, (z,) * len(module.COMPONENTS), network_of(module, torch.tensor(1.0)), ())


@pytest.mark.parametrize(
    ("name", "given", "words"),
    [
        ("vp_ddim_eta", {"row": torch.zeros(2, 9)}, r"row: it is a Tensor of shape \(2, 9\), .* such as module.coefficients"),
        ("vp_ddim_eta", {"row": (0.1, 0.2)}, r"row: it is a tuple of shape \(\)"),
        ("vp_ddim_eta", {"state": torch.zeros(1, 3)}, r"state: it is of type Tensor, .* a tuple of 1; .* such as \(x,\)"),
        ("vp_ddim_eta", {"noise": torch.zeros(1, 3)}, "noise: it is of type Tensor, and a step of vp ddim-eta takes"),
        ("vp_ddim_eta", {"noise": ()}, "noise: it is a tuple of 0"),
        ("psld_euler_maruyama", {"noise": (torch.zeros(5, 3),) * 3}, "noise: it is a tuple of 3, .* takes a tuple of 2"),
        ("vp_ddim_eta", {"noise": (torch.zeros(4, 3),)}, r"noise: .* has the shape \(4, 3\), and the state \(5, 3\)"),
        ("psld_euler_maruyama", {"state": (torch.zeros(5, 3), torch.zeros(3))}, "state: one of its tensors has the shape"),
        ("vp_sde_dpmpp_2m", {"history": ()}, "history: it is a tuple of 0, .* takes a tuple of 1"),
        ("vp_ddim_eta", {"network": 3}, "network: int cannot be called"),
        ("vp_ddim_eta", {"network": lambda y: y}, r"network: it is called as network\(inputs, time\), and cannot be"),
        ("vp_ddim_eta", {"network": ss.networks.channels(lambda z, t: z, 1, (3,))}, "network: it is a network of kind eps-L"),
    ],
)
def test_what_does_not_fit_a_step_is_refused_before_any_call(name, given, words):
    def network(inputs, time):
        raise AssertionError

    module, row, state, noise, history = drawn(name)
    arguments = {"row": row, "state": state, "network": network, "noise": noise, "history": history, **given}
    for ask in (ss.step_with_logprob, ss.draw_path):
        with pytest.raises(InputError, match=words):
            ask(module, **arguments)


@pytest.mark.parametrize(
    ("network", "words"),
    [
        (lambda z, t: torch.stack((0.5 * z[0], 0.2 * z[1]), 1), "network: it gives Tensor, not a tuple of tensors"),
        (lambda z, t: (z[0],), "network: it gives 1 outputs"),
        (lambda z, t: (z[0][:1], z[1]), r"network: it gives outputs of shape \(1, 3\) for inputs of shape \(2, 3\)"),
        (lambda z, t: (z[0].to(torch.complex128), z[1]), "network: it gives torch.complex128"),
        (lambda z, t: (z[0].mul_(2), z[1]), "network: it writes into its inputs"),
    ],
)
def test_what_a_network_gives_is_held_to_its_inputs_as_in_a_run(network, words):
    module = ss.load(ss.emit(ss.derive("psld", "euler-maruyama", "eps-L")))
    row, state = module.coefficients([0.6, 0.5])[0], (torch.ones(2, 3, dtype=torch.float64),) * 2
    for ask in (ss.step_with_logprob, ss.draw_path):
        with pytest.raises(InputError, match=words):
            ask(module, row, tuple(z.clone() for z in state), network, state)


@pytest.mark.parametrize("state", [torch.zeros(4, 3), (torch.zeros(1, 3),), (torch.zeros(4, 3),) * 2, (torch.zeros(()),)])
def test_a_law_has_the_density_of_states_alone(state):
    module = ss.load("vp_ddim_eta")
    law = ss.transition(module, module.coefficients([0.6, 0.5])[0], (torch.ones(4, 3),), lambda z, t: (0.5 * z[0],))
    for ask in (law.log_prob, law.normals):
        with pytest.raises(InputError, match="state: "):
            ask(state)


def test_a_module_may_be_given_by_its_name():
    module, row, state, noise, _ = drawn("vp_ddim_eta")
    network = network_of(module, torch.tensor(0.3))
    found, told = (ss.step_with_logprob(each, row, state, network, noise)[2] for each in ("vp-ddim-eta", module))
    assert torch.equal(found, told)
    with pytest.raises(InputError, match="drawn: it is of type Tensor"):
        ss.follow_path("vp_ddim_eta", row, state, network, state)
    with pytest.raises(InputError, match="drawn: it is of type NoneType, this step of vp ddim-eta has 1 drawing parts"):
        ss.follow_path("vp_ddim_eta", row, state, network, None)


def test_the_example_earns_more_after_fifty_updates():
    told = subprocess.run([sys.executable, ROOT / "examples" / "flow_rl.py"], capture_output=True, text=True, check=True).stdout
    first, last = (float(told.split()[k]) for k in (1, 7))
    assert last > first + 0.2
