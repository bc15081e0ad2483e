"""Splits and compositions: the parts sum to the whole, and the emitted step is what the string says."""

from __future__ import annotations

import copy
import re
from fractions import Fraction
from functools import cache
from typing import Any

import flint
import numpy as np
import pytest
import scipy.linalg
import sympy as sp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import solve_ivp

import stepsmith as ss
from stepsmith.derive.maths import calculus
from stepsmith.derive.maths.calculus import t
from stepsmith.derive.sampler.split import bind
from stepsmith.derive.spec.composition import parse_composition
from stepsmith.errors import InputError
from stepsmith.measure import probe

torch.set_num_threads(1)
HOLD = {
    "name": "hold", "state": ["x", "v", "w"],
    "F": [["0", "beta", "0"], ["-beta", "0", "beta*chi"], ["0", "-beta*chi", "-beta*xi"]],
    "G": [["0"], ["0"], ["sqrt(2*beta*xi)"]], "params": {"low": 1.0, "high": 5.0, "chi": 2.0, "xi": 3.0},
    "let": {"beta": "low + t*(high - low)"}, "initial": {"v": "0.1", "w": "0.2"},
}  # fmt: skip
SPLITTING = [
    name for name in ss.list_samplers() if ss.load_sampler(name).family in ("splitting", "conjugate-splitting")
]


@cache
def sde_of(name: str) -> Any:
    return ss.load_sde(HOLD if name == "hold" else name)


def test_the_catalogue_has_the_papers_splittings() -> None:
    assert {"euler", "euler-maruyama", "nse", "nvv", "rse", "rvv", "noba", "roba", "robab", "obab", "baoab", "sscs",
            "conjugate-se", "conjugate-vv", "conjugate-oba"} <= set(SPLITTING)  # fmt: skip


# --- the parts sum to the whole -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("sde_name", ["psld", "cld", "psld-damped", "hold"])
@pytest.mark.parametrize("sampler", SPLITTING)
def test_the_parts_sum_to_the_reverse_dynamics(sampler: str, sde_name: str) -> None:
    sde = sde_of(sde_name)
    spec = ss.load_sampler(sampler)
    parts, n, ode = bind(spec, sde).values(), sde.n, spec.target == "ode"
    linear = sum((sde.written_out(p.linear) for p in parts), sp.zeros(n)) + sde.F
    score = sum((sde.written_out(p.score) for p in parts), sp.zeros(n)) - sde.GG * (sp.Rational(1, 2) if ode else 1)
    assert all(calculus.is_zero(e) for e in (*linear, *score))
    rows = sorted(i for p in parts for i in p.noise_rows)
    noisy = [] if ode else [i for i in range(n) if any(e != 0 for e in sde.GG.row(i))]
    assert [i for i in rows if i in noisy] == noisy and len(rows) == len(set(rows))
    for part in parts:  # a part moves its own rows only
        for i in set(range(n)) - set(part.rows):
            assert all(e == 0 for e in (*part.linear.row(i), *part.score.row(i)))


PAPER = {
    "name": "written-out", "family": "splitting", "target": "sde", "composition": "O B! A",
    "parts": {
        "O": {"linear": [["-beta*Gamma/2", "0"], ["0", "-beta*nu/2"]], "noise": ["x", "m"], "solve": "exact"},
        "A": {"rows": ["x"], "linear": [["beta*Gamma", "-beta*Minv/2"], ["0", "0"]], "score": [["beta*Gamma", "0"], ["0", "0"]]},
        "B": {"rows": ["m"], "linear": [["0", "0"], ["beta/2", "beta*nu"]], "score": [["0", "0"], ["0", "beta*nu/Minv"]]},
    },
}  # fmt: skip


def test_the_papers_parts_written_out_are_accepted() -> None:
    """psld-and-splitting.md 4.2: A = beta/2 (2 Gamma x - m/M + 2 Gamma s_x), B = beta/2 (x + 2 nu m + 2 M nu s_m)."""
    split = bind(ss.load_sampler(PAPER), sde_of("psld"))
    other = bind(ss.load_sampler("roba"), sde_of("psld"))
    for letter in "OAB":
        for kind in ("linear", "score"):
            one, two = getattr(split[letter], kind), getattr(other[letter], kind)
            assert (one - two).applyfunc(sp.expand) == sp.zeros(2), (letter, kind)


