"""The rows of the table of coefficients: the sampler's own lines on unit rows, and which row of which value is which column."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

from stepsmith.derive.program import EARLIER, UNIT, Evaluate, Normal, StepProgram, Update
from stepsmith.derive.program.forms import Form, Layout, last_layout, layout
from stepsmith.derive.program.program import host_names

from .host import HostText
from .naming import local
from .printer import listed, wrapped


@dataclass
class TableText:
    """The text of the rows of one program.  ``columns`` are those of the module, in the order of the table."""

    host: HostText
    columns: tuple[str, ...]
    plan: Layout = field(init=False)
    last: Layout = field(init=False)

    def __post_init__(self) -> None:
        self.plan, self.last = layout(self.program), last_layout(self.program)
        drawn = [op.output for op in self.program.ops if isinstance(op, Normal)]
        self.short = {name: f"w{k + 1}" for k, name in enumerate(drawn)}
        self.printer = self.host.printer

    @property
    def program(self) -> StepProgram:
        return self.host.program

    def lines(self) -> list[str]:
        """The host's lines, the sampler's, and the columns."""
        return [*self.host.lines(), "", *self._unit_rows(), *self.returned()]

    # -- the sampler's lines ---------------------------------------------------------------------------------------------

    @cached_property
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
        """The factor of the draws' covariance, where fewer draws have the same law."""
        first = self.bases.index(next(iter(self.short)))
        part = f"[{first}:{first + len(self.short)}]"
        parts = [f"{self.variable(v)}{part}" for v in self.plan.noisy]
        count, values = len(self.plan.draws), "1 value" if len(parts) == 1 else f"{len(parts)} values"
        return [
            f"# {len(self.short)} draws act on {values}: a factor of their covariance has the same law with {count}.",
            f"noise = factor(torch.stack([{', '.join(parts)}]).movedim(-1, 0)).movedim(0, -1)",
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

    def returned(self) -> list[str]:
        """The lines that stack the columns."""
        cells = self.cells()
        items = self.stacked()
        zeros = sum(column not in cells for column in self.columns)
        lines = [f"zero = torch.zeros({zeros}, 1, dtype=torch.float64)"] if zeros else []
        lines.append(f"columns = {listed(items)}")
        return lines

    @property
    def back(self) -> list[str]:
        """The times of earlier steps that the rows read."""
        read = host_names(e for s in self.program.host for e in s.reads) | {str(t) for t in self.plan.times.values()}
        return [time.name for time in EARLIER if time.name in read]
