"""Conjugate integrators: the residual is zero, and the emitted step is the definition integrated by another method."""

from __future__ import annotations

from functools import cache
from typing import Any

import flint
import mpmath
import numpy as np
import pytest
import sympy as sp
import torch
from scipy.integrate import solve_ivp

import stepsmith as ss
from stepsmith.derive.maths import calculus
from stepsmith.derive.maths.calculus import t
from stepsmith.derive.maths.matrix import factor as cholesky
from stepsmith.derive.sampler.network import scalar
from stepsmith.errors import Unsupported

torch.set_num_threads(1)
TWISTED = {
    "name": "twisted", "state": ["x", "m"], "F": [["0", "2*beta"], ["-beta/2", "-beta*(4 + 3*sin(5*t))/2"]],
    "G": [["0"], ["sqrt(beta*(4 + 3*sin(5*t))/4)"]], "params": {"low": 4.0, "high": 12.0},
    "let": {"beta": "low + t*(high - low)"}, "initial": {"m": "0.01"},
}  # fmt: skip
HOLD = {
    "name": "hold", "state": ["x", "v", "w"],
    "F": [["0", "beta", "0"], ["-beta", "0", "beta*chi"], ["0", "-beta*chi", "-beta*xi"]],
    "G": [["0"], ["0"], ["sqrt(2*beta*xi)"]], "params": {"beta": 4.0, "chi": 2.0, "xi": 3.0}, "initial": {"v": "0.1", "w": "0.2"},
}  # fmt: skip
WAVY = {"name": "wavy", "state": ["x"], "F": [["-beta/2"]], "G": [["sqrt(beta)"]], "params": {"grow": 1.5},
        "let": {"beta": "grow + 6*t + sin(7*t)"}}  # fmt: skip
ROUGH = {"name": "rough", "state": ["x"], "F": [["-beta/2"]], "G": [["sqrt(beta)"]], "params": {"grow": 2.0},
         "let": {"beta": "exp(grow*t)*sqrt(1 + t**2)"}}  # fmt: skip  # no row of the table of integrals
TABLES = {"twisted": TWISTED, "hold": HOLD, "wavy": WAVY, "rough": ROUGH}

B_TEXT: dict[str, Any] = {
    "zero": "0", "identity": "lambda_", "ones": {"ones": "lambda_"},
    "full": [["lambda_*(1 + t)", "lambda_ - t"], ["-1/3", "sin(3*t)"]], "line": "lambda_*(1 + t**2)",
}  # fmt: skip
LAM = 0.7


@cache
def sde_of(name: str) -> Any:
    return ss.load_sde(TABLES.get(name, name))


@cache
def view_of(name: str, params: tuple[tuple[str, float], ...] = ()) -> Any:
    return sde_of(name).at(**dict(params))


@cache
def module_of(sde: str, B: str, network: str, frame: str | None = None) -> Any:
    sampler: dict[str, Any] = {"name": f"by-{B}", "family": "conjugate", "B": B_TEXT[B]}
    if B != "zero":
        sampler["params"] = {"lambda_": LAM}
    return ss.load(ss.emit(ss.derive(sde_of(sde), sampler, network=network, frame=frame), certified=False))


def B_at(B: str, n: int, s: float, lam: float = LAM) -> np.ndarray:
    full = np.array([[lam * (1 + s), lam - s], [-1 / 3, np.sin(3 * s)]])
    table = {"zero": np.zeros((n, n)), "identity": lam * np.eye(n), "ones": lam * np.ones((n, n)),
             "line": lam * (1 + s**2) * np.eye(n)}  # fmt: skip
    return full if B == "full" else table[B]


