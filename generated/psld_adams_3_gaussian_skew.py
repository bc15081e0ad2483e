"""Adams method of order 3 with a skew drift for phase-space Langevin diffusion, critically damped.

The drift makes several blocks as good as one; Gaussian data are solved exactly.

The diffusion, forward in the network's time t:
    dx = (-Gamma*beta*x/2 + Minv*beta*m/2) dt + sqrt(Gamma*beta) dw_1
    dm = (-beta*m*nu/2 - beta*x/2) dt + sqrt(beta*nu/Minv) dw_2
with beta = beta_min + t*(beta_max - beta_min)
with Minv = (Gamma - nu)^2/4

The step t0 -> t1 = t0 - h:
    z' = P z + sum_k M_k r^(k),   P the propagator of dz/dt = (F - (G G^T - 2 Q) C_skip/2) z from t0 to t1,
    M_k = int_t1^t0 P(t1, s) (G G^T - 2 Q) C_out(s) (u(s) - u(t0))^k/k! ds / 2,   score = C_skip z + C_out r,
    r^(k) the derivatives in u at t0 of the polynomial through the last 3 values of r,
    u = -arctan(sigma_hat/sigma_data), sigma_hat the effective sigma: sigma/alpha of one block,
    C_skip = -(Sigma + sigma_data^2 p p^T)^-1, C_out = -C_skip p: the data taken for a Gaussian of that variance
    Q = (g p^T - p g^T)/(2 p^T Sigma^-1 p), g = G G^T Sigma^-1 p, a skew drift Q s, which keeps the marginals:
    the input of the denoiser then follows the probability flow of one block, whatever the other blocks are
    Before that, z is corrected: the step that led to it is repeated with the polynomial that passes through the
    value of r at t0 too.

One network call and no noise per step.  Proven order 3 (a single step after the first ones has order 4).  This
assumes a smooth network, an exact start and bounded ratios of successive steps.
The local error of a step of length h, exact minus numerical:
    e_x = h^5 * k_x*(5*D3*D_k*(6*r1^2*r2 + 6*r1^2 + 4*r1*r2 + 8*r1 + 3)^2 - 3*D4*(r1 + 1)*(r1*r2 + r1 +
        1)*(10*r1^2*r2 + 10*r1^2 + 5*r1*r2 + 10*r1 + 3))/(4320*r1^2*r2 + 4320*r1^2 + 4320*r1*r2 + 8640*r1 + 4320)
    e_m = h^5 * k_m*(5*D3*D_k*(6*r1^2*r2 + 6*r1^2 + 4*r1*r2 + 8*r1 + 3)^2 - 3*D4*(r1 + 1)*(r1*r2 + r1 +
        1)*(10*r1^2*r2 + 10*r1^2 + 5*r1*r2 + 10*r1 + 3))/(4320*r1^2*r2 + 4320*r1^2 + 4320*r1*r2 + 8640*r1 + 4320)
    h = u(t1) - u(t0); the lengths of the steps before it were r1 h, r1 r2 h
    k_x, ... = the change of the blocks for a unit of r and a unit of u, k = -(G G^T/2 - Q) C_out/(du/dt)
    D1, D2, ... = the derivatives of r in u along the flow; D_k = its derivative along k
    e is the error of the corrected state; the earlier values of r were computed at exact states

The network gives a scalar denoiser D(y, sigma) = E[data | data + sigma noise = y], through the exact bridge.
With Sigma the covariance of z given the data and p = Psi(t, START) e the mean of z for unit data,
    score = -Sigma^-1 (z - p D(y, sigma)),   sigma^-2 = p^T Sigma^-1 p,   y = sigma^2 p^T Sigma^-1 z.
Reference: arXiv 2302.04867 with the exact moments of the flow of Gaussian data; the skew drift after arXiv
1506.04696.

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
SDE = "psld"
SAMPLER = "adams-3-gaussian-skew"
NETWORK = "denoiser"
NFE = 1
DRAWS = 0
HISTORY = 3
ORDER = 3
WEAK_ORDER = None
STRONG_ORDER = None
COMPONENTS = ("x", "m")
SKEW = True  # its flow is another map than the probability flow, with the same marginals
DATA = 0
INPUTS = 1
OUTPUTS = 1
COEFFICIENTS = tuple(
    """
    y_x y_m sigma_0 r0_x r0_m r0_d x_x x_m x_r_m1 x_r_m2 x_r_m3 x_d m_x m_m m_r_m1 m_r_m2 m_r_m3 m_d y_end_x
    y_end_m sigma_1
    """.split()
)
SIGMA_COLUMNS = ("sigma_0", "sigma_1")
PARAMS = {"Gamma": 0.01, "nu": 4.01, "kappa": 0.04, "beta_min": 8.0, "beta_max": 8.0, "sigma_data": 0.5}
DIGEST = "bc62f0cd19bce8fdb0db932d220b1db5a31aa0a10ebd63d77740e9b2fb0df933"
START, END = 0.0, 1.0  # the span of the network's time


class Diffusion:
    """dz = F z dt + G dw, from the covariance L0 L0^T at START."""

    def __init__(self, Gamma, nu, kappa, beta_min, beta_max, sigma_data):
        if not (Gamma != nu and Gamma >= 0 and nu >= 0 and kappa > 0 and beta_min > 0 and beta_max > 0):
            raise ValueError(
                "the parameters must fulfil Gamma != nu, Gamma >= 0, nu >= 0, kappa > 0, beta_min > 0, beta_max > 0"
            )
        self.Gamma = Gamma
        self.nu = nu
        self.kappa = kappa
        self.beta_min = beta_min
        self.beta_max = beta_max
        self.sigma_data = sigma_data
        self.Minv = (self.Gamma - self.nu)**2/4
        self.L0 = torch.tensor([[0], [math.sqrt(self.kappa/self.Minv)]], dtype=torch.float64)
        self.data = [0]
        self.order = [1, 0]  # of the rows of a factor of the covariance: the data last

    def beta(self, t):
        return self.beta_min + t*(self.beta_max - self.beta_min)

    def F(self, t):
        beta = self.beta(t)
        return matrix(((-self.Gamma*beta/2, self.Minv*beta/2), (-beta/2, -beta*self.nu/2)), t)

    def G(self, t):
        beta = self.beta(t)
        return matrix(((torch.sqrt(self.Gamma*beta), 0), (0, torch.sqrt(beta*self.nu/self.Minv))), t)

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


def gaussian(sde, spread):
    """The diffusion as it is when the data are Gaussian with this standard deviation, sde itself from now on."""
    sde.L0 = torch.cat((sde.L0, spread * torch.eye(len(sde.L0), dtype=torch.float64)[:, [DATA]]), dim=-1)
    return sde


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

    def denoiser(self, t):
        """(C_skip, C_out, C_in, sigma) of the denoiser's score at the times t."""
        Z, lead = self.Z[self.place(t)], self.lead[self.place(t)]
        sigma = 1 / lead.norm(dim=(-2, -1))
        tables = -Z.mT @ Z, Z.mT @ lead, sigma[:, None, None] ** 2 * lead.mT @ Z
        return *(M.movedim(0, -1) for M in tables), sigma

    def level(self):
        """The effective sigma at the nodes and its derivative in time."""
        lead = self.lead[1 : len(self.h) + 1, None].expand_as(self.V[..., :1])
        seen = torch.linalg.solve(self.S, lead)
        sigma = 1 / (lead.mT @ seen)[..., 0, 0].sqrt()
        return sigma, sigma**3 * (seen.mT @ self.rise @ seen)[..., 0, 0] / 2

    def relaxation(self):
        """What V (z - push e d) goes by along the probability flow, at the nodes: Y' = Y A."""
        return -self.rise @ torch.linalg.inv(self.S) / 2

    def skew(self):
        """What Q s adds to F z, Q = (g u^T - u g^T)/(2 u^T S^-1 u), u = lead, g = rise S^-1 u: y moves as if alone."""
        lead = self.lead[1 : len(self.h) + 1, None].expand_as(self.V[..., :1])
        seen = torch.linalg.solve(self.S, lead)
        half = self.rise @ seen @ lead.mT / (2 * lead.mT @ seen)
        return (half - half.mT) @ torch.linalg.inv(self.S)

    def moments(self, A, now, then, rate, degree, t1, t0):
        """[P, M_0, M_1, ...] over (M_0, M_1, ... of r itself): V z goes by A, r and rate r' go into it by now and then.

        r is a polynomial of this degree in a clock, r' its derivative, `rate` the clock's at nodes, (pieces, nodes).
        """
        if not (self.h[:, None, None, None] * A).abs().sum(-1).max() <= 6:  # where collocation begins to lose digits
            raise ValueError("the rates are too large, or change too fast, for these steps: take shorter ones")
        m, (n, w) = len(self.h), now.shape[-2:]
        size = n + w * (degree + 1)
        M = A.new_zeros(*A.shape[:2], size, size)
        top = torch.cat((A, now, rate[..., None, None] * then), dim=-1)[..., :size]
        M[..., :n, : top.shape[-1]] = top
        for k in range(n, size - w):
            M[..., k, k + w] = -rate
        Y = propagate(M, self.h, self.rule)[1]
        K = self.K[1 : m + 1]
        top = torch.cat((K @ Y[:, :n, :n] @ self.Z[1 : m + 1] @ self.over, K @ Y[:, :n, n:]), dim=-1)
        return self.between(torch.cat((top, Y[:, n:]), dim=-2), t1, t0)

    def moments_gaussian(self, A, rate, degree, t1, t0):
        """The same where the data are Gaussian around r."""
        lead = self.lead[1 : len(self.h) + 1, None].expand_as(self.V[..., :1])
        Y, n = self.moments(A, -A @ lead, 0 * lead, rate, degree, t1, t0), A.shape[-1]
        return Y[:n, :n], Y[:n, n:]


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
    t_m1 = torch.cat((times[:1].expand(1), t0))[: len(t0)]
    t_m2 = torch.cat((times[:1].expand(2), t0))[: len(t0)]
    t_m3 = torch.cat((times[:1].expand(3), t0))[: len(t0)]
    law = Law(sde, times)
    prior = Law(gaussian(sde, abs(sde.sigma_data)), times)
    _, _, inp_0, sigma_0 = law.denoiser(t0)
    sigma_hat, rise = law.level()
    rate = -rise*sde.sigma_data/(sde.sigma_data**2 + sigma_hat**2)
    A = prior.relaxation() + prior.skew()
    _, M_m1 = prior.moments_gaussian(A, rate, 3, t0, t_m1)
    _, _, _, sigma_m1 = law.denoiser(t_m1)
    u_m1 = -torch.atan(sigma_m1/sde.sigma_data)
    u_0 = -torch.atan(sigma_0/sde.sigma_data)
    du_0_m1 = u_0 - u_m1
    gap_0_m1 = since(1, du_0_m1)
    _, _, _, sigma_m2 = law.denoiser(t_m2)
    u_m2 = -torch.atan(sigma_m2/sde.sigma_data)
    du_0_m2 = u_0 - u_m2
    gap_0_m2 = since(2, du_0_m2)
    _, _, _, sigma_m3 = law.denoiser(t_m3)
    u_m3 = -torch.atan(sigma_m3/sde.sigma_data)
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
    P, M = prior.moments_gaussian(A, rate, 2, t1, t0)
    _, _, inp_1, sigma_1 = law.denoiser(t1)

    # A value is its coefficients in (x, m, r_m1, r_m2, r_m3, d), one row a coefficient, one column a step.
    x, m, r_m1, r_m2, r_m3, d = torch.eye(6, dtype=torch.float64)[:, :, None]
    y = inp_0[0, 0]*x + inp_0[0, 1]*m
    r0 = (1 + sde.sigma_data**2/sigma_0**2)*d - sde.sigma_data**2/sigma_0**2*y
    d12 = (r_m1 - r_m2)/gap_m1_m2
    d23 = (r_m2 - r_m3)/gap_m2_m3
    d123 = (d12 - d23)/gap_m1_m3
    missed = r0 - r_m1 - du_0_m1*(d12 + du_0_m2*d123)
    x_c = x + (M_m1[0, 1]*share_1 + M_m1[0, 2]*share_2 + M_m1[0, 3]*share_3)*missed
    m_c = m + (M_m1[1, 1]*share_1 + M_m1[1, 2]*share_2 + M_m1[1, 3]*share_3)*missed
    d01 = (r0 - r_m1)/gap_0_m1
    d012 = (d01 - d12)/gap_0_m2
    d1 = d01 + du_0_m1*d012
    d2 = 2*d012
    x_new = P[0, 0]*x_c + P[0, 1]*m_c + M[0, 0]*r0 + M[0, 1]*d1 + M[0, 2]*d2
    m_new = P[1, 0]*x_c + P[1, 1]*m_c + M[1, 0]*r0 + M[1, 1]*d1 + M[1, 2]*d2
    y_end = inp_1[0, 0]*x + inp_1[0, 1]*m
    columns = (*y[:2], sigma_0, *r0[:2], r0[5], *x_new, *m_new, *y_end[:2], sigma_1)
    table = torch.stack(torch.broadcast_tensors(*columns), dim=-1)
    if not table.isfinite().all():
        raise ValueError("float64 does not hold a coefficient of these times and parameters: take milder ones")
    return table


