"""Networks that were trained at the discrete noise levels of a table, as those of diffusers: an index goes in.

    x = (y)/sqrt(1 + sigma^2),    sigma_k = sqrt((1 - abar_k)/abar_k),    D(y, sigma) = p x + q n(x, k)

    prediction     p                     q
    epsilon        sqrt(1 + sigma^2)     -sigma
    v_prediction   1/sqrt(1 + sigma^2)   -sigma/sqrt(1 + sigma^2)
    sample         0                     1

with y = data + sigma noise and abar the cumulated product of the alphas.  Between the levels log sigma is linear in the index.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from stepsmith.errors import InputError
from stepsmith.runtime.networks.adapters import called, clip_sigma, from_flow
from stepsmith.runtime.networks.base import Network, Tensors, recorded

PREDICTIONS = ("epsilon", "v_prediction", "sample")


@recorded
def discrete(
    fn: Callable[..., Tensor], alphas_cumprod: Any, shape: tuple[int, ...], prediction: str = "epsilon", *,
    whole: bool = False, sigma_data: float = 0.5, dtype: torch.dtype | None = torch.float32, **known: Any,
) -> Network:  # fmt: skip
    """A denoiser from ``fn(x, k)``, k of shape (batch,) the index of a noise level, a float between two of them or, with
    ``whole``, the nearest integer.  Channels of its output beyond those of x (a learned variance) are dropped.

    ``known`` is ``module``, ``name`` and ``digest`` of the Network.  InputError (key ``network``) for another prediction and for
    a table that does not fall within (0, 1).
    """
    bar = torch.as_tensor(alphas_cumprod, dtype=torch.float64).detach().cpu()
    if prediction not in PREDICTIONS:
        what = f"no prediction {prediction!r} of a discrete network"
        raise InputError("-", "network", what, f"give one of {', '.join(PREDICTIONS)}, or use from_flow")
    if bar.ndim != 1 or len(bar) < 2 or not (bar.diff() < 0).all() or not 0 < bar[-1] < bar[0] < 1:
        raise InputError("-", "network", "alphas_cumprod does not fall within (0, 1)", "give the table of the training")
    logs = ((1 - bar) / bar).log() / 2
    bounds = float(logs[0].exp()), float(logs[-1].exp())
    fn = called(fn, "x, k", "with the channels of x")

    def call(inputs: Tensors, time: Tensor, **cond: Any) -> Tensors:
        (y,) = inputs
        wide, sigma = clip_sigma(y.to(torch.promote_types(y.dtype, torch.float32)), time, bounds, sigma_data)
        run, table = dtype or wide.dtype, logs.to(sigma)
        level = sigma.log()
        k = torch.searchsorted(table, level).clamp(1, len(table) - 1)
        index = k - 1 + (level - table[k - 1]) / (table[k] - table[k - 1])
        index = index.round().long() if whole else index.to(run)
        width = (1 + sigma.square()).sqrt()
        x = wide / width
        out = fn(x.to(run), index.expand(y.shape[0]), **cond)[:, : y.shape[1]].to(wide.dtype)
        if prediction == "sample":
            return (out.to(y.dtype),)
        if prediction == "epsilon":
            return ((wide - sigma * out).to(y.dtype),)
        return (((x - sigma * out) / width).to(y.dtype),)

    return Network(call, "denoiser", tuple(shape), bounds, **known)


def diffusers(
    model: Any,
    scheduler: Any,
    conditions: Mapping[str, Any] | None = None,
    *,
    shape: tuple[int, ...] | None = None,
    **known: Any,
) -> Network:
    """A denoiser from a model of diffusers, ``model(x, k, return_dict=False, **cond)[0]``, trained as ``scheduler`` says.

    Its ``prediction_type`` and ``alphas_cumprod`` count, or that it is one of flow matching.  ``shape`` is that of a sample, by
    default the model's ``in_channels`` and ``sample_size``.  ``conditions`` such as ``encoder_hidden_states`` have one entry for
    all samples; those of ``sample(..., cond=)`` may have one a sample.  What the model does not take by name (``text_embeds``,
    ``time_ids``) goes into its ``added_cond_kwargs``.
    """
    config = model.config
    if shape is None:
        size = config.sample_size
        shape = (config.in_channels, *((size, size) if isinstance(size, int) else size))
    parameter = next(model.parameters())
    taken = inspect.signature(model.forward).parameters

    def call(x: Tensor, k: Tensor, **cond: Any) -> Tensor:
        if "added_cond_kwargs" in taken:
            added = {name: cond.pop(name) for name in list(cond) if name not in taken}
            cond |= {"added_cond_kwargs": added} if added else {}
        return model(x, k, return_dict=False, **cond)[0]

    named = {"module": model, "name": type(model).__name__, "cond": conditions or {}, **known}
    if not hasattr(scheduler, "alphas_cumprod") or scheduler.alphas_cumprod is None:
        count = scheduler.config.num_train_timesteps
        flow = lambda x, t, **cond: call(x, count * t, **cond)  # noqa: E731
        return from_flow(flow, shape, (1 / count, float(count)), dtype=parameter.dtype, **named)
    return discrete(call, scheduler.alphas_cumprod, shape, scheduler.config.prediction_type, dtype=parameter.dtype, **named)
