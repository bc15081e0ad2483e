"""The names that a user may not take, and why: parameters, lets and components of diffusions, parameters and lets of samplers.

Every other name works: the printer respells what would hide a name of the emitted module (templates/naming.py).
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from stepsmith.errors import InputError

VALUES = re.compile(
    r"""t|t0|t1|t_m\d|alpha|sigma|offset|sigma_data|time_of|log_alpha|phi\d|skip|out|inp|inverse|one|zero
    |(frame_)?(skip|out|inp|inverse|sigma|sigma_hat|noise|alpha|offset|mean)_m?\d\w*
    |(rate|factor|decay|lead|noise)_[A-Z]\w*""",
    re.VERBOSE,
)
INTEGRALS = re.compile(r"s|anchor|(alpha|sigma)_s")
MODULE = re.compile(r"self|torch|math|smooth|[A-Z][A-Z_]{2,}")
STEP = re.compile(r"_|mean(_of_.*)?|[dey]\d*|[dey]_end\w*|w\d+|.*_new")
REASONS = (  # the keys to which a list applies, the list, what uses its names
    (("sde", "sampler"), VALUES, "the formulas of a step use"),
    (("sde", "sampler"), MODULE, "the emitted module uses"),
    (("sde.params", "sde.let", "sde.constant"), INTEGRALS, "the integrals of a diffusion use"),
    (("sde.state", "sde.constant"), STEP, "the emitted step uses"),
)


def refuse_taken(where: str, key: str, names: Iterable[str]) -> None:
    """Refuse the names that formulas or emitted modules use themselves; InputError says which of them does."""
    for name in names:
        for keys, taken, reason in REASONS:
            if key.startswith(keys) and taken.fullmatch(name):
                raise InputError(where, f"{key}.{name}", f"{reason} this name", f"rename it, to {name}_a for example")
