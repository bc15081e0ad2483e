"""The words at the top of an emitted module: the diffusion, the update rule, the cost, the claims, the source."""

from __future__ import annotations

import re
import textwrap
from typing import Any

import sympy as sp
from sympy.printing.str import StrPrinter

from .conjugate import conjugation
from .split import bind

PARAMETERIZATIONS = {
    "denoiser": "a scalar denoiser D(y, sigma) = E[data | data + sigma noise = y], through the exact bridge",
    "x0": "the mean of the data given z",
    "v": "v = alpha noise - sigma data",
    "score": "the score",
    "eps-L": "epsilon with the lower Cholesky factor of the covariance, score = -L^-T epsilon",
    "eps-U": "epsilon with the upper Cholesky factor of the covariance, score = -U^-T epsilon",
    "eps-R": "epsilon with gDDIM's factor R, score = -R^-T epsilon",
    "edm": "an EDM-preconditioned network F, D(y) = c_skip y + c_out F(c_in y, ln(sigma)/4), through the exact bridge",
}


LONGEST = 110  # characters of a title
NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")


def title(method: Any) -> str:
    """One line of at most LONGEST characters: what the module is.

    A description that is too long is cut at its first colon, comma or bracket, or else left out for the name.
    """
    sampler, sde = (
        (owner.doc or owner.name, re.split(r"[:,]| \(", owner.doc)[0] or owner.name, owner.name)
        for owner in (method.sampler, method.sde)
    )
    pairs = (
        (sampler[0], sde[0]), (sampler[1], sde[0]), (sampler[1], sde[1]), (sampler[2], sde[1]), (sampler[2], sde[2]),
    )  # fmt: skip
    lines = [f"{first}: a sampler for {second}." for first, second in pairs]
    return _sentence(next(line for line in lines if len(line) <= LONGEST))


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:]


def about(method: Any) -> list[str]:
    """The lines of the docstring: SDE, update rule, network, cost, order, reference."""
    sde, sampler = method.sde, method.sampler
    lines = []
    for doc in (sampler.doc, sde.doc):
        if doc.lower() not in method.title.lower():
            lines += [*textwrap.wrap(f"{_sentence(doc).rstrip('.')}.", 118), ""]
    lines += ["The diffusion, forward in the network's time t:", *(f"    {line}" for line in equations(sde)), ""]
    lines += [f"with {name} = {_text(expr)}" for name, expr in sde.let.items()]
    lines += [frequency(sde)] if sde.field else []
    if sde.let or sde.field:
        lines.append("")
    lines += ["The step t0 -> t1 = t0 - h:", *(f"    {line}" for line in update_rule(method)), ""]
    lines.append(f"The network gives {PARAMETERIZATIONS.get(method.network_name, 'a parameterisation of its own')}.")
    lines.append(f"{_sentence(cost(method.nfe, method.draws))} per step.  {claims(method)}")
    lines += leading(method)
    for place, program in (("first", method.rows.first), ("last", method.rows.last)):
        if program is not None:
            lines.append(f"The {place} step takes {cost(program.nfe, program.draws)}.")
    if sampler.reference:
        lines.append(f"Reference: {sampler.reference}.")
    return lines


def cost(calls: int, draws: int) -> str:
    """Network calls and normal draws in words: two network calls and no noise."""
    noise = _counted(draws, "normal draw") if draws else "no noise"
    return f"{_counted(calls, 'network call')} and {noise}"


def _counted(count: int, noun: str) -> str:
    number = NUMBERS[count] if count < len(NUMBERS) else str(count)
    return f"{number} {noun}{'s' if count > 1 else ''}"


def frequency(sde: Any) -> str:
    """What the field of an SDE is, in a line."""
    names = ", ".join(sde.state)
    return f"with {sde.field} = pi^2 (i^2/H^2 + j^2/W^2) of the frequency (i, j): {names} is the cosine transform of an image"


def equations(sde: Any) -> list[str]:
    """dz = (F z + b) dt + G dw, a line a block."""
    lines = []
    for i, name in enumerate(sde.state):
        drift = sum((sde.F_let[i, j] * sp.Symbol(b) for j, b in enumerate(sde.state)), sde.offset_let[i])
        noise = [f"{_factor(g)} dw_{k + 1}" for k, g in enumerate(sde.G_let.row(i)) if g != 0]
        pieces = ([f"({_text(drift)}) dt"] if drift != 0 else []) + noise
        lines.append(f"d{name} = " + (" + ".join(pieces) or "0"))
    return lines


