"""LaTeX of names: what a spec may write, where it appears, and that it never reaches emitted text."""

import json
import re
import tomllib
from pathlib import Path

import numpy as np
import pytest
import sympy as sp
from click.testing import CliRunner

import stepsmith as ss
from stepsmith import plots
from stepsmith.cli import cli
from stepsmith.derive import formulas
from stepsmith.derive.maths.notation import derivatives, latex, word
from stepsmith.derive.orders import size
from stepsmith.derive.orders.stability import Linear
from stepsmith.derive.spec.latex import ACCENTS, SYMBOLS, is_formula
from stepsmith.errors import InputError, Unsupported

ROOT = Path(__file__).parents[1]


def three(**latex: str) -> dict[str, object]:
    return {**tomllib.loads((ROOT / "docs" / "three-blocks.toml").read_text())["sde"], "latex": latex}


GOOD = (
    r"M^{-1}", r"\alpha", r"\bar{x}_1", r"x_{a_{b}}^2", r"\mathrm{max}", r"x^{\bar{y}}", r"\beta_{\mathrm{min}}", r"x^\alpha",
    "-", "a b",
)  # fmt: skip
BAD = (
    "", " ", "x^a^b", "x_a_b", r"\input{x}", r"x^\bar{y}", "}{", "{x", "x}", "^a", "x^", r"\hat\beta", "$x$", "a&b", "<b>",
    "a\\\\b", r"\alphax", "x%", "#1", "é", "x!", "!", "x" * 61, "\\", "x^{}", r"\mathrm{}", "a\nb", r"\newcommand{x}",
)  # fmt: skip


@pytest.mark.parametrize("text", GOOD)
def test_a_formula_of_the_grammar_is_taken_and_a_browser_shows_it(text: str) -> None:
    convert = pytest.importorskip("latex2mathml.converter").convert
    assert is_formula(text) and "\\" not in convert(text)


@pytest.mark.parametrize("text", BAD)
def test_any_other_text_is_refused_with_its_name(text: str) -> None:
    with pytest.raises(InputError, match=r"sde\.latex\.Minv: .* is no formula for a name"):
        ss.load_sde(three(Minv=text))
    with pytest.raises(InputError, match="unknown key 'nobody'"):
        ss.load_sde(three(nobody="x"))


def test_every_command_of_the_grammar_becomes_mathml() -> None:
    convert = pytest.importorskip("latex2mathml.converter").convert
    for text in [*(f"\\{name}" for name in SYMBOLS), *(f"\\{name}{{x}}" for name in ACCENTS)]:
        assert is_formula(text) and "\\" not in convert(text), text


def test_the_formulas_of_names_appear_on_pages_and_never_in_the_text_of_a_module() -> None:
    named = ss.derive(three(Minv="M^{-1}", xi=r"\Xi", w=r"\omega"), "rvv")
    plain = ss.derive(three(), "rvv")
    assert r"M^{-1}" in named.sde._repr_latex_() and r"d\omega" in formulas.equations(named.sde)[2]
    assert named.local_error and r"\Xi" in named.local_error[2].latex() and r"\dot{\omega}" in named.local_error[2].latex()
    assert [str(term) for term in named.local_error] == [str(term) for term in plain.local_error or ()]
    assert ss.emit(named, certified=False) == ss.emit(plain, certified=False) and named.digest == plain.digest


def test_names_and_derivatives_are_spelled_in_the_notation_of_the_field() -> None:
    assert [word(name) for name in ("lambda_", "beta_min", "Minv", "D1", "x")] == [
        r"\lambda", r"\beta_{\mathrm{min}}", r"\mathrm{Minv}", "D_{1}", "x",
    ]  # fmt: skip
    symbols = ["dx", "sx_m", "sm_mt", "nt", "n_x", "beta_tt", "K_xm", "k_m", "beta_min"]
    found = derivatives(symbols, ("x", "m"), ("beta",), {"m": "p"})
    assert found == {
        "dx": r"\dot{x}", "sx_m": "s_{x,p}", "sm_mt": "s_{p,p t}", "nt": "n_{,t}", "n_x": "n_{,x}", "beta_tt": r"\beta''",
        "K_xm": "K_{x p}", "k_m": "k_{p}",
    }  # fmt: skip
    several = derivatives(["n_x", "dn_x", "n_x_m"], ("x", "m"), (), {}, outputs=2)
    assert several == {"n_x": "n_{x}", "dn_x": r"\dot{n}_{x}", "n_x_m": "n_{x,m}"}


