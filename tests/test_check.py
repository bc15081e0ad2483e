"""``stepsmith check`` finds the audited orders again, a wrong coefficient, and a seed that depends on the batch."""

import itertools
import json
import math
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from stepsmith.cli import cli
from stepsmith.cli.check import options, sentences, wrong
from stepsmith.errors import InputError
from stepsmith.measure import check
from stepsmith.measure.problems import Gaussian
from stepsmith.measure.subjects import Function, Scheduler

diffusers = pytest.importorskip("diffusers")
torch.set_num_threads(1)
pytestmark = pytest.mark.filterwarnings("ignore")

AUDITED = (  # orders of the formula in docs/audit.md, which are proven
    ("DDIMScheduler", {}, 1),
    ("EulerDiscreteScheduler", {}, 1),
    ("DPMSolverMultistepScheduler", {"solver_order": 2}, 2),
    ("DPMSolverMultistepScheduler", {"solver_order": 3}, 2),
    ("DPMSolverSinglestepScheduler", {"solver_order": 2}, 2),
    ("UniPCMultistepScheduler", {"solver_order": 2}, 3),
    ("UniPCMultistepScheduler", {"solver_order": 3}, 4),
    ("DEISMultistepScheduler", {"solver_order": 2}, 2),
    ("DEISMultistepScheduler", {"solver_order": 3}, 3),
    ("HeunDiscreteScheduler", {}, 2),
)


def scheduler(kind: Any, **config: Any) -> Scheduler:
    return Scheduler.of(getattr(diffusers, kind) if isinstance(kind, str) else kind, config)


@pytest.mark.parametrize(("kind", "config", "order"), AUDITED)
def test_the_order_of_the_common_step_is_the_proven_one(kind: str, config: dict[str, Any], order: int) -> None:
    found = check.formula(scheduler(kind, **config), (80, 160, 320))
    assert found == pytest.approx(order, abs=0.2)


def test_a_flow_scheduler_and_its_run() -> None:
    errors, last = check.run_errors(scheduler("FlowMatchEulerDiscreteScheduler"), (20, 40, 80))
    assert check.slope({1 / n: e for n, e in errors.items()}) == pytest.approx(1, abs=0.1)
    assert last is not None and last < 1e-4


class Wrong(diffusers.DPMSolverMultistepScheduler):  # type: ignore[misc, name-defined]
    """One coefficient is off: the second difference has the weight 1/4 in place of 1/2."""

    def multistep_dpm_solver_second_order_update(self, outputs: Any, *args: Any, sample: Any = None, **kwargs: Any) -> Any:
        right = super().multistep_dpm_solver_second_order_update(outputs, *args, sample=sample, **kwargs)
        first = self.dpm_solver_first_order_update(outputs[-1], *args, sample=sample, **kwargs)
        return first + 0.5 * (right - first)


class Mixed(diffusers.DDIMScheduler):  # type: ignore[misc, name-defined]
    """Noise of one sample reaches the next: it is drawn for the batch as a whole."""

    def step(self, out: Any, t: Any, x: Any, generator: Any = None, return_dict: bool = True) -> Any:
        first = generator[0] if isinstance(generator, list) else generator
        draw = torch.randn(x.shape, dtype=x.dtype, generator=first)
        return super().step(out, t, x, eta=1.0, variance_noise=draw, return_dict=return_dict)


def test_a_wrong_coefficient_loses_the_order() -> None:
    assert check.formula(scheduler(Wrong), (80, 160, 320)) == pytest.approx(1, abs=0.1)


def test_a_sample_that_depends_on_its_batch_is_found() -> None:
    assert not check.batch_invariant(scheduler(Mixed))
    assert check.batch_invariant(scheduler("DDPMScheduler"))


def test_a_function_may_write_into_its_start() -> None:
    """The truth is the flow from the start as it was."""

    def euler(model: Any, x: Any, sigmas: Any, inplace: bool) -> Any:
        for a, b in itertools.pairwise(sigmas):
            slope = (x - model(x, a.expand(len(x)))) / a
            x = x.add_((b - a) * slope) if inplace else x + (b - a) * slope
        return x

    found = [check.run_errors(Function("euler", euler, {"inplace": inplace}), (20, 40)) for inplace in (True, False)]
    assert found[0] == found[1]


