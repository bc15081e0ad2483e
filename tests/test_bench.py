"""The bench: the same starts and ends for all, errors that are those of the flow, the best peer in hindsight; the verb."""

import json
import math
import subprocess
import sys

import pytest
import torch

import stepsmith as ss
from stepsmith.cli import bench as verb
from stepsmith.errors import InputError, Unsupported
from stepsmith.measure import bench
from stepsmith.measure.problems import Gaussian

VP = ss.load_sde("vp")


def load(sampler):
    return ss.load(f"vp_{sampler.replace('-', '_')}")


@pytest.fixture(scope="module")
def ground():
    return bench.Bench.exact(VP, 128)


def test_an_error_is_the_distance_to_the_exact_flow_which_fine_runs_reach(ground):
    cells = [ground.cell(load("adams-3"), "logsnr", calls) for calls in (20, 80, 320)]
    assert [cell["median"] for cell in cells] == sorted((cell["median"] for cell in cells), reverse=True)
    assert cells[-1]["pooled"] < 3e-6 and cells[0]["pooled"] > 1e-3


def test_a_gaussian_run_has_the_error_that_its_formula_says():
    """On N(m, v) DDIM multiplies y - m by prod (v + s_1 s_0)/(v + s_0^2), the flow by sqrt((v + s_N^2)/(v + s_0^2))."""
    problem, sigma = Gaussian(torch.zeros(1, dtype=torch.float64), 0.25), VP.at().effective_sigma
    start = torch.tensor([[[1.0], [-2.0], [0.5]]], dtype=torch.float64)
    times = ss.TimeGrid.logsnr(VP, 6, 1.0, 0.05).times
    s, alpha = torch.from_numpy(sigma(times.numpy())), torch.exp(-times * (0.1 + 19.9 * times / 2) / 2)
    exact = start[0] / alpha[0] * ((0.25 + s[-1] ** 2) / (0.25 + s[0] ** 2)).sqrt() * alpha[-1]
    ground = bench.Bench(VP, 1.0, 0.05, (bench.Task(lambda module: problem.network(), start, exact, 0.5, exact),))
    cell = ground.cell(load("ddim"), "logsnr", 6)
    ended = start[0] / alpha[0] * torch.prod((0.25 + s[1:] * s[:-1]) / (0.25 + s[:-1] ** 2)) * alpha[-1]
    each = (ended - exact).abs()
    assert cell["pooled"] == pytest.approx(each.square().mean().sqrt().item(), rel=1e-9)
    assert cell["median"] == pytest.approx(each.median().item(), rel=1e-9)


def test_noise_is_held_to_the_law_at_the_end(ground):
    cell = ground.cell(load("sde-dpmpp-2m"), "logsnr", 80)
    assert cell["variance"] == pytest.approx(1, abs=0.1) and cell["distance"] < 0.3
    assert ground.cell(load("sde-dpmpp-2m"), "logsnr", 5)["distance"] > cell["distance"]


def test_a_budget_that_buys_no_step_has_no_cell(ground):
    assert ground.cell(load("heun"), "logsnr", 1) == {}


def test_the_sliced_distance_of_a_shift_is_its_length_over_the_root_of_the_dimension():
    x = torch.randn(2000, 4, dtype=torch.float64)
    assert bench.sliced(x, x[torch.randperm(2000)]) == 0
    assert bench.sliced(x + torch.tensor([2.0, 0, 0, 0]), x) == pytest.approx(2 / math.sqrt(4), rel=0.2)


def test_the_best_peer_is_chosen_budget_by_budget_and_a_ratio_is_a_geometric_mean():
    line = lambda peer, *errors: bench.Line(bench.Contestant("s", "g", peer), tuple({"pooled": e} for e in errors))  # noqa: E731
    lines = [line(True, 1.0, 0.1), line(True, 0.5, 0.4), line(False, 0.25, 0.2)]
    best = bench.best_peer(lines, "pooled")
    assert best == [0.5, 0.1]
    assert bench.ratio(lines[2], best, "pooled") == pytest.approx(math.sqrt(0.5 * 2))
    with pytest.raises(InputError, match="no peer"):
        bench.best_peer(lines[2:], "pooled")


@pytest.mark.parametrize(
    ("fn", "words"), [(lambda y, sigma: y[:, :1], "outputs of shape"), (lambda y, sigma: y * math.nan, "gives NaN")]
)
def test_a_network_that_does_not_fit_is_refused_and_no_traceback(fn, words):
    with pytest.raises(InputError, match=words):
        bench.Bench.trained(VP, ss.networks.denoiser(fn, (2, 4)), 8, load)


def test_a_diffusion_without_an_exact_problem_is_refused():
    with pytest.raises(Unsupported, match="ir-sde has constants"):
        bench.Bench.exact(ss.load_sde("ir-sde"), 8)


@pytest.mark.parametrize("name", ["vp", "psld"])
def test_every_contestant_is_derived_and_starts_and_ends_where_the_others_do(name):
    sde = ss.load_sde(name)
    for noise in (False, True):
        run = bench.contestants(sde, noise)
        assert any(c.peer for c in run) and len({(c.name, c.grid) for c in run}) == len(run)
        for grid in {c.grid for c in run}:
            times = bench.Bench(sde, 0.9, 0.01, ()).times(grid, 7, 0.5)
            assert (times[0], times[-1], len(times)) == (0.9, 0.01, 8)


def test_the_table_has_a_line_a_contestant_and_the_ratio_to_the_best_peer(ground):
    run = [bench.Contestant("ddim", "logsnr", True), bench.Contestant("adams-3-gaussian", "tan")]
    lines = list(bench.compete(ground, run, (5, 10), load))
    best = {key: bench.best_peer(lines, key) for key in ("pooled", "median")}
    head, (ddim, own, last) = verb._table(lines, best, (5, 10), ("pooled", "median"))
    assert "pooled / median" in verb.ERRORS and head[:4] == ["sampler", "grid", "5", "10"] and last[0] == "best peer"
    assert ddim[-2:] == ["1.00/1.00", "peer"] and own[-1] == "" and len({len(row) for row in (head, ddim, own, last)}) == 1
    assert float(own[-2].split("/")[1]) == pytest.approx(bench.ratio(lines[1], best["median"], "median"), abs=0.01)


def test_the_verb_gives_an_object_and_a_picture(tmp_path):
    (tmp_path / "mine.py").write_text(
        "from stepsmith import networks\nnet = networks.denoiser(lambda y, s: y / (1 + s * s), (1, 2, 2), (0.01, 80.0))\n"
    )
    words = [sys.executable, "-m", "stepsmith", "bench", "--network", "mine:net", "--paths", "16", "--nfe", "4,8", "--noise"]
    run = lambda *more: subprocess.run([*words, *more], capture_output=True, text=True, cwd=tmp_path)  # noqa: E731
    told = json.loads(run("--json", "--plot", "a.png").stdout)
    assert told["budgets"] == [4, 8] and all(len(row["cells"]) == 2 for row in told["rows"])
    assert (tmp_path / "a.png").stat().st_size > 1000
    wrong = run("--sampler", "ddim")
    assert wrong.returncode == 2 and wrong.stderr.startswith("sampler: 'ddim' is no SAMPLER@GRID;")
