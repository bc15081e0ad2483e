"""Two components, two draws, one output carried: a toy to the contract of an emitted module.

x' = keep x + gain (w0 D + w1 D_before) + kick xi_0,   m' = damp m + pull x + shake xi_1,   D = network(x, sigma),
sigma = t. The first row has w1 = 0. A first step may draw nothing (step_first), a last step may call twice (step_last).
"""

import torch

API = 1
SDE, SAMPLER, NETWORK = "toy", "two", "denoiser"
NFE, DRAWS, HISTORY = 1, 2, 1
ORDER, WEAK_ORDER, STRONG_ORDER = None, None, None
COMPONENTS = ("m", "x")
DATA = 1
COEFFICIENTS = ("sigma", "keep", "gain", "w0", "w1", "kick", "damp", "pull", "shake")
PARAMS = {"damping": 0.5}
DIGEST = "1" * 64


def coefficients(times, damping=0.5):
    t0, t1 = times[:-1], times[1:]
    w1 = torch.full_like(t0, -0.5)
    w1[0] = 0.0
    keep, h = t1 / t0, t0 - t1
    damp = torch.exp(-damping * h)
    return torch.stack([t0, keep, 1 - keep, 1 - w1, w1, 0.3 * h.sqrt(), damp, -h, (1 - damp**2).sqrt()], dim=1)


def start(time, damping=0.5):
    return torch.tensor([[1.0, 0.0], [0.25, time]], dtype=torch.float64)


def step(state, c, network, noise=(), history=()):
    m, x = state
    sigma, keep, gain, w0, w1, kick, damp, pull, shake = c
    (data,) = network((x,), sigma)
    (before,) = history
    x1 = keep * x + gain * (w0 * data + w1 * before) + kick * noise[0]
    m1 = damp * m + pull * x + shake * noise[1]
    return (m1, x1), (data,)


def denoise(state, c, network):
    m, x = state
    sigma, keep = c[:2]
    return (m, *network((x,), sigma * keep))
