"""Conjugate integrator with B = 0 for blurring diffusion with a coefficient for each frequency, cosine schedule.

The exponential integrator of order one (DDIM on VP).

The diffusion, forward in the network's time t:
    du = f*u dt + sqrt(g2) dw
with shrink = min_scale + (1 - min_scale)*exp(-blur^2*k2*sin(pi*t/2)^4/2)
with f = alpha'/alpha, g2 = 2*sigma*(sigma' - f*sigma)
with alpha = shrink*cos(pi*t/2), sigma = sin(pi*t/2)
with k2 = pi^2 (i^2/H^2 + j^2/W^2) of the frequency (i, j): u is the cosine transform of an image

The step t0 -> t1 = t0 - h:
    z' = P (I - h B(t0)) z + Phi n,   n the network's output at t0 in the frame eps-L,
    P the propagator of dX/dt = (F - G G^T C_skip / 2 - B) X from t0 to t1,
    Phi = int_t1^t0 P(t1, s) G G^T C_out(s) ds / 2,   score = C_skip z + C_out n,
    B = 0

One network call and no noise per step.  Proven order 1.  This assumes a smooth network, an exact start and bounded
ratios of successive steps.
The local error of a step of length h, exact minus numerical:
    e_u = h^2 * K_u*dn/2
    n = the output in the frame eps-L at t0, frozen over the step; dn = its rate dn/dt along the flow
    K = -G G^T C_out/2 of that frame; score = C_skip z + C_out n

The network gives epsilon with the lower Cholesky factor of the covariance, score = -L^-T epsilon.
Reference: arXiv 2310.07894, section 3.

To use it, with decreasing times, a network and the shape (batch, ...) of a component:
    table, L = coefficients(times, k2=k2), start(times[0], k2=k2)
    state = tuple(torch.einsum("ij...,jb...->ib...", L, torch.randn(len(L), *shape, dtype=torch.float64)))
    for row in table:
        state, _ = step(state, row.unbind(), network)
    data = denoise(state, table[-1].unbind(), network)[DATA]
"""

# Certified at 3 points (seed 1): table to 1e-12 and start to 1e-12 of balls, steps to 1e-11 of the program.

import math

import torch

API = 1
SDE = "blurring"
SAMPLER = "conjugate"
NETWORK = "eps-L"
NFE = 1
DRAWS = 0
HISTORY = 0
ORDER = 1
WEAK_ORDER = None
STRONG_ORDER = None
COMPONENTS = ("u",)
FIELD = "k2"  # what differs from frequency to frequency: the eigenvalue of minus the Laplacian
DATA = 0
INPUTS = 1
OUTPUTS = 1
COEFFICIENTS = ("time_0", "u_u", "u_e", "time_1", "mean_u", "mean_e_end")
SIGMA_COLUMNS = ()
PARAMS = {"blur": 20.0, "min_scale": 0.001}
DIGEST = "e82479ebb7db9848c386cb5734e7502f879ea492db8353289ed3e18c17a88808"
START, END = 0.0, 0.995  # the span of the network's time


class Diffusion:
    """z_t = alpha data + sigma noise."""

    def __init__(self, k2, blur, min_scale):
        if not (blur >= 0 and min_scale > 0 and min_scale <= 1):
            raise ValueError("the parameters must fulfil blur >= 0, min_scale > 0, min_scale <= 1")
        self.k2, self.blur, self.min_scale = k2, blur, min_scale
        self.k2 = torch.as_tensor(k2, dtype=torch.float64).cpu()

    def shrink(self, t):
        return self.min_scale + (1 - self.min_scale)*torch.exp(-self.blur**2*self.k2*torch.sin(math.pi*t/2)**4/2)

    def alpha(self, t):
        """The factor of the data in z_t."""
        shrink = self.shrink(t)
        return shrink*torch.cos(math.pi*t/2)

    def sigma(self, t):
        """The standard deviation of z_t given the data."""
        return torch.sin(math.pi*t/2)


def start(time, /, *, k2, **params):
    """The lower factor of the covariance at `time`, (n, n, *k2.shape); a run starts from it times normals."""
    sde, t = Diffusion(k2=k2, **{**PARAMS, **params}), torch.as_tensor(time, dtype=torch.float64)
    return sde.sigma(t.expand(sde.k2.shape))[None, None]


def start_data(time, /, *, k2, **params):
    """What the data are multiplied with in the mean of the state at `time`, (n, data blocks, *k2.shape)."""
    sde, t = Diffusion(k2=k2, **{**PARAMS, **params}), torch.as_tensor(time, dtype=torch.float64)
    return sde.alpha(t.expand(sde.k2.shape))[None, None]


def coefficients(times, /, *, k2, **params):
    """The table of coefficients, (len(times) - 1, len(COEFFICIENTS), *k2.shape); row i is times[i] -> times[i + 1]."""
    sde, times = Diffusion(k2=k2, **{**PARAMS, **params}), torch.as_tensor(times, dtype=torch.float64).cpu()
    if not (times.ndim == 1 < len(times) and (times.diff() < 0).all() and START < times[-1] and times[0] <= END):
        raise ValueError(f"times must be at least two numbers that decrease strictly within ({START}, {END}]")
    if not (sde.k2 >= 0).all():
        raise ValueError("k2 must be zero or more")
    times = times.reshape(-1, *[1] * sde.k2.ndim).expand(-1, *sde.k2.shape)
    t0, t1 = times[:-1], times[1:]
    alpha_0, sigma_0 = sde.alpha(t0), sde.sigma(t0)
    alpha_1, sigma_1 = sde.alpha(t1), sde.sigma(t1)

    # A value is its coefficients in (u, e, e_end), one row a coefficient, one column a step.
    u, e, e_end = torch.eye(3, dtype=torch.float64).reshape(3, 3, *[1] * t0.ndim)
    u_new = alpha_1/alpha_0*u + (sigma_1 - alpha_1*sigma_0/alpha_0)*e
    mean = (u - sigma_1*e_end)/alpha_1
    columns = (t0, *u_new[:2], t1, mean[0], mean[2])
    table = torch.stack(torch.broadcast_tensors(*columns), dim=1)
    if not table.isfinite().all():
        raise ValueError("float64 does not hold a coefficient of these times and parameters: take milder ones")
    return table


def step(state, c, network, noise=(), history=()):
    """One step of the state u, (batch, ...); `c` an unbound row of the table.  Returns (state, history)."""
    (u,) = state
    time_0, u_u, u_e, *_ = c
    (e,) = network((u,), time_0.amax())
    u_new = (u_u * u + u_e * e).to(u.dtype)
    return (u_new,), ()


def nfe(steps):
    """Network calls of a run of `steps` steps."""
    return NFE * steps


def denoise(state, c, network):
    """The mean of the data given the state at the end of the grid; `c` the unbound LAST row.  One network call."""
    (u,) = state
    time_1, mean_u, mean_e_end = c[3:6]
    (e_end,) = network((u,), time_1.amax())
    mean = (mean_u * u + mean_e_end * e_end).to(u.dtype)
    return (mean,)
