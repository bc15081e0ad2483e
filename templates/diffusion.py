"""What the class Diffusion of an emitted module is written with."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import sympy as sp

from stepsmith.derive.maths.calculus import s, t
from stepsmith.derive.program import applied
from stepsmith.derive.sde import forms

from .naming import Naming, attribute, local
from .printer import HostPrinter, matrix_lines, message, single, tensor, wrapped


class DiffusionText:
    """The printed parts of the class: parameters, lets, F or A, G, L0, alpha, sigma, offset.

    ``inside``: the law of several blocks is read inside of steps, for which it needs F.
    """

    def __init__(self, sde: Any, params: dict[str, float], inside: bool) -> None:
        self.sde, self.params = sde, params
        self.field, self.scaled = sde.field, None if inside else forms.scaled(sde)
        own = {*params, *sde.let, *filter(None, [sde.field])}
        self.timed = forms.timed(sde)
        numbers = own - set(self.timed) - {sde.field}
        self.printer = HostPrinter(Naming(frozenset(own), "self"), numbers)
        self.numbers = numbers

    # -- the constructor -------------------------------------------------------------------------------------------------

    @property
    def doc(self) -> str:
        if self.sde.n > 1:
            product = "" if self.scaled is None else f", F = {_before(self.scaled[0])}A"
            return f"dz = {'(F z + b)' if self.offset else 'F z'} dt + G dw{product}, from the covariance L0 L0^T at START."
        return f"z_t = alpha data + {'offset + ' if self.offset else ''}sigma noise."

    @property
    def arguments(self) -> str:
        return ", ".join((*filter(None, [self.field]), *self.params))

    @property
    def init(self) -> list[str]:
        """The lines of the constructor: parameters, lets without time, and what an integral of several blocks begins with."""
        sde, names = self.sde, [*filter(None, [self.field]), *self.params]
        pack = "self." + ", self.".join(map(attribute, names)) + " = " + ", ".join(names)
        lines = [pack] if len(pack) <= 110 else [f"self.{attribute(name)} = {name}" for name in names]
        lines = lines if names else []
        lines += [
            wrapped(f"self.{attribute(name)} = {self.printer.doprint(e)}", 8)
            for name, e in sde.let_words.items()
            if name not in self.timed
        ]
        if self.field:
            lines.append(f"self.{attribute(self.field)} = torch.as_tensor({self.field}, dtype=torch.float64).cpu()")
        if sde.n > 1:
            others = [i for i in reversed(range(sde.n)) if i not in sde.data]
            if self.scaled is not None:
                lines.append(f"self.A = {self._tensor(self.scaled[2].tolist())}")
            lines += [f"self.L0 = {self.L0}", f"self.data = {list(sde.data)}"]
            lines.append(
                f"self.order = {[*others, *sde.data]}  # of the rows of a factor of the covariance: the data last"
            )
        if not self.smooth:
            lines.append("self.change = smooth(self.rates) / (END - START)  # panels a unit of time")
        return single(lines)

    @property
    def test(self) -> str:
        """What must hold of the parameters, by their bare names."""
        given = HostPrinter(lambda name: name, self.numbers)
        sides = [(c, *map(self.sde.written_out, (c.left, c.right))) for c in self.sde.constraints]
        return " and ".join(f"{given.doprint(left)} {c.relation} {given.doprint(right)}" for c, left, right in sides)

    @property
    def words(self) -> str:
        """The literal of the message where it does not."""
        return message(f"the parameters must fulfil {', '.join(c.text for c in self.sde.constraints)}", 12)

    # -- methods ---------------------------------------------------------------------------------------------------------

    def lets(self, entries: Iterable[sp.Expr]) -> list[str]:
        """Lines that give the lets with time in some entries their values."""
        used = {symbol.name for e in entries for symbol in sp.sympify(e).free_symbols}
        return [f"{local(name)} = self.{attribute(name)}(t)" for name in self.timed if name in used]

    def _entry_printer(self) -> HostPrinter:
        naming = Naming(frozenset(self.numbers | {*filter(None, [self.field])}), "self")
        return HostPrinter(naming, self.numbers)

    def function(self, name: str, doc: str, entries: sp.Matrix) -> list[str]:
        """A method that returns a matrix of t."""
        rows = [[self._entry_printer().doprint(e) for e in row] for row in entries.tolist()]
        return self.method(name, doc, [*self.lets(entries), *matrix_lines("return", rows, "t")])

    def method(self, name: str, doc: str, body: list[str]) -> list[str]:
        return [f"def {name}(self, t):", *([f'    """{doc}"""'] if doc else []), *(f"    {line}" for line in body)]

    @property
    def methods(self) -> list[list[str]]:
        """All methods, in the order of what they are made of."""
        words = self.sde.let_words
        found = [[f"def {attribute(name)}(self, t):", *self._returned(words[name], lets=True)] for name in self.timed]
        if self.sde.n > 1:
            found += self._matrices()
        else:
            found += self._scalars()
        doc = "What must be smooth between the nodes of a panel, side by side."
        return found if self.smooth else [*found, self.method("rates", doc, [f"return {self.rates}"])]

    def _returned(self, expr: sp.Expr, lets: bool = False) -> list[str]:
        printer = self._entry_printer() if lets else self.printer
        own = self.lets([expr]) if lets else []
        text = wrapped(f"return = {printer.doprint(expr)}", 8).replace("return = ", "return ", 1)
        return [f"    {line}" for line in (*own, *text.split("\n"))]

    def _matrices(self) -> list[list[str]]:
        if self.scaled is not None:
            return self._closed(*self.scaled)
        return [
            self.function("F", "", self.sde.F_let),
            self.function("G", "", self.sde.G_let),
            self.function("b", f"{self.coefficient_of} in the drift.", self.sde.offset_terms_let),
            self.method("speed", "How many short pieces a unit of time is cut into, at least.", [
                f"return self.F(t).abs().sum(-1).amax(-1){'' if self.smooth else ' + self.change'}"
            ]),
        ]  # fmt: skip

    def _closed(self, f: sp.Expr, clock: sp.Expr, A: sp.Matrix) -> list[list[str]]:
        """The methods of F = f A."""
        words = "The time from s to t" if f == 1 else f"The integral of {_before(f).strip()} over (s, t)"
        psi = "return exponential(self.clock(t, s)[..., None, None] * self.A)"
        return [
            self.function("G", "", self.sde.G_let),
            ["def clock(self, t, s):", f'    """{words}."""', *self._returned(clock)],
            ["def transition(self, t, s):", '    """Psi(t, s)."""', f"    {psi}"],
        ]

    @property
    def L0(self) -> str:
        """The columns of the factor of the covariance at START."""
        n, initial = self.sde.n, self.sde.initial_let
        columns = [i for i in range(n) if initial[i, i] != 0]
        if not columns:
            return f"torch.zeros({n}, 0, dtype=torch.float64)"
        return self._tensor([[sp.sqrt(initial[i, i]) if i == j else sp.S.Zero for j in columns] for i in range(n)])

    def _tensor(self, rows: list[list[sp.Expr]]) -> str:
        return tensor([[self.printer.doprint(e) for e in row] for row in rows])

    @property
    def coefficient_of(self) -> str:
        """Of what the entries of an offset are coefficients."""
        return f"The coefficients of {' and '.join((*self.sde.constant, '1'))}"

    @property
    def offset(self) -> bool:
        """Whether the mean of z has an offset."""
        return bool(self.sde.constant) or not self.sde.offset_terms_let.is_zero_matrix

    @property
    def smooth(self) -> bool:
        """Whether integrals need no look at how F and G G^T change."""
        return forms.smooth(self.sde)

    @property
    def rates(self) -> str:
        """The text of all that must be smooth between the nodes of a panel: F, G G^T and the offset, side by side."""
        if self.sde.n > 1:
            own = ", self.b(t)" if self.offset else ""
            return f"torch.cat((self.F(t), self.G(t) @ self.G(t).mT{own}), dim=-1)"
        entries = ["self.F(t)", "self.GG(t)"]
        if self.offset:
            entries += [f"{self._running(e, t)} + 0 * t" for e in self.sde.offset_terms_let if e != 0]
        return f"torch.stack(({', '.join(entries)}), dim=-1)[..., None]"

    # -- one block -------------------------------------------------------------------------------------------------------

    def _scalars(self) -> list[list[str]]:
        sde, found = self.sde, []
        alpha, sigma = self._alpha(), self._sigma()
        offset = self._offset() if self.offset else []
        found.append(self.method("F", "", self._full(sde.F_let[0, 0])))
        found.append(self.method("GG", "", self._full(sde.GG_let[0, 0])))
        found.append(self._panels())
        found += [each for each in (*alpha, sigma) if each] + offset
        found.append(self._time_of())
        return found  # what nothing calls is dropped when the text is whole

    def _full(self, expr: sp.Expr) -> list[str]:
        """What returns an expression in the shape of t."""
        lines = [line[4:] for line in self._returned(expr, lets=True)]
        if not expr.has(t) and not {symbol.name for symbol in expr.free_symbols} & set(self.timed):
            lines[-1] += " + 0 * t"
        return lines

    def _alpha(self) -> list[list[str]]:
        """alpha, and its logarithm where that is an integral without a closed form."""
        sde, doc = self.sde, "The factor of the data in z_t."
        if sde.F.is_zero_matrix:
            return []
        if (closed := forms.alpha(sde)) is not None:
            return [self.method("alpha", doc, self._full(closed))]
        log = self.method("log_alpha", "The integral of F from START.", [f"return {self._from_start('self.F')}"])
        return [log, self.method("alpha", doc, ["return torch.exp(self.log_alpha(t))"])]

    def _sigma(self) -> list[str]:
        """In closed form where nothing cancels near the data, else by quadrature of the positive integrand."""
        sde, doc = self.sde, "The standard deviation of z_t given the data."
        if (closed := forms.sigma(sde)) is not None:
            return self.method("sigma", doc, self._full(closed))
        f, variance = sde.F[0, 0], sde.initial_let[0, 0]
        if f == 0:
            body = [f"noise = {self._from_start('self.GG')}"]
        elif forms.exponent(sde) is None and not self.field:  # else alpha(s) would be a sum over panels at every node
            rate = "lambda s: self.GG(s) * torch.exp(-2 * self.log_alpha(s))"
            body = [f"noise = self.alpha(t) ** 2 * {self._from_start(rate)}"]
        else:
            rate = "lambda s: (self.alpha(t) / self.alpha(s)) ** 2 * self.GG(s)"
            body = [f"noise = integral({rate}, START, t, self.panels(t))"]
        start = (
            "" if variance == 0 else f" + {self.printer.factor(variance)}" + ("" if f == 0 else " * self.alpha(t) ** 2")
        )
        return self.method("sigma", doc, [*body, f"return torch.sqrt(noise{start})"])

    def _from_start(self, rate: str) -> str:
        """The text of an integral of a rate that does not read t; a field has its own time axes."""
        if self.field:
            return f"integral({rate}, START, t, self.panels(t))"
        return f"antiderivative({rate}, t, self.panels(t))"

    def _panels(self) -> list[str]:
        change = "" if self.smooth else ", math.ceil(self.change * (END - START))"
        return self.method("panels", "Panels of an integral from START to t that are short against F.", [
            "speed = float((self.F(t).abs() * (t - START)).max())",
            "if not speed <= 3000:",
            '    raise ValueError("F is too large for the time over which it acts: shorten the span")',
            f"return max(2, math.ceil(speed / 12){change})",
        ])  # fmt: skip

    def _offset(self) -> list[list[str]]:
        """(1 - alpha) m of one block that is drawn to a constant m, else the integral of Psi b."""
        sde = self.sde
        doc = f"{self.coefficient_of} in the mean of z_t, (1, {len(sde.constant) + 1}, *t.shape)."
        closed = forms.offset(sde)
        if closed is not None:
            entries = [self._entry_printer().doprint(e) if e != 0 else "0 * t" for e in closed]
            body = [*self.lets(closed), f"return torch.stack(({', '.join(entries)},))[None]"]
            return [self.method("offset", doc, body)]
        flat = sde.F.is_zero_matrix
        lines = []
        for e in sde.offset_terms_let:
            ratio = "" if flat else "self.alpha(t) / self.alpha(s) * "
            rate = f"lambda s: {ratio}({self._running(e, s)}) + 0 * s"
            lines.append(f"integral({rate}, START, t, self.panels(t))" if e != 0 else "0 * t")
        return [
            self.method(
                "offset",
                doc,
                ["parts = (", *(f"    {line}," for line in lines), ")", "return torch.stack(parts)[None]"],
            )
        ]

    def _running(self, expr: sp.Expr, time: sp.Symbol) -> str:
        """The text of a rate at a time, its lets called."""
        printer = HostPrinter(Naming(frozenset({*self.params, *self.sde.let}), "self"), self.numbers)
        lets = {sp.Symbol(name, real=True): applied(name, time) for name in self.timed}
        return printer.doprint(expr.subs(lets).subs(t, time))

    def _time_of(self) -> list[str]:
        flat = self.sde.F.is_zero_matrix
        ratio = "1 / sigma" if flat else "self.alpha(t) / sigma"
        doc = "The time at which log(alpha/sigma) = target: Newton's iteration, bisection where it leaves its bracket."
        return [
            "def time_of(self, target):",
            f'    """{doc}"""',
            "    low, high = torch.full_like(target, START), torch.full_like(target, END)",
            "    t = (low + high) / 2",
            "    for _ in range(60):",
            "        sigma = self.sigma(t)",
            f"        gap = torch.log({ratio}) - target",
            "        low, high = torch.where(gap > 0, t, low), torch.where(gap > 0, high, t)",
            "        newton = t + 2 * gap * sigma**2 / self.GG(t)  # log(alpha/sigma) falls by G^2/(2 sigma^2) a unit of time",
            "        t = torch.where((newton >= low) & (newton <= high), newton, (low + high) / 2)",
            "    return t",
        ]


def _before(f: sp.Expr) -> str:
    """What F = f A has before A in a docstring."""
    return "" if f == 1 else f"{f} " if f.is_Symbol else "f(t) "
