"""Somebody else's samplers as ``stepsmith check`` runs them, a diffusers scheduler or a k-diffusion function, in y = x/alpha.

Noise levels are s = sigma/alpha, and a denoiser is called at (y, s).
"""

from __future__ import annotations

import contextlib
import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from stepsmith.errors import InputError

TABLES = ("sigmas", "sigmas_interpol", "alphas_cumprod", "alpha_t", "sigma_t", "lambda_t")
FAR, NEAR = 1e6, 1e-6  # stand for the noise level of a flow model at t = 1, and for the level 0
NOTHING = contextlib.nullcontext()
Denoiser = Callable[[torch.Tensor, float], torch.Tensor]


@dataclass(eq=False)
class Walk:
    """What a run passed through: the level of each state, the states (before each step, and the last), the level of the end."""

    levels: list[float]
    states: list[torch.Tensor]
    end: float


def taken(name: str, call: Callable[..., Any], options: Mapping[str, Any]) -> Mapping[str, inspect.Parameter]:
    """The parameters of a class or a function; InputError (key ``set``) for options that are none of them."""
    known = inspect.signature(call).parameters
    unknown = [] if any(each.kind is each.VAR_KEYWORD for each in known.values()) else sorted(set(options) - set(known))
    if unknown:
        raise InputError("-", "set", f"{name} takes no {', '.join(unknown)}", f"it takes {', '.join(known) or 'nothing'}")
    return known


@dataclass(frozen=True, eq=False)
class Scheduler:
    """A diffusers scheduler: ``make()`` gives a new one.  A state is x = alpha y."""

    name: str
    make: Callable[[], Any]
    space: str  # of the states: "vp" alpha^2 + sigma^2 = 1, "ve" alpha = 1, "flow" alpha = 1 - sigma
    calls: int  # of a step

    @classmethod
    def of(cls, kind: type, config: Mapping[str, Any]) -> Scheduler:
        """The class with its configuration; clipping and thresholding, which are no part of a formula, are turned off."""
        if not (hasattr(kind, "set_timesteps") and hasattr(kind, "step")):
            what = f"{kind.__name__} is no scheduler of a diffusion"
            raise InputError("-", "sampler", what, "give one with set_timesteps and step")
        known = taken(kind.__name__, kind, config)
        plain = {key: False for key in ("clip_sample", "thresholding") if key in known}

        def make() -> Any:
            return kind(**{**plain, **config})

        one = make()
        if not hasattr(one, "config"):
            what = f"{kind.__name__} has no .config, which says what its network predicts"
            raise InputError("-", "sampler", what, "register its arguments, as ConfigMixin of diffusers does")
        if "prev_timestep" in inspect.signature(one.step).parameters:
            raise InputError("-", "sampler", f"{kind.__name__} takes prev_timestep from a pipeline of its own", "wrap it")
        one.set_timesteps(4)
        if not hasattr(one, "alphas_cumprod") and "sigma_data" not in one.config:
            space = "flow"
        else:
            x = torch.ones(1, 2, 1, 1)
            space = "vp" if torch.equal(one.scale_model_input(x, one.timesteps[0]), x) else "ve"
        calls = one.config.solver_order if hasattr(one, "order_list") else getattr(one, "order", 1)
        return cls(kind.__name__, make, space, int(calls))

    def alpha(self, level: float) -> float:
        """alpha of the states at a level."""
        return {"vp": 1 / math.hypot(1, level), "ve": 1.0, "flow": 1 / (1 + level)}[self.space]

    def levels(self, one: Any) -> list[float]:
        """The level at which each call is made, and that of the end."""
        count = len(one.timesteps)
        sigmas = [float(s) for s in getattr(one, "sigmas", ())]
        if hasattr(one, "sigmas_interpol"):
            between = [float(s) for s in one.sigmas_interpol]
            sigmas = [between[i] if i % 2 else s for i, s in enumerate(sigmas[: len(between)])]
        if len(sigmas) < count and not hasattr(one, "alphas_cumprod"):
            raise InputError("-", "sampler", f"{self.name} does not give its noise levels", "give it sigmas or alphas_cumprod")
        if len(sigmas) < count:
            table = one.alphas_cumprod.double().numpy()
            logs = np.log((1 - table) / table) / 2
            sigmas = np.exp(np.interp(one.timesteps.double().numpy(), np.arange(len(table)), logs)).tolist()
        sigmas = [*sigmas[:count], sigmas[count] if len(sigmas) > count else 0.0]
        return [s / (1 - s) if s < 1 else FAR for s in sigmas] if self.space == "flow" else sigmas

    def output(self, one: Any, x: torch.Tensor, level: float, denoiser: Denoiser) -> torch.Tensor:
        """What the network gives at the state x."""
        level = max(level, NEAR)
        y = x.double() / self.alpha(level)
        data = denoiser(y, level)
        kind = one.config.get("prediction_type", "flow_prediction")
        if self.space == "flow" or kind == "flow_prediction":
            sigma = level / (1 + level)
            return ((x.double() - data) / sigma).to(x.dtype)
        if "sigma_data" in one.config:  # EDM's raw network
            s, root = one.config.sigma_data, math.hypot(level, one.config.sigma_data)
            return ((data - (s / root) ** 2 * y) * root / (level * s)).to(x.dtype)
        a = 1 / math.hypot(1, level)
        eps = (y - data) / level
        found = {"epsilon": eps, "sample": data, "v_prediction": a * eps - level * a * data}
        if kind not in found:
            raise InputError("-", "sampler", f"the prediction type {kind!r} is not known", "give epsilon, sample or v_prediction")
        return found[kind].to(x.dtype)

    def walk(
        self, steps: int, start: Callable[[float], torch.Tensor], denoiser: Denoiser, generator: Any = None,
        exact: Callable[[int], torch.Tensor] | None = None, dtype: torch.dtype = torch.float64, reads: Any = NOTHING,
    ) -> Walk:  # fmt: skip
        """A run; with ``exact(k)`` each step starts from that y, and the states are what the steps made of it."""
        one = self.make()
        one.set_timesteps(steps)
        if exact is not None:  # a formula is judged in float64, a run as it ships
            for name in TABLES:
                if hasattr(one, name):
                    setattr(one, name, getattr(one, name).double())
        levels = self.levels(one)
        takes = "generator" in inspect.signature(one.step).parameters
        x = (self.alpha(levels[0]) * start(levels[0])).to(dtype)
        states = [x]
        for i, t in enumerate(one.timesteps):
            if exact is not None and i % self.calls == 0:
                x = (self.alpha(levels[i]) * exact(i)).to(dtype)
            given, out = x.clone(), self.output(one, x, levels[i], denoiser)  # it may write into its sample
            with reads:
                if hasattr(one, "scale_model_input"):
                    one.scale_model_input(x, t)  # the denoiser has the levels, but some schedulers count calls here
                made = one.step(out, t, given, **({"generator": generator} if takes else {}), return_dict=False)
            x = like(x, made[0] if isinstance(made, tuple | list) and made else made, f"a step of {self.name}")
            if i and getattr(one, "last_sample", None) is not None:
                states[i] = one.last_sample
            if exact is not None and hasattr(one, "last_sample"):
                one.last_sample = given
            states.append(x)
        return Walk(levels[:-1], states, levels[-1])

    def y(self, walk: Walk, k: int) -> torch.Tensor:
        """The k-th state as y, float64."""
        level = walk.levels[k] if k < len(walk.levels) else walk.end
        return walk.states[k].double() / self.alpha(level)


