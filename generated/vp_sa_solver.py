"""SA-Solver for variance-preserving diffusion, linear beta.

Predictor and corrector of order 2, data prediction, constant tau, as diffusers ships it.

The diffusion, forward in the network's time t:
    dx = -beta*x/2 dt + sqrt(beta) dw
with beta = beta_min + t*(beta_max - beta_min)

The step t0 -> t1 = t0 - h:
    p = sigma(t1)/sigma(t0)*exp(-tau**2*h)*z - alpha(t1)*expm1(-k)*D[-1] + alpha(t1)*k*h/(2*h0)*(D[-1] - D[-2]) + sigma(t1)*sqrt(-expm1(-2*tau**2*h))*xi
    D = x0(p, t1)
    z = sigma(t1)/sigma(t0)*exp(-tau**2*h)*z - alpha(t1)*expm1(-k)*D[-1] + alpha(t1)*k/2*(D - D[-1]) + sigma(t1)*sqrt(-expm1(-2*tau**2*h))*xi
    with h = lambda(t1) - lambda(t0)
         k = (1 + tau**2)*h
         h0 = lambda(t0) - lambda(t_m1)
    row 0:
        D[-1] = x0(z, t0)
        p = sigma(t1)/sigma(t0)*exp(-tau**2*h)*z - alpha(t1)*expm1(-k)*D[-1] + sigma(t1)*sqrt(-expm1(-2*tau**2*h))*xi
        D = x0(p, t1)
        z = sigma(t1)/sigma(t0)*exp(-tau**2*h)*z - alpha(t1)*expm1(-k)*D[-1] + alpha(t1)*k/2*(D - D[-1]) + sigma(t1)*sqrt(-expm1(-2*tau**2*h))*xi
    the last row:
        z = sigma(t1)/sigma(t0)*exp(-tau**2*h)*z - alpha(t1)*expm1(-k)*D[-1] + sigma(t1)*sqrt(-expm1(-2*tau**2*h))*xi

One network call and one normal draw per step.  The first step makes two network calls and one normal draw.  The
last step makes no network calls and one normal draw.  Proven weak order 2; no strong order is derived.  This
assumes a smooth network, an exact start and bounded ratios of successive steps.

The network gives a scalar denoiser D(y, sigma) = E[data | data + sigma noise = y], through the exact bridge.
Reference: arXiv 2309.05019; diffusers SASolverScheduler.

To use it, with decreasing times, a network and the shape (batch, ...) of a component:
    table, L = coefficients(times), start(times[0])
    state = tuple(torch.einsum("ij,j...->i...", L, torch.randn(len(L), *shape, dtype=torch.float64)))
    history = tuple(torch.zeros(shape) for _ in range(HISTORY))
    for i, row in enumerate(table):
        run, draws = {0: (step_first, DRAWS_FIRST), len(table) - 1: (step_last, DRAWS_LAST)}.get(i, (step, DRAWS))
        noise = tuple(torch.randn(shape) for _ in range(draws))
        state, history = run(state, row.unbind(), network, noise, history)
    data = denoise(state, table[-1].unbind(), network)[DATA]
"""

# Certified at 3 points (seed 1): table to 1e-12 and start to 1e-12 of balls, steps to 1e-11 of the program.

import torch

API = 1
SDE = "vp"
SAMPLER = "sa-solver"
NETWORK = "denoiser"
NFE = 1
DRAWS = 1
NFE_FIRST = 2
DRAWS_FIRST = 1
NFE_LAST = 0
DRAWS_LAST = 1
HISTORY = 2
ORDER = None
WEAK_ORDER = 2
STRONG_ORDER = None
COMPONENTS = ("x",)
DATA = 0
INPUTS = 1
OUTPUTS = 1
COEFFICIENTS = tuple(
    """
    y_x y_D_m1 y_D_m2 y_w1 sigma_hat_1 x_x x_D_m1 x_w1 x_d y1_x sigma_hat_0 y2_x y2_w1 y2_d1 x_d1 x_d2 y_end_x
    """.split()
)
SIGMA_COLUMNS = ("sigma_hat_1",)
PARAMS = {"beta_min": 0.1, "beta_max": 20.0, "tau": 1.0}
DIGEST = "aad0d19bb99f688ab8f1714feb25a45441e16c52233f985f6b4f8e7425aa0627"
START, END = 0.0, 1.0  # the span of the network's time


