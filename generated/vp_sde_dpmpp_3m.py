"""SDE-DPM-Solver++(3M) as k-diffusion ships it for variance-preserving diffusion, linear beta.

The second divided difference has half the weight that order 3 needs.

The diffusion, forward in the network's time t:
    dx = -beta*x/2 dt + sqrt(beta) dw
with beta = beta_min + t*(beta_max - beta_min)

The step t0 -> t1 = t0 - h:
    D = x0(z, t0)
    P = (D - D[-1])/r0
    Q = (D[-1] - D[-2])/r1
    z = sigma(t1)/sigma(t0)*exp(-eta*h)*z - alpha(t1)*expm1(-k)*D + alpha(t1)*k*phi2(-k)*(P + r0/(r0 + r1)*(P - Q)) + alpha(t1)*k*phi3(-k)/(r0 + r1)*(P - Q) + sigma(t1)*sqrt(-expm1(-2*eta*h))*xi
    with h = lambda(t1) - lambda(t0)
         k = (1 + eta)*h
         r0 = (lambda(t0) - lambda(t_m1))/h
         r1 = (lambda(t_m1) - lambda(t_m2))/h
    row 0:
        D = x0(z, t0)
        z = sigma(t1)/sigma(t0)*exp(-eta*h)*z - alpha(t1)*expm1(-k)*D + sigma(t1)*sqrt(-expm1(-2*eta*h))*xi
    row 1:
        D = x0(z, t0)
        z = sigma(t1)/sigma(t0)*exp(-eta*h)*z - alpha(t1)*expm1(-k)*D + alpha(t1)*k*phi2(-k)/r0*(D - D[-1]) + sigma(t1)*sqrt(-expm1(-2*eta*h))*xi

One network call and one normal draw per step.  Proven weak order 2; no strong order is derived.  This assumes a
smooth network, an exact start and bounded ratios of successive steps.

The network gives a scalar denoiser D(y, sigma) = E[data | data + sigma noise = y], through the exact bridge.
Reference: k-diffusion sample_dpmpp_3m_sde.

To use it, with decreasing times, a network and the shape (batch, ...) of a component:
    table, L = coefficients(times), start(times[0])
    state = tuple(torch.einsum("ij,j...->i...", L, torch.randn(len(L), *shape, dtype=torch.float64)))
    history = tuple(torch.zeros(shape) for _ in range(HISTORY))
    for row in table:
        noise = tuple(torch.randn(shape) for _ in range(DRAWS))
        state, history = step(state, row.unbind(), network, noise, history)
    data = denoise(state, table[-1].unbind(), network)[DATA]
"""

# Certified at 3 points (seed 1): table to 1e-12 and start to 1e-12 of balls, steps to 1e-11 of the program.

import math

import torch

API = 1
SDE = "vp"
SAMPLER = "sde-dpmpp-3m"
NETWORK = "denoiser"
NFE = 1
DRAWS = 1
HISTORY = 2
ORDER = None
WEAK_ORDER = 2
STRONG_ORDER = None
COMPONENTS = ("x",)
DATA = 0
INPUTS = 1
OUTPUTS = 1
COEFFICIENTS = ("y_x", "sigma_hat_0", "x_x", "x_D_m1", "x_D_m2", "x_w1", "x_d", "y_end_x", "sigma_hat_1")
SIGMA_COLUMNS = ("sigma_hat_0", "sigma_hat_1")
PARAMS = {"beta_min": 0.1, "beta_max": 20.0, "eta": 1.0}
DIGEST = "cc92c7414f73601f3ef8db3f64040caa2e590c7b3e5c843b13e237beb2593f0e"
START, END = 0.0, 1.0  # the span of the network's time


