"""No module leaves without its certificate: faults planted in the emission are refused, on diffusions that no catalogue holds."""

from __future__ import annotations

import functools
import pickle
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sympy as sp
from click.testing import CliRunner, Result

import stepsmith as ss
from stepsmith import certificate, digests, executed, loading, templates
from stepsmith.cli import cli, main
from stepsmith.derive.proofs import kernel
from stepsmith.templates import steps
from stepsmith.templates.printer import HostPrinter
from stepsmith.templates.table import TableText

# Two blocks, the data second, with sums, lets that cancel, an offset and a clock; F(t) does not commute with itself.
COUPLED: dict[str, Any] = {
    "name": "coupled", "state": ["m", "x"], "data": ["x"], "time": [0.0, 1.5], "constant": ["mu"],
    "params": {"a": 1.3, "c": 0.7, "r": 2.0, "w": 0.4}, "constraints": ["a > 0", "r > 0"],
    "let": {"rate": "a + c*t", "both": "a + r"},
    "F": [["-rate - (both - a)/2", "r*(1 + w*t)"], ["-(r + w)/2", "-(a + w)/4"]],
    "G": [["sqrt(2*rate*(1 + w))", "0"], ["0", "sqrt((a + w)/(2 + c))"]],
    "offset": ["w*mu - c*t", "a*mu/3"], "initial": {"m": "r/(4 + w)"},
}  # fmt: skip
HOT: dict[str, Any] = {
    "name": "hot", "state": ["x"], "params": {"low": 0.3, "high": 6.0, "c": 0.3}, "let": {"beta": "low + t*(high - low)"},
    "F": [["-beta*(1 + c)/2"]], "G": [["sqrt(beta*(1 - c/2))"]], "constraints": ["high > 0", "low > 0", "c < 1"],
}  # fmt: skip
WAVED: dict[str, Any] = {
    "name": "waved", "state": ["x"], "params": {"a": 0.9, "c": 0.5},
    "F": [["-(a + c*sin(3*t))"]], "G": [["sqrt(a + c*cos(2*t) + c^2)"]],
}  # fmt: skip
KICK = ss.ScoreParameterization(
    "kick", sp.ImmutableMatrix.zeros(2, 2), sp.ImmutableMatrix([[0], [1]]), sp.ImmutableMatrix([[1, 0]])
)
MATRIX = {"name": "matrix", "family": "conjugate", "B": [["lam*t", "0"], ["lam", "0"]], "params": {"lam": 0.4}}
TURNED = {"name": "turned", "family": "adams", "order": 2, "frame": "eps-R"}
METHODS: dict[str, Callable[[], Any]] = {
    "coupled exact": lambda: ss.derive(COUPLED, "oso"),
    "coupled conjugate": lambda: ss.derive(COUPLED, "conjugate", "eps-L"),
    "coupled adams": lambda: ss.derive(COUPLED, "adams-2"),
    "coupled gaussian": lambda: ss.derive(COUPLED, "adams-3-gaussian"),
    "coupled adams that draws": lambda: ss.derive(COUPLED, "adams-2-gaussian-sde"),
    "coupled matrix": lambda: ss.derive(COUPLED, MATRIX),
    "coupled rotation": lambda: ss.derive(COUPLED, "conjugate", "eps-R"),
    "coupled rotation in two steps": lambda: ss.derive(COUPLED, TURNED, "eps-R"),
    "coupled upper": lambda: ss.derive(COUPLED, "euler", "eps-U"),
    "coupled kicks": lambda: ss.derive(COUPLED, "conjugate-vv"),
    "coupled edm": lambda: ss.derive(COUPLED, "conjugate", "edm"),
    "coupled own network": lambda: ss.derive(COUPLED, "euler", KICK),
    "coupled two draws": lambda: ss.derive(COUPLED, "euler-maruyama", "score"),
    "hot three steps": lambda: ss.derive(HOT, "dpmpp-3m"),
    "hot noise": lambda: ss.derive(HOT, "sde-dpmpp-2m"),
    "waved conjugate": lambda: ss.derive(WAVED, "conjugate-identity"),
    "waved heun": lambda: ss.derive(WAVED, "heun"),
    "waved midpoint": lambda: ss.derive(WAVED, "dpmpp-2s"),
    "waved predictor": lambda: ss.derive(WAVED, "E! E!^@1"),
}
method = functools.cache(lambda name: METHODS[name]())


