"""The words at the top of an emitted module: the diffusion, the update rule, the cost, the claims, the source."""

from __future__ import annotations

import textwrap
from typing import Any

import sympy as sp
from sympy.printing.str import StrPrinter

from .lower import conjugation
from .maths.calculus import symbol
from .orders.leading import MOST_CALLS
from .orders.strong import strong_order_of_increments
from .sampler.network import FLOW, KINDS
from .sampler.split import Part, bind

VELOCITY = "the velocity of the probability flow, n = dz/dt = F z - G G^T s/2"
COUNTS = ("No", "One", "Two", "Three", "Four", "Five", "Six", "Seven", "Eight")
MOST_TITLE = 110  # characters of the first line


def title(method: Any) -> str:
    """One line: what the module is."""
    head, _, diffusion = _said(method)
    line = f"{head} for {diffusion}."
    short = textwrap.shorten(head, MOST_TITLE - 1, placeholder="") or method.sampler.name
    return line if len(line) <= MOST_TITLE else f"{short}."


def _said(method: Any) -> tuple[str, str, str]:
    """(the name of the sampler, what else its doc says, the diffusion)."""
    said = method.sampler.doc.strip().rstrip(".") or method.sampler.name
    head, _, rest = said.partition(": ") if ": " in said else said.partition(", ")
    return head[:1].upper() + head[1:], rest, method.sde.doc.strip().rstrip(".") or method.sde.name


def about(method: Any) -> list[str]:
    """The lines of the docstring: SDE, update rule, cost and claims, network, reference."""
    sde, sampler = method.sde, method.sampler
    head, rest, diffusion = _said(method)
    lines = [f"{rest[0].upper()}{rest[1:]}.", ""] if rest else []
    if diffusion not in title(method):
        sentence = f"The diffusion is {diffusion}." if head in title(method) else f"{head} for {diffusion}."
        lines = [*textwrap.wrap(sentence, WIDTH, break_long_words=False), "", *lines]
    lines += ["The diffusion, forward in the network's time t:", *(f"    {line}" for line in equations(sde))]
    for sentence in lets(sde):
        lines += textwrap.wrap(f"with {sentence}", WIDTH, subsequent_indent="    ")
    lines += [frequency(sde)] if sde.field else []
    lines += ["", "The step t0 -> t1 = t0 - h:", *(f"    {line}" for line in update_rule(method)), ""]
    lines += textwrap.wrap(f"{cost(method)}  {claims(method)}  {ASSUMED}", WIDTH)
    lines += [*leading(method), "", *network(method)]
    if sampler.reference:
        lines += textwrap.wrap(f"Reference: {sampler.reference}.", WIDTH, break_long_words=False)
    return lines


def cost(method: Any) -> str:
    """Network calls and draws a step, in a sentence."""
    sentences = [f"{_calls(method.nfe, method.draws)} per step."]
    for place, program in (("first", method.rows.first), ("last", method.rows.last)):
        if program is not None:
            sentences.append(f"The {place} step makes {_calls(program.nfe, program.draws).lower()}.")
    return "  ".join(sentences)


def _calls(nfe: int, draws: int) -> str:
    calls = f"{COUNTS[nfe] if nfe < len(COUNTS) else nfe} network call{'s' if nfe != 1 else ''}"
    count = COUNTS[draws].lower() if draws < len(COUNTS) else draws
    return f"{calls} and " + ("no noise" if not draws else f"{count} normal draw{'s' if draws > 1 else ''}")


def network(method: Any) -> list[str]:
    """What the network gives, and the score made of it."""
    kind, n = KINDS.get(method.network_name), method.sde.n
    own = VELOCITY if method.network_name == FLOW else "a parameterisation of its own"
    lines = textwrap.wrap(f"The network gives {kind.doc if kind else own}.", WIDTH)
    if n > 1 and kind is not None and kind.score:
        lines.append(
            "With Sigma the covariance of z given the data and p = Psi(t, START) e the mean of z for unit data,"
        )
        lines.append(f"    {kind.score}.")
    return lines


def frequency(sde: Any) -> str:
    """What the field of an SDE is, in a line."""
    names = ", ".join(sde.state)
    return f"with {sde.field} = pi^2 (i^2/H^2 + j^2/W^2) of the frequency (i, j): {names} is the cosine transform of an image"


