"""Lowering: the one place where (SDE, sampler, network, frame) becomes a StepProgram.

A conjugate step (arXiv 2310.07894, section 3; derived in psld-and-splitting.md 3.1), z from t0 to t1 = t0 - h:

    z' = P (I - h B(t0)) z + Phi n,   dX/dt = (F - G G^T C_skip / 2 - B) X has the propagator P = X(t1) X(t0)^-1,
    Phi = int_{t1}^{t0} P(t1, s) G G^T(s) C_out(s) ds / 2,   n the network's output (or the frame's) at t0.

A splitting step applies its parts in order.  An Euler part adds share * h * (linear z + score s) with F, G frozen at its
network time; an exact part integrates its linear flow and its noise over its own sub-interval; a conjugate part is a
conjugate step of its rows, the other rows and n frozen (section 5).  Every update is linear, so the passes can melt all
that stands between two network calls into one affine map.
"""

from __future__ import annotations

from collections.abc import Mapping

import sympy as sp

from stepsmith.errors import InputError, Unsupported

from . import passes, spec
from .calculus import is_zero, t, t0, t1
from .composition import Token
from .host import Library, depends_on_time, lets_in
from .kernel import commutes
from .program import (
    ONE,
    Call,
    Evaluate,
    Host,
    Normal,
    Op,
    Scalar,
    StepProgram,
    Update,
    entries,
    entry,
    verify,
)
from .sampler import Sampler
from .score import BRIDGES, EDM_SIGMA_DATA, NETWORKS, Score, ScoreParameterization, checked, gaussian_variance, scalar
from .sde import LinearSDE
from .split import Part, Split, bind, names_of

Network = str | ScoreParameterization
State = dict[int, str]  # block -> the value that holds it


def symbol(name: str) -> sp.Symbol:
    return sp.Symbol(name, real=True)


