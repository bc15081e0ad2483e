"""Adams multistep of order 3 around Gaussian data for variance-preserving diffusion, linear beta.

It has a corrector and interpolates in the angle arctan(sigma/sigma_data).

The diffusion, forward in the network's time t:
    dx = -beta*x/2 dt + sqrt(beta) dw
with beta = beta_min + t*(beta_max - beta_min)

The step t0 -> t1 = t0 - h:
    z' = P z + sum_k M_k r^(k),   P the propagator of dz/dt = (F - G G^T C_skip/2) z from t0 to t1,
    M_k = int_t1^t0 P(t1, s) G G^T C_out(s) (u(s) - u(t0))^k/k! ds / 2,   score = C_skip z + C_out r,
    r^(k) the derivatives in u at t0 of the polynomial through the last 3 values of r,
    u = -arctan(sigma_hat/sigma_data), sigma_hat the effective sigma: sigma/alpha of one block,
    C_skip = -(Sigma + sigma_data^2 p p^T)^-1, C_out = -C_skip p: the data taken for a Gaussian of that variance
    Before that, z is corrected: the step that led to it is repeated with the polynomial that passes through the
    value of r at t0 too.

One network call and no noise per step.  Proven order 3 (a single step after the first ones has order 4).  This
assumes a smooth network, an exact start and bounded ratios of successive steps.
The local error of a step of length h, exact minus numerical:
    e_x = h^5 * k_x*(5*D3*D_k*(6*r1^2*r2 + 6*r1^2 + 4*r1*r2 + 8*r1 + 3)^2 - 3*D4*(r1 + 1)*(r1*r2 + r1 +
        1)*(10*r1^2*r2 + 10*r1^2 + 5*r1*r2 + 10*r1 + 3))/(4320*r1^2*r2 + 4320*r1^2 + 4320*r1*r2 + 8640*r1 + 4320)
    h = u(t1) - u(t0); the lengths of the steps before it were r1 h, r1 r2 h
    k_x, ... = the change of the blocks for a unit of r and a unit of u, k = -G G^T C_out/(2 du/dt)
    D1, D2, ... = the derivatives of r in u along the flow; D_k = its derivative along k
    e is the error of the corrected state; the earlier values of r were computed at exact states

The network gives a scalar denoiser D(y, sigma) = E[data | data + sigma noise = y], through the exact bridge.
Reference: arXiv 2302.04867 with the exact moments of the flow of Gaussian data, for any number of blocks.

To use it, with decreasing times, a network and the shape (batch, ...) of a component:
    table, L = coefficients(times), start(times[0])
    state = tuple(torch.einsum("ij,j...->i...", L, torch.randn(len(L), *shape, dtype=torch.float64)))
    history = tuple(torch.zeros(shape) for _ in range(HISTORY))
    for row in table:
        state, history = step(state, row.unbind(), network, (), history)
    data = denoise(state, table[-1].unbind(), network)[DATA]
"""

# Certified at 3 points (seed 1): table to 1e-12 and start to 1e-12 of balls, steps to 1e-11 of the program.

import math

import torch

API = 1
SDE = "vp"
SAMPLER = "adams-3-gaussian"
NETWORK = "denoiser"
NFE = 1
DRAWS = 0
HISTORY = 3
ORDER = 3
WEAK_ORDER = None
STRONG_ORDER = None
COMPONENTS = ("x",)
DATA = 0
INPUTS = 1
OUTPUTS = 1
COEFFICIENTS = tuple(
    """
    y_x sigma_hat_0 r0_x r0_d x_x x_r_m1 x_r_m2 x_r_m3 x_d y_end_x sigma_hat_1
    """.split()
)
SIGMA_COLUMNS = ("sigma_hat_0", "sigma_hat_1")
PARAMS = {"beta_min": 0.1, "beta_max": 20.0, "sigma_data": 0.5}
DIGEST = "0456497762218f9e6c017ba2195c47ae2d98d67e0089c6a9e03fc53551ea99a4"
START, END = 0.0, 1.0  # the span of the network's time


class Diffusion:
    """z_t = alpha data + sigma noise."""

    def __init__(self, beta_min, beta_max, sigma_data):
        if not (beta_min > 0 and beta_max > 0):
            raise ValueError("the parameters must fulfil beta_min > 0, beta_max > 0")
        self.beta_min, self.beta_max, self.sigma_data = beta_min, beta_max, sigma_data

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


def tail(values):
    """How much of some matrices at 8 Gauss nodes (first axis) is of degree 6 and 7; below 1e-6 quadrature is exact."""
    x, _, _ = gauss(8)
    last = torch.linalg.inv((2 * x[:, None] - 1) ** torch.arange(8))[-2:] / 2**6
    size = values.abs().amax((0, -2, -1), keepdim=True)[0].clamp_min(1e-300)
    return torch.tensordot(last, values, 1).abs().amax(0) / size


def since(row, gap):
    """The gap from this row on, infinite in the rows before: a difference across it vanishes there."""
    return torch.cat((torch.full_like(gap[:row], torch.inf), gap[row:]))


