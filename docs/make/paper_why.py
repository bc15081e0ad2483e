"""The last section of docs/paper.md: what could be known of the table before any network was called, and why."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from stepsmith.certificate import emit
from stepsmith.derive import load_sde
from stepsmith.derive.method import derive
from stepsmith.loading import load
from stepsmith.measure import frechet, gaussian, paper
from stepsmith.runtime import TimeGrid, budget_steps

WHY = """## Why, and what could be known before

Much of this can be predicted without the network. If the images were Gaussian with the covariance that they have, the exact
network would be linear, and the error of a run, noise included, would follow from the 784 eigenvalues of the covariance alone
(measure/gaussian.py). The table has this squared distance beside the measured one. It predicts which values of lambda are
good, which quantity to hold constant, and mostly what diverges. It does not rank samplers of different kinds, and it does not
see grain.

- *Why a lambda helps, and the baseline without one is poor.* The conjugate step holds the output of the network constant over
  the step. The output of a network that was trained with a Cholesky factor rotates while the state moves. In the frame eps-R
  it does not rotate, and B = lambda compensates a part of the rotation. The frame therefore cures what a lambda only reduces,
  and the best lambda falls with the number of calls: `stepsmith tune --gaussian` finds 0.555, 0.377 and 0.146 at 20, 50 and
  100 calls.
- *When conjugate splitting is better than splitting.* A conjugate part solves its linear terms exactly and holds the rest
  constant, so the rest must be small. If epsilon is held, the rest is the whole score. It must take back the exponential
  growth of the linear terms, and at few calls it does not. If the prediction of the data is held (x0), the term -Sigma^-1 z of
  the score is among the linear ones. With large noise this is nearly the whole score, the rest is small, and nothing diverges
  at 20 calls; but from 50 calls on epsilon changes less than the prediction of the data, and holding it is better. The frame
  eps-R, which cures the conjugate step, does not cure the splitting: epsilon is nearly constant along the flow, but not along
  its parts, which move one block each.
- *Why conjugation hurts the stochastic splitting.* The reverse SDE has twice the score of the flow, and its parts have twice
  the growth: the first step of 20 calls multiplies the momentum by {grown:.0f}, an Euler step by {euler:.1f}. The score must
  take this back, but epsilon is not constant there even for a single image, as the noise of each step changes it. With the
  data held conjugate OBA is nearly as good as ROBA. No fault was found in the reconstruction.
- *What diverges at 20 calls.* The three largest predictions are those of {worst}. No sample of conjugate OBA diverges: its
  predicted error lies in a few directions of large variance, in which the predictions of a trained network are bounded."""

ROWS = [row for row in (*paper.PAPER, *paper.OURS) if row.grid == "quadratic"]


def section(measured: Mapping[tuple[str, int], str]) -> str:
    """The text and its table; ``measured`` are the distances of the trained network by (label, calls)."""
    found = {(row.label, nfe): predicted(row, nfe) for row in ROWS for nfe in paper.BUDGETS}
    few = min(paper.BUDGETS)
    first, second, third = sorted((row.label for row in ROWS), key=lambda label: -found[label, few])[:3]
    sde = load_sde(paper.SDE)
    h = float(-TimeGrid.quadratic(sde, few - 1, end=paper.END).times.diff()[0])
    rate = sde.params["beta_min"] * sde.params["nu"]
    text = WHY.format(grown=math.exp(rate * h), euler=1 + rate * h, worst=f"{first}, {second} and {third}")
    heads = ["sampler", *(f"{nfe} calls: Gaussian / measured" for nfe in paper.BUDGETS)]
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    for row in ROWS:
        cells = (f"{found[row.label, nfe]:.2g} / {measured.get((row.label, nfe), '')}" for nfe in paper.BUDGETS)
        lines.append(f"| {row.label} | {' | '.join(cells)} |")
    return f"{text}\n\n" + "\n".join(lines)


def predicted(row: paper.Row, nfe: int) -> float:
    """The squared distance of Gaussian data with the covariance of the images."""
    variances = gaussian.modes(np.load(frechet.WEIGHTS / "fashion_eigenvalues.npz")["eigenvalues"])
    method = derive(row.sde, row.sampler, "x0" if row.network == paper.DATA else "eps-L", row.frame)
    grid = TimeGrid.quadratic(method.sde, budget_steps(nfe, method.nfe, "denoise")[0], end=paper.END)
    return gaussian.distance(load(emit(method)), grid, variances, row.params) ** 2
