"""Diagonal splitting for blurring diffusion with a coefficient for each frequency, cosine schedule.

One Euler kick between two half steps that solve the diagonal of the drift and the noise exactly.

The diffusion, forward in the network's time t:
    du = f*u dt + sqrt(g2) dw
with shrink = min_scale + (1 - min_scale)*exp(-blur^2*k2*sin(pi*t/2)^4/2)
with f = alpha'/alpha, g2 = 2*sigma*(sigma' - f*sigma)
with alpha = shrink*cos(pi*t/2), sigma = sin(pi*t/2)
with k2 = pi^2 (i^2/H^2 + j^2/W^2) of the frequency (i, j): u is the cosine transform of an image

The step t0 -> t1 = t0 - h:
    O S! O
    where ! calls the network for a new score; a letter without ! uses the last score again
    O: du = f*u dtau + the noise of the diffusion, solved exactly
    S: du = (-2*f*u + g2*s_u) dtau, an Euler step

One network call and two normal draws per step.  Proven weak order 1, strong order 1.  This assumes a smooth
network, an exact start and bounded ratios of successive steps.

The network gives epsilon with the lower Cholesky factor of the covariance, score = -L^-T epsilon.

To use it, with decreasing times, a network and the shape (batch, ...) of a component:
    table, L = coefficients(times, k2=k2), start(times[0], k2=k2)
    state = tuple(torch.einsum("ij...,jb...->ib...", L, torch.randn(len(L), *shape, dtype=torch.float64)))
    for row in table:
        noise = tuple(torch.randn(shape) for _ in range(DRAWS))
        state, _ = step(state, row.unbind(), network, noise)
    data = denoise(state, table[-1].unbind(), network)[DATA]
"""

# Certified at 3 points (seed 1): table to 1e-12 and start to 1e-12 of balls, steps to 1e-11 of the program.

import math

import torch

API = 1
SDE = "blurring"
SAMPLER = "oso"
NETWORK = "eps-L"
NFE = 1
DRAWS = 2
HISTORY = 0
ORDER = None
WEAK_ORDER = 1
STRONG_ORDER = 1.0
COMPONENTS = ("u",)
FIELD = "k2"  # what differs from frequency to frequency: the eigenvalue of minus the Laplacian
DATA = 0
INPUTS = 1
OUTPUTS = 1
COEFFICIENTS = ("u_O1_u", "u_O1_w1", "time_0", "u_u", "u_w1", "u_w2", "u_e", "time_1", "mean_u", "mean_e_end")
SIGMA_COLUMNS = ()
PARAMS = {"blur": 20.0, "min_scale": 0.001}
DIGEST = "9b60914ded9be2af3b751e5d7a8079fee72a4946c31436e809376962cad2ad56"
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

    def f(self, t):
        shrink = self.shrink(t)
        return (
            -math.pi*self.blur**2*self.k2*(1 - self.min_scale)*torch.exp(-self.blur**2*self.k2*torch.sin(math.pi*t/2)**4/2)*torch.sin(math.pi*t/2)**3*torch.cos(math.pi*t/2)/shrink
            - math.pi*torch.sin(math.pi*t/2)/(2*torch.cos(math.pi*t/2))
        )

    def g2(self, t):
        f = self.f(t)
        return 2*(math.pi*torch.cos(math.pi*t/2)/2 - f*torch.sin(math.pi*t/2))*torch.sin(math.pi*t/2)

    def alpha(self, t):
        """The factor of the data in z_t."""
        shrink = self.shrink(t)
        return shrink*torch.cos(math.pi*t/2)

    def sigma(self, t):
        """The standard deviation of z_t given the data."""
        return torch.sin(math.pi*t/2)


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


def columns(Y, G, h, rule):
    """Y(s) G(s) sqrt(ds) side by side: their covariance is the integral of Y G G^T Y^T over the piece."""
    return ((h[..., None] * rule[1]).sqrt()[..., None, None] * Y @ G).movedim(-3, -2).flatten(-2)


