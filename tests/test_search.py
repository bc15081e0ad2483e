"""Random diffusions with symbolic parameters and random samplers: a certified module, or a refusal that says why.

The draws, and what is counted, are those of benchmarks/fuzz.py; `make fuzz` runs many more.
"""

from __future__ import annotations

import functools
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import fuzz
import pytest

import stepsmith as ss
from stepsmith import certificate, templates
from stepsmith.derive.proofs.reference import reference

CASES, SLOPES = 60, 10  # a run of CI, and how many cases have one whose order is measured
REFUSED, UNDECIDED = 0.30, 0.02
Found = list[dict[str, Any]]


@pytest.fixture(scope="module")
def found() -> Found:
    return [fuzz.run(seed, slopes=seed % SLOPES == 0) for seed in range(CASES)]


def test_no_module_is_wrong_and_nothing_is_raised_but_a_refusal(found: Found) -> None:
    assert {one["what"] for one in found} <= {"module", "refused"}, "\n".join(fuzz.table(found))
    assert all(max(one["errors"].values()) < 1e-11 for one in found if one["what"] == "module")


def test_seven_in_ten_random_diffusions_get_a_module(found: Found) -> None:
    assert Counter(one["what"] for one in found)["refused"] <= REFUSED * CASES, "\n".join(fuzz.table(found))
    assert all(one["message"].strip() and "\n" not in one["message"] for one in found if one["what"] == "refused")


def test_measured_orders_settle_and_reach_the_proven_ones(found: Found) -> None:
    measured = [one for one in found if "slope" in one]
    assert measured and sum(not one["decided"] for one in measured) <= max(1, UNDECIDED * len(measured))


def test_the_draws_are_what_is_said_of_them(found: Found) -> None:
    cases = [fuzz.case(seed) for seed in range(1000)]
    shares = {
        "lets": sum(bool(spec["let"]) for spec, *_ in cases), "blocks": sum(len(spec["state"]) > 1 for spec, *_ in cases),
        "offset": sum("offset" in spec for spec, *_ in cases), "own": sum(isinstance(own, dict) for _, own, _ in cases),
    }  # fmt: skip
    stated = {"lets": 0.5, "blocks": 0.5, "offset": 0.25, "own": 0.5}
    assert {name: share / 1000 for name, share in shares.items()} == pytest.approx(stated, abs=0.05)
    assert sum(not one.get("commutes", True) for one in found) >= 0.15 * CASES
    families = {own["family"] for _, own, _ in cases if isinstance(own, dict)}
    assert families == {"splitting", "conjugate-splitting", "conjugate", "runge-kutta", "multistep"}


def test_a_case_is_a_function_of_its_seed() -> None:
    assert fuzz.case(7) == fuzz.case(7) != fuzz.case(8)


def test_a_fault_of_the_emission_comes_out_as_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    emit = templates.emit
    faults = (("V[0] ** 2", "V[0] ** 2 * 1.001"), ("expm1", "exp"))
    wrong = lambda *given: functools.reduce(lambda text, fault: text.replace(*fault), faults, emit(*given))  # noqa: E731
    monkeypatch.setattr(templates, "emit", wrong)
    monkeypatch.setattr(certificate, "_issued", {})
    assert "wrong" in {fuzz.run(seed)["what"] for seed in range(4)}


def test_a_drift_that_nearly_vanishes_is_judged_by_what_the_state_does_with_it() -> None:
    spec, own, network = fuzz.case(1022)
    method = ss.derive(spec, own, network)
    step = reference(method, method.params).at([0.939933, 0.643347, 0.4], 0)
    exact = {name: float(ball.mid()) for name, ball in step.row().items()}
    assert abs(exact["f_x"]) < abs(exact["f_d1"]) < 0.003  # F x and G G^T s/2 cancel: the law is nearly stationary
    assert step.worst(exact)[1] < 1e-15
    error = 1e-9  # of the new state's largest coefficient, through x + h/2 f - ...
    column, seen = step.worst({**exact, "f_d1": exact["f_d1"] + error * float(step.kept_sizes()["f"][0].mid())})
    assert column == "f_d1" and seen == pytest.approx(error)


def test_a_log_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    ran: list[int] = []

    def run(seed: int, slopes: bool) -> dict[str, Any]:
        ran.append(seed)
        return {"seed": seed, "what": "refused", "why": "odd" if seed % 2 else "even"}

    monkeypatch.setattr(fuzz, "run", run)
    for count in (2, 4):
        monkeypatch.setattr(sys, "argv", ["fuzz.py", str(tmp_path / "log.jsonl"), "--count", str(count)])
        fuzz.main()
    assert ran == [0, 1, 2, 3]
    assert capsys.readouterr().out.splitlines()[-3:] == ["4 cases: 4 refused", "    2 refused: even", "    2 refused: odd"]