class Made(diffusers.DDIMScheduler):  # type: ignore[misc, name-defined]
    """What ``made`` does with the samples before and after a step."""

    made: Any = None

    def step(self, out: Any, t: Any, x: Any, return_dict: bool = True) -> Any:
        return self.made(x, super().step(out, t, x, return_dict=False)[0])


def test_a_scheduler_may_write_into_its_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Made, "made", lambda self, x, new: (x.copy_(new),))
    assert check.run_errors(scheduler(Made), (20, 40)) == check.run_errors(scheduler("DDIMScheduler"), (20, 40))


@pytest.mark.parametrize(
    ("made", "have"), [(lambda self, x, new: (new[:1],), "a tensor of shape"), (lambda self, x, new: 3, "int")]
)
def test_a_step_that_gives_no_samples_of_its_batch_is_refused(monkeypatch: pytest.MonkeyPatch, made: Any, have: str) -> None:
    monkeypatch.setattr(Made, "made", made)
    with pytest.raises(InputError, match=f"a step of Made gives {have} .* return the samples"):
        check.judge(scheduler(Made))


def ancestral(draw: Any) -> Function:
    """Euler steps to a lower level, and noise back up to the wanted one, drawn by ``draw(x)``."""

    def sample(model: Any, x: Any, sigmas: Any) -> Any:
        for a, b in itertools.pairwise(sigmas):
            low = b * b / a
            x = x + (low - a) * (x - model(x, a.expand(len(x)))) / a + (b**2 - low**2).sqrt() * draw(x)
        return x

    return Function("ancestral", sample)


def heun(model: Any, x: Any, sigmas: Any) -> Any:
    for a, b in itertools.pairwise(sigmas):
        slope = (x - model(x, a.expand(len(x)))) / a
        y = x + (b - a) * slope
        x = x + (b - a) * (slope + (y - model(y, b.expand(len(x)))) / b) / 2
    return x


def euler(model: Any, x: Any, sigmas: Any) -> Any:
    for a, b in itertools.pairwise(sigmas):
        x = x + (b - a) * (x - model(x, a.expand(len(x)))) / a
    return x


def heun_then_euler(model: Any, x: Any, sigmas: Any) -> Any:
    """On coarse grids it has order 2."""
    return (heun if len(sigmas) < 50 else euler)(model, x, sigmas)


def euler_at_the_end(model: Any, x: Any, sigmas: Any) -> Any:
    """Its two orders mix: the error falls slowly on coarse grids."""
    few = int((sigmas > 0.15).sum())
    return euler(model, heun(model, x, sigmas[: few + 1]), sigmas[few:])


@pytest.mark.parametrize(
    ("errors", "order"),
    [
        ((6.0e-3, 5.2e-3, 3.3e-3, 1.8e-3, 9.4e-4), 0.94),  # the last slope counts, however slowly it began
        ((1.1e-2, 2.4e-3, 5.8e-4, 1.4e-4, 3.2e-3), None),  # a rise
        ((1.1e-2, 2.4e-3, 5.8e-4, 6.4e-3, 3.2e-3), None),  # a rise, and a fall from there
        ((1e-4, 6e-6, 4e-7, 3e-8, 3e-3), None),  # a rise from roundings
        ((2.0e-2, 1.6e-2, 1.5e-2, 1.5e-2, 1.5e-2), None),  # a plateau that is no rounding
        ((1.6e-2, 1e-3, 6.2e-5, 3.9e-6, 3.7e-6), 4.0),  # one that is
        ((1.6e-3, 1e-4, 6.2e-6, 9e-7, 1.4e-6, 1e-6), 2.8),  # rounding rises and falls
        ((1.4e-4, 8.7e-6, 5.4e-7, 3.0e-8, 3.1e-8), 4.0),
        ((2e-7, 3e-8, 1e-8), None),  # roundings alone
        ((1e-2, 1e-3, math.nan), None),
        ((1e-2, 0.0, 1e-2), None),
    ],
)
def test_an_order_is_the_last_slope_unless_a_finer_grid_contradicts(errors: tuple[float, ...], order: float | None) -> None:
    found = check.slope({2.0**-k: error for k, error in enumerate(errors)})
    assert found is None if order is None else found == pytest.approx(order, abs=0.05)