@pytest.fixture(autouse=True)
def none_issued(monkeypatch: pytest.MonkeyPatch) -> None:
    """No certificate of another test is taken for one of this."""
    monkeypatch.setattr(certificate, "_issued", {})


# --- what holds ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", METHODS)
def test_a_module_leaves_with_a_certificate_that_says_how_close_it_is(name: str) -> None:
    found = ss.certify(method(name))
    assert [check.claim for check in found.checks] == ["coefficients", "start", "step", "denoise"]
    assert all(check.error <= check.limit / 10 for check in found.checks) and len(found.points) == certificate.POINTS
    defaults, *others = (point.params for point in found.points)
    assert defaults == method(name).params
    for params in others:
        assert all(value != defaults[key] for key, value in params.items())
        assert all(defaults[key] / 2 <= value <= (2 * defaults[key] or 0.5) for key, value in params.items())


def test_the_text_says_what_was_held_and_no_measured_figure() -> None:
    text = ss.emit(method("hot noise"))
    assert re.search(rf'^"""\n\n# {re.escape(certificate.CERTIFIED)}\n\nimport math\n\nimport torch$', text, re.M)
    assert text == certificate.written(method("hot noise"))  # the same bytes, whatever was measured
    assert ss.load(text).coefficients([1.0, 0.5, 0.2]).isfinite().all()


def test_a_text_without_a_certificate_says_so_and_nothing_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(certificate, "_held", None)
    assert f"\n# {certificate.NOT_CERTIFIED}\n" in ss.emit(method("hot noise"), certified=False)


def test_a_certificate_is_issued_once_a_text(monkeypatch: pytest.MonkeyPatch) -> None:
    texts: list[str] = []
    held = certificate._held
    monkeypatch.setattr(certificate, "_held", lambda method, text: texts.append(text) or held(method, text))
    text = ss.emit(method("waved heun"))
    found = ss.certify(method("waved heun"))
    assert texts == [text] and ss.certify(method("waved heun")) is found
    assert found.sha256 == digests.Line.of("", "", text).text


def test_parameters_at_which_the_diffusion_is_refused_are_drawn_again() -> None:
    narrow = {**HOT, "constraints": ["low > 0.2", "low < 0.4", "high > 5", "high < 7", "c < 1"]}
    found = ss.certify(ss.derive(narrow, "ddim"))
    assert all(0.2 < point.params["low"] < 0.4 and 5 < point.params["high"] < 7 for point in found.points)


def test_a_module_that_can_be_executed_nowhere_gets_no_certificate(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any) -> Any:
        raise executed.Refused

    monkeypatch.setattr(executed.Executed, "_sound", refused)
    with pytest.raises(ss.Unsupported, match="no certificate"):
        ss.emit(method("waved heun"))


def test_a_multistep_method_on_a_noise_that_ends_is_told_so() -> None:
    spec = {"name": "ends", "state": ["x"], "F": [["-1"]], "G": [["exp(-20*t)"]]}
    with pytest.raises(ss.Unsupported, match=r"the noise ends: from t = .* the effective sigma changes by"):
        ss.certify(ss.derive(spec, "dpmpp-2m"))
    assert ss.certify(ss.derive(spec, "ddim")).checks


# --- faults planted in what emits -------------------------------------------------------------------------------------

Plant = Callable[[pytest.MonkeyPatch], None]


def around(owner: Any, name: str, change: Callable[..., Any]) -> Plant:
    """A fault: ``owner.name`` is called through ``change(original, *arguments)``."""

    def plant(patch: pytest.MonkeyPatch) -> None:
        original = getattr(owner, name)
        patch.setattr(owner, name, lambda *given, **more: change(original, *given, **more))

    return plant


def text(old: str, new: str) -> Plant:
    """A fault in the templates: the first place of their text that matches ``old`` is ``new``."""
    return around(templates, "emit", lambda emit, *given: re.sub(old, new, emit(*given), count=1))