@pytest.mark.parametrize(
    ("letter", "kind", "entry", "text", "words"),
    [
        ("A", "linear", (0, 0), "beta*Gamma/2", ("linear of row x in x", "missing", "Gamma*beta/2")),
        ("A", "linear", (0, 1), "beta*Minv/2", ("linear of row x in m", "missing", "-Minv*beta")),
        ("B", "linear", (1, 0), "0", ("linear of row m in x", "missing", "beta/2")),
        ("B", "linear", (1, 1), "beta*nu + 1", ("linear of row m in m", "extra 1;")),
        ("B", "linear", (1, 1), "beta*nu - 1", ("linear of row m in m", "missing 1;")),
        ("A", "score", (0, 0), "beta*Gamma/2", ("score of row x in the score of x", "missing", "Gamma*beta/2")),
        ("A", "score", (0, 1), "beta", ("score of row x in the score of m", "extra", "beta")),
        ("B", "score", (1, 1), "beta*nu", ("score of row m in the score of m", "extra beta*nu*(1 - 1/Minv);")),
        ("B", "score", (1, 0), "t", ("score of row m in the score of x", "extra", "t")),
        ("O", "linear", (0, 1), "beta", ("linear of row x in m", "missing", "-beta")),
    ],
)  # fmt: skip
def test_a_changed_entry_is_refused_and_named(
    letter: str, kind: str, entry: tuple[int, int], text: str, words: Any
) -> None:
    table = copy.deepcopy(PAPER)
    table["parts"][letter][kind][entry[0]][entry[1]] = text
    with pytest.raises(InputError) as caught:
        bind(ss.load_sampler(table), sde_of("psld"))
    assert all(word in str(caught.value) for word in words), str(caught.value)


@pytest.mark.parametrize(
    ("noise", "words"), [(["x"], "noise of row m"), (["m"], "noise of row x"), ("none", "noise of row x")]
)
def test_lost_noise_is_refused_and_named(noise: Any, words: str) -> None:
    table = copy.deepcopy(PAPER)
    table["parts"]["O"]["noise"] = noise
    with pytest.raises(InputError, match=words):
        bind(ss.load_sampler(table), sde_of("psld"))


def test_noise_in_a_probability_flow_and_noise_twice_are_refused() -> None:
    table = copy.deepcopy(PAPER)
    table["target"] = "ode"
    with pytest.raises(InputError, match="probability flow"):
        bind(ss.load_sampler(table), sde_of("psld"))
    table = copy.deepcopy(PAPER)
    table["parts"]["B"]["noise"] = ["m"]
    with pytest.raises(InputError, match="noise of row m in m"):
        bind(ss.load_sampler(table), sde_of("psld"))


def test_a_part_may_not_move_a_row_that_is_not_its_own() -> None:
    table = copy.deepcopy(PAPER)
    table["parts"]["A"]["linear"][1][1] = "beta"
    with pytest.raises(InputError, match="row m is not among the rows of A"):
        bind(ss.load_sampler(table), sde_of("psld"))


# --- the grammar ----------------------------------------------------------------------------------------------------------


@st.composite
def compositions(draw: Any) -> list[tuple[str, bool, bool, Fraction, Fraction | None]]:
    """Tokens (letter, fresh, predict, at, share or None); the shares of a letter sum to 1."""
    letters = draw(st.lists(st.sampled_from("ABOSXYZ"), min_size=1, max_size=10))
    shared: dict[str, list[Fraction]] = {}
    for letter in sorted(set(letters)):
        count = letters.count(letter)
        if draw(st.booleans()):
            parts = draw(
                st.lists(st.fractions(-2, 2, max_denominator=9).filter(bool), min_size=count - 1, max_size=count - 1)
            )
            rest = 1 - sum(parts, Fraction(0))
            if rest != 0 and (count == 1 or 1 not in (*parts, rest)):  # a share of 1 among others: see below
                shared[letter] = [*parts, rest]
    tokens = []
    for letter in letters:
        fresh = draw(st.booleans())
        at = draw(st.fractions(0, 1, max_denominator=12)) if fresh else Fraction(0)
        share = shared[letter].pop(0) if letter in shared else None
        tokens.append((letter, fresh, fresh and draw(st.booleans()), at, share))
    return tokens


