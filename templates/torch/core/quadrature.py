"""Integrals over time, and the small functions of the tables of one block."""

import math

import torch

START, END = 0.0, 1.0  # the module has its own


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


def log_integral(rate, lower, upper):
    """The integral of rate(s) over (lower, upper), by 20 Gauss nodes a panel, panels even in log(t - START)."""
    (x, w, _), ratio, last = gauss(20), (upper - START) / (lower - START), None
    for panels in (1, 2, 4, 8, 16, 32, 64, 128, 256):
        cuts = torch.stack([(lower - START) * ratio ** (k / panels) for k in range(panels + 1)])
        x, w = (v.reshape(-1, *[1] * cuts.ndim) for v in (x, w))
        total = (cuts.diff(dim=0) * w * rate(START + cuts[:-1] + cuts.diff(dim=0) * x)).sum((0, 1))
        if last is not None and ((total - last).abs() <= 1e-13 * total.abs()).all():
            return total
        last = total
    raise ValueError("the rates change too fast for these steps: take shorter ones")


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


def phi(k, x):
    """phi_k(x) = 1/k! + x/(k + 1)! + x^2/(k + 2)! + ... = (phi_(k-1)(x) - 1/(k - 1)!)/x, phi_0 = exp."""
    inside, outside = 0.0, torch.exp(x)
    for j in reversed(range(24)):
        inside = inside * x + 1 / math.factorial(j + k)
    for j in range(k):
        outside = (outside - 1 / math.factorial(j)) / x
    return torch.where(x.abs() < 2, inside, outside)


def finite(gain):
    """A gain of the clock log; out of alpha = 0, where it is infinite, 1e15, which is the limit to the last digit."""
    return gain.nan_to_num(0.0, 1e15)


def since(row, gap):
    """The gap from this row on, infinite in the rows before: a difference across it vanishes there."""
    return torch.cat((torch.full_like(gap[:row], torch.inf), gap[row:]))