def step(state, c, network, noise=(), history=()):
    """One step of the state (x, m), each (batch, ...); `c` an unbound row of the table.  Returns (state, history)."""
    x, m = state
    r_m1, r_m2, r_m3 = history
    y_x, y_m, sigma_0, r0_x, r0_m, r0_d, x_x, x_m, x_r_m1, x_r_m2, x_r_m3, x_d, m_x, m_m = c[0:14]
    m_r_m1, m_r_m2, m_r_m3, m_d = c[14:18]
    y = y_x * x + y_m * m
    (d,) = network((y,), sigma_0)
    x_new = x_x * x + x_m * m + x_r_m1 * r_m1 + x_r_m2 * r_m2 + x_r_m3 * r_m3 + x_d * d
    m_new = m_x * x + m_m * m + m_r_m1 * r_m1 + m_r_m2 * r_m2 + m_r_m3 * r_m3 + m_d * d
    r0 = r0_x * x + r0_m * m + r0_d * d
    return (x_new, m_new), (r0, r_m1, r_m2)


def nfe(steps):
    """Network calls of a run of `steps` steps."""
    return NFE * steps


def denoise(state, c, network):
    """The mean of the data given the state at the end of the grid; `c` the unbound LAST row.  One network call."""
    x, m = state
    y_end_x, y_end_m, sigma_1 = c[18:21]
    y_end = y_end_x * x + y_end_m * m
    (d_end,) = network((y_end,), sigma_1)
    return (d_end, m)
