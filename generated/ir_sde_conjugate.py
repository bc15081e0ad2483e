"""Conjugate integrator with B = 0 for mean-reverting diffusion to a given image (IR-SDE), cosine schedule.

The exponential integrator of order one (DDIM on VP).

The diffusion, forward in the network's time t:
    dx = (mu*theta - theta*x) dt + sqrt(2)*amplitude*sqrt(theta) dw
with phase = pi*shift/(2*(shift + 1))
with speed = -log(delta)/(-(-(shift + 1)*sin(2*phase)/(2*pi) + 1/2)/cos(phase)^2 + 1)
with theta = speed*sin(pi*t/(2*(shift + 1)))*sin(2*phase + pi*t/(2*(shift + 1)))/cos(phase)^2

The step t0 -> t1 = t0 - h:
    z' = P (I - h B(t0)) z + Phi n,   n the network's output at t0 in the frame denoiser,
    P the propagator of dX/dt = (F - G G^T C_skip / 2 - B) X from t0 to t1,
    Phi = int_t1^t0 P(t1, s) G G^T C_out(s) ds / 2,   score = C_skip z + C_out n,
    where z stands for z - o(t), o the offset of the mean: o' = F o + b, o = 0 at the start of the span,
    B = 0

One network call and no noise per step.  Proven order 1.  This assumes a smooth network, an exact start and bounded
ratios of successive steps.
The local error of a step of length h, exact minus numerical:
    e_x = h^2 * K_x*dn/2
    n = the output in the frame denoiser at t0, frozen over the step; dn = its rate dn/dt along the flow
    K = -G G^T C_out/2 of that frame; score = C_skip (z - o) + C_out n

The network gives a scalar denoiser D(y, sigma) = E[data | data + sigma noise = y], through the exact bridge.
Reference: arXiv 2310.07894, section 3.

To use it, with decreasing times, a network and the shape (batch, ...) of a component:
    table, L = coefficients(times), start(times[0])  # mu: given, shaped like a component
    state = tuple(torch.einsum("ij,j...->i...", L, torch.randn(len(L), *shape, dtype=torch.float64)))
    state = tuple(z + sum(m * c for m, c in zip(row, (*given, 1))) for z, row in zip(state, start_mean(times[0]))) + given
    for row in table:
        state, _ = step(state, row.unbind(), network)
    data = denoise(state, table[-1].unbind(), network)[DATA]
"""

# Certified at 3 points (seed 1): table to 1e-12 and start to 1e-12 of balls, steps to 1e-11 of the program.

import math

import torch

API = 1
SDE = "ir-sde"
SAMPLER = "conjugate"
NETWORK = "denoiser"
NFE = 1
DRAWS = 0
HISTORY = 0
ORDER = 1
WEAK_ORDER = None
STRONG_ORDER = None
COMPONENTS = ("x", "mu")
CONSTANTS = ("mu",)  # components that are given and never change
DATA = 0
INPUTS = 1
OUTPUTS = 1
COEFFICIENTS = ("y_x", "y_mu", "sigma_hat_0", "x_x", "x_mu", "x_d", "y_end_x", "y_end_mu", "sigma_hat_1")
SIGMA_COLUMNS = ("sigma_hat_0", "sigma_hat_1")
PARAMS = {"amplitude": 0.0392156862745098, "delta": 0.005, "shift": 0.008}
DIGEST = "9c9e0936f19e6366f77837926efbf29214b15df315c0a7f89e34a51ea5fadeec"
START, END = 0.0, 1.0  # the span of the network's time


class Diffusion:
    """z_t = alpha data + offset + sigma noise."""

    def __init__(self, amplitude, delta, shift):
        if not (amplitude > 0 and delta > 0 and delta < 1 and shift > 0):
            raise ValueError("the parameters must fulfil amplitude > 0, delta > 0, delta < 1, shift > 0")
        self.amplitude, self.delta, self.shift = amplitude, delta, shift
        self.phase = math.pi*self.shift/(2*(self.shift + 1))
        self.speed_ = (
            -math.log(self.delta)/(1
            - (1/2 - (self.shift + 1)*math.sin(2*self.phase)/(2*math.pi))/math.cos(self.phase)**2)
        )
        self.change = smooth(self.rates) / (END - START)  # panels a unit of time

    def theta(self, t):
        return (
            self.speed_*torch.sin(math.pi*t/(2*(self.shift + 1)))*torch.sin(2*self.phase
            + math.pi*t/(2*(self.shift + 1)))/math.cos(self.phase)**2
        )

    def F(self, t):
        theta = self.theta(t)
        return -theta

    def GG(self, t):
        theta = self.theta(t)
        return 2*self.amplitude**2*theta

    def panels(self, t):
        """Panels of an integral from START to t that are short against F."""
        speed = float((self.F(t).abs() * (t - START)).max())
        if not speed <= 3000:
            raise ValueError("F is too large for the time over which it acts: shorten the span")
        return max(2, math.ceil(speed / 12), math.ceil(self.change * (END - START)))

    def log_alpha(self, t):
        """The integral of F from START."""
        return antiderivative(self.F, t, self.panels(t))

    def alpha(self, t):
        """The factor of the data in z_t."""
        return torch.exp(self.log_alpha(t))

    def sigma(self, t):
        """The standard deviation of z_t given the data."""
        return torch.sqrt(-torch.expm1(2*self.log_alpha(t)))*abs(self.amplitude)

    def offset(self, t):
        """The coefficients of mu and 1 in the mean of z_t, (1, 2, *t.shape)."""
        return torch.stack((-torch.expm1(self.log_alpha(t)), 0 * t,))[None]

    def rates(self, t):
        """What must be smooth between the nodes of a panel, side by side."""
        return torch.stack((self.F(t), self.GG(t), self.theta(t) + 0 * t), dim=-1)[..., None]


