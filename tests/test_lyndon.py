"""Order conditions of compositions: published schemes reproduced, and slopes of matrix exponentials as an independent check."""

from __future__ import annotations

import doctest
import itertools
import math
from fractions import Fraction

import mpmath
import pytest
import sympy as sp

import stepsmith as ss
from stepsmith.derive.orders import lyndon, shares
from stepsmith.derive.orders.lyndon import lyndon_words, order_of, order_of_sampler
from stepsmith.derive.orders.shares import conditions, refine, solve
from stepsmith.errors import InputError, Unsupported

CUBE = 2 ** (1 / 3)
YOSHIDA = 1 / (2 - CUBE)
SUZUKI = 1 / (4 - 4 ** (1 / 3))
BLANES_MOAN = {  # methods.md 2.1
    "a1": 0.0792036964311957, "a2": 0.353172906049774, "a3": -0.0420650803577195, "b1": 0.209515106613362,
    "b2": -0.143851773179818,
}  # fmt: skip
S6 = "ABABABABABABA"


def strang(*weights: float) -> list[tuple[str, float]]:
    """Strang steps of these lengths one after the other, neighbouring halves joined."""
    steps: list[tuple[str, float]] = []
    for w in weights:
        steps += [("A", w / 2), ("B", w), ("A", w / 2)]
    joined = [steps[0]]
    for letter, share in steps[1:]:
        joined[-1:] = [(letter, joined[-1][1] + share)] if joined[-1][0] == letter else [joined[-1], (letter, share)]
    return joined


def slope(steps: list[tuple[str, float]], seed: int = 1, letters: str = "AB") -> float:
    """The order measured on random 4 x 4 matrices in 60 digits: prod exp(c h X), first step rightmost, against exp(h sum)."""
    rng = __import__("random").Random(seed)
    with mpmath.workdps(60):
        X = {x: mpmath.matrix([[rng.uniform(-1, 1) for _ in range(4)] for _ in range(4)]) for x in letters}

        def error(h: mpmath.mpf) -> mpmath.mpf:
            product = mpmath.eye(4)
            for letter, share in steps:
                product = mpmath.expm(mpmath.mpmathify(share) * h * X[letter]) * product
            whole = mpmath.expm(h * sum((X[x] for x in letters[1:]), X[letters[0]]))
            return mpmath.norm(product - whole)

        h = mpmath.mpf(1) / 256
        return float(mpmath.log(error(h) / error(h / 2), 2)) - 1


def test_the_examples_of_the_docstrings_hold() -> None:
    assert doctest.testmod(lyndon).failed == doctest.testmod(shares).failed == 0