def factor(columns, order=None):
    """L L^T = columns columns^T with L[order] lower triangular: Gram-Schmidt on the rows; no covariance is formed."""
    order = order or range(columns.shape[-2])
    L = columns.new_zeros(*columns.shape[:-1], len(order))
    for k, j in enumerate(order):
        rest, row = list(order[k:]), columns[..., j, None, :]
        unit = row / row.norm(dim=-1, keepdim=True).clamp_min(1e-300)
        L[..., rest, k] = (columns[..., rest, :] * unit).sum(-1)
        columns = columns - L[..., k, None] * unit
    return L


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


def spread(M, G, t1, t0):
    """The lower factor of the integral of Y G G^T Y^T over (t1, t0), for Y' = Y M(t), Y(t1) = I."""
    rule, s, h, rates = resolved(M, t1, t0)
    inside, ends = propagate(rates, h, rule)
    G, Y, noise = G(s).movedim(0, -3), torch.eye(rates.shape[-1], dtype=torch.float64), []
    for k, end in enumerate(ends):
        noise.append(columns(Y[..., None, :, :] @ inside[k], G[k], h[k], rule))
        Y = Y @ end
    return factor(torch.cat(noise, dim=-1)).movedim((-2, -1), (0, 1))


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
    h = t0 - t1
    t_1_2 = t0 - h/2

    def rate_O(s):
        f = sde.f(s)
        return matrix(((f,),), s)

    decay_O1 = evolve(rate_O, t_1_2, t0)

    def noise_O(s):
        g2 = sde.g2(s)
        return matrix(((torch.sqrt(g2),),), s)

    factor_O1 = spread(rate_O, noise_O, t_1_2, t0)
    sigma_0 = sde.sigma(t0)
    f_0 = sde.f(t0)
    g2_0 = sde.g2(t0)
    decay_O3 = evolve(rate_O, t1, t_1_2)
    factor_O3 = spread(rate_O, noise_O, t1, t_1_2)
    alpha_1, sigma_1 = sde.alpha(t1), sde.sigma(t1)

    # A value is its coefficients in (u, w1, w2, e, e_end), one row a coefficient, one column a step.
    u, w1, w2, e, e_end = torch.eye(5, dtype=torch.float64).reshape(5, 5, *[1] * t0.ndim)
    u_O1 = decay_O1[0, 0]*u + factor_O1[0, 0]*w1  # O
    s_u = -e/sigma_0
    u_S2 = u_O1 + h*(-2*f_0*u_O1 + g2_0*s_u)  # S!
    u_O3 = decay_O3[0, 0]*u_S2 + factor_O3[0, 0]*w2  # O
    mean = (u - sigma_1*e_end)/alpha_1
    columns = (*u_O1[:2], t0, *u_O3[:4], t1, mean[0], mean[4])
    table = torch.stack(torch.broadcast_tensors(*columns), dim=1)
    if not table.isfinite().all():
        raise ValueError("float64 does not hold a coefficient of these times and parameters: take milder ones")
    return table


def step(state, c, network, noise=(), history=()):
    """One step of the state u, (batch, ...); `c` an unbound row of the table.  Returns (state, history)."""
    (u,) = state
    w1, w2 = noise
    u_O1_u, u_O1_w1, time_0, u_u, u_w1, u_w2, u_e, *_ = c
    u_O1 = (u_O1_u * u + u_O1_w1 * w1).to(u.dtype)
    (e,) = network((u_O1,), time_0.amax())
    u_new = (u_u * u + u_w1 * w1 + u_w2 * w2 + u_e * e).to(u.dtype)
    return (u_new,), ()


def nfe(steps):
    """Network calls of a run of `steps` steps."""
    return NFE * steps


def denoise(state, c, network):
    """The mean of the data given the state at the end of the grid; `c` the unbound LAST row.  One network call."""
    (u,) = state
    time_1, mean_u, mean_e_end = c[7:10]
    (e_end,) = network((u,), time_1.amax())
    mean = (mean_u * u + mean_e_end * e_end).to(u.dtype)
    return (mean,)
