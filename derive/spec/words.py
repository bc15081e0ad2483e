"""The names that a user may not take: those of the emitted modules, and those that derive writes into expressions itself."""

from __future__ import annotations

import re

# Functions and globals of the emitted modules: a parameter of the same name would hide them.  (A parameter that is only a
# local variable of some host function is respelled there by the printer, see templates/naming.py.)
HOST_NAMES = frozenset(
    """API COEFFICIENTS COMPONENTS DATA DIGEST DRAWS END FIELD HISTORY INPUTS NETWORK NFE NFE_FIRST NFE_LAST ORDER OUTPUTS
    PARAMS SAMPLER SDE SIGMA_COLUMNS START STRONG_ORDER WEAK_ORDER alpha carried coefficients collocation column columns
    cut denoise denoiser diffusion drift edm exponential first_row frame last_row last_row_but_one lift lower math matrix
    nfe offset other_rows phi pieces sigma start start_mean step step_first step_last t t0 t1 t_m1 t_m2 t_m3 table time time_of
    times torch transition tweedie""".split()  # noqa: SIM905
)
# Symbols that derive itself writes into expressions: a name of the diffusion that is one of them would become it.
OWN_SYMBOLS = frozenset(
    ("s", "alpha_1", "alpha_s", "anchor", "phi1", "phi2", "phi3", "phi4", "sigma_1", "sigma_data", "sigma_s")
)
STEP_NAMES = re.compile(r"c|_|state|network|noise|history|mean(_of_.*)?|torch|math|[dey]\d*|[dey]_end|w\d+|.*_new")
