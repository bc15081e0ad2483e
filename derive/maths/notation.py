"""Expressions as LaTeX for people."""

from __future__ import annotations

import sympy as sp
from sympy.printing.latex import translate


def latex(expr: sp.Basic) -> str:
    """LaTeX in which a name of several letters that is no Greek one stands upright."""
    names = {}
    for symbol in expr.free_symbols:
        head, _, index = str(symbol).partition("_")
        if len(head) > 1 and translate(head) == head:
            names[symbol] = rf"\mathrm{{{head}}}" + (rf"_{{{translate(index)}}}" if index else "")
    return sp.latex(expr, symbol_names=names)
