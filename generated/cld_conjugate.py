"""Conjugate integrator with B = 0 for critically damped Langevin diffusion.

The exponential integrator of order one (DDIM on VP).

The diffusion, forward in the network's time t:
    dx = Minv*beta*v dt
    dv = (-Minv*beta*f*v - beta*x) dt + sqrt(2)*sqrt(beta*f) dw
with f = 2/sqrt(Minv)

The step t0 -> t1 = t0 - h:
    z' = P (I - h B(t0)) z + Phi n,   n the network's output at t0 in the frame denoiser,
    P the propagator of dX/dt = (F - G G^T C_skip / 2 - B) X from t0 to t1,
    Phi = int_t1^t0 P(t1, s) G G^T C_out(s) ds / 2,   score = C_skip z + C_out n,
    B = 0

One network call and no noise per step.  Proven order 1.  This assumes a smooth network, an exact start and bounded
ratios of successive steps.
The local error of a step of length h, exact minus numerical:
    e_x = O(h^3)
    e_v = h^2 * K_v*dn/2
    n = the output in the frame denoiser at t0, frozen over the step; dn = its rate dn/dt along the flow
    K = -G G^T C_out/2 of that frame; score = C_skip z + C_out n

The network gives a scalar denoiser D(y, sigma) = E[data | data + sigma noise = y], through the exact bridge.
With Sigma the covariance of z given the data and p = Psi(t, START) e the mean of z for unit data,
    score = -Sigma^-1 (z - p D(y, sigma)),   sigma^-2 = p^T Sigma^-1 p,   y = sigma^2 p^T Sigma^-1 z.
Reference: arXiv 2310.07894, section 3.

To use it, with decreasing times, a network and the shape (batch, ...) of a component:
    table, L = coefficients(times), start(times[0])
    state = tuple(torch.einsum("ij,j...->i...", L, torch.randn(len(L), *shape, dtype=torch.float64)))
    for row in table:
        state, _ = step(state, row.unbind(), network)
    data = denoise(state, table[-1].unbind(), network)[DATA]
"""

# Certified at 3 points (seed 1): table to 1e-12 and start to 1e-12 of balls, steps to 1e-11 of the program.

import math

import torch

API = 1
SDE = "cld"
SAMPLER = "conjugate"
NETWORK = "denoiser"
NFE = 1
DRAWS = 0
HISTORY = 0
ORDER = 1
WEAK_ORDER = None
STRONG_ORDER = None
COMPONENTS = ("x", "v")
DATA = 0
INPUTS = 1
OUTPUTS = 1
COEFFICIENTS = ("y_x", "y_v", "sigma_0", "x_x", "x_v", "x_d", "v_x", "v_v", "v_d", "y_end_x", "y_end_v", "sigma_1")
SIGMA_COLUMNS = ("sigma_0", "sigma_1")
PARAMS = {"beta": 4.0, "Minv": 4.0, "kappa": 0.04}
DIGEST = "354e755f44c9e8cb0166dce599b44a31684da40134f3af22705c9010b8db443e"
START, END = 0.0, 1.0  # the span of the network's time


class Diffusion:
    """dz = F z dt + G dw, from the covariance L0 L0^T at START."""

    def __init__(self, beta, Minv, kappa):
        if not (Minv > 0 and kappa > 0 and beta > 0):
            raise ValueError("the parameters must fulfil Minv > 0, kappa > 0, beta > 0")
        self.beta, self.Minv, self.kappa = beta, Minv, kappa
        self.f = 2/math.sqrt(self.Minv)
        self.L0 = torch.tensor([[0], [math.sqrt(self.kappa/self.Minv)]], dtype=torch.float64)
        self.data = [0]
        self.order = [1, 0]  # of the rows of a factor of the covariance: the data last

    def F(self, t):
        return matrix(((0, self.Minv*self.beta), (-self.beta, -self.Minv*self.beta*self.f)), t)

    def G(self, t):
        return matrix(((0,), (math.sqrt(2)*math.sqrt(self.beta*self.f),)), t)

    def speed(self, t):
        """How many short pieces a unit of time is cut into, at least."""
        return self.F(t).abs().sum(-1).amax(-1)


def gauss(n):
    """Gauss nodes and weights on (0, 1), and the integrals from 0 to each node of the polynomials through them."""
    k = torch.arange(1, n, dtype=torch.float64)
    off = torch.diag(k / torch.sqrt(4 * k**2 - 1), 1)
    u, V = torch.linalg.eigh(off + off.mT)
    k, u = torch.arange(n), u[:, None]
    reach = ((u ** (k + 1) - (-1.0) ** (k + 1)) / (k + 1)) @ torch.linalg.inv(u**k) / 2
    return (u[:, 0] + 1) / 2, V[0] ** 2, reach


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


def prefix_products(A):
    """A_i ... A_0 for all i, in log2 N rounds."""
    d = 1
    while d < len(A):
        A, d = torch.cat((A[:d], A[d:] @ A[:-d])), 2 * d
    return A