class Lowering:
    """The growing program: host statements, component operations, and the names already given."""

    def __init__(self, sde: LinearSDE, sampler: Sampler, network: Network, params: Mapping[str, float]) -> None:
        self.sde, self.sampler, self.network = sde, sampler, network
        self.names = names_of(sde, sampler)
        self.params = {**params, **sampler.params}
        if network == "edm":
            self.params["sigma_data"] = EDM_SIGMA_DATA
        self.library = Library(sde, self.params)
        self.host: list[Host] = []
        self.ops: list[Op] = []
        self.known: dict[str, object] = {}
        self.scores: dict[tuple[Network, str], Score] = {}
        self.evaluations = 0
        self.output: tuple[str, ...] = ()
        self.score: tuple[str, ...] = ()
        self.clock = "0"
        self.ending = False

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
        return {"0": t0, "1": t1}.get(key, symbol(f"t_{key}"))

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
        kept = tuple((self.define(name, expr), value) for name, expr, value in terms if expr != 0)
        if len(kept) == 1 and kept[0][0] == ONE:
            return kept[0][1]
        self.ops.append(Update(output, kept))
        return output

    def block(self, i: int) -> str:
        return self.sde.state[i]

    def score_at(self, network: Network, key: str) -> Score:
        """A parameterisation at a time of the step, in host symbols."""
        if (network, key) not in self.scores:
            self.scores[network, key] = self._score(network, key)
        return self.scores[network, key]

    def _score(self, network: Network, key: str) -> Score:
        n, time = self.sde.n, self.moment(key)
        if isinstance(network, ScoreParameterization):
            skip, out, inp = (getattr(network, k).applyfunc(lambda e: self.at(e, key)) for k in ("skip", "out", "inp"))
            inverse = out.inv() if out.shape == (n, n) else None
            return Score(skip, out, inp, self.at(network.noise, key), inverse)
        if n == 1:
            alpha, sigma = self.alpha_sigma(key)
            skip, out, inp, noise = scalar(network, alpha, sigma, time, symbol("sigma_data"))
            noise = self.define(f"sigma_{'hat' if network == 'denoiser' else 'told'}_{key}", noise) if network in BRIDGES else noise
            return Score(sp.Matrix([[skip]]), sp.Matrix([[out]]), sp.Matrix([[inp]]), noise, sp.Matrix([[1 / out]]))
        if network == "score":
            return Score(sp.zeros(n), sp.eye(n), sp.eye(n), time, sp.eye(n))
        if network in ("denoiser", "edm", "x0"):
            return self._bridge(str(network), key)
        if network == "eps-R":
            if key not in ("0", "1"):
                raise Unsupported("an eps-R network is anchored on the grid, not at times inside a step", "use @0 or @1")
            self.call(("out_0", "inverse_0", "out_1", "inverse_1"), self.library.gddim(), t0, t1)
        else:
            kind = {"eps-L": "lower", "eps-U": "upper"}[network]
            self.call((f"out_{key}", f"inverse_{key}"), self.library.cholesky(kind), time)
        return Score(sp.zeros(n), entries(f"out_{key}", n, n), sp.eye(n), time, entries(f"inverse_{key}", n, n))

    def _bridge(self, network: str, key: str) -> Score:
        n, time = self.sde.n, self.moment(key)
        tables = (f"skip_{key}", f"out_{key}", f"inp_{key}", f"sigma_{key}")
        self.call(tables, self.library.edm() if network == "edm" else self.library.denoiser(), time)
        skip, out, inp, sigma = entries(tables[0], n, n), entries(tables[1], n, 1), entries(tables[2], 1, n), symbol(tables[3])
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
        """One network call at the state; keeps the raw output and the score made of it."""
        key, _ = self.time(fraction)
        score = self.score_at(self.network, key)
        self.evaluations += 1
        number = "_end" if self.ending else "" if self.sampler.nfe == 1 else str(self.evaluations)
        inputs = []
        for i in range(score.inp.shape[0]):
            row = score.inp.row(i)
            label = f"y{number}" if score.inp.shape[0] == 1 and self.sde.n > 1 or row != sp.eye(self.sde.n).row(i) else ""
            terms = [(f"{label}_{self.block(j)}", row[j], state[j]) for j in range(self.sde.n)]
            inputs.append(self.update(label, terms))
        columns = score.out.shape[1]
        letter = "d" if self.network in (*BRIDGES, "x0") else "e"
        suffixes = [""] if columns == 1 else [f"_{self.block(i)}" for i in range(columns)]
        self.output = tuple(f"{letter}{number}{suffix}" for suffix in suffixes)
        self.ops.append(Evaluate(self.output, tuple(inputs), score.noise))
        self.clock = key
        self.score = tuple(
            self.update(
                f"s{number}_{self.block(i)}",
                [(f"skip{number}_{self.block(i)}{self.block(j)}", score.skip[i, j], state[j]) for j in range(self.sde.n)]
                + [(f"out{number}_{self.block(i)}{k}", score.out[i, k], value) for k, value in enumerate(self.output)],
            )
            for i in range(self.sde.n)
        )

    # -- splitting ---------------------------------------------------------------------------------------------------

    def split_step(self, split: Split) -> State:
        state: State = dict(enumerate(self.sde.state))
        done = dict.fromkeys(split.parts, sp.Integer(0))
        for position, token in enumerate(self.sampler.composition, start=1):
            part = split.parts[token.letter]
            upper, lower = self.time(done[token.letter])[0], self.time(done[token.letter] + token.share)[0]
            done[token.letter] += token.share
            if token.fresh:
                ahead = self.apply(part, token, position, f"{position}p", state, upper, lower) if token.predict and self.output else state
                self.evaluate(ahead, token.at)
            state = self.apply(part, token, position, str(position), state, upper, lower)
        return state

    def apply(self, part: Part, token: Token, position: int, mark: str, state: State, upper: str, lower: str) -> State:
        name = f"{part.letter}{mark}"
        if part.solve == "exact":
            return self._exact(part, name, state, upper, lower)
        if part.solve == "conjugate":
            return self._conjugate_part(part, name, state, upper, lower)
        return self._euler(part, name, state, token, upper)

    def _euler(self, part: Part, name: str, state: State, token: Token, upper: str) -> State:
        """z + share h (linear z + score s) + sqrt(share h) G xi, F and G at the network time."""
        uses_score = not part.score.is_zero_matrix
        key = self.clock if uses_score else upper
        step = token.share * self.h
        noise = self._euler_noise(part, name, key, step)
        new: State = {}
        for i in range(self.sde.n):
            terms = [(f"{name}_{self.block(i)}{self.block(j)}", (ONE if i == j else 0) + step * self.at(part.linear[i, j], key), state[j]) for j in range(self.sde.n)]
            if uses_score:
                terms += [(f"{name}_{self.block(i)}s{self.block(j)}", step * self.at(part.score[i, j], key), s) for j, s in enumerate(self.score)]
            terms += noise.get(i, [])
            new[i] = self.update(f"{self.block(i)}_{name}", terms) if i in part.rows else state[i]
        return new

    def _euler_noise(self, part: Part, name: str, key: str, step: sp.Expr) -> dict[int, list[tuple[str, sp.Expr, str]]]:
        """sqrt(step) G xi on the rows of the part's noise, one draw a column of G that reaches them."""
        if not part.noise_rows:
            return {}
        if any(clock != 1 for clock in part.noise_clock):
            raise InputError(self.sampler.where, f"sampler.parts.{part.letter}.noise_clock", "an Euler part has no clock of its own", "solve the part exactly")
        G = self.sde.G_let
        columns = [k for k in range(G.shape[1]) if any(G[i, k] != 0 for i in part.noise_rows)]
        draws = {k: f"xi_{name}_{k}" for k in columns}
        self.ops += [Normal(draw) for draw in draws.values()]
        root = self.define(f"sqrt_h_{name}", sp.sqrt(step))
        return {i: [(f"{name}_{self.block(i)}w{k}", root * self.at(G[i, k], key), draws[k]) for k in columns] for i in part.noise_rows}

    def _exact(self, part: Part, name: str, state: State, upper: str, lower: str) -> State:
        """The exact flow of dz = linear z dtau + noise^(1/2) dw over the part's own sub-interval."""
        flow = self._exact_rows(part, name, upper, lower) or self._exact_matrix(part, name, upper, lower)
        decay, factor = flow
        rows = [i for i in range(self.sde.n) if any(e != 0 for e in factor.row(i))]
        draws = {j: f"xi_{name}_{self.block(j)}" for j in range(self.sde.n) if any(factor[i, j] != 0 for i in rows)}
        self.ops += [Normal(draw) for draw in draws.values()]
        new: State = {}
        for i in range(self.sde.n):
            terms = [(f"{name}_{self.block(i)}{self.block(j)}", decay[i, j], state[j]) for j in range(self.sde.n)]
            terms += [(f"{name}_{self.block(i)}w{self.block(j)}", factor[i, j], draw) for j, draw in draws.items()]
            new[i] = self.update(f"{self.block(i)}_{name}", terms)
        return new

    def _exact_rows(self, part: Part, name: str, upper: str, lower: str) -> tuple[sp.Matrix, sp.Matrix] | None:
        """Closed form where every row is by itself: decay exp(k), k = int linear, noise sqrt(v (1 - exp(2k)))."""
        from sympy.codegen.cfunctions import expm1

        sde, n = self.sde, self.sde.n
        noise = sp.Matrix(n, n, lambda i, j: sde.GG_let[i, j] if i in part.noise_rows and j in part.noise_rows else 0)
        if not (part.linear.is_diagonal() and noise.is_diagonal()):
            return None
        decay, factor = sp.eye(n), sp.zeros(n)
        for i in range(n):
            rate, power, clock = part.linear[i, i], noise[i, i], self.at(part.noise_clock[i], upper)
            law = sp.cancel(-power / (2 * rate)) if not is_zero(sde.written_out(rate)) else None
            if law is not None and t in sde.written_out(law).free_symbols:
                return None
            exponent = self.define(f"{name}_{self.block(i)}_rate", self.increment(rate, upper, lower))
            decay[i, i] = sp.exp(exponent)
            if law is None:
                factor[i, i] = sp.sqrt(clock * self.increment(power, upper, lower))
            else:
                factor[i, i] = sp.sqrt(self.at(law, upper)) * sp.sqrt(-expm1(2 * clock * exponent))
        return decay, factor

    def _exact_matrix(self, part: Part, name: str, upper: str, lower: str) -> tuple[sp.Matrix, sp.Matrix]:
        """(decay, lower factor of the noise covariance) by quadrature of the noise columns."""
        if any(clock != 1 for clock in part.noise_clock):
            raise InputError(self.sampler.where, f"sampler.parts.{part.letter}.noise_clock", "only a part of independent rows has a clock a row", "leave it out")
        lib, n = self.library, self.sde.n
        letter = part.letter.lower()
        flow = lib.transition(f"flow_{letter}", -part.linear, f"the exact linear flow of part {part.letter} from s to t")
        noise = sp.Matrix(n, self.sde.G_let.shape[1], lambda i, j: self.sde.G_let[i, j] if i in part.noise_rows else 0)
        rows = lib.matrix(f"noise_{letter}", noise, f"the noise of part {part.letter}")
        lib.add(f"exact_{letter}", "exact", (), (lib.quadrature(), flow, rows, lib.static("lower")), flow=flow, noise=rows, letter=part.letter)
        self.call((f"decay_{name}", f"factor_{name}"), f"exact_{letter}", self.moment(lower), self.moment(upper))
        factor = entries(f"factor_{name}", n, n)
        return entries(f"decay_{name}", n, n), sp.Matrix(n, n, lambda i, j: factor[i, j] if j <= i and i in part.noise_rows and j in part.noise_rows else 0)

    def _conjugate_part(self, part: Part, name: str, state: State, upper: str, lower: str) -> State:
        """z_R' = P (I - a h B) z_R + C z_other + Phi n, one conjugate Euler step of the rows R of the part."""
        function = self._conjugate_function(f"conjugate_{part.letter.lower()}", part.rows, part.linear, part.score, part.B)
        rows, others = part.rows, [j for j in range(self.sde.n) if j not in part.rows]
        tables = tuple(f"{stem}_{name}" for stem in ("P", "C", "Phi"))
        self.call(tables, function, self.moment(lower), self.moment(upper))
        width = self.moment(upper) - self.moment(lower)
        kept = entries(tables[0], len(rows), len(rows)) * (sp.eye(len(rows)) - self.define(f"h_{name}", width) * part.B.extract(rows, rows).applyfunc(lambda e: self.at(e, upper)))
        new = dict(state)
        for a, i in enumerate(rows):
            terms = [(f"{name}_{self.block(i)}{self.block(j)}", kept[a, b], state[j]) for b, j in enumerate(rows)]
            terms += [(f"{name}_{self.block(i)}{self.block(j)}", entry(tables[1], a, b), state[j]) for b, j in enumerate(others)]
            terms += [(f"{name}_{self.block(i)}n{k}", entry(tables[2], a, k), value) for k, value in enumerate(self.output)]
            new[i] = self.update(f"{self.block(i)}_{name}", terms)
        return new

    # -- conjugate ---------------------------------------------------------------------------------------------------

    def conjugate_step(self, B: sp.Matrix, frame: Network) -> State:
        """z' = P (I - h B) z + Phi n in the frame; B in the words of let."""
        state: State = dict(enumerate(self.sde.state))
        self.evaluate(state, sp.Integer(0))
        n = self.sde.n
        P, Phi = self._conjugate_scalar(B, frame) if n == 1 and frame in NETWORKS else self._conjugate_matrix(B, frame)
        shift = sp.eye(n) - (self.h * B.applyfunc(lambda e: self.at(e, "0")) if not B.is_zero_matrix else sp.zeros(n))
        linear = P * shift
        values = self.output
        if frame != self.network:
            Phi, values, linear = self._reframed(Phi, linear, frame)
        new: State = {}
        for i in range(n):
            terms = [(f"{self.block(i)}_{self.block(j)}", linear[i, j], state[j]) for j in range(n)]
            terms += [(f"{self.block(i)}_{value}", Phi[i, k], value) for k, value in enumerate(values)]
            new[i] = self.update(f"{self.block(i)}_new", terms)
        return new

    def _reframed(self, Phi: sp.Matrix, linear: sp.Matrix, frame: Network) -> tuple[sp.Matrix, tuple[str, ...], sp.Matrix]:
        """Phi n_frame with C_out,f n_frame = s - C_skip,f z, written on the score and the state."""
        if frame == "eps-R" and self.sde.n > 1:
            return Phi, self.score, linear  # Phi of this frame is built to act on the score
        target = self.score_at(frame, "0")
        if target.inverse is None:
            raise Unsupported(f"a {self.network} network gives no {frame} output of {self.sde.n} blocks", "use the frame eps-R, which is the same step")
        Phi = Phi * target.inverse
        return Phi, self.score, linear - Phi * target.skip

    def _conjugate_scalar(self, B: sp.Matrix, frame: Network) -> tuple[sp.Matrix, sp.Matrix]:
        """One block: P in closed form, Phi too where B = 0 and the frame is epsilon or x0, else by quadrature."""
        b = B[0, 0]
        (a0, s0), (a1, s1) = self.alpha_sigma("0"), self.alpha_sigma("1")
        d = symbol("sigma_data")
        S0, S1 = (gaussian_variance(str(frame), a, s, d) for a, s in ((a0, s0), (a1, s1)))
        if b == 0 and frame in ("x0", "denoiser"):
            ratio = self.define("ratio", s1 / s0)
            return sp.Matrix([[ratio]]), sp.Matrix([[a1 - ratio * a0]])
        if b == 0 and str(frame).startswith("eps"):
            ratio = self.define("ratio", a1 / a0)
            return sp.Matrix([[ratio]]), sp.Matrix([[s1 - ratio * s0]])
        growth = a1 / a0 if S0 is None else sp.sqrt(S1 / S0)
        exponent = self.increment(b, "0", "1") if b != 0 else sp.S.Zero
        P = self.define("P", growth * sp.exp(exponent))
        alpha, sigma, a_1, s_1 = (symbol(name) for name in ("alpha_s", "sigma_s", "alpha_1", "sigma_1"))
        flat = self.sde.F.is_zero_matrix
        alpha, a_1 = (ONE, ONE) if flat else (alpha, a_1)
        S, S_1 = (gaussian_variance(str(frame), a, s, d) for a, s in ((alpha, sigma), (a_1, s_1)))
        weight = a_1 / alpha if S is None else sp.sqrt(S_1 / S)
        _, out, _, _ = scalar(str(frame), alpha, sigma, t, d)
        lib = self.library
        integrals: tuple[str, ...] = ()
        if b != 0:
            value, integrals = lib.integrated(b)
            weight = weight * sp.exp(value.subs({symbol("s"): symbol("t1")}).subs(t, symbol("s")))
        source = lib.static("log_nodes", lib.quadrature())
        uses = (source, lib.sigma(), *(() if flat else (lib.alpha(),)), *integrals)
        half = self.sde.GG_let[0, 0] / 2
        lib.add(
            "phi", "phi_scalar", (b, half, d if frame == "edm" else ONE), uses, weight=weight, out=out,
            power=half.subs(t, symbol("s")), start=self.sde.time[0], flat=flat,
            lets=tuple((name, expr.subs(t, symbol("s"))) for name, expr in lib.lets((half, b))),
            integrals=tuple((use.removeprefix("integral_"), use) for use in integrals),
        )  # fmt: skip
        self.call(("Phi",), "phi", t1, t0)
        return sp.Matrix([[P]]), sp.Matrix([[symbol("Phi")]])

    def _conjugate_matrix(self, B: sp.Matrix, frame: Network) -> tuple[sp.Matrix, sp.Matrix]:
        """n blocks: the closed step of the frames that know R, else P and Phi by quadrature."""
        n, lib = self.sde.n, self.library
        if frame in ("denoiser", "x0", "eps-R") and B.is_zero_matrix:
            if frame == "eps-R" and self.network == "eps-R":
                return self._own_gddim()
            return self._transported(frame)
        if frame == "eps-R":
            raise Unsupported("the frame eps-R is derived for B = 0", "use B = 0, or the frame eps-L")
        function = self._conjugate_function("conjugate", tuple(range(n)), -self.sde.F_let, self.sde.GG_let / 2, B)
        outputs = self.score_at(frame, "0").out.shape[1]
        self.call(("P", "_", "Phi"), function, t1, t0)
        return entries("P", n, n), entries("Phi", n, outputs)

    def _transported(self, frame: Network) -> tuple[sp.Matrix, sp.Matrix]:
        """z' = U z + (Psi(t1, 0) - U Psi(t0, 0)) e D, or Psi z + (Psi - U) Sigma s on the score (methods.md F1)."""
        n = self.sde.n
        self.call(("Psi", "U", "mean", "spread"), self.library.transport(), t1, t0)
        if frame == "eps-R":
            gap = entries("Psi", n, n) - entries("U", n, n)
            return entries("Psi", n, n), gap * entries("spread", n, n)
        return entries("U", n, n), entries("mean", n, 1)

    def _own_gddim(self) -> tuple[sp.Matrix, sp.Matrix]:
        """z' = Psi z + (R_1 - Psi R_0) n for a network trained on eps-R: R = -(inverse)^T."""
        n = self.sde.n
        self.score_at("eps-R", "0")
        R0, R1 = (-entries(f"inverse_{key}", n, n).T for key in "01")
        self.call(("Psi",), self.library.psi(), t1, t0)
        psi = entries("Psi", n, n)
        return psi, R1 - psi * R0

    def _conjugate_function(self, name: str, rows: tuple[int, ...], linear: sp.Matrix, score: sp.Matrix, B: sp.Matrix) -> str:
        """The host function (t1, t0) -> (P, C, Phi) of a conjugate step of some rows."""
        lib, sde, n = self.library, self.sde, self.sde.n
        frame = self.network if self.sampler.family != "conjugate" else self.frame
        others = tuple(j for j in range(n) if j not in rows)
        skip, unpack, uses = self._frame_function(frame)
        flat = skip is None
        generator = sp.Matrix(-linear.extract(rows, rows) - B.extract(rows, rows))
        closed = flat and commutes(sde.written_out(generator))
        common = dict(start=sde.time[0], rows=rows, others=others, n=n, unpack=unpack, skip=skip, frame=uses[0] if uses else None)
        half = lib.matrix(f"{name}_score", score.extract(rows, range(n)), "the rows that multiply the score")
        rest = lib.matrix(f"{name}_linear", linear.extract(rows, range(n)), "the rows of the linear part, reverse time")
        nodes = lib.static("log_nodes", lib.quadrature())
        if closed:
            flow = lib.transition(f"{name}_flow", generator, "the propagator P(t, s)")
            return lib.add(name, "conjugate_closed", (), (nodes, flow, half, *((rest,) if others else ()), *uses), flow=flow, score=half, linear=rest, **common)
        rate = lib.matrix(f"{name}_rate", B.extract(rows, rows), "B on the rows")
        ordered = lib.static("ordered", lib.quadrature())
        reach = lib.static("log_reach", nodes, ordered)
        return lib.add(name, "conjugate_ordered", (), (nodes, ordered, reach, half, rest, rate, *uses), score=half, linear=rest, rate=rate, **common)

    def _frame_function(self, frame: Network) -> tuple[str | None, str, tuple[str, ...]]:
        """(name of skip in the function or None, how the call is unpacked, functions): C_skip and C_out at many times."""
        lib = self.library
        if isinstance(frame, ScoreParameterization):
            skip = lib.matrix("frame_skip", frame.skip, "C_skip")
            out = lib.matrix("frame_out", frame.out, "C_out")
            lib.add("frame", "frame", (), (skip, out))
            return "skip", "skip, out", ("frame",)
        if frame in ("denoiser", "x0"):
            return "skip", "skip, out, _, _", (self._single_bridge() if self.sde.n == 1 else lib.denoiser(),)
        if frame == "edm":
            return "skip", "skip, out, _, _", (lib.edm(),)
        if frame in ("eps-L", "eps-U"):
            return None, "out, _", (lib.cholesky("lower" if frame == "eps-L" else "upper"),)
        if frame == "score":
            return None, "", ()
        raise Unsupported(f"conjugate parts in the frame {frame} of {self.sde.n} blocks are not derived", "use denoiser, x0, edm, eps-L, eps-U or score")

    def _single_bridge(self) -> str:
        lib = self.library
        uses = (lib.sigma(), *(() if self.sde.F.is_zero_matrix else (lib.alpha(),)))
        return lib.add("denoiser", "denoiser_scalar", (), uses, flat=self.sde.F.is_zero_matrix)

    frame: Network = "denoiser"


