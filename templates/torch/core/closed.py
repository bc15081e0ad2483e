"""The law of a state of several blocks whose F is a number of t times a constant matrix A: by exponentials of A."""

import torch

from .linear import factor
from .quadrature import gauss

START, DATA = 0.0, 0  # the module has its own


def exponential(M):
    """exp(M) of (..., n, n), scaled and squared, entry by entry: torch.linalg.matrix_exp loses up to 1e-8."""
    shape, M, eye = M.shape, M.reshape(-1, *M.shape[-2:]), torch.eye(M.shape[-1], dtype=M.dtype)
    halvings = (torch.frexp(M.abs().sum(-1).amax(-1)).exponent + 1).clamp_min(0)[:, None, None]
    M = torch.ldexp(M, -halvings)
    E = eye + M / 14
    for k in range(13, 0, -1):
        E = torch.baddbmm(eye, M, E, alpha=1 / k)
    for k in range(int(halvings.max())):
        E = torch.where(k < halvings, E @ E, E)
    return E.reshape(shape)


def noise_factor(sde, B, G, t1, t0):
    """The lower factor of the integral of Y G G^T Y^T over (t1, t0), Y(s) = exp(B clock(s, t1)), by quadrature."""
    (x, w, _), low, width = gauss(20), t1[:, None], (t0 - t1)[:, None]
    panels = int(sde.clock(low + width * x, low).abs().max() * B.abs().sum(-1).max() / 12) + 1
    if panels > 1000:
        raise ValueError("the rates are too large for these steps: take shorter ones")
    x, w = ((torch.arange(panels)[:, None] + x) / panels).flatten(), (w / panels).repeat(panels)
    s = low + width * x
    noise = (width * w).sqrt()[..., None, None] * exponential(sde.clock(s, low)[..., None, None] * B) @ G(s)
    return factor(noise.movedim(-3, -2).flatten(-2)).movedim((-2, -1), (0, 1))


class Closed:
    """The law of z given the data at some times: K K^T = Sigma, Z = K^-1, lead = Z Psi(t, START) e.

    The columns of K are those of Gauss quadrature from START to t, carried to t; near START, where a nearly singular
    law would lose its digits, they are carried to START and made triangular there.
    """

    def __init__(self, sde, *times):
        t = torch.cat(times).unique()
        self.times = t
        self.sde = sde
        self.data = sde.data
        (x, w, _), first, width = gauss(20), torch.full_like(t, START), t[:, None] - START
        folds = sde.clock(START + width * x, START).abs().amax(-1) * sde.A.abs().sum(-1).max()
        if not folds.max() * len(t) <= 1000 * (len(t) + 300):
            raise ValueError("the rates are too large for their time span: shorten it, or start it later")
        panels = int(folds.max() / 12) + 1
        x, w = ((torch.arange(panels)[:, None] + x) / panels).flatten(), (w / panels).repeat(panels)
        s, at = START + width * x, torch.where(folds < 1, first, t)
        push, pull, back = sde.transition(torch.stack((at, at, t)), torch.stack((first, t, at)))
        noise = (width * w).sqrt()[..., None, None] * sde.transition(at[:, None], s) @ sde.G(s)
        W = factor(torch.cat((push @ sde.L0, noise.movedim(-3, -2).flatten(-2)), dim=-1), sde.order)
        whole = torch.cat((pull, push[..., [DATA]]), dim=-1)
        white = torch.linalg.solve_triangular(W[:, sde.order], whole[:, sde.order], upper=False)
        self.K, self.Z, self.lead = back @ W, white[..., :-1], white[..., -1:]
        self.push = sde.transition(t, START)
        self.pull = sde.transition(START, t)

    def place(self, t):
        """The places of the times t."""
        return torch.searchsorted(self.times, t)

    def psi(self, t1, t0):
        """Psi(t1, t0)."""
        return self.sde.transition(t1, t0).movedim(0, -1)