@dataclass(frozen=True, eq=False)
class Function:
    """A k-diffusion function ``f(model, x, sigmas, ...)``; states are y, the grid is EDM's, and it ends where ``end`` says."""

    name: str
    call: Callable[..., torch.Tensor]
    options: Mapping[str, Any] = field(default_factory=dict)
    high: float = 60.0
    low: float = 0.05

    @classmethod
    def of(cls, name: str, call: Callable[..., torch.Tensor], options: Mapping[str, Any]) -> Function:
        """The function with its options; InputError for options that it does not take, and where it is not called so."""
        taken(name, call, options)
        try:
            inspect.signature(call).bind("model", "x", "sigmas", **options)
        except TypeError as error:
            what = f"{name} is called as f(model, x, sigmas), and cannot be ({error})"
            raise InputError("-", "sampler", what, "set the arguments that it takes besides with --set KEY=VALUE") from None
        return cls(name, call, options)

    def sigmas(self, steps: int) -> torch.Tensor:
        a, b = self.high ** (1 / 7), self.low ** (1 / 7)
        return (a + torch.linspace(0, 1, steps + 1, dtype=torch.float64) * (b - a)) ** 7

    def walk(
        self, steps: int, start: Callable[[float], torch.Tensor], denoiser: Denoiser, generator: Any = None,
        exact: Any = None, dtype: torch.dtype = torch.float64, reads: Any = NOTHING,
    ) -> Walk:  # fmt: skip
        """A run from high to low; noise is drawn from torch's own generator, as k-diffusion does, seeded as the one given."""
        sigmas = self.sigmas(steps).to(dtype)
        x = start(self.high).to(dtype)
        known = inspect.signature(self.call).parameters
        options = {**({"disable": True} if "disable" in known else {}), **self.options}

        def model(x: torch.Tensor, s: torch.Tensor, **_: Any) -> torch.Tensor:
            before = getattr(reads, "count", 0)
            found = denoiser(x.double(), float(s.flatten()[0])).to(x.dtype)
            if reads is not NOTHING:
                reads.count = before  # what the network reads is not the sampler's
            return found

        with torch.random.fork_rng(devices=[]), reads:
            if generator is not None:
                torch.manual_seed(generator.initial_seed())
            last = like(x, self.call(model, x.clone(), sigmas, **options), self.name)  # it may write into its start
        return Walk([self.high, self.low], [x, last, last], self.low)

    def y(self, walk: Walk, k: int) -> torch.Tensor:
        return walk.states[k].double()


def like(x: torch.Tensor, made: Any, name: str) -> torch.Tensor:
    """What a sampler made of the samples x; InputError for what is no tensor of their shape."""
    if not isinstance(made, torch.Tensor) or made.shape != x.shape:
        have = f"a tensor of shape {tuple(made.shape)}" if isinstance(made, torch.Tensor) else type(made).__name__
        what = f"{name} gives {have} for samples of shape {tuple(x.shape)}"
        raise InputError("-", "sampler", what, "return the samples, one tensor, or a tuple that begins with it")
    return made


Subject = Scheduler | Function
