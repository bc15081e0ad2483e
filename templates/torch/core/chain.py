"""The law of a state of several blocks by short pieces from START up: for any F, which need not commute with itself."""

import math

import torch

from .linear import columns, factor, prefix_factors, prefix_products, propagate
from .quadrature import gauss

START, DATA = 0.0, 0  # the module has its own


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


class Chain:
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
        self.pull = prefix_products(over.flip(0).mT).mT.flip(0)  # Psi(START, t), of what push has nearly lost
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
        # Y' = Y [[-F, -b], [0, 0]]: what the constant components and 1 are multiplied with in the mean of z.
        inside, past = propagate(-torch.cat((sde.F(s), sde.b(s)), dim=-1), h, rule)
        drift = prefix_products(torch.linalg.inv(past).flip(0)).flip(0)
        drift = torch.cat((drift, torch.eye(drift.shape[-1], dtype=torch.float64)[None]))
        self.drift = drift[:, : len(eye), len(eye) :]
        self.drift_inside = (torch.linalg.inv(inside[:m]) @ drift[1 : m + 1, None])[..., : len(eye), len(eye) :]

    def psi(self, t1, t0):
        """Psi(t1, t0)."""
        return self.between(self.over, t1, t0)

    def ahead(self, t0, t1):
        """Psi(t0, t1), piece by piece, so that what the diffusion forgets before t1 costs no digits."""
        return self.between(torch.linalg.inv(self.over).mT, t1, t0).transpose(0, 1)
