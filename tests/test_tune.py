"""``stepsmith tune``: a choice that holds on other paths, learned numbers that keep what they should, runs that go on."""

from __future__ import annotations

import itertools
import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import stepsmith as ss
from stepsmith import tuning
from stepsmith.certificate import written
from stepsmith.cli import main
from stepsmith.errors import InputError, Unsupported
from stepsmith.measure import choosing, learning
from stepsmith.measure.choosing import BASELINE, FIRST, Error, Paths, Row
from stepsmith.measure.problems import GaussianMixture
from stepsmith.measure.slopes import carried
from stepsmith.measure.trials import Trials
from stepsmith.runtime.plan import make_plan

GAUSSIAN = Row("gaussian", 2, "theta", True)
EPSILON = Row("eps-R", 2, "log", True)
PROBLEM = GaussianMixture([0.5, 0.3, 0.2], [[0.9, -0.5], [-0.8, 0.4], [0.2, 0.9]], 0.2)
CALLS = 8


@pytest.fixture(scope="module", autouse=True)
def few_rows():
    """Two rows instead of a dozen and a short search: what is chosen among does not matter here."""
    patch = pytest.MonkeyPatch()
    patch.setattr(choosing, "ROWS", (BASELINE, GAUSSIAN))
    patch.setattr(tuning, "SEARCH", 2)
    yield
    patch.undo()


def made(**more):
    return {"seeds": range(16), "teacher": 40, "shape": (2,), **more}


@pytest.fixture(scope="module")
def chosen(few_rows):
    return ss.tune("vp", PROBLEM.network(), CALLS, **made())


@pytest.fixture(scope="module")
def modules():
    sde = ss.load_sde("vp")
    return {row: ss.load(written(ss.derive(sde, row.source), certified=False)) for row in (BASELINE, GAUSSIAN, EPSILON)}


def unseen(module, grid=None):
    """The samples of seeds that tuning never saw."""
    return ss.sample(module, PROBLEM.network(), grid, range(1000, 1200), dtype=torch.float64)


def base_of(modules, row, order=None):
    sde = ss.load_sde("vp")
    times = ss.TimeGrid.tan(sde, CALLS, scale=0.6).times
    params = {"sigma_data": 0.6} if "sigma_data" in modules[row].PARAMS else {}
    return learning.Base(row, modules[row], params, times, sde.at(), order)


def random(base, seed):
    generator = torch.Generator().manual_seed(seed)
    return 0.3 * torch.randn(base.zero().shape, dtype=torch.float64, generator=generator)


def test_the_tuned_module_is_better_than_the_baseline_on_paths_it_never_saw(chosen, modules):
    sde = ss.load_sde("vp")
    truth = unseen(modules[BASELINE], ss.TimeGrid.logsnr(sde, 200))
    tuned = Error.of(unseen(chosen.module), truth)
    baseline = Error.of(unseen(modules[BASELINE], ss.TimeGrid.logsnr(sde, CALLS)), truth)
    assert tuned.pooled < 0.7 * baseline.pooled and tuned.median < 0.3 * baseline.median
    assert len(chosen.grid.times) == CALLS + 1 and chosen.module.nfe(CALLS) == CALLS


def test_the_same_seeds_give_the_same_text_and_record(chosen):
    again = ss.tune("vp", PROBLEM.network(), CALLS, **made())
    assert again.text == chosen.text and again.record == chosen.record


def test_the_record_says_what_was_tried_and_for_whom(chosen, tmp_path):
    network = PROBLEM.network()
    object.__setattr__(network, "digest", "ab" * 32)
    bench = tuning.prepared("vp", network, range(16), kind="denoiser", start=None, end=1e-3, teacher=40)
    tuned = tuning.tuned(bench, CALLS)
    path = tuned.write(tmp_path)
    record = json.loads(path.with_suffix(".json").read_text())
    assert record["network"]["digest"] == ss.load(path).NETWORK_DIGEST == "ab" * 32
    assert record["kept"] in [each["name"] for each in record["candidates"]] and record["seeds"] == "0-15"
    assert {"predicted", "held_out", "baseline", "span", "teacher"} <= set(record)
    assert "logsnr" in {each["name"].split(" on ")[1] for each in record["candidates"]}
    assert record["candidates"] == chosen.record["candidates"]