def prefix_factors(A, C, order):
    """The factors of the covariances of z_i = A_i z_(i-1) + C_i noise, in log2 N rounds."""
    d = 1
    while d < len(A):
        C = torch.cat((C[:d], factor(torch.cat((A[d:] @ C[:-d], C[d:]), dim=-1), order)))
        A, d = torch.cat((A[:d], A[d:] @ A[:-d])), 2 * d
    return C


def pieces(sde, times):
    """(edges of short pieces between decreasing times, even in log(t - START), and to START; places of the times)."""
    b, a, speed = times[:-1] - START, times[1:] - START, sde.speed(times)
    cut = (2 * (b / a).log() * torch.maximum(b * speed[:-1], a * speed[1:]).clamp_min(1 / 0.3)).ceil().long()
    rest = max(1, math.ceil(float((times[-1] - START) * speed[-1])))
    if not int(cut.sum()) + rest <= 100 * (len(times) + 300):
        raise ValueError("the rates are too large for their time span: shorten it, or start it later")
    place = torch.nn.functional.pad(cut.cumsum(0), (1, 0))
    i = torch.arange(len(cut)).repeat_interleave(cut)
    between = a[i] * (b / a)[i] ** (1 - (torch.arange(len(i)) - place[i]) / cut[i])
    first = (times[-1] - START) * (1 - torch.arange(rest + 1, dtype=torch.float64) / rest)
    return START + torch.cat((between, first)), place


class Law:
    """The law of z given the data at some times; between them lie short pieces a < s < b, the latest first.

    At the edges of the pieces: push = Psi(t, START), K K^T = Sigma, Z = K^-1, lead = Z push e.
    """

    def __init__(self, sde, *times):
        rule, eye = gauss(8), torch.eye(len(sde.L0), dtype=torch.float64)
        self.times = torch.cat(times).unique().flip(0)
        self.data = sde.data
        edges, self.edge = pieces(sde, self.times)
        h = -edges.diff()
        s = edges[1:, None] + h[:, None] * rule[0]
        back, over = propagate(-sde.F(s), h, rule)  # Psi(a, s), Psi(a, b)
        noise = columns(back, sde.G(s), h, rule)

        # From START up.  Near it columns are carried to START, where a nearly singular law keeps its digits.
        ends, step = edges[:-1].flip(0), torch.linalg.inv(over).flip(0)
        push = torch.cat((eye[None], prefix_products(step)))
        pull = torch.linalg.inv_ex(push)[0]
        near = ((ends - START) * sde.speed(ends) < 1).cumprod(0).bool()[:, None, None]
        before = torch.cat((torch.ones_like(near[:1]), near[:-1]))
        A = torch.where(near, eye, torch.where(before, push[1:], step))
        C = factor(torch.where(near, pull[:-1], step) @ noise.flip(0), sde.order)
        C[0] = factor(torch.cat((A[0] @ sde.L0, C[0]), dim=-1), sde.order)
        W = prefix_factors(A, C, sde.order)
        self.push = push[1:].flip(0)
        self.K = (torch.where(near, push[1:], eye) @ W).flip(0)
        whole = torch.cat((torch.where(near, pull[1:], eye), torch.where(near, eye, push[1:])[..., [DATA]]), dim=-1)
        white = torch.linalg.solve_triangular(W[:, sde.order], whole[:, sde.order], upper=False).flip(0)
        self.Z = white[..., :-1]
        self.lead = white[..., -1:]

        # The pieces between the times, without those from START.
        m = int(self.edge[-1])
        self.rule, self.h, self.s, self.over = rule, h[:m], s[:m], over[:m]
        self.back = back[:m]
        # At their nodes, with V = Z(a) Psi(a, s) and g = V G:  Sigma^-1 = V^T S^-1 V,
        # Sigma^-1 push e = V^T S^-1 lead(a), S = I + int_a^s g g^T: a sum, so that nothing cancels.
        self.V = self.Z[1 : m + 1, None] @ self.back
        g = self.V @ sde.G(self.s)
        self.rise = g @ g.mT
        self.S = eye + torch.einsum("jk,i,ikab->ijab", rule[2], self.h, self.rise)

    def ahead(self, t0, t1):
        """Psi(t0, t1), piece by piece, so that what the diffusion forgets before t1 costs no digits."""
        return self.between(torch.linalg.inv(self.over).mT, t1, t0).transpose(0, 1)

    def place(self, t):
        """The edges of the times t."""
        return self.edge[len(self.times) - 1 - torch.searchsorted(self.times.flip(0), t)]

    def between(self, M, t1, t0):
        """The product of a matrix a piece over the pieces between two times, in the order of time."""
        first, last = self.place(t0), self.place(t1) - 1
        Y = M[last]
        for k in range(1, int((last - first).max()) + 1):
            longer = last - k >= first
            Y[longer] = Y[longer] @ M[(last - k)[longer]]
        return Y.movedim(0, -1)

    def whitened(self):
        """Z(a) u at a from u at b along the probability flow, u = z - push e d: y = V u has y' = S' S^-1 y/2."""
        Y = propagate(-self.rise @ torch.linalg.inv(self.S) / 2, self.h, self.rule)[1]
        return Y @ self.Z[1 : len(self.h) + 1] @ self.over

    def flow(self, t1, t0):
        """U with z - push e d at t1 = U (the same at t0), along the probability flow."""
        return self.between(self.K[1 : len(self.h) + 1] @ self.whitened(), t1, t0)

    def denoiser(self, t):
        """(C_skip, C_out, C_in, sigma) of the denoiser's score at the times t."""
        Z, lead = self.Z[self.place(t)], self.lead[self.place(t)]
        sigma = 1 / lead.norm(dim=(-2, -1))
        tables = -Z.mT @ Z, Z.mT @ lead, sigma[:, None, None] ** 2 * lead.mT @ Z
        return *(M.movedim(0, -1) for M in tables), sigma

    def mean(self, t):
        """push e, the mean of z for unit data."""
        return self.push[self.place(t)][..., [DATA]].movedim(0, -1)


