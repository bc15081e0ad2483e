"""The catalogue: which sampler on which diffusion, for which network and frame, and which modules ``generated/`` keeps."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass

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

# Kept on disk for people to read: each sampler on the diffusion that it is at home on, and five other networks and frames.
# ``kept`` adds `conjugate` on every diffusion.
HOME = {
    "psld": (*STEPPERS, *CONJUGATE, *SPLITTINGS, *CONJUGATE_SPLITTINGS, *BLOCK_LINES),
    "vp": (*ODE_LINES, *SDE_LINES),
    "blurring": ("oso",),
}
VARIANTS = (
    "psld_conjugate_eps_l", "psld_conjugate_eps_l_in_eps_r", "psld_conjugate_score", "vp_conjugate_v", "edm_dpmpp_2m_edm",
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


def rows() -> tuple[Row, ...]:
    """The whole catalogue, in the order in which it is listed."""
    found = [
        Row(sde, sampler)
        for sde in ("psld", "cld")
        for sampler in (*STEPPERS, *CONJUGATE, *SPLITTINGS, *CONJUGATE_SPLITTINGS)
    ]
    found += [Row(sde, sampler, "eps-L") for sde in ("psld", "cld") for sampler in (*CONJUGATE, *CONJUGATE_SPLITTINGS)]
    found += [Row(sde, "conjugate", "eps-L", "eps-R") for sde in ("psld", "cld")]
    found += [Row("psld", "conjugate", network) for network in ("eps-U", "eps-R", "score", "edm")]
    found += [Row("psld-damped", sampler) for sampler in (*CONJUGATE, "euler", "euler-maruyama", "rvv", "roba")]
    found += [Row(sde, sampler) for sde in ("vp", "vp-cosine", "ve") for sampler in (*STEPPERS, *CONJUGATE)]
    found += [Row(sde, "conjugate", network) for sde in ("vp", "ve") for network in ("eps-L", "v", "edm")]
    found += [Row(sde, "sscs") for sde in ("vp", "vp-cosine")]
    found += [
        Row(sde, sampler) for sde in ("sub-vp", "edm", "rectified-flow") for sampler in (*STEPPERS, *CONJUGATE[:2])
    ]
    found += [
        Row(sde, sampler)
        for sde in ("hold", "four-blocks", "swinging-damping")
        for sampler in (*STEPPERS, *CONJUGATE[:2], "rvv", "roba", "sscs")
    ]
    found += [Row("hold-damped", sampler) for sampler in (*STEPPERS, "conjugate", "sscs")]
    found += [Row("ir-sde", sampler) for sampler in (*STEPPERS, *CONJUGATE[:2], "sscs")]
    found += [Row("ir-sde", sampler, "eps-L") for sampler in (*STEPPERS, "conjugate")]
    found += [Row("vp", sampler) for sampler in (*ODE_LINES, *SDE_LINES)]
    found += [Row("edm", sampler) for sampler in (*ODE_LINES[1:7], "heun", "sde-dpmpp-2m", "sde-dpmpp-3m")]
    found += [Row(sde, "dpmpp-2m") for sde in ("vp-cosine", "ve", "sub-vp", "rectified-flow")]
    found += [Row("vp", sampler, network) for sampler in ("dpmpp-2m", "unipc-3") for network in ("eps-L", "v")]
    found += [Row("edm", "dpmpp-2m", "edm")]
    found += [Row(sde, sampler) for sde in ("psld", "cld", "psld-damped") for sampler in BLOCK_LINES]
    found += [Row("blurring", sampler, "eps-L") for sampler in (*STEPPERS, "conjugate", "oso", "heun", "dpmpp-2m")]
    found += [Row("blurring", "conjugate", "x0")]
    return tuple(named(found).values())


def named(found: Iterable[Row]) -> dict[str, Row]:
    """Rows by the names of their modules; InputError where two rows have one name, as - and _ are the same there."""
    table: dict[str, Row] = {}
    for row in found:
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
    found: dict[tuple[str, str], Row] = {}  # the first network of each diffusion and sampler
    for row in rows():
        found.setdefault((row.sde, row.sampler), row)
    return tuple(
        row
        for row in rows()
        if row.name in VARIANTS
        or (row == found[row.sde, row.sampler] and (row.sampler == "conjugate" or row.sampler in HOME.get(row.sde, ())))
    )


def find(name: str) -> Row:
    """The row of a module's name; InputError with the closest known name."""
    table = named(rows())
    key = name.replace("-", "_").lower()
    if key not in table:
        close = difflib.get_close_matches(key, table, 1, 0.6)
        fix = (
            f"did you mean {close[0]}? `stepsmith list` names them all" if close else "`stepsmith list` names them all"
        )
        raise InputError("-", "name", f"no module {name!r} in the catalogue", fix)
    return table[key]