def test_a_sampler_that_is_another_on_fine_grids_has_no_order() -> None:
    def run_of(sampler: Any) -> float | None:
        errors, _ = check.run_errors(Function("planted", sampler), (20, 40, 80))
        return check.slope({1 / n: e for n, e in errors.items()})

    assert run_of(heun) == pytest.approx(2, abs=0.3) and run_of(heun_then_euler) is None
    assert run_of(euler_at_the_end) == pytest.approx(1, abs=0.5)


def test_errors_of_rounding_alone_are_not_called_a_failure() -> None:
    exact = Function("exact", lambda model, x, sigmas: check.flow(x.double(), sigmas[[0, -1]].tolist())[-1].to(x.dtype))
    report = check.judge(exact, (20, 40))
    assert report.run is None and not report.stalls
    assert "hidden by rounding" in sentences(report)[1]


def mixing(inner: Any) -> Any:
    """The first sample is right, the others receive some of the mean of the batch."""

    def sample(model: Any, x: Any, sigmas: Any) -> Any:
        x = inner(model, x, sigmas)
        x[1:] += 0.05 * x.mean(0)
        return x

    return sample


def test_each_sample_of_a_batch_is_compared_with_and_without_its_neighbours() -> None:
    assert check.batch_invariant(Function("heun", heun)) and check.independent(Function("heun", heun))
    mixed = Function("mixed", mixing(heun))
    assert not check.batch_invariant(mixed) and not check.independent(mixed)
    noisy = ancestral(torch.randn_like)  # drawn for the batch as a whole, but for each sample alike
    assert not check.batch_invariant(noisy) and check.independent(noisy)
    assert not check.independent(Function("mixed", mixing(noisy.call)))


def told(sampler: Any) -> list[str]:
    """What the printed lines accuse."""
    return [line.split(" in 20 steps")[0] for line in wrong(check.judge(sampler, (20,)))]


def planted(change: Any) -> Function:
    """The ancestral sampler, with its samples changed."""
    return Function("planted", lambda model, x, sigmas: change(ancestral(torch.randn_like).call(model, x, sigmas)))


VALUES, BATCH = "Correlation of the values of a sample", "Correlation of the samples of a batch"


@pytest.mark.parametrize(
    ("sampler", "faults"),
    [
        (planted(lambda x: x + 0.3), ["Mean"]),
        (planted(lambda x: x + 0.1), ["Mean"]),
        (planted(torch.neg), ["Mean"]),
        (planted(lambda x: x.transpose(2, 3)), ["Mean"]),
        (ancestral(lambda x: torch.randn(x[:, :1, :1, :1].shape).expand_as(x)), [VALUES]),  # all pixels share a normal
        (ancestral(lambda x: torch.randn(x[:, :, :1].shape).expand_as(x)), [VALUES]),  # those of a column
        (ancestral(lambda x: torch.randn(x[:1].shape).expand_as(x)), ["Mean"]),  # all samples share theirs: one draw of the mean
        (ancestral(lambda x: torch.randn(x[::2].shape).repeat(2, 1, 1, 1)[: len(x)]), [BATCH]),  # halves of a batch
        (ancestral(lambda x: torch.randn(x[::2].shape).repeat_interleave(2, 0)[: len(x)]), [BATCH]),  # pairs
    ],
)  # fmt: skip
def test_noise_that_is_shared_and_samples_that_are_moved_are_found(sampler: Function, faults: list[str]) -> None:
    assert told(sampler) == faults


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        ("DDPMScheduler", {}),
        ("EulerAncestralDiscreteScheduler", {}),
        ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
        ("SASolverScheduler", {}),
    ],
)
def test_right_samplers_that_draw_are_not_accused(kind: str, config: dict[str, Any]) -> None:
    assert told(scheduler(kind, **config)) == [] == told(ancestral(torch.randn_like))


