"""Passes: functions StepProgram -> StepProgram that leave the law of the step unchanged.

``reuse`` drops an evaluation whose inputs and time did not change, ``merge_noise`` draws once what no network call
separates, ``fuse`` leaves one affine map between two network calls, ``prune`` removes what nothing reads.  The affine
probe (probe.py) holds each of them: exact mean and covariance before and after agree to 1e-12.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

import sympy as sp

from .program import ONE, UNIT, Call, Evaluate, Factor, Host, Normal, Op, Scalar, StepProgram, Update, entry, table_of

MAX_PATHS = 2000  # products in a linear form that is written out to merge draws
Form = dict[str, sp.Expr]  # a value as a linear form: base value -> coefficient


def optimised(program: StepProgram) -> StepProgram:
    """reuse, merge_noise, fuse, prune, in this order."""
    for step in (reuse, merge_noise, fuse, prune):
        program = step(program)
    return program


def sources(op: Op) -> tuple[str, ...]:
    """The values that an operation reads."""
    if isinstance(op, Evaluate):
        return op.inputs
    return tuple(value for _, value in op.terms) if isinstance(op, Update) else ()


def outputs(op: Op) -> tuple[str, ...]:
    """The values that an operation defines."""
    return op.outputs if isinstance(op, Evaluate) else (op.output,)


def reuse(program: StepProgram) -> StepProgram:
    """One evaluation, or update, where two have the same inputs and coefficients."""
    same: dict[str, str] = {}
    seen: dict[object, tuple[str, ...]] = {}
    ops: list[Op] = []
    for op in program.ops:
        op = _renamed(op, lambda value: same.get(value, value))
        key = (
            None
            if isinstance(op, Normal)
            else (op.inputs, op.time)
            if isinstance(op, Evaluate)
            else frozenset(op.terms)
        )
        if key is not None and key in seen:
            same.update(zip(outputs(op), seen[key], strict=True))
            continue
        if key is not None:
            seen[key] = outputs(op)
        ops.append(op)
    result, carry = (tuple(same.get(v, v) for v in values) for values in (program.result, program.carry))
    return replace(program, ops=tuple(ops), result=result, carry=carry)


def _renamed(op: Op, name: Callable[[str], str]) -> Op:
    if isinstance(op, Evaluate):
        return replace(op, inputs=tuple(map(name, op.inputs)))
    if isinstance(op, Update):
        return replace(op, terms=tuple((c, name(value)) for c, value in op.terms))
    return op


def linear_forms(ops: Iterable[Op], bases: Iterable[str]) -> dict[str, Form]:
    """Every value as a linear form in the bases, the network's outputs and the normals."""
    forms: dict[str, Form] = {base: {base: ONE} for base in bases}
    for op in ops:
        if isinstance(op, Update):
            form: Form = {}
            for coefficient, value in op.terms:
                for base, c in forms[value].items():
                    form[base] = form.get(base, sp.S.Zero) + coefficient * c
            forms[op.output] = {base: c for base, c in form.items() if c != 0}
        else:
            forms.update({value: {value: ONE} for value in outputs(op)})
    return forms


def _paths(ops: Iterable[Op]) -> int:
    """How many products the largest linear form of the operations would hold, written out."""
    paths: dict[str, int] = {}
    for op in ops:
        if isinstance(op, Update):
            paths[op.output] = sum(paths.get(value, 1) for _, value in op.terms)
    return max(paths.values(), default=0)


def merge_noise(program: StepProgram) -> StepProgram:
    """Fewer draws between two calls, where more normals than values reach what follows: N xi has the law of L xi'.

    Where a form would hold more than MAX_PATHS products (many parts between two calls), the draws stay as they are.
    L is the lower triangular factor of N N^T with positive diagonal, by QR of the columns: the same law, other paths.
    """
    ops: list[Op] = []
    host: list[Host] = list(program.host)
    segments: list[list[Op]] = [[]]
    for op in program.ops:
        segments[-1].append(op)
        if isinstance(op, Evaluate):
            segments.append([])
    for position, segment in enumerate(segments):
        later = {value for rest in segments[position + 1 :] for op in rest for value in sources(op)}
        later |= {*program.result, *program.carry}
        ops += _merged(segment, later, f"merged_{position}", host)
    return replace(program, ops=tuple(ops), host=tuple(host))