def matrix(rows, like):
    """The matrices of some entries, (*like.shape, rows, columns)."""
    entries = [torch.as_tensor(e, dtype=torch.float64).expand(like.shape) for row in rows for e in row]
    return torch.stack(entries, dim=-1).unflatten(-1, (len(rows), -1))


def propagate(M, h, rule):
    """Y' = Y [[M], [0]] from Y = I over a piece of length h: (Y at the nodes, Y at the end), by collocation."""
    (_, w, reach), (k, rows, n) = rule, M.shape[-3:]
    M = torch.nn.functional.pad(M, (0, 0, 0, n - rows))
    hM, eye = h[..., None, None, None] * M, torch.eye(n, dtype=M.dtype)
    A = torch.einsum("jk,...kba->...jakb", reach, hM).flatten(-4, -3).flatten(-2)
    ones = eye.repeat(k, 1).expand(*A.shape[:-1], n)
    Y = torch.linalg.solve(torch.eye(k * n, dtype=M.dtype) - A, ones).unflatten(-2, (k, n)).mT
    return Y, eye + torch.einsum("k,...kab->...ab", w, Y @ hM)


def resolved(M, t1, t0):
    """Pieces of (t1, t0), even in log(t - START), on which M is smooth: (rule, nodes, lengths, M at the nodes)."""
    rule, low, high = gauss(8), t1 - START, t0 - START
    speed = torch.maximum(*(t * M(START + t).abs().sum(-1).amax(-1) for t in (low, high)))
    pieces = max(1, math.ceil(float(((high / low).log() * speed.clamp_min(1 / 0.3)).max())))
    while pieces <= 10000:
        edges = START + torch.stack([low * (high / low) ** (k / pieces) for k in range(pieces + 1)])
        h = edges.diff(dim=0)
        s = edges[:-1] + h * rule[0].reshape(-1, *[1] * h.ndim)
        rates = M(s)
        if tail(rates).max() < 1e-6:
            return rule, s, h, rates.movedim(0, -3)
        pieces *= 2
    raise ValueError("the rates are too large, or change too fast, for these steps: take shorter ones")