class Diffusion:
    """z_t = alpha data + sigma noise."""

    def __init__(self, beta_min, beta_max, tau):
        if not (beta_min > 0 and beta_max > 0):
            raise ValueError("the parameters must fulfil beta_min > 0, beta_max > 0")
        self.beta_min, self.beta_max, self.tau = beta_min, beta_max, tau

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
    lambda_0 = torch.log(alpha_0/sigma_0)
    alpha_1, sigma_1 = sde.alpha(t1), sde.sigma(t1)
    lambda_1 = torch.log(alpha_1/sigma_1)
    h = lambda_1 - lambda_0
    alpha_m1, sigma_m1 = sde.alpha(t_m1), sde.sigma(t_m1)
    lambda_m1 = torch.log(alpha_m1/sigma_m1)
    h0 = lambda_0 - lambda_m1
    k = h*(sde.tau**2 + 1)
    sigma_hat_1 = sigma_1/alpha_1

    # A value is its coefficients in (x, D_m1, D_m2, w1, d), one row a coefficient, one column a step.
    x, D_m1, D_m2, w1, d = torch.eye(5, dtype=torch.float64)[:, :, None]
    p = (
        sigma_1*torch.exp(-h*sde.tau**2)/sigma_0*x + alpha_1*(h*k/(2*h0) - torch.expm1(-k))*D_m1
        - alpha_1*h*k/(2*h0)*D_m2 + sigma_1*torch.sqrt(-torch.expm1(-2*h*sde.tau**2))*w1
    )
    y = p/alpha_1
    z = (
        (2*sigma_1*torch.exp(-h*sde.tau**2)/sigma_0*x + alpha_1*k*d - 2*alpha_1*(k/2 + torch.expm1(-k))*D_m1
        + 2*sigma_1*torch.sqrt(-torch.expm1(-2*h*sde.tau**2))*w1)/2
    )
    y_end = x/alpha_1
    zero = torch.zeros(7, 1, dtype=torch.float64)
    columns = (*y[:4], sigma_hat_1, *z[:2], *z[3:], *zero[:7], y_end[0])
    return torch.stack(torch.broadcast_tensors(*columns), dim=-1)


def first_row(sde, t0, t1, t_m1):
    """The columns of the first row."""
    alpha_0, sigma_0 = sde.alpha(t0), sde.sigma(t0)
    sigma_hat_0 = sigma_0/alpha_0
    lambda_0 = torch.log(alpha_0/sigma_0)
    alpha_1, sigma_1 = sde.alpha(t1), sde.sigma(t1)
    lambda_1 = torch.log(alpha_1/sigma_1)
    h = lambda_1 - lambda_0
    k = h*(sde.tau**2 + 1)
    sigma_hat_1 = sigma_1/alpha_1

    # A value is its coefficients in (x, w1, d1, d2), one row a coefficient, one column a step.
    x, w1, d1, d2 = torch.eye(4, dtype=torch.float64)[:, :, None]
    y1 = x/alpha_0
    p = (
        sigma_1*torch.exp(-h*sde.tau**2)/sigma_0*x - alpha_1*torch.expm1(-k)*d1
        + sigma_1*torch.sqrt(-torch.expm1(-2*h*sde.tau**2))*w1
    )
    y2 = p/alpha_1
    z = (
        (2*sigma_1*torch.exp(-h*sde.tau**2)/sigma_0*x + alpha_1*k*d2 - 2*alpha_1*(k/2 + torch.expm1(-k))*d1
        + 2*sigma_1*torch.sqrt(-torch.expm1(-2*h*sde.tau**2))*w1)/2
    )
    y_end = x/alpha_1
    zero = torch.zeros(6, 1, dtype=torch.float64)
    columns = (*zero[:4], sigma_hat_1, z[0], zero[4], z[1], zero[5], y1[0], sigma_hat_0, *y2[:3], *z[2:], y_end[0])
    return torch.stack(torch.broadcast_tensors(*columns), dim=-1)


