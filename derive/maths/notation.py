"""Expressions as LaTeX, and a table as HTML, for people."""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Iterable, Mapping
from functools import partial

import sympy as sp
from sympy.printing.latex import translate


def latex(expr: sp.Basic, names: Mapping[str, str] | None = None) -> str:
    """LaTeX in which a word stands upright, a Greek name is its letter and _ begins an index; ``names`` go before.

    Where a name is an inverse, M^{-1}, a division by it is written as M.  Factors stand apart where one of them is a word.
    """
    known = {symbol: (names or {}).get(str(symbol)) or word(str(symbol)) for symbol in expr.free_symbols}
    for symbol, text in list(known.items()):
        if text.endswith("^{-1}"):
            inverse = sp.Dummy(str(symbol), real=True)
            known[inverse] = text.removesuffix("^{-1}")
            expr = expr.replace(partial(_divides, symbol), lambda power, inverse=inverse: inverse**-power.exp)
    apart = r" \, " if any(text.startswith(r"\mathrm") for text in known.values()) else None
    return sp.latex(expr, symbol_names={symbol: text for symbol, text in known.items() if text}, mul_symbol=apart)


def _divides(symbol: sp.Symbol, expr: sp.Basic) -> bool:
    """Whether it is a negative power of the symbol."""
    return isinstance(expr, sp.Pow) and expr.base == symbol and bool(expr.exp.is_negative)


def word(name: str) -> str:
    """The LaTeX of a name such as Minv, lambda_, beta_min or D1; nothing for what is no name."""
    match = re.fullmatch(r"([A-Za-z]+)(\d*)_?(\w*)", name)
    if match is None:
        return ""
    letters, *index = match.groups()
    below = ",".join(_letters(part) for part in index if part)
    return _letters(letters) + (f"_{{{below}}}" if below else "")


def _letters(text: str) -> str:
    greek = translate(text)
    return greek if greek != text or len(text) == 1 or text.isdigit() else rf"\mathrm{{{text.replace('_', ',')}}}"


def derivatives(
    symbols: Iterable[str], state: Iterable[str], lets: Iterable[str], names: Mapping[str, str], outputs: int = 1
) -> dict[str, str]:
    """The symbols of an error term as derivatives: dx, sx_m, n_x, nt, beta_tt are dot x, s_{x,m}, n_{,x}, n_{,t}, beta''.

    A dot is the rate in reverse time, an index behind a comma a partial derivative, a prime one of a function of t alone.  n has
    so many ``outputs``; of several n_x is one.
    """
    shown = {b: names.get(b) or word(b) for b in (*state, "t")}
    block = "|".join(sorted(state, key=len, reverse=True))
    forms: dict[str, Callable[..., str]] = {
        rf"d({block})": lambda b: rf"\dot{{{shown[b]}}}",
        rf"s({block})": lambda b: f"s_{{{shown[b]}}}",
        rf"s({block})_((?:{block}|t)+)": lambda b, by: f"s_{{{shown[b]},{_joined(by, block, shown)}}}",
        rf"(d?)n(?:_({block}))?": lambda d, b: (
            (r"\dot{n}" if d else "n") + (f"_{{{',' if outputs == 1 and not d else ''}{shown[b]}}}" if b else "")
        ),
        rf"n(t)(?:_({block}))?": lambda t, b: f"n_{{{shown[b] if b else ''},t}}",
        rf"n_({block})_({block})": lambda b, by: f"n_{{{shown[b]},{shown[by]}}}",
        rf"([KLk])_({block})({block})?": lambda M, b, c: f"{M}_{{{shown[b]}{' ' + shown[c] if c else ''}}}",
        rf"({'|'.join((*lets, 'f', 'V', 'b'))})_(t+)": lambda let, by: f"{names.get(let) or word(let)}{chr(39) * len(by)}",
    }
    found: dict[str, str] = {}
    for symbol in symbols:
        for form, spell in forms.items():
            if symbol not in found and (match := re.fullmatch(form, symbol)):
                found[symbol] = spell(*match.groups())
    return found


def _joined(text: str, block: str, shown: Mapping[str, str]) -> str:
    return " ".join(shown[part] for part in re.findall(rf"{block}|t", text))


def html_table(rows: Mapping[str, str]) -> str:
    """Two columns as HTML, everything escaped; rows without a value are left out."""
    cells = (f"<tr><th>{html.escape(name)}</th><td>{html.escape(value)}</td></tr>" for name, value in rows.items() if value)
    return f"<table>{''.join(cells)}</table>"
