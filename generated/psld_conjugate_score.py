"""Conjugate integrator with B = 0 for phase-space Langevin diffusion, critically damped.

The exponential integrator of order one (DDIM on VP).

The diffusion, forward in the network's time t:
    dx = (-Gamma*beta*x/2 + Minv*beta*m/2) dt + sqrt(Gamma*beta) dw_1
    dm = (-beta*m*nu/2 - beta*x/2) dt + sqrt(beta*nu/Minv) dw_2
with beta = beta_min + t*(beta_max - beta_min)
with Minv = (Gamma - nu)^2/4

The step t0 -> t1 = t0 - h:
    z' = P (I - h B(t0)) z + Phi n,   n the network's output at t0 in the frame score,
    P the propagator of dX/dt = (F - G G^T C_skip / 2 - B) X from t0 to t1,
    Phi = int_t1^t0 P(t1, s) G G^T C_out(s) ds / 2,   score = C_skip z + C_out n,
    B = 0

One network call and no noise per step.  Proven order 1.  This assumes a smooth network, an exact start and bounded
ratios of successive steps.
The local error of a step of length h, exact minus numerical:
    e_x = h^2 * (K_xm*dn_m/2 + K_xx*dn_x/2)
    e_m = h^2 * (K_mm*dn_m/2 + K_mx*dn_x/2)
    n = the output in the frame score at t0, frozen over the step; dn = its rate dn/dt along the flow
    K = -G G^T C_out/2 of that frame; score = C_skip z + C_out n

The network gives the score.
Reference: arXiv 2310.07894, section 3.

To use it, with decreasing times, a network and the shape (batch, ...) of a component:
    table, L = coefficients(times), start(times[0])
    state = tuple(torch.einsum("ij,j...->i...", L, torch.randn(len(L), *shape, dtype=torch.float64)))
    for row in table:
        state, _ = step(state, row.unbind(), network)
    data = denoise(state, table[-1].unbind(), network)[DATA]
"""

# Certified at 3 points (seed 1): table to 1e-12 and start to 1e-12 of balls, steps to 1e-11 of the program.

import math

import torch

API = 1
SDE = "psld"
SAMPLER = "conjugate"
NETWORK = "score"
NFE = 1
DRAWS = 0
HISTORY = 0
ORDER = 1
WEAK_ORDER = None
STRONG_ORDER = None
COMPONENTS = ("x", "m")
DATA = 0
INPUTS = 2
OUTPUTS = 2
COEFFICIENTS = tuple(
    """
    time_0 x_x x_m x_e_x x_e_m m_x m_m m_e_x m_e_m time_1 mean_x mean_m mean_e_end_x mean_e_end_m
    """.split()
)
SIGMA_COLUMNS = ()
PARAMS = {"Gamma": 0.01, "nu": 4.01, "kappa": 0.04, "beta_min": 8.0, "beta_max": 8.0}
DIGEST = "d5cbdc0b532424bb27199fa5043bb6d1baa7165063f6608a5dbd85c3d1a6aee2"
START, END = 0.0, 1.0  # the span of the network's time


class Diffusion:
    """dz = F z dt + G dw, F = beta A, from the covariance L0 L0^T at START."""

    def __init__(self, Gamma, nu, kappa, beta_min, beta_max):
        if not (Gamma != nu and Gamma >= 0 and nu >= 0 and kappa > 0 and beta_min > 0 and beta_max > 0):
            raise ValueError(
                "the parameters must fulfil Gamma != nu, Gamma >= 0, nu >= 0, kappa > 0, beta_min > 0, beta_max > 0"
            )
        self.Gamma, self.nu, self.kappa, self.beta_min, self.beta_max = Gamma, nu, kappa, beta_min, beta_max
        self.Minv = (self.Gamma - self.nu)**2/4
        self.A = torch.tensor([[-self.Gamma/2, self.Minv/2], [-1/2, -self.nu/2]], dtype=torch.float64)
        self.L0 = torch.tensor([[0], [math.sqrt(self.kappa/self.Minv)]], dtype=torch.float64)
        self.data = [0]
        self.order = [1, 0]  # of the rows of a factor of the covariance: the data last

    def beta(self, t):
        return self.beta_min + t*(self.beta_max - self.beta_min)

    def G(self, t):
        beta = self.beta(t)
        return matrix(((torch.sqrt(self.Gamma*beta), 0), (0, torch.sqrt(beta*self.nu/self.Minv))), t)

    def clock(self, t, s):
        """The integral of beta over (s, t)."""
        return (self.beta_min + (self.beta_max - self.beta_min)*(s + t)/2)*(t - s)

    def transition(self, t, s):
        """Psi(t, s)."""
        return exponential(self.clock(t, s)[..., None, None] * self.A)


