"""DPM-Solver++(2M) for EDM's diffusion, sigma = t.

As k-diffusion and diffusers ship it.

The diffusion, forward in the network's time t:
    dx = sqrt(2)*sqrt(t) dw

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

The network gives an EDM-preconditioned network F, D(y) = c_skip y + c_out F(c_in y, ln(sigma)/4), through the exact
bridge.
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
SDE = "edm"
SAMPLER = "dpmpp-2m"
NETWORK = "edm"
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
COEFFICIENTS = ("y_x", "noise_0", "D_x", "D_d", "x_x", "x_D_m1", "x_d", "y_end_x", "noise_1", "mean_x", "mean_d_end")
SIGMA_COLUMNS = ()
PARAMS = {"sigma_data": 0.5}
DIGEST = "563aabe70605669e3efcef5b582c97a28b417d2f9e17f0588527fb561538b40f"
START, END = 0.0, 80.0  # the span of the network's time


class Diffusion:
    """z_t = alpha data + sigma noise."""

    def __init__(self, sigma_data):
        self.sigma_data = sigma_data

    def sigma(self, t):
        """The standard deviation of z_t given the data."""
        return t


def start(time, /, **params):
    """The lower factor of the covariance at `time`, (*time.shape, n, n); a run starts from it times normals."""
    sde, t = Diffusion(**{**PARAMS, **params}), torch.as_tensor(time, dtype=torch.float64)
    return sde.sigma(t)[..., None, None]


def start_data(time, /, **params):
    """What the data are multiplied with in the mean of the state at `time`, (*time.shape, n, data blocks)."""
    return torch.eye(1, dtype=torch.float64)[:, [0]].expand(*torch.as_tensor(time).shape, -1, -1)


def transition(time, before, /, **params):
    """Psi(time, before), (*time.shape, n, n): the state at `time` is this times that at `before`, and noise."""
    return torch.eye(1, dtype=torch.float64).expand(*torch.as_tensor(time).shape, -1, -1)


def other_rows(sde, t0, t1, t_m1):
    """The columns of the rows in between."""
    sigma_0 = sde.sigma(t0)
    noise_0 = torch.log(sigma_0)/4
    sigma_1 = sde.sigma(t1)
    lambda_0 = -torch.log(sigma_0)
    lambda_1 = -torch.log(sigma_1)
    h = lambda_1 - lambda_0
    sigma_m1 = sde.sigma(t_m1)
    lambda_m1 = -torch.log(sigma_m1)
    r = (lambda_0 - lambda_m1)/h
    noise_1 = torch.log(sigma_1)/4
    sigma_end = torch.exp(4*noise_1)
    width_end = torch.sqrt(sde.sigma_data**2 + sigma_end**2)

    # A value is its coefficients in (x, D_m1, d, d_end), one row a coefficient, one column a step.
    x, D_m1, d, d_end = torch.eye(4, dtype=torch.float64)[:, :, None]
    y = x/(torch.sqrt(sigma_0**2 + sde.sigma_data**2))
    D = (
        sde.sigma_data**2/(sigma_0**2 + sde.sigma_data**2)*x
        + sigma_0*sde.sigma_data/torch.sqrt(sigma_0**2 + sde.sigma_data**2)*d
    )
    z = sigma_1/sigma_0*x - (1 + 1/(2*r))*torch.expm1(-h)*D + torch.expm1(-h)/(2*r)*D_m1
    y_end = x/(torch.sqrt(sigma_1**2 + sde.sigma_data**2))
    mean = sde.sigma_data/width_end*(sde.sigma_data/torch.sqrt(sigma_1**2 + sde.sigma_data**2)*x + sigma_end*d_end)
    columns = (y[0], noise_0, D[0], D[2], *z[:3], y_end[0], noise_1, mean[0], mean[3])
    return torch.stack(torch.broadcast_tensors(*columns), dim=-1)


def first_row(sde, t0, t1, t_m1):
    """The columns of the first row."""
    sigma_0 = sde.sigma(t0)
    noise_0 = torch.log(sigma_0)/4
    sigma_1 = sde.sigma(t1)
    lambda_0 = -torch.log(sigma_0)
    lambda_1 = -torch.log(sigma_1)
    h = lambda_1 - lambda_0
    noise_1 = torch.log(sigma_1)/4
    sigma_end = torch.exp(4*noise_1)
    width_end = torch.sqrt(sde.sigma_data**2 + sigma_end**2)

    # A value is its coefficients in (x, d, d_end), one row a coefficient, one column a step.
    x, d, d_end = torch.eye(3, dtype=torch.float64)[:, :, None]
    y = x/(torch.sqrt(sigma_0**2 + sde.sigma_data**2))
    D = (
        sde.sigma_data**2/(sigma_0**2 + sde.sigma_data**2)*x
        + sigma_0*sde.sigma_data/torch.sqrt(sigma_0**2 + sde.sigma_data**2)*d
    )
    z = sigma_1/sigma_0*x - torch.expm1(-h)*D
    y_end = x/(torch.sqrt(sigma_1**2 + sde.sigma_data**2))
    mean = sde.sigma_data/width_end*(sde.sigma_data/torch.sqrt(sigma_1**2 + sde.sigma_data**2)*x + sigma_end*d_end)
    zero = torch.zeros(1, 1, dtype=torch.float64)
    columns = (y[0], noise_0, *D[:2], z[0], zero[0], z[1], y_end[0], noise_1, mean[0], mean[2])
    return torch.stack(torch.broadcast_tensors(*columns), dim=-1)


def coefficients(times, /, **params):
    """The table of coefficients, (len(times) - 1, len(COEFFICIENTS)); row i is times[i] -> times[i + 1]."""
    sde, times = Diffusion(**{**PARAMS, **params}), torch.as_tensor(times, dtype=torch.float64).cpu()
    if not (times.ndim == 1 < len(times) and (times.diff() < 0).all() and START < times[-1] and times[0] < torch.inf):
        raise ValueError(f"times must be at least two numbers that decrease strictly above {START}")
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
    y_x, noise_0, D_x, D_d, x_x, x_D_m1, x_d, *_ = c
    y = y_x * x
    (d,) = network((y,), noise_0)
    x_new = x_x * x + x_D_m1 * D_m1 + x_d * d
    D = D_x * x + D_d * d
    return (x_new,), (D,)


def nfe(steps):
    """Network calls of a run of `steps` steps."""
    return NFE * steps


def denoise(state, c, network):
    """The mean of the data given the state at the end of the grid; `c` the unbound LAST row.  One network call."""
    (x,) = state
    y_end_x, noise_1, mean_x, mean_d_end = c[7:11]
    y_end = y_end_x * x
    (d_end,) = network((y_end,), noise_1)
    mean = mean_x * x + mean_d_end * d_end
    return (mean,)
