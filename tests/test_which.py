"""Which sampler, when: cells of the page measured again, its statements counted in its own tables, how a cell is chosen."""

from __future__ import annotations

import math
import re
import statistics
import tomllib
from pathlib import Path

import defaults
import pages
import pytest
import torch
from click.testing import CliRunner
from which import BUDGETS, EQUAL, LOST, Entry, choose, kinds, parts_of
from which_page import FEW, MANY
from which_tables import AFFORDS, line

from stepsmith.derive import catalogue, load_sde
from stepsmith.measure import budgets
from stepsmith.measure.bench import Bench
from stepsmith.runtime import load, networks
from stepsmith.runtime.grid import TimeGrid

DOCS = Path(__file__).resolve().parents[1] / "docs"
TEXT = "".join((DOCS / name).read_text(encoding="utf-8") for name in ("which.md", "which-tables.md"))
HEAD = re.findall(r"^\d\. .*", TEXT, re.M)


def table(lines: str) -> list[list[str]]:
    """The cells of the rows of a table, without its head."""
    rows = [row[2:-2].split(" | ") for row in lines.splitlines() if row.startswith("| ")]
    return rows[1:]


def matrix() -> dict[tuple[str, str, str, str], list[float]]:
    """(diffusion, network, noise, sampler) -> errors."""
    rows = table(TEXT.split("## All errors")[1])
    return {(sde, network, noise, label): [float(x) for x in rest[3:]] for sde, network, label, noise, *rest in rows}


def sections() -> dict[tuple[str, str], tuple[bool, list[list[str]], set[str]]]:
    """(diffusion, network) -> several blocks, rows of cells, twins that are told elsewhere."""
    found = {}
    for text in TEXT.split("\n## ")[1:-1]:
        name, _, rest = text.partition("\n")
        sde, _, network = name.partition(", network ")
        told = " ".join(re.findall(r"^The same errors as `\S+?`: (.*)", rest, re.M))
        found[sde, network or "denoiser"] = "One block" not in rest, table(rest), set(re.findall(r"`(.*?)`", told))
    return found


def near(text: str, value: float) -> bool:
    return float(text) == pytest.approx(value, rel=0.06)


@pytest.mark.parametrize(
    ("sde", "network", "samplers"),
    [("edm", "denoiser", ("dpmpp-2m", "unipc-3", "sde-dpmpp-2m")), ("psld", "eps-L", ("conjugate", "conjugate-oba"))],
)
def test_cells_of_the_page_are_measured_again(sde: str, network: str, samplers: tuple[str, ...]) -> None:
    errors = matrix()
    (part,) = parts_of(sde, (network,), samplers)
    assert len(part.entries) >= len(samplers)
    for e in part.entries:
        assert e.errors == pytest.approx(errors[sde, network, "yes" if e.random else "no", e.label], rel=0.006), e.label
    assert f"effective sigma {part.high:.4g} to {part.low:.4g}" in TEXT
    for c in part.choices:  # the proven side of a reason, where the same sampler wins on the page
        if f"| {c.budget} | {'yes' if c.random else 'no'} | `{c.first.label}` | {c.error:.3g} |" in TEXT:
            assert line(part, c).split(" | ")[6].split(";")[0] in TEXT


def test_the_page_has_every_module_of_the_networks_it_compares() -> None:
    asked = {(sde, network) for sde, networks in kinds() for network in networks}
    labels = {(r.sde, r.network, r.sampler + f" in {r.frame}" * bool(r.frame)) for r in catalogue.rows()}
    found = {(sde, network, label) for sde, network, _, label in matrix()}
    assert found == {row for row in labels if row[:2] in asked}, "run `make docs`"
    assert asked == set(sections())


def test_every_cell_follows_from_all_errors() -> None:
    errors = matrix()
    for (sde, network), (_, rows, _) in sections().items():
        assert rows
        for budget, noise, best, least, runner, factor, why in rows:
            k = BUDGETS.index(int(budget))
            column = {label: x[k] for (s, n, q, label), x in errors.items() if (s, n, q) == (sde, network, noise)}
            low = min(column.values())
            assert float(least) == low
            if best == "none":
                assert low >= LOST and why == "every module diverges"
                continue
            assert all(column[label] <= EQUAL * low for label in re.findall(r"`(.*?)`", best))
            if runner != "-":
                assert column[runner.strip("`")] > EQUAL * low and near(factor, column[runner.strip("`")] / low)