def gauss(n):
    """Gauss nodes and weights on (0, 1), and the integrals from 0 to each node of the polynomials through them."""
    k = torch.arange(1, n, dtype=torch.float64)
    off = torch.diag(k / torch.sqrt(4 * k**2 - 1), 1)
    u, V = torch.linalg.eigh(off + off.mT)
    k, u = torch.arange(n), u[:, None]
    reach = ((u ** (k + 1) - (-1.0) ** (k + 1)) / (k + 1)) @ torch.linalg.inv(u**k) / 2
    return (u[:, 0] + 1) / 2, V[0] ** 2, reach


def matrix(rows, like):
    """The matrices of some entries, (*like.shape, rows, columns)."""
    entries = [torch.as_tensor(e, dtype=torch.float64).expand(like.shape) for row in rows for e in row]
    return torch.stack(entries, dim=-1).unflatten(-1, (len(rows), -1))


def factor(columns, order=None):
    """L L^T = columns columns^T with L[order] lower triangular: Gram-Schmidt on the rows; no covariance is formed."""
    order = order or range(columns.shape[-2])
    L = columns.new_zeros(*columns.shape[:-1], len(order))
    for k, j in enumerate(order):
        rest, row = list(order[k:]), columns[..., j, None, :]
        unit = row / row.norm(dim=-1, keepdim=True).clamp_min(1e-300)
        L[..., rest, k] = (columns[..., rest, :] * unit).sum(-1)
        columns = columns - L[..., k, None] * unit
    return L


def exponential(M):
    """exp(M) of (..., n, n), scaled and squared, entry by entry: torch.linalg.matrix_exp loses up to 1e-8."""
    shape, M, eye = M.shape, M.reshape(-1, *M.shape[-2:]), torch.eye(M.shape[-1], dtype=M.dtype)
    halvings = (torch.frexp(M.abs().sum(-1).amax(-1)).exponent + 1).clamp_min(0)[:, None, None]
    M = torch.ldexp(M, -halvings)
    E = eye + M / 14
    for k in range(13, 0, -1):
        E = torch.baddbmm(eye, M, E, alpha=1 / k)
    for k in range(int(halvings.max())):
        E = torch.where(k < halvings, E @ E, E)
    return E.reshape(shape)


class Law:
    """The law of z given the data at some times: K K^T = Sigma, Z = K^-1, lead = Z Psi(t, START) e.

    The columns of K are those of Gauss quadrature from START to t, carried to t; near START, where a nearly singular
    law would lose its digits, they are carried to START and made triangular there.
    """

    def __init__(self, sde, *times):
        t = torch.cat(times).unique()
        self.times = t
        self.data = sde.data
        (x, w, _), first, width = gauss(20), torch.full_like(t, START), t[:, None] - START
        folds = sde.clock(START + width * x, START).abs().amax(-1) * sde.A.abs().sum(-1).max()
        if not folds.max() * len(t) <= 1000 * (len(t) + 300):
            raise ValueError("the rates are too large for their time span: shorten it, or start it later")
        panels = int(folds.max() / 12) + 1
        x, w = ((torch.arange(panels)[:, None] + x) / panels).flatten(), (w / panels).repeat(panels)
        s, at = START + width * x, torch.where(folds < 1, first, t)
        push, pull, back = sde.transition(torch.stack((at, at, t)), torch.stack((first, t, at)))
        noise = (width * w).sqrt()[..., None, None] * sde.transition(at[:, None], s) @ sde.G(s)
        W = factor(torch.cat((push @ sde.L0, noise.movedim(-3, -2).flatten(-2)), dim=-1), sde.order)
        whole = torch.cat((pull, push[..., [DATA]]), dim=-1)
        white = torch.linalg.solve_triangular(W[:, sde.order], whole[:, sde.order], upper=False)
        self.K, self.Z, self.lead = back @ W, white[..., :-1], white[..., -1:]
        self.pull = sde.transition(START, t)

    def place(self, t):
        """The places of the times t."""
        return torch.searchsorted(self.times, t)

    def tweedie(self, t):
        """(pull, lift): the mean of the data is pull z + lift score."""
        K, pull = self.K[self.place(t)], self.pull[self.place(t)][:, self.data]
        return pull.movedim(0, -1), (pull @ K @ K.mT).movedim(0, -1)