def _merged(segment: list[Op], later: set[str], name: str, host: list[Host]) -> list[Op]:
    normals = [op.output for op in segment if isinstance(op, Normal)]
    touched = [i for i, op in enumerate(segment) if isinstance(op, Normal) or set(sources(op)) & set(normals)]
    head, tail = (segment[: touched[-1] + 1], segment[touched[-1] + 1 :]) if touched else ([], segment)
    if not touched or _paths(head) > MAX_PATHS:
        return segment
    wanted = later | {value for op in tail for value in sources(op)}
    defined = {value for op in head for value in outputs(op)}
    inputs = {value for op in head for value in sources(op)} - defined
    forms = linear_forms(head, inputs)
    live = [op.output for op in head if isinstance(op, Update) and op.output in wanted]
    noisy = [value for value in live if set(forms[value]) & set(normals)]
    if len(normals) <= len(noisy) or wanted & set(normals):
        return segment
    matrix = sp.Matrix([[forms[value].get(normal, 0) for normal in normals] for value in noisy])
    host.append(Factor(name, matrix))
    draws = [f"xi_{name}_{k}" for k in range(len(noisy))]
    merged: list[Op] = [Normal(draw) for draw in draws]
    for value in live:
        terms = [(c, base) for base, c in forms[value].items() if base not in normals]
        if value in noisy:
            i = noisy.index(value)
            terms += [(entry(name, i, k), draws[k]) for k in range(i + 1)]
        merged.append(Update(value, tuple(terms)))
    return merged + tail


def fuse(program: StepProgram) -> StepProgram:
    """One affine map in the state, the outputs, the draws and what is carried in, for each network input, each value that is
    carried out and each new component.  A value that is carried out is a base of the maps behind it.
    """
    host: list[Host] = list(program.host)
    draws = {op.output: f"w{k}" for k, op in enumerate((o for o in program.ops if isinstance(o, Normal)), start=1)}
    taken = {*program.history, *(name for statement in host for name in defined_by(statement))}
    taken |= {*program.params, *(f"{name}_" for name in program.params), *program.components}
    bases = (*program.components, *program.history)
    ends, carry = (tuple(draws.get(value, value) for value in values) for values in (program.result, program.carry))
    labels = dict(zip(ends, program.components, strict=True))
    ops, forms = _fused(_drawn(program.ops, draws), bases, host, taken, labels, carry)
    result: list[str] = []
    for component, value in zip(program.components, ends, strict=True):
        form = forms[value]
        if form == {component: ONE} or (set(form) <= set(carry) and set(form.values()) == {ONE} and len(form) == 1):
            result += form
            continue
        ops.append(_written(f"{component}_new", component, form, host, taken))
        result.append(f"{component}_new")
    last, last_results = _last_fused(program, host, taken)
    return replace(
        program, ops=tuple(ops), host=tuple(host), result=tuple(result), last=last, last_results=last_results,
        carry=tuple(next(iter(forms[value])) for value in carry),
    )  # fmt: skip


def _last_fused(program: StepProgram, host: list[Host], taken: set[str]) -> tuple[tuple[Op, ...], tuple[str, ...]]:
    """The program of the mean at t1 with its Updates fused, and the values that are its results."""
    last, forms = _fused(program.last, program.components, host, taken, {})
    results = list(program.last_results)
    for k, value in enumerate(results):
        if value not in {v for op in last for v in outputs(op)}:
            results[k] = "mean" if len(results) == 1 else value
            last.append(_written(results[k], results[k], forms[value], host, taken))
    return tuple(last), tuple(results)


def _drawn(ops: tuple[Op, ...], draws: dict[str, str]) -> list[Op]:
    def name(value: str) -> str:
        return draws.get(value, value)

    return [Normal(name(op.output)) if isinstance(op, Normal) else _renamed(op, name) for op in ops]