def test_the_rows_whose_steps_are_searched_are_those_of_the_best_candidates():
    steady, moody = Row("x0", 2, "log", True), Row("gaussian", 3, "log", True)
    ranked = [choosing.Candidate(row, grid) for row, grid in ((moody, "logsnr"), (steady, "logsnr"), (steady, "edm"))]
    ranked += [choosing.FIRST, choosing.Candidate(moody, "quadratic")]  # the worst of all is of the row that leads
    assert choosing.leaders(ranked, 2) == ranked[:2]


def test_the_steps_are_searched_and_the_search_holds_on_other_paths(monkeypatch):
    monkeypatch.setattr(tuning, "SEARCH", 5)
    bench = tuning.prepared("vp", PROBLEM.network(), range(64), kind="denoiser", start=None, end=1e-3, teacher=40, shape=(2,))
    found = tuning.searched(bench, CALLS, FIRST, bench.log(CALLS), lambda: None)
    errors = [[bench.error(candidate, CALLS, half).loss for candidate in (found, FIRST)] for half in (0, 1)]
    assert all(one < 0.6 * two for one, two in errors)
    times = bench.times(found, CALLS)
    assert torch.equal(times[[0, -1]], bench.times(FIRST, CALLS)[[0, -1]]) and (times.diff() < 0).all()


def test_a_choice_that_does_not_hold_gives_the_baseline(monkeypatch):
    def error(bench, candidate, nfe, half):
        size = 1.0 if candidate == FIRST else 0.5 if half == 0 else 2.0
        return Error(size, size, size)

    monkeypatch.setattr(tuning.Bench, "error", error)
    tuned = ss.tune("vp", PROBLEM.network(), CALLS, **made())
    assert tuned.record["kept"] == "adams-3c on logsnr" == FIRST.name
    assert torch.equal(tuned.grid.times, ss.TimeGrid.logsnr(ss.load_sde("vp"), CALLS).times)


def test_a_run_that_is_stopped_goes_on_from_what_it_found(tmp_path, chosen):
    network, calls = PROBLEM.network(), []

    def counted(inputs, time):
        calls.append(time)
        if len(calls) == stop:
            raise KeyboardInterrupt
        return network(inputs, time)

    stop, trials = None, tmp_path / "trials.jsonl"
    ss.tune("vp", counted, CALLS, **made())
    of_all, stop = len(calls), len(calls) + 150
    with pytest.raises(KeyboardInterrupt):
        ss.tune("vp", counted, CALLS, **made(trials=trials))
    found = len(trials.read_text().splitlines())
    assert 0 < found < len(chosen.record["candidates"])
    trials.write_text(trials.read_text() + '{"setting": "cut sho')
    calls.clear()
    again = ss.tune("vp", counted, CALLS, **made(trials=trials))
    assert again.record["candidates"] == chosen.record["candidates"] and again.module.TIMES == chosen.module.TIMES
    assert len(calls) == of_all - CALLS * found


def test_what_was_found_with_other_paths_is_not_taken(tmp_path):
    path = tmp_path / "trials.jsonl"
    Trials.of("one", path).add("candidate", {"pooled": 1.0})
    assert Trials.of("one", path).known == {"candidate": {"pooled": 1.0}}
    assert Trials.of("two", path).known == {}


def test_the_paths_start_where_sample_starts(modules):
    module, seeds = modules[BASELINE], (3, 1, 4, 1, 5, 9, 2, 6)
    plan = make_plan(module, PROBLEM.network(), ss.TimeGrid.logsnr(ss.load_sde("vp"), 4), seeds, dtype=torch.float64)
    normals = tuple(plan.noise.normal((2,), "start", 0, j, dtype=torch.float64) for j in range(len(plan.law.factor)))
    assert torch.equal(choosing.drawn(module, 1.0, seeds, (2,))[0], plan.law.drawn(normals, (), (), plan.dtype)[0])


def test_conditions_go_with_their_paths(chosen):
    network, seen = PROBLEM.network(), set()

    def conditional(inputs, time, *, label):
        seen.add(tuple(label.tolist()))
        return network(inputs, time)

    tuned = ss.tune("vp", conditional, CALLS, **made(cond={"label": torch.arange(16)}))
    assert seen == {tuple(range(16)), tuple(range(0, 16, 2)), tuple(range(1, 16, 2))}
    assert tuned.record["candidates"] == chosen.record["candidates"]