@pytest.mark.parametrize(("place", "budgets_", "noise"), [(0, FEW, "no"), (1, MANY, "no"), (2, BUDGETS, "yes")])
def test_the_statements_of_the_head_are_counts_of_the_tables(place: int, budgets_: tuple[int, ...], noise: str) -> None:
    one, several = HEAD[place].split("several blocks: ")
    for many, said in ((False, one), (True, several)):
        wins: dict[str, int] = {}
        measured: dict[str, int] = {}
        least = []
        for (sde, network), (blocks, rows, twins) in sections().items():
            if blocks != many or (network == "eps-L" and sde != "blurring"):
                continue
            have = {label for s, n, q, label in matrix() if (s, n, q) == (sde, network, noise)} - twins
            for row in rows:
                if row[1] != noise or int(row[0]) not in budgets_ or row[2] == "none" or len(have) < 2:
                    continue
                least.append(float(row[3]))
                for label in re.findall(r"`(.*?)`", row[2]):
                    wins[label] = wins.get(label, 0) + 1
                for label in have:
                    measured[label] = measured.get(label, 0) + 1
        told = re.findall(r"`(\S+?)` in (\d+) of (\d+)", said)
        assert told and told == [(label, str(wins[label]), str(measured[label])) for label, _, _ in told]
        shares = [wins[label] / measured[label] for label, _, _ in told]
        assert shares == sorted(shares, reverse=True) and shares[0] == max(
            n / measured[label] for label, n in wins.items()
        )
        assert f"median of the least errors {statistics.median(least):.3g}" in said


def test_the_frames_of_a_cholesky_network_are_told_from_the_table() -> None:
    for sde in ("psld", "cld"):
        own, turned = (matrix()[sde, "eps-L", "no", label] for label in ("conjugate", "conjugate in eps-R"))
        wins, low, high = re.findall(rf"on {sde} .*? at (\d) of 5 .*? has (\S+) to (\S+) times", HEAD[3], re.I)[0]
        ratios = [a / b for a, b in zip(own, turned, strict=True)]
        assert near(low, min(ratios)) and near(high, max(ratios))
        cells = [row for row in sections()[sde, "eps-L"][1] if row[1] == "no"]
        assert int(wins) == sum("`conjugate in eps-R`" in row[2] for row in cells)


def test_the_sampler_for_a_diffusion_of_ones_own_is_the_nearest_to_the_best() -> None:
    words = (
        r"(one|several) blocks?, (no noise|noise): `(\S+?)` \((\S+) times the least error, a geometric mean over (\d+)"
    )
    told = re.findall(words, HEAD[4], re.I)
    assert len(told) == 4
    for many, noise, label, mean, count in told:
        logs: dict[str, list[float]] = {}
        have: dict[str, int] = {}
        several = many.lower() == "several"
        parts = [key for key, s in sections().items() if s[0] == several and (key[1] == "denoiser" or not several)]
        for sde, network in parts:
            want = (sde, network, "no" if noise == "no noise" else "yes")
            found = {
                key[3]: x
                for key, x in matrix().items()
                if key[:3] == want and key[3] not in sections()[sde, network][2]
            }
            for name, x in found.items():
                have[name] = have.get(name, 0) + 1
                least = [min(column) for column in zip(*found.values(), strict=True)]
                logs.setdefault(name, []).extend(math.log(a / b) for a, b in zip(x, least, strict=True) if b < LOST)
        means = {name: math.exp(statistics.fmean(v)) for name, v in logs.items() if 2 * have[name] >= len(parts)}
        assert means[label] == min(means.values()) and near(mean, means[label]) and int(count) == have[label]


def test_the_first_table_is_what_sample_takes() -> None:
    known = tomllib.loads((DOCS.parent / defaults.PLACE).read_text(encoding="utf-8"))
    told = table((DOCS / "which.md").read_text(encoding="utf-8").split("\n![")[0])
    rows = [(blocks, row) for blocks in ("one", "several") for row in known[blocks]]
    assert len(told) == len(rows) == 2 * len(defaults.BUDGETS)
    for (blocks, row), cells in zip(rows, told, strict=True):
        assert cells[:4] == [blocks, str(row["calls"]), f"`{row['sampler']}`", row["grid"]]
        assert cells[5] == f"`{row['next'][0]}`, {row['next'][1]}" and row["factor"] >= 1
        assert near(cells[4], row["error"]) and near(cells[6], row["error"] * row["factor"])


def test_the_best_of_a_column_is_beside_the_best_of_the_other_samplers() -> None:
    errors = {("a", "tan"): 0.2, ("a", "edm"): 0.1, ("b", "tan"): 0.4, ("b", "edm"): 0.3}
    assert defaults.best(5, errors) == defaults.Taken(5, ("a", "edm"), 0.1, ("b", "edm"), pytest.approx(3.0))


