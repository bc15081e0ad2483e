"""Conjugate integrator with B = 0 for variance-preserving diffusion, linear beta.

The exponential integrator of order one (DDIM on VP).

The diffusion, forward in the network's time t:
    dx = -beta*x/2 dt + sqrt(beta) dw
with beta = beta_min + t*(beta_max - beta_min)

The step t0 -> t1 = t0 - h:
    z' = P (I - h B(t0)) z + Phi n,   n the network's output at t0 in the frame v,
    P the propagator of dX/dt = (F - G G^T C_skip / 2 - B) X from t0 to t1,
    Phi = int_t1^t0 P(t1, s) G G^T C_out(s) ds / 2,   score = C_skip z + C_out n,
    B = 0

One network call and no noise per step.  Proven order 1.  This assumes a smooth network, an exact start and bounded
ratios of successive steps.
The local error of a step of length h, exact minus numerical:
    e_x = h^2 * K_x*dn/2
    n = the output in the frame v at t0, frozen over the step; dn = its rate dn/dt along the flow
    K = -G G^T C_out/2 of that frame; score = C_skip z + C_out n

The network gives v = alpha noise - sigma data.
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
SDE = "vp"
SAMPLER = "conjugate"
NETWORK = "v"
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
COEFFICIENTS = ("time_0", "x_x", "x_e", "time_1", "mean_x", "mean_e_end")
SIGMA_COLUMNS = ()
PARAMS = {"beta_min": 0.1, "beta_max": 20.0}
DIGEST = "37dbc0bb199f16effdf5be4b5585f9c1f4317cbbfcd1006de4c246589be08f03"
START, END = 0.0, 1.0  # the span of the network's time


class Diffusion:
    """z_t = alpha data + sigma noise."""

    def __init__(self, beta_min, beta_max):
        if not (beta_min > 0 and beta_max > 0):
            raise ValueError("the parameters must fulfil beta_min > 0, beta_max > 0")
        self.beta_min, self.beta_max = beta_min, beta_max

    def beta(self, t):
        return self.beta_min + t*(self.beta_max - self.beta_min)

    def alpha(self, t):
        """The factor of the data in z_t."""
        return torch.exp(-t*(self.beta_min + t*(self.beta_max - self.beta_min)/2)/2)

    def sigma(self, t):
        """The standard deviation of z_t given the data."""
        return torch.sqrt(-torch.expm1(-t*(self.beta_min + t*(self.beta_max - self.beta_min)/2)))


def gauss(n):
    """Gauss nodes and weights on (0, 1), and the integrals from 0 to each node of the polynomials through them."""
    k = torch.arange(1, n, dtype=torch.float64)
    off = torch.diag(k / torch.sqrt(4 * k**2 - 1), 1)
    u, V = torch.linalg.eigh(off + off.mT)
    k, u = torch.arange(n), u[:, None]
    reach = ((u ** (k + 1) - (-1.0) ** (k + 1)) / (k + 1)) @ torch.linalg.inv(u**k) / 2
    return (u[:, 0] + 1) / 2, V[0] ** 2, reach


def log_integral(rate, lower, upper):
    """The integral of rate(s) over (lower, upper), by 20 Gauss nodes a panel, panels even in log(t - START)."""
    (x, w, _), ratio, last = gauss(20), (upper - START) / (lower - START), None
    for panels in (1, 2, 4, 8, 16, 32, 64, 128, 256):
        cuts = torch.stack([(lower - START) * ratio ** (k / panels) for k in range(panels + 1)])
        x, w = (v.reshape(-1, *[1] * cuts.ndim) for v in (x, w))
        total = (cuts.diff(dim=0) * w * rate(START + cuts[:-1] + cuts.diff(dim=0) * x)).sum((0, 1))
        if last is not None and ((total - last).abs() <= 1e-13 * total.abs()).all():
            return total
        last = total
    raise ValueError("the rates change too fast for these steps: take shorter ones")


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
    alpha_1, sigma_1 = sde.alpha(t1), sde.sigma(t1)
    driven = log_integral(
            lambda s: -sde.alpha(s)*sde.beta(s)/(2*(sde.alpha(s)**2 + sde.sigma(s)**2)**(3/2)*sde.sigma(s)),
            t1,
            t0,
        )

    # A value is its coefficients in (x, e, e_end), one row a coefficient, one column a step.
    x, e, e_end = torch.eye(3, dtype=torch.float64)[:, :, None]
    x_new = torch.sqrt(alpha_1**2 + sigma_1**2)*(x/(torch.sqrt(alpha_0**2 + sigma_0**2)) + driven*e)
    mean = (alpha_1*x - sigma_1*e_end)/(alpha_1**2 + sigma_1**2)
    columns = (t0, *x_new[:2], t1, mean[0], mean[2])
    table = torch.stack(torch.broadcast_tensors(*columns), dim=-1)
    if not table.isfinite().all():
        raise ValueError("float64 does not hold a coefficient of these times and parameters: take milder ones")
    return table


def step(state, c, network, noise=(), history=()):
    """One step of the state x, (batch, ...); `c` an unbound row of the table.  Returns (state, history)."""
    (x,) = state
    time_0, x_x, x_e, *_ = c
    (e,) = network((x,), time_0)
    x_new = x_x * x + x_e * e
    return (x_new,), ()


def nfe(steps):
    """Network calls of a run of `steps` steps."""
    return NFE * steps


def denoise(state, c, network):
    """The mean of the data given the state at the end of the grid; `c` the unbound LAST row.  One network call."""
    (x,) = state
    time_1, mean_x, mean_e_end = c[3:6]
    (e_end,) = network((x,), time_1)
    mean = mean_x * x + mean_e_end * e_end
    return (mean,)