def last_row(sde, t0, t1, t_m1):
    """The columns of the last row."""
    alpha_0, sigma_0 = sde.alpha(t0), sde.sigma(t0)
    lambda_0 = torch.log(alpha_0/sigma_0)
    alpha_1, sigma_1 = sde.alpha(t1), sde.sigma(t1)
    lambda_1 = torch.log(alpha_1/sigma_1)
    h = lambda_1 - lambda_0
    k = h*(sde.tau**2 + 1)
    sigma_hat_1 = sigma_1/alpha_1

    # A value is its coefficients in (x, D_m1, w1), one row a coefficient, one column a step.
    x, D_m1, w1 = torch.eye(3, dtype=torch.float64)[:, :, None]
    z = (
        sigma_1*torch.exp(-h*sde.tau**2)/sigma_0*x - alpha_1*torch.expm1(-k)*D_m1
        + sigma_1*torch.sqrt(-torch.expm1(-2*h*sde.tau**2))*w1
    )
    y_end = x/alpha_1
    zero = torch.zeros(12, 1, dtype=torch.float64)
    columns = (*zero[:4], sigma_hat_1, *z, *zero[4:12], y_end[0])
    return torch.stack(torch.broadcast_tensors(*columns), dim=-1)


def coefficients(times, /, **params):
    """The table of coefficients, (len(times) - 1, len(COEFFICIENTS)); row i is times[i] -> times[i + 1]."""
    sde, times = Diffusion(**{**PARAMS, **params}), torch.as_tensor(times, dtype=torch.float64).cpu()
    if not (times.ndim == 1 < len(times) and (times.diff() < 0).all() and START < times[-1] and times[0] <= END):
        raise ValueError(f"times must be at least two numbers that decrease strictly within ({START}, {END}]")
    t0, t1 = times[:-1], times[1:]
    t_m1 = torch.cat((times[:1].expand(1), t0))[: len(t0)]
    last = max(len(t0) - 1, 1)
    parts = (
        (first_row, slice(0, 1)),
        (other_rows, slice(1, last)),
        (last_row, slice(last, None)),
    )
    given = (t0, t1, t_m1)
    table = torch.cat([rows(sde, *(t[i] for t in given)) for rows, i in parts if len(t0[i])])
    if not table.isfinite().all():
        raise ValueError("float64 does not hold a coefficient of these times and parameters: take milder ones")
    return table


def step(state, c, network, noise=(), history=()):
    """One step of the state x, (batch, ...); `c` an unbound row of the table.  Returns (state, history)."""
    (x,) = state
    (w1,) = noise
    D_m1, D_m2 = history
    y_x, y_D_m1, y_D_m2, y_w1, sigma_hat_1, x_x, x_D_m1, x_w1, x_d, *_ = c
    y = y_x * x + y_D_m1 * D_m1 + y_D_m2 * D_m2 + y_w1 * w1
    (d,) = network((y,), sigma_hat_1)
    x_new = x_x * x + x_D_m1 * D_m1 + x_w1 * w1 + x_d * d
    return (x_new,), (d, D_m1)


def step_first(state, c, network, noise=(), history=()):
    """The first step of the state x, (batch, ...); `c` an unbound row of the table.  Returns (state, history)."""
    (x,) = state
    (w1,) = noise
    D_m1, D_m2 = history
    y1_x, sigma_hat_0, y2_x, y2_w1, y2_d1 = c[9:14]
    sigma_hat_1, x_x = c[4:6]
    x_w1 = c[7]
    x_d1, x_d2 = c[14:16]
    y1 = y1_x * x
    (d1,) = network((y1,), sigma_hat_0)
    y2 = y2_x * x + y2_w1 * w1 + y2_d1 * d1
    (d2,) = network((y2,), sigma_hat_1)
    x_new = x_x * x + x_w1 * w1 + x_d1 * d1 + x_d2 * d2
    return (x_new,), (d2, d1)


def step_last(state, c, network, noise=(), history=()):
    """The last step of the state x, (batch, ...); `c` an unbound row of the table.  Returns (state, history)."""
    (x,) = state
    (w1,) = noise
    D_m1, D_m2 = history
    x_x, x_D_m1, x_w1 = c[5:8]
    x_new = x_x * x + x_D_m1 * D_m1 + x_w1 * w1
    return (x_new,), (D_m1, D_m2)


def nfe(steps):
    """Network calls of a run of `steps` steps."""
    return NFE_FIRST + NFE * (steps - 2) + NFE_LAST if steps > 1 else NFE_FIRST


def denoise(state, c, network):
    """The mean of the data given the state at the end of the grid; `c` the unbound LAST row.  One network call."""
    (x,) = state
    y_end_x = c[16]
    sigma_hat_1 = c[4]
    y_end = y_end_x * x
    (d_end,) = network((y_end,), sigma_hat_1)
    return (d_end,)