def gauss(n):
    """Gauss nodes and weights on (0, 1), and the integrals from 0 to each node of the polynomials through them."""
    k = torch.arange(1, n, dtype=torch.float64)
    off = torch.diag(k / torch.sqrt(4 * k**2 - 1), 1)
    u, V = torch.linalg.eigh(off + off.mT)
    k, u = torch.arange(n), u[:, None]
    reach = ((u ** (k + 1) - (-1.0) ** (k + 1)) / (k + 1)) @ torch.linalg.inv(u**k) / 2
    return (u[:, 0] + 1) / 2, V[0] ** 2, reach


def integral(rate, lower, upper, panels):
    """The integral of rate(s) over (lower, upper), by 20 Gauss nodes a panel."""
    x, w, _ = gauss(20)
    x, w = ((torch.arange(panels)[:, None] + x) / panels).flatten(), (w / panels).repeat(panels)
    x, w = (v.reshape(-1, *[1] * upper.ndim) for v in (x, w))
    return ((upper - lower) * w * rate(lower + (upper - lower) * x)).sum(0)


def antiderivative(rate, t, panels):
    """The integrals of rate(s) over (START, t) for many t at once: over even panels that they share, and on to t."""
    width = (t.max() - START) / panels
    edges = START + width * torch.arange(panels)
    before = torch.nn.functional.pad(integral(rate, edges, edges + width, 1).cumsum(0), (1, 0))
    k = ((t - START) / width).long().clamp(0, panels - 1)
    return before[k] + integral(rate, edges[k], t, 1)


def tail(values):
    """How much of some matrices at 8 Gauss nodes (first axis) is of degree 6 and 7; below 1e-6 quadrature is exact."""
    x, _, _ = gauss(8)
    last = torch.linalg.inv((2 * x[:, None] - 1) ** torch.arange(8))[-2:] / 2**6
    size = values.abs().amax((0, -2, -1), keepdim=True)[0].clamp_min(1e-300)
    return torch.tensordot(last, values, 1).abs().amax(0) / size


def smooth(rates):
    """How many equal panels of the span it takes for the matrices rates(t) to be smooth in each of them."""
    x, _, _ = gauss(8)
    for panels in (1, 2, 4, 8, 16, 32, 64, 128, 256):
        share = float(tail(rates(START + (END - START) * (x[:, None] + torch.arange(panels)) / panels)).max())
        if share < 1e-6:
            return panels
    if not share < 1e-3:  # what is left by a root at the start
        raise ValueError("F or G change too fast for their time span: shorten it, or slow them")
    return panels


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


def start_mean(time, /, **params):
    """The coefficients of mu and 1 in the mean of the start, (n, 2)."""
    sde, t = Diffusion(**{**PARAMS, **params}), torch.as_tensor(time, dtype=torch.float64)
    return sde.offset(t)


def coefficients(times, /, **params):
    """The table of coefficients, (len(times) - 1, len(COEFFICIENTS)); row i is times[i] -> times[i + 1]."""
    sde, times = Diffusion(**{**PARAMS, **params}), torch.as_tensor(times, dtype=torch.float64).cpu()
    if not (times.ndim == 1 < len(times) and (times.diff() < 0).all() and START < times[-1] and times[0] <= END):
        raise ValueError(f"times must be at least two numbers that decrease strictly within ({START}, {END}]")
    t0, t1 = times[:-1], times[1:]
    alpha_0, sigma_0 = sde.alpha(t0), sde.sigma(t0)
    sigma_hat_0 = sigma_0/alpha_0
    offset_0 = sde.offset(t0)
    alpha_1, sigma_1 = sde.alpha(t1), sde.sigma(t1)
    offset_1 = sde.offset(t1)
    sigma_hat_1 = sigma_1/alpha_1

    # A value is its coefficients in (x, mu, d), one row a coefficient, one column a step.
    x, mu, d = torch.eye(3, dtype=torch.float64)[:, :, None]
    y = (x - offset_0[0, 0]*mu)/alpha_0
    z_x = x - offset_0[0, 0]*mu
    x_new = sigma_1/sigma_0*z_x + offset_1[0, 0]*mu + (alpha_1 - alpha_0*sigma_1/sigma_0)*d
    y_end = (x - offset_1[0, 0]*mu)/alpha_1
    columns = (*y[:2], sigma_hat_0, *x_new, *y_end[:2], sigma_hat_1)
    table = torch.stack(torch.broadcast_tensors(*columns), dim=-1)
    if not table.isfinite().all():
        raise ValueError("float64 does not hold a coefficient of these times and parameters: take milder ones")
    return table


def step(state, c, network, noise=(), history=()):
    """One step of the state (x, mu), each (batch, ...); `c` an unbound row of the table.  Returns (state, history)."""
    x, mu = state
    y_x, y_mu, sigma_hat_0, x_x, x_mu, x_d, *_ = c
    y = y_x * x + y_mu * mu
    (d,) = network((y,), sigma_hat_0)
    x_new = x_x * x + x_mu * mu + x_d * d
    return (x_new, mu), ()


def nfe(steps):
    """Network calls of a run of `steps` steps."""
    return NFE * steps


def denoise(state, c, network):
    """The mean of the data given the state at the end of the grid; `c` the unbound LAST row.  One network call."""
    x, mu = state
    y_end_x, y_end_mu, sigma_hat_1 = c[6:9]
    y_end = y_end_x * x + y_end_mu * mu
    (d_end,) = network((y_end,), sigma_hat_1)
    return (d_end, mu)
