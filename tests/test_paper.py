"""The paper's table: what is on record is not measured again, and a difference counts beyond two standard errors."""

import importlib.util
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from stepsmith.cli import cli
from stepsmith.cli.paper import table
from stepsmith.errors import InputError
from stepsmith.measure import frechet, paper
from stepsmith.runtime import data

torch.set_num_threads(1)
ROOT = Path(__file__).parents[1]
ROWS = {row.label: row for row in paper.ROWS}


@pytest.fixture(scope="module")
def page() -> Any:
    spec = importlib.util.spec_from_file_location("paper_page", ROOT / "docs" / "make" / "paper.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_cell_on_record_is_not_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, int]] = []

    def measure(self: Any, row: Any, nfe: int) -> dict[str, float]:
        calls.append((row.label, nfe))
        return {"fd": 1.0 * nfe, "error": 0.1, "laplacian": 0.5, "away": 0, "calls": nfe, "seconds": 0.0}

    monkeypatch.setattr(paper.Table, "measure", measure)
    words = ["bench", "paper", "--record", str(tmp_path / "r.jsonl"), "--row", "ROBA", "--row", "EM", "--nfe", "20"]
    varied = ["--grid", "uniform", "--last", "none"]
    for more, wanted in (([], 2), (["--nfe", "50"], 4), ([], 4), (varied, 6), (varied, 6)):
        done = CliRunner().invoke(cli, [*words, *more])
        assert done.exit_code == 0 and len(calls) == wanted, done.output
    assert calls[-1] == ("EM, uniform grid, no last step", 20)
    wrong = CliRunner().invoke(cli, ["bench", "paper", "--row", "ROBO"])
    assert isinstance(wrong.exception, InputError) and "there is no row 'ROBO'" in str(wrong.exception)


def test_runs_spend_their_budget_and_differ_as_the_samplers_do(tmp_path: Path) -> None:
    made = table(tmp_path / "r.jsonl", 4)
    known = made.networks[paper.NETWORK]
    counted: list[int] = []
    made.networks[paper.NETWORK] = _counting(known, counted)
    drawn = {label: made.draw(ROWS[label], 21, range(4)) for label in ("ROBA", "conjugate, lambda 0", "lambda-DDIM-II, .5")}
    assert len(counted) == 3 * 21
    made.draw(ROWS["ROBA"].varied("uniform", "none"), 21, range(4))
    assert len(counted) == 4 * 21
    assert all(samples.shape == (4, 1, 28, 28) for samples in drawn.values())
    assert paper.laplacian(drawn["conjugate, lambda 0"]) > 2 * paper.laplacian(drawn["ROBA"])  # noise beside clothes


def _counting(network: Any, counted: list[int]) -> Any:
    from dataclasses import replace

    def call(inputs: Any, time: Any, **cond: Any) -> Any:
        counted.append(1)
        return network.fn(inputs, time, **cond)

    return replace(network, fn=call)


def test_rk45_reaches_the_fine_solution(tmp_path: Path) -> None:
    made = table(tmp_path / "r.jsonl", 2)
    found, calls = made.reference(range(2), 1e-3)
    fine = made.draw(ROWS["adams-3, log-SNR grid"], 60, range(2))
    assert calls > 50 and (found - fine).square().mean().sqrt() < 0.05 < found.std()


def test_a_difference_counts_beyond_two_standard_errors(page: Any) -> None:
    def cells(one: float, two: float) -> Any:
        return {("A", 20): {"fd": one, "error": 0.3}, ("B", 20): {"fd": two, "error": 0.4}}

    assert page.verdict(cells(2.0, 3.1), "A", "B", 20).startswith("**shown**")
    assert page.verdict(cells(2.0, 2.9), "A", "B", 20).startswith("**not shown**")
    assert page.verdict(cells(3.1, 2.0), "A", "B", 20).startswith("**contradicted**")
    assert page.verdict(cells(3.0, math.inf), "A@20", "B@20", 0).endswith("the other diverges")
    assert page.verdict({}, "A", "B", 20) == "not measured"


def test_the_page_is_that_of_the_record(page: Any) -> None:
    text = (ROOT / "docs" / "paper.md").read_text()
    assert text.split("\n\n## Why")[0] == page.measured(*page.read(ROOT / "benchmarks" / "paper.jsonl"))


def test_the_images_of_the_package_are_clothes() -> None:
    """Few images are farther from the data than many, and still far nearer than what a sampler gives at 20 calls."""
    images, classes = data.fashion(split="few")
    assert images.shape == (256, 1, 28, 28) and len(classes.unique()) == 10 and images.amin() == -1 and images.amax() == 1
    found, error = frechet.distance_and_error(images, "fashion")
    assert 0 < error < found < 4


def test_distances_know_spoiled_pictures_and_their_own_error() -> None:
    samples = table(Path("unused.jsonl"), 200).draw(ROWS["VP DPM-Solver++(2M)"], 8, range(200))
    found, error = frechet.distance_and_error(samples.clamp(-1, 1), "fashion")
    noise, _ = frechet.distance_and_error(torch.randn(samples.shape), "fashion", 0)
    assert found < noise / 2 and 0 < error < found
    known = paper.judged(torch.cat([samples, torch.full((1, 1, 28, 28), math.nan)]))
    assert known["away"] == 1 and known["fd"] == pytest.approx(found, abs=1e-3)
    assert math.isinf(paper.judged(torch.full((10, 1, 28, 28), 1e9))["fd"])
