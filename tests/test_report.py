"""The report: what it holds, that each format stands by itself, and that no string of a spec is markup in it."""

import json
import re
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

import stepsmith as ss
from stepsmith import reporting
from stepsmith.cli import cli
from stepsmith.derive.orders.size import sizes
from stepsmith.errors import InputError
from stepsmith.measure import slopes
from stepsmith.templates.report import Code, Math, Picture, Report, Section, Table, Text, mathml, render

torch.set_num_threads(1)
pytest.importorskip("latex2mathml")
HOSTILE = r"<script>alert(1)</script> \input{/etc/passwd} 50% & $x_1^2$ {} ~ # |"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report on a diffusion of two blocks with a deterministic sampler and one that draws noise."""
    out = tmp_path_factory.mktemp("report")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reporting, "BUDGETS", (4, 8))
        patch.setattr(reporting, "PATHS", 8)
        patch.setattr(slopes, "MOST", 128)
        begun: list[tuple[str, int]] = []
        network, title = ss.networks.load("digits"), lambda *told: begun.append(told)
        found = reporting.written(ss.load_sde("cld"), ("rvv", "euler-maruyama"), network, out, title)
    assert [path.suffix for path in found[-3:]] == [".md", ".tex", ".html"]
    assert len(begun) == 9 and {count for _, count in begun} == {9}
    return out


@pytest.mark.parametrize("samplers", [("rvv", "rvv"), ("B! A B!", "B!  A  B!")], ids=["a name", "a composition"])
def test_samplers_of_one_name_are_refused_before_anything_is_made(samplers: tuple[str, str], tmp_path: Path) -> None:
    """Pictures and rows go by the name; two of one name ended in a traceback, after minutes."""
    with pytest.raises(InputError, match="two of them have the name"):
        reporting.written(ss.load_sde("psld"), samplers, ss.networks.load("digits"), tmp_path / "report")
    assert not (tmp_path / "report").exists()


def test_a_formula_that_cannot_be_converted_is_shown_as_it_is() -> None:
    page = render(Report("title", (Section("one", (Math(r"a_b_c <"), Math("x^2"))),)), "html")
    assert "<code>a_b_c &lt;</code>" in page and "<msup>" in page


def test_the_stationary_law_of_several_blocks_is_written_entry_by_entry() -> None:
    """With names of its own, one of them a power: an index below, an exponent above."""
    F = [["-rate/2", "pull"], ["-pull*omega2", "-drag"]]
    state = {"name": "lagged", "state": ["x", "u"], "time": [0.0, 1.0], "F": F, "G": [["sqrt(rate)", "0"], ["0", "heat"]]}
    more = {"params": {"rate": 1.5, "pull": 1.2, "omega2": 0.7, "drag": 2.5, "heat": 2.0}, "initial": {"u": "heat^2/4"}}
    sde = ss.load_sde({"sde": {**state, **more, "latex": {"omega2": r"\omega^2", "drag": r"\tau^{-1}"}}})
    formulas = [block for block in reporting.diffusion(sde) if isinstance(block, Math)]
    assert any(block.latex.startswith(r"\Sigma^{\infty}_{x u} =") for block in formulas)
    assert all("<math" in mathml(block) for block in formulas)


def test_the_page_stands_by_itself(folder: Path) -> None:
    text = (folder / "report.html").read_text()
    assert not re.search(r'(src|href)="(?!data:)', text) and "<script" not in text
    pictures = re.findall(r'<img src="data:image/png;base64,[^"]+" alt="([^"]+)">', text)
    assert len(pictures) == 6 and all(len(alt) > 20 for alt in pictures)  # law, stability, orders, errors, two strips
    assert text.count("<math") >= 12 and "\\frac" not in re.sub(r"<annotation.*?</annotation>", "", text)


def test_it_says_what_is_proven_and_what_was_measured(folder: Path) -> None:
    text = (folder / "report.md").read_text()
    rvv = ss.derive("cld", "rvv")
    assert f"Proven order {rvv.order}." in text and "B! A B!@1" in text
    assert "Proven weak order 1" in text and "largest stable step" in text
    assert rvv.local_error and all(term.latex() in text or str(term) in text for term in rvv.local_error)
    for name in re.findall(r"!\[[^]]*\]\(([^)]+)\)", text):
        assert (folder / name).is_file()
    row = next(line for line in text.splitlines() if line.startswith("| rvv | median"))
    errors = [float(cell) for cell in row.split("|")[3:5]]
    assert errors[1] < errors[0]
    summary = next(line for line in text.splitlines() if line.startswith("| rvv | 2 | 0 | order 1 |"))
    assert abs(float(summary.split("|")[5].split(",")[0]) - 1) < 0.1
    _, found = sizes(rvv)
    leading = [size for size, term in zip(found, rvv.local_error, strict=True) if term.coefficient != 0]
    assert leading and all(f"{size:.3g} h^2" in text for size in leading)


def test_latex_is_balanced_and_its_pictures_are_there(folder: Path) -> None:
    text = (folder / "report.tex").read_text()
    bare = text.replace(r"\{", "").replace(r"\}", "")
    assert bare.count("{") == bare.count("}")
    begun, ended = re.findall(r"\\begin\{(\w+)\}", text), re.findall(r"\\end\{(\w+)\}", text)
    assert sorted(begun) == sorted(ended)
    for name in re.findall(r"\\includegraphics\[[^]]*\]\{([^}]+)\}", text):
        assert (folder / f"{name}.png").is_file()


@pytest.mark.parametrize("form", ["html", "md", "tex"])
def test_no_string_is_markup(form: str) -> None:
    blocks = (
        Text(HOSTILE), Table(("a",), ((HOSTILE,),)), Picture("p", HOSTILE, b"\x89PNG"), Math("x^2"), Code(HOSTILE + "\n[a] ```"),
    )  # fmt: skip
    text = render(Report(HOSTILE, (Section(HOSTILE, blocks),)), form)
    # A fence has more backticks than stand in it.
    outside = re.sub("\n````text\n.*?\n````\n", "", text, flags=re.DOTALL)
    assert "<script>" not in outside if form != "tex" else r"\input" not in text
    if form == "tex":
        assert text.count(r"\textbackslash{}input\{/etc/passwd\}") == 6 and r"50\%" in text
    if form == "md":
        assert text.count("\\|") == 5 and "\n````text\n" in text


def test_the_verb_wants_a_denoiser_and_a_folder(tmp_path: Path) -> None:
    run = CliRunner().invoke(cli, ["report", "psld", "--network", "fashion-psld-eps-l", "--out", str(tmp_path)])
    assert "give a denoiser" in str(run.exception)
    (tmp_path / "file").write_text("")
    run = CliRunner().invoke(cli, ["report", "psld", "--out", str(tmp_path / "file")])
    assert "it is a file" in str(run.exception)


@pytest.mark.parametrize(("name", "said"), [("ir-sde", "constant components (mu)"), ("blurring", "level for each frequency")])
def test_a_report_without_names_covers_diffusions_that_no_mixture_drives(
    name: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One has an offset, which lines of text do not know; the other has a field, which no denoiser of plain noise knows."""
    monkeypatch.setattr(slopes, "MOST", 64)
    run = CliRunner().invoke(cli, ["report", name, "--network", "digits", "--out", str(tmp_path)], catch_exceptions=False)
    text = (tmp_path / "report.html").read_text()
    assert run.exit_code == 0 and said in text and "of one trained network" not in text
    assert ("Drawn for the frequency k2 = 0." in text) == (name == "blurring")
    assert not list(tmp_path.glob("samples-*")) and (tmp_path / "orders.png").is_file()


