"""Linear equations along time, and triangular factors of covariances."""

import math

import torch

from .quadrature import gauss, tail

START = 0.0  # the module has its own


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


def upper(columns):
    """The upper triangular factor."""
    return factor(columns.flip(-2)).flip(-1, -2)


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
