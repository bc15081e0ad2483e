"""EDM's Heun step for variance-preserving diffusion, linear beta.

The trapezoidal rule in sigma/alpha.

The diffusion, forward in the network's time t:
    dx = -beta*x/2 dt + sqrt(beta) dw
with beta = beta_min + t*(beta_max - beta_min)

The step t0 -> t1 = t0 - h:
    E = eps(z, t0)
    y = alpha(t1)/alpha(t0)*z + alpha(t1)*d*E
    G = eps(y, t1)
    z = alpha(t1)/alpha(t0)*z + alpha(t1)*d/2*(E + G)
    with d = rho(t1) - rho(t0)

Two network calls and no noise per step.  Proven order 2.  This assumes a smooth network, an exact start and bounded
ratios of successive steps.
The local error of a step of length h, exact minus numerical:
    e_x = h^3 * (D1*(3*D_x - 5)/12 - D2/12)
    e is in units of alpha at t1; h = lambda(t1) - lambda(t0), lambda = log(alpha/sigma)
    D1, D2, ... = the derivatives of the data prediction D in lambda along the flow; D_x = its derivative in x/alpha

The network gives a scalar denoiser D(y, sigma) = E[data | data + sigma noise = y], through the exact bridge.
Reference: arXiv 2206.00364, algorithm 1.

To use it, with decreasing times, a network and the shape (batch, ...) of a component:
    table, L = coefficients(times), start(times[0])
    state = tuple(torch.einsum("ij,j...->i...", L, torch.randn(len(L), *shape, dtype=torch.float64)))
    for row in table:
        state, _ = step(state, row.unbind(), network)
    data = denoise(state, table[-1].unbind(), network)[DATA]
"""

# Certified at 3 points (seed 1): table to 1e-12 and start to 1e-12 of balls, steps to 1e-11 of the program.

import torch

API = 1
SDE = "vp"
SAMPLER = "heun"
NETWORK = "denoiser"
NFE = 2
DRAWS = 0
HISTORY = 0
ORDER = 2
WEAK_ORDER = None
STRONG_ORDER = None
COMPONENTS = ("x",)
DATA = 0
INPUTS = 1
OUTPUTS = 1
COEFFICIENTS = ("y1_x", "sigma_hat_0", "y2_x", "y2_d1", "sigma_hat_1", "x_x", "x_d1", "x_d2", "y_end_x")
SIGMA_COLUMNS = ("sigma_hat_0", "sigma_hat_1")
PARAMS = {"beta_min": 0.1, "beta_max": 20.0}
DIGEST = "cda86bb694135d5eae439ff9aecb7b002aa8b19c4c7a6216093ed2282b099475"
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
    alpha_0, sigma_0 = sde.alpha(t0), sde.sigma(t0)
    sigma_hat_0 = sigma_0/alpha_0
    alpha_1, sigma_1 = sde.alpha(t1), sde.sigma(t1)
    d = sigma_1/alpha_1 - sigma_0/alpha_0
    sigma_hat_1 = sigma_1/alpha_1

    # A value is its coefficients in (x, d1, d2), one row a coefficient, one column a step.
    x, d1, d2 = torch.eye(3, dtype=torch.float64)[:, :, None]
    y1 = x/alpha_0
    E = (x - alpha_0*d1)/sigma_0
    y_ = alpha_1*(x/alpha_0 + d*E)
    y2 = y_/alpha_1
    G = (y_ - alpha_1*d2)/sigma_1
    z = alpha_1/2*(2/alpha_0*x + d*E + d*G)
    y_end = x/alpha_1
    columns = (y1[0], sigma_hat_0, *y2[:2], sigma_hat_1, *z, y_end[0])
    table = torch.stack(torch.broadcast_tensors(*columns), dim=-1)
    if not table.isfinite().all():
        raise ValueError("float64 does not hold a coefficient of these times and parameters: take milder ones")
    return table


def step(state, c, network, noise=(), history=()):
    """One step of the state x, (batch, ...); `c` an unbound row of the table.  Returns (state, history)."""
    (x,) = state
    y1_x, sigma_hat_0, y2_x, y2_d1, sigma_hat_1, x_x, x_d1, x_d2, *_ = c
    y1 = y1_x * x
    (d1,) = network((y1,), sigma_hat_0)
    y2 = y2_x * x + y2_d1 * d1
    (d2,) = network((y2,), sigma_hat_1)
    x_new = x_x * x + x_d1 * d1 + x_d2 * d2
    return (x_new,), ()


def nfe(steps):
    """Network calls of a run of `steps` steps."""
    return NFE * steps


def denoise(state, c, network):
    """The mean of the data given the state at the end of the grid; `c` the unbound LAST row.  One network call."""
    (x,) = state
    y_end_x = c[8]
    sigma_hat_1 = c[4]
    y_end = y_end_x * x
    (d_end,) = network((y_end,), sigma_hat_1)
    return (d_end,)
