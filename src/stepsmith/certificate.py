"""The certificate of a module: its text, executed, is the method that was derived.  Without one no text is handed out.

It is issued on the diffusion, the sampler and the network that the module is for, and knows no catalogue:

    names       every name that the text reads is bound
    contract    the constants are those of the method
    kernel      Psi' = F Psi, Sigma' = F Sigma + Sigma F^T + G G^T and the stationary law of this diffusion (derive/proofs/kernel)
    executed    the table, the start and the steps are those of the method at its default parameters and at random ones, on
                random grids, each with one row of every program (executed.py)
"""

from __future__ import annotations

import ast
import builtins
import hashlib
import symtable
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from stepsmith import templates
from stepsmith.derive.maths.budget import within
from stepsmith.derive.method import Method
from stepsmith.derive.program.forms import layout
from stepsmith.derive.proofs.kernel import prove
from stepsmith.errors import CertificateError, InputError, Unsupported
from stepsmith.executed import LIMITS, Executed, Point, Refused, points
from stepsmith.runtime import modules

SEED, POINTS = 1, 3  # of the draws; the default parameters and random ones, each with a grid of its own

CERTIFIED = (
    f"Certified at {POINTS} points (seed {SEED}): table to {LIMITS['coefficients']:g} and start to {LIMITS['start']:g} "
    f"of balls, steps to {LIMITS['step']:g} of the program."
)
NOT_CERTIFIED = "Not certified: emitted with --no-certificate, so nothing has held this text to its proofs."


@dataclass(frozen=True)
class Check:
    """A claim that held: its largest error, and the error that is allowed."""

    claim: str
    error: float
    limit: float


@dataclass(frozen=True)
class Certificate:
    """What was held of the module ``name`` whose text has this sha256: the measured errors, and where."""

    name: str
    sha256: str
    checks: tuple[Check, ...]
    points: tuple[Point, ...]

    def __str__(self) -> str:
        lines = [f"{check.claim:13} {check.error:.1e} of {check.limit:g}" for check in self.checks]
        return "\n".join((f"{self.name}: certified at {len(self.points)} points", *lines))


def emit(method: Method, dialect: str = "torch", *, certified: bool = True) -> str:
    """The module of a method as text, once its certificate is issued; ``certified=False`` leaves that out and says so in it.

    ``dialect``: "torch", or a host whose class or function stands behind the module: "diffusers", "k-diffusion", "comfyui".
    Raises CertificateError where the text is not the method, a mistake of stepsmith; Unsupported for a dialect that is not
    built or has no room for the method, and for a diffusion at which no certificate can be had within the time.
    """
    text = written(method, certified=certified)
    attached = templates.attach(text, dialect)
    if certified:
        _issue(method, text)
    return attached


def certify(method: Method) -> Certificate:
    """The certificate of the module that ``emit`` writes, with the errors that were measured; issued once a text."""
    return _issue(method, written(method))


def written(method: Method, dialect: str = "torch", *, certified: bool = True) -> str:
    """The text that ``emit`` gives, nothing checked: what ``build --check`` compares."""
    return templates.attach(templates.emit(method, CERTIFIED if certified else NOT_CERTIFIED), dialect)


_issued: dict[str, Certificate] = {}  # by the sha256 of a text


@within("the certificate")
def _issue(method: Method, text: str) -> Certificate:
    key = hashlib.sha256(text.encode()).hexdigest()
    if key not in _issued:
        with torch.no_grad():
            checks, at = _held(method, text)
        _issued[key] = Certificate(method.name, key, checks, at)
    return _issued[key]


def _held(method: Method, text: str) -> tuple[tuple[Check, ...], tuple[Point, ...]]:
    if names := unbound(text):
        raise CertificateError(method.name, f"the text reads {', '.join(names)}, which nothing binds")
    try:
        module = modules.load(text)
    except InputError as refused:
        raise CertificateError(method.name, f"the text does not load ({refused.what})") from refused
    _hold_contract(method, module)
    for proof in prove(method.sde):
        if not proof.holds:
            raise CertificateError(method.name, f"{proof.claim} does not hold ({proof.how})")
    at, found, why = [], dict.fromkeys(LIMITS, 0.0), ""
    for point in points(method, SEED):
        try:
            errors = list(Executed(method, module, point).errors())
        except Refused as refused:
            why = str(refused)
            continue
        at.append(point)
        for claim, error in errors:
            found[claim] = max(found[claim], error)
        if len(at) == POINTS:
            return tuple(Check(claim, error, LIMITS[claim]) for claim, error in found.items()), tuple(at)
    what = f"{method.name} gets no certificate, as it cannot be executed near its default parameters: {why}"
    raise Unsupported(what, "take milder defaults, or emit it with --no-certificate")


# -- the text -----------------------------------------------------------------------------------------------------------


def unbound(text: str) -> list[str]:
    """The names that a module's functions read and nothing binds, and the attributes of its own objects of that kind."""
    top = symtable.symtable(text, "module", "exec")
    bound = {s.get_name() for s in top.get_symbols() if s.is_assigned() or s.is_imported()} | set(dir(builtins))
    scopes = list(_scopes(top))
    read = {s.get_name() for scope in scopes for s in scope.get_symbols() if s.is_referenced() and s.is_global()}
    read |= {s.get_name() for s in top.get_symbols() if s.is_referenced()}
    nodes = list(ast.walk(ast.parse(text)))
    own = [n for n in nodes if isinstance(n, ast.Attribute) and getattr(n.value, "id", "") in ("self", "sde", "law")]
    has = {n.name for n in nodes if isinstance(n, ast.FunctionDef)}
    has |= {n.attr for n in own if isinstance(n.ctx, ast.Store)}
    return sorted(read - bound) + sorted({f".{n.attr}" for n in own} - {f".{name}" for name in has})


def _scopes(table: symtable.SymbolTable) -> Iterator[symtable.SymbolTable]:
    for child in table.get_children():
        yield child
        yield from _scopes(child)


def _hold_contract(method: Method, module: Any) -> None:
    """The constants of a module are those of its method."""
    step, sde = method.program, method.sde
    constants = {
        "SDE": sde.name, "SAMPLER": method.sampler.name, "NETWORK": method.network_name, "NFE": step.nfe, "DRAWS": method.draws,
        "HISTORY": len(step.history), "COMPONENTS": step.components, "DATA": sde.data[0], "INPUTS": method.inputs,
        "OUTPUTS": method.outputs, "PARAMS": method.params, "DIGEST": method.digest, "START": sde.time[0], "END": sde.time[1],
        "ORDER": method.order, "WEAK_ORDER": method.weak_order, "STRONG_ORDER": method.strong_order,
    }  # fmt: skip
    for end, program in (("FIRST", method.rows.first), ("LAST", method.rows.last)):
        if program is not None:
            constants |= {f"NFE_{end}": program.nfe, f"DRAWS_{end}": len(layout(program).draws)}
    for name, value in constants.items():
        if (found := getattr(module, name, None)) != value:
            raise CertificateError(method.name, f"{name} is {found!r}, the method has {value!r}")
    wanted = {c for program in method.rows for c in layout(program).columns}
    if missing := wanted - set(module.COEFFICIENTS):
        raise CertificateError(method.name, f"the table has no column {', '.join(sorted(missing))}")