def test_a_function_that_draws_for_the_batch_as_a_whole_is_found() -> None:
    own = torch.random.get_rng_state()
    report = check.judge(ancestral(torch.randn_like), (20, 40))
    assert report.random and report.repeats and not report.batch
    assert torch.equal(own, torch.random.get_rng_state())

    def each(x: Any) -> Any:  # a generator a sample, seeded by what it is
        seeds = (1000 * x.double().flatten(1).abs().sum(1)).long().tolist()
        return torch.stack([torch.randn(x.shape[1:], generator=torch.Generator().manual_seed(seed)) for seed in seeds]).to(x)

    assert check.batch_invariant(ancestral(each))


def test_noise_is_seen_and_its_variance_measured() -> None:
    report = check.judge(scheduler("DDPMScheduler"), (20, 40))
    assert report.random and report.repeats and report.run is None
    assert all(ratio < 0.9 for ratio, _ in report.variance.values())  # with few steps its small variance is too small
    exact, error = check.drawn(scheduler("SASolverScheduler"), 40)["variance"]
    assert exact == pytest.approx(1.0, abs=0.03 + 3 * error)


def test_values_read_back_are_counted_without_those_of_the_network() -> None:
    assert check.synchronisations(scheduler("DPMSolverMultistepScheduler")) == 0

    def reading(model: Any, x: Any, sigmas: Any, disable: bool = False) -> Any:
        for pair in itertools.pairwise(sigmas):
            x = euler(model, x, pair)
            assert float(pair[0]) > 0  # one value
        return x

    own = Function("reading", reading)
    assert check.synchronisations(own) == 1
    errors, last = check.run_errors(own, (40, 80, 160))
    assert last is None and check.slope({1 / n: e for n, e in errors.items()}) == pytest.approx(1, abs=0.1)


def test_the_exact_flow_is_that_of_one_gaussian() -> None:
    """y(s) - m is proportional to sqrt(c + s^2); held with the mixture's flow by a mixture of one."""
    y = torch.tensor([[1.3, -0.4]], dtype=torch.float64)[..., None, None]
    before = check.MIXTURE
    try:
        check.MIXTURE = Gaussian(torch.tensor([0.2, -0.1]), 0.25)
        (_, found) = check.flow(y, [3.0, 0.5])
    finally:
        check.MIXTURE = before
    mean = torch.tensor([0.2, -0.1], dtype=torch.float64)[:, None, None]
    assert found.numpy() == pytest.approx((mean + (y - mean) * math.sqrt((0.25 + 0.25) / (0.25 + 9))).numpy(), abs=1e-8)


def test_the_verb_takes_classes_functions_of_files_and_what_we_emit(tmp_path: Path) -> None:
    def run(*words: str) -> Any:
        return CliRunner().invoke(cli, ["check", *words])

    found = run("diffusers:DDIMScheduler", "--json", "--expect-order", "1")
    assert found.exit_code == 0 and json.loads(found.output)["formula"] == pytest.approx(1, abs=0.1)
    assert run("diffusers:DDIMScheduler", "--expect-order", "2").exit_code == 1
    stalls = run("diffusers:DDIMScheduler", "--set", "timestep_spacing=trailing", "--expect-order", "1")
    assert stalls.exit_code == 1 and "none, for the error does not go on falling" in stalls.output  # 320 does not divide 1000
    assert CliRunner().invoke(cli, ["build", "vp_dpmpp_2m", "--dialect", "k-diffusion", "--out", str(tmp_path)]).exit_code == 0
    told = run(f"{tmp_path}/vp_dpmpp_2m.py:sample_vp_dpmpp_2m")
    assert told.exit_code == 0, told.output
    order = float(next(line for line in told.output.splitlines() if "Order of a run" in line).split(":")[1].split()[0])
    assert order == pytest.approx(2, abs=0.3)


