"""DPM-Solver++(3M), corrected for variance-preserving diffusion, linear beta.

It has the full second divided difference and a first step of two stages.

The diffusion, forward in the network's time t:
    dx = -beta*x/2 dt + sqrt(beta) dw
with beta = beta_min + t*(beta_max - beta_min)

The step t0 -> t1 = t0 - h:
    D = x0(z, t0)
    P = (D - D[-1])/r0
    Q = (D[-1] - D[-2])/r1
    z = sigma(t1)/sigma(t0)*z - alpha(t1)*expm1(-h)*D + alpha(t1)*h*phi2(-h)*(P + r0/(r0 + r1)*(P - Q)) + 2*alpha(t1)*h*phi3(-h)/(r0 + r1)*(P - Q)
    with h = lambda(t1) - lambda(t0)
         r0 = (lambda(t0) - lambda(t_m1))/h
         r1 = (lambda(t_m1) - lambda(t_m2))/h
         s = t((lambda(t0) + lambda(t1))/2)
    row 0:
        D = x0(z, t0)
        u = sigma(s)/sigma(t0)*z - alpha(s)*expm1(-h/2)*D
        E = x0(u, s)
        z = sigma(t1)/sigma(t0)*z - alpha(t1)*expm1(-h)*E
    row 1:
        D = x0(z, t0)
        z = sigma(t1)/sigma(t0)*z - alpha(t1)*expm1(-h)*((1 + 1/(2*r0))*D - 1/(2*r0)*D[-1])

One network call and no noise per step.  The first step makes two network calls and no noise.  Proven order 3.  This
assumes a smooth network, an exact start and bounded ratios of successive steps.
The local error of a step of length h, exact minus numerical:
    e_x = h^4 * D3*(6*r1^2*r2 + 6*r1^2 + 4*r1*r2 + 8*r1 + 3)/72
    e is in units of alpha at t1; h = lambda(t1) - lambda(t0), lambda = log(alpha/sigma); the steps before it were
    r1 h, r1 r2 h
    D1, D2, ... = the derivatives of the data prediction D in lambda along the flow; D_x = its derivative in x/alpha

The network gives a scalar denoiser D(y, sigma) = E[data | data + sigma noise = y], through the exact bridge.
Reference: arXiv 2211.01095, corrected.

To use it, with decreasing times, a network and the shape (batch, ...) of a component:
    table, L = coefficients(times), start(times[0])
    state = tuple(torch.einsum("ij,j...->i...", L, torch.randn(len(L), *shape, dtype=torch.float64)))
    history = tuple(torch.zeros(shape) for _ in range(HISTORY))
    for i, row in enumerate(table):
        run, draws = {0: (step_first, DRAWS_FIRST)}.get(i, (step, DRAWS))
        state, history = run(state, row.unbind(), network, (), history)
    data = denoise(state, table[-1].unbind(), network)[DATA]
"""

# Certified at 3 points (seed 1): table to 1e-12 and start to 1e-12 of balls, steps to 1e-11 of the program.

import math

import torch

API = 1
SDE = "vp"
SAMPLER = "dpmpp-3m-corrected"
NETWORK = "denoiser"
NFE = 1
DRAWS = 0
NFE_FIRST = 2
DRAWS_FIRST = 0
HISTORY = 2
ORDER = 3
WEAK_ORDER = None
STRONG_ORDER = None
COMPONENTS = ("x",)
DATA = 0
INPUTS = 1
OUTPUTS = 1
COEFFICIENTS = tuple(
    """
    y_x sigma_hat_0 x_x x_D_m1 x_D_m2 x_d y1_x y2_x y2_d1 sigma_hat_s x_d2 y_end_x sigma_hat_1
    """.split()
)
SIGMA_COLUMNS = ("sigma_hat_0", "sigma_hat_1")
PARAMS = {"beta_min": 0.1, "beta_max": 20.0}
DIGEST = "302acb48540ef188345bd6bb9df7f0bb2513712f89644fcf2c55c39464a2f3dc"
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


def phi(k, x):
    """phi_k(x) = 1/k! + x/(k + 1)! + x^2/(k + 2)! + ... = (phi_(k-1)(x) - 1/(k - 1)!)/x, phi_0 = exp."""
    inside, outside = 0.0, torch.exp(x)
    for j in reversed(range(24)):
        inside = inside * x + 1 / math.factorial(j + k)
    for j in range(k):
        outside = (outside - 1 / math.factorial(j)) / x
    return torch.where(x.abs() < 2, inside, outside)


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


def other_rows(sde, t0, t1, t_m1, t_m2):
    """The columns of the rows in between."""
    alpha_0, sigma_0 = sde.alpha(t0), sde.sigma(t0)
    sigma_hat_0 = sigma_0/alpha_0
    lambda_0 = torch.log(alpha_0/sigma_0)
    alpha_1, sigma_1 = sde.alpha(t1), sde.sigma(t1)
    lambda_1 = torch.log(alpha_1/sigma_1)
    h = lambda_1 - lambda_0
    alpha_m1, sigma_m1 = sde.alpha(t_m1), sde.sigma(t_m1)
    lambda_m1 = torch.log(alpha_m1/sigma_m1)
    r0 = (lambda_0 - lambda_m1)/h
    alpha_m2, sigma_m2 = sde.alpha(t_m2), sde.sigma(t_m2)
    lambda_m2 = torch.log(alpha_m2/sigma_m2)
    r1 = (lambda_m1 - lambda_m2)/h
    phi2_at_0 = phi(2, -h)
    phi3_at_1 = phi(3, -h)
    sigma_hat_1 = sigma_1/alpha_1

    # A value is its coefficients in (x, D_m1, D_m2, d), one row a coefficient, one column a step.
    x, D_m1, D_m2, d = torch.eye(4, dtype=torch.float64)[:, :, None]
    y = x/alpha_0
    P = (d - D_m1)/r0
    Q = (D_m1 - D_m2)/r1
    z = (
        sigma_1/sigma_0*x - alpha_1*torch.expm1(-h)*d
        + alpha_1*h*(phi2_at_0*(r0/(r0 + r1) + 1) + 2*phi3_at_1/(r0 + r1))*P
        - alpha_1*h*(phi2_at_0*r0 + 2*phi3_at_1)/(r0 + r1)*Q
    )
    y_end = x/alpha_1
    zero = torch.zeros(5, 1, dtype=torch.float64)
    columns = (y[0], sigma_hat_0, *z, *zero[:5], y_end[0], sigma_hat_1)
    return torch.stack(torch.broadcast_tensors(*columns), dim=-1)