def written(token: tuple[str, bool, bool, Fraction, Fraction | None], explicit: bool) -> str:
    letter, fresh, predict, at, share = token
    time = f"@{at}" if at or (explicit and fresh) else ""
    return f"{letter}{'!' * fresh}{'^' * predict}{time}{f'({share})' if share is not None else ''}"


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(compositions(), st.booleans(), st.sampled_from(["", " ", "  "]))
def test_a_composition_says_what_it_was_made_of(tokens: Any, explicit: bool, gap: str) -> None:
    parsed = parse_composition(gap.join(written(token, explicit) for token in tokens))
    count = [token[0] for token in tokens].count
    assert [(p.letter, p.fresh, p.predict, p.at, p.share) for p in parsed] == [
        (letter, fresh, predict, sp.Rational(at.numerator, at.denominator),
         sp.Rational(1, count(letter)) if share is None else sp.Rational(share.numerator, share.denominator))
        for letter, fresh, predict, at, share in tokens
    ]  # fmt: skip
    again = parse_composition(" ".join(str(p) for p in parsed))
    assert all(
        (a.letter, a.fresh, a.predict, a.at, a.share) == (b.letter, b.fresh, b.predict, b.at, b.share)
        for a, b in zip(parsed, again, strict=True)
    )
    for letter in {p.letter for p in parsed}:
        assert sum(p.share for p in parsed if p.letter == letter) == 1


@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(st.text("ABO!^@()/-0123456789 .x", max_size=30))
def test_any_text_is_parsed_or_refused_in_one_line(text: str) -> None:
    try:
        tokens = parse_composition(text)
    except InputError as error:
        assert "\n" not in str(error)
    else:
        assert re.sub(r"\s|@[^(A-Z]*|\([^)]*\)|[!^]", "", text) == "".join(token.letter for token in tokens)


def test_a_share_of_one_among_others_is_written_out() -> None:
    parsed = parse_composition("A!(1) A(-1/2) A(1/2)")
    assert parse_composition(" ".join(map(str, parsed))) == parsed


def test_a_negative_share_of_noise_is_refused() -> None:
    ss.derive("psld", "A!(3/2) B A(-1/2)")  # allowed: no noise
    with pytest.raises(InputError):
        ss.derive("psld", "O(3/2) B! A O(-1/2)")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "empty"), ("A! b", "column 4"), ("A^", "without a fresh"), ("A@1", "without a fresh"), ("A!@2", "outside the step"),
        ("A!@-1/2", "outside the step"), ("A!@1/0", "division by zero"), ("A!(1/2) A", "carry a share and some do not"),
        ("A!(1/2) A(1/3)", "sum to 5/6"), ("A!(0)", "zero"), ("A!!", "column 3"), ("A! " * 65, "64 tokens"),
        ("A!(2)", "sum to 2"),
    ],
)  # fmt: skip
def test_a_bad_composition_is_told_why(text: str, words: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_composition(text)
    assert words in str(caught.value), str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [("A B!", "before the first !"), ("A! Q", "Q"), ("A! B! C", "C"), ("B!", "letters B")],
)
def test_a_composition_that_cannot_run_is_refused(text: str, words: str) -> None:
    with pytest.raises(InputError, match=re.escape(words)):
        ss.load_sampler(text)


def test_calls_a_step_are_the_exclamation_marks() -> None:
    for text in ("B! A!", "B! A", "B! A! B!", "B! A B!@1", "O B! A!", "B! A! O A!@1 B!@1"):
        assert ss.derive("psld", text).nfe == text.count("!")


# --- the emitted step is the composition, done by hand ------------------------------------------------------------------