def evolve(M, t1, t0):
    """Y(t0) of Y' = Y M(t), Y(t1) = I."""
    rule, _, h, rates = resolved(M, t1, t0)
    Y = torch.eye(rates.shape[-1], dtype=torch.float64)
    for end in propagate(rates, h, rule)[1]:
        Y = Y @ end
    return Y.movedim((-2, -1), (0, 1))


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
    t_m1 = torch.cat((times[:1].expand(1), t0))[: len(t0)]
    t_m2 = torch.cat((times[:1].expand(2), t0))[: len(t0)]
    t_m3 = torch.cat((times[:1].expand(3), t0))[: len(t0)]
    alpha_0, sigma_0 = sde.alpha(t0), sde.sigma(t0)
    sigma_hat_0 = sigma_0/alpha_0

    def rate_m(s):
        beta = sde.beta(s)
        rows = (
            (
                beta/2 - beta/(2*(sde.sigma_data**2*sde.alpha(s)**2 + sde.sigma(s)**2)),
                beta*sde.alpha(s)/(2*(sde.sigma_data**2*sde.alpha(s)**2 + sde.sigma(s)**2)),
                0,
                0,
                0,
            ),
            (
                0,
                0,
                beta*sde.sigma_data/(2*(sde.sigma_data**2 + sde.sigma(s)**2/sde.alpha(s)**2)*sde.alpha(s)*sde.sigma(s)),
                0,
                0,
            ),
            (
                0,
                0,
                0,
                beta*sde.sigma_data/(2*(sde.sigma_data**2 + sde.sigma(s)**2/sde.alpha(s)**2)*sde.alpha(s)*sde.sigma(s)),
                0,
            ),
            (
                0,
                0,
                0,
                0,
                beta*sde.sigma_data/(2*(sde.sigma_data**2 + sde.sigma(s)**2/sde.alpha(s)**2)*sde.alpha(s)*sde.sigma(s)),
            ),
        )
        return matrix(rows, s)

    Y = evolve(rate_m, t0, t_m1)
    M_m1 = Y[:, 1:5]
    alpha_m1, sigma_m1 = sde.alpha(t_m1), sde.sigma(t_m1)
    sigma_hat_m1 = sigma_m1/alpha_m1
    u_m1 = -torch.atan(sigma_hat_m1/sde.sigma_data)
    u_0 = -torch.atan(sigma_hat_0/sde.sigma_data)
    du_0_m1 = u_0 - u_m1
    gap_0_m1 = since(1, du_0_m1)
    alpha_m2, sigma_m2 = sde.alpha(t_m2), sde.sigma(t_m2)
    sigma_hat_m2 = sigma_m2/alpha_m2
    u_m2 = -torch.atan(sigma_hat_m2/sde.sigma_data)
    du_0_m2 = u_0 - u_m2
    gap_0_m2 = since(2, du_0_m2)
    alpha_m3, sigma_m3 = sde.alpha(t_m3), sde.sigma(t_m3)
    sigma_hat_m3 = sigma_m3/alpha_m3
    u_m3 = -torch.atan(sigma_hat_m3/sde.sigma_data)
    du_0_m3 = u_0 - u_m3
    gap_0_m3 = since(3, du_0_m3)
    share_1 = (du_0_m1**2/(gap_0_m2*gap_0_m3) + 1 - du_0_m1/gap_0_m3 - du_0_m1/gap_0_m2)/gap_0_m1
    share_2 = 2*(1/gap_0_m3 + 1/gap_0_m2 - 2*du_0_m1/(gap_0_m2*gap_0_m3))/gap_0_m1
    share_3 = 6/(gap_0_m1*gap_0_m2*gap_0_m3)
    du_m1_m2 = u_m1 - u_m2
    gap_m1_m2 = since(2, du_m1_m2)
    du_m1_m3 = u_m1 - u_m3
    gap_m1_m3 = since(3, du_m1_m3)
    du_m2_m3 = u_m2 - u_m3
    gap_m2_m3 = since(3, du_m2_m3)

    def rate_step(s):
        beta = sde.beta(s)
        rows = (
            (
                beta/2 - beta/(2*(sde.sigma_data**2*sde.alpha(s)**2 + sde.sigma(s)**2)),
                beta*sde.alpha(s)/(2*(sde.sigma_data**2*sde.alpha(s)**2 + sde.sigma(s)**2)),
                0,
                0,
            ),
            (
                0,
                0,
                beta*sde.sigma_data/(2*(sde.sigma_data**2 + sde.sigma(s)**2/sde.alpha(s)**2)*sde.alpha(s)*sde.sigma(s)),
                0,
            ),
            (
                0,
                0,
                0,
                beta*sde.sigma_data/(2*(sde.sigma_data**2 + sde.sigma(s)**2/sde.alpha(s)**2)*sde.alpha(s)*sde.sigma(s)),
            ),
        )
        return matrix(rows, s)

    Y = evolve(rate_step, t1, t0)
    P, M = Y[:, 0:1], Y[:, 1:4]
    alpha_1, sigma_1 = sde.alpha(t1), sde.sigma(t1)
    sigma_hat_1 = sigma_1/alpha_1

    # A value is its coefficients in (x, r_m1, r_m2, r_m3, d), one row a coefficient, one column a step.
    x, r_m1, r_m2, r_m3, d = torch.eye(5, dtype=torch.float64)[:, :, None]
    y = x/alpha_0
    r0 = (-alpha_0*sde.sigma_data**2*x + (alpha_0**2*sde.sigma_data**2 + sigma_0**2)*d)/(sigma_0**2)
    d12 = (r_m1 - r_m2)/gap_m1_m2
    d23 = (r_m2 - r_m3)/gap_m2_m3
    d123 = (d12 - d23)/gap_m1_m3
    missed = r0 - r_m1 - du_0_m1*(d12 + du_0_m2*d123)
    x_c = x + (M_m1[0, 1]*share_1 + M_m1[0, 2]*share_2 + M_m1[0, 3]*share_3)*missed
    d01 = (r0 - r_m1)/gap_0_m1
    d012 = (d01 - d12)/gap_0_m2
    d1 = d01 + du_0_m1*d012
    d2 = 2*d012
    x_new = P[0, 0]*x_c + M[0, 0]*r0 + M[0, 1]*d1 + M[0, 2]*d2
    y_end = x/alpha_1
    columns = (y[0], sigma_hat_0, r0[0], r0[4], *x_new, y_end[0], sigma_hat_1)
    table = torch.stack(torch.broadcast_tensors(*columns), dim=-1)
    if not table.isfinite().all():
        raise ValueError("float64 does not hold a coefficient of these times and parameters: take milder ones")
    return table


def step(state, c, network, noise=(), history=()):
    """One step of the state x, (batch, ...); `c` an unbound row of the table.  Returns (state, history)."""
    (x,) = state
    r_m1, r_m2, r_m3 = history
    y_x, sigma_hat_0, r0_x, r0_d, x_x, x_r_m1, x_r_m2, x_r_m3, x_d, *_ = c
    y = y_x * x
    (d,) = network((y,), sigma_hat_0)
    x_new = x_x * x + x_r_m1 * r_m1 + x_r_m2 * r_m2 + x_r_m3 * r_m3 + x_d * d
    r0 = r0_x * x + r0_d * d
    return (x_new,), (r0, r_m1, r_m2)


def nfe(steps):
    """Network calls of a run of `steps` steps."""
    return NFE * steps


def denoise(state, c, network):
    """The mean of the data given the state at the end of the grid; `c` the unbound LAST row.  One network call."""
    (x,) = state
    y_end_x, sigma_hat_1 = c[9:11]
    y_end = y_end_x * x
    (d_end,) = network((y_end,), sigma_hat_1)
    return (d_end,)