def _fused(
    ops: Iterable[Op], bases: Iterable[str], host: list[Host], taken: set[str], labels: dict[str, str],
    carried: tuple[str, ...] = (),
) -> tuple[list[Op], dict[str, Form]]:  # fmt: skip
    """The evaluations with their inputs, and the carried values, as single affine maps; the linear forms of all values, their
    coefficients named after ``labels`` (the component of a result) or the value.
    """
    kept: list[Op] = []
    forms: dict[str, Form] = {base: {base: ONE} for base in (UNIT, *bases)}
    for op in ops:
        if isinstance(op, Update):
            form: Form = {}
            for coefficient, value in op.terms:
                for base, c in forms[value].items():
                    form[base] = form.get(base, sp.S.Zero) + coefficient * c
            label = labels.get(op.output, op.output)
            forms[op.output] = {base: _named(f"{label}_{base}", c, host, taken) for base, c in form.items() if c != 0}
            if op.output in carried and list(forms[op.output].values()) != [ONE]:
                kept.append(_written(op.output, op.output, forms[op.output], host, taken))
                forms[op.output] = {op.output: ONE}
            continue
        if isinstance(op, Evaluate):
            inputs = []
            for value in op.inputs:
                form = forms[value]
                if len(form) == 1 and next(iter(form.values())) == ONE:
                    inputs.append(next(iter(form)))
                else:
                    if value not in {v for o in kept for v in outputs(o)}:
                        kept.append(_written(value, value, form, host, taken))
                    inputs.append(value)
            op = replace(op, inputs=tuple(inputs))
        kept.append(op)
        forms.update({value: {value: ONE} for value in outputs(op)})
    return kept, forms


def _named(name: str, expr: sp.Expr, host: list[Host], taken: set[str]) -> sp.Expr:
    if expr.is_Symbol or expr.is_number:
        return expr
    while name in taken:
        name += "_"
    taken.add(name)
    host.append(Scalar(name, expr))
    return sp.Symbol(name, real=True)


def _written(value: str, label: str, form: Form, host: list[Host], taken: set[str]) -> Update:
    """The update of a value with each coefficient a column of its own, named ``<label>_<base>``."""
    terms = []
    for base, c in form.items():
        if c != ONE:
            name = f"{label}_{base}"
            already = c.is_Symbol and c.name == name
            if not already:
                while name in taken:
                    name += "_"
                taken.add(name)
                host.append(Scalar(name, c))
                c = sp.Symbol(name, real=True)
        terms.append((c, base))
    return Update(value, tuple(terms))


def defined_by(statement: Host) -> tuple[str, ...]:
    """The names that a host statement defines."""
    return statement.targets if isinstance(statement, Call) else (statement.name,)


def reads(statement: Host) -> set[str]:
    """The tables and scalars that a host statement reads."""
    exprs = (
        statement.times
        if isinstance(statement, Call)
        else tuple(statement.rows)
        if isinstance(statement, Factor)
        else (statement.expr,)
    )
    return {table_of(symbol) for expr in exprs for symbol in expr.free_symbols}


def prune(program: StepProgram) -> StepProgram:
    """Without the host statements, functions and parameters that nothing reads."""
    wanted = {table_of(x) for op in (*program.ops, *program.last) for c in _scalars(op) for x in c.free_symbols}
    kept: list[Host] = []
    for statement in reversed(program.host):
        if set(defined_by(statement)) & wanted:
            kept.append(statement)
            wanted |= reads(statement)
    calls = {statement.function for statement in kept if isinstance(statement, Call)} | {"start_factor", "offset"}
    if any(isinstance(statement, Factor) for statement in kept):
        calls |= {"lower", "matrix"}
    functions = []
    for function in reversed(program.functions):
        if function.name in calls:
            functions.append(function)
            calls |= set(function.uses)
    used = wanted | {name for function in functions for name in function.params}
    return replace(
        program,
        host=tuple(kept[::-1]),
        functions=tuple(functions[::-1]),
        params={k: v for k, v in program.params.items() if k in used},
    )


def _scalars(op: Op) -> tuple[sp.Expr, ...]:
    if isinstance(op, Evaluate):
        return (op.time,)
    return tuple(c for c, _ in op.terms) if isinstance(op, Update) else ()