class ByHand:
    """One step of a composition on the affine world: a state and each output as its matrix over (z, outputs, draws).

    An independent reading of docs/sampler-specs.md: an Euler part freezes F and G at the time of the evaluation it uses, an
    exact part runs its flow (van Loan on a fine product) over its own sub-interval, each letter with its own clock, a
    conjugate part integrates its definition.
    """

    def __init__(
        self, sde: Any, params: dict[str, float], target: str, solve: dict[str, str], B: dict[str, float]
    ) -> None:
        self.view = sde.at(**params)
        values = {sde.symbols[k]: v for k, v in self.view.params.items()}
        F, V = (sp.lambdify(t, sp.Matrix(M).subs(values), "numpy") for M in (sde.F, sde.GG))
        self.F, self.V = (lambda s: np.array(F(s), dtype=float)), (lambda s: np.array(V(s), dtype=float))
        self.n, self.c, self.solve, self.B, self.sde = sde.n, 1.0 if target == "sde" else 0.5, solve, B, sde
        if "S" in solve:
            self.law = np.linalg.inv(np.array(sde.stationary().subs(values), dtype=float))
        self.data = np.diag([float(i in sde.data) for i in range(self.n)])
        self.aux = np.eye(self.n) - self.data

    def part(self, letter: str, s: float) -> tuple[np.ndarray, np.ndarray, bool]:
        """(linear, score, noisy) of the letter in reverse time: the parts of the paper."""
        F, V = self.F(s), self.V(s)
        diagonal = np.diag(np.diag(F))
        if letter == "O":
            return diagonal, np.zeros_like(F), True
        if letter == "E":
            return -F, self.c * V, self.c == 1.0
        if letter in "AB" and "S" not in self.solve:
            rest = -F - (diagonal if "O" in self.solve else 0)
            rows = self.data if letter == "A" else self.aux
            return rows @ rest, self.c * rows @ V, False
        law = self.law
        if letter == "A":  # the reverse drift under the stationary score
            return -F - V @ law, np.zeros_like(F), True
        return V @ law, V, False

    def exact(self, letter: str, upper: float, lower: float) -> tuple[np.ndarray, np.ndarray]:
        n = self.n
        whole = np.eye(2 * n)
        width = (upper - lower) / 5
        for k in range(5):  # CF4: two Gauss nodes a piece
            blocks = []
            for c in (0.5 - 3**0.5 / 6, 0.5 + 3**0.5 / 6):
                s = upper - (k + c) * width
                L, _, _ = self.part(letter, s)
                blocks.append(np.block([[L, self.V(s)], [np.zeros((n, n)), -L.T]]))
            a, b = 0.25 + 3**0.5 / 6, 0.25 - 3**0.5 / 6
            first, second = (scipy.linalg.expm(width * (p * blocks[0] + q * blocks[1])) for p, q in ((a, b), (b, a)))
            whole = second @ first @ whole
        return whole[:n, :n], whole[:n, n:] @ whole[:n, :n].T

    def denoiser(self, s: float) -> tuple[np.ndarray, np.ndarray]:
        """(C_skip, C_out) of the bridge at one time."""
        with flint.ctx.workprec(400):
            S, psi = flint.arb_mat(self.view.exact_covariance(s)), self.view.exact_transition(s, self.sde.time[0])
            inverse = S.inv()
            u = inverse * flint.arb_mat([[row[self.sde.data[0]]] for row in psi])
            return tuple(np.array([[float(e.mid()) for e in row] for row in M.tolist()]) for M in (-inverse, u))

    def conjugate(self, letter: str, upper: float, lower: float) -> tuple[np.ndarray, np.ndarray]:
        """Rows R: A' = A K, K = B + linear_RR + (score C_skip)_RR from A(lower) = I; the rest frozen under the integral."""
        n, rows = self.n, [i for i in range(self.n) if (self.data if letter == "A" else self.aux)[i, i]]
        others, r = [i for i in range(n) if i not in rows], len(rows)
        lam = self.B[letter] * np.eye(r)

        def right(s: float, y: np.ndarray) -> np.ndarray:
            A = y[: r * r].reshape(r, r)
            linear, score, _ = self.part(letter, s)
            skip, out = self.denoiser(s)
            full = linear + score @ skip
            own, cross, given = full[np.ix_(rows, rows)], full[np.ix_(rows, others)], (score @ out)[rows]
            return np.concatenate([(A @ (lam + own)).ravel(), (A @ cross).ravel(), (A @ given).ravel()])

        start = np.concatenate([np.eye(r).ravel(), np.zeros(r * (n - r) + r)])
        y = solve_ivp(right, (lower, upper), start, method="DOP853", rtol=1e-13, atol=1e-15).y[:, -1]
        A, C, Phi = np.split(y, [r * r, r * r + r * (n - r)])
        step, out = np.eye(n), np.zeros((n, 1))
        step[np.ix_(rows, rows)] = A.reshape(r, r) @ (np.eye(r) - (upper - lower) * lam)
        step[np.ix_(rows, others)] = C.reshape(r, n - r)
        out[rows] = Phi.reshape(r, 1)
        return step, out

    def step(self, text: str, t0: float, t1: float, score: Any) -> tuple[np.ndarray, np.ndarray]:
        """The step's matrix and noise covariance on z for scores score(t) z (or D = score(t) z where conjugate)."""
        n, h = self.n, t0 - t1
        letters = parse_composition(text)
        state, cov = [np.eye(n)], []  # the map from z; the maps of the draws, appended as they come
        draws: list[np.ndarray] = []  # each draw's current image in the state
        kept: tuple[np.ndarray, list[np.ndarray]] | None = None  # the last output: map of z, images of the draws
        clock, done = t0, {token.letter: 0.0 for token in letters}
        del cov

        def moved(
            token: Any, z: np.ndarray, images: list[np.ndarray], seen: tuple[np.ndarray, list[np.ndarray]] | None = None
        ) -> tuple[np.ndarray, list[np.ndarray]]:
            """The token's move; an Euler part takes its linear drift at ``seen`` where that is given."""
            share = float(token.share)
            upper = t0 - done[token.letter] * h
            lower = upper - share * h
            how = self.solve[token.letter]
            if how == "exact":
                flow, noise = self.exact(token.letter, upper, lower)
                fresh = (
                    list(np.linalg.cholesky(noise + 1e-300 * np.eye(n)).T[:, :, None]) if noisy(noise) else roots(noise)
                )
                return flow @ z, [flow @ image for image in images] + fresh
            if how == "conjugate":
                flow, out = self.conjugate(token.letter, upper, lower)
            else:
                linear, on_score, noise = self.part(token.letter, clock)
                flow, out = np.eye(n) + share * h * linear, share * h * on_score
            assert kept is not None
            if seen is not None and how == "euler":
                assert not noise
                late = list(seen[1]) + [np.zeros_like(z[:, :1])] * (len(images) - len(seen[1]))
                last = list(kept[1]) + [np.zeros_like(z[:, :1])] * (len(images) - len(kept[1]))
                drift = flow - np.eye(n)
                moves = zip(images, late, last, strict=True)
                return z + drift @ seen[0] + out @ kept[0], [a + drift @ b + out @ c for a, b, c in moves]
            z = flow @ z + out @ kept[0]
            last = kept[1] + [np.zeros_like(kept[1][0] if kept[1] else kept[0][:, :1])] * (len(images) - len(kept[1]))
            images = [flow @ image + out @ seen for image, seen in zip(images, last, strict=True)]
            if how == "euler" and noise:
                images = images + roots(share * h * self.V(clock))
            return z, images

        def noisy(noise: np.ndarray) -> bool:
            return bool(np.linalg.eigvalsh(noise)[0] > 1e-14 * np.linalg.eigvalsh(noise)[-1])

        def roots(noise: np.ndarray) -> list[np.ndarray]:
            values, vectors = np.linalg.eigh(noise)
            return [(vectors[:, k] * np.sqrt(max(values[k], 0.0)))[:, None] for k in range(n)]

        z = state[0]
        for token in letters:
            seen = None
            if token.fresh:
                at = t0 - float(token.at) * h
                ahead, images = moved(token, z, draws) if token.predict and kept is not None else (z, draws)
                seen = (ahead, images) if token.predict else None
                S = score(at)
                kept = S @ ahead, [S @ image for image in images]
                clock = at
            z, draws = moved(token, z, draws, seen)
            done[token.letter] += float(token.share)
        return z, sum((image @ image.T for image in draws), np.zeros((n, n)))


