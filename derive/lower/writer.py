"""The growing program: host statements, component operations and the names already given, as the schemes of lowering add them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import sympy as sp

from stepsmith.errors import InputError, Unsupported

from ..maths import calculus
from ..maths.bounded import cancelled
from ..maths.calculus import s, symbol, t, t0, t1
from ..program import ONE, UNIT, Evaluate, Host, Integral, Law, Normal, Op, Scalar, Update, applied, entries
from ..sampler.network import KINDS, Network, NetworkKind, Score, ScoreParameterization, kind_of, scalar, takes_state
from ..sampler.sampler import Sampler
from ..sampler.split import names_of
from ..sde.closed import in_lets
from ..sde.linear import LinearSDE
from ..sde.offset import reached

State = dict[int, str]  # block -> the value that holds it
Term = tuple[sp.Expr, str]  # coefficient, value
Conversion = Callable[[sp.Expr, sp.Expr, sp.Expr], sp.Expr]  # of alpha, sigma, and C_skip or C_out


@dataclass
class Asked:
    """What the last network call gave: its raw outputs, the score made of them, the time it was given, its number, and the
    outputs in the frame of the sampler, which its steps hold constant."""

    output: tuple[str, ...] = ()
    score: tuple[str, ...] = ()
    clock: str = "0"
    number: str = ""
    frozen: tuple[str, ...] = ()


class Writer:
    """A program as it grows.  Times inside a step go by a key, the suffix of the names of what is evaluated there."""

    def __init__(
        self, sde: LinearSDE, sampler: Sampler, network: Network, frame: Network, params: Mapping[str, float]
    ) -> None:
        self.sde, self.sampler, self.network, self.frame = sde, sampler, network, frame
        names_of(sde, sampler)  # refuses names that clash
        self.params = {**params, **sampler.params}
        self.kind = kind_of(network)
        for each in (network, frame):
            self.params |= getattr(kind_of(each), "params", {})
        self.host: list[Host] = []
        self.ops: list[Op] = []
        self.defined: dict[str, object] = dict.fromkeys(
            (*self.params, *sde.symbols, *sde.let, *sde.state, *sde.constant)
        )
        self.constants = (*sde.constant, UNIT)  # the values that the columns of an offset multiply
        self.scores: dict[tuple[Network, str], Score] = {}
        self.evaluations = 0
        self.asked = Asked()
        self.calls = sampler.nfe  # of the program at hand: a single one is not numbered
        self.suffix = ""  # of the names of the call behind the step
        self.moments: dict[str, sp.Expr] = {"0": t0, "1": t1}

    # -- host --------------------------------------------------------------------------------------------------------

    def define(self, name: str, expr: sp.Expr) -> sp.Expr:
        """A host scalar, defined once; numbers and single symbols stay what they are."""
        expr = sp.sympify(expr)
        if expr.is_number or expr.is_Symbol:
            return expr
        while self.defined.get(name, expr) != expr:
            name += "_"
        if name not in self.defined:
            self.defined[name] = expr
            self.host.append(Scalar(name, expr))
        return symbol(name)

    def add(self, statement: Host) -> None:
        """A host statement with tables of its own names, once; InputError where the user has given one of them to something."""
        own = {*self.params, *self.sde.symbols, *self.sde.let, *self.sde.state, *self.sde.constant}
        for name in own.intersection(statement.targets):
            what = "the emitted module uses this name itself"
            raise InputError(self.sde.name, f"the name {name}", what, f"rename it, to {name}_ for example")
        if statement.targets[0] not in self.defined:
            self.defined.update(dict.fromkeys(statement.targets, statement))
            self.host.append(statement)

    def time(self, fraction: sp.Expr) -> str:
        """The key of the time t0 - fraction * h."""
        if fraction in (0, 1):
            return str(fraction)
        key = str(fraction).replace("/", "_").replace("-", "m")
        self.moments[key] = self.define(f"t_{key}", t0 - fraction * self.h)
        return key

    @property
    def h(self) -> sp.Expr:
        return self.define("h", t0 - t1)

    def at(self, expr: sp.Expr, key: str) -> sp.Expr:
        """An expression in the words of let at the time of ``key``; the lets with t in them become host scalars."""
        time = self.moments[key]
        timed = [name for name, let in self.sde.let.items() if symbol(name) in expr.free_symbols and let.has(t)]
        values = {symbol(name): self.define(f"{name}_{key}", applied(name, time)) for name in timed}
        return expr.subs(values, simultaneous=True).subs(t, time)

    def integral(self, expr: sp.Expr, upper: str, lower: str) -> sp.Expr:
        """The integral of an expression over (lower, upper), two times of the step."""
        between = f"{lower}{upper}" if len(lower + upper) == 2 else f"{lower}_to_{upper}"
        parts = in_lets(self.sde, expr)
        if parts is None:
            return self._integrated(f"integral{len(self.host)}_{between}", self.sde.written_out(expr), upper, lower)
        total = sp.S.Zero
        for name, c in parts.items():
            if name:
                total += c * self._integrated(f"{name}_{between}", self.sde.let[name], upper, lower, name)
            else:
                total += c * (self.h if (upper, lower) == ("0", "1") else self.moments[upper] - self.moments[lower])
        return self.at(total, upper)

    def _integrated(self, name: str, expr: sp.Expr, upper: str, lower: str, let: str = "") -> sp.Expr:
        high, low = self.moments[upper], self.moments[lower]
        closed = calculus.increment(expr, t, s)
        if closed is not None:
            return self.define(name, closed.subs({t: high, s: low}, simultaneous=True))
        self.add(Integral(name, symbol(let) if let else expr, low, high))
        return symbol(name)

    def law(self, kind: str, key: str, *names: tuple[str, int, int]) -> tuple[sp.Matrix, ...]:
        """Tables of the law at a time of the step, each (stem of its name, rows, columns), in host symbols."""
        self.add(Law(tuple(f"{stem}_{key}" for stem, _, _ in names), kind, self.moments[key]))
        return tuple(entries(f"{stem}_{key}", rows, columns) for stem, rows, columns in names)

    # -- components --------------------------------------------------------------------------------------------------

    def update(self, output: str, terms: Iterable[Term], note: str = "") -> str:
        """``output`` = sum of coefficient * value; the value itself where the sum is nothing else."""
        kept = tuple((sp.sympify(c), value) for c, value in terms if c != 0)
        if len(kept) == 1 and kept[0][0] == ONE:
            return kept[0][1]
        self.ops.append(Update(output, kept, note))
        return output

    def normal(self, name: str) -> str:
        self.ops.append(Normal(name))
        return name

    def block(self, i: int) -> str:
        return self.sde.state[i]

    def rows(self, names: Iterable[str], *products: tuple[sp.Matrix, Iterable[str]], note: str = "") -> tuple[str, ...]:
        """Values named ``names``, one a row of the sum of matrix times values."""
        parts = [(matrix, tuple(values)) for matrix, values in products]
        return tuple(
            self.update(name, [term for M, values in parts for term in zip(M.row(i), values, strict=True)], note)
            for i, name in enumerate(names)
        )

    def offset(self, key: str) -> sp.Matrix:
        """o(t, START) at a time of the step, n x (m + 1), in host symbols; z - o is the state of the SDE without offset."""
        mask = reached(self.sde.F_let, self.sde.offset_terms_let)
        if mask.is_zero_matrix:
            return mask
        (table,) = self.law("offset", key, ("offset", *mask.shape))
        return sp.Matrix(*mask.shape, lambda i, k: table[i, k] if mask[i, k] else 0)

    def alpha_sigma(self, key: str) -> tuple[sp.Expr, sp.Expr]:
        """alpha and sigma of one block at a time of the step."""
        time = self.moments[key]
        alpha = ONE if self.sde.F.is_zero_matrix else self.define(f"alpha_{key}", applied("alpha", time))
        return alpha, self.define(f"sigma_{key}", applied("sigma", time))

    def score_at(self, network: Network, key: str) -> Score:
        """A parameterisation at a time of the step, in host symbols."""
        if (network, key) not in self.scores:
            self.scores[network, key] = self._score(network, key)
        return self.scores[network, key]

    def converted(self, key: str, state: Conversion, gain: Conversion) -> tuple[sp.Matrix, sp.Matrix]:
        """What a quantity of one block is made of, that of z and that of the network's outputs; nothing is left to cancel in
        float64.  Both are functions of (alpha, sigma, C_skip or C_out).

        A parameterisation of the user's own, where alpha and sigma are given, is cancelled as a function of t: at alpha = 0 it
        may have a value where its parts have none.
        """
        own = self.network if isinstance(self.network, ScoreParameterization) else None
        written = own is not None and self.sde.schedule is not None
        each = own if own is not None and written else self.score_at(self.network, key)
        level = self.sde.schedule if written and self.sde.schedule is not None else self.alpha_sigma(key)
        tidy = cancelled if written or own is None else sp.sympify
        made = (sp.Matrix(M.applyfunc(lambda e: tidy(of(*level, e)))) for M, of in ((each.skip, state), (each.out, gain)))  # noqa: B023
        pull, lift = (M.applyfunc(lambda e: self.at(e, key)) if written else M for M in made)
        return pull, lift

    def _score(self, network: Network, key: str) -> Score:
        n, time = self.sde.n, self.moments[key]
        if isinstance(network, ScoreParameterization):
            skip, out, inp = (getattr(network, k).applyfunc(lambda e: self.at(e, key)) for k in ("skip", "out", "inp"))
            noise = self.define(f"noise_{key}", self.at(network.noise, key))
            return Score(skip, out, inp, noise, out.inv() if out.shape == (n, n) else None)
        if n == 1:
            skip, out, inp, noise = scalar(network, *self.alpha_sigma(key), time, symbol("sigma_data"))
            if KINDS[network].bridge:
                noise = self.define(f"{KINDS[network].noise_name}_{key}", noise)
            return Score(sp.Matrix([[skip]]), sp.Matrix([[out]]), sp.Matrix([[inp]]), noise, sp.Matrix([[1 / out]]))
        kind = KINDS[network]
        if not kind.law:
            return Score(sp.zeros(n), sp.eye(n), sp.eye(n), time, sp.eye(n))
        if kind.single:
            return self._bridge(kind, key)
        if kind.factor == "R" and key not in ("0", "1"):
            raise Unsupported("an eps-R network is anchored on the grid, not at times inside a step", "use @0 or @1")
        own = "" if network == self.network else "frame_"
        out, inverse = self.law(kind.law, key, (f"{own}out", n, n), (f"{own}inverse", n, n))
        return Score(sp.zeros(n), out, sp.eye(n), time, inverse)

    def _bridge(self, kind: NetworkKind, key: str) -> Score:
        n = self.sde.n
        assert kind.law is not None
        own = "" if kind.name == self.network or not kind.bridge else "frame_"
        noise = f"{own}sigma_{key}"
        self.add(Law((f"{own}skip_{key}", f"{own}out_{key}", f"{own}inp_{key}", noise), kind.law, self.moments[key]))
        skip, out, inp = (
            entries(f"{own}{k}_{key}", *shape) for k, shape in (("skip", (n, n)), ("out", (n, 1)), ("inp", (1, n)))
        )
        if not kind.bridge:
            return Score(skip, out, sp.eye(n), self.moments[key], None)
        return Score(skip, out, inp, symbol(noise), None)

    def evaluate(self, state: State, key: str) -> None:
        """One network call at the state; keeps the raw output and the score made of it."""
        score, offset, sde = self.score_at(self.network, key), self.offset(key), self.sde
        self.evaluations += 1
        number = self.suffix or ("" if self.calls == 1 else str(self.evaluations))
        values = [state[j] for j in range(sde.n)]
        if takes_state(self.network):
            inputs: tuple[str, ...] = (*values, *sde.constant)
        else:
            count = score.inp.shape[0]
            labels = [f"y{number}"] if count == 1 else [f"y{number}_{k}" for k in range(count)]
            inputs = self.rows(labels, (score.inp, values), (-score.inp * offset, self.constants))
        letter, columns = f"{self.kind.letter}{number}", score.out.shape[1]
        output = (letter,) if columns == 1 else tuple(f"{letter}_{self.block(i)}" for i in range(columns))
        self.ops.append(Evaluate(output, inputs, score.noise))
        shift = -score.skip * offset
        names = [f"s{number}_{b}" for b in sde.state]
        made = self.rows(names, (score.skip, values), (score.out, output), (shift, self.constants))
        self.asked = Asked(output, made, key, number, output)