def conjugation(sampler: Sampler, sde: LinearSDE) -> sp.Matrix:
    """B of a conjugate sampler: an expression times I, ``{ones = expression}``, or a matrix of expressions."""
    names = names_of(sde, sampler)
    if isinstance(sampler.B, list):
        return spec.matrix(sampler.where, "sampler.B", sampler.B, (sde.n, sde.n), names)
    if isinstance(sampler.B, Mapping):
        spec.check_keys(sampler.where, "sampler.B", sampler.B, allowed=("ones",), required=("ones",))
        return sp.ones(sde.n, sde.n) * spec.entry(sampler.where, "sampler.B.ones", sampler.B["ones"], names)
    return sp.eye(sde.n) * spec.entry(sampler.where, "sampler.B", sampler.B, names)


def lower(sde: LinearSDE, sampler: Sampler, network: Network, frame: Network | None, params: Mapping[str, float]) -> StepProgram:
    """The verified, fused program of one step; ``params`` are the defaults that the emitted module shall have."""
    if any(e != 0 for e in sde.offset):
        raise Unsupported(f"{sde.name} has an offset, and samplers with a constant component are not derived yet", "subtract the mean from z")
    network = checked(network, sde)
    low = Lowering(sde, sampler, network, params)
    low.frame = checked(frame, sde) if frame is not None else network
    if sampler.family == "conjugate":
        state = low.conjugate_step(conjugation(sampler, sde), low.frame)
    else:
        if frame is not None and frame != network:
            raise Unsupported(f"a {sampler.family} sampler freezes what its network gives", "leave the frame out")
        state = low.split_step(bind(sampler, sde))
    ops, low.ops = low.ops, []
    last, last_result = _last(low)
    low.library.start()
    program = StepProgram(
        sde.state, low.params, tuple(low.library.functions.values()), tuple(low.host), tuple(ops),
        tuple(state[i] for i in range(sde.n)), last, last_result, _told(low),
    )  # fmt: skip
    return verify(passes.optimised(verify(program)))


