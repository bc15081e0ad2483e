"""DPM-Solver++(2M) for variance-preserving diffusion, linear beta.

As k-diffusion and diffusers ship it.

The diffusion, forward in the network's time t:
    dx = -beta*x/2 dt + sqrt(beta) dw
with beta = beta_min + t*(beta_max - beta_min)

The step t0 -> t1 = t0 - h:
    D = x0(z, t0)
    z = sigma(t1)/sigma(t0)*z - alpha(t1)*expm1(-h)*((1 + 1/(2*r))*D - 1/(2*r)*D[-1])
    with h = lambda(t1) - lambda(t0)
         r = (lambda(t0) - lambda(t_m1))/h
    row 0:
        D = x0(z, t0)
        z = sigma(t1)/sigma(t0)*z - alpha(t1)*expm1(-h)*D

One network call and no noise per step.  Proven order 2.  This assumes a smooth network, an exact start and bounded
ratios of successive steps.
The local error of a step of length h, exact minus numerical:
    e_x = h^3 * (D1/12 + D2*(3*r1 + 2)/12)
    e is in units of alpha at t1; h = lambda(t1) - lambda(t0), lambda = log(alpha/sigma); the steps before it were
    r1 h, r1 r2 h
    D1, D2, ... = the derivatives of the data prediction D in lambda along the flow; D_x = its derivative in x/alpha

The network gives a scalar denoiser D(y, sigma) = E[data | data + sigma noise = y], through the exact bridge.
Reference: arXiv 2211.01095, algorithm 2.

To use it, with decreasing times, a network and the shape (batch, ...) of a component:
    table, L = coefficients(times), start(times[0])
    state = tuple(torch.einsum("ij,j...->i...", L, torch.randn(len(L), *shape, dtype=torch.float64)))
    history = tuple(torch.zeros(shape) for _ in range(HISTORY))
    for row in table:
        state, history = step(state, row.unbind(), network, (), history)
    data = denoise(state, table[-1].unbind(), network)[DATA]
"""

# Certified at 3 points (seed 1): table to 1e-12 and start to 1e-12 of balls, steps to 1e-11 of the program.

import torch

API = 1
SDE = "vp"
SAMPLER = "dpmpp-2m"
NETWORK = "denoiser"
NFE = 1
DRAWS = 0
HISTORY = 1
ORDER = 2
WEAK_ORDER = None
STRONG_ORDER = None
COMPONENTS = ("x",)
DATA = 0
INPUTS = 1
OUTPUTS = 1
COEFFICIENTS = ("y_x", "sigma_hat_0", "x_x", "x_D_m1", "x_d", "y_end_x", "sigma_hat_1")
SIGMA_COLUMNS = ("sigma_hat_0", "sigma_hat_1")
PARAMS = {"beta_min": 0.1, "beta_max": 20.0}
DIGEST = "ed6bb25aa60b15b9670085f961dd0b4632148cd886330bd2edf642ee431f7819"
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


def other_rows(sde, t0, t1, t_m1):
    """The columns of the rows in between."""
    alpha_0, sigma_0 = sde.alpha(t0), sde.sigma(t0)
    sigma_hat_0 = sigma_0/alpha_0
    alpha_1, sigma_1 = sde.alpha(t1), sde.sigma(t1)
    lambda_0 = torch.log(alpha_0/sigma_0)
    lambda_1 = torch.log(alpha_1/sigma_1)
    h = lambda_1 - lambda_0
    alpha_m1, sigma_m1 = sde.alpha(t_m1), sde.sigma(t_m1)
    lambda_m1 = torch.log(alpha_m1/sigma_m1)
    r = (lambda_0 - lambda_m1)/h
    sigma_hat_1 = sigma_1/alpha_1

    # A value is its coefficients in (x, D_m1, d), one row a coefficient, one column a step.
    x, D_m1, d = torch.eye(3, dtype=torch.float64)[:, :, None]
    y = x/alpha_0
    z = sigma_1/sigma_0*x - alpha_1*(1 + 1/(2*r))*torch.expm1(-h)*d + alpha_1*torch.expm1(-h)/(2*r)*D_m1
    y_end = x/alpha_1
    columns = (y[0], sigma_hat_0, *z, y_end[0], sigma_hat_1)
    return torch.stack(torch.broadcast_tensors(*columns), dim=-1)


def first_row(sde, t0, t1, t_m1):
    """The columns of the first row."""
    alpha_0, sigma_0 = sde.alpha(t0), sde.sigma(t0)
    sigma_hat_0 = sigma_0/alpha_0
    alpha_1, sigma_1 = sde.alpha(t1), sde.sigma(t1)
    lambda_0 = torch.log(alpha_0/sigma_0)
    lambda_1 = torch.log(alpha_1/sigma_1)
    h = lambda_1 - lambda_0
    sigma_hat_1 = sigma_1/alpha_1

    # A value is its coefficients in (x, d), one row a coefficient, one column a step.
    x, d = torch.eye(2, dtype=torch.float64)[:, :, None]
    y = x/alpha_0
    z = sigma_1/sigma_0*x - alpha_1*torch.expm1(-h)*d
    y_end = x/alpha_1
    zero = torch.zeros(1, 1, dtype=torch.float64)
    columns = (y[0], sigma_hat_0, z[0], zero[0], z[1], y_end[0], sigma_hat_1)
    return torch.stack(torch.broadcast_tensors(*columns), dim=-1)


def coefficients(times, /, **params):
    """The table of coefficients, (len(times) - 1, len(COEFFICIENTS)); row i is times[i] -> times[i + 1]."""
    sde, times = Diffusion(**{**PARAMS, **params}), torch.as_tensor(times, dtype=torch.float64).cpu()
    if not (times.ndim == 1 < len(times) and (times.diff() < 0).all() and START < times[-1] and times[0] <= END):
        raise ValueError(f"times must be at least two numbers that decrease strictly within ({START}, {END}]")
    t0, t1 = times[:-1], times[1:]
    t_m1 = torch.cat((times[:1].expand(1), t0))[: len(t0)]
    parts = (
        (first_row, slice(0, 1)),
        (other_rows, slice(1, None)),
    )
    given = (t0, t1, t_m1)
    table = torch.cat([rows(sde, *(t[i] for t in given)) for rows, i in parts if len(t0[i])])
    if not table.isfinite().all():
        raise ValueError("float64 does not hold a coefficient of these times and parameters: take milder ones")
    return table


def step(state, c, network, noise=(), history=()):
    """One step of the state x, (batch, ...); `c` an unbound row of the table.  Returns (state, history)."""
    (x,) = state
    (D_m1,) = history
    y_x, sigma_hat_0, x_x, x_D_m1, x_d, *_ = c
    y = y_x * x
    (d,) = network((y,), sigma_hat_0)
    x_new = x_x * x + x_D_m1 * D_m1 + x_d * d
    return (x_new,), (d,)


def nfe(steps):
    """Network calls of a run of `steps` steps."""
    return NFE * steps


def denoise(state, c, network):
    """The mean of the data given the state at the end of the grid; `c` the unbound LAST row.  One network call."""
    (x,) = state
    y_end_x, sigma_hat_1 = c[5:7]
    y_end = y_end_x * x
    (d_end,) = network((y_end,), sigma_hat_1)
    return (d_end,)
