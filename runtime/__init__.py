"""stepsmith.runtime: load an emitted step module and run it. Needs torch; never SymPy, Jinja or stepsmith.derive."""

from stepsmith.errors import InputError
from stepsmith.runtime.density import draw_path, follow_path, step_with_logprob, transition
from stepsmith.runtime.grid import TimeGrid, budget_steps
from stepsmith.runtime.inversion import invert
from stepsmith.runtime.modules import check_module, load
from stepsmith.runtime.noise import NoiseSource, parse_seeds
from stepsmith.runtime.output import check_folder, check_output, write
from stepsmith.runtime.sampler import count_nfe, record, sample
from stepsmith.runtime.shards import read_samples, write_samples

__all__ = [
    "InputError",
    "NoiseSource",
    "TimeGrid",
    "budget_steps",
    "check_folder",
    "check_module",
    "check_output",
    "count_nfe",
    "draw_path",
    "follow_path",
    "invert",
    "load",
    "parse_seeds",
    "read_samples",
    "record",
    "sample",
    "step_with_logprob",
    "transition",
    "write",
    "write_samples",
]