def swapped(cells: Any, table: TableText) -> dict[str, Any]:
    found = cells(table)
    one, two = [name for name, (_, row) in found.items() if row is not None][:2]
    return {**found, one: found[two], two: found[one]}


def later(asked: Any, ask: Any, write: Any, defined: Any, program: Any) -> list[str]:
    """The first network call is made at the time of the last one."""
    times = {"sigma_hat_0": "sigma_hat_1", "time_0": "time_1", "sigma_0": "sigma_1"}
    return asked(replace(ask, time=times.get(ask.time, ask.time)), write, defined, program)  # type: ignore[no-any-return]


FAULTS: dict[str, tuple[Plant, tuple[str, ...]]] = {
    "a sign": (
        around(HostPrinter, "_product", lambda product, *given: product(*given).removeprefix("-")),
        ("coupled exact", "hot noise", "waved heun"),
    ),
    "brackets of a factor": (
        around(HostPrinter, "factor", lambda factor, self, expr: self._print(expr)), ("coupled exact", "coupled two draws"),
    ),
    "brackets of a power": (
        around(HostPrinter, "parenthesize", lambda inside, self, item, *_, **__: self._print(item)),
        ("coupled exact", "hot noise", "hot three steps"),
    ),
    "two columns swapped": (around(TableText, "cells", swapped), ("coupled exact", "coupled conjugate", "waved heun")),
    "a weight of the quadrature": (
        text(r"V\[0\] \*\* 2, reach", "(V[0] ** 2).roll(1), reach"), ("coupled exact", "coupled conjugate", "waved heun"),
    ),
    "a digit of the quadrature": (
        text(r"V\[0\] \*\* 2, reach", "V[0] ** 2 * (1 + 1e-10), reach"), ("coupled exact", "waved heun"),
    ),
    "a term dropped": (
        around(HostPrinter, "combination", lambda whole, self, terms: whole(self, list(terms)[:-1] or terms)),
        ("coupled exact", "hot noise", "waved heun", "waved predictor"),
    ),
    "a stale value": (text(r"\*m_S2", "*m_O1"), ("coupled exact",)),
    "a stale time": (text(r"\(lambda_0 - lambda_m1\)", "(lambda_1 - lambda_m1)"), ("hot noise", "hot three steps")),
    "a name that nothing binds": (text(r"sde\.rate\(", "sde.rates("), ("coupled exact",)),
    "the time of a network call": (
        around(steps, "_asked", later), ("coupled exact", "coupled two draws", "hot noise", "waved heun"),
    ),
    "a factor": (
        around(HostPrinter, "combination", lambda whole, self, terms: whole(self, [(2 * c, v) for c, v in terms])),
        ("coupled exact", "hot noise", "waved heun"),
    ),
    "a draw": (
        around(steps, "_term", lambda term, base, column: term("w1" if base == "w2" else base, column)),
        ("coupled exact", "coupled two draws"),
    ),
    "a column of the noise": (text(r"noise\[0\]\[0\]", "noise[1][1]"), ("coupled exact",)),
    "a default": (text(r'(PARAMS = \{"\w+": )[\d.]+', r"\g<1>9.0"), ("coupled exact", "hot noise", "waved heun")),
    "the orders": (text(r"ORDER = 2", "ORDER = 3"), ("waved heun",)),
    "a constraint": (text(r"if not \((\w+) > 0", r"if not (\g<1> > 1e3"), ("coupled exact", "hot noise")),
    "a parameter that is ignored": (text(r"self\.a, (.*) = a, ", r"self.a, \g<1> = 1.3, "), ("coupled exact",)),
    "the factor of the start": (
        text(r"return (factor\(law\.K\[law\.place\(t\)\]\))", r"return \g<1>.mT"), ("coupled exact", "coupled two draws"),
    ),
    "the matrix between two times": (text(r"\.ahead\(t, s\)", ".ahead(t, s).mT"), ("coupled exact", "coupled two draws")),
    "its times": (text(r"sde\.alpha\(t\) / sde\.alpha\(s\)", "sde.alpha(s) / sde.alpha(t)"), ("hot noise", "waved heun")),
    "the block of the data": (text(r"\[\.\.\., \[DATA\]\]", "[..., [0]]"), ("coupled exact",)),
    "the mean of the start": (text(r"\.drift\[0\]", ".drift[0].flip(-1)"), ("coupled exact", "coupled two draws")),
    "the initial variance": (text(r"(self\.L0 = .*)self\.r", r"\g<1>self.a"), ("coupled exact", "coupled conjugate")),
    "the first row": (text(r"slice\(0, 1\)", "slice(0, 2)"), ("hot three steps",)),
    "the rows of the history": (text(r"D_m1, D_m2 = history", "D_m2, D_m1 = history"), ("hot three steps",)),
    "what is carried": (text(r"return \(x_new,\), \(d, D_m1\)", "return (x_new,), (D_m1, d)"), ("hot three steps",)),
    "the mean of the data": (text(r"return \(m, d_end, mu\)", "return (d_end, m, mu)"), ("coupled exact",)),
    "the columns of denoise": (text(r"y_end_x = c\[8\]", "y_end_x = c[0]"), ("waved heun",)),
}  # fmt: skip
PLANTED = [(fault, name) for fault, (_, names) in FAULTS.items() for name in names]


