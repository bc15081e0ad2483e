"""The audit: samplers that people ship, their claimed order beside the proven one, the term and the fix.

Each is a spec of the catalogue whose trajectories are those of the shipped code to 1e-10 (tests/test_shipped.py).  Everything
but the claims is derived when the page is made; ``make docs`` writes it to docs/audit.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from stepsmith.derive.method import Method, derive
from stepsmith.derive.orders.local import row_powers

SDE = "vp"
ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth")


@dataclass(frozen=True)
class Claim:
    """A sampler of the catalogue, where it ships, the order said of it and by whom."""

    sampler: str
    shipped: str
    claimed: str
    source: str


CLAIMS = (
    Claim("ddim", "diffusers DDIM, eta = 0", "1", "arXiv 2010.02502"),
    Claim("ddim-eta", "diffusers DDIM, eta = 1", "-", "arXiv 2010.02502"),
    Claim("dpmpp-2m", "diffusers DPMSolverMultistep, k-diffusion dpmpp_2m", "2", "arXiv 2211.01095"),
    Claim("dpmpp-2s", "diffusers DPMSolverSinglestep, k-diffusion dpmpp_2s (eta = 0)", "2", "arXiv 2211.01095"),
    Claim(
        "dpmpp-3m",
        "diffusers DPMSolverMultistep (order 3), k-diffusion dpmpp_3m_sde (eta = 0)",
        "3",
        "arXiv 2211.01095",
    ),
    Claim("dpmpp-3m-corrected", "nowhere: the correction", "-", "here"),
    Claim("unipc-2", "diffusers UniPCMultistep (order 2, bh2)", "3", "arXiv 2302.04867: the corrector lifts 2 to 3"),
    Claim("unipc-3", "diffusers UniPCMultistep (order 3, bh2)", "4", "arXiv 2302.04867: the corrector lifts 3 to 4"),
    Claim("deis-2", "diffusers DEISMultistep (order 2)", "2", "arXiv 2204.13902"),
    Claim("deis-3", "diffusers DEISMultistep (order 3)", "3", "arXiv 2204.13902"),
    Claim("heun", "EDM, diffusers HeunDiscrete, k-diffusion heun", "2", "arXiv 2206.00364"),
    Claim("sde-dpmpp-2m", "k-diffusion dpmpp_2m_sde, eta = 1", "2", "arXiv 2211.01095"),
    Claim("sde-dpmpp-3m", "k-diffusion dpmpp_3m_sde, eta = 1", "3", "k-diffusion"),
    Claim("sa-solver", "diffusers SASolver, predictor and corrector 2, tau = 1", "2", "arXiv 2309.05019, strong"),
)


@dataclass(frozen=True)
class Finding:
    """One row: the claim, the proven orders of the common step and of the run (weak ones where noise is drawn), words."""

    claim: Claim
    nfe: int
    step: int | None
    run: int | None
    weak: bool
    term: str
    words: str


def findings() -> tuple[Finding, ...]:
    """The audit, derived."""
    return tuple(finding(claim) for claim in CLAIMS)


def finding(claim: Claim) -> Finding:
    """What is proven of one sampler."""
    method: Method = derive(SDE, claim.sampler)
    if method.random:
        words = "weak order; up to 2 is asked" if method.weak_order == 2 else ""
        return Finding(claim, method.nfe, method.weak_order, method.weak_order, True, "", words)
    terms = method.local_error
    return Finding(
        claim, method.nfe, method.step_order, method.order, False, str(terms[0]) if terms else "", _words(method, claim.sampler)
    )  # fmt: skip


def _words(method: Any, sampler: str) -> str:
    """What loses an order, from the local errors of the first and last rows."""
    said = []
    if sampler == "dpmpp-3m":
        said.append(
            "the term D2/12: its second divided difference, which is D''/2, stands where phi_3 needs D''; the fix is a factor 2"
            " there, and a first row better than DDIM, whose local error h^2 would keep the run at 2"
        )
    if sampler == "dpmpp-3m-corrected":
        said.append("nothing: the factor 2, and a first row of two calls")
    for place, k, power in row_powers(method):
        if power < method.step_order:
            row = ORDINALS[k - 1] if place == "first" else "last" if k == 1 else f"{ORDINALS[k - 1]} last"
            said.append(f"the {row} row has a local error h^{power}")
    return "; ".join(said)


def markdown() -> str:
    """docs/audit.md."""
    head = """# Audit: the orders of published samplers

`make docs` writes this page; everything except the claims is derived. Each sampler is a spec of the catalogue that
reproduces the trajectories of the published code to 1e-10 on uneven grids (tests/test_shipped.py). The order of the
formula is that of a common step with exact history on an uneven grid. The order of the run includes the first and last
steps as in the published code. Local errors are exact minus numerical, in units of alpha. In them, h is the step in
lambda = log(alpha/sigma); D1, D2, ... are the derivatives in lambda of the data prediction along the flow; and r1 h, r1
r2 h are the lengths of the earlier steps (equal to h in the term of unipc-3). The orders of samplers with noise are
weak orders, which are tested up to 2.

| sampler | shipped as | calls | claimed | formula | run | leading local error of the formula | what loses it |
|---|---|---|---|---|---|---|---|
"""
    return head + "\n".join(row(f) for f in findings()) + "\n"


def row(f: Finding) -> str:
    """A line of the table."""
    kind = "weak " if f.weak else ""
    term = f"`{f.term.removeprefix('e_x = ')}`" if f.term and len(f.term) < 160 else "long" if f.term else ""
    cells = (
        f.claim.sampler, f.claim.shipped, str(f.nfe), f"{f.claim.claimed} ({f.claim.source})", f"{kind}{_dash(f.step)}",
        f"{kind}{_dash(f.run)}", term or "-", f.words or "-",
    )  # fmt: skip
    return "| " + " | ".join(cells) + " |"


def _dash(order: int | None) -> str:
    return "-" if order is None else str(order)
