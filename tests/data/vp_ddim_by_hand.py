"""VP, DDIM with a denoiser, written by hand to the contract of an emitted module.

alpha = exp(-B/2), sigma = sqrt(1 - exp(-B)), B = beta_min t + (beta_max - beta_min) t^2 / 2;
D = network(z/alpha0, sigma0/alpha0);  z' = (sigma1/sigma0) z + (alpha1 - alpha0 sigma1/sigma0) D.
"""

import torch

API = 1
SDE, SAMPLER, NETWORK = "vp", "ddim", "denoiser"
NFE, DRAWS, HISTORY = 1, 0, 0
ORDER, WEAK_ORDER, STRONG_ORDER = 1, 1.0, 1.0
COMPONENTS = ("x",)
DATA = 0
COEFFICIENTS = ("scale", "sigma", "keep", "gain", "scale_1", "sigma_1")
SIGMA_COLUMNS = ("sigma", "sigma_1")
INPUTS, OUTPUTS = 1, 1
PARAMS = {"beta_min": 0.1, "beta_max": 20.0}
DIGEST = "0" * 64


def _scales(t, beta_min, beta_max):
    B = t * (beta_min + 0.5 * (beta_max - beta_min) * t)
    return torch.exp(-0.5 * B), torch.sqrt(-torch.expm1(-B))


def coefficients(times, beta_min=0.1, beta_max=20.0):
    if not beta_max > beta_min:
        raise ValueError("beta_max > beta_min does not hold")
    alpha, sigma = _scales(times, beta_min, beta_max)
    a0, a1, s0, s1 = alpha[:-1], alpha[1:], sigma[:-1], sigma[1:]
    return torch.stack([1 / a0, s0 / a0, s1 / s0, a1 - a0 * s1 / s0, 1 / a1, s1 / a1], dim=1)


def start(time, beta_min=0.1, beta_max=20.0):
    sigma = _scales(torch.tensor(time, dtype=torch.float64), beta_min, beta_max)[1]
    return sigma.reshape(1, 1)


def step(state, c, network, noise=(), history=()):
    (x,) = state
    scale, sigma, keep, gain, _, _ = c
    (data,) = network((scale * x,), sigma)
    return (keep * x + gain * data,), ()


def denoise(state, c, network):
    (x,) = state
    _, _, _, _, scale, sigma = c
    return network((scale * x,), sigma)