class Diffusion:
    """z_t = alpha data + sigma noise."""

    def __init__(self, beta_min, beta_max, eta):
        if not (beta_min > 0 and beta_max > 0):
            raise ValueError("the parameters must fulfil beta_min > 0, beta_max > 0")
        self.beta_min, self.beta_max, self.eta = beta_min, beta_max, eta

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
    k = h*(sde.eta + 1)
    phi2_at_0 = phi(2, -k)
    phi3_at_1 = phi(3, -k)
    sigma_hat_1 = sigma_1/alpha_1

    # A value is its coefficients in (x, D_m1, D_m2, w1, d), one row a coefficient, one column a step.
    x, D_m1, D_m2, w1, d = torch.eye(5, dtype=torch.float64)[:, :, None]
    y = x/alpha_0
    P = (d - D_m1)/r0
    Q = (D_m1 - D_m2)/r1
    z = (
        sigma_1*torch.exp(-sde.eta*h)/sigma_0*x - alpha_1*torch.expm1(-k)*d
        + alpha_1*k*(phi2_at_0*(r0/(r0 + r1) + 1) + phi3_at_1/(r0 + r1))*P
        - alpha_1*k*(phi2_at_0*r0 + phi3_at_1)/(r0 + r1)*Q + sigma_1*torch.sqrt(-torch.expm1(-2*sde.eta*h))*w1
    )
    y_end = x/alpha_1
    columns = (y[0], sigma_hat_0, *z, y_end[0], sigma_hat_1)
    return torch.stack(torch.broadcast_tensors(*columns), dim=-1)


def first_row(sde, t0, t1, t_m1, t_m2):
    """The columns of the first row."""
    alpha_0, sigma_0 = sde.alpha(t0), sde.sigma(t0)
    sigma_hat_0 = sigma_0/alpha_0
    lambda_0 = torch.log(alpha_0/sigma_0)
    alpha_1, sigma_1 = sde.alpha(t1), sde.sigma(t1)
    lambda_1 = torch.log(alpha_1/sigma_1)
    h = lambda_1 - lambda_0
    k = h*(sde.eta + 1)
    sigma_hat_1 = sigma_1/alpha_1

    # A value is its coefficients in (x, w1, d), one row a coefficient, one column a step.
    x, w1, d = torch.eye(3, dtype=torch.float64)[:, :, None]
    y = x/alpha_0
    z = (
        sigma_1*torch.exp(-sde.eta*h)/sigma_0*x - alpha_1*torch.expm1(-k)*d
        + sigma_1*torch.sqrt(-torch.expm1(-2*sde.eta*h))*w1
    )
    y_end = x/alpha_1
    zero = torch.zeros(2, 1, dtype=torch.float64)
    columns = (y[0], sigma_hat_0, z[0], *zero[:2], *z[1:], y_end[0], sigma_hat_1)
    return torch.stack(torch.broadcast_tensors(*columns), dim=-1)


def second_row(sde, t0, t1, t_m1, t_m2):
    """The columns of the second row."""
    alpha_0, sigma_0 = sde.alpha(t0), sde.sigma(t0)
    sigma_hat_0 = sigma_0/alpha_0
    lambda_0 = torch.log(alpha_0/sigma_0)
    alpha_1, sigma_1 = sde.alpha(t1), sde.sigma(t1)
    lambda_1 = torch.log(alpha_1/sigma_1)
    h = lambda_1 - lambda_0
    k = h*(sde.eta + 1)
    phi2_at_0 = phi(2, -k)
    alpha_m1, sigma_m1 = sde.alpha(t_m1), sde.sigma(t_m1)
    lambda_m1 = torch.log(alpha_m1/sigma_m1)
    r0 = (lambda_0 - lambda_m1)/h
    sigma_hat_1 = sigma_1/alpha_1

    # A value is its coefficients in (x, D_m1, w1, d), one row a coefficient, one column a step.
    x, D_m1, w1, d = torch.eye(4, dtype=torch.float64)[:, :, None]
    y = x/alpha_0
    z = (
        sigma_1*torch.exp(-sde.eta*h)/sigma_0*x + alpha_1*(k*phi2_at_0/r0 - torch.expm1(-k))*d
        - alpha_1*k*phi2_at_0/r0*D_m1 + sigma_1*torch.sqrt(-torch.expm1(-2*sde.eta*h))*w1
    )
    y_end = x/alpha_1
    zero = torch.zeros(1, 1, dtype=torch.float64)
    columns = (y[0], sigma_hat_0, *z[:2], zero[0], *z[2:], y_end[0], sigma_hat_1)
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
    (w1,) = noise
    D_m1, D_m2 = history
    y_x, sigma_hat_0, x_x, x_D_m1, x_D_m2, x_w1, x_d, *_ = c
    y = y_x * x
    (d,) = network((y,), sigma_hat_0)
    x_new = x_x * x + x_D_m1 * D_m1 + x_D_m2 * D_m2 + x_w1 * w1 + x_d * d
    return (x_new,), (d, D_m1)


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