@pytest.mark.parametrize("sde, sampler", [("cld", "rvv"), ("psld", "conjugate"), ("vp", "heun"), ("psld", "rvv2")])
def test_the_size_of_the_error_is_what_a_short_step_shows(sde: str, sampler: str) -> None:
    method = ss.derive(sde, sampler)
    t0, found = size.sizes(method)
    probe, power, h = Linear(method, 0.25), method.step_order + 1, 2e-4
    seen = []
    for step in (h, 2 * h):  # e(h) is C h^p (1 + O(h))
        gap = probe.flow(t0, t0 - step) - probe.step(t0, t0 - step)
        law = probe.law(t0)[2]
        seen.append(np.sqrt(np.diag(gap @ law @ gap.T) / np.diag(law)) / step**power)
    for one, two, claimed in zip(*seen, found, strict=True):
        assert abs(2 * one - two - claimed) < 2e-2 * claimed + 2 * abs(one - two)


def test_a_multistep_error_has_a_size_too_and_other_methods_say_that_they_have_none() -> None:
    _, (found,) = size.sizes(ss.derive("edm", "dpmpp-2m"))
    assert found == pytest.approx(0.04)  # by hand: (D1 + 5 D2)/12 with D1 = 0.16 x, D2 = 0.064 x at sigma 1
    for sde, sampler in (("vp", "unipc-2"), ("psld", "roba"), ("ir-sde", "euler")):
        with pytest.raises(Unsupported, match="size of the error"):
            size.sizes(ss.derive(sde, sampler))


def test_the_lines_of_a_picture_differ_without_their_colours() -> None:
    assert len({(str(line["linestyle"]), line["marker"]) for line in plots.LINES}) == len(plots.LINES)


@pytest.mark.parametrize("values", [(0.31, 0.29, 0.25, 0.27), (3e-4, 2e-2, 5.0, 90.0)])
def test_every_panel_of_measures_says_how_large_they_are(values: tuple[float, ...]) -> None:
    figure = plots.measures({"wide": {"one": (1.0, 10.0, 100.0, 1000.0)}, "own": {"one": values}}, (5, 10, 20, 50)).figure
    for panel in figure.axes:
        low, high = panel.get_ylim()
        assert any(low <= tick <= high for tick in panel.get_yticks())



def test_a_verb_for_grids_and_pictures_of_them(tmp_path: Path) -> None:
    run = CliRunner()
    told = run.invoke(cli, ["grid", "psld", "--nfe", "9", "--sampler", "rvv", "--grid", "edm", "--json"])
    found = json.loads(told.output)
    assert found["steps"] == 4 and found["grids"]["edm"]["times"] == ss.TimeGrid.edm(ss.load_sde("psld"), 4).times.tolist()
    drawn = run.invoke(cli, ["grid", "vp", "--steps", "3", "--plot", str(tmp_path / "a.svg")])
    assert drawn.exit_code == 0 and re.search(r"^  3 +0\.001 \( +0\.0105\)", drawn.output, re.M)
    assert "<title>" in (tmp_path / "a.svg").read_text() or "dc:title" in (tmp_path / "a.svg").read_text()
    assert "a budget needs --nfe and --sampler" in str(run.invoke(cli, ["grid", "vp", "--nfe", "3"]).exception)
    assert "suffix" in str(run.invoke(cli, ["derive", "vp", "--plot", str(tmp_path / "a.foo")]).exception)


def test_the_pictures_of_derive_error_and_verify(tmp_path: Path) -> None:
    run = CliRunner()
    for words in (["derive", "vp"], ["error", "vp", "euler"], ["verify", "vp_ddim"]):
        path = tmp_path / f"{words[0]}.png"
        assert run.invoke(cli, [*words, "--plot", str(path)]).exit_code == 0
        assert path.stat().st_size > 5000
    assert "leave --plot out" in str(run.invoke(cli, ["error", "vp", "dpmpp-2m", "--plot", str(path)]).exception)


def test_words_stand_apart_in_a_product_and_letters_do_not() -> None:
    rate, k, v = sp.symbols("rate k v", real=True)
    assert latex(k * rate * v) == r"k \, \mathrm{rate} \, v" and latex(k * v) == "k v"
    assert latex(k * rate, {"rate": "r_0"}) == "k r_0"