def equations(sde: Any) -> list[str]:
    """dz = (F z + b) dt + G dw, a line a block."""
    lines = []
    paths = [""] if sde.G_let.cols == 1 else [f"_{k + 1}" for k in range(sde.G_let.cols)]
    for i, name in enumerate(sde.state):
        drift = sum((sde.F_let[i, j] * sp.Symbol(b) for j, b in enumerate(sde.state)), sde.offset_let[i])
        noise = [f"{_factor(g)} dw{path}" for path, g in zip(paths, sde.G_let.row(i), strict=True) if g != 0]
        pieces = ([f"{_factor(drift)} dt"] if drift != 0 else []) + noise
        lines += textwrap.wrap(f"d{name} = " + (" + ".join(pieces) or "0"), WIDTH - 4, subsequent_indent="    ")
    return lines


def lets(sde: Any) -> list[str]:
    """What the names of the spec stand for; the rates that a pair of schedules has, by the pair."""
    told = {name: f"{name} = {_text(expr)}" for name, expr in sde.let_words.items()}
    if sde.schedule is not None and {f := str(sde.F_let[0]), g2 := str(sde.GG_let[0])} <= told.keys():
        alpha, sigma = map(_text, sde.schedule)
        told |= {f: f"{f} = alpha'/alpha, {g2} = 2*sigma*(sigma' - {f}*sigma)", g2: f"alpha = {alpha}, sigma = {sigma}"}
    return list(told.values())


def update_rule(method: Any) -> list[str]:
    """The scheme in plain mathematics, before anything is fused."""
    sde, sampler = method.sde, method.sampler
    if sampler.family == "conjugate":
        B = conjugation(sampler, sde)
        shown = "0" if B.is_zero_matrix else str(B.tolist()) if sde.n > 1 else _text(B[0, 0])
        affine = not sde.offset_let.is_zero_matrix
        shifted = [
            "where z stands for z - o(t), o the offset of the mean: o' = F o + b, o = 0 at the start of the span,"
        ]
        return [
            "z' = P (I - h B(t0)) z + Phi n,   n the network's output at t0 in the frame " + method.frame_name + ",",
            "P the propagator of dX/dt = (F - G G^T C_skip / 2 - B) X from t0 to t1,",
            "Phi = int_t1^t0 P(t1, s) G G^T C_out(s) ds / 2,   score = C_skip z + C_out n,",
            *(shifted if affine else ()),
            f"B = {shown}",
        ]
    if sampler.adams is not None:
        return adams_lines(sampler.adams)
    if sampler.formula is not None:
        return formula_lines(sampler)
    lines = [sampler.text, *textwrap.wrap(marks(sampler.text), WIDTH - 4)]
    for letter, part in bind(sampler, sde).items():
        for i in part.rows:
            noise = " + the noise of the diffusion" if i in part.noise_rows else ""
            text = f"{letter}: d{sde.state[i]} = {_factor(part_drift(part, sde, i))} dtau{noise}, {SOLVES[part.solve]}"
            lines += textwrap.wrap(text, WIDTH - 8, subsequent_indent="    ")
    return lines


def part_drift(part: Part, sde: Any, i: int) -> sp.Expr:
    """Row i of the drift of a part, over the blocks x, ..., the constant components and the scores s_x, ..."""
    score = (symbol(f"s_{b}") for b in sde.state)
    held = ((part.linear, map(symbol, sde.state)), (part.offset, (*map(symbol, sde.constant), 1)), (part.score, score))
    return sum((c * v for M, values in held for c, v in zip(M.row(i), values, strict=True)), sp.S.Zero)


def marks(composition: str) -> str:
    """What the marks of a composition mean, those that occur in it."""
    meanings = ["! calls the network for a new score" + ", at the time t0 - f h where @f follows" * ("@" in composition)]
    if "^" in composition:
        meanings.append("!^ calls it at the state that the letter would reach with the last score")
    if any("!" not in token for token in composition.split()):
        meanings.append("a letter without ! uses the last score again")
    if "(" in composition:
        meanings.append("(p/q) is the letter's share of h")
    return f"where {'; '.join(meanings)}"