def _last(low: Lowering) -> tuple[tuple[Op, ...], str]:
    """The mean of the data at t1: D itself for a bridge, else Tweedie's e^T Psi^-1 (z + Sigma s)."""
    sde = low.sde
    if len(sde.data) != 1:
        return (), ""
    low.ending = True
    low.evaluate(dict(enumerate(sde.state)), sp.Integer(1))
    if low.network in ("denoiser", "x0"):
        return tuple(low.ops), low.output[0]
    if sde.n == 1:
        alpha, sigma = low.alpha_sigma("1")
        terms = [("mean_x", 1 / alpha, sde.state[0]), ("mean_s", sigma**2 / alpha, low.score[0])]
    else:
        low.library.add("tweedie", "tweedie", (), (low.library.whitening(),), data=sde.data[0])
        low.call(("pull", "lift"), "tweedie", t1)
        terms = [(f"mean_{b}", entry("pull", 0, j), b) for j, b in enumerate(sde.state)]
        terms += [(f"mean_s{b}", entry("lift", 0, j), low.score[j]) for j, b in enumerate(sde.state)]
    result = low.update("mean", terms)
    return tuple(low.ops), result


def _told(low: Lowering) -> tuple[str, ...]:
    """The columns that hold an effective sigma told to a denoiser network."""
    if low.network != "denoiser":
        return ()
    return tuple(dict.fromkeys(str(score.noise) for (network, _), score in low.scores.items() if network == "denoiser"))
