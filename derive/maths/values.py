"""SymPy expressions evaluated on any numbers that know their elementary functions: balls, their series, formal power series.

One evaluator and one table of functions: a value is whatever has + - * / and the methods exp, log, sin, cos, sqrt.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import sympy as sp
from sympy.codegen.cfunctions import expm1, log1p
from sympy.core.function import AppliedUndef

from stepsmith.errors import Unsupported

FUNCTIONS: dict[Any, Callable[[Any], Any]] = {
    sp.exp: lambda x: x.exp(), sp.log: lambda x: x.log(), sp.sin: lambda x: x.sin(), sp.cos: lambda x: x.cos(),
    sp.tan: lambda x: x.sin() / x.cos(), sp.sinh: lambda x: (x.exp() - (-x).exp()) / 2,
    sp.cosh: lambda x: (x.exp() + (-x).exp()) / 2, sp.tanh: lambda x: 1 - 2 / ((2 * x).exp() + 1),
    sp.atan: lambda x: x.atan(), sp.asin: lambda x: x.asin(), sp.acos: lambda x: x.acos(), sp.Abs: lambda x: (x * x).sqrt(),
    expm1: lambda x: x.exp() - 1, log1p: lambda x: (1 + x).log(),
}  # fmt: skip


def evaluate(expr: sp.Expr, values: Mapping[str, Any], number: Callable[[sp.Expr], Any]) -> Any:
    """The expression with its symbols replaced by name; ``number`` turns a rational, pi or e into a value.

    An applied function f(x) is ``values["f"]`` called with the value of x.  Raises Unsupported for a function that is not in
    the table.
    """
    return _evaluator(expr)(values, number)


@functools.lru_cache(maxsize=2**14)  # the same entries are asked for at many times
def _evaluator(expr: sp.Expr) -> Callable[[Mapping[str, Any], Callable[[sp.Expr], Any]], Any]:
    if expr.is_Rational or expr is sp.pi or expr is sp.E:
        return lambda values, number: number(expr)
    if expr.is_Float:
        exact = sp.Rational(expr)
        return lambda values, number: number(exact)
    if expr.is_Symbol:
        name = expr.name
        return lambda values, number: values[name]
    args = [_evaluator(arg) for arg in expr.args]
    if isinstance(expr, AppliedUndef):
        name = expr.func.__name__
        return lambda values, number: values[name](args[0](values, number))
    return lambda values, number: combined(expr, [arg(values, number) for arg in args], FUNCTIONS)


def combined(node: sp.Expr, args: list[Any], functions: Mapping[Any, Callable[..., Any]]) -> Any:
    """What a sum, a product, a power or a function of the table is worth at these values of its arguments."""
    if node.is_Add:
        return sum(args[1:], args[0])
    if node.is_Mul:
        product = args[0]
        for arg in args[1:]:
            product = product * arg
        return product
    if node.is_Pow:
        return _power(args[0], node.exp, args[1])
    if node.func in functions:
        return functions[node.func](*args)
    fix = "write the entry with exp, log, sqrt and the trigonometric functions"
    raise Unsupported(f"no Taylor series for {node.func.__name__}", fix)


def _power(base: Any, exponent: sp.Expr, power: Any) -> Any:
    if exponent.is_Integer and abs(n := int(exponent)) <= 2**20:
        return base**n if n >= 0 else 1 / base**-n
    if exponent.is_Rational and exponent.q == 2:
        return _power(base.sqrt(), sp.Integer(exponent.p), None)
    return (power * base.log()).exp()


def evaluate_matrix(entries: sp.Matrix, values: Mapping[str, Any], number: Callable[[sp.Expr], Any]) -> list[list[Any]]:
    """A matrix of expressions, entry by entry."""
    return [[evaluate(e, values, number) for e in row] for row in entries.tolist()]