def start(time, /, **params):
    """The lower factor of the covariance at `time`, (*time.shape, n, n); a run starts from it times normals."""
    sde, t = Diffusion(**{**PARAMS, **params}), torch.as_tensor(time, dtype=torch.float64)
    law = Law(sde, t.reshape(-1))
    return factor(law.K[law.place(t)])


def start_data(time, /, **params):
    """What the data are multiplied with in the mean of the state at `time`, (*time.shape, n, data blocks)."""
    sde, t = Diffusion(**{**PARAMS, **params}), torch.as_tensor(time, dtype=torch.float64)
    law = Law(sde, t.reshape(-1))
    return law.push[law.place(t)][..., sde.data]


def transition(time, before, /, **params):
    """Psi(time, before), (*time.shape, n, n): the state at `time` is this times that at `before`, and noise."""
    sde = Diffusion(**{**PARAMS, **params})
    t, s = torch.broadcast_tensors(*(torch.as_tensor(each, dtype=torch.float64) for each in (time, before)))
    if not (s < t).all():
        raise ValueError("before must be earlier than time")
    t, s, shape = t.reshape(-1), s.reshape(-1), t.shape
    return Law(sde, t, s).ahead(t, s).movedim(-1, 0).reshape(*shape, 2, 2)


def coefficients(times, /, **params):
    """The table of coefficients, (len(times) - 1, len(COEFFICIENTS)); row i is times[i] -> times[i + 1]."""
    sde, times = Diffusion(**{**PARAMS, **params}), torch.as_tensor(times, dtype=torch.float64).cpu()
    if not (times.ndim == 1 < len(times) and (times.diff() < 0).all() and START < times[-1] and times[0] <= END):
        raise ValueError(f"times must be at least two numbers that decrease strictly within ({START}, {END}]")
    t0, t1 = times[:-1], times[1:]
    law = Law(sde, times)
    _, _, inp_0, sigma_0 = law.denoiser(t0)
    U = law.flow(t1, t0)
    p_1 = law.mean(t1)
    p_0 = law.mean(t0)
    _, _, inp_1, sigma_1 = law.denoiser(t1)

    # A value is its coefficients in (x, v, d), one row a coefficient, one column a step.
    x, v, d = torch.eye(3, dtype=torch.float64)[:, :, None]
    y = inp_0[0, 0]*x + inp_0[0, 1]*v
    z_x = x - p_0[0, 0]*d
    z_v = v - p_0[1, 0]*d
    x_new = U[0, 0]*z_x + U[0, 1]*z_v + p_1[0, 0]*d
    v_new = U[1, 0]*z_x + U[1, 1]*z_v + p_1[1, 0]*d
    y_end = inp_1[0, 0]*x + inp_1[0, 1]*v
    columns = (*y[:2], sigma_0, *x_new, *v_new, *y_end[:2], sigma_1)
    table = torch.stack(torch.broadcast_tensors(*columns), dim=-1)
    if not table.isfinite().all():
        raise ValueError("float64 does not hold a coefficient of these times and parameters: take milder ones")
    return table


def step(state, c, network, noise=(), history=()):
    """One step of the state (x, v), each (batch, ...); `c` an unbound row of the table.  Returns (state, history)."""
    x, v = state
    y_x, y_v, sigma_0, x_x, x_v, x_d, v_x, v_v, v_d, *_ = c
    y = y_x * x + y_v * v
    (d,) = network((y,), sigma_0)
    x_new = x_x * x + x_v * v + x_d * d
    v_new = v_x * x + v_v * v + v_d * d
    return (x_new, v_new), ()


def nfe(steps):
    """Network calls of a run of `steps` steps."""
    return NFE * steps


def denoise(state, c, network):
    """The mean of the data given the state at the end of the grid; `c` the unbound LAST row.  One network call."""
    x, v = state
    y_end_x, y_end_v, sigma_1 = c[9:12]
    y_end = y_end_x * x + y_end_v * v
    (d_end,) = network((y_end,), sigma_1)
    return (d_end, v)