def frame_at(view: Any, frame: str, s: float, d: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    """(C_skip, C_out) from the tables of psld-and-splitting.md and EDM, in balls of 400 bits."""
    with flint.ctx.workprec(400):
        S, psi = flint.arb_mat(view.exact_covariance(s)), view.exact_transition(s, view.sde.time[0])
        n, d2 = S.nrows(), flint.arb(d) ** 2
        zero, inverse = flint.arb_mat(n, n), S.inv()
        if frame == "score":
            return np.zeros((n, n)), np.eye(n)
        if frame in ("eps-L", "eps-U"):
            flip = flint.arb_mat(
                [[int(j == (i if frame == "eps-L" else n - 1 - i)) for j in range(n)] for i in range(n)]
            )
            L = flip * flint.arb_mat(cholesky((flip * S * flip).tolist())) * flip
            return floats(zero), floats(-L.transpose().inv())
        u = inverse * flint.arb_mat([[row[view.sde.data[0]]] for row in psi])
        if frame in ("denoiser", "x0"):
            return floats(-inverse), floats(u)
        if frame == "v":  # v = alpha eps - sigma x0 and z = alpha x0 + sigma eps: eps = (sigma z + alpha v) / total
            alpha, sigma = psi[0][0], S[0, 0].sqrt()
            total = alpha**2 + S[0, 0]
            return np.array([[float(-1 / total)]]), np.array([[float(-alpha / (sigma * total))]])
        q = sum((row[view.sde.data[0]] * u[i, 0] for i, row in enumerate(psi)), flint.arb(0))
        w2 = 1 / q + d2
        return floats(-inverse + u * u.transpose() * (d2 / w2 / q)), floats(u * (d2 / (q * w2)).sqrt())


def floats(M: Any) -> np.ndarray:
    return np.array([[float(e.mid()) for e in row] for row in M.tolist()])


def defined(view: Any, B: str, frame: str, t0: float, t1: float) -> tuple[np.ndarray, np.ndarray]:
    """A(t1) = I, A' = A K, Phi' = -A G G^T C_out / 2 from t1 up to t0: z' = A(t0) (I - h B) z + (Phi(t1) - Phi(t0)) n."""
    sde, n = view.sde, view.sde.n
    values = {sde.symbols[k]: v for k, v in view.params.items()}
    F, V = (sp.lambdify(t, M.subs(values), "numpy") for M in (sp.Matrix(sde.F), sp.Matrix(sde.GG)))
    k = frame_at(view, frame, t0)[1].shape[1]

    def right(s: float, y: np.ndarray) -> np.ndarray:
        A = y[: n * n].reshape(n, n)
        skip, out = frame_at(view, frame, s)
        K = B_at(B, n, s) - np.array(F(s), dtype=float) + np.array(V(s), dtype=float) @ skip / 2
        return np.concatenate([(A @ K).ravel(), (-A @ np.array(V(s), dtype=float) @ out / 2).ravel()])

    start = np.concatenate([np.eye(n).ravel(), np.zeros(n * k)])
    end = solve_ivp(right, (t1, t0), start, method="DOP853", rtol=1e-13, atol=1e-15).y[:, -1]
    A, Phi = end[: n * n].reshape(n, n), end[n * n :].reshape(n, k)
    return A @ (np.eye(n) - (t0 - t1) * B_at(B, n, t0)), -Phi


def emitted(module: Any, times: Any, row: int = 0, **params: float) -> tuple[np.ndarray, np.ndarray]:
    """The emitted step as (matrix on the state, matrix on the network's output): its network gives what we say."""
    n, k = len(module.COMPONENTS), module.OUTPUTS
    c = module.coefficients(times, **params)[row].unbind()
    columns = torch.eye(n + k, dtype=torch.float64).unbind(1)
    state, _ = module.step(columns[:n], c, lambda inputs, time: columns[n:])
    table = torch.stack(state).numpy()
    return table[:, :n], table[:, n:]


def same(got: tuple[np.ndarray, np.ndarray], wanted: tuple[np.ndarray, np.ndarray], digits: float) -> None:
    """Each of the two matrices against the size of its row."""
    for one, other in zip(got, wanted, strict=True):
        assert one.shape == other.shape
        assert (np.abs(one - other) <= digits * np.abs(other).max(axis=1, keepdims=True)).all(), (one, other)


# --- the identity -----------------------------------------------------------------------------------------------------


def functions(name: str, rows: int, columns: int) -> sp.Matrix:
    return sp.Matrix(rows, columns, lambda i, j: sp.Function(f"{name}{i}{j}")(t))


def test_the_conjugate_residual_is_zero_for_every_matrix_B() -> None:
    """zbar = A z, A' = A K turns z' = F z - G G^T (C_skip z + C_out n) / 2 into zbar' = A B A^-1 zbar + Phi' n."""
    A, B, F, V, skip, out = (functions(name, 2, 2) for name in ("A", "B", "F", "V", "S", "O"))
    z, n = (functions(name, 2, 1) for name in ("z", "n"))
    K = B - F + V * skip / 2
    flow = F * z - V * (skip * z + out * n) / 2

    def residual(slope: sp.Matrix) -> sp.Matrix:
        rules = dict(zip([*A.diff(t), *z.diff(t)], [*slope, *flow], strict=True))
        zbar = A * z
        moved = zbar.diff(t).subs(rules)
        return (moved - A * B * A.inv() * zbar + A * V * out * n / 2).applyfunc(sp.cancel)

    assert residual(A * K) == sp.zeros(2, 1)
    assert residual(K * A) != sp.zeros(2, 1)  # the other order is wrong


def test_the_relative_propagator_solves_the_equation_in_z() -> None:
    """X = A^-1 solves X' = (F - G G^T C_skip / 2 - B) X, so that P = X(t1) X(t0)^-1 is all that is needed."""
    A, K = functions("A", 2, 2), functions("K", 2, 2)
    X = A.inv()
    slope = X.diff(t).subs(dict(zip(A.diff(t), A * K, strict=True)))
    assert (slope + K * X).applyfunc(sp.cancel) == sp.zeros(2)


def test_variance_preserving_without_B_is_ddim_for_any_schedule() -> None:
    """alpha(t) a free function, beta = -2 alpha'/alpha: A, Phi = 1/alpha, sigma/alpha (eps) or 1/sigma, alpha/sigma (x0)."""
    alpha = sp.Function("alpha", positive=True)(t)
    sigma = sp.sqrt(1 - alpha**2)
    beta = -2 * alpha.diff(t) / alpha
    for network, A, Phi in (("eps-L", 1 / alpha, sigma / alpha), ("x0", 1 / sigma, alpha / sigma),
                            ("denoiser", 1 / sigma, alpha / sigma)):  # fmt: skip
        skip, out, _, _ = scalar(network, alpha, sigma, t, sp.Symbol("sigma_data"))
        K = beta / 2 + beta * skip / 2
        assert sp.simplify(A.diff(t) - A * K) == 0, network
        assert sp.simplify(Phi.diff(t) + A * beta * out / 2) == 0, network


@pytest.mark.parametrize("network", ["denoiser", "x0", "eps-L", "eps-U", "eps-R"])
@pytest.mark.parametrize("sde", ["vp", "vp-cosine", "wavy", "rough"])
def test_the_emitted_step_of_variance_preserving_is_ddim(sde: str, network: str) -> None:
    module, last = module_of(sde, "zero", network), sde_of(sde).time[1]
    table = sde_of(sde)
    exact = {table.symbols[k]: sp.Rational(*float(v).as_integer_ratio()) for k, v in table.params.items()}
    beta = sp.lambdify(t, (-2 * table.F[0]).subs(exact), "mpmath")
    for t0, t1 in ((last, 0.5), (0.5, 0.4), (0.01, 0.001), (2e-5, 1e-5)):
        with mpmath.workdps(40):
            B = [mpmath.quad(beta, [0, time]) for time in (t0, t1)]
            (a0, a1), (s0, s1) = [[mpmath.exp(-b / 2) for b in B], [mpmath.sqrt(-mpmath.expm1(-b)) for b in B]]
            # alpha' D + (sigma'/sigma) (z - alpha D), or (alpha'/alpha) (z - sigma e) + sigma' e
            predicts_data = network in ("denoiser", "x0")
            wanted = (s1 / s0, a1 - s1 / s0 * a0) if predicts_data else (a1 / a0, s1 - a1 / a0 * s0)
        got = emitted(module, [t0, t1])
        assert got[0][0, 0] == pytest.approx(float(wanted[0]), rel=2e-14)
        assert got[1][0, 0] == pytest.approx(float(wanted[1]), rel=1e-13, abs=1e-15 * float(s1))


# --- the emitted step is the definition -------------------------------------------------------------------------------

CONSTANT: tuple[tuple[str, float], ...] = ()
LINEAR = (("beta_min", 0.3), ("beta_max", 16.0))


@pytest.mark.parametrize(
    ("B", "frame"),
    [(B, frame) for B in ("zero", "full") for frame in ("eps-L", "eps-U", "score", "denoiser", "edm")]
    + [("zero", "x0")]
    + [(B, frame) for B in ("identity", "ones") for frame in ("eps-L", "denoiser")],
)
def test_the_step_on_psld_is_the_definition_integrated_elsewhere(B: str, frame: str) -> None:
    module = module_of("psld", B, frame)
    for params, t0, t1 in ((LINEAR, 0.5, 0.42), (CONSTANT, 0.02, 0.001)):
        wanted = defined(view_of("psld", params), B, frame, t0, t1)
        same(emitted(module, [t0, t1], **dict(params)), wanted, 2e-12)


@pytest.mark.parametrize("sde", ["twisted", "hold"])
@pytest.mark.parametrize(
    ("B", "frame"), [("zero", "eps-L"), ("zero", "denoiser"), ("ones", "eps-L"), ("identity", "denoiser")]
)
def test_the_step_on_other_diffusions_is_the_definition(sde: str, B: str, frame: str) -> None:
    """F that does not commute with itself, and three blocks."""
    for t0, t1 in ((0.3, 0.25), (0.02, 0.015)):
        wanted = defined(view_of(sde), B, frame, t0, t1)
        same(emitted(module_of(sde, B, frame), [t0, t1]), wanted, 1e-11)


@pytest.mark.parametrize(
    ("sde", "B", "frame"),
    [
        (sde, B, frame)
        for sde in ("vp", "ve")
        for B in ("zero", "line")
        for frame in ("eps-L", "v", "edm", "x0", "score")
    ]
    + [("rough", "line", frame) for frame in ("eps-L", "v", "edm", "denoiser")],
)
def test_the_step_of_one_block_is_the_definition(sde: str, B: str, frame: str) -> None:
    for t0, t1 in ((0.9, 0.8), (0.01, 0.001)):
        wanted = defined(view_of(sde), B, frame, t0, t1)
        same(emitted(module_of(sde, B, frame), [t0, t1]), wanted, 2e-12)


@pytest.mark.parametrize(
    ("sde", "network", "frame"),
    [
        ("psld", "denoiser", "eps-L"), ("psld", "eps-L", "eps-U"),
        ("psld", "score", "eps-L"), ("psld", "eps-L", "score"), ("vp", "denoiser", "v"), ("vp", "eps-L", "x0"),
        ("vp", "v", "edm"), ("vp", "edm", "eps-L"), ("ve", "denoiser", "score"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("B", ["zero", "identity"])
def test_a_frame_other_than_the_networks_freezes_that_frame(sde: str, network: str, frame: str, B: str) -> None:
    """n_frame = C_out,f^-1 (s - C_skip,f z), s = C_skip z + C_out n, all at t0."""
    t0, t1 = 0.6, 0.55
    view = view_of(sde)
    linear, Phi = defined(view, B, frame, t0, t1)
    (skip, out), (skip_f, out_f) = frame_at(view, network, t0), frame_at(view, frame, t0)
    back = Phi @ np.linalg.inv(out_f)
    wanted = linear + back @ (skip - skip_f), back @ out
    same(emitted(module_of(sde, B, network, frame), [t0, t1]), wanted, 1e-11)


@pytest.mark.parametrize("sde", ["psld", "hold", "vp", "ve"])
@pytest.mark.parametrize("network", ["denoiser", "edm", "x0", "eps-L", "score"])
def test_what_a_network_is_given_and_told(sde: str, network: str) -> None:
    """y = sigma^2 (Psi e)^T Sigma^-1 z and sigma, EDM's own scaling of both, or z and t."""
    module, view, t0 = module_of(sde, "zero", network), view_of(sde), 0.3
    n, seen = sde_of(sde).n, []

    def record(inputs: Any, time: Any) -> Any:
        seen.append((torch.stack(inputs).numpy(), float(time)))
        return (inputs[0],) * module.OUTPUTS

    module.step(torch.eye(n, dtype=torch.float64).unbind(1), module.coefficients([t0, 0.2])[0].unbind(), record)
    ((inputs, told),) = seen
    if network not in ("denoiser", "edm"):
        assert (inputs == np.eye(n)).all() and told == t0
        return
    e, sigma = view.transition(t0, 0.0)[:, 0], float(view.effective_sigma(t0))
    wanted = sigma**2 * np.linalg.solve(view.covariance(t0), e)
    if network == "edm":
        assert told == pytest.approx(np.log(sigma) / 4, rel=1e-13)
        assert inputs[0] == pytest.approx(wanted / np.hypot(sigma, 0.5), rel=1e-11)
    else:
        assert told == pytest.approx(sigma, rel=1e-13)
        assert inputs[0] == pytest.approx(wanted, rel=1e-11)


def test_a_scalar_denoiser_gives_no_frame_that_cannot_be_inverted() -> None:
    with pytest.raises(Unsupported, match="is not turned into one of denoiser; use a network denoiser"):
        module_of("psld", "zero", "eps-L", "denoiser")
    with pytest.raises(Unsupported, match="derived for B = 0"):
        module_of("psld", "identity", "eps-L", "eps-R")


# --- lambda = 0 and the frame of gDDIM ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sde", "network"),
    [("psld", "denoiser"), ("psld", "eps-L"), ("cld", "eps-L"), ("vp", "denoiser"), ("vp", "eps-L"), ("ve", "denoiser"),
     ("ve", "eps-L"), ("vp-cosine", "denoiser"), ("vp-cosine", "eps-L")],
)  # fmt: skip
def test_lambda_zero_is_B_zero(sde: str, network: str) -> None:
    times = torch.linspace(sde_of(sde).time[1], 0.01, 20, dtype=torch.float64)
    plain = module_of(sde, "zero", network).coefficients(times)
    names = module_of(sde, "zero", network).COEFFICIENTS
    for B in ("identity", "ones") if sde_of(sde).n > 1 else ("identity",):
        module = module_of(sde, B, network)
        table = module.coefficients(times, lambda_=0.0)
        column = {name: k for k, name in enumerate(module.COEFFICIENTS)}
        assert set(column) - set(names) <= {"x_x"}  # a coefficient that is one where B = 0
        for name in column:
            wanted = plain[:, names.index(name)] if name in names else torch.ones(len(times) - 1, dtype=torch.float64)
            scale = wanted.abs().clamp_min(1e-3 * float(wanted.abs().max()))
            assert ((table[:, column[name]] - wanted).abs() <= 1e-11 * scale).all(), (B, name)
        assert (module.coefficients(times) - table).abs().max() > 1e-4  # and lambda is seen


@pytest.mark.parametrize(
    ("sde", "network"),
    [
        ("psld", "eps-L"),
        ("psld", "score"),
        ("psld", "denoiser"),
        ("cld", "eps-L"),
        ("hold", "eps-L"),
        ("hold", "denoiser"),
    ],
)
def test_the_frame_of_gddim_from_another_network(sde: str, network: str) -> None:
    """z' = Psi z + (R_1 - Psi R_0) n_R with n_R = -R_0^T s: R from the numeric view's own Taylor series."""
    module, view, end = module_of(sde, "zero", network, "eps-R"), view_of(sde), 0.02
    for t0, t1 in ((0.04, 0.035), (0.03, end)):
        R0, R1 = (view.factor(time, kind="gddim", end=end) for time in (t0, t1))
        psi = view.transition(t1, t0)
        skip, out = frame_at(view, network, t0)
        on_score = -(R1 - psi @ R0) @ R0.T
        same(emitted(module, [t0, t1]), (psi + on_score @ skip, on_score @ out), 1e-11)


@pytest.mark.parametrize("sde", ["psld", "cld", "hold"])
def test_a_network_of_gddims_own_is_anchored_at_the_end_of_the_grid(sde: str) -> None:
    module, view = module_of(sde, "zero", "eps-R"), view_of(sde)
    times = [0.04, 0.035, 0.03, 0.02]
    for row in range(3):
        R0, R1 = (view.factor(time, kind="gddim", end=times[-1]) for time in times[row : row + 2])
        psi = view.transition(times[row + 1], times[row])
        same(emitted(module, times, row), (psi, R1 - psi @ R0), 1e-11)


@pytest.mark.parametrize("sde", ["psld", "cld", "hold", "twisted"])
def test_the_denoisers_frame_and_gddims_are_one_step(sde: str) -> None:
    """R and x0 coincide at order one."""
    one = emitted(module_of(sde, "zero", "denoiser"), [0.3, 0.2])
    same(emitted(module_of(sde, "zero", "denoiser", "eps-R"), [0.3, 0.2]), one, 1e-11)


def test_points_are_reached_in_one_step_of_gddim() -> None:
    """For Dirac data eps_R is constant along the flow, so one step of any size lands on it."""
    module, view, x0 = module_of("psld", "zero", "denoiser"), view_of("psld"), 1.7
    z = view.transition(0.9, 0.0)[:, 0] * x0 + view.factor(0.9, kind="lower") @ [0.3, -1.1]
    many, times = z, np.geomspace(0.9, 0.05, 400)
    for row in range(399):
        linear, Phi = emitted_row(module, times, row)
        many = linear @ many + Phi[:, 0] * x0
    linear, Phi = emitted(module, [0.9, 0.05])
    assert linear @ z + Phi[:, 0] * x0 == pytest.approx(many, rel=1e-9)


@cache
def _table(module: Any, times: tuple[float, ...]) -> torch.Tensor:
    return module.coefficients(list(times))


def emitted_row(module: Any, times: np.ndarray, row: int) -> tuple[np.ndarray, np.ndarray]:
    c = dict(zip(module.COEFFICIENTS, _table(module, tuple(times.tolist()))[row].tolist(), strict=True))
    return np.array([[c["x_x"], c["x_m"]], [c["m_x"], c["m_m"]]]), np.array([[c["x_d"]], [c["m_d"]]])


def test_an_expression_that_vanishes_is_told_from_one_that_does_not() -> None:
    a = sp.Symbol("a", real=True)
    assert calculus.is_zero(sp.exp(a) * sp.exp(-a) - sp.cos(a) ** 2 - sp.sin(a) ** 2)
    assert not calculus.is_zero(sp.exp(a) - 1 - a - a**2 / 2 - a**3 / 6)


@pytest.mark.parametrize("sde", ["psld", "cld"])
def test_a_composition_of_conjugate_steps_is_consistent(sde):
    """The transition of a part, what the other block does to it and what the network does are each in their place."""
    assert [ss.derive(sde, name).order for name in ("conjugate-se", "conjugate-vv")] == [1, 1]
    assert ss.derive(sde, "conjugate-oba").weak_order == 1


@pytest.mark.parametrize("network", ["eps-L", "score", "denoiser", "eps-R"])
def test_conjugate_parts_hold_the_output_in_the_frame_of_gddim(network: str) -> None:
    """B then A of psld, each with s = -R^-T n and the other block held, n = -R_0^T s_0: integrated elsewhere."""
    view, (t0, t1) = view_of("psld"), (0.04, 0.035)
    p, beta = view.params, 8.0
    method = ss.derive("psld", "conjugate-se", network, frame="eps-R")
    factors = {time: view.factor(time, kind="gddim", end=t1) for time in (t0, t1)}

    def score(time: float, n: np.ndarray) -> np.ndarray:
        return -np.linalg.solve(view.factor(time, kind="gddim", end=t1).T, n)

    def held(row: Any, start: float) -> float:
        done = solve_ivp(lambda tau, y: [row(-tau, y[0])], (-t0, -t1), [start], method="DOP853", rtol=1e-12, atol=1e-14)
        return float(done.y[0, -1])

    def moved(x: float, m: float, n: np.ndarray) -> tuple[float, float]:
        nu, Gamma, Minv = p["nu"], p["Gamma"], (p["Gamma"] - p["nu"]) ** 2 / 4
        m = held(lambda s, m: beta / 2 * (x + nu * m + nu / Minv * score(s, n)[1]), m)
        return held(lambda s, x: beta / 2 * (Gamma * x - Minv * m + Gamma * score(s, n)[0]), x), m

    back = -factors[t0].T
    skip, out = (np.zeros((2, 2)), np.linalg.inv(back)) if network == "eps-R" else frame_at(view, network, t0)
    unit = np.eye(2)
    states = [moved(*z, back @ skip @ z) for z in unit]
    outputs = [moved(0.0, 0.0, back @ e) for e in out.T]
    module = ss.load(ss.emit(method))
    same(emitted(module, [t0, t1]), (np.array(states).T, np.array(outputs).T), 1e-10)
    assert method.order == 1


@pytest.mark.parametrize("sampler", ["conjugate-vv", "conjugate-oba"])
def test_a_denoiser_holds_the_data_in_conjugate_parts_as_a_network_of_x0_does(sampler: str) -> None:
    """One prediction under two names: they differ in what the network is given."""
    torch.manual_seed(0)
    states, d = torch.randn(2, 5, dtype=torch.float64), torch.randn(5, dtype=torch.float64)
    new = []
    for network in ("denoiser", "x0"):
        module = ss.load(ss.emit(ss.derive("psld", sampler, network, frame="x0")))
        row = module.coefficients([0.6, 0.55])[0].unbind()
        draws = torch.ones(module.DRAWS, 5, dtype=torch.float64).unbind()
        new.append(torch.stack(module.step(states.unbind(), row, lambda inputs, time: (d,), draws)[0]))
    assert new[0] == pytest.approx(new[1].numpy(), rel=1e-11)


def test_numbers_too_large_to_prove_anything_end_in_one_line():
    with pytest.raises(Unsupported, match="too large to prove the leading error of psld_wild"):
        ss.emit(ss.derive("psld", {"sampler": {"name": "wild", "family": "conjugate", "B": 1e308}}))