def test_objects_show_themselves_in_a_notebook() -> None:
    sde, method = ss.load_sde("psld"), ss.derive("psld", "rvv")
    assert "M^{-1}" in sde._repr_latex_() and sde._repr_latex_().startswith("$")
    assert repr(method) == "Method(psld_rvv: 2 network calls, 0 draws a step)"
    assert method.local_error and method.local_error[0].latex() in (method._repr_latex_() or "")
    assert ss.derive("psld", "roba")._repr_latex_() is None
    assert repr(ss.derive("psld", "roba")) == "Method(psld_roba: 1 network call, 2 draws a step)"
    assert repr(sde) == "LinearSDE(psld: x, m, t from 0 to 1)" and repr(method.local_error[1]).startswith("ErrorTerm(e_m = h^2")
    assert repr(method.sampler) == "Sampler(rvv: B! A B!@1, 2 network calls a step)"
    assert "<td>Proven order 1.</td>" in method._repr_html_() and "B! A B!@1" in method.sampler._repr_html_()
    assert ss.TimeGrid.quadratic(sde, 50)._repr_html_().count("<td>") == 13
    assert repr(ss.TimeGrid.quadratic(sde, 25)) == "TimeGrid(quadratic: 25 steps from 1 to 0.001)"
    assert r"\left(" in ss.load_sde("ir-sde")._repr_latex_()


def test_the_notebook_runs_from_top_to_bottom() -> None:
    cells = json.loads((Path(__file__).parents[1] / "examples" / "tour.ipynb").read_text())["cells"]
    names: dict[str, object] = {}
    for cell in (cell for cell in cells if cell["cell_type"] == "code"):
        assert not cell["outputs"]  # what it shows is made where it is run
        exec(compile("".join(cell["source"]), cell["id"], "exec"), names)
    samples = names["samples"]
    assert isinstance(samples, torch.Tensor) and samples.shape == (12, 1, 28, 28) and samples.isfinite().all()