def test_a_sampler_is_measured_on_a_network_as_the_bench_measures_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("BUDGETS", (5,)), ("GRIDS", ("logsnr",)), ("NETWORKS", {"digits": 16})):
        monkeypatch.setattr(defaults, name, value)
    found = defaults.errors("vp", "ddim", "digits")[5, ("ddim", "logsnr")]
    bench = Bench.trained(load_sde("vp"), networks.load("digits"), 16, lambda name: load("vp_adams_3"))
    cell = bench.cell(load("vp_ddim"), "logsnr", 5)
    assert found == pytest.approx(cell["median"] / bench.tasks[0].spread, rel=0.2)


def entry(label: str, error: float, draws: int = 0, calls: int = 1, order: int = 1) -> Entry:
    each = ((error, error),) * len(BUDGETS)
    return Entry(label, label, draws > 0, calls, draws, 0, 4, order, (error,) * 5, each, (5,) * 5, ("",) * 5)


def test_errors_within_a_tenth_are_equal_and_the_cheaper_comes_first() -> None:
    c = choose(
        [entry("dear", 1.0, calls=2), entry("cheap", 1.09), entry("worse", 1.12), entry("drawn", 0.1, draws=1)],
        0,
        False,
    )
    assert c is not None and c.runner is not None
    assert ([e.label for e in c.best], c.error, c.runner.label) == (["cheap", "dear"], 1.0, "worse")
    assert c.factor == pytest.approx(1.12)


def test_what_diverges_is_chosen_nowhere() -> None:
    assert choose([entry("lost", LOST), entry("overflow", math.inf)], 0, False) is None
    c = choose([entry("lost", LOST), entry("kept", 0.5)], 0, False)
    assert c is not None and c.runner is None and c.first.label == "kept"


@pytest.mark.parametrize(
    ("name", "budget", "steps"),
    [("vp_dpmpp_3m_corrected", 10, 9), ("vp_unipc_3", 10, 10), ("vp_heun", 5, 2), ("psld_baoab", 3, 0)],
)
def test_a_budget_buys_the_steps_that_the_module_counts(name: str, budget: int, steps: int) -> None:
    module = load(name)
    assert budgets.steps_within(module, budget) == steps
    assert not steps or module.nfe(steps) <= budget < module.nfe(steps + 1)


def test_the_exact_flow_is_exact_and_the_grid_is_the_one_told(monkeypatch: pytest.MonkeyPatch) -> None:
    course = budgets.Course.of(load_sde("cld").at())
    coarse = course.ends(1)[1]
    monkeypatch.setattr(budgets, "PANELS", 6)
    fine = budgets.Course(course.view, course.law, course.high, course.low).ends(1)[1]
    assert (coarse - fine)[0].square().mean(1).sqrt().median() < 1e-8
    wanted = TimeGrid.quadratic(course.view.sde, 7, course.law.high, course.law.low).times
    assert torch.equal(course.grid(7).times, wanted)
    sigma = course.view.effective_sigma(course.grid(7).times[[0, -1]].numpy())
    assert sigma == pytest.approx([budgets.HIGH, budgets.LOW], rel=1e-12)


def test_make_writes_the_pages_named_and_check_writes_none(tmp_path: Path) -> None:
    known = {"audit": lambda: {"audit": "a\n"}, "which": lambda: pytest.fail("not asked for")}
    page = tmp_path / "audit.md"
    assert pages.make(("audit",), tmp_path, True, known) == [page] and not page.exists()
    assert pages.make(("audit",), tmp_path, False, known) == [page] and page.read_text() == "a\n"
    assert pages.make(("audit",), tmp_path, True, known) == []


def test_a_page_that_does_not_exist_and_a_folder_that_does_not_are_refused(tmp_path: Path) -> None:
    run = CliRunner().invoke
    assert run(pages.main, ["witch"]).exit_code == 2 and "audit" in run(pages.main, ["witch"]).output
    assert run(pages.main, ["audit", "--out", str(tmp_path / "no")]).exit_code == 2


def test_more_steps_tell_two_samplers_apart_only_where_there_are_many_more() -> None:
    assert AFFORDS > 1
    for _, rows, _ in sections().values():
        for row in rows:
            for steps in re.findall(r"affords (\d+) step", row[6]):
                assert int(steps) * AFFORDS <= int(re.findall(r"(\d+) steps? of", row[6])[0])
