"""Networks as the samplers call them: ``network(inputs, time) -> outputs``, tuples of tensors in and out.

A denoiser takes one input ``y = x0 + sigma eps`` in data coordinates and ``time`` = the effective sigma, a 0-d float64
tensor, and returns ``E[x0 | y]``. The other kinds (``eps-L``, ``eps-U``, ...) take the components of the state and the
forward time. Nothing here waits for a device: what depends on ``time`` stays a tensor.
"""

from stepsmith.runtime.networks.adapters import (
    channels,
    clip_sigma,
    denoiser,
    edm_coefficients,
    from_edm,
    from_eps,
    from_flow,
    from_score,
    from_v,
    guided,
)
from stepsmith.runtime.networks.base import Counting, Network, counting
from stepsmith.runtime.networks.discrete import diffusers, discrete
from stepsmith.runtime.networks.inpainting import inpainting
from stepsmith.runtime.networks.onnx_model import onnx
from stepsmith.runtime.networks.published import cld, psld
from stepsmith.runtime.networks.shipped import SHIPPED, load
from stepsmith.runtime.networks.unet import predicting_data

__all__ = [
    "SHIPPED",
    "Counting",
    "Network",
    "channels",
    "cld",
    "clip_sigma",
    "counting",
    "denoiser",
    "diffusers",
    "discrete",
    "edm_coefficients",
    "from_edm",
    "from_eps",
    "from_flow",
    "from_score",
    "from_v",
    "guided",
    "inpainting",
    "load",
    "onnx",
    "predicting_data",
    "psld",
]
