"""Score parameterisations: what a network's output has to do with the score.  One entry of KINDS says what a name means.

    s(z, t) = C_skip(t) z + C_out(t) n(C_in(t) z, C_noise(t))

With alpha, sigma of one block (z = alpha x_0 + sigma eps); for n blocks p = Psi e (the data column of Psi(t, START)), Sigma the
covariance given the data, w = p^T Sigma^-1 p:

    name       C_skip                   C_out                 C_in                 C_noise
    score      0                        I                     I                    t
    eps-L      0                        -L^-T                 I                    t       lower Cholesky of Sigma
    eps-U      0                        -U^-T                 I                    t       upper Cholesky
    eps-R      0                        -R^-T                 I                    t       gDDIM's R, O = I at the grid's end
    x0         -Sigma^-1                Sigma^-1 p            I                    t       n predicts the data
    v          -1/S                     -alpha/(sigma S)      I                    t       S = alpha^2 + sigma^2, one block
    flow       2 (G G^T)^-1 F        -2 (G G^T)^-1         I                    t       n = dz/dt of the probability flow
    denoiser   -Sigma^-1                Sigma^-1 p            p^T Sigma^-1/w       w^(-1/2)        the bridge
    edm        as denoiser with D(y) = c_skip y + c_out n(c_in y, ln(sigma)/4)

Where the SDE has an offset, z stands for z - o(t, start) (offset.py); the networks whose C_in is I are given z itself and the
constant components behind it.

For one block eps-L = eps-U = eps-R is the epsilon of DDPM, s = -eps/sigma.  EDM's factors are those of arXiv 2206.00364,
table 1: c_skip = d^2/(s^2 + d^2), c_out = s d/sqrt(s^2 + d^2), c_in = 1/sqrt(s^2 + d^2), d = sigma_data.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import sympy as sp

from stepsmith.errors import InputError, Unsupported

from ..maths.bounded import cancelled
from ..maths.calculus import t
from ..sde.equations import Equations

EDM_SIGMA_DATA = 0.5

OneBlock = Callable[[sp.Expr, sp.Expr, sp.Expr, sp.Expr], tuple[sp.Expr | int, ...]]


@dataclass(frozen=True)
class NetworkKind:
    """What the name of a network means.

    ``one_block(alpha, sigma, time, sigma_data)`` gives (C_skip, C_out, C_in, C_noise) of one block.  Several blocks take them
    from the tables ``law`` of the host (program/meaning.py); "" where C_skip = 0 and C_out = I; None where the kind has one block
    only.
    """

    name: str
    doc: str  # what the network gives, as the docstring of a module says it
    one_block: OneBlock
    law: str | None = None
    predicts: str = ""  # "data", "noise" or "score"; "" for a mixture of them
    bridge: bool = False  # given a rescaled image and a noise level, in place of the state and t
    single: bool = False  # one output tensor, however many blocks
    factor: str = ""  # the factor of Sigma that the noise was scaled with: L, U or R
    score: str = ""  # the score of several blocks, as the docstring says it
    noise_name: str = ""  # what the emitted step calls C_noise of a bridge
    params: Mapping[str, float] = field(default_factory=dict)  # of its own, with their defaults

    @property
    def letter(self) -> str:
        """The letter of its outputs in the emitted step: d of data, e of epsilon."""
        return "d" if self.single else "e"

    def inputs(self, sde: Equations) -> int:
        """How many tensors the network is given."""
        return 1 if self.bridge else sde.n + len(sde.constant)

    def outputs(self, sde: Equations) -> int:
        """How many tensors the network gives."""
        return 1 if self.single else sde.n


def _of_noise(alpha: sp.Expr, sigma: sp.Expr, time: sp.Expr, sigma_data: sp.Expr) -> tuple[sp.Expr | int, ...]:
    return 0, -1 / sigma, 1, time


def _of_velocity(alpha: sp.Expr, sigma: sp.Expr, time: sp.Expr, sigma_data: sp.Expr) -> tuple[sp.Expr | int, ...]:
    S = alpha**2 + sigma**2
    return -1 / S, -alpha / (sigma * S), 1, time


def _of_edm(alpha: sp.Expr, sigma: sp.Expr, time: sp.Expr, sigma_data: sp.Expr) -> tuple[sp.Expr | int, ...]:
    ratio = sigma / alpha
    width = sp.sqrt(ratio**2 + sigma_data**2)
    skip = -1 / (sigma**2 + alpha**2 * sigma_data**2)
    return skip, sigma_data / (sigma * width), 1 / (alpha * width), sp.log(ratio) / 4


KINDS = {kind.name: kind for kind in (
    NetworkKind(
        "denoiser", "a scalar denoiser D(y, sigma) = E[data | data + sigma noise = y], through the exact bridge",
        lambda alpha, sigma, time, _: (-1 / sigma**2, alpha / sigma**2, 1 / alpha, sigma / alpha),
        law="denoiser", predicts="data", bridge=True, single=True, noise_name="sigma_hat",
        score="score = -Sigma^-1 (z - p D(y, sigma)),   sigma^-2 = p^T Sigma^-1 p,   y = sigma^2 p^T Sigma^-1 z",
    ),
    NetworkKind(
        "x0", "the mean of the data given z", lambda alpha, sigma, time, _: (-1 / sigma**2, alpha / sigma**2, 1, time),
        law="denoiser", predicts="data", single=True, score="score = -Sigma^-1 (z - p n)",
    ),
    NetworkKind("v", "v = alpha noise - sigma data", _of_velocity),
    NetworkKind("score", "the score", lambda alpha, sigma, time, _: (0, 1, 1, time), law="", predicts="score"),
    NetworkKind(
        "eps-L", "epsilon with the lower Cholesky factor of the covariance, score = -L^-T epsilon", _of_noise,
        law="eps-L", predicts="noise", factor="L",
    ),
    NetworkKind(
        "eps-U", "epsilon with the upper Cholesky factor of the covariance, score = -U^-T epsilon", _of_noise,
        law="eps-U", predicts="noise", factor="U",
    ),
    NetworkKind(
        "eps-R", "epsilon with gDDIM's factor R, score = -R^-T epsilon", _of_noise,
        law="eps-R", predicts="noise", factor="R",
    ),
    NetworkKind(
        "edm", "an EDM-preconditioned network F, D(y) = c_skip y + c_out F(c_in y, ln(sigma)/4), through the exact bridge",
        _of_edm, law="edm", bridge=True, single=True, noise_name="noise", params={"sigma_data": EDM_SIGMA_DATA},
    ),
)}  # fmt: skip


@dataclass(frozen=True)
class ScoreParameterization:
    """A parameterisation of the user's own, in t and the parameters of the SDE: s = skip z + out n(inp z, noise).

    skip (n, n), out (n, k), inp (j, n) for a network of j inputs and k outputs; noise is the time that the network is given.
    """

    name: str
    skip: sp.ImmutableMatrix
    out: sp.ImmutableMatrix
    inp: sp.ImmutableMatrix
    noise: sp.Expr = t

    predicts = factor = ""
    letter = "e"
    bridge = single = False

    def inputs(self, sde: Equations) -> int:
        """How many tensors the network is given."""
        return int(self.inp.shape[0])

    def outputs(self, sde: Equations) -> int:
        """How many tensors the network gives."""
        return int(self.out.shape[1])


Network = str | ScoreParameterization
FLOW = "flow"
MEANT = {  # what others call them
    "eps": "eps-L", "epsilon": "eps-L", "v_prediction": "v", "sample": "x0", "velocity": "flow", "flow_prediction": "flow",
}  # fmt: skip


def velocity(sde: Equations) -> ScoreParameterization:
    """The parameterisation of a network that gives the velocity of the probability flow, n = F z - G G^T s/2.

    For z = alpha x_0 + sigma eps it is alpha' x_0 + sigma' eps, of rectified flow eps - x_0.  Unsupported where G G^T has no
    inverse (the velocity of a block without noise says nothing of the score) and where the mean has an offset.
    """
    if not sde.offset_let.is_zero_matrix or not sde.GG.is_diagonal() or any(e == 0 for e in sde.GG.diagonal()):
        what = f"the velocity of {sde.name} does not give its score: a block has no noise of its own, or the mean an offset"
        raise Unsupported(what, "use the network x0, eps-R or score")
    power = sp.diag(*(1 / e for e in sde.GG_let.diagonal()))
    skip, out = ((2 * power * M).applyfunc(cancelled) for M in (sde.F_let, -sp.eye(sde.n)))
    return ScoreParameterization(FLOW, sp.ImmutableMatrix(skip), sp.ImmutableMatrix(out), sp.ImmutableMatrix.eye(sde.n))


@dataclass(frozen=True)
class Score:
    """A parameterisation at one time of the step, in host symbols.  ``inverse`` (k, n): out inverted, where it can be."""

    skip: sp.Matrix
    out: sp.Matrix
    inp: sp.Matrix
    noise: sp.Expr
    inverse: sp.Matrix | None


def kind_of(network: Network) -> NetworkKind | ScoreParameterization:
    """What a name means; a parameterisation of the user's own means itself."""
    return KINDS[network] if isinstance(network, str) else network


