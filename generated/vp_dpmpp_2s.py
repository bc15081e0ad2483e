"""DPM-Solver++(2S) for variance-preserving diffusion, linear beta.

The midpoint rule in lambda, as k-diffusion ships it.

The diffusion, forward in the network's time t:
    dx = -beta*x/2 dt + sqrt(beta) dw
with beta = beta_min + t*(beta_max - beta_min)

The step t0 -> t1 = t0 - h:
    D = x0(z, t0)
    u = sigma(s)/sigma(t0)*z - alpha(s)*expm1(-h/2)*D
    E = x0(u, s)
    z = sigma(t1)/sigma(t0)*z - alpha(t1)*expm1(-h)*E
    with h = lambda(t1) - lambda(t0)
         s = t((lambda(t0) + lambda(t1))/2)

Two network calls and no noise per step.  Proven order 2.  This assumes a smooth network, an exact start and bounded
ratios of successive steps.
The local error of a step of length h, exact minus numerical:
    e_x = h^3 * (D1*(3*D_x + 2)/24 + D2/24)
    e is in units of alpha at t1; h = lambda(t1) - lambda(t0), lambda = log(alpha/sigma)
    D1, D2, ... = the derivatives of the data prediction D in lambda along the flow; D_x = its derivative in x/alpha

The network gives a scalar denoiser D(y, sigma) = E[data | data + sigma noise = y], through the exact bridge.
Reference: arXiv 2211.01095, algorithm 1.

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
SAMPLER = "dpmpp-2s"
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
COEFFICIENTS = ("y1_x", "sigma_hat_0", "y2_x", "y2_d1", "sigma_hat_s", "x_x", "x_d2", "y_end_x", "sigma_hat_1")
SIGMA_COLUMNS = ("sigma_hat_0", "sigma_hat_s", "sigma_hat_1")
PARAMS = {"beta_min": 0.1, "beta_max": 20.0}
DIGEST = "3c7d2e48bd4a97be464690878f3b1b2854e0175af2ace76e21a418329a8d4605"
START, END = 0.0, 1.0  # the span of the network's time


class Diffusion:
    """z_t = alpha data + sigma noise."""

    def __init__(self, beta_min, beta_max):
        if not (beta_min > 0 and beta_max > 0):
            raise ValueError("the parameters must fulfil beta_min > 0, beta_max > 0")
        self.beta_min, self.beta_max = beta_min, beta_max

    def beta(self, t):
        return self.beta_min + t*(self.beta_max - self.beta_min)

    def GG(self, t):
        beta = self.beta(t)
        return beta

    def alpha(self, t):
        """The factor of the data in z_t."""
        return torch.exp(-t*(self.beta_min + t*(self.beta_max - self.beta_min)/2)/2)

    def sigma(self, t):
        """The standard deviation of z_t given the data."""
        return torch.sqrt(-torch.expm1(-t*(self.beta_min + t*(self.beta_max - self.beta_min)/2)))

    def time_of(self, target):
        """The time at which log(alpha/sigma) = target: Newton's iteration, bisection where it leaves its bracket."""
        low, high = torch.full_like(target, START), torch.full_like(target, END)
        t = (low + high) / 2
        for _ in range(60):
            sigma = self.sigma(t)
            gap = torch.log(self.alpha(t) / sigma) - target
            low, high = torch.where(gap > 0, t, low), torch.where(gap > 0, high, t)
            newton = t + 2 * gap * sigma**2 / self.GG(t)  # log(alpha/sigma) falls by G^2/(2 sigma^2) a unit of time
            t = torch.where((newton >= low) & (newton <= high), newton, (low + high) / 2)
        return t


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
    lambda_0 = torch.log(alpha_0/sigma_0)
    alpha_1, sigma_1 = sde.alpha(t1), sde.sigma(t1)
    lambda_1 = torch.log(alpha_1/sigma_1)
    s = sde.time_of(lambda_0/2 + lambda_1/2)
    alpha_s, sigma_s = sde.alpha(s), sde.sigma(s)
    h = lambda_1 - lambda_0
    sigma_hat_s = sigma_s/alpha_s
    sigma_hat_1 = sigma_1/alpha_1

    # A value is its coefficients in (x, d1, d2), one row a coefficient, one column a step.
    x, d1, d2 = torch.eye(3, dtype=torch.float64)[:, :, None]
    y1 = x/alpha_0
    u = sigma_s/sigma_0*x - alpha_s*torch.expm1(-h/2)*d1
    y2 = u/alpha_s
    z = sigma_1/sigma_0*x - alpha_1*torch.expm1(-h)*d2
    y_end = x/alpha_1
    columns = (y1[0], sigma_hat_0, *y2[:2], sigma_hat_s, z[0], z[2], y_end[0], sigma_hat_1)
    table = torch.stack(torch.broadcast_tensors(*columns), dim=-1)
    if not table.isfinite().all():
        raise ValueError("float64 does not hold a coefficient of these times and parameters: take milder ones")
    return table


def step(state, c, network, noise=(), history=()):
    """One step of the state x, (batch, ...); `c` an unbound row of the table.  Returns (state, history)."""
    (x,) = state
    y1_x, sigma_hat_0, y2_x, y2_d1, sigma_hat_s, x_x, x_d2, *_ = c
    y1 = y1_x * x
    (d1,) = network((y1,), sigma_hat_0)
    y2 = y2_x * x + y2_d1 * d1
    (d2,) = network((y2,), sigma_hat_s)
    x_new = x_x * x + x_d2 * d2
    return (x_new,), ()


def nfe(steps):
    """Network calls of a run of `steps` steps."""
    return NFE * steps


def denoise(state, c, network):
    """The mean of the data given the state at the end of the grid; `c` the unbound LAST row.  One network call."""
    (x,) = state
    y_end_x, sigma_hat_1 = c[7:9]
    y_end = y_end_x * x
    (d_end,) = network((y_end,), sigma_hat_1)
    return (d_end,)
