"""Random expressions: the parser gives each the value that is computed beside it, by other means."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import mpmath
import sympy
from hypothesis import given, settings
from hypothesis import strategies as st

from stepsmith.derive.spec import expression
from stepsmith.errors import InputError

X, Y = (sympy.Symbol(name, real=True) for name in "xy")


def parse(text: str) -> sympy.Expr:
    return expression.parse(text, {"x": X, "y": Y}, where="-", key="F")


def fuzzed(examples: int) -> Any:
    return settings(max_examples=examples, deadline=None, derandomize=True, database=None)


@dataclass(frozen=True)
class Tree:
    """A text and its value at x, y, computed beside it; ``rank``: where it needs brackets, ``powers``: how many are nested."""

    text: str
    rank: int
    value: Any
    powers: int = 0

    def within(self, rank: int) -> str:
        return self.text if self.rank >= rank else f"( {self.text})"


class Arithmetic:
    """Random trees of the grammar over numbers of one kind: Fraction for the rational ones, mpf for those with functions."""

    def __init__(self, number: Any, x: Any, y: Any, functions: tuple[str, ...] = (), division: bool = False) -> None:
        self.leaves = st.integers(0, 9999).map(lambda n: Tree(f"{n / 100:.2f}", 9, number(n) / 100)) | st.sampled_from(
            [Tree("x", 9, x), Tree("y", 9, y)]
        )
        self.signs = {"+": (1, operator.add), "-": (1, operator.sub), "*": (2, operator.mul)} | (
            {"/": (2, operator.truediv)} if division else {}
        )
        self.functions = functions

    def trees(self) -> Any:
        return st.recursive(self.leaves, self._grown, max_leaves=14)

    def _grown(self, parts: Any) -> Any:
        choices = [st.builds(self.binary, st.sampled_from(sorted(self.signs)), parts, parts), parts.map(self.negative)]
        choices.append(st.builds(self.power, parts, st.sampled_from(["^", "**", " ** "]), st.integers(0, 3)))
        return st.one_of(
            *choices, *([st.builds(self.call, st.sampled_from(self.functions), parts)] if self.functions else [])
        )

    def binary(self, sign: str, left: Tree, right: Tree) -> Tree:
        rank, value = self.signs[sign]
        text = f"{left.within(rank)}{sign} {right.within(rank + 1)}"
        return Tree(text, rank, self.defined(value, left.value, right.value), max(left.powers, right.powers))

    def negative(self, part: Tree) -> Tree:
        return Tree(f"-{part.within(3)}", 3, self.defined(operator.neg, part.value), part.powers)

    def power(self, base: Tree, sign: str, exponent: int) -> Tree:
        return Tree(
            f"{base.within(5)}{sign}{exponent}", 4, self.defined(operator.pow, base.value, exponent), base.powers + 1
        )

    def call(self, name: str, part: Tree) -> Tree:
        return Tree(
            f"{name}({part.text})",
            9,
            self.defined(getattr(MP, "fabs" if name == "abs" else name), part.value),
            part.powers,
        )

    @staticmethod
    def defined(function: Any, *values: Any) -> Any:
        try:
            value = None if None in values else function(*values)
        except (ZeroDivisionError, ValueError, OverflowError):
            return None
        return None if isinstance(value, mpmath.mpc) or (value and abs(value) > 1e30) else value


MP: Any = mpmath.MPContext()
MP.dps = 80
RATIONAL = Arithmetic(Fraction, Fraction(-7, 3), Fraction(11, 5))
REAL = Arithmetic(MP.mpf, MP.mpf(-7) / 3, MP.mpf(11) / 5, expression.FUNCTIONS, division=True)
POINT = {X: sympy.Rational(-7, 3), Y: sympy.Rational(11, 5)}


@fuzzed(1000)
@given(RATIONAL.trees().filter(lambda tree: tree.powers <= 3 and tree.value is not None))
def test_polynomials_have_exactly_the_value_of_their_tree(tree: Tree) -> None:
    value = parse(tree.text).subs(POINT)
    assert Fraction(int(value.p), int(value.q)) == tree.value


@fuzzed(700)
@given(REAL.trees().filter(lambda tree: tree.powers <= 2 and tree.value is not None))
def test_expressions_have_the_value_of_their_tree(tree: Tree) -> None:
    try:
        result = parse(tree.text)
    except InputError as error:
        allowed = (
            "divides by zero",
            "cancels",
            "range of float64",
            "not a real",
            "finite",
            "nests",
            "raises",
            "has an exponent",
        )
        assert any(words in error.what for words in allowed)
        return
    with mpmath.workdps(60):
        value = sympy.lambdify(list(POINT), result, "mpmath")(mpmath.mpf(-7) / 3, mpmath.mpf(11) / 5)
    assert abs(MP.mpmathify(value) - tree.value) <= MP.mpf("1e-25") * (1 + abs(tree.value)), (tree.text, result)