def name_of(network: Network) -> str:
    return network if isinstance(network, str) else network.name


def takes_state(network: Network) -> bool:
    """Whether a network is given the state itself and what is constant, rather than inputs made of them."""
    return isinstance(network, str) and not KINDS[network].bridge


def checked(network: Network, sde: Equations) -> Network:
    """The network, if the SDE has that parameterisation; InputError or Unsupported with the fix otherwise."""
    if isinstance(network, ScoreParameterization):
        return network  # given.py has checked it
    if network not in KINDS:
        known = f"choose from {', '.join((*KINDS, FLOW))}"
        meant = MEANT.get(network) if isinstance(network, str) else None
        fix = known if meant is None else f"it is called {meant!r} here"
        raise InputError("-", "network", f"no parameterisation {network!r}", fix)
    kind = KINDS[network]
    if kind.single and len(sde.data) != 1:
        what = f"the bridge needs one data block, and {sde.name} has {len(sde.data)}"
        raise InputError(sde.name, "data", what, "give the other blocks an initial variance")
    if kind.law is None and sde.n > 1:
        raise Unsupported(f"{network} is defined for one block, {sde.name} has {sde.n}", "use denoiser, x0 or eps-R")
    return network


def scalar(network: str, alpha: sp.Expr, sigma: sp.Expr, time: sp.Expr, sigma_data: sp.Expr) -> tuple[sp.Expr, ...]:
    """(skip, out, inp, noise) of a named parameterisation of one block with z = alpha x_0 + sigma eps."""
    return tuple(sp.sympify(e) for e in KINDS[network].one_block(alpha, sigma, time, sigma_data))


def spread(network: str, alpha: sp.Expr, sigma: sp.Expr, sigma_data: sp.Expr) -> sp.Expr | None:
    """X with X' = (F - G^2 C_skip/2) X: alpha where C_skip = 0, sqrt(S) where C_skip = -1/S and S = sigma^2 + c alpha^2.

    c is a constant, for alpha' = F alpha and (sigma^2)' = 2 F sigma^2 + G^2; None where C_skip has another form.
    """
    a, v, d = sp.symbols("a v d", positive=True)
    skip = scalar(network, a, v, t, d)[0]
    if skip == 0:
        return alpha
    c = sp.cancel((-1 / skip - v**2) / a**2)
    if c.free_symbols - {d}:
        return None
    return sigma if c == 0 else sp.sqrt(sigma**2 + c.subs(d, sigma_data) * alpha**2)
