"""Conjugate integrator with B = 0 for sub-VP diffusion, linear beta.

The exponential integrator of order one (DDIM on VP).

The diffusion, forward in the network's time t:
    dx = f*x dt + sqrt(g2) dw
with B = beta_min*t + t^2*(beta_max - beta_min)/2
with f = alpha'/alpha, g2 = 2*sigma*(sigma' - f*sigma)
with alpha = exp(-B/2), sigma = 1 - exp(-B)

The step t0 -> t1 = t0 - h:
    z' = P (I - h B(t0)) z + Phi n,   n the network's output at t0 in the frame denoiser,
    P the propagator of dX/dt = (F - G G^T C_skip / 2 - B) X from t0 to t1,
    Phi = int_t1^t0 P(t1, s) G G^T C_out(s) ds / 2,   score = C_skip z + C_out n,
    B = 0

One network call and no noise per step.  Proven order 1.  This assumes a smooth network, an exact start and bounded
ratios of successive steps.
The local error of a step of length h, exact minus numerical:
    e_x = h^2 * K_x*dn/2
    n = the output in the frame denoiser at t0, frozen over the step; dn = its rate dn/dt along the flow
    K = -G G^T C_out/2 of that frame; score = C_skip z + C_out n

The network gives a scalar denoiser D(y, sigma) = E[data | data + sigma noise = y], through the exact bridge.
Reference: arXiv 2310.07894, section 3.

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
SDE = "sub-vp"
SAMPLER = "conjugate"
NETWORK = "denoiser"
NFE = 1
DRAWS = 0
HISTORY = 0
ORDER = 1
WEAK_ORDER = None
STRONG_ORDER = None
COMPONENTS = ("x",)
DATA = 0
INPUTS = 1
OUTPUTS = 1
COEFFICIENTS = ("y_x", "sigma_hat_0", "x_x", "x_d", "y_end_x", "sigma_hat_1")
SIGMA_COLUMNS = ("sigma_hat_0", "sigma_hat_1")
PARAMS = {"beta_min": 0.1, "beta_max": 20.0}
DIGEST = "9cfa57527653be0d39650f2275aa3a29901d136c13014d105162c41ef129c883"
START, END = 0.0, 1.0  # the span of the network's time


class Diffusion:
    """z_t = alpha data + sigma noise."""

    def __init__(self, beta_min, beta_max):
        if not (beta_min > 0 and beta_max > 0):
            raise ValueError("the parameters must fulfil beta_min > 0, beta_max > 0")
        self.beta_min, self.beta_max = beta_min, beta_max

    def B(self, t):
        return self.beta_min*t + t**2*(self.beta_max - self.beta_min)/2

    def alpha(self, t):
        """The factor of the data in z_t."""
        B = self.B(t)
        return torch.exp(-B/2)

    def sigma(self, t):
        """The standard deviation of z_t given the data."""
        B = self.B(t)
        return -torch.expm1(-B)


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
    sigma_hat_1 = sigma_1/alpha_1

    # A value is its coefficients in (x, d), one row a coefficient, one column a step.
    x, d = torch.eye(2, dtype=torch.float64)[:, :, None]
    y = x/alpha_0
    x_new = sigma_1/sigma_0*x + (alpha_1 - alpha_0*sigma_1/sigma_0)*d
    y_end = x/alpha_1
    columns = (y[0], sigma_hat_0, *x_new, y_end[0], sigma_hat_1)
    table = torch.stack(torch.broadcast_tensors(*columns), dim=-1)
    if not table.isfinite().all():
        raise ValueError("float64 does not hold a coefficient of these times and parameters: take milder ones")
    return table


def step(state, c, network, noise=(), history=()):
    """One step of the state x, (batch, ...); `c` an unbound row of the table.  Returns (state, history)."""
    (x,) = state
    y_x, sigma_hat_0, x_x, x_d, *_ = c
    y = y_x * x
    (d,) = network((y,), sigma_hat_0)
    x_new = x_x * x + x_d * d
    return (x_new,), ()


def nfe(steps):
    """Network calls of a run of `steps` steps."""
    return NFE * steps


def denoise(state, c, network):
    """The mean of the data given the state at the end of the grid; `c` the unbound LAST row.  One network call."""
    (x,) = state
    y_end_x, sigma_hat_1 = c[4:6]
    y_end = y_end_x * x
    (d_end,) = network((y_end,), sigma_hat_1)
    return (d_end,)
