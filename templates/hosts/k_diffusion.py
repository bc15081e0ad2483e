"""The step module as a sampling function of k-diffusion."""

import itertools

import torch
from tqdm.auto import trange

from stepsmith.generated.vp_dpmpp_2m import COMPONENTS, HISTORY, PARAMS, START, start
from stepsmith.templates.hosts.run import BAKED, Run, grid_of


class Host:
    """The model as the steps' denoiser: D(y, sigma) = model(alpha y, s), s the model's sigma.

    x = data + s eps, or of a flow (1 - s) data + s eps: alpha = 1 - s, and the effective sigma is s/(1 - s).
    """

    def __init__(self, model, extra_args, flow, like, s):
        self.model, self.extra_args, self.flow = model, extra_args, flow
        self.ones, self.seen = like.new_ones([len(like)]), []
        self.levels = [v / (1 - v) if v < 1 else float("inf") for v in s] if flow else s

    def alpha(self, sigma):
        """The factor of the data in x."""
        return 1 / (1 + sigma) if self.flow else 1.0

    def __call__(self, inputs, sigma):
        alpha = self.alpha(sigma)
        x = alpha * inputs[0]
        denoised = self.model(x, alpha * sigma * self.ones, **self.extra_args)
        self.seen.append({"x": x, "denoised": denoised})
        return (denoised,)


@torch.no_grad()
def sample_module(
    model, x, sigmas, extra_args=None, callback=None, disable=None, eta=1.0, s_noise=1.0, noise_sampler=None, flow=None
):
    """The sampler of this module with the arguments of k-diffusion and ComfyUI; returns the data, or x at the last sigma.

    `model(x, sigma, **extra_args)` is the denoiser of x = data + sigma eps (models that preserve the variance as well, as both
    hosts wrap them), of a flow that of x = (1 - sigma) data + sigma eps.  flow=None asks ComfyUI's model what it is.
    `sigmas` decrease; the last may be 0.  `callback` is called after every step with its index `i`, `sigma`, `sigma_hat`, and
    the `x` and `denoised` of its first call of the model.  `noise_sampler(sigma, sigma_next)` gives normals like x; where a step
    draws several, each has an interval of its own.  `eta` is that of the sampler where it has one; `s_noise` multiplies what is
    drawn.
    """
    flow = is_flow(model) if flow is None else flow
    s = sigmas.tolist()
    host = Host(model, extra_args or {}, flow, x, s)
    levels, params = host.levels, {"eta": eta} if "eta" in PARAMS else {}
    mean = levels[-1:] == [0]
    times, levels = grid_of(levels[:-1] if mean else levels, params, "take a module of edm, which has no end")
    run = Run(times, levels, mean, params)
    own = normals_like(x, host.extra_args.get("seed"))
    draw, state = noise_sampler or own, started(run, x / host.alpha(levels[0]), own)
    history = (torch.zeros_like(x),) * HISTORY
    for i in trange(len(s) - 1, disable=disable):
        before = len(host.seen)
        if i < len(run.rows):
            step_of_row, draws = run.steps[i]
            noise = tuple(s_noise * draw(*cut) for cut in parts(sigmas[i], sigmas[i + 1], draws))
            state, history = step_of_row(state, run.rows[i], host, noise, history)
        else:
            data = run.end(state, history, host)
        if callback is not None:
            callback({"i": i, "sigma": sigmas[i], "sigma_hat": sigmas[i], **host.seen[min(before, len(host.seen) - 1)]})
    if mean:
        return data
    weights = run.calls()[-1][2].tolist()
    return host.alpha(levels[-1]) * sum(w * z for w, z in zip(weights, state, strict=True))


def parts(a, b, count):
    """As many intervals, from a to b, even in the logarithm."""
    cuts = [a, *(a * (b / a) ** (k / count) for k in range(1, count)), b]
    return list(itertools.pairwise(cuts))[:count]


def started(run, y, draw):
    """The state at the first time in which the network's input would be y; what else it has is drawn given that."""
    if not run.rows:
        return (y,)
    at = run
    if BAKED is None:  # a row from a moment before, for what the network would be asked behind it
        before = START + (run.times[:1] - START) * (1 + 1e-13)
        at = Run(torch.cat((before, run.times[:1])), [0.0], False, run.params)
    call = at.calls()[0 if at is run else -1]
    L = start(float(run.times[0]), **run.params).tolist() if len(COMPONENTS) > 1 else []
    normals = [draw() for _ in L]
    state = [sum(w * z for w, z in zip(row, normals, strict=True)) for row in L] or [torch.zeros_like(y)]
    change = y - sum(w * z for w, z in zip(call[2].tolist(), state, strict=True))
    return tuple(z + g * change for z, g in zip(state, at.gain(call), strict=True))


def normals_like(x, seed):
    """Normals like x; with the seed that ComfyUI gives, from the next one: its noise at the start is from the seed itself."""
    if seed is None:
        return lambda *_: torch.randn_like(x)
    generator = torch.Generator(x.device).manual_seed((seed + 1) % 2**64)
    return lambda *_: torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)


def is_flow(model):
    """Whether ComfyUI's model under `model` is one of flow matching (its model_sampling is a CONST)."""
    inner = getattr(model, "inner_model", None)
    patcher = getattr(inner, "model_patcher", None)
    sampling = patcher.get_model_object("model_sampling") if patcher else None
    sampling = sampling or getattr(getattr(inner, "inner_model", None), "model_sampling", None)
    return any(kind.__name__ == "CONST" for kind in type(sampling).__mro__)
