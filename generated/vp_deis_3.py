"""DEIS of order 3 in log rho for variance-preserving diffusion, linear beta.

As diffusers ships it.

The diffusion, forward in the network's time t:
    dx = -beta*x/2 dt + sqrt(beta) dw
with beta = beta_min + t*(beta_max - beta_min)

The step t0 -> t1 = t0 - h:
    z' = P z + sum_k M_k r^(k),   P the propagator of dz/dt = (F - G G^T C_skip/2) z from t0 to t1,
    M_k = int_t1^t0 P(t1, s) G G^T C_out(s) (u(s) - u(t0))^k/k! ds / 2,   score = C_skip z + C_out r,
    r^(k) the derivatives in u at t0 of the polynomial through the last 3 values of r,
    u = -log(sigma_hat), sigma_hat the effective sigma: sigma/alpha of one block,
    C_skip = 0, C_out = -R^-T with gDDIM's R (sigma of one block), r epsilon

One network call and no noise per step.  Proven order 2 (a single step after the first ones has order 3).  This
assumes a smooth network, an exact start and bounded ratios of successive steps.
The local error of a step of length h, exact minus numerical:
    e_x = h^4 * D3*k_x*(6*r1^2*r2 + 6*r1^2 + 4*r1*r2 + 8*r1 + 3)/72
    h = u(t1) - u(t0); the lengths of the steps before it were r1 h, r1 r2 h
    k_x, ... = the change of the blocks for a unit of r and a unit of u, k = -G G^T C_out/(2 du/dt)
    D1, D2, ... = the derivatives of r in u along the flow

The network gives a scalar denoiser D(y, sigma) = E[data | data + sigma noise = y], through the exact bridge.
Reference: arXiv 2204.13902; diffusers DEISMultistepScheduler.

To use it, with decreasing times, a network and the shape (batch, ...) of a component:
    table, L = coefficients(times), start(times[0])
    state = tuple(torch.einsum("ij,j...->i...", L, torch.randn(len(L), *shape, dtype=torch.float64)))
    history = tuple(torch.zeros(shape) for _ in range(HISTORY))
    for row in table:
        state, history = step(state, row.unbind(), network, (), history)
    data = denoise(state, table[-1].unbind(), network)[DATA]
"""

# Certified at 3 points (seed 1): table to 1e-12 and start to 1e-12 of balls, steps to 1e-11 of the program.

import math

import torch

API = 1
SDE = "vp"
SAMPLER = "deis-3"
NETWORK = "denoiser"
NFE = 1
DRAWS = 0
HISTORY = 2
ORDER = 2
WEAK_ORDER = None
STRONG_ORDER = None
COMPONENTS = ("x",)
DATA = 0
INPUTS = 1
OUTPUTS = 1
COEFFICIENTS = ("y_x", "sigma_hat_0", "e0_x", "e0_d", "x_x", "x_e_m1", "x_e_m2", "x_d", "y_end_x", "sigma_hat_1")
SIGMA_COLUMNS = ("sigma_hat_0", "sigma_hat_1")
PARAMS = {"beta_min": 0.1, "beta_max": 20.0}
DIGEST = "544d0661e27da86dea789df08c587f0377cf1303ca6754b932055054e0c7705e"
START, END = 0.0, 1.0  # the span of the network's time


class Diffusion:
    """z_t = alpha data + sigma noise."""

    def __init__(self, beta_min, beta_max):
        if not (beta_min > 0 and beta_max > 0):
            raise ValueError("the parameters must fulfil beta_min > 0, beta_max > 0")
        self.beta_min, self.beta_max = beta_min, beta_max

    def alpha(self, t):
        """The factor of the data in z_t."""
        return torch.exp(-t*(self.beta_min + t*(self.beta_max - self.beta_min)/2)/2)

    def sigma(self, t):
        """The standard deviation of z_t given the data."""
        return torch.sqrt(-torch.expm1(-t*(self.beta_min + t*(self.beta_max - self.beta_min)/2)))


def phi(k, x):
    """phi_k(x) = 1/k! + x/(k + 1)! + x^2/(k + 2)! + ... = (phi_(k-1)(x) - 1/(k - 1)!)/x, phi_0 = exp."""
    inside, outside = 0.0, torch.exp(x)
    for j in reversed(range(24)):
        inside = inside * x + 1 / math.factorial(j + k)
    for j in range(k):
        outside = (outside - 1 / math.factorial(j)) / x
    return torch.where(x.abs() < 2, inside, outside)


def since(row, gap):
    """The gap from this row on, infinite in the rows before: a difference across it vanishes there."""
    return torch.cat((torch.full_like(gap[:row], torch.inf), gap[row:]))


def start(time, /, **params):
    """The lower factor of the covariance at `time`, (*time.shape, n, n); a run starts from it times normals."""
    sde, t = Diffusion(**{**PARAMS, **params}), torch.as_tensor(time, dtype=torch.float64)
    return sde.sigma(t)[..., None, None]


