"""SymPy to Python text for the host side of an emitted module: torch where a tensor can stand, math where only numbers do."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Iterable
from typing import Any

import sympy as sp
from sympy.core.function import AppliedUndef
from sympy.printing.precedence import PRECEDENCE, precedence
from sympy.printing.str import StrPrinter

from stepsmith.derive.maths.calculus import careful
from stepsmith.derive.program import ONE

_FUNCTIONS = {
    "exp", "log", "sin", "cos", "tan", "sinh", "cosh", "tanh", "asin", "acos", "atan", "expm1", "log1p", "Abs",
}  # fmt: skip
WIDTH = 118
LONGEST = 2**53  # integers that float64 holds exactly


class HostPrinter(StrPrinter):
    """Prints a closed whitelist of functions; an unknown one raises with its name, never passes through silently.

    ``spelled`` gives the text of a symbol or of an applied function's name; ``numbers`` are the symbols that stand for Python
    numbers, whose functions are those of math.
    """

    def __init__(self, spelled: Callable[[str], str], numbers: Iterable[str] = ()) -> None:
        super().__init__({"order": None})
        self.spelled, self.numbers = spelled, set(numbers)

    def _print_Symbol(self, expr: Any) -> str:
        return self.spelled(expr.name)

    def doprint(self, expr: Any) -> str:
        """The text of an expression, 1 - exp(x) printed as -expm1(x), a ratio of long integers as the nearest float64."""
        return super().doprint(self.exact(sp.sympify(expr)))

    @staticmethod
    def exact(expr: sp.Expr) -> sp.Expr:
        """The expression as float64 best computes it."""
        long = {r: sp.Float(r, 17) for r in expr.atoms(sp.Rational) if max(abs(r.p), r.q) > LONGEST}
        return careful(expr.xreplace(long))

    def _print_Float(self, expr: Any) -> str:
        return repr(float(expr))

    def module(self, *exprs: sp.Expr) -> str:
        """math if every symbol is a Python number, torch otherwise."""
        plain = all(symbol.name in self.numbers for expr in exprs for symbol in expr.free_symbols)
        return "math" if plain and not any(expr.has(AppliedUndef) for expr in exprs) else "torch"

    def _print_Function(self, expr: Any) -> str:
        name, argument = expr.func.__name__, self._print(expr.args[0])
        if isinstance(expr, AppliedUndef):
            if match := re.fullmatch(r"phi(\d)", name):
                return f"phi({match[1]}, {argument})"
            if match := re.fullmatch(r"since(\d)", name):
                return f"since({match[1]}, {argument})"
            if name == "finite":
                return f"finite({argument})"
            return f"{self.spelled(name)}({argument})"
        if name not in _FUNCTIONS:
            raise ValueError(f"no host spelling for the function {name}")
        return f"abs({argument})" if name == "Abs" else f"{self.module(expr.args[0])}.{name}({argument})"

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

    def _print_Rational(self, expr: Any) -> str:
        return f"{expr.p}/{expr.q}"

    def _print_Exp1(self, expr: Any) -> str:
        return "math.e"

    def _print_Pi(self, expr: Any) -> str:
        return "math.pi"

    def _print_Add(self, expr: Any, order: Any = None) -> str:
        """The terms with a sign of their own first, so that a sum does not begin with a minus if it need not."""
        terms = sorted(self._as_ordered_terms(expr, order=order), key=lambda e: e.could_extract_minus_sign())
        return joined([self.term(e) for e in terms])

    def term(self, expr: sp.Expr) -> str:
        """The text of a term of a sum; it begins with "-" only where the minus belongs to all of it."""
        text = self._print(expr)
        if expr.is_Add or precedence(expr) < PRECEDENCE["Add"]:
            return f"({text})"
        return f"-{self.term(-expr)}" if text.startswith("-") and not text.startswith("-(") else text

    def factor(self, expr: sp.Expr) -> str:
        """The text of a factor of a product, without a sign of its own."""
        return f"({self._print(expr)})" if expr.is_Add else self._print(expr)

    def combination(self, terms: Iterable[tuple[sp.Expr, str]]) -> str:
        """The text of a sum of coefficient times value, what the coefficients share taken out of the terms that have it.

        A term in sqrt(h) stands by itself beside terms in h.
        """
        terms = [(self.exact(c), v) for c, v in terms]
        alone = [(c, v) for c, v in terms if c in (ONE, -ONE)]
        rest = [(c, v) for c, v in terms if c not in (ONE, -ONE)]
        powers = [_parts(c)[1] for c, _ in rest]
        roots = [term for term, own in zip(rest, powers, strict=True) if any(_is_root_of(own, other) for other in powers)]
        whole = [term for term in rest if term not in roots]
        common = shared([c for c, _ in whole]) if len(whole) > 1 else ONE
        if common == ONE:
            return joined([self._product(c, v) for c, v in (*alone, *rest)])
        inner = joined([self._product(c / common, v) for c, v in whole])
        out = [self._product(c, v) for c, v in alone]
        return joined([*out, self._product(common, f"({inner})"), *(self._product(c, v) for c, v in roots)])

    def _product(self, c: sp.Expr, value: str) -> str:
        if c == ONE:
            return value
        if all(e.could_extract_minus_sign() for e in sp.Add.make_args(c)):
            return f"-{self._product(-c, value)}"
        numerator, denominator = c.as_numer_denom() if c.is_Pow or c.is_Mul or c.is_Rational else (c, ONE)
        if numerator == ONE:
            below = self.parenthesize(denominator, PRECEDENCE["Pow"], strict=False)
            return f"{value}/{below}"
        return f"{self.factor(c)}*{value}"


def joined(pieces: list[str]) -> str:
    """The sum of some texts of terms."""
    text = ""
    for piece in pieces:
        if not text:
            text = piece
        else:
            text += f" - {piece[1:]}" if piece.startswith("-") else f" + {piece}"
    return text or "0"


def shared(coefficients: list[sp.Expr]) -> sp.Expr:
    """What all coefficients of a sum have as a factor: a number, and powers of the same bases."""
    numbers, powers = zip(*(_parts(c) for c in coefficients), strict=True)
    common = powers[0]
    for other in powers[1:]:
        common = {b: _least(e, other[b]) for b, e in common.items() if b in other and e * other[b] > 0}
    number = sp.gcd_list([abs(q) for q in numbers]) if all(q.is_Rational for q in numbers) else ONE
    sign = -1 if all(q.is_negative for q in numbers) else 1
    return sp.Mul(sign * number, *(b**e for b, e in common.items()))


def _parts(c: sp.Expr) -> tuple[sp.Expr, dict[sp.Expr, sp.Expr]]:
    number, rest = c.as_coeff_Mul()
    return number, {b: e for b, e in rest.as_powers_dict().items() if e.is_Rational}


def _is_root_of(one: dict[sp.Expr, sp.Expr], two: dict[sp.Expr, sp.Expr]) -> bool:
    """Whether a product has a root of what another one has a whole power of."""
    return any(not e.is_Integer and two.get(b, e).is_Integer for b, e in one.items())


def _least(one: sp.Expr, two: sp.Expr) -> sp.Expr:
    return min(one, two) if one > 0 else max(one, two)


def wrapped(statement: str, indent: int = 4) -> str:
    """A statement ``name = a + b - c`` broken before its outermost + and - where it is too long behind ``indent`` spaces.

    The lines are without the indent itself, which the template adds.
    """
    code, mark, note = statement.partition("  # ")
    if indent + len(statement) <= WIDTH or " = " not in code:
        return statement
    left, right = code.split(" = ", 1)
    pieces = _split(right)
    if len(pieces) == 1:
        return statement
    lines: list[str] = []
    for piece in pieces:
        if lines and indent + 4 + len(lines[-1]) + 1 + len(piece) <= WIDTH:
            lines[-1] += f" {piece}"
        else:
            lines.append(piece)
    return "\n".join((f"{left} = ({mark}{note}", *(f"    {line}" for line in lines), ")"))


def _split(text: str) -> list[str]:
    """The terms of a sum, each with its sign, broken at the outermost level where there are several."""
    for level in range(4):
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


def filled(items: Iterable[str], indent: str = "    ") -> str:
    """Items with commas, as many a line as fit, one indent in."""
    lines: list[str] = []
    for item in items:
        if lines and len(indent) + len(lines[-1]) + len(item) + 2 <= WIDTH:
            lines[-1] += f" {item},"
        else:
            lines.append(f"{item},")
    return "\n".join(indent + line for line in lines)


def listed(items: Iterable[str], brackets: str = "()", indent: str = "") -> str:
    """A tuple on one line, or wrapped."""
    items = list(items)
    one = brackets[0] + ", ".join(items) + ("," if len(items) == 1 and brackets == "()" else "") + brackets[1]
    if len(indent) + len(one) <= WIDTH - 16:
        return one
    return f"{brackets[0]}\n{filled(items, indent + '    ')}\n{indent}{brackets[1]}"


def matrix_lines(start: str, rows: list[list[str]], time: str) -> list[str]:
    """The lines that return or keep (``start``) the matrices of some entries at a time."""
    texts = ["(" + ", ".join(row) + ("," if len(row) == 1 else "") + ")" for row in rows]
    one = ", ".join(texts) + ("," if len(rows) == 1 else "")
    if len(one) < 90:
        return [f"{start} matrix(({one}), {time})"]
    if len(rows) == 1:
        return ["row = (", *(f"    {e}," for e in rows[0]), ")", f"{start} matrix((row,), {time})"]
    lines = ["rows = ("]
    for row, text in zip(rows, texts, strict=True):
        lines += [f"    {text},"] if len(text) < 102 else ["    (", *(f"        {e}," for e in row), "    ),"]
    return [*lines, ")", f"{start} matrix(rows, {time})"]


def tensor(rows: list[list[str]]) -> str:
    """The text of a matrix of numbers, from those of its entries."""
    texts = ["[" + ", ".join(row) + "]" for row in rows]
    one = f"[{', '.join(texts)}]"
    if len(one) < 70:
        return f"torch.tensor({one}, dtype=torch.float64)"
    return f"torch.tensor(\n    {listed(texts, '[]', '    ')},\n    dtype=torch.float64,\n)"


def single(lines: Iterable[str]) -> list[str]:
    """Lines that may hold several, one by one."""
    return [line for text in lines for line in text.split("\n")]


def literal(text: str) -> str:
    """A text as a string literal of Python, in double quotes and ASCII."""
    return '"' + text.encode("unicode_escape").decode("ascii").replace('"', '\\"') + '"'


def message(text: str, indent: int) -> str:
    """A literal, broken between words into several where it is long."""
    if len(text) < 85:
        return literal(text)
    lines = textwrap.wrap(text, 102, drop_whitespace=False, replace_whitespace=False, expand_tabs=False)
    margin = "\n" + " " * (indent + 4)
    return "".join(margin + literal(line) for line in lines) + "\n" + " " * indent


def prose(text: str) -> str:
    """A line of a docstring: it cannot end the docstring, and what does not print is escaped."""
    quoted = text.replace("\\", "\\\\").replace('"""', '\\"\\"\\"')
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in quoted)