def update_rule(method: Any) -> list[str]:
    """The scheme in plain mathematics, before anything is fused."""
    sde, sampler = method.sde, method.sampler
    if sampler.family == "conjugate":
        B = conjugation(sampler, sde)
        shown = "0" if B.is_zero_matrix else str(B.tolist()) if sde.n > 1 else _text(B[0, 0])
        moved = not sde.offset_let.is_zero_matrix
        told = ["where z stands for z - o(t), o the offset of the mean: o' = F o + b, o = 0 at the start of the span,"]
        return [
            "z' = P (I - h B(t0)) z + Phi n,   n the network's output at t0 in the frame " + method.frame_name + ",",
            "P the propagator of dX/dt = (F - G G^T C_skip / 2 - B) X from t0 to t1,",
            "Phi = int_t1^t0 P(t1, s) G G^T C_out(s) ds / 2,   score = C_skip z + C_out n,",
            *(told if moved else ()),
            f"B = {shown}",
        ]
    if sampler.formula is not None:
        return formula_lines(sampler)
    lines = [f"{sampler.text}   (! a fresh score, @f its time t0 - f h, (p/q) a share of h)"]
    carried = [*map(sp.Symbol, sde.constant), 1]
    for letter, part in bind(sampler, sde).parts.items():
        for i in part.rows:
            drift = sum((part.linear[i, j] * sp.Symbol(b) for j, b in enumerate(sde.state)), sp.S.Zero)
            drift += sum((c * v for c, v in zip(part.offset.row(i), carried, strict=True)), sp.S.Zero)
            drift += sum((part.score[i, j] * sp.Symbol(f"s_{b}") for j, b in enumerate(sde.state)), sp.S.Zero)
            noise = " + noise of the diffusion" if i in part.noise_rows else ""
            lines.append(f"{letter}: d{sde.state[i]} = ({_text(drift)}) dtau{noise}, {part.solve}")
    return lines


def formula_lines(sampler: Any) -> list[str]:
    """The lines of a sampler as they were written: the step, what its lets are, the first rows and the last."""
    formula = sampler.formula
    lines = [line.text for line in formula.step]
    lines += [f"{'    ' if k else 'with'} {name} = {text}" for k, (name, text) in enumerate(formula.texts.items())]
    rows = [(f"row {k}", program) for k, program in enumerate(formula.warmup)]
    ends = ("the last row", "the last row but one")[: len(formula.final)][::-1]
    for place, program in [*rows, *zip(ends, formula.final, strict=True)]:
        lines += [f"{place}:", *(f"    {line.text}" for line in program)]
    for letter in sampler.parts:
        lines.append(f"{letter}(y, q, s) = linear y + q on the part {letter} of the drift, the score q, at the time s")
    return lines


class _Plain(StrPrinter):
    def _print_Pow(self, expr: Any, rational: bool = False) -> str:
        return super()._print_Pow(expr, rational).replace("**", "^")


def _text(expr: sp.Expr) -> str:
    return _Plain().doprint(expr)


def _factor(expr: sp.Expr) -> str:
    return f"({_text(expr)})" if expr.is_Add else _text(expr)


def claims(method: Any) -> str:
    """The proven orders in a sentence; a dash where none is derived."""
    if not method.random:
        whole = "" if method.order == method.step_order else f" (the common step alone {method.step_order})"
        return f"Proven order {_dash(method.order)}{whole}."
    return f"Proven weak order {_dash(method.weak_order)}, strong order {_dash(method.strong_order)}."


def _dash(order: float | None) -> str:
    return "-" if order is None else f"{order:g}"


MOST = 420  # characters of an error term that a docstring has room for


def leading(method: Any) -> list[str]:
    """The leading local error of a deterministic step, as far as it fits into a docstring."""
    terms = method.local_error
    if terms is None:
        return []
    lines = ["Local error of a step of length h, exact minus numerical:"]
    for term in terms:
        text = str(term)
        long = f"e_{term.block} = h^{term.power} * (a long expression: `stepsmith error` prints it)"
        lines += textwrap.wrap(text if len(text) <= MOST else long, 118, initial_indent="    ", subsequent_indent=" " * 8)
    return lines + [f"    {line}" for note in terms[0].where for line in textwrap.wrap(note, 118)]