def compared(
    module: Any, hand: ByHand, text: str, t0: float, t1: float, score: Any, digits: float, **params: float
) -> None:
    row = module.coefficients([t0, t1], **params)[0]

    def network(inputs: tuple[torch.Tensor, ...], time: torch.Tensor) -> tuple[torch.Tensor, ...]:
        told = float(time) if module.NETWORK == "score" else sigma_to_time(hand, float(time), (t0, t1))
        S = torch.tensor(score(told), dtype=torch.float64)
        if module.NETWORK == "score":
            return (S @ torch.stack(inputs)).unbind(0)
        return (GAIN * inputs[0],)

    A, b, N = probe.affine_map(module, row, network)
    wanted, cov = hand.step(text, t0, t1, score)
    assert b.abs().max() == 0
    assert np.abs(A.numpy() - wanted).max() <= digits * np.abs(wanted).max()
    got = (N @ N.T).numpy()
    scale = np.sqrt(np.outer(np.diag(cov), np.diag(cov))) + 1e-300
    assert (np.abs(got - cov) <= 1e-10 * scale + 1e-17).all(), (got, cov)


GAIN = 0.6


def sigma_to_time(hand: ByHand, sigma: float, times: tuple[float, ...]) -> float:
    return min(times, key=lambda time: abs(float(hand.view.effective_sigma(time)) - sigma))


