"""The host statements of a program as lines of the emitted ``coefficients``."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import sympy as sp
from sympy.core.function import AppliedUndef

from stepsmith.derive.maths.calculus import t
from stepsmith.derive.program import (
    EARLIER,
    Flow,
    Host,
    Integral,
    Law,
    Moments,
    Propagate,
    Scalar,
    Spread,
    StepProgram,
    applied,
)
from stepsmith.derive.program.meaning import needed_by, table_names
from stepsmith.derive.program.program import host_names, scalars
from stepsmith.derive.program.rows import Rows

from .naming import Naming, is_transition, local
from .printer import HostPrinter, matrix_lines, wrapped
from .rates import Rates

# The method of the emitted class Law that gives the tables of a kind, with its arguments behind the time.
LAW = {
    "edm": ("edm", "sde.sigma_data"),
    "eps-L": ("eps",),
    "eps-U": ("eps", "upper"),
    "eps-R": ("gddim",),
    "tweedie-L": ("tweedie_eps", "factor"),
    "tweedie-U": ("tweedie_eps", "upper"),
}

MOMENTS = {"x0": "law.moments_x0", "gaussian": "prior.moments_gaussian"}


@dataclass
class HostText:
    """The text of the host side of one program."""

    program: StepProgram
    sde: Any
    naming: Naming
    numbers: set[str]
    timed: tuple[str, ...]
    scale: sp.Expr | None  # f where F = f A of several blocks and the law is by exponentials
    nodes: set[str] = field(default_factory=set)  # the lines so far that give a name its values at the nodes of the law

    def __post_init__(self) -> None:
        self.printer = HostPrinter(self.naming, self._numbers())
        self.rates = Rates(self.sde, self.naming, self.printer, self.numbers, self.timed, self.scale)

    def _numbers(self) -> set[str]:
        """Names that are Python numbers on the host: parameters, and what is made of them alone."""
        known = set(self.numbers)
        for statement in self.program.host:
            if isinstance(statement, Scalar) and host_names([statement.expr]) <= known and not _applied(statement.expr):
                known.add(statement.name)
        return known

    def lines(self) -> list[str]:
        """The statements in their order, what gives times first, the law before the first that reads it."""
        times = needed_by(self.program, (e for s in self.program.host if not isinstance(s, Scalar) for e in s.reads))
        host = sorted(self.program.host, key=lambda s: not (isinstance(s, Scalar) and s.name in times))
        law = [s for s in host if self._of_law(s)]
        lines: list[str] = []
        for statement in host:
            if law and statement is law[0]:
                lines += self._laws(law)
            if self._beside(statement, lines):
                continue
            lines.append(self._statement(statement))
        return lines

    def _laws(self, statements: list[Host]) -> list[str]:
        """The law given the data, and that of Gaussian data where it is asked for."""
        at = ", ".join(self._law_times(statements))
        spread = {s.variance for s in statements if isinstance(s, Moments)} - {0}
        prior = [f"prior = Law(gaussian(sde, {self.printer.doprint(sp.sqrt(v))}), {at})" for v in spread]
        return [f"law = Law(sde, {at})", *prior]

    @staticmethod
    def _beside(statement: Host, lines: list[str]) -> bool:
        """Whether a sigma was put on the line of the alpha of the same time."""
        if not isinstance(statement, Scalar) or not lines or not statement.name.startswith("sigma_"):
            return False
        key = statement.name.removeprefix("sigma_")
        time = str(statement.expr).removeprefix("sigma(").removesuffix(")")
        if str(statement.expr) != f"sigma({time})" or lines[-1] != f"alpha_{key} = sde.alpha({time})":
            return False
        lines[-1] = f"alpha_{key}, sigma_{key} = sde.alpha({time}), sde.sigma({time})"
        return True

    def _of_law(self, statement: Host) -> bool:
        if self.sde.n == 1:
            return False
        law = isinstance(statement, Propagate) and (
            bool(_read_of_law(statement)) or is_transition(statement, self.sde)
        )
        return isinstance(statement, Law | Flow | Moments) or law

    def _law_times(self, statements: Iterable[Host]) -> list[str]:
        """The times at which the law is asked for: the grid, and what lies inside its steps."""
        names = {self.printer.doprint(e) for s in statements for e in s.reads}
        return ["times", *sorted(names - {"t0", "t1", *(time.name for time in EARLIER)})]

    def _statement(self, statement: Host) -> str:
        if isinstance(statement, Scalar):
            return wrapped(f"{local(statement.name)} = {self.printer.doprint(statement.expr)}")
        if isinstance(statement, Integral) and statement.clock == "log":
            low, high = map(self.printer.doprint, statement.reads)
            return self._call(statement.name, "log_integral", [f"lambda s: {self._running(statement.rate)}", low, high])
        if isinstance(statement, Integral):
            low, high = map(self.printer.doprint, statement.reads)
            panels = "sde.panels(t0)" if self.sde.n == 1 else "4"
            rate = f"lambda s: {self._running(statement.rate)} + 0 * s"
            return self._call(statement.name, "integral", [rate, low, high, panels])
        if isinstance(statement, Law):
            return self._law(statement)
        if isinstance(statement, Flow):
            return self._flow(statement)
        if isinstance(statement, Moments):
            return self._moments(statement)
        if isinstance(statement, Spread):
            letter = statement.name.removeprefix("factor_").rstrip("0123456789p")
            more, noise = self.rates.noise(statement.noise, f"noise_{letter}")
            if (B := self.rates.constant(statement.linear)) is not None:
                lines, rate = self.rates.tensor(B, f"rate_{letter}")
                call = self._call(statement.name, "noise_factor", ["sde", rate, noise, *self._ends(statement)])
            else:
                lines, rate = self.rates.function(statement.linear, f"rate_{letter}")
                call = self._call(statement.name, "spread", [rate, noise, *self._ends(statement)])
            return "\n".join([*lines, *more, call])
        return self._propagate(statement)

    def _ends(self, statement: Any) -> list[str]:
        return [self.printer.doprint(e) for e in statement.reads]

    def _law(self, statement: Law) -> str:
        used = self._used()
        targets = [name if name in used else "_" for name in statement.targets]
        time, kind = self.printer.doprint(statement.time), statement.kind
        if self.sde.n == 1:
            return f"{targets[0]} = sde.offset({time})"
        name, *more = LAW.get(kind, (kind,))
        return f"{', '.join(targets)} = law.{name}({', '.join((time, *more))})"

    def _used(self) -> set[str]:
        """The tables and scalars that the operations and the other statements read."""
        ops = (c for op in (*self.program.ops, *self.program.last) for c in scalars(op))
        return host_names((*ops, *(e for s in self.program.host for e in s.reads)))

    def _flow(self, statement: Flow) -> str:
        ends = ", ".join(self._ends(statement))
        if len(statement.targets) == 1:
            return f"{statement.targets[0]} = law.flow({ends})"
        B = self._matrix(statement.B, "law.s")
        if sp.eye(self.sde.n) * statement.B[0, 0] != statement.B:  # else V B V^-1 = B
            B = f"law.similar({B})"
        return self._call(", ".join(statement.targets), "law.driven", [B, ends])

    def _moments(self, statement: Moments) -> str:
        """What the moments read at the nodes, once: the clock's rate, eta, what z - push e r goes by; and the moments."""
        targets = ", ".join(name if name in self._used() else "_" for name in statement.targets[:2])
        ends, lines = self._ends(statement), []
        if not self.nodes:
            if {"sigma_hat", "rise"} & {e.name for e in statement.rate.free_symbols | statement.noise.free_symbols}:
                lines.append("sigma_hat, rise = law.level()")
            lines.append(f"rate = {self._at_nodes(statement.rate)}")
            lines += [f"eta = {self._at_nodes(statement.noise)}"] if statement.noise != 0 else []
        if statement.frame == "eps-R":
            self.nodes |= set(lines)
            return "\n".join([*lines, self._call(targets, "law.moments_eps", ["rate", str(statement.degree), *ends])])
        law = MOMENTS[statement.frame].partition(".")[0]
        if not self.nodes:
            gain = "(1 + eta)[..., None, None] * " if statement.noise != 0 else ""
            lines.append(f"A = {gain}{law}.relaxation()" + (f" + {law}.skew()" if statement.skew else ""))
        self.nodes |= set(lines)
        lines.append(self._call(targets, MOMENTS[statement.frame], ["A", "rate", str(statement.degree), *ends]))
        if len(statement.targets) > 2:
            noise = "eta.sqrt()[..., None, None] * sde.G(law.s)"
            lines.append(self._call(statement.targets[2], f"{law}.scattered", ["A", noise, *ends]))
        return "\n".join(lines)

    def _at_nodes(self, expr: sp.Expr) -> str:
        """An expression at the nodes of the law, of their shape where it is a number."""
        constant = "" if {symbol.name for symbol in expr.free_symbols} - self.numbers else " + 0 * law.s"
        return f"{self._running(expr, 'law.s')}{constant}"

    def _propagate(self, statement: Propagate) -> str:
        if is_transition(statement, self.sde):
            return f"{statement.targets[0]} = law.psi({', '.join(self._ends(statement))})"
        letter = statement.targets[0].partition("_")[2].rstrip("0123456789p") or "step"
        lines: list[str] = []
        if self._of_law(statement):
            key = sp.ImmutableMatrix(statement.rate)
            if key not in self.rates.names:
                name = self.rates.named(key, f"rate_{letter}")
                lets, rows = self.rates.rows(statement.rate, "s")
                nodes = ["s = law.s", *self._frame(statement), *lets]
                lines += [line for line in nodes if line not in self.nodes]
                self.nodes |= set(nodes)
                lines += matrix_lines(f"{name} =", rows, "s")
            call = self._call("Y", "law.propagate", [self.rates.names[key], *self._ends(statement)])
        elif (B := self.rates.constant(statement.rate)) is not None:
            more, name = self.rates.tensor(B, f"rate_{letter}")
            low, high = self._ends(statement)
            lines += more
            call = f"Y = exponential(sde.clock({high}, {low})[:, None, None] * {name}).movedim(0, -1)"
        else:
            more, name = self.rates.function(statement.rate, f"rate_{letter}")
            lines += more
            call = self._call("Y", "evolve", [name, *self._ends(statement)])
        used, first, cuts = self._used(), 0, []
        for target, w in zip(statement.targets, statement.widths, strict=True):
            if target in used:
                cuts.append((target, f"[:, {first}:{first + w}]" if len(statement.targets) > 1 else ""))
            first += w
        if len(cuts) == 1 and not cuts[0][1]:
            return "\n".join([*lines, call.replace("Y = ", f"{cuts[0][0]} = ", 1)])
        names, slices = zip(*cuts, strict=True)
        return "\n".join([*lines, call, f"{', '.join(names)} = {', '.join('Y' + cut for cut in slices)}"])

    def _frame(self, statement: Propagate) -> list[str]:
        """The lines that give the values of the law at the nodes their names."""
        names, lines = _read_of_law(statement), []
        if names - {"offset"}:
            kind, *arguments = LAW.get(statement.kind, ("",))
            method = f"frame_{kind}" if kind else "frame"
            lines.append(f"{', '.join(table_names(statement.kind))} = law.{method}({', '.join(arguments)})")
        if "offset" in names:
            lines.append("offset = law.offset_inside()")
        return lines

    def _running(self, expr: sp.Expr, time: str = "s") -> str:
        """An expression at the running time."""
        clock = sp.Symbol(time, real=True)
        lets = {sp.Symbol(name, real=True): applied(name, clock) for name in self.timed}
        return self.printer.doprint(expr.subs(lets, simultaneous=True).subs(t, clock))

    def _matrix(self, M: sp.Matrix, time: str) -> str:
        rows = [
            "(" + ", ".join(self._running(e, time) for e in row) + ("," if M.shape[1] == 1 else "") + ")"
            for row in M.tolist()
        ]
        return f"matrix(({', '.join(rows)}{',' if len(rows) == 1 else ''}), {time})"

    def _call(self, targets: str, function: str, arguments: list[str]) -> str:
        one = f"{targets} = {function}({', '.join(arguments)})"
        if len(one) < 112:
            return one
        return f"{targets} = {function}(\n" + "\n".join(f"        {a}," for a in arguments) + "\n    )"


def _read_of_law(statement: Propagate) -> set[str]:
    return {name for name in host_names(statement.rate) if name in ("skip", "out", "offset")}


def reads_nodes(rows: Rows) -> bool:
    """Whether a statement of some rows reads the law of several blocks inside of steps."""
    host = (s for program in (*rows, *filter(None, [rows.table])) for s in program.host)
    return any(_read_of_law(s) if isinstance(s, Propagate) else isinstance(s, Flow | Moments) or _is_gddim(s) for s in host)


def _is_gddim(statement: Host) -> bool:
    return isinstance(statement, Law) and statement.kind == "eps-R"


def _applied(expr: sp.Expr) -> bool:
    return bool(expr.atoms(AppliedUndef))