def test_lyndon_words_are_counted_by_the_necklace_formula() -> None:
    for letters, length in itertools.product(("AB", "ABC"), range(1, 7)):
        count = sum(sp.mobius(d) * len(letters) ** (length // d) for d in sp.divisors(length)) // length
        assert len(lyndon_words(letters, length)) == count


def test_the_error_of_strang_is_that_of_the_campbell_baker_hausdorff_series() -> None:
    found = order_of("A(1/2) B A(1/2)")
    assert (found.order, found.error) == (2, {"AAB": Fraction(-1, 24), "ABB": Fraction(1, 12)})
    assert order_of("A B").error == {"AB": Fraction(1, 2)}


@pytest.mark.parametrize(
    ("composition", "order"),
    [("A B", 1), ("A(1/2) B A(1/2)", 2), ("A(1/3) B(1/2) A(1/3) B(1/2) A(1/3)", 2), ("A(1/2) B(1/2) C B(1/2) A(1/2)", 2),
     ("A B C", 1), ("A(1/4) B(2/3) A(3/4) B(1/3)", 2)],
)  # fmt: skip
def test_the_order_of_a_composition_string_is_the_slope_of_matrix_exponentials(composition: str, order: int) -> None:
    found = order_of(composition)
    letters = "ABC" if "C" in composition else "AB"
    steps = [(t.letter, mpmath.mpf(int(t.share.p)) / int(t.share.q)) for t in ss.derive.parse_composition(composition)]
    assert found.order == order
    assert abs(slope(steps, letters=letters) - order) < 0.05


def test_the_leading_error_is_the_leading_difference_of_matrix_exponentials() -> None:
    composition = "A(1/4) B(2/3) A(3/4) B(1/3)"
    found = order_of(composition)
    rng = __import__("random").Random(3)
    with mpmath.workdps(60):
        X = {x: mpmath.matrix([[rng.uniform(-1, 1) for _ in range(3)] for _ in range(3)]) for x in "AB"}
        h = mpmath.mpf(10) ** -12
        product = mpmath.eye(3)
        for token in ss.derive.parse_composition(composition):
            share = mpmath.mpf(int(token.share.p)) / int(token.share.q)
            product = product * mpmath.expm(share * h * X[token.letter])  # operators: in the order of the tokens
        gap = (product - mpmath.expm(h * (X["A"] + X["B"]))) / h**3
        wanted = mpmath.zeros(3)
        for word, c in found.error.items():
            for letters, k in lyndon.bracket(word).items():
                term = mpmath.eye(3)
                for letter in letters:
                    term = term * X[letter]
                wanted += mpmath.mpf(c.numerator) / c.denominator * k * term
        assert mpmath.norm(gap - wanted) < 1e-9 * mpmath.norm(wanted)


@pytest.mark.parametrize(
    ("weights", "order"),
    [((1.0,), 2), ((YOSHIDA, 1 - 2 * YOSHIDA, YOSHIDA), 4), ((SUZUKI, SUZUKI, 1 - 4 * SUZUKI, SUZUKI, SUZUKI), 4)],
)
def test_compositions_of_strang_have_their_published_order(weights: tuple[float, ...], order: int) -> None:
    assert order_of(strang(*weights)).order == order


def test_the_conditions_of_strang_are_solved_by_one_half() -> None:
    (found,) = solve(conditions("ABA", 2, symmetric=True))
    assert (found.shares["a1"], found.shares["b1"]) == (sp.Float(0.5, 30), sp.Float(1, 30)) and found.positive


def test_yoshida_is_the_one_real_solution_and_two_are_complex() -> None:
    found = solve(conditions("ABABABA", 4, symmetric=True))
    assert [s.real for s in found] == [True, False, False] and not any(s.positive for s in found)
    assert abs(found[0].shares["b1"] - (2 - sp.root(2, 3)) ** -1) < 1e-25
    assert abs(found[0].shares["b2"] - (1 - 2 / (2 - sp.root(2, 3)))) < 1e-25
    for solution in found:
        steps = [(letter, mpmath.mpmathify(sp.N(c, 30))) for letter, c in solution.steps]
        assert order_of([(letter, complex(c)) for letter, c in steps]).order == 4
        if solution.real:
            assert abs(slope(steps) - 4) < 0.05


def test_suzuki_is_found_with_its_shares_tied() -> None:
    p = sp.Symbol("b1")
    ties = {"a1": p / 2, "a2": p, "a3": (1 - 3 * p) / 2, "b2": p, "b3": 1 - 4 * p}
    found = solve(conditions("ABABABABABA", 4, symmetric=True, ties=ties))
    real = [s for s in found if s.real]
    assert len(real) == 1 and abs(real[0].shares["b1"] - 1 / (4 - sp.root(4, 3))) < 1e-25
    assert abs(slope([(letter, mpmath.mpf(str(c))) for letter, c in real[0].steps]) - 4) < 0.05


def test_blanes_and_moan_fulfil_the_conditions_to_their_published_digits() -> None:
    ties = {"a4": "1 - 2*(a1 + a2 + a3)", "b3": "1/2 - b1 - b2"}
    found = conditions(S6, 4, symmetric=True, ties=ties)
    assert sorted(found.equations) == ["AAB", "ABB"]
    published = {sp.Symbol(k): sp.Float(v, 20) for k, v in BLANES_MOAN.items()}
    assert found.residual(published) < 1e-16  # numerics.md 5c: 2e-17
    refined = refine(found, BLANES_MOAN)
    assert found.residual({sp.Symbol(k): v for k, v in refined.shares.items()}) < 1e-28
    assert all(abs(refined.shares[k] - v) < 1e-14 for k, v in BLANES_MOAN.items())
    assert abs(slope([(letter, mpmath.mpf(str(c))) for letter, c in refined.steps]) - 4) < 0.05


def test_the_seven_stage_conditions_of_order_seven_are_28() -> None:
    assert len(conditions("AB" * 7 + "A", 7, symmetric=True).equations) == sum(
        len(lyndon_words("AB", k)) for k in (1, 3, 5, 7)
    )


def test_positive_shares_above_order_two_are_refused_with_the_theorem() -> None:
    with pytest.raises(Unsupported, match="negative share"):
        solve(conditions("ABABABA", 4, symmetric=True), positive=True)
    with pytest.raises(Unsupported, match="family"):
        solve(conditions("ABABA", 2, symmetric=True))


@pytest.mark.parametrize("letters", [("A", "B"), ("B", "A")])
def test_no_positive_composition_of_three_stages_passes_order_two(letters: tuple[str, str]) -> None:
    """Random positive shares, normalised: the word AAB or ABB never vanishes together (what Sheng and Suzuki prove)."""
    rng = __import__("random").Random(0)
    for _ in range(50):
        a, b = ([Fraction(rng.randint(1, 99)) for _ in range(4)] for _ in range(2))
        steps = [(letters[k % 2], (a, b)[k % 2][k // 2] / sum((a, b)[k % 2])) for k in range(8)]
        assert order_of(steps).order <= 2


def test_a_kick_is_no_exact_flow() -> None:
    with pytest.raises(Unsupported, match="B is a kick that is no exact flow"):
        order_of("A B! A")
    with pytest.raises(Unsupported, match="no exact flow"):
        order_of_sampler(ss.load_sampler("baoab"))


@pytest.mark.parametrize(
    ("pattern", "order", "words"),
    [
        ("", 2, "pattern"),
        ("A", 2, "pattern"),
        ("ab", 2, "capital"),
        ("AAB", 2, "neighbours"),
        ("AB", 9, "order"),
        ("ABCD", 2, "three"),
    ],
)
def test_what_is_no_pattern_is_refused(pattern: str, order: int, words: str) -> None:
    with pytest.raises(InputError, match=words):
        conditions(pattern, order)
    with pytest.raises(InputError, match="palindrome"):
        conditions("AB", 2, symmetric=True)


def test_shares_of_a_letter_need_not_sum_to_one_to_be_judged() -> None:
    found = order_of([("A", Fraction(1, 2)), ("B", 1)])
    assert (found.order, found.error) == (0, {"A": Fraction(-1, 2)})
    assert math.isclose(order_of([("A", 0.5), ("B", 1.0)]).error["A"], -0.5)
