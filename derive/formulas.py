"""A diffusion, its reverse dynamics and the rule of a sampler as LaTeX, a formula a line."""

from __future__ import annotations

from typing import Any

import sympy as sp

from .describe import SOLVES, part_drift
from .lower import conjugation
from .maths.notation import latex
from .sampler.split import bind

TRANSPOSED = r"^{\mathsf T}"
NOISE = rf"G G{TRANSPOSED}"
SKIP, OUT = r"C_{\mathrm{skip}}", r"C_{\mathrm{out}}"
FRAMES = {
    "x0": rf"{SKIP} = -\Sigma^{{-1}},\quad {OUT} = \Sigma^{{-1}} p",
    "gaussian": rf"{SKIP} = -(\Sigma + \sigma_d^2\, p p{TRANSPOSED})^{{-1}},\quad {OUT} = -{SKIP}\, p",
    "v": rf"{SKIP} = -\frac{{1}}{{\alpha^2 + \sigma^2}},\quad {OUT} = \frac{{\alpha}}{{\sigma}}\, {SKIP}",
    "eps-R": rf"{SKIP} = 0,\quad {OUT} = -R^{{-\mathsf T}}",
}
CLOCKS = {"log": r"u = -\log\hat\sigma(t)", "theta": r"u = -\arctan\frac{\hat\sigma(t)}{\sigma_d}"}


def equations(sde: Any) -> list[str]:
    """dz = (F z + b) dt + G dw, a line a block."""
    return [_line(sde, i, _drift(sde, i) + sde.offset_let[i], sde.G_let, "dt", "w") for i in range(sde.n)]


def lets(sde: Any) -> list[str]:
    """What the names of the spec stand for."""
    return [f"{latex(sp.Symbol(name), sde.latex)} = {latex(value, sde.latex)}" for name, value in sde.let_words.items()]


def reverse(sde: Any, eta: int) -> list[str]:
    """dz = (F z + b - (1 + eta^2)/2 G G^T s) dt + eta G dw, dt < 0, a line a block; s the score, a component a block."""
    score = sp.Matrix([sp.Symbol(f"s_{b}") for b in sde.state])
    pull = sde.GG_let * score * sp.Rational(1 + eta, 2)
    drifts = (_drift(sde, i) + sde.offset_let[i] - pull[i] for i in range(sde.n))
    return [_line(sde, i, drift, sde.G_let * eta, "dt", r"\bar{w}") for i, drift in enumerate(drifts)]


def rule(method: Any) -> list[str]:
    """The step from t0 to t1 = t0 - h; nothing for a sampler that is lines of text itself."""
    if method.sampler.family == "conjugate":
        return _conjugate(method)
    if method.sampler.adams is not None:
        return _adams(method.sampler.adams)
    return [] if method.sampler.formula is not None else _parts(method)


def _drift(sde: Any, i: int) -> sp.Expr:
    return sum((sde.F_let[i, j] * sp.Symbol(b, real=True) for j, b in enumerate(sde.state)), sp.S.Zero)


def _line(sde: Any, i: int, drift: sp.Expr, G: sp.Matrix, time: str, path: str) -> str:
    names = _names(sde)
    pieces = [rf"\left({latex(drift, names)}\right)\,{time}"] if drift != 0 else []
    pieces += [rf"{latex(g, names)}\,d{path}_{{{k + 1}}}" for k, g in enumerate(G.row(i)) if g != 0]
    return f"d{latex(sp.Symbol(sde.state[i]), names)} = {' + '.join(pieces) or '0'}"


def _names(sde: Any) -> dict[str, str]:
    """The LaTeX of the spec, and of the scores of its blocks."""
    return {**{f"s_{b}": f"s_{{{latex(sp.Symbol(b), sde.latex)}}}" for b in sde.state}, **sde.latex}


def _parts(method: Any) -> list[str]:
    """The parts of a splitting, a formula a part; time runs down, tau = -t."""
    sde, formulas = method.sde, []
    for letter, part in bind(method.sampler, sde).items():
        rates = []
        for i in part.rows:
            drift = latex(part_drift(part, sde, i), _names(sde))
            noise = r" + \text{noise}" if i in part.noise_rows else ""
            block = latex(sp.Symbol(sde.state[i]), sde.latex)
            rates.append(rf"\frac{{d{block}}}{{d\tau}} = {drift}{noise}")
        shown = rates[0] if len(rates) == 1 else r"\begin{cases} " + r" \\ ".join(rates) + r" \end{cases}"
        formulas.append(rf"\mathrm{{{letter}}}:\quad {shown} \quad\text{{({SOLVES[part.solve]})}}")
    return formulas


def _conjugate(method: Any) -> list[str]:
    sde = method.sde
    B = conjugation(method.sampler, sde)
    shown = "0" if B.is_zero_matrix else latex(B, sde.latex) if sde.n > 1 else latex(B[0, 0], sde.latex)
    free = "(z - o(t))" if not sde.offset_let.is_zero_matrix else "z"
    return [
        rf"{free}' = P(t_1, t_0)\,(I - h\,B(t_0))\,{free} + \Phi\, n",
        rf"\frac{{d}}{{dt}} P(t, t_0) = \left(F - \frac{{1}}{{2}} {NOISE} {SKIP} - B\right) P(t, t_0)",
        rf"\Phi = \frac{{1}}{{2}} \int_{{t_1}}^{{t_0}} P(t_1, s)\, {NOISE} {OUT}(s)\, ds",
        rf"s = {SKIP}\, {free} + {OUT}\, n,\quad B = {shown}",
    ]


def _adams(adams: Any) -> list[str]:
    corrected = [r"\text{first the last step is corrected by the value of } r \text{ at } t_0"] if adams.corrector else []
    return [
        rf"z' = P(t_1, t_0)\, z + \sum_{{k=0}}^{{{adams.order - 1}}} M_k\, r^{{(k)}}(t_0)",
        rf"\frac{{d}}{{dt}} P(t, t_0) = \left(F - \frac{{1}}{{2}} {NOISE} {SKIP}\right) P(t, t_0)",
        rf"M_k = \frac{{1}}{{2}} \int_{{t_1}}^{{t_0}} P(t_1, s)\, {NOISE} {OUT}(s)\, \frac{{(u(s) - u(t_0))^k}}{{k!}}\, ds",
        rf"s = {SKIP}\, z + {OUT}\, r",
        *([FRAMES[adams.frame]] if adams.frame in FRAMES else []),
        *([CLOCKS[adams.clock]] if adams.clock in CLOCKS else []),
        *corrected,
    ]
