"""The record of a linear SDE: its entries in SymPy, and what follows from them by writing out and multiplying alone.

    dz = (F(t) z + b(t)) dt + G(t) dw,   z = (z_1, ..., z_n), each block a tensor of the data's shape

F, G and b act on the blocks alone (n x n times the identity on each block).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from functools import cached_property, lru_cache
from operator import eq, ge, gt, le, lt, ne
from typing import Any

import sympy as sp

from ..maths.calculus import symbol
from ..maths.point import sign

RELATIONS = {"!=": ne, "==": eq, "<=": le, ">=": ge, "<": lt, ">": gt}


@dataclass(frozen=True)
class Constraint:
    """A relation between the parameters that a run must fulfil, such as ``Gamma != nu``."""

    text: str
    left: sp.Expr
    relation: str
    right: sp.Expr
    gap: sp.Expr  # left - right, every let written out

    def holds(self, values: Mapping[sp.Symbol, sp.Expr]) -> bool:
        """Whether the relation holds at a point; False where a side has no real value there."""
        side = sign(self.gap, values)
        return side is not None and RELATIONS[self.relation](side, 0)


def _written(key: str) -> cached_property[Any]:
    """The entries of a key of the record, every let written out."""
    return cached_property(lambda sde: sde.written_out(getattr(sde, key)))


@dataclass(frozen=True)
class Equations:
    """dz = (F z + offset) dt + G dw on the forward time span ``time``; entries are SymPy in t and the parameters.

    ``F_let``, ``G_let``, ``offset_let`` and ``initial_let`` hold the same entries in the words of ``let``, as the user
    spelled them; ``F``, ``G``, ``offset`` and ``initial`` (the variances at time[0]) hold them written out.
    ``data`` are the indices of the blocks that start at a data point.  ``constant`` names the components that never
    change (an image that is given); ``offset`` is linear in them and in 1, F and G act on the state alone.
    ``field`` names what differs from coefficient to coefficient of the state where that is a cosine transform: the
    eigenvalue of minus the Laplacian, pi^2 (i^2/H^2 + j^2/W^2).  Entries use it like a parameter.
    """

    name: str
    state: tuple[str, ...]
    time: tuple[float, float]
    F_let: sp.ImmutableMatrix
    G_let: sp.ImmutableMatrix
    offset_let: sp.ImmutableMatrix
    initial_let: sp.ImmutableMatrix
    data: tuple[int, ...]
    params: Mapping[str, float]
    let: Mapping[str, sp.Expr]
    constraints: tuple[Constraint, ...]
    doc: str = ""
    schedule: tuple[sp.Expr, sp.Expr] | None = None  # (alpha, sigma) as the user gave them, one block
    constant: tuple[str, ...] = ()
    field: str = ""
    open: bool = False  # times beyond the span are taken too, as far as alpha and sigma have values
    latex: Mapping[str, str] = dataclass_field(default_factory=dict)  # of names, for pages; never in emitted text
    spelled: Mapping[str, sp.Expr] = dataclass_field(default_factory=dict)  # the lets in the words of those before them

    @property
    def n(self) -> int:
        return len(self.state)

    @cached_property
    def symbols(self) -> dict[str, sp.Symbol]:
        """The parameters as SymPy symbols, and the field where there is one."""
        return {name: sp.Symbol(name, real=True) for name in (*self.params, *filter(None, [self.field]))}

    @cached_property
    def let_words(self) -> dict[str, sp.Expr]:
        """The lets for text, each in the words of those before it where it was spelled so."""
        words = {name: self.spelled.get(name, expr) for name, expr in self.let.items()}
        return {name: words[name] if self.written_out(words[name]) == expr else expr for name, expr in self.let.items()}

    @cached_property
    def _stands_for(self) -> dict[sp.Symbol, sp.Expr]:
        return {sp.Symbol(name, real=True): expr for name, expr in self.let.items()}

    @cached_property
    def _written_out(self) -> Callable[[Any], Any]:
        return lru_cache(4096)(lambda entries: entries.subs(self._stands_for))  # asked at every time of a proof

    def written_out(self, entries: Any) -> Any:
        """Entries with every let replaced by what it stands for."""
        if not entries.free_symbols & self._stands_for.keys():
            return entries
        return self._written_out(sp.ImmutableMatrix(entries) if isinstance(entries, sp.MatrixBase) else entries)

    F, G, GG, offset, initial = (_written(f"{key}_let") for key in ("F", "G", "GG", "offset", "initial"))

    @cached_property
    def GG_let(self) -> sp.ImmutableMatrix:
        """G G^T in the words of let; the square roots of a diagonal G cancel here."""
        return sp.ImmutableMatrix(self.G_let * self.G_let.T)

    @cached_property
    def offset_terms_let(self) -> sp.ImmutableMatrix:
        """n x (m + 1): what multiplies the m constant components and 1 in the offset, in the words of let."""
        return linear_terms(self.offset_let, self.constant)


def linear_terms(offset: sp.Matrix, constant: tuple[str, ...]) -> sp.ImmutableMatrix:
    """n x (m + 1): the coefficients of the constant components and of 1 in a linear offset."""
    own = [symbol(name) for name in constant]
    rows = [[*(e.diff(c) for c in own), e.subs(dict.fromkeys(own, 0))] for e in offset]
    return sp.ImmutableMatrix(len(rows), len(own) + 1, [e for row in rows for e in row])


def coupled(couplings: sp.Matrix, rows: set[int]) -> set[int]:
    """The blocks that what stands on ``rows`` reaches through the couplings of a linear flow."""
    while grown := {i for i in range(couplings.shape[0]) if any(couplings[i, j] != 0 for j in rows)} - rows:
        rows = rows | grown
    return rows