def any_score(n: int) -> Any:
    """A linear score that changes with time and mixes the blocks: nothing of it is special."""
    base = -np.eye(n) + 0.3 * np.cos(np.arange(n * n)).reshape(n, n)
    turn = 0.4 * np.sin(np.arange(n * n) + 1.0).reshape(n, n)
    return lambda s: base + s**2 * turn


TEXTS = (
    "B! A!", "B! A", "B! A! B!", "B! A B!@1", "A!@1/2 B", "B!(1/3) A!@1/2 B!^@1(2/3)", "A! B!^@1 A!^@1", "E!",
    "E!(1/4) E!^@3/4(3/4)", "O B! A!", "O B! A", "O B! A B!@1", "B! A! O A!@1 B!@1", "O(1/4) B!@1/3 A O(3/4)", "A S! A",
    "A S!@1/2 A", "A(1/3) S! A(2/3)",
)  # fmt: skip


@pytest.mark.parametrize(
    ("sde_name", "text"),
    [("psld", text) for text in TEXTS] + [("hold", text) for text in TEXTS[::2]],
)
def test_the_emitted_step_is_the_composition_by_hand(sde_name: str, text: str) -> None:
    sde = sde_of(sde_name)
    module = ss.load(ss.emit(ss.derive(sde, text, network="score"), certified=False))
    sampler = ss.load_sampler(text)
    solve = {letter: part.solve for letter, part in sampler.parts.items()}
    params = {"beta_min": 0.5, "beta_max": 9.0} if sde_name == "psld" else {}
    hand = ByHand(sde, params, sampler.target, solve, {})
    compared(module, hand, text, 0.5, 0.41, any_score(sde.n), 1e-12, **params)


