"""The catalogue: which sampler on which diffusion, for which network and frame, and which modules ``generated/`` keeps."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product

from stepsmith.errors import InputError

from .method import Method, derive, module_name

CONJUGATE = ("conjugate", "conjugate-identity", "conjugate-ones")
STEPPERS = ("euler", "euler-maruyama")
SPLITTINGS = ("nse", "rse", "nvv", "rvv", "noba", "roba", "robab", "obab", "baoab", "sscs")
CONJUGATE_SPLITTINGS = ("conjugate-se", "conjugate-vv", "conjugate-oba")
ODE_LINES = (
    "ddim", "dpmpp-2m", "dpmpp-2s", "dpmpp-3m", "dpmpp-3m-corrected", "unipc-2", "unipc-3", "deis-2", "deis-3", "heun",
)  # fmt: skip
SDE_LINES = ("ddim-eta", "sde-dpmpp-2m", "sde-dpmpp-3m", "sa-solver")
BLOCK_LINES = ("heun-drift", "rvv2")
ADAMS = ("adams-2", "adams-3", "adams-3-gaussian", "adams-2-gaussian-sde", "adams-3-gaussian-skew")

# Kept on disk for people to read: each sampler on the diffusion that it is at home on, and other networks and frames.
# ``kept`` adds `conjugate` on every diffusion.
HOME = {
    "psld": (*STEPPERS, *CONJUGATE, *SPLITTINGS, *CONJUGATE_SPLITTINGS, *BLOCK_LINES, *ADAMS[1:]),
    "vp": (*ODE_LINES, *SDE_LINES, *ADAMS[:4]),
    "blurring": ("oso",),
}
VARIANTS = (
    "psld_conjugate_eps_l", "psld_conjugate_eps_l_in_eps_r", "psld_conjugate_score", "vp_conjugate_v", "edm_dpmpp_2m_edm",
    "rectified_flow_conjugate_flow", "rectified_flow_adams_2_flow",
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One emitted module: names of the catalogue, and the frame where it is not the network's own."""

    sde: str
    sampler: str
    network: str = "denoiser"
    frame: str | None = None

    @property
    def name(self) -> str:
        return module_name(self.sde, self.sampler, self.network, self.frame)

    @property
    def specs(self) -> str:
        return f"{self.sampler} on {self.sde}" + (f" for {self.network}" if self.network != "denoiser" else "")

    def derive(self) -> Method:
        return derive(self.sde, self.sampler, self.network, self.frame)


ROWS = (  # diffusions, samplers, networks and frame; each diffusion with each sampler for each network
    ("psld cld", (*STEPPERS, *CONJUGATE, *SPLITTINGS, *CONJUGATE_SPLITTINGS), "denoiser", None),
    ("psld cld", (*CONJUGATE, *CONJUGATE_SPLITTINGS), "eps-L", None),
    ("psld cld", ("conjugate",), "eps-L", "eps-R"),
    ("psld", ("conjugate",), "eps-U eps-R score edm", None),
    ("psld-damped", (*CONJUGATE, "euler", "euler-maruyama", "rvv", "roba"), "denoiser", None),
    ("vp vp-cosine ve", (*STEPPERS, *CONJUGATE), "denoiser", None),
    ("vp ve", ("conjugate",), "eps-L v edm", None),
    ("vp vp-cosine", ("sscs",), "denoiser", None),
    ("sub-vp edm rectified-flow", (*STEPPERS, *CONJUGATE[:2]), "denoiser", None),
    ("hold four-blocks swinging-damping", (*STEPPERS, *CONJUGATE[:2], "rvv", "roba", "sscs"), "denoiser", None),
    ("hold-damped", (*STEPPERS, "conjugate", "sscs"), "denoiser", None),
    ("ir-sde", (*STEPPERS, *CONJUGATE[:2], "sscs"), "denoiser", None),
    ("ir-sde", (*STEPPERS, "conjugate"), "eps-L", None),
    ("vp", (*ODE_LINES, *SDE_LINES), "denoiser", None),
    ("edm", (*ODE_LINES[1:7], "heun", "sde-dpmpp-2m", "sde-dpmpp-3m"), "denoiser", None),
    ("vp-cosine ve sub-vp rectified-flow", ("dpmpp-2m",), "denoiser", None),
    ("vp", ("dpmpp-2m", "unipc-3"), "eps-L v", None),
    ("edm", ("dpmpp-2m",), "edm", None),
    ("psld cld psld-damped", BLOCK_LINES, "denoiser", None),
    ("vp edm ve rectified-flow psld cld hold", ADAMS[:2], "denoiser", None),
    ("vp psld", ADAMS[2:4], "denoiser", None),
    ("psld cld", ADAMS[4:], "denoiser", None),
    ("rectified-flow", ("conjugate", "dpmpp-2m", *ADAMS[:2]), "flow", None),
    ("blurring", (*STEPPERS, "conjugate", "oso", "heun", "dpmpp-2m"), "eps-L", None),
    ("blurring", ("conjugate",), "x0", None),
)


def rows() -> tuple[Row, ...]:
    """The whole catalogue, in the order in which it is listed."""
    every = (
        Row(sde, sampler, network, frame)
        for sdes, samplers, networks, frame in ROWS
        for sde, sampler, network in product(sdes.split(), samplers, networks.split())
    )
    return tuple(named(every).values())


def named(given: Iterable[Row]) -> dict[str, Row]:
    """Rows by the names of their modules; InputError where two rows have one name, as - and _ are the same there."""
    table: dict[str, Row] = {}
    for row in given:
        if row.name in table:
            raise _clash(row.name, f"{table[row.name].specs} and of {row.specs}")
        table[row.name] = row
    return table


def refuse_clash(method: Method) -> None:
    """InputError where a module of one's own would have the name of one that the catalogue makes from other specs."""
    row = named(rows()).get(method.name)
    if row is not None and (row.sde, row.sampler) != (method.sde.name, method.sampler.name):
        raise _clash(method.name, f"{row.specs}, of the catalogue, and of {method.sampler.name} on {method.sde.name}")


def _clash(name: str, specs: str) -> InputError:
    return InputError("-", "name", f"{name} is the module of {specs}", "rename a diffusion or a sampler")


def kept() -> tuple[Row, ...]:
    """The rows whose texts are kept on disk, in the order of the catalogue."""
    first: dict[tuple[str, str], Row] = {}  # the first network of each diffusion and sampler
    for row in rows():
        first.setdefault((row.sde, row.sampler), row)
    home = (row for row in first.values() if row.sampler == "conjugate" or row.sampler in HOME.get(row.sde, ()))
    names = {*VARIANTS, *(row.name for row in home)}
    return tuple(row for row in rows() if row.name in names)


def find(name: str) -> Row:
    """The row of a module's name; InputError with the closest known name."""
    table = named(rows())
    key = name.replace("-", "_").lower()
    if key not in table:
        closest = difflib.get_close_matches(key, table, 1, 0.6)
        fix = (f"did you mean {closest[0]}? " if closest else "") + "`stepsmith list WORD` names those with a word in them"
        raise InputError("-", "name", f"no module {name!r} in the catalogue", fix)
    return table[key]
