"""SymPy to Python text for the host side of an emitted module: torch where a tensor can stand, math where only numbers do."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import sympy as sp
from sympy.printing.precedence import PRECEDENCE, precedence
from sympy.printing.str import StrPrinter

from stepsmith.derive.calculus import careful

_FUNCTIONS = {
    "exp", "log", "sin", "cos", "tan", "sinh", "cosh", "tanh", "asin", "acos", "atan", "expm1", "log1p", "Abs",
}  # fmt: skip
WIDTH = 110
LONGEST = 2**53  # integers that float64 holds exactly


class HostPrinter(StrPrinter):
    """Prints a closed whitelist of functions; an unknown one raises with its name, never passes through silently."""

    def __init__(self, numbers: Iterable[str], respelled: Mapping[str, str] | None = None) -> None:
        super().__init__({"order": None})
        self.numbers = set(numbers)
        self.respelled = dict(respelled or {})

    def _print_Symbol(self, expr: Any) -> str:
        return self.respelled.get(expr.name, expr.name)

    def _print_Dummy(self, expr: Any) -> str:
        """A dummy is a tensor that the function itself defines: no parameter of the same name respells it."""
        return str(expr.name)

    def doprint(self, expr: Any) -> str:
        """The text of an expression, 1 - exp(x) printed as -expm1(x), a ratio of long integers as the nearest float64."""
        expr = sp.sympify(expr)
        long = {r: sp.Float(r, 17) for r in expr.atoms(sp.Rational) if max(abs(r.p), r.q) > LONGEST}
        return super().doprint(careful(expr.xreplace(long)))

    def _print_Float(self, expr: Any) -> str:
        return repr(float(expr))

    def module(self, *exprs: sp.Expr) -> str:
        """math if every symbol is a Python number, torch otherwise."""
        symbols = {symbol for expr in exprs for symbol in expr.free_symbols}
        numbers = all(symbol.name in self.numbers and not symbol.is_Dummy for symbol in symbols)
        return "math" if numbers else "torch"

    def _print_Function(self, expr: Any) -> str:
        name = expr.func.__name__
        if name not in _FUNCTIONS:
            raise ValueError(f"no host spelling for the function {name}")
        argument = expr.args[0]
        module = self.module(argument)
        if name == "Abs":
            return f"abs({self._print(argument)})"
        return f"{module}.{name}({self._print(argument)})"

    _print_Abs = _print_Function

    def _print_Pow(self, expr: Any, rational: bool = False) -> str:
        base, exponent = expr.base, expr.exp
        if exponent == sp.Rational(1, 2):
            return f"{self.module(base)}.sqrt({self._print(base)})"
        if exponent == -sp.Rational(1, 2):
            return f"1/{self.module(base)}.sqrt({self._print(base)})"
        if exponent == -1:
            return f"1/{self.parenthesize(base, PRECEDENCE['Pow'], strict=False)}"
        left = self.parenthesize(base, PRECEDENCE["Pow"], strict=False)
        return f"{left}**{self.parenthesize(exponent, PRECEDENCE['Pow'], strict=False)}"

    def _print_Integer(self, expr: Any) -> str:
        """An integer that torch cannot hold exactly is written as the float64 nearest to it."""
        return str(expr.p) if abs(expr.p) <= 2**53 else repr(float(expr.p))

    def _print_Rational(self, expr: Any) -> str:
        if max(abs(expr.p), expr.q) <= 2**53:
            return f"{expr.p}/{expr.q}"
        return repr(expr.p / expr.q)  # Python rounds the quotient of two integers once

    def _print_Exp1(self, expr: Any) -> str:
        return "math.e"

    def _print_Pi(self, expr: Any) -> str:
        return "math.pi"

    def _print_Add(self, expr: Any, order: Any = None) -> str:
        terms = self._as_ordered_terms(expr, order=order)
        terms = [e for e in terms if not e.could_extract_minus_sign()] + [
            e for e in terms if e.could_extract_minus_sign()
        ]
        text = ""
        for term in terms:
            negative = self._print(term).startswith("-")
            piece = self._print(-term if negative and not term.is_Add else term)
            if negative and not term.is_Add and (-term).is_Add:  # a product with -1 that SymPy left as it stood
                piece = f"({piece})"
            if term.is_Add or precedence(term) < PRECEDENCE["Add"]:
                piece = f"({self._print(term)})"
                negative = False
            text += (
                piece
                if not text and not negative
                else f"-{piece}"
                if not text
                else f" - {piece}"
                if negative
                else f" + {piece}"
            )
        return text


def wrapped(statement: str, indent: str = "    ") -> str:
    """A statement ``name = a + b - c`` broken before its outermost + and - where it is longer than WIDTH."""
    if len(indent + statement) <= WIDTH or " = " not in statement:
        return statement
    left, right = statement.split(" = ", 1)
    pieces = _split(right)
    if len(pieces) == 1:
        return statement
    lines: list[str] = []
    for piece in pieces:
        if lines and len(indent) + 4 + len(lines[-1]) + 1 + len(piece) <= WIDTH:
            lines[-1] += f" {piece}"
        else:
            lines.append(piece)
    return f"{left} = (\n" + "\n".join(f"{indent}    {line}" for line in lines) + f"\n{indent})"


def _split(text: str) -> list[str]:
    """Pieces of an expression, cut before each + or - that stands at the lowest bracket depth that has one."""
    for level in range(3):
        depth, start, pieces = 0, 0, []
        for i, ch in enumerate(text):
            depth += ch in "(["
            depth -= ch in ")]"
            if ch in "+-" and depth <= level and i > 1 and text[i - 1] == " " and text[i + 1] == " ":
                pieces.append(text[start:i].strip())
                start = i
        pieces.append(text[start:].strip())
        if len(pieces) > 1:
            return pieces
    return [text]