def test_a_network_that_is_called_in_parts_is_tuned_to_alike(chosen):
    network, counts = PROBLEM.network(), set()

    def conditional(inputs, time, *, label, word):
        counts.add(len(inputs[0]))
        assert len(label) == len(word) == len(inputs[0])
        return network(inputs, time)

    tuned = ss.tune("vp", conditional, CALLS, **made(cond={"label": torch.arange(16), "word": ["a"]}, batch=3))
    assert counts == {1, 2, 3}  # 16 paths of the teacher, and half of them
    assert tuned.module.TABLE == chosen.module.TABLE and tuned.record["candidates"] == chosen.record["candidates"]
    assert tuned.record["network"]["name"] == "conditional"


def test_several_blocks_are_tuned(monkeypatch):
    monkeypatch.setattr(choosing, "BLOCKS", (BASELINE, GAUSSIAN))
    monkeypatch.setattr(choosing, "ASINH", ())
    tuned = ss.tune("psld", PROBLEM.network(), 5, seeds=range(8), teacher=20)
    assert tuned.module.COMPONENTS == ("x", "m") and tuned.record["held_out"]["median"] < tuned.record["baseline"]["median"]


@pytest.mark.parametrize("row", (BASELINE, GAUSSIAN, EPSILON), ids=lambda row: row.name)
def test_learned_numbers_of_zero_are_the_row_on_its_grid(modules, row):
    base = base_of(modules, row)
    starts = choosing.drawn(base.module, 1.0, range(4), (2,))
    run = carried(base.module, PROBLEM.network(), base.grid, starts, (), base.params)
    linear = base.at(base.zero())
    normals = learning.normals_of(base, Paths(starts, starts[0]))
    assert torch.allclose(base.times(base.zero()), base.grid, rtol=0, atol=1e-14)
    assert torch.allclose(linear.run(PROBLEM.network(), normals), run[0], rtol=0, atol=1e-11)