def first_row(sde, t0, t1, t_m1, t_m2):
    """The columns of the first row."""
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
    zero = torch.zeros(4, 1, dtype=torch.float64)
    columns = (zero[0], sigma_hat_0, z[0], *zero[1:4], y1[0], *y2[:2], sigma_hat_s, z[2], y_end[0], sigma_hat_1)
    return torch.stack(torch.broadcast_tensors(*columns), dim=-1)


def second_row(sde, t0, t1, t_m1, t_m2):
    """The columns of the second row."""
    alpha_0, sigma_0 = sde.alpha(t0), sde.sigma(t0)
    sigma_hat_0 = sigma_0/alpha_0
    alpha_1, sigma_1 = sde.alpha(t1), sde.sigma(t1)
    lambda_0 = torch.log(alpha_0/sigma_0)
    lambda_1 = torch.log(alpha_1/sigma_1)
    h = lambda_1 - lambda_0
    alpha_m1, sigma_m1 = sde.alpha(t_m1), sde.sigma(t_m1)
    lambda_m1 = torch.log(alpha_m1/sigma_m1)
    r0 = (lambda_0 - lambda_m1)/h
    sigma_hat_1 = sigma_1/alpha_1

    # A value is its coefficients in (x, D_m1, d), one row a coefficient, one column a step.
    x, D_m1, d = torch.eye(3, dtype=torch.float64)[:, :, None]
    y = x/alpha_0
    z = sigma_1/sigma_0*x - alpha_1*(1 + 1/(2*r0))*torch.expm1(-h)*d + alpha_1*torch.expm1(-h)/(2*r0)*D_m1
    y_end = x/alpha_1
    zero = torch.zeros(6, 1, dtype=torch.float64)
    columns = (y[0], sigma_hat_0, *z[:2], zero[0], z[2], *zero[1:6], y_end[0], sigma_hat_1)
    return torch.stack(torch.broadcast_tensors(*columns), dim=-1)


def coefficients(times, /, **params):
    """The table of coefficients, (len(times) - 1, len(COEFFICIENTS)); row i is times[i] -> times[i + 1]."""
    sde, times = Diffusion(**{**PARAMS, **params}), torch.as_tensor(times, dtype=torch.float64).cpu()
    if not (times.ndim == 1 < len(times) and (times.diff() < 0).all() and START < times[-1] and times[0] <= END):
        raise ValueError(f"times must be at least two numbers that decrease strictly within ({START}, {END}]")
    t0, t1 = times[:-1], times[1:]
    t_m1 = torch.cat((times[:1].expand(1), t0))[: len(t0)]
    t_m2 = torch.cat((times[:1].expand(2), t0))[: len(t0)]
    parts = (
        (first_row, slice(0, 1)),
        (second_row, slice(1, 2)),
        (other_rows, slice(2, None)),
    )
    given = (t0, t1, t_m1, t_m2)
    table = torch.cat([rows(sde, *(t[i] for t in given)) for rows, i in parts if len(t0[i])])
    if not table.isfinite().all():
        raise ValueError("float64 does not hold a coefficient of these times and parameters: take milder ones")
    return table


def step(state, c, network, noise=(), history=()):
    """One step of the state x, (batch, ...); `c` an unbound row of the table.  Returns (state, history)."""
    (x,) = state
    D_m1, D_m2 = history
    y_x, sigma_hat_0, x_x, x_D_m1, x_D_m2, x_d, *_ = c
    y = y_x * x
    (d,) = network((y,), sigma_hat_0)
    x_new = x_x * x + x_D_m1 * D_m1 + x_D_m2 * D_m2 + x_d * d
    return (x_new,), (d, D_m1)


def step_first(state, c, network, noise=(), history=()):
    """The first step of the state x, (batch, ...); `c` an unbound row of the table.  Returns (state, history)."""
    (x,) = state
    D_m1, D_m2 = history
    y1_x = c[6]
    sigma_hat_0 = c[1]
    y2_x, y2_d1, sigma_hat_s = c[7:10]
    x_x = c[2]
    x_d2 = c[10]
    y1 = y1_x * x
    (d1,) = network((y1,), sigma_hat_0)
    y2 = y2_x * x + y2_d1 * d1
    (d2,) = network((y2,), sigma_hat_s)
    x_new = x_x * x + x_d2 * d2
    return (x_new,), (d1, D_m1)


def nfe(steps):
    """Network calls of a run of `steps` steps."""
    return NFE_FIRST + NFE * (steps - 1)


def denoise(state, c, network):
    """The mean of the data given the state at the end of the grid; `c` the unbound LAST row.  One network call."""
    (x,) = state
    y_end_x, sigma_hat_1 = c[11:13]
    y_end = y_end_x * x
    (d_end,) = network((y_end,), sigma_hat_1)
    return (d_end,)
