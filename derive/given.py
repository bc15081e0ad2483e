"""What a user built in Python instead of writing a spec, held to the rules of the specs before any of it is printed.

An emitted module is code, so every text that reaches it is a checked name or an escaped literal, and every expression is
made of known names, numbers and the functions of the grammar alone.  A refusal is an InputError with the place and the fix.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

import sympy as sp

from stepsmith.errors import InputError

from .maths.values import FUNCTIONS
from .sampler.network import FLOW, KINDS, ScoreParameterization
from .sampler.sampler import Sampler
from .sde.equations import RELATIONS
from .sde.linear import LinearSDE
from .sde.load import check_names, check_span
from .spec import sources as spec
from .spec.composition import parse_composition


def check_sde(sde: LinearSDE) -> None:
    """InputError where a diffusion holds a text or an expression that no spec could hold."""
    own = (*sde.params, *filter(None, [sde.field]))
    spec.name_of("-", "sde.name", sde.name)
    spec.check_note("-", "sde.doc", sde.doc)
    spec.table_of_numbers("-", "sde.params", sde.params)
    check_names("-", sde.state, own, sde.let, sde.constant)
    check_span("-", sde.time)
    if not sde.data or any(i not in range(sde.n) for i in sde.data):
        raise InputError("-", "sde.data", "does not name blocks", f"give indices below {sde.n}")
    names = _names(sde)
    lets = (*sde.let.values(), *sde.spelled.values())
    for key, entries in (("F", sde.F_let), ("G", sde.G_let), ("initial", sde.initial_let), ("let", lets)):
        check_expressions(f"sde.{key}", entries, names)
    check_expressions("sde.offset", sde.offset_let, (*names, *sde.constant))
    check_expressions("sde.constraints", [side for c in sde.constraints for side in (c.left, c.right)], names)
    if any(c.relation not in RELATIONS for c in sde.constraints):
        raise InputError("-", "sde.constraints", "an item is no relation", "use one of != == <= >= < >")
    check_expressions("sde.alpha", sde.schedule or (), names)


def check_sampler(sampler: Sampler) -> None:
    """The same of a sampler."""
    name = rf"[A-Za-z0-9][A-Za-z0-9_-]{{0,{spec.MAX_NAME - 1}}}|[a-z0-9-]+"  # of a composition: of any length
    if not isinstance(sampler.name, str) or not re.fullmatch(name, sampler.name):
        what = f"{spec.shown(sampler.name)} is no name of a spec"
        raise InputError("-", "sampler.name", what, "use letters, digits, _ and -")
    spec.check_note("-", "sampler.doc", sampler.doc)
    spec.check_note("-", "sampler.reference", sampler.reference)
    spec.table_of_numbers("-", "sampler.params", sampler.params)
    for letter in sampler.parts:
        if not isinstance(letter, str) or not re.fullmatch("[A-Z]", letter):
            raise InputError("-", "sampler.parts", f"{spec.shown(letter)} is no letter", "use one of A to Z")
    if sampler.composition:
        parse_composition(" ".join(map(str, sampler.composition)))


def check_parameterization(network: ScoreParameterization, sde: LinearSDE) -> None:
    """The same of a parameterization of the user's own; its name is part of the name of the module."""
    name = network.name
    if not isinstance(name, str) or not re.fullmatch(rf"[A-Za-z0-9][A-Za-z0-9_-]{{0,{spec.MAX_NAME - 1}}}", name):
        fix = f"use up to {spec.MAX_NAME} letters, digits, _ and -, a letter or digit first"
        raise InputError("-", "network.name", f"{spec.shown(name)} is no name", fix)
    if name.lower().replace("_", "-") in [own.lower() for own in (*KINDS, FLOW)]:  # as in the name of the module
        what = f"{name!r} is a parameterization of stepsmith's own"
        raise InputError("-", "network.name", what, "choose another name")
    n = sde.n
    for key, M in (("skip", network.skip), ("out", network.out), ("inp", network.inp)):
        if not isinstance(M, sp.ImmutableDenseMatrix):
            what = (
                "is a matrix that can change" if isinstance(M, sp.MatrixBase) else f"is {spec.shown(M)}, not a matrix"
            )
            raise InputError("-", f"network.{key}", what, "give a sympy.ImmutableMatrix")
        check_expressions(f"network.{key}", M, _names(sde))
    if network.skip.shape != (n, n) or network.out.shape[0] != n or network.inp.shape[1] != n:
        what = f"its matrices do not fit the {n} blocks of {sde.name}"
        raise InputError("-", f"network {name}", what, f"skip {n} x {n}, out {n} x k, inp j x {n}")
    check_expressions("network.noise", [network.noise], _names(sde))


def check_expressions(key: str, entries: Iterable[object], names: Collection[str]) -> None:
    """Refuse expressions of anything but real numbers, sums, products, powers, known names and known functions."""
    known = {sp.Symbol(name, real=True) for name in names}
    for entry in entries:
        if not isinstance(entry, sp.Expr):
            raise InputError("-", key, f"holds {spec.shown(entry)}, not an expression", "build it with SymPy")
        for node in sp.preorder_traversal(entry):
            if not (_is_plain(node) or node in known):
                what = f"holds {spec.shown(str(node))}, which is no name, number or function of an expression"
                fix = "use t and sde.symbols, Symbol(..., real=True), and functions of the grammar"
                raise InputError("-", key, what, fix)


def _names(sde: LinearSDE) -> tuple[str, ...]:
    return ("t", *sde.symbols, *sde.let)


def _is_plain(node: sp.Basic) -> bool:
    """A finite real number, a sum, a product, a power or a function that the emitted modules can call."""
    if node in (sp.pi, sp.E):
        return True
    if isinstance(node, sp.Function):
        return node.func in FUNCTIONS
    if isinstance(node, sp.Rational | sp.Float):
        return bool(node.is_finite)
    return type(node) in (sp.Add, sp.Mul, sp.Pow)