@pytest.mark.parametrize("order", (None, 2))
@pytest.mark.parametrize("row", (BASELINE, GAUSSIAN), ids=lambda row: row.name)
def test_the_gradient_of_the_loss_is_its_slope(modules, row, order):
    base = base_of(modules, row, order)
    starts = choosing.drawn(base.module, 1.0, range(6), (2,))
    ends = carried(modules[BASELINE], PROBLEM.network(), ss.TimeGrid.logsnr(ss.load_sde("vp"), 60).times, starts, (), {})[0]
    loss = lambda th: learning.loss_of(base, th, PROBLEM.network(), normals, ends)  # noqa: E731
    normals, th = learning.normals_of(base, Paths(starts, ends)), random(base, 1).requires_grad_()
    (gradient,) = torch.autograd.grad(loss(th), th)
    for seed in range(2, 6):
        direction = random(base, seed)
        with torch.no_grad():
            slope = (loss(th + 1e-5 * direction) - loss(th - 1e-5 * direction)) / 2e-5
        assert torch.allclose(gradient @ direction, slope, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("order", (1, 2, 3))
@pytest.mark.parametrize("row", (BASELINE, GAUSSIAN, EPSILON), ids=lambda row: row.name)
def test_certified_numbers_leave_polynomials_as_the_row_has_them(modules, row, order):
    """Ten random th: with r a polynomial of degree < p in the clock, the run is that of the row on these times."""
    free, base = base_of(modules, row), base_of(modules, row, order)
    width = base.params.get("sigma_data", 1.0)

    def network(inputs, sigma):
        u = -torch.log(sigma) if row.clock == "log" else -torch.atan(sigma / width)
        r = sum(c * u**k for k, c in enumerate((0.7, -0.4, 0.3)[:order])) * torch.ones_like(inputs[0])
        skip = 1 / (1 + (sigma / width) ** 2)
        answers = {"x0": r, "eps-R": inputs[0] - sigma * r, "gaussian": skip * inputs[0] + (1 - skip) * r}
        return (answers[row.frame],)

    normals, other = torch.linspace(-1, 1, 5, dtype=torch.float64), 0.0
    for seed in range(10):
        th = random(base, seed)
        steps = torch.cat((th[:CALLS], torch.zeros_like(th[CALLS:])))
        wanted = base.at(steps).run(network, normals)
        assert torch.allclose(base.at(th).run(network, normals), wanted, rtol=0, atol=1e-9)
        other = max(other, (free.at(th).run(network, normals) - wanted).abs().max().item())
    assert other > 1e-3  # the free ones do not


@pytest.mark.parametrize("row", (BASELINE, GAUSSIAN, EPSILON), ids=lambda row: row.name)
def test_what_certified_numbers_add_falls_with_their_order(modules, row):
    """Ten random th on eight steps over a span H of the clock log: they move the end of the run by H^p, free ones by H^0.

    With p = 3 too it can be H^2: the first step of a row is Euler's, and the outputs after it are called that far from the path.
    """
    added = {}
    for span in (0.02, 0.01):
        base = base_over(modules, row, span)
        starts = choosing.drawn(base.module, base.grid[0], range(4), (2,))
        normals = learning.normals_of(base, Paths(starts, starts[0]))
        for order, seed in itertools.product((None, 1, 2, 3), range(10)):
            at, th = replace(base, order=order), random(base, seed)
            steps = torch.cat((th[:CALLS], torch.zeros_like(th[CALLS:])))
            moved = at.at(th).run(PROBLEM.network(), normals) - at.at(steps).run(PROBLEM.network(), normals)
            added[span, order, seed] = moved.square().mean().sqrt().log2().item()
    for order, seed in itertools.product((None, 1, 2, 3), range(10)):
        slope = added[0.02, order, seed] - added[0.01, order, seed]
        assert slope > 1.9 if order == 3 else abs(slope - (order or 0)) < 0.1


def base_over(modules, row, span):
    """A row on eight steps that are even in log sigma, from sigma = 1 over such a span."""
    sde = ss.load_sde("vp")
    levels = torch.exp(-span * torch.linspace(0, 1, CALLS + 1, dtype=torch.float64))
    params = {"sigma_data": 0.6} if "sigma_data" in modules[row].PARAMS else {}
    return learning.Base(row, modules[row], params, ss.TimeGrid.sigmas(sde, levels).times, sde.at())


def test_learning_wins_on_paths_it_never_saw_and_is_baked(modules, tmp_path):
    network, trials = PROBLEM.network(), tmp_path / "trials.jsonl"
    given = made(learn=True, evaluations=25, trials=trials, seeds=range(64), teacher=120)
    tuned = ss.tune("vp", network, CALLS, **given)
    record = tuned.record["learned"]
    assert record["kept"] and record["held_out"]["median"] < tuned.record["held_out"]["median"]
    module = tuned.module
    assert module.ORDER is None and module.HISTORY == CALLS - 1 and module.SAMPLER.endswith("-learned")
    truth = unseen(modules[BASELINE], ss.TimeGrid.logsnr(ss.load_sde("vp"), 200))
    assert Error.of(unseen(module), truth).median == pytest.approx(record["held_out"]["median"], rel=0.6)
    known = trials.read_text()
    tried = [re.findall(r"evaluations (\d+ to \d+)", line) for line in known.splitlines() if '"learned from' in line]
    assert tried in ([["0 to 7"]] * k + [["7 to 25"]] for k in (2, 3))  # only the best of the starts goes on
    assert ss.tune("vp", network, CALLS, **given).text == tuned.text and trials.read_text() == known  # from what was kept


def test_a_certified_learned_module_says_what_it_keeps():
    tuned = ss.tune("vp", PROBLEM.network(), CALLS, **made(learn=True, certified=2, evaluations=8))
    assert tuned.record["learned"]["certified"] == 2
    if tuned.record["learned"]["kept"]:
        assert "polynomial of degree < 2" in tuned.text


@pytest.mark.parametrize(
    "given, words",
    (
        ({"nfe": 1}, "nfe: 1 calls"),
        ({"nfe": 30}, "half the steps of the teacher"),
        ({"seeds": range(4)}, "seeds: 4 are too few"),
        ({"certified": 2}, "certified: 2"),
        ({"certified": "2", "learn": True}, "certified: '2'"),
        ({"certified": True, "learn": True}, "certified: True"),
        ({"evaluations": 0}, "evaluations: 0 of the loss"),
        ({"start": 2.0}, "start: 2.0 is outside the time span"),
        ({"kind": "eps-L"}, "network: it is a network of kind denoiser"),
    ),
    ids=str,
)
def test_bad_input_is_refused_in_one_line(given, words):
    with pytest.raises(InputError, match=words):
        ss.tune("vp", PROBLEM.network(), **{**made(), "nfe": CALLS, **given})


def test_what_cannot_be_tuned_says_why():
    with pytest.raises(Unsupported, match="ir-sde has constants"):
        ss.tune("ir-sde", PROBLEM.network(), CALLS)
    with pytest.raises(Unsupported, match="one block"):
        ss.tune("psld", PROBLEM.network(), 5, seeds=range(8), teacher=20, learn=True)
    with pytest.raises(Unsupported, match="2 blocks are tuned for a network that predicts the data, and this one predicts eps-L"):
        ss.tune("psld", lambda z, t: z, 5, kind="eps-L", shape=(2,))


def test_a_network_whose_run_is_exact_is_tuned_to():
    point = lambda z, t: (0 * z[0] + 0.3,)  # noqa: E731  data of one point
    assert ss.tune("vp", point, 3, shape=(2,), seeds=range(8), teacher=20).record["held_out"]["pooled"] < 1e-6


def test_a_network_without_derivatives_is_named(modules):
    starts = choosing.drawn(modules[BASELINE], 1.0, range(4), (2,))
    outside = lambda inputs, time: (torch.from_numpy(inputs[0].numpy()),)  # noqa: E731  numpy refuses what autograd follows
    with pytest.raises(InputError, match="gives no derivatives"):
        learning.learned(base_of(modules, BASELINE), outside, Paths(starts, starts[0]), 2)


def test_a_missing_budget_is_named_as_it_is_written(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["stepsmith", "tune", "--sde", "vp", "--network", "digits"])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2 and "nfe: Missing option '--nfe'" in capsys.readouterr().err


def test_a_network_that_a_host_does_not_call_is_refused_before_it_is_tuned_to(tmp_path, monkeypatch, capsys):
    (tmp_path / "raw.py").write_text("def fn(z, t):\n    raise AssertionError('it was called')\n")
    words = f"--network {tmp_path / 'raw.py'}:fn --kind eps --shape 1,4,4 --nfe 5 --dialect diffusers --out {tmp_path / 'out'}"
    monkeypatch.setattr(sys, "argv", ["stepsmith", "tune", "--sde", "vp", *words.split()])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2 and "needs a denoiser, and this network is of kind eps-L" in capsys.readouterr().err


def test_a_network_is_tuned_to_as_what_it_says_it_is(monkeypatch):
    monkeypatch.setattr(choosing, "ASINH", ())
    flow = ss.networks.channels(lambda z, t: 0.5 * z, 1, (2,), "flow")
    tuned = ss.tune("rectified-flow", flow, 4, seeds=range(8), teacher=20)
    assert tuned.record["kind"] == tuned.module.NETWORK == "flow"
    assert repr(tuned) == f"Tuned(rectified_flow_tuned_4: {tuned.record['kept']})"


@pytest.mark.parametrize("words", ["--nfe 1 --seeds 0-7 --teacher 20", "--nfe 5 --seeds 3-1", "--nfe 5 --network nope"])
def test_what_is_refused_leaves_no_folder(tmp_path, monkeypatch, words):
    monkeypatch.setattr(sys, "argv", ["stepsmith", "tune", *words.split(), "--out", str(tmp_path / "out")])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2 and not any(tmp_path.iterdir())


def test_the_verb_writes_a_module_a_record_and_a_picture(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(choosing, "ASINH", ())
    folder = tmp_path / "out"
    line = f"tune --nfe 4,5 --seeds 0-7 --teacher 20 --out {folder} --plot {folder / 'error.png'}"
    monkeypatch.setattr(sys, "argv", ["stepsmith", *line.split()])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    assert "vp_tuned_4.py" in capsys.readouterr().out
    names = {path.name for path in folder.iterdir()}
    assert names == {"error.png", "trials.jsonl", *(f"vp_tuned_{n}.{end}" for n in (4, 5) for end in ("py", "json"))}
    tuned_for = ss.load(folder / "vp_tuned_5.py").NETWORK_DIGEST
    assert tuned_for == ss.networks.load("digits").digest


def test_the_lines_of_the_page_on_tuning_run(capsys):
    page = (Path(__file__).parents[1] / "docs" / "tune.md").read_text(encoding="utf-8")
    lines = "".join(re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL))
    names: dict = {}
    exec(lines, names)
    assert names["samples"].shape == (4, 1, 8, 8) and " on " in capsys.readouterr().out
