"""What ``stepsmith derive`` prints: the mathematics of a diffusion, each piece derived or its absence explained."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import sympy as sp

from stepsmith.errors import Unsupported

from . import formulas
from .describe import equations, frequency
from .maths.bounded import small, tame
from .maths.budget import within
from .maths.calculus import exact, t
from .maths.entire import C
from .maths.notation import latex
from .sde import closed as kernel
from .sde import offset
from .sde.linear import LinearSDE


@dataclass(frozen=True)
class Section:
    """A piece as lines of text under ``title``, and as LaTeX, a formula a line (or none), under ``heading``."""

    key: str
    title: str
    text: str
    latex: str
    heading: str


HEADINGS = {
    "sde": ("Forward in the network's time t", ""),
    "transition": ("The transition from the start of the span", r"\Psi"),
    "offset": ("The offset of the mean", "o"),
    "covariance": ("The covariance given the data", r"\Sigma"),
    "stationary": ("The stationary law", r"\Sigma^{\infty}"),
    "probability_flow": ("The probability flow, s the score", ""),
    "reverse_sde": ("The reverse SDE, s the score, time running down", ""),
}
MAX_SHOWN = 5000  # nodes of the entries of a section


@within("the report")
def report(sde: LinearSDE) -> list[Section]:
    """F, G, transition, offset, covariance, stationary law, reverse SDE and probability flow."""
    start = exact(sde.time[0])
    clock = "" if sde.commutes() else "  (F does not commute with itself: the ordered route is taken)"
    heads = [f"{name} = {expr}" for name, expr in sde.let_words.items()]
    heads += [frequency(sde)] if sde.field else []
    mean = partial(offset.mean_words, sde, t, start)
    flow = "dz = (F z - A s)" if sde.offset_let.is_zero_matrix else "dz = (F z + b - A s)"
    title, maths = f"{sde.name}: {sde.doc or 'a linear SDE'}{clock}", [*formulas.equations(sde), *formulas.lets(sde)]
    sections = [
        Section("sde", title, "\n".join([*equations(sde), *heads, *_start(sde)]), "\n".join(maths), HEADINGS["sde"][0]),
        _section(sde, "transition", f"transition Psi(t, {start})", lambda: kernel.transition_words(sde, t, start)),
        *([_section(sde, "offset", f"offset of the mean o(t, {start})", mean)] if not sde.offset_let.is_zero_matrix else []),
        _covariance(sde, start),
        _section(sde, "stationary", "stationary law", lambda: kernel.Words(kernel.stationary_words(sde), {})),
        _reverse(sde, "probability_flow", f"probability flow {flow} dt, s the score, A =", 0),
        _reverse(sde, "reverse_sde", f"reverse SDE {flow} dt + G dw, dt < 0, s the score, A =", 1),
    ]
    seen: set[str] = set()
    return [_without(section, seen) for section in sections]


MEANING = re.compile(r"(int_|I_|C_?\d |C\()")  # how the lines begin that say what an integral or a function stands for


def _without(section: Section, seen: set[str]) -> Section:
    """The section without those of its meanings that were seen before; the others are seen now."""
    texts = []
    for text in (section.text, section.latex):
        lines = [line for line in text.splitlines() if line not in seen or not MEANING.match(line)]
        seen.update(lines)
        texts.append("\n".join(lines))
    return replace(section, text=texts[0], latex=texts[1])


def _start(sde: LinearSDE) -> list[str]:
    """How the blocks start: the data, with a known blur where one is given, and the variances of the others."""
    if sde.n == 1 and sde.initial_let.is_zero_matrix:
        return []
    starts = []
    for i, name in enumerate(sde.state):
        variance = sde.initial_let[i, i]
        law = ["data"] * (i in sde.data) + [f"N(0, {variance})"] * (variance != 0)
        starts.append(f"{name} = {' + '.join(law)}")
    return [f"start, t = {exact(sde.time[0])}: {', '.join(starts)}"]


def _covariance(sde: LinearSDE, start: sp.Expr) -> Section:
    """Entry by entry; as LaTeX, for several blocks, by the transition and the stationary law, which is exact and short."""
    found = _section(sde, "covariance", "covariance Sigma(t) given the data", lambda: kernel.covariance_words(sde, t))
    if not found.latex or sde.n == 1 or sde.F.is_zero_matrix:
        return found
    first = rf"\Sigma_{{{latex(start)}}}"
    law = rf"\Sigma = \Sigma^{{\infty}} + \Psi \left({first} - \Sigma^{{\infty}}\right) \Psi^{{\mathsf T}}"
    return replace(found, latex=f"{law}\n{first} = {latex(sde.initial_let, sde.latex)}")


def _reverse(sde: LinearSDE, key: str, title: str, eta: int) -> Section:
    """What multiplies the score, and the equations block by block."""
    found = _section(sde, key, title, lambda: kernel.Words(sde.GG_let * sp.Rational(1 + eta, 2), {}))
    return replace(found, latex="\n".join(formulas.reverse(sde, eta)))


def _section(sde: LinearSDE, key: str, title: str, make: Callable[[], kernel.Words]) -> Section:
    heading, left = HEADINGS[key]
    try:
        words = make()
    except Unsupported as error:
        return Section(key, title, f"not in closed form: {error}", "", heading)
    if not small(sp.Tuple(*words.entries), MAX_SHOWN):
        return Section(key, title, "too long to be shown; use sde.at(...)", "", heading)
    entries = words.entries.applyfunc(lambda e: sp.factor_terms(e) if tame(e) else e)
    entries, functions = _functions(entries)
    rows, columns = entries.shape
    lines = [f"[{i}][{j}]  {entries[i, j]}" for i in range(rows) for j in range(columns)]
    lines += [f"{name} = {value}" for name, value in {**words.integrals, **functions}.items()]
    lines += [ENTIRE] if entries.has(C) or functions else []
    names = {str(name): rf"C_{{{value.args[0]}}}" for name, value in functions.items()}
    names |= {**{str(name): _integral(sde, str(name)) for name in words.integrals}, **sde.latex}
    maths = _matrix(left, entries, sde, names)
    maths += [f"{names[str(name)]} = {latex(value, names)}" for name, value in {**words.integrals, **functions}.items()]
    return Section(key, title, "\n".join(lines), "\n".join(maths), heading)


ENTIRE = "C(0, x) = cosh(sqrt(x)), C(1, x) = sinh(sqrt(x))/sqrt(x): entire functions, real for x < 0 too"


def _functions(entries: sp.Matrix) -> tuple[sp.Matrix, dict[sp.Symbol, sp.Expr]]:
    """The functions C(k, x) of a matrix as symbols C0, C1, ..., where all have the same x, and what these stand for."""
    calls = sorted(entries.atoms(C), key=sp.default_sort_key)
    short = {call: sp.Symbol(f"C{call.args[0]}", real=True) for call in calls}
    if len({call.args[1] for call in calls}) != 1 or {str(s) for s in short.values()} & {str(s) for s in entries.free_symbols}:
        return entries, {}
    return entries.xreplace(short), {symbol: call for call, symbol in short.items()}


WIDE = 600  # characters of LaTeX of a matrix that is written entry by entry


def _matrix(left: str, entries: sp.Matrix, sde: LinearSDE, names: dict[str, str]) -> list[str]:
    """A matrix, an exponential that all entries share before it, or its entries one by one, those of a symmetric one once."""
    present = [set(sp.Mul.make_args(e)) for e in entries if e != 0]
    shared = [f for f in set.intersection(*present) if isinstance(f, sp.exp)] if len(present) > 1 else []
    whole = f"{latex(shared[0], names)} {latex(entries / shared[0], names)}" if len(shared) == 1 else latex(entries, names)
    whole = whole if len(entries) > 1 else latex(entries[0], names)
    if len(whole) <= WIDE or not left:
        return [f"{left} = {whole}" if left else whole]
    shown, (rows, columns) = [latex(sp.Symbol(b), names) for b in sde.state], entries.shape
    same = rows == columns and left.startswith(r"\Sigma")
    index = [(i, j) for i in range(rows) for j in range(i if same else 0, columns)]
    below = {(i, j): f"{shown[i]} {shown[j]}" if columns > 1 else shown[i] for i, j in index}
    return [f"{left}_{{{below[i, j]}}} = {latex(entries[i, j], names)}" for i, j in index]


def _integral(sde: LinearSDE, name: str) -> str:
    """The LaTeX of an integral int_beta: I with the let as its index."""
    let = name.removeprefix("int_")
    return f"I_{{{latex(sp.Symbol(let), sde.latex)}}}" if let != name else latex(sp.Symbol(name))