FRAMES = {
    "x0": "C_skip = -Sigma^-1, C_out = Sigma^-1 p, r the prediction of the data",
    "gaussian": "C_skip = -(Sigma + sigma_data^2 p p^T)^-1, C_out = -C_skip p: the data taken for a Gaussian of that variance",
    "v": "C_skip = -1/(alpha^2 + sigma^2), C_out = alpha C_skip/sigma, r the velocity",
    "eps-R": "C_skip = 0, C_out = -R^-T with gDDIM's R (sigma of one block), r epsilon",
}
CLOCKS = {
    "log": "-log(sigma_hat), sigma_hat the effective sigma: sigma/alpha of one block",
    "theta": "-arctan(sigma_hat/sigma_data), sigma_hat the effective sigma: sigma/alpha of one block",
}


def adams_lines(adams: Any) -> list[str]:
    """The rule of the family adams (lower/adams.py)."""
    count = adams.order if adams.order > 1 else "one"
    drawn, power = (" + C xi", "(1 + eta) G G^T") if adams.random else ("", "G G^T")
    power = f"({power} - 2 Q)" if adams.skew else power
    noise = "C C^T = int_t1^t0 P(t1, s) eta G G^T(s) P(t1, s)^T ds,   xi standard normal"
    law = f"eta = {adams.noise}: the reverse SDE dz = (F z - (1 + eta) G G^T score/2) dt + sqrt(eta) G dw is sampled,"
    lines = [
        f"z' = P z + sum_k M_k r^(k){drawn},   P the propagator of dz/dt = (F - {power} C_skip/2) z from t0 to t1,",
        f"M_k = int_t1^t0 P(t1, s) {power} C_out(s) (u(s) - u(t0))^k/k! ds / 2,   score = C_skip z + C_out r,",
        *([f"{noise},", law if adams.noise != "eta" else law.replace("eta = eta: ", "")] if adams.random else []),
        f"r^(k) the derivatives in u at t0 of the polynomial through the last {count} values of r,",
        f"u = {CLOCKS.get(adams.clock, adams.clock)},",
        FRAMES[adams.frame],
    ]
    if adams.skew:
        lines.append("Q = (g p^T - p g^T)/(2 p^T Sigma^-1 p), g = G G^T Sigma^-1 p, a skew drift Q s, which keeps the marginals:")
        lines.append("the input of the denoiser then follows the probability flow of one block, whatever the other blocks are")
    if adams.corrector:
        lines += [
            "Before that, z is corrected: the step that led to it is repeated with the polynomial that passes through the",
            "value of r at t0 too.",
        ]
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
    """The proven orders in a sentence; a dash where none is derived, none with the reason where there is none."""
    if method.random:
        strong = "; no strong order is derived" if method.strong_order is None else f", strong order {method.strong_order:g}"
        if method.strong_order is not None and method.strong_order > 1:
            driven = strong_order_of_increments(method)
            strong += (
                f" if the draws are coupled to the Brownian path in the best way, {driven:g} if they are its increments"
            )
        return f"Proven weak order {spelled(method.weak_order, method.why)}{strong}."
    alone = "" if method.order == method.step_order else f" (a single step after the first ones has order {method.step_order})"
    return f"Proven order {spelled(method.order, method.why)}{alone}."


def spelled(order: float | None, why: str) -> str:
    """An order for people: a dash where none is derived, else with the reason that it is none or less than it seems."""
    shown = f"{order:g}" if order is not None else "none" if why else "-"
    return f"{shown} ({why})" if why else shown


ASSUMED = "This assumes a smooth network, an exact start and bounded ratios of successive steps."
SOLVES = {"euler": "an Euler step", "exact": "solved exactly", "conjugate": "a conjugate Euler step"}
WIDTH = 116  # of a line of the docstring


MOST = 420  # characters of an error term that a docstring has room for
NO_FORMULA = (
    "No formula of the leading local error is written here. There is one for steps of order 1 or more without noise, of at most "
    f"{MOST_CALLS} network calls. For a splitting the order must also be at most 2, and F and G G^T rational in t and the "
    "parameters: sqrt(a) is avoided by a parameter q with a = q^2."
)


def leading(method: Any) -> list[str]:
    """The leading local error of a deterministic step, as far as it fits into a docstring."""
    terms = method.local_error
    if terms is None:
        return []
    lines = ["The local error of a step of length h, exact minus numerical:"]
    for term in terms:
        text = str(term)
        long = f"e_{term.block} = h^{term.power} * (a long expression: `stepsmith error` prints it)"
        lines += textwrap.wrap(
            text if len(text) <= MOST else long, WIDTH, initial_indent="    ", subsequent_indent=" " * 8
        )
    return lines + [f"    {line}" for note in terms[0].where for line in textwrap.wrap(note, WIDTH - 4)]