@pytest.mark.parametrize("target", ["nothing", "os:sep", "no_such_module:x", "diffusers:UNet2DModel"])
def test_what_is_no_sampler_is_one_line(target: str) -> None:
    done = subprocess.run([sys.executable, "-m", "stepsmith", "check", target], capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "sampler: " in done.stderr


def test_a_sampler_that_gives_no_number_is_refused() -> None:
    with pytest.raises(InputError, match="gives NaN or infinity in 12 steps"):
        check.judge(Function("broken", lambda model, x, sigmas: x * math.nan))


OWN = """
import functools

import torch


class Bare:
    def __init__(self, order=1):
        pass

    def set_timesteps(self, count):
        self.timesteps = torch.arange(count)

    def step(self, output, timestep, sample, return_dict=True):
        return (sample,)


class Asking(Bare):
    def __init__(self, order=1):
        if order == 1:
            raise ValueError("give order 2")


one = lambda model, x, sigmas: x[:1]
leaves = lambda model, x, sigmas: exit(7)
few = lambda model, x: x
more = lambda model, x, sigmas, extra: x
several = lambda model, x, sigmas: (x,)
fails = lambda model, x, sigmas: x + absent
part = functools.partial(more, extra=1)
"""


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("Bare", {}, "sampler: Bare has no .config, which says what its network predicts; register its arguments"),
        ("Bare", {"foo": 1}, "set: Bare takes no foo; it takes order"),
        ("Asking", {}, r"Asking does not run \(ValueError: give order 2, in own.py:\d+\); .* set what it asks for: --set"),
        ("Asking", {"order": 2}, "Asking has no .config"),
        ("few", {}, r"sampler: few is called as f\(model, x, sigmas\), and cannot be \(too many positional arguments\)"),
        ("more", {}, r"cannot be \(missing a required argument: 'extra'\); set the arguments .* --set"),
        ("more", {"extra": 1, "foo": 1}, "set: more takes no foo; it takes model, x, sigmas, extra"),
        ("part", {"foo": 1}, "set: part takes no foo"),
        ("several", {}, "sampler: several gives tuple for samples of shape .*; return the samples, one tensor"),
        ("one", {}, "sampler: one gives a tensor of shape .* for samples of shape"),
        ("leaves", {}, r"leaves does not run \(SystemExit: 7"),
        ("fails", {}, r"fails does not run \(NameError: name 'absent' is not defined, in own.py:\d+\)"),
    ],
)
def test_what_a_sampler_does_not_take_or_give_is_told(tmp_path: Path, name: str, settings: dict[str, Any], words: str) -> None:
    from stepsmith.cli.check import run, subject

    (tmp_path / "own.py").write_text(OWN)
    target = f"{tmp_path}/own.py:{name}"
    with pytest.raises(InputError, match=words):
        run(target, lambda: check.judge(subject(target, settings)))


def test_wrong_use_is_no_wrong_order(tmp_path: Path) -> None:
    """Status 2 and its line, behind the one that says what is under way."""
    (tmp_path / "own.py").write_text(OWN)
    command = [sys.executable, "-m", "stepsmith", "check", f"{tmp_path}/own.py:fails", "--expect-order", "2"]
    done = subprocess.run(command, capture_output=True, text=True)
    first, last = done.stderr.splitlines()
    assert done.returncode == 2 and first.startswith("measuring") and last.startswith("sampler: ") and not done.stdout


def test_the_page_says_with_what_the_scheduler_of_vp_is_checked(tmp_path: Path) -> None:
    from stepsmith.cli.check import subject

    page = (Path(__file__).parents[1] / "docs" / "check.md").read_text()
    words = shlex.split(next(line for line in page.splitlines() if "--set 'params=" in line))
    assert CliRunner().invoke(cli, ["build", "vp_dpmpp_2m", "--dialect", "diffusers", "--out", str(tmp_path)]).exit_code == 0
    target, told = f"{tmp_path}/{words[2]}", options((words[words.index("--set") + 1],))
    with pytest.raises(InputError, match=r"begin at 157\.407: give params .* set what it asks for: --set KEY=VALUE"):
        subject(target, {})
    assert subject(target, told).space == "vp"


def test_a_setting_is_key_value() -> None:
    assert options(("solver_order=3", "use_karras_sigmas=true", "solver_type=bh1")) == {
        "solver_order": 3, "use_karras_sigmas": True, "solver_type": "bh1",
    }  # fmt: skip
    with pytest.raises(InputError, match="set: 'order' is no KEY=VALUE"):
        options(("order",))
