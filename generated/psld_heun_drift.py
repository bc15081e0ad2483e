"""Heun's step on the probability flow for phase-space Langevin diffusion, critically damped.

It works in the time of the diffusion and for any number of blocks.

The diffusion, forward in the network's time t:
    dx = (-Gamma*beta*x/2 + Minv*beta*m/2) dt + sqrt(Gamma*beta) dw_1
    dm = (-beta*m*nu/2 - beta*x/2) dt + sqrt(beta*nu/Minv) dw_2
with beta = beta_min + t*(beta_max - beta_min)
with Minv = (Gamma - nu)^2/4

The step t0 -> t1 = t0 - h:
    s1 = score(z, t0)
    y = z + h*drift(z, s1, t0)
    s2 = score(y, t1)
    z = z + h/2*(drift(z, s1, t0) + drift(y, s2, t1))
    with h = t0 - t1

Two network calls and no noise per step.  Proven order 2.  This assumes a smooth network, an exact start and bounded
ratios of successive steps.
The local error of a step of length h, exact minus numerical:
    e_x = h^3 * (a long expression: `stepsmith error` prints it)
    e_m = h^3 * (a long expression: `stepsmith error` prints it)
    dx, dm = dz/dtau, tau = -t; sx_m = d s_x/d m; sx_t = d s_x/d t in the network's time t

The network gives a scalar denoiser D(y, sigma) = E[data | data + sigma noise = y], through the exact bridge.
With Sigma the covariance of z given the data and p = Psi(t, START) e the mean of z for unit data,
    score = -Sigma^-1 (z - p D(y, sigma)),   sigma^-2 = p^T Sigma^-1 p,   y = sigma^2 p^T Sigma^-1 z.
Reference: Heun 1900.

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
SAMPLER = "heun-drift"
NETWORK = "denoiser"
NFE = 2
DRAWS = 0
HISTORY = 0
ORDER = 2
WEAK_ORDER = None
STRONG_ORDER = None
COMPONENTS = ("x", "m")
DATA = 0
INPUTS = 1
OUTPUTS = 1
COEFFICIENTS = tuple(
    """
    y1_x y1_m sigma_0 y2_x y2_m y2_d1 sigma_1 x_x x_m x_d1 x_d2 m_x m_m m_d1 m_d2 y_end_x y_end_m
    """.split()
)
SIGMA_COLUMNS = ("sigma_0", "sigma_1")
PARAMS = {"Gamma": 0.01, "nu": 4.01, "kappa": 0.04, "beta_min": 8.0, "beta_max": 8.0}
DIGEST = "6a09439dcb2137e4e6c00115182fcdb4af74e0a23b4d5e67579426ef6afe18fe"
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

    def place(self, t):
        """The places of the times t."""
        return torch.searchsorted(self.times, t)

    def denoiser(self, t):
        """(C_skip, C_out, C_in, sigma) of the denoiser's score at the times t."""
        Z, lead = self.Z[self.place(t)], self.lead[self.place(t)]
        sigma = 1 / lead.norm(dim=(-2, -1))
        tables = -Z.mT @ Z, Z.mT @ lead, sigma[:, None, None] ** 2 * lead.mT @ Z
        return *(M.movedim(0, -1) for M in tables), sigma


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
    law = Law(sde, times)
    skip_0, out_0, inp_0, sigma_0 = law.denoiser(t0)
    h = t0 - t1
    beta_0 = sde.beta(t0)
    skip_1, out_1, inp_1, sigma_1 = law.denoiser(t1)
    beta_1 = sde.beta(t1)

    # A value is its coefficients in (x, m, d1, d2), one row a coefficient, one column a step.
    x, m, d1, d2 = torch.eye(4, dtype=torch.float64)[:, :, None]
    y1 = inp_0[0, 0]*x + inp_0[0, 1]*m
    s1_x = skip_0[0, 0]*x + skip_0[0, 1]*m + out_0[0, 0]*d1
    s1_m = skip_0[1, 0]*x + skip_0[1, 1]*m + out_0[1, 0]*d1
    y__x = ((sde.Gamma*beta_0*h + 2)*x - sde.Minv*beta_0*h*m + sde.Gamma*beta_0*h*s1_x)/2
    y__m = ((beta_0*h*sde.nu + 2)*m + beta_0*h*x + beta_0*h*sde.nu/sde.Minv*s1_m)/2
    y2 = inp_1[0, 0]*y__x + inp_1[0, 1]*y__m
    s2_x = skip_1[0, 0]*y__x + skip_1[0, 1]*y__m + out_1[0, 0]*d2
    s2_m = skip_1[1, 0]*y__x + skip_1[1, 1]*y__m + out_1[1, 0]*d2
    z_x = (
        ((sde.Gamma*beta_0*h + 4)*x - sde.Minv*beta_0*h*m + sde.Gamma*beta_0*h*s1_x + sde.Gamma*beta_1*h*y__x
        - sde.Minv*beta_1*h*y__m + sde.Gamma*beta_1*h*s2_x)/4
    )
    z_m = (
        ((beta_0*h*sde.nu + 4)*m + beta_0*h*x + beta_0*h*sde.nu/sde.Minv*s1_m + beta_1*h*y__x + beta_1*h*sde.nu*y__m
        + beta_1*h*sde.nu/sde.Minv*s2_m)/4
    )
    y_end = inp_1[0, 0]*x + inp_1[0, 1]*m
    columns = (*y1[:2], sigma_0, *y2[:3], sigma_1, *z_x, *z_m, *y_end[:2])
    table = torch.stack(torch.broadcast_tensors(*columns), dim=-1)
    if not table.isfinite().all():
        raise ValueError("float64 does not hold a coefficient of these times and parameters: take milder ones")
    return table


def step(state, c, network, noise=(), history=()):
    """One step of the state (x, m), each (batch, ...); `c` an unbound row of the table.  Returns (state, history)."""
    x, m = state
    y1_x, y1_m, sigma_0, y2_x, y2_m, y2_d1, sigma_1, x_x, x_m, x_d1, x_d2, m_x, m_m, m_d1, m_d2, *_ = c
    y1 = y1_x * x + y1_m * m
    (d1,) = network((y1,), sigma_0)
    y2 = y2_x * x + y2_m * m + y2_d1 * d1
    (d2,) = network((y2,), sigma_1)
    x_new = x_x * x + x_m * m + x_d1 * d1 + x_d2 * d2
    m_new = m_x * x + m_m * m + m_d1 * d1 + m_d2 * d2
    return (x_new, m_new), ()


def nfe(steps):
    """Network calls of a run of `steps` steps."""
    return NFE * steps


def denoise(state, c, network):
    """The mean of the data given the state at the end of the grid; `c` the unbound LAST row.  One network call."""
    x, m = state
    y_end_x, y_end_m = c[15:17]
    sigma_1 = c[6]
    y_end = y_end_x * x + y_end_m * m
    (d_end,) = network((y_end,), sigma_1)
    return (d_end, m)
