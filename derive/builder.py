"""The growing program: names, host statements and component operations, as the schemes of lowering add to them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import sympy as sp

from stepsmith.errors import Unsupported

from .calculus import t, t0, t1
from .host import Library
from .leaves import depends_on_time, lets_in
from .lift import columns as drift_columns
from .offset import reached
from .program import ONE, UNIT, Call, Evaluate, Host, Op, Scalar, Update, entries, entry
from .sampler import Sampler
from .score import BRIDGES, EDM_SIGMA_DATA, Score, ScoreParameterization, scalar
from .sde import LinearSDE
from .split import names_of

Network = str | ScoreParameterization
State = dict[int, str]  # block -> the value that holds it


def symbol(name: str) -> sp.Symbol:
    return sp.Symbol(name, real=True)


@dataclass(frozen=True)
class Asked:
    """What the last network call was asked about: the state, and the parameterisation at its time."""

    state: State
    score: Score | None


class Lowering:
    """The growing program: host statements, component operations, and the names already given."""

    def __init__(
        self, sde: LinearSDE, sampler: Sampler, network: Network, frame: Network, params: Mapping[str, float]
    ) -> None:
        self.sde, self.sampler, self.network = sde, sampler, network
        self.frame = frame
        self.names = names_of(sde, sampler)
        self.params = {**params, **sampler.params}
        if "edm" in (network, frame):
            self.params["sigma_data"] = EDM_SIGMA_DATA
        self.library = Library(sde, (*self.params, *filter(None, [sde.field])))
        self.host: list[Host] = []
        self.ops: list[Op] = []
        own = (*self.params, *sde.symbols, *sde.let, *sde.state, *sde.constant)
        self.known: dict[str, object] = dict.fromkeys(
            (*self.params, *sde.symbols, *sde.state, *sde.constant, *(f"{name}_" for name in own))
        )
        self.carried = (*sde.constant, UNIT)  # the values that the columns of an offset multiply
        self.scores: dict[tuple[Network, str], Score] = {}
        self.evaluations = 0
        self.output: tuple[str, ...] = ()
        self.score: tuple[str, ...] = ()
        self.asked = Asked({}, None)
        self.gains: dict[str, tuple[str, str]] = {}  # value -> (the value before, what was added), where a later row may ask
        self.clock = "0"
        self.ending = False
        self.calls = sampler.nfe
        self.naming = True  # coefficients are host scalars from the start, not only once all is fused
        self.moments: dict[str, sp.Expr] = {}  # times inside the step that a formula names
        self.named: dict[object, int] = {}  # what a formula calls without naming it

    # -- host --------------------------------------------------------------------------------------------------------

    def define(self, name: str, expr: sp.Expr) -> sp.Expr:
        """A host scalar, defined once; numbers and single symbols stay what they are."""
        expr = sp.sympify(expr)
        if expr.is_number or expr.is_Symbol:
            return expr
        while self.known.get(name, expr) != expr:
            name += "_"
        if name not in self.known:
            self.known[name] = expr
            self.host.append(Scalar(name, expr))
        return symbol(name)

    def call(self, targets: tuple[str, ...], function: str, *times: sp.Expr) -> None:
        self.library.refuse(*targets)
        if targets[0] not in self.known:
            self.known.update(dict.fromkeys(targets, function))
            self.host.append(Call(targets, function, times))

    def time(self, fraction: sp.Expr) -> tuple[str, sp.Expr]:
        """The suffix and the symbol of the time t0 - fraction * h."""
        if fraction in (0, 1):
            return str(fraction), (t0, t1)[int(fraction)]
        key = str(fraction).replace("/", "_").replace("-", "m")
        return key, self.define(f"t_{key}", t0 - fraction * self.h)

    def moment(self, key: str) -> sp.Expr:
        return {"0": t0, "1": t1, **self.moments}.get(key, symbol(f"t_{key}"))

    @property
    def h(self) -> sp.Expr:
        return self.define("h", t0 - t1)

    def at(self, expr: sp.Expr, key: str) -> sp.Expr:
        """An expression in the words of let at the time of ``key``; the lets it needs become host scalars."""
        values: dict[sp.Expr, sp.Expr] = {}
        for name in lets_in(self.sde, (expr,)):
            value = self.sde.let[name]
            timed = depends_on_time(self.sde, name)
            spelled = f"{name}_{key}" if timed else name
            values[symbol(name)] = self.define(spelled, value.subs(t, self.moment(key)))
        return expr.subs(values, simultaneous=True).subs(t, self.moment(key))

    def increment(self, expr: sp.Expr, upper: str, lower: str) -> sp.Expr:
        """The integral of an expression over (lower, upper), two times of the step."""
        value, integrals = self.library.integrated(expr)
        high, low = self.moment(upper), self.moment(lower)
        names = {}
        for use in integrals:
            let = use.removeprefix("integral_")
            spelled = f"{let}_{lower}{upper}" if len(lower + upper) == 2 else f"{let}_from_{lower}_to_{upper}"
            self.call((spelled,), use, high, low)
            names[symbol(f"{let}_st")] = symbol(spelled)
        value = value.subs(names).subs({t: high, symbol("s"): low}, simultaneous=True)
        return self.at(value, upper)

    # -- components --------------------------------------------------------------------------------------------------

    def update(self, output: str, terms: list[tuple[str, sp.Expr, str]]) -> str:
        """``output`` = sum of coefficient * value; each term is (name of the coefficient, expression, value)."""
        kept = tuple(
            (self.define(name, expr) if self.naming else expr, value) for name, expr, value in terms if expr != 0
        )
        if len(kept) == 1 and kept[0][0] == ONE:
            return kept[0][1]
        self.ops.append(Update(output, kept))
        return output

    def block(self, i: int) -> str:
        return self.sde.state[i]

    def offset(self, key: str) -> sp.Matrix:
        """o(t, start) at a time of the step, n x (m + 1), in host symbols; z - o is the state of the SDE without offset."""
        sde = self.sde
        mask = reached(sde.F_let, sde.offset_terms_let)
        if mask.is_zero_matrix:
            return mask
        self.call((f"offset_{key}",), self.library.offset(), self.moment(key))
        return sp.Matrix(*mask.shape, lambda i, k: entry(f"offset_{key}", i, k) if mask[i, k] else 0)

    def reverse_drift(self, key: str) -> sp.Matrix | None:
        """[R | e] of lift.py at a time of the step, in host symbols; None where there is no lift."""
        name = self.library.reverse_drift()
        if name is None:
            return None
        self.call((f"reverse_{key}",), name, self.moment(key))
        c = drift_columns(self.sde)  # a constant that the offset does not have multiplies nothing
        own = range(c.shape[1] - len(self.carried), c.shape[1]) if not self.sde.offset_let.is_zero_matrix else ()
        return sp.Matrix(*c.shape, lambda i, k: 0 if k in own and not any(c.col(k)) else entry(f"reverse_{key}", i, k))

    def carry(self, label: str, row: Iterable[sp.Expr]) -> list[tuple[str, sp.Expr, str]]:
        """The terms of an update that a row of an offset's table adds."""
        return [(f"{label}_{value}", c, value) for c, value in zip(row, self.carried, strict=True)]

    def score_at(self, network: Network, key: str) -> Score:
        """A parameterisation at a time of the step, in host symbols."""
        if (network, key) not in self.scores:
            self.scores[network, key] = self._score(network, key)
        return self.scores[network, key]

    def _score(self, network: Network, key: str) -> Score:
        n, time = self.sde.n, self.moment(key)
        own = "" if network == self.network else "frame_"
        if isinstance(network, ScoreParameterization):
            skip, out, inp = (getattr(network, k).applyfunc(lambda e: self.at(e, key)) for k in ("skip", "out", "inp"))
            inverse = out.inv() if out.shape == (n, n) else None
            return Score(skip, out, inp, self.at(network.noise, key), inverse)
        if n == 1:
            alpha, sigma = self.alpha_sigma(key)
            skip, out, inp, noise = scalar(network, alpha, sigma, time, symbol("sigma_data"))
            noise = (
                self.define(f"sigma_{'hat' if network == 'denoiser' else 'told'}_{key}", noise)
                if network in BRIDGES
                else noise
            )
            return Score(sp.Matrix([[skip]]), sp.Matrix([[out]]), sp.Matrix([[inp]]), noise, sp.Matrix([[1 / out]]))
        if network == "score":
            return Score(sp.zeros(n), sp.eye(n), sp.eye(n), time, sp.eye(n))
        if network in ("denoiser", "edm", "x0"):
            return self._bridge(str(network), key)
        if network == "eps-R":
            if key not in ("0", "1"):
                raise Unsupported(
                    "an eps-R network is anchored on the grid, not at times inside a step", "use @0 or @1"
                )
            self.call(
                tuple(f"{own}{name}" for name in ("out_0", "inverse_0", "out_1", "inverse_1")),
                self.library.gddim(),
                t0,
                t1,
            )
        else:
            kind = {"eps-L": "lower", "eps-U": "upper"}[network]
            self.call((f"{own}out_{key}", f"{own}inverse_{key}"), self.library.cholesky(kind), time)
        out, inverse = entries(f"{own}out_{key}", n, n), entries(f"{own}inverse_{key}", n, n)
        return Score(sp.zeros(n), out, sp.eye(n), time, inverse)

    def _bridge(self, network: str, key: str) -> Score:
        n, time = self.sde.n, self.moment(key)
        own = "" if network == self.network else "frame_"
        tables = tuple(f"{own}{name}_{key}" for name in ("skip", "out", "inp", "sigma"))
        self.call(tables, self.library.edm() if network == "edm" else self.library.denoiser(), time)
        skip, out, inp, sigma = (
            entries(tables[0], n, n),
            entries(tables[1], n, 1),
            entries(tables[2], 1, n),
            symbol(tables[3]),
        )
        if network == "x0":
            return Score(skip, out, sp.eye(n), time, None)
        return Score(skip, out, inp, sigma, None)

    def alpha_sigma(self, key: str) -> tuple[sp.Expr, sp.Expr]:
        """alpha and sigma of one block at a time of the step."""
        time = self.moment(key)
        self.call((f"sigma_{key}",), self.library.sigma(), time)
        if self.sde.F.is_zero_matrix:
            return ONE, symbol(f"sigma_{key}")
        self.call((f"alpha_{key}",), self.library.alpha(), time)
        return symbol(f"alpha_{key}"), symbol(f"sigma_{key}")

    def evaluate(self, state: State, fraction: sp.Expr) -> None:
        """One network call at the state, at the time t0 - fraction * h."""
        self.evaluate_at(state, self.time(fraction)[0])

    def evaluate_at(self, state: State, key: str) -> None:
        """One network call at the state; keeps the raw output and the score made of it."""
        score, offset = self.score_at(self.network, key), self.offset(key)
        whole = (
            isinstance(self.network, str) and self.network not in BRIDGES
        )  # it is given the state and what is constant
        self.evaluations += 1
        number = "_end" if self.ending else "" if self.calls == 1 else str(self.evaluations)
        inputs = []
        for i in range(score.inp.shape[0]):
            row = score.inp.row(i)
            moved = [] if whole else list(-row * offset)
            itself = row == sp.eye(self.sde.n).row(i) and not any(moved) and not (score.inp.shape[0] == 1 < self.sde.n)
            label = "" if itself else f"y{number}"
            terms = [(f"{label}_{self.block(j)}", row[j], state[j]) for j in range(self.sde.n)]
            terms += self.carry(label, moved) if moved else []
            inputs.append(self.update(label, terms))
        inputs += self.sde.constant if whole else ()
        columns = score.out.shape[1]
        letter = "d" if self.network in (*BRIDGES, "x0") else "e"
        suffixes = [""] if columns == 1 else [f"_{self.block(i)}" for i in range(columns)]
        self.output = tuple(f"{letter}{number}{suffix}" for suffix in suffixes)
        self.ops.append(Evaluate(self.output, tuple(inputs), score.noise))
        self.clock = key
        self.asked = Asked(dict(state), score)
        found = []
        for i in range(self.sde.n):
            block = f"{number}_{self.block(i)}"
            terms = [(f"skip{block}{self.block(j)}", score.skip[i, j], state[j]) for j in range(self.sde.n)]
            terms += [(f"out{block}{k}", score.out[i, k], value) for k, value in enumerate(self.output)]
            found.append(self.update(f"s{block}", terms + self.carry(f"skip{block}", -score.skip.row(i) * offset)))
        self.score = tuple(found)