def start(time, /, **params):
    """The lower factor of the covariance at `time`, (*time.shape, n, n); a run starts from it times normals."""
    sde, t = Diffusion(**{**PARAMS, **params}), torch.as_tensor(time, dtype=torch.float64)
    law = Law(sde, t.reshape(-1))
    return factor(law.K[law.place(t)])


def start_data(time, /, **params):
    """What the data are multiplied with in the mean of the state at `time`, (*time.shape, n, data blocks)."""
    sde, t = Diffusion(**{**PARAMS, **params}), torch.as_tensor(time, dtype=torch.float64)
    return sde.transition(t, START)[..., [0]]


def transition(time, before, /, **params):
    """Psi(time, before), (*time.shape, n, n): the state at `time` is this times that at `before`, and noise."""
    sde = Diffusion(**{**PARAMS, **params})
    t, s = torch.broadcast_tensors(*(torch.as_tensor(each, dtype=torch.float64) for each in (time, before)))
    if not (s < t).all():
        raise ValueError("before must be earlier than time")
    return sde.transition(t, s)


def coefficients(times, /, **params):
    """The table of coefficients, (len(times) - 1, len(COEFFICIENTS)); row i is times[i] -> times[i + 1]."""
    sde, times = Diffusion(**{**PARAMS, **params}), torch.as_tensor(times, dtype=torch.float64).cpu()
    if not (times.ndim == 1 < len(times) and (times.diff() < 0).all() and START < times[-1] and times[0] <= END):
        raise ValueError(f"times must be at least two numbers that decrease strictly within ({START}, {END}]")
    t0, t1 = times[:-1], times[1:]
    rate_step = torch.tensor(
        [
            [sde.Gamma/2, -sde.Minv/2, sde.Gamma/2, 0], [1/2, sde.nu/2, 0, sde.nu/(2*sde.Minv)], [0, 0, 0, 0],
            [0, 0, 0, 0],
        ],
        dtype=torch.float64,
    )
    Y = exponential(sde.clock(t0, t1)[:, None, None] * rate_step).movedim(0, -1)
    P, Phi = Y[:, 0:2], Y[:, 2:4]
    law = Law(sde, times)
    pull_1, lift_1 = law.tweedie(t1)

    # A value is its coefficients in (x, m, e_x, e_m, e_end_x, e_end_m), one row a coefficient, one column a step.
    x, m, e_x, e_m, e_end_x, e_end_m = torch.eye(6, dtype=torch.float64)[:, :, None]
    x_new = P[0, 0]*x + P[0, 1]*m + Phi[0, 0]*e_x + Phi[0, 1]*e_m
    m_new = P[1, 0]*x + P[1, 1]*m + Phi[1, 0]*e_x + Phi[1, 1]*e_m
    mean = pull_1[0, 0]*x + pull_1[0, 1]*m + lift_1[0, 0]*e_end_x + lift_1[0, 1]*e_end_m
    columns = (t0, *x_new[:4], *m_new[:4], t1, *mean[:2], *mean[4:])
    table = torch.stack(torch.broadcast_tensors(*columns), dim=-1)
    if not table.isfinite().all():
        raise ValueError("float64 does not hold a coefficient of these times and parameters: take milder ones")
    return table


def step(state, c, network, noise=(), history=()):
    """One step of the state (x, m), each (batch, ...); `c` an unbound row of the table.  Returns (state, history)."""
    x, m = state
    time_0, x_x, x_m, x_e_x, x_e_m, m_x, m_m, m_e_x, m_e_m, *_ = c
    e_x, e_m = network((x, m), time_0)
    x_new = x_x * x + x_m * m + x_e_x * e_x + x_e_m * e_m
    m_new = m_x * x + m_m * m + m_e_x * e_x + m_e_m * e_m
    return (x_new, m_new), ()


def nfe(steps):
    """Network calls of a run of `steps` steps."""
    return NFE * steps


def denoise(state, c, network):
    """The mean of the data given the state at the end of the grid; `c` the unbound LAST row.  One network call."""
    x, m = state
    time_1, mean_x, mean_m, mean_e_end_x, mean_e_end_m = c[9:14]
    e_end_x, e_end_m = network((x, m), time_1)
    mean = mean_x * x + mean_m * m + mean_e_end_x * e_end_x + mean_e_end_m * e_end_m
    return (mean, m)
