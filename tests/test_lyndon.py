"""Composition conditions: the known schemes, their constants, and what cannot be."""

from __future__ import annotations

from fractions import Fraction

import mpmath
import numpy as np
import pytest
import scipy.linalg
import sympy as sp

from stepsmith.derive.method import derive
from stepsmith.derive.orders import lyndon
from stepsmith.errors import InputError, Unsupported

BLANES_MOAN_A = [0.0792036964311957, 0.353172906049774, -0.0420650803577195]
BLANES_MOAN_B = [0.209515106613362, -0.143851773179818]


def blanes_moan() -> list[tuple[int, float]]:
    a = [*BLANES_MOAN_A, 1 - 2 * sum(BLANES_MOAN_A)]
    b = [*BLANES_MOAN_B, 0.5 - sum(BLANES_MOAN_B)]
    word = [a[0], b[0], a[1], b[1], a[2], b[2], a[3], b[2], a[2], b[1], a[1], b[0], a[0]]
    return [(k % 2, share) for k, share in enumerate(word)]


def composed(shares: list) -> list[tuple[int, object]]:
    """Strang steps of these lengths, neighbours merged."""
    steps: list[list] = []
    for p in shares:
        for letter, share in ((0, p / 2), (1, p), (0, p / 2)):
            if steps and steps[-1][0] == letter:
                steps[-1][1] += share
            else:
                steps.append([letter, share])
    return [(letter, share) for letter, share in steps]


@pytest.mark.parametrize(("letters", "counts"), [(2, [2, 1, 2, 3, 6, 9, 18]), (3, [3, 3, 8, 18, 48])])
def test_the_number_of_lyndon_words(letters: int, counts: list[int]) -> None:
    words = list(lyndon.lyndon_words(letters, len(counts)))
    assert [sum(len(w) == k for w in words) for k in range(1, len(counts) + 1)] == counts
    assert all(lyndon.is_lyndon(w) for w in words) and len(set(words)) == len(words)


def test_strang_and_its_constants() -> None:
    found = lyndon.order_of("A B A")
    assert found.order == 2
    assert found.error == {"[A,[A,B]]": Fraction(-1, 24), "[[A,B],B]": Fraction(1, 12)}


@pytest.mark.parametrize(
    ("text", "order"),
    [("A B", 1), ("B A B", 2), ("O B A", 1), ("B A O A B", 2), ("O A B A O", 2), ("A(1/3) B A(2/3)", 1)],
)
def test_orders_of_composition_strings(text: str, order: int) -> None:
    assert lyndon.order_of(text).order == order


@pytest.mark.parametrize(("count", "residual"), [(3, "yoshida"), (5, "suzuki")])
def test_jumps_lift_strang_to_four(count: int, residual: str) -> None:
    with mpmath.workdps(50):
        p = mpmath.mpf(str(sp.N(lyndon.triple_jump(2, count), 60)))
        side = [p] * (count // 2)
        steps = composed([*side, 1 - (count - 1) * p, *side])
        found = lyndon.order_of(steps, tolerance=mpmath.mpf("1e-45"))
    assert found.order == 4 and min(share for _, share in steps) < 0


def test_blanes_moan_is_of_order_four() -> None:
    found = lyndon.order_of(blanes_moan(), tolerance=1e-14)
    assert found.order == 4
    assert max(abs(v) for w, v in lyndon.defects(blanes_moan(), 2, 4).items()) < 2e-15


def test_solving_for_yoshida_finds_its_complex_sisters_too() -> None:
    solutions = lyndon.solve("ABABABA", 4)
    real = [s for s in solutions if all(abs(sp.im(sp.N(e))) < 1e-12 for e in s)]
    assert len(solutions) == 3 and len(real) == 1
    w = 1 / (2 - sp.root(2, 3))
    wanted = (w / 2, w, (1 - w) / 2, 1 - 2 * w)
    assert [sp.N(e, 20) for e in real[0][:4]] == pytest.approx([sp.N(e, 20) for e in wanted], rel=1e-15)
    assert lyndon.solve("ABA", 2) == [(sp.Rational(1, 2), 1, sp.Rational(1, 2))]


def test_what_cannot_be_is_said() -> None:
    with pytest.raises(Unsupported, match="only positive shares"):
        lyndon.solve("ABABABA", 4, positive=True)
    with pytest.raises(Unsupported, match="leave shares free"):
        lyndon.solve("ABABA", 2)
    with pytest.raises(InputError, match="no palindrome"):
        lyndon.conditions("AB", 2)


def test_the_number_of_conditions_of_a_palindrome() -> None:
    found = lyndon.conditions("ABABABABABABA", 5)
    assert len(found.equations) == 2 + 2 + 6 and len(found.shares) == 7


@pytest.mark.parametrize("steps", [[(0, 0.5), (1, 1.0), (0, 0.5)], blanes_moan(), [(0, 1.0), (1, 1.0)]])
def test_slopes_of_matrix_exponentials(steps: list[tuple[int, float]]) -> None:
    rng = np.random.default_rng(3)
    X = rng.standard_normal((2, 5, 5)) / 2

    def error(h: float) -> float:
        product = np.eye(5)
        for letter, share in steps:
            product = product @ scipy.linalg.expm(h * share * X[letter])
        return float(np.abs(product - scipy.linalg.expm(h * X.sum(0))).max())

    order = lyndon.order_of(steps, tolerance=1e-13).order
    h = 0.5 if order > 2 else 0.02
    assert np.log2(error(h) / error(h / 2)) == pytest.approx(order + 1, abs=0.2)


def test_the_leading_error_is_that_of_the_logarithm() -> None:
    rng = np.random.default_rng(4)
    A, B = rng.standard_normal((2, 4, 4))
    h = 1e-2
    product = scipy.linalg.expm(h * A / 2) @ scipy.linalg.expm(h * B) @ scipy.linalg.expm(h * A / 2)
    c = lambda x, y: x @ y - y @ x  # noqa: E731
    told = -c(A, c(A, B)) / 24 + c(c(A, B), B) / 12
    assert (scipy.linalg.logm(product) - h * (A + B)) / h**3 == pytest.approx(told, abs=2e-3 * np.abs(told).max())


def test_kicks_that_are_no_exact_flows_are_named() -> None:
    method = derive("psld", "B! A! B!")
    assert lyndon.order_of("B A B").order == 2 and method.order == 1
    assert lyndon.inexact(method) == ["A", "B"]
    assert lyndon.inexact(derive("psld", "roba")) == ["A", "B"]
