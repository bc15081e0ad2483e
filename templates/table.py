"""The lines that make the rows of the table of coefficients: the host side, then the sampler's own lines on unit rows."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import sympy as sp

from stepsmith.derive.maths.calculus import t
from stepsmith.derive.program import (
    EARLIER,
    ONE,
    UNIT,
    Evaluate,
    Flow,
    Host,
    Integral,
    Law,
    Normal,
    Propagate,
    Scalar,
    Spread,
    StepProgram,
    Update,
    applied,
)
from stepsmith.derive.program.forms import Form, Layout, last_layout, layout
from stepsmith.derive.program.meaning import needed_by
from stepsmith.derive.program.program import host_names, scalars

from .naming import Naming, attribute, is_transition, local
from .printer import HostPrinter, filled, listed, wrapped

RUNNING = sp.Symbol("s", real=True)  # the time inside a part of the step


@dataclass
class TableText:
    """The text of the rows of one program.  ``columns`` are those of the module, in the order of the table."""

    program: StepProgram
    sde: Any
    naming: Naming
    numbers: set[str]
    timed: tuple[str, ...]
    needs: set[str]
    columns: tuple[str, ...] = ()
    rates: dict[sp.ImmutableMatrix, str] = field(default_factory=dict)
    plan: Layout = field(init=False)
    last: Layout = field(init=False)

    def __post_init__(self) -> None:
        self.plan, self.last = layout(self.program), last_layout(self.program)
        self.printer = HostPrinter(self.naming, self._numbers())
        self.short = dict(
            zip((op.output for op in self.program.ops if isinstance(op, Normal)), self._draws(), strict=True)
        )

    def _draws(self) -> tuple[str, ...]:
        """The names of the draws as the scheme writes them."""
        return tuple(f"w{k + 1}" for k in range(self.program.draws))

    def _numbers(self) -> set[str]:
        """Names that are Python numbers on the host: parameters, and what is made of them alone."""
        known = set(self.numbers)
        for statement in self.program.host:
            if isinstance(statement, Scalar) and host_names([statement.expr]) <= known and not _applied(statement.expr):
                known.add(statement.name)
        return known

    # -- the host --------------------------------------------------------------------------------------------------------

    def lines(self) -> list[str]:
        """Everything up to the columns."""
        times = needed_by(self.program, (e for s in self.program.host if not isinstance(s, Scalar) for e in s.reads))
        host = sorted(self.program.host, key=lambda s: not (isinstance(s, Scalar) and s.name in times))
        law = [s for s in host if self._of_law(s)]
        lines: list[str] = []
        for statement in host:
            if law and statement is law[0]:
                lines.append(f"law = Law(sde, {', '.join(self._law_times(law))})")
            if self._beside(statement, lines):
                continue
            lines.append(self._statement(statement))
        return [*lines, "", *self._unit_rows()]

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
            bool(self._reads_law(statement)) or is_transition(statement, self.sde)
        )
        return isinstance(statement, Law | Flow) or law

    @staticmethod
    def _reads_law(statement: Propagate) -> set[str]:
        return {name for name in host_names(statement.rate) if name in ("skip", "out", "offset")}

    def _law_times(self, statements: Iterable[Host]) -> list[str]:
        """The times at which the law is asked for: the grid, and what lies inside its steps."""
        names = {self.printer.doprint(e) for s in statements for e in s.reads}
        return ["times", *sorted(names - {"t0", "t1", *(time.name for time in EARLIER)})]

    def _statement(self, statement: Host) -> str:
        if isinstance(statement, Scalar):
            return wrapped(f"{local(statement.name)} = {self.printer.doprint(statement.expr)}")
        if isinstance(statement, Integral) and statement.clock == "log":
            self.needs.add("log_integral")
            low, high = map(self.printer.doprint, statement.reads)
            return self._call(statement.name, "log_integral", [f"lambda s: {self._running(statement.rate)}", low, high])
        if isinstance(statement, Integral):
            self.needs.add("integral")
            low, high = map(self.printer.doprint, statement.reads)
            panels = "sde.panels(t0)" if self.sde.n == 1 else "4"
            rate = f"lambda s: {self._running(statement.rate)} + 0 * s"
            return self._call(statement.name, "integral", [rate, low, high, panels])
        if isinstance(statement, Law):
            return self._law(statement)
        if isinstance(statement, Flow):
            return self._flow(statement)
        if isinstance(statement, Spread):
            self.needs |= {"evolve", "spread"}
            letter = statement.name.removeprefix("factor_").rstrip("0123456789p")
            lines, linear = self._rate(statement.linear, letter)
            more, noise = self._rate(statement.noise, f"noise_{letter}")
            call = self._call(statement.name, "evolve", [linear, *self._ends(statement), noise])
            return "\n".join([*lines, *more, call])
        return self._propagate(statement)

    def _rate(self, M: sp.Matrix, name: str) -> tuple[list[str], str]:
        """(the lines of a function of time that gives a matrix, once; its name)."""
        key = sp.ImmutableMatrix(M)
        if key in self.rates:
            return [], self.rates[key]
        name = self._rate_name(key, f"rate_{name}" if not name.startswith("noise") else name)
        lets, rows = self._rows(M, "s")
        if any(symbol.name.startswith("offset[") for symbol in M.free_symbols):  # of one block; several read law.offset_nodes
            self.needs.add("offset")
            lets.append("offset = sde.offset(s)")
        return ["", f"def {name}(s):", *(f"    {line}" for line in (*lets, *_returned(rows, "s"))), ""], name

    def _rate_name(self, key: sp.ImmutableMatrix, name: str) -> str:
        """The name of a rate, another one than that of any other rate."""
        while name in self.rates.values():  # the same part with its offset, say
            name += "_"
        self.rates[key] = name
        return name

    def _rows(self, M: sp.Matrix, time: str) -> tuple[list[str], list[list[str]]]:
        """(the lines that give the lets with time their values there, the entries)."""
        self.needs.add("matrix")
        clock = sp.Symbol("s", real=True)
        used = [let for let in self.timed if M.has(sp.Symbol(let, real=True))]
        naming = Naming(self.naming.attributes - set(used), "sde", self.naming.order, self.naming.axes)
        printer = HostPrinter(naming, self.numbers)
        lets = [f"{local(let)} = sde.{attribute(let)}({time})" for let in used]
        return lets, [[printer.doprint(e.subs(t, clock)) for e in row] for row in M.tolist()]

    def _ends(self, statement: Any) -> list[str]:
        return [self.printer.doprint(e) for e in statement.reads]

    def _law(self, statement: Law) -> str:
        used = self._used()
        targets = [name if name in used else "_" for name in statement.targets]
        time, kind = self.printer.doprint(statement.time), statement.kind
        if self.sde.n == 1:
            self.needs.add("offset")
            return f"{targets[0]} = sde.offset({time})"
        name, _, side = kind.partition("-") if kind.startswith("tweedie") else (kind, "", "")
        arguments = [time]
        if kind in ("eps-L", "eps-U"):
            name, arguments = "eps", [time, *(["upper"] if kind == "eps-U" else [])]
        if kind == "eps-R":
            name = "gddim"
        if kind == "edm":
            arguments.append("sde.sigma_data")
        if side:
            self.needs.add("tweedie_side")
            arguments.append({"L": "lower", "U": "upper"}[side])
        self.needs.add(name)
        return f"{', '.join(targets)} = law.{name}({', '.join(arguments)})"

    def _used(self) -> set[str]:
        """The tables and scalars that the operations and the other statements read."""
        ops = (c for op in (*self.program.ops, *self.program.last) for c in scalars(op))
        return host_names((*ops, *(e for s in self.program.host for e in s.reads)))

    def _flow(self, statement: Flow) -> str:
        ends = ", ".join(self._ends(statement))
        if len(statement.targets) == 1:
            self.needs.add("flow")
            return f"{statement.targets[0]} = law.flow({ends})"
        order = list(self.naming.order or range(self.sde.n))
        B = statement.B.extract(order, order)
        self.needs |= {"driven", "flow"} | ({"multiple"} if sp.eye(self.sde.n) * B[0, 0] == B else set())
        return self._call(", ".join(statement.targets), "law.driven", [self._matrix(B, "law.s"), ends])

    def _propagate(self, statement: Propagate) -> str:
        if is_transition(statement, self.sde):
            self.needs.add("transition")
            return f"{statement.targets[0]} = law.transition({', '.join(self._ends(statement))})"
        letter = statement.targets[0].partition("_")[2].rstrip("0123456789p") or "step"
        lines: list[str] = []
        if self._of_law(statement):
            key = sp.ImmutableMatrix(statement.rate)
            if key not in self.rates:
                name = self._rate_name(key, f"rate_{letter}")
                lets, rows = self._rows(statement.rate, "s")
                lines += ["s = law.s", *self._frame(statement), *lets]
                lines += [line.replace("return ", f"{name} = ", 1) for line in _returned(rows, "s")]
            self.needs.add("propagate_law")
            call = self._call("Y", "law.propagate", [self.rates[key], *self._ends(statement)])
        else:
            self.needs.add("evolve")
            more, name = self._rate(statement.rate, letter)
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
        names, lines = self._reads_law(statement), []
        if statement.kind in ("denoiser", "edm"):
            self.needs |= {"frame_bridge"} | ({"frame_edm"} if statement.kind == "edm" else set())
            lines.append(f"skip, out = law.frame({'sde.sigma_data' if statement.kind == 'edm' else ''})")
        elif "out" in names:
            self.needs.add("frame_eps")
            lines.append(f"out = law.frame({'upper' if statement.kind == 'eps-U' else ''})")
        if "offset" in names:
            self.needs |= {"offset_nodes", "offset"}
            lines.append("offset = law.offset_nodes()")
        return lines

    def _running(self, expr: sp.Expr, time: str = "s") -> str:
        """An expression at the running time."""
        clock = sp.Symbol(time, real=True)
        lets = {sp.Symbol(name, real=True): applied(name, clock) for name in self.timed}
        return self.printer.doprint(expr.subs(lets, simultaneous=True).subs(t, clock))

    def _matrix(self, M: sp.Matrix, time: str) -> str:
        self.needs.add("matrix")
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

    # -- the sampler's lines ---------------------------------------------------------------------------------------------

    @property
    def bases(self) -> tuple[str, ...]:
        """The unit rows: the bases as the scheme has them, and the outputs of the last call that are read."""
        outputs = [name for op in self.program.last if isinstance(op, Evaluate) for name in op.outputs]
        used = {base for form in self.last.forms for base, _ in form.terms}
        return (*self._program_bases(), *(name for name in outputs if name in used))

    def _program_bases(self) -> tuple[str, ...]:
        outputs = [name for op in self.program.ops if isinstance(op, Evaluate) for name in op.outputs]
        read = {v for op in (*self.program.ops, *self.program.last) if isinstance(op, Update) for _, v in op.terms}
        unit = (UNIT,) if UNIT in read else ()
        bases = (*self.program.components, *unit, *self.program.history, *self.short, *outputs)
        return tuple(b for b in bases if b in read)

    def variable(self, value: str) -> str:
        """A value of the program as a variable."""
        return "one" if value == UNIT else local(self.short.get(value, value))

    def _unit_rows(self) -> list[str]:
        updates = [op for op in (*self.program.ops, *self.program.last) if isinstance(op, Update)]
        if not updates:
            return []
        names = [self.variable(base) for base in self.bases]
        left = ", ".join(names) + ("," if len(names) == 1 else "")
        shape = f"torch.eye({len(names)}, dtype=torch.float64)"
        shape += f".reshape({len(names)}, {len(names)}, *[1] * t0.ndim)" if self.program.field else "[:, :, None]"
        comment = f"# A value is its coefficients in ({', '.join(names)}), one row a coefficient, one column a step."
        if len(comment) > 113:
            comment = "# A value is its coefficients in these, one row a coefficient, one column a step."
        lines = [comment]
        lines.append(f"{left} = {shape}")
        for op in updates:
            text = self.printer.combination([(c, self.variable(v)) for c, v in op.terms])
            lines.append(wrapped(f"{self.variable(op.output)} = {text}" + (f"  # {op.note}" if op.note else "")))
        if self.plan.noisy:
            lines += self._merged()
        return lines

    def _merged(self) -> list[str]:
        """The lower factor of the draws' covariance, where fewer draws have the same law."""
        self.needs.add("lower")
        first = self.bases.index(next(iter(self.short)))
        part = f"[{first}:{first + len(self.short)}]"
        parts = [f"{self.variable(v)}{part}" for v in self.plan.noisy]
        count = len(self.plan.draws)
        return [
            f"# {len(self.short)} draws act on {len(parts)} values: a factor of their covariance has the same law with {count}.",
            f"noise = lower(torch.stack(({', '.join(parts)})).movedim(-1, 0)).movedim(0, -1)",
        ]

    # -- the columns -----------------------------------------------------------------------------------------------------

    def cells(self) -> dict[str, tuple[str, int | None]]:
        """column -> (variable, index of the row in it, or None for a time)."""
        found: dict[str, tuple[str, int | None]] = {}
        for plan in (self.plan, self.last):
            for form in plan.forms:
                for base, column in form.terms:
                    if column:
                        found[column] = self._cell(plan, form, base)
            for name, time in plan.times.items():
                found[name] = (self.printer.doprint(time), None)
        return found

    def _cell(self, plan: Layout, form: Form, base: str) -> tuple[str, int | None]:
        if base in plan.draws and plan.noisy:
            return f"noise[{plan.noisy.index(form.value)}]", plan.draws.index(base)
        names = [self.variable(b) for b in self.bases]
        return self.variable(form.value), names.index(self.variable(base))

    def stacked(self) -> list[str]:
        """The items of the tuple of columns, runs of rows of one value starred together; zero where a program has no use."""
        cells, items = self.cells(), []
        run: list[int] = []
        held, empty = "", 0
        for column in (*self.columns, ""):
            variable, row = cells.get(column, ("zero", empty)) if column else ("", None)
            empty += variable == "zero"
            if run and (variable != held or row is None or row != run[-1] + 1):
                items.append(self._item(held, run))
                run = []
            if column and row is None:
                items.append(variable)
            elif column:
                held, run = variable, [*run, row]  # type: ignore[list-item]
        return items

    def _item(self, variable: str, run: list[int]) -> str:
        if len(run) == 1:
            return f"{variable}[{run[0]}]"
        size = len(self.bases) if not variable.startswith(("noise", "zero")) else -1
        first, last = run[0], run[-1] + 1
        return f"*{variable}" if len(run) == size else f"*{variable}[{first or ''}:{'' if last == size else last}]"

    def returned(self, indent: str = "    ") -> list[str]:
        """The lines that stack the columns."""
        items = self.stacked()
        zeros = sum(column not in self.cells() for column in self.columns)
        lines = [f"zero = torch.zeros({zeros}, 1, dtype=torch.float64)"] if zeros else []
        lines.append(f"columns = {listed(items, indent=indent)}")
        return lines

    @property
    def back(self) -> list[str]:
        """The times of earlier steps that the rows read."""
        read = host_names(e for s in self.program.host for e in s.reads) | {str(t) for t in self.plan.times.values()}
        return [time.name for time in EARLIER if time.name in read]


def _returned(rows: list[list[str]], time: str) -> list[str]:
    """The lines that return the matrices of some entries."""
    ends = [", ".join(row) + ("," if len(row) == 1 else "") for row in rows]
    text = ", ".join(f"({row})" for row in ends) + ("," if len(rows) == 1 else "")
    if len(text) < 90:
        return [f"return matrix(({text}), {time})"]
    return ["rows = (", *(f"    ({row})," for row in ends), ")", f"return matrix(rows, {time})"]


def _applied(expr: sp.Expr) -> bool:
    return bool(re.search(r"\w\(", str(expr)) and expr.atoms(sp.core.function.AppliedUndef))


__all__ = ["ONE", "RUNNING", "TableText", "filled"]