def start_data(time, /, **params):
    """What the data are multiplied with in the mean of the state at `time`, (*time.shape, n, data blocks)."""
    sde, t = Diffusion(**{**PARAMS, **params}), torch.as_tensor(time, dtype=torch.float64)
    return sde.alpha(t)[..., None, None]


def transition(time, before, /, **params):
    """Psi(time, before), (*time.shape, n, n): the state at `time` is this times that at `before`, and noise."""
    sde = Diffusion(**{**PARAMS, **params})
    t, s = torch.broadcast_tensors(*(torch.as_tensor(each, dtype=torch.float64) for each in (time, before)))
    if not (s < t).all():
        raise ValueError("before must be earlier than time")
    return (sde.alpha(t) / sde.alpha(s))[..., None, None]


def coefficients(times, /, **params):
    """The table of coefficients, (len(times) - 1, len(COEFFICIENTS)); row i is times[i] -> times[i + 1]."""
    sde, times = Diffusion(**{**PARAMS, **params}), torch.as_tensor(times, dtype=torch.float64).cpu()
    if not (times.ndim == 1 < len(times) and (times.diff() < 0).all() and START < times[-1] and times[0] <= END):
        raise ValueError(f"times must be at least two numbers that decrease strictly within ({START}, {END}]")
    t0, t1 = times[:-1], times[1:]
    t_m1 = torch.cat((times[:1].expand(1), t0))[: len(t0)]
    t_m2 = torch.cat((times[:1].expand(2), t0))[: len(t0)]
    alpha_0, sigma_0 = sde.alpha(t0), sde.sigma(t0)
    sigma_hat_0 = sigma_0/alpha_0
    alpha_1, sigma_1 = sde.alpha(t1), sde.sigma(t1)
    sigma_hat_1 = sigma_1/alpha_1
    du_1_0 = torch.log(sigma_hat_0/sigma_hat_1)
    moment_0 = -sigma_1*torch.expm1(du_1_0)
    moment_1 = -du_1_0**2*sigma_1*phi(2, du_1_0)
    moment_2 = -du_1_0**3*sigma_1*phi(3, du_1_0)
    alpha_m1, sigma_m1 = sde.alpha(t_m1), sde.sigma(t_m1)
    sigma_hat_m1 = sigma_m1/alpha_m1
    du_0_m1 = torch.log(sigma_hat_m1/sigma_hat_0)
    gap_0_m1 = since(1, du_0_m1)
    alpha_m2, sigma_m2 = sde.alpha(t_m2), sde.sigma(t_m2)
    sigma_hat_m2 = sigma_m2/alpha_m2
    du_0_m2 = torch.log(sigma_hat_m2/sigma_hat_0)
    gap_0_m2 = since(2, du_0_m2)
    du_m1_m2 = torch.log(sigma_hat_m2/sigma_hat_m1)
    gap_m1_m2 = since(2, du_m1_m2)

    # A value is its coefficients in (x, e_m1, e_m2, d), one row a coefficient, one column a step.
    x, e_m1, e_m2, d = torch.eye(4, dtype=torch.float64)[:, :, None]
    y = x/alpha_0
    e0 = (x - alpha_0*d)/sigma_0
    d01 = (e0 - e_m1)/gap_0_m1
    d12 = (e_m1 - e_m2)/gap_m1_m2
    d012 = (d01 - d12)/gap_0_m2
    d1 = d01 + du_0_m1*d012
    d2 = 2*d012
    x_new = alpha_1/alpha_0*x + moment_0*e0 + moment_1*d1 + moment_2*d2
    y_end = x/alpha_1
    columns = (y[0], sigma_hat_0, e0[0], e0[3], *x_new, y_end[0], sigma_hat_1)
    table = torch.stack(torch.broadcast_tensors(*columns), dim=-1)
    if not table.isfinite().all():
        raise ValueError("float64 does not hold a coefficient of these times and parameters: take milder ones")
    return table


def step(state, c, network, noise=(), history=()):
    """One step of the state x, (batch, ...); `c` an unbound row of the table.  Returns (state, history)."""
    (x,) = state
    e_m1, e_m2 = history
    y_x, sigma_hat_0, e0_x, e0_d, x_x, x_e_m1, x_e_m2, x_d, *_ = c
    y = y_x * x
    (d,) = network((y,), sigma_hat_0)
    x_new = x_x * x + x_e_m1 * e_m1 + x_e_m2 * e_m2 + x_d * d
    e0 = e0_x * x + e0_d * d
    return (x_new,), (e0, e_m1)


def nfe(steps):
    """Network calls of a run of `steps` steps."""
    return NFE * steps


def denoise(state, c, network):
    """The mean of the data given the state at the end of the grid; `c` the unbound LAST row.  One network call."""
    (x,) = state
    y_end_x, sigma_hat_1 = c[8:10]
    y_end = y_end_x * x
    (d_end,) = network((y_end,), sigma_hat_1)
    return (d_end,)