@pytest.mark.parametrize(("fault", "name"), PLANTED, ids=[": ".join(pair) for pair in PLANTED])
def test_a_planted_fault_is_refused_and_nothing_is_emitted(fault: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    right = certificate.written(method(name))
    FAULTS[fault][0](monkeypatch)
    assert certificate.written(method(name)) != right, "the fault was not planted"
    with pytest.raises(ss.CertificateError) as refused:
        ss.emit(method(name))
    assert refused.value.module == method(name).name and "\n" not in str(refused.value)
    assert not certificate._issued


def test_a_kernel_that_does_not_solve_its_equations_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "SMALL", 0.0)
    with pytest.raises(ss.CertificateError, match="does not hold"):
        ss.emit(method("coupled exact"))


# --- the command line -------------------------------------------------------------------------------------------------


def build(*words: str) -> Result:
    return CliRunner().invoke(cli, ["build", *words])


def test_a_refused_build_ends_with_one_line_and_writes_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    FAULTS["a sign"][0](monkeypatch)
    monkeypatch.setattr("sys.argv", ["stepsmith", "build", "vp_ddim", "vp_euler", "--out", str(tmp_path / "out")])
    with pytest.raises(SystemExit) as end:
        main()
    err = capsys.readouterr().err
    assert end.value.code == 1 and err.startswith("vp_ddim: certificate: ") and err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_build_without_certificates_says_so_in_every_text(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    FAULTS["a sign"][0](monkeypatch)
    assert build("vp_ddim", "--no-certificate", "--out", str(tmp_path)).exit_code == 0
    assert f"\n# {certificate.NOT_CERTIFIED}\n" in (tmp_path / "vp_ddim.py").read_text()
    assert build("vp_ddim", "--check", "--no-certificate", "--out", str(tmp_path)).exit_code == 0
    assert build("vp_ddim", "--check", "--out", str(tmp_path)).exit_code == 1


def test_build_certifies_and_its_check_compares_texts_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert build("vp_ddim", "--out", str(tmp_path)).exit_code == 0
    assert len(certificate._issued) == 1
    monkeypatch.setattr(certificate, "_held", None)
    certificate._issued.clear()
    assert build("vp_ddim", "--check", "--out", str(tmp_path)).exit_code == 0


def test_a_module_that_load_derives_is_certified(monkeypatch: pytest.MonkeyPatch) -> None:
    text = loading.emitted("vp_euler")
    assert list(certificate._issued) == [digests.Line.of("", "", text).text]
    FAULTS["a sign"][0](monkeypatch)
    with pytest.raises(ss.CertificateError):
        loading.emitted("vp_euler")


def test_a_refusal_crosses_processes() -> None:
    error = ss.CertificateError("vp_ddim", "the column x_x is off")
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), vars(again)) == (type(error), str(error), vars(error))
