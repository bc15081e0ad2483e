"""The rates of linear ODEs and their noise as text: functions of time, or matrices of numbers times the clock's rate."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import sympy as sp

from stepsmith.derive.maths.calculus import t
from stepsmith.derive.sde import forms

from .naming import Naming, attribute, local
from .printer import HostPrinter, matrix_lines, tensor, wrapped


@dataclass
class Rates:
    """The rates that a program has named so far.  ``scale`` is f where F = f A of several blocks; None elsewhere."""

    sde: Any
    naming: Naming
    printer: HostPrinter
    numbers: set[str]
    timed: tuple[str, ...]
    scale: sp.Expr | None
    names: dict[sp.ImmutableMatrix, str] = field(default_factory=dict)

    def named(self, key: sp.ImmutableMatrix, name: str) -> str:
        """The name of a rate, another one than that of any other rate."""
        while name in self.names.values():  # the same part with its offset, say
            name += "_"
        self.names[key] = name
        return name

    def function(self, M: sp.Matrix, name: str) -> tuple[list[str], str]:
        """(the lines of a function of time that gives a matrix, once; its name)."""
        key = sp.ImmutableMatrix(M)
        if key in self.names:
            return [], self.names[key]
        name = self.named(key, name)
        lets, rows = self.rows(M, "s")
        if any(symbol.name.startswith("offset[") for symbol in M.free_symbols):  # of one block
            lets.append("offset = sde.offset(s)")
        return ["", f"def {name}(s):", *(f"    {line}" for line in (*lets, *matrix_lines("return", rows, "s"))), ""], name

    def noise(self, G: sp.Matrix, name: str) -> tuple[list[str], str]:
        """(the lines of a function of time that gives a noise matrix, its name): the diffusion's own, or of the part alone."""
        own = self.sde.n > 1 and sp.ImmutableMatrix(G) == sp.ImmutableMatrix(self.sde.G_let)
        return ([], "sde.G") if own else self.function(G, name)

    def constant(self, M: sp.Matrix) -> sp.Matrix | None:
        """B, square with zeros below, where [[M], [0]] = f B with a constant B."""
        B = None if self.scale is None else forms.multiple(self.sde, M, self.scale)
        return None if B is None else B.col_join(sp.zeros(B.cols - B.rows, B.cols))

    def tensor(self, B: sp.Matrix, name: str) -> tuple[list[str], str]:
        """(the lines that keep a constant rate, once; its name)."""
        key = sp.ImmutableMatrix(B)
        if key in self.names:
            return [], self.names[key]
        name = self.named(key, name)
        return [wrapped(f"{name} = {tensor([[self.printer.doprint(e) for e in row] for row in B.tolist()])}")], name

    def rows(self, M: sp.Matrix, time: str) -> tuple[list[str], list[list[str]]]:
        """(the lines that give the lets with time their values there, the entries)."""
        clock = sp.Symbol("s", real=True)
        used = [let for let in self.timed if M.has(sp.Symbol(let, real=True))]
        printer = HostPrinter(Naming(self.naming.attributes - set(used), "sde"), self.numbers)
        lets = [f"{local(let)} = sde.{attribute(let)}({time})" for let in used]
        return lets, [[printer.doprint(e.subs(t, clock)) for e in row] for row in M.tolist()]