def test_psld_without_gamma_is_cld_for_a_moving_beta_too() -> None:
    table = {
        "name": "moving", "state": ["x", "m"], "F": [["0", "beta*Minv/2"], ["-beta/2", "-beta*nu/2"]],
        "G": [["0"], ["sqrt(beta*nu/Minv)"]], "params": {"nu": 4.0, "Minv": 4.0, "low": 1.0, "high": 9.0},
        "let": {"beta": "low + t*(high - low)"}, "initial": {"m": "0.01"},
    }  # fmt: skip
    one = ss.load(ss.emit(ss.derive(table, "baoab", network="score"), certified=False))
    two = ss.load(ss.emit(ss.derive("psld", "baoab", network="score"), certified=False))
    params = {"Gamma": 0.0, "nu": 4.0, "beta_min": 1.0, "beta_max": 9.0}
    score = any_score(2)

    def network(inputs: tuple[torch.Tensor, ...], time: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return (torch.tensor(score(float(time)), dtype=torch.float64) @ torch.stack(inputs)).unbind(0)

    A = probe.affine_map(one, one.coefficients([0.5, 0.4])[0], network).A
    assert A.numpy() == pytest.approx(
        probe.affine_map(two, two.coefficients([0.5, 0.4], **params)[0], network).A.numpy()
    )


@pytest.mark.parametrize("target", ["ode", "sde"])
def test_euler_of_either_target_is_eulers_formula(target: str) -> None:
    name = "euler" if target == "ode" else "euler-maruyama"
    module = ss.load(ss.emit(ss.derive("cld", name, network="score"), certified=False))
    compared(module, ByHand(sde_of("cld"), {}, target, {"E": "euler"}, {}), "E!", 0.3, 0.28, any_score(2), 1e-13)


@pytest.mark.parametrize(
    ("sampler", "text"), [("conjugate-se", "B! A"), ("conjugate-vv", "B! A B!@1"), ("conjugate-oba", "O B! A")]
)
@pytest.mark.parametrize("sde_name", ["psld", "hold"])
def test_the_conjugate_parts_are_their_definition_integrated_elsewhere(sampler: str, text: str, sde_name: str) -> None:
    sde, params = sde_of(sde_name), {"beta_min": 0.5, "beta_max": 9.0} if sde_name == "psld" else {}
    module = ss.load(ss.emit(ss.derive(sde, sampler), certified=False))
    target = "sde" if "O" in text else "ode"
    lambdas = {"A": 0.8, "B": -1.3}
    solve = {"A": "conjugate", "B": "conjugate", "O": "exact"} if "O" in text else {"A": "conjugate", "B": "conjugate"}
    hand = ByHand(sde, params, target, solve, lambdas)

    def output(time: float) -> np.ndarray:
        """D = 0.6 y, y the best linear estimate of the data: a row on z."""
        _, u = hand.denoiser(time)
        e = hand.view.transition(time, 0.0)[:, sde.data[0]]
        return GAIN * u.T / (e @ u[:, 0])

    both = {**params, "lambda_a": lambdas["A"], "lambda_b": lambdas["B"]}
    compared(module, hand, text, 0.5, 0.46, output, 1e-10, **both)


def test_a_conjugate_part_of_psld_is_the_pages_formula() -> None:
    """psld-and-splitting.md section 5, sub-flow A in the frame eps-L: k = lambda_x + beta Gamma / 2, w(s) = e^{k (s - t1)}."""
    module, view = ss.load(ss.emit(ss.derive("psld", "conjugate-se", network="eps-L"), certified=False)), sde_of("psld").at()
    t0, t1, lam, beta, Gamma, nu, Mi = 0.4, 0.36, 0.9, 8.0, 0.01, 4.01, 4.0
    row = module.coefficients([t0, t1], lambda_a=lam, lambda_b=0.0)[0].unbind()
    columns = torch.eye(4, dtype=torch.float64).unbind(1)
    got = torch.stack(module.step(columns[:2], row, lambda inputs, time: columns[2:])[0]).numpy()
    x, w = np.polynomial.legendre.leggauss(40)
    s, ds = (t0 + t1) / 2 + (t0 - t1) / 2 * x, (t0 - t1) / 2 * w
    inverse = [np.linalg.inv(view.factor(float(v), "lower")).T for v in s]

    def part(row: int, lam: float, damping: float, coupling: float, power: float) -> tuple[float, float, np.ndarray]:
        weight = np.exp((lam + damping) * (s - t1))
        own = np.exp((lam + damping) * (t0 - t1)) * (1 - (t0 - t1) * lam)
        outputs = sum(p * k * power * L[row] for p, k, L in zip(ds, weight, inverse, strict=True))
        return own, coupling * (ds * weight).sum(), outputs

    own, cross, out = part(1, 0.0, beta * nu / 2, beta / 2, beta * nu / Mi / 2)
    m = np.array([cross, own, -out[0], -out[1]])  # x' of the page carries + L^-T eps where s = -L^-T eps: sign below
    m[2:] = -out
    own, cross, out = part(0, lam, beta * Gamma / 2, -beta * Mi / 2, beta * Gamma / 2)
    new = own * np.array([1.0, 0, 0, 0]) + cross * m
    new[2:] += -out
    assert got[1] == pytest.approx(m, rel=1e-12, abs=1e-14)
    assert got[0] == pytest.approx(new, rel=1e-12, abs=1e-14)


def test_compositions_that_differ_have_names_that_differ() -> None:
    texts = ("B! A B!", "B! A B!^", "B! A B!@1", "B!(1/3) A B!(2/3)", "B!(4/3) A B!(-1/3)", "B!(1/3) A B!^(2/3)")
    names = [ss.load_sampler(text).name for text in texts]
    assert len(set(names)) == len(names) and names[0] == "bf-a-bf"
