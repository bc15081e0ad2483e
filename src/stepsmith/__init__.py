"""stepsmith: a compiler from a linear diffusion to a proven sampler.

The names below are resolved when they are first used, so ``import stepsmith`` loads neither SymPy nor torch.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.2.0"

_HOME = {
    "InputError": ".errors",
    "Unsupported": ".errors",
    "CertificateError": ".errors",
    "LinearSDE": ".derive",
    "Method": ".derive",
    "Sampler": ".derive",
    "ScoreParameterization": ".derive",
    "load_sde": ".derive",
    "load_sampler": ".derive",
    "list_sdes": ".derive",
    "list_samplers": ".derive",
    "emit": ".certificate",
    "certify": ".certificate",
    "Certificate": ".certificate",
    "load": ".loading",
    "bake": ".baking",
    "tune": ".tuning",
    "Tuned": ".tuned",
    "sample": ".runtime",
    "write_samples": ".runtime",
    "read_samples": ".runtime",
    "equidistributed": ".measure.equidistributed",
    "feature_moments": ".measure.moments",
    "invert": ".runtime",
    "draw_path": ".runtime",
    "follow_path": ".runtime",
    "step_with_logprob": ".runtime",
    "transition": ".runtime",
    "TimeGrid": ".runtime",
    "NoiseSource": ".runtime",
}
_MODULES = {
    "data": ".runtime.data", "derive": ".derive", "networks": ".runtime.networks", "problems": ".measure.problems",
}  # fmt: skip

__all__ = ["__version__", *sorted(_HOME), *sorted(_MODULES)]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(_MODULES[name], __name__)
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name], __name__), name)
    raise AttributeError(f"module 'stepsmith' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
