"""The law of a state of several blocks given the data, and what steps along its probability flow are made of."""

import torch

from .linear import columns, factor, prefix_products, propagate

DATA = 0  # the module has its own


def gaussian(sde, spread):
    """The diffusion as it is when the data are Gaussian with this standard deviation, sde itself from now on."""
    sde.L0 = torch.cat((sde.L0, spread * torch.eye(len(sde.L0), dtype=torch.float64)[:, [DATA]]), dim=-1)
    return sde


def apart(Y, before, after):
    """(P, M) of z from those of z - Q r side by side, Q before and after."""
    n, w = before.shape[:2]
    M = Y[:n, n:] + torch.einsum("ij...,jk...->ik...", after, Y[n : n + w, n:])
    M[:, :w] -= torch.einsum("ij...,jk...->ik...", Y[:n, :n], before)
    return Y[:n, :n], M


class Law:
    """What the law of z given the data and its pieces are used for; chain.py and closed.py have the constructors."""

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

    def propagate(self, M, t1, t0):
        """Y(t0) of Y' = Y M, Y(t1) = I, from M at the nodes."""
        return self.between(propagate(M, self.h, self.rule)[1], t1, t0)

    def whitened(self):
        """Z(a) u at a from u at b along the probability flow, u = z - push e d: y = V u has y' = S' S^-1 y/2."""
        Y = propagate(-self.rise @ torch.linalg.inv(self.S) / 2, self.h, self.rule)[1]
        return Y @ self.Z[1 : len(self.h) + 1] @ self.over

    def flow(self, t1, t0):
        """U with z - push e d at t1 = U (the same at t0), along the probability flow."""
        return self.between(self.K[1 : len(self.h) + 1] @ self.whitened(), t1, t0)

    def similar(self, B):
        """V B V^-1 at the nodes."""
        return self.V @ B @ torch.linalg.inv(self.V)

    def driven(self, B, t1, t0):
        """(P, S): the same where -M (z - push e d) - M push e d is added; B = V M V^-1 at the nodes."""
        m, n = len(self.h), self.K.shape[-1]
        rate = torch.cat((B - self.rise @ torch.linalg.inv(self.S) / 2, B @ self.lead[1 : m + 1, None]), dim=-1)
        Y = propagate(rate, self.h, self.rule)[1]
        K = self.K[1 : m + 1]
        top = torch.cat((K @ Y[:, :n, :n] @ self.Z[1 : m + 1] @ self.over, K @ Y[:, :n, n:]), dim=-1)
        Y = self.between(torch.cat((top, Y[:, n:]), dim=-2), t1, t0)
        return Y[:n, :n], Y[:n, n:]

    def denoiser(self, t):
        """(C_skip, C_out, C_in, sigma) of the denoiser's score at the times t."""
        Z, lead = self.Z[self.place(t)], self.lead[self.place(t)]
        sigma = 1 / lead.norm(dim=(-2, -1))
        tables = -Z.mT @ Z, Z.mT @ lead, sigma[:, None, None] ** 2 * lead.mT @ Z
        return *(M.movedim(0, -1) for M in tables), sigma

    def edm(self, t, sigma_data):
        """The same of a network F with D(y) = c_skip y + c_out F(c_in y, log(sigma)/4)."""
        skip, out, inp, sigma = self.denoiser(t)
        width = torch.sqrt(sigma**2 + sigma_data**2)
        skip = skip + (sigma_data / width) ** 2 * out * inp
        return skip, sigma * sigma_data / width * out, inp / width, torch.log(sigma) / 4

    def eps(self, t, side=factor):
        """(C_out = -L^-T, its inverse) of the lower or upper Cholesky factor of the covariance."""
        L = side(self.K[self.place(t)])
        return -torch.linalg.inv(L).permute(2, 1, 0), -L.permute(2, 1, 0)

    def rotation(self):
        """gDDIM's R at the edges: R' = (F + G G^T Sigma^-1/2) R, the lower Cholesky factor at the last time."""
        m = len(self.h)
        turn = (self.whitened() @ self.K[:m]).flip(0).mT
        O = prefix_products(torch.cat(((self.Z[m] @ factor(self.K[m]))[None], turn))).flip(0)
        return self.K[: m + 1] @ O

    def gddim(self, t):
        """(C_out = -R^-T, its inverse)."""
        R = self.rotation()[self.place(t)]
        return -torch.linalg.inv(R).permute(2, 1, 0), -R.permute(2, 1, 0)

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

    def scattered(self, A, G, t1, t0):
        """The lower factor of the covariance of the noise G dw over a step, from A and G at the nodes, piece by piece."""
        m = len(self.h)
        K, (inside, over) = self.K[1 : m + 1], propagate(A, self.h, self.rule)
        own = factor(K @ columns(inside, self.V @ G, self.h, self.rule))
        P = K @ over @ self.Z[1 : m + 1] @ self.over
        first, last = self.place(t0), self.place(t1) - 1
        C = own[first]
        for k in range(1, int((last - first).max()) + 1):
            longer = first + k <= last
            i = (first + k)[longer]
            C[longer] = factor(torch.cat((P[i] @ C[longer], own[i]), dim=-1))
        return C.movedim(0, -1)

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

    def moments_x0(self, A, rate, degree, t1, t0):
        """(P, M) with z = P z + M_0 r + M_1 r' + ... over a step of the flow that predicts data r; z - push e r moves."""
        lead = self.lead[1 : len(self.h) + 1, None].expand_as(self.V[..., :1])
        return apart(self.moments(A, 0 * lead, lead, rate, degree, t1, t0), self.mean(t0), self.mean(t1))

    def moments_gaussian(self, A, rate, degree, t1, t0):
        """The same where the data are Gaussian around r."""
        lead = self.lead[1 : len(self.h) + 1, None].expand_as(self.V[..., :1])
        Y, n = self.moments(A, -A @ lead, 0 * lead, rate, degree, t1, t0), A.shape[-1]
        return Y[:n, :n], Y[:n, n:]

    def moments_eps(self, rate, degree, t1, t0):
        """The same where r is epsilon with gDDIM's R; z - R r moves."""
        m, R = len(self.h), self.rotation()
        inside = propagate(-self.rise @ torch.linalg.inv(self.S) / 2, self.h, self.rule)[0]
        seen = torch.linalg.solve(inside, (self.Z[1 : m + 1] @ R[1:])[:, None])
        Y = self.moments(0 * seen, 0 * seen, seen, rate, degree, t1, t0)
        return apart(Y, *(R[self.place(t)].movedim(0, -1) for t in (t0, t1)))

    def mean(self, t):
        """push e, the mean of z for unit data."""
        return self.push[self.place(t)][..., [DATA]].movedim(0, -1)

    def offset(self, t):
        """the coefficients of the constant components and of 1 in the mean of z."""
        return self.drift[self.place(t)].movedim(0, -1)

    def offset_inside(self):
        """The same at the nodes."""
        return self.drift_inside.movedim((-2, -1), (0, 1))

    def covariance(self, t):
        """Sigma."""
        K = self.K[self.place(t)]
        return (K @ K.mT).movedim(0, -1)

    def tweedie(self, t):
        """(pull, lift): the mean of the data is pull z + lift score."""
        K, pull = self.K[self.place(t)], self.pull[self.place(t)][:, self.data]
        return pull.movedim(0, -1), (pull @ K @ K.mT).movedim(0, -1)

    def tweedie_eps(self, t, side):
        """(pull, lift): the mean of the data is pull z + lift eps."""
        K, pull = self.K[self.place(t)], self.pull[self.place(t)][:, self.data]
        return pull.movedim(0, -1), -(pull @ side(K)).movedim(0, -1)

    def frame(self):
        """(C_skip, C_out) of the denoiser's score at the nodes."""
        lead = self.lead[1 : len(self.h) + 1, None].expand_as(self.V[..., :1])
        n, M = self.V.shape[-1], self.V.mT @ torch.linalg.solve(self.S, torch.cat((self.V, lead), dim=-1))
        return -M[..., :n].movedim((-2, -1), (0, 1)), M[..., n:].movedim((-2, -1), (0, 1))

    def frame_edm(self, sigma_data):
        """The same of a network F with D(y) = c_skip y + c_out F(c_in y, log(sigma)/4)."""
        skip, out = self.frame()
        lead = self.lead[1 : len(self.h) + 1, None].expand_as(self.V[..., :1])
        sigma = 1 / (lead.mT @ torch.linalg.solve(self.S, lead)).sqrt()[..., 0, 0]
        width = torch.sqrt(sigma**2 + sigma_data**2)
        return skip + (sigma_data * sigma / width) ** 2 * out * out.movedim(0, 1), sigma * sigma_data / width * out

    def frame_eps(self, side=factor):
        """C_out = -L^-T of a Cholesky factor of the covariance at the nodes."""
        K = torch.linalg.inv(self.back) @ self.K[1 : len(self.h) + 1, None] @ torch.linalg.cholesky(self.S)
        return -torch.linalg.inv(side(K)).permute(3, 2, 0, 1)

    def frame_gddim(self):
        """C_out = -R^-T of gDDIM's R at the nodes."""
        m = len(self.h)
        inside = propagate(self.relaxation(), self.h, self.rule)[0]
        whitened = torch.linalg.solve(inside, (self.Z[1 : m + 1] @ self.rotation()[1:])[:, None])
        return -torch.linalg.solve(whitened, self.V).permute(3, 2, 0, 1)
