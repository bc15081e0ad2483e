"""The names that a user may not take: those of the emitted modules, and those that derive writes into expressions itself."""

from __future__ import annotations

import re

# Functions and globals of the emitted modules: a parameter of the same name would hide them.  (A parameter that is only a
# local variable of some host function is respelled there by the printer, see templates/render.py.)
HOST_NAMES = frozenset(
    """API COEFFICIENTS COMPONENTS DATA DIGEST DRAWS END FIELD HISTORY INPUTS NETWORK NFE NFE_FIRST NFE_LAST NODES
    NODES_8 ORDER OUTPUTS PARAMS SAMPLER SDE SIGMA_COLUMNS START STRONG_ORDER WEAK_ORDER WEIGHTS WEIGHTS_8 alpha
    carried close coefficients collocation column columns cut denoise denoiser diffusion drift edm exponential
    exponential_n exponential_on_clock fineness first_row frame gathered gauss_legendre graded last_row
    last_row_but_one lift lift_change lift_rest log_nodes log_reach lower lower_in math matrix nfe noise_change
    offset offset_rate ordered other_rows panels_to phi phi_1 phi_2 phi_3 phi_4 pieces pulled reverse_drift
    reverse_near rotation second_row settled sigma start start_mean step step_first step_last t t0 t1 t_m1 t_m2
    t_m3 table third_row time time_of times torch transition transport_score turning turns tweedie whitening""".split()  # noqa: SIM905
)
# Symbols that derive itself writes into expressions: a name of the diffusion that is one of them would become it.
OWN_SYMBOLS = frozenset(("s", "alpha_1", "alpha_s", "anchor", "sigma_1", "sigma_data", "sigma_s"))
STEP_NAMES = re.compile(r"c|_|state|network|noise|history|mean(_of_.*)?|torch|math|[dey]\d*|[dey]_end|w\d+|.*_new")
