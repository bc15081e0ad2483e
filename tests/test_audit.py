"""The page of the audit says what is derived, and its claims are of samplers that the catalogue has."""

from __future__ import annotations

from pathlib import Path

import audit

from stepsmith.derive import catalogue, list_samplers

PAGE = Path(__file__).resolve().parents[1] / "docs" / "audit.md"
QUICK = ("ddim", "dpmpp-2m", "dpmpp-3m", "heun", "unipc-3", "sde-dpmpp-2m")


def test_the_page_says_what_is_derived() -> None:
    text = PAGE.read_text(encoding="utf-8")
    for claim in audit.CLAIMS:
        assert claim.sampler in list_samplers() and catalogue.find(f"vp_{claim.sampler}")
        if claim.sampler in QUICK:
            assert audit.row(audit.finding(claim)) in text, claim.sampler
        else:
            assert f"| {claim.sampler} | {claim.shipped} |" in text


def test_the_audit_names_the_term_and_the_fix() -> None:
    shipped, corrected = (audit.finding(c) for c in audit.CLAIMS if c.sampler in ("dpmpp-3m", "dpmpp-3m-corrected"))
    assert (shipped.claim.claimed, shipped.step, shipped.run) == ("3", 2, 2)
    assert "D2/12" in shipped.words and "factor 2" in shipped.words
    assert (corrected.step, corrected.run) == (3, 3)
