"""The source paper's comparison on real images: its samplers, and ours, on one epsilon network of PSLD trained on Fashion-MNIST.

All run from t = 1 to 1e-3 on the quadratic grid; the last network call is the mean of the data (counted).  ``Row.varied`` is a
row on another grid or without that last call.  A cell is a sampler at
a budget of calls: its Frechet distance to the data in the features of a classifier with the bootstrap's standard error
(measure/frechet.py), and the mean absolute Laplacian of its pictures beside that of the data, which tells grain and washing
out, to which those features are nearly blind.  A cell depends on its name and the setting alone, so that a record grows over
several runs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from stepsmith.measure import frechet
from stepsmith.measure.flow import Laws
from stepsmith.measure.trials import Trials
from stepsmith.runtime.grid import TimeGrid, budget_steps
from stepsmith.runtime.noise import NoiseSource
from stepsmith.runtime.sampler import sample

SDE, NETWORK, DATA, PLAIN = "psld", "fashion-psld-eps-l", "fashion-psld-eps-l as data", "fashion"
BUDGETS = (20, 50, 100)
END, LOW = 1e-3, 0.009  # the effective sigma at END
SPREAD = 0.59  # of the data about their mean image
BATCH = 250
TOLERANCES = (1e-1, 1e-2)  # of RK45, relative and absolute


@dataclass(frozen=True)
class Row:
    """A sampler of the table: the paper's name, what is derived, for which diffusion and network, the paper's FID at 50 calls."""

    label: str
    sampler: Any
    frame: str | None = None
    params: dict[str, float] = field(default_factory=dict)
    sde: str = SDE
    network: str = NETWORK
    paper: float | None = None
    ours: bool = False
    grid: str = "quadratic"
    last: str = "denoise"

    def varied(self, grid: str | None, last: str | None) -> Row:
        """This row on another grid, or without the last call; its label says so."""
        row = self if grid in (None, self.grid) else replace(self, grid=grid, label=f"{self.label}, {grid} grid")
        return row if last in (None, row.last) else replace(row, last=last, label=f"{row.label}, no last step")


PAPER = (
    Row("EM", "euler-maruyama", paper=30.8),
    Row("SSCS", "sscs", paper=18.8),
    Row("Heun", "heun-drift"),
    Row("NSE", "nse"),
    Row("RSE", "rse"),
    Row("NVV", "nvv", paper=69.1),
    Row("RVV", "rvv", paper=14.2),
    Row("NOBA", "noba", paper=36.9),
    Row("ROBA", "roba", paper=2.76),
    Row("OBAB", "obab"),
    Row("BAOAB", "baoab"),
    Row("conjugate, lambda 0", "conjugate", paper=4.0),
    Row("lambda-DDIM-I, .5", "conjugate-identity", params={"lambda_": 0.5}),
    Row("lambda-DDIM-II, .25", "conjugate-ones", params={"lambda_": 0.25}),
    Row("lambda-DDIM-II, .5", "conjugate-ones", params={"lambda_": 0.5}, paper=3.0),
    Row("conjugate VV", "conjugate-vv", paper=3.21),
    Row("conjugate OBA", "conjugate-oba"),
)
OURS = (
    Row("conjugate in eps-R", "conjugate", frame="eps-R", ours=True),
    Row("conjugate VV in eps-R", "conjugate-vv", frame="eps-R", ours=True),
    Row("conjugate VV in x0", "conjugate-vv", network=DATA, ours=True),
    Row("conjugate OBA in x0", "conjugate-oba", network=DATA, ours=True),
    Row("RVV2", "rvv2", ours=True),
    Row("adams-2, log-SNR grid", "adams-2", network=DATA, ours=True, grid="logsnr"),
    Row("adams-3, log-SNR grid", "adams-3", network=DATA, ours=True, grid="logsnr"),
    Row(
        "adams-3-gaussian, tan grid",
        "adams-3-gaussian",
        params={"sigma_data": SPREAD},
        network=DATA,
        ours=True,
        grid="tan",
    ),
)
BRIDGED = (  # a plain denoiser of the same size: plain samplers, and PSLD's through the bridge
    Row("VP DDIM", "ddim", sde="vp", network=PLAIN, grid="logsnr"),
    Row("VP DPM-Solver++(2M)", "dpmpp-2m", sde="vp", network=PLAIN, grid="logsnr"),
    Row("VP adams-3", "adams-3", sde="vp", network=PLAIN, ours=True, grid="logsnr"),
    Row(
        "VP adams-3-gaussian",
        "adams-3-gaussian",
        params={"sigma_data": SPREAD},
        sde="vp",
        network=PLAIN,
        ours=True,
        grid="tan",
    ),
    Row("PSLD ROBA through the bridge", "roba", network=PLAIN),
    Row("PSLD RVV through the bridge", "rvv", network=PLAIN),
    Row("PSLD adams-3 through the bridge", "adams-3", network=PLAIN, ours=True, grid="logsnr"),
)
RULE = {20: 0.555, 50: 0.377, 100: 0.146}  # calls -> lambda by ``stepsmith tune --gaussian``, from the covariance alone
SCAN = tuple(Row(f"lambda-DDIM-II, {value:g}", "conjugate-ones", params={"lambda_": value}) for value in RULE.values())
ROWS = (*PAPER, *OURS, *BRIDGED, *SCAN)


@dataclass(eq=False)
class Table:
    """The cells of a comparison.

    ``made(row)`` gives the method and the module of a row; ``networks`` are Networks by name; ``trials`` keeps the cells.
    """

    made: Callable[[Row], tuple[Any, Any]]
    networks: dict[str, Any]
    trials: Trials
    samples: int

    def cells(self, rows: Iterable[Row], budgets: Iterable[int]) -> Iterator[tuple[Row, int, dict[str, float]]]:
        """Every cell, those on record as they are, the others measured and kept at once."""
        rows = tuple(rows)
        for nfe in budgets:
            for row in rows:
                name = f"{row.label} @ {nfe}"
                if name not in self.trials.known:
                    self.trials.add(name, self.measure(row, nfe))
                yield row, nfe, self.trials.known[name]

    def adaptive(self) -> Iterator[tuple[str, dict[str, float]]]:
        """RK45 at each tolerance, and the calls that it took; kept like the cells."""
        for tolerance in TOLERANCES:
            name = f"RK45, tolerance {tolerance:g} @ 0"
            if name not in self.trials.known:
                begun = time.perf_counter()
                drawn, calls = self.reference(range(self.samples), tolerance)
                self.trials.add(name, {**judged(drawn), "calls": calls, "seconds": round(time.perf_counter() - begun, 1)})
            yield name.removesuffix(" @ 0"), self.trials.known[name]

    def measure(self, row: Row, nfe: int) -> dict[str, float]:
        begun = time.perf_counter()
        drawn = self.draw(row, nfe, range(self.samples))
        seconds = time.perf_counter() - begun
        return {**judged(drawn), "calls": nfe, "seconds": round(seconds, 1)}

    def draw(self, row: Row, nfe: int, seeds: Iterable[int]) -> torch.Tensor:
        """Samples of a row at a budget."""
        method, module = self.made(row)
        steps, _ = budget_steps(nfe, method.nfe, row.last)
        while steps > 1 and method.rows.nfe(steps) + (row.last == "denoise") > nfe:  # the first step may cost more
            steps -= 1
        known = self.networks[row.network]
        start, end = ends(method.sde, known)
        scale = {"scale": SPREAD} if row.grid == "tan" else {}
        grid = getattr(TimeGrid, row.grid)(method.sde, steps, start=start, end=end, **scale)
        return sample(module, known, grid, seeds, params=row.params, last=row.last, batch=BATCH)

    def reference(self, seeds: Iterable[int], tolerance: float) -> tuple[torch.Tensor, int]:
        """Samples by scipy's RK45 on the probability flow of the epsilon network, all of them as one system, and its calls."""
        from scipy.integrate import solve_ivp

        method, _ = self.made(next(row for row in PAPER if row.sampler == "heun-drift"))
        network, law = self.networks[NETWORK], Laws.of(method.sde.at(), (1.0, END))
        noise = NoiseSource(seeds)
        normals = torch.stack(
            [noise.normal(network.shape, "start", 0, j, dtype=torch.float64) for j in range(method.sde.n)]
        )
        state = torch.einsum("ij,j...->i...", torch.from_numpy(law.factor(1.0, "lower")), normals)

        def rate(t: float, z: np.ndarray) -> np.ndarray:
            F, _, V = method.sde.at().rates(t)
            parts = torch.from_numpy(z).reshape(state.shape)
            eps = torch.stack(network(tuple(parts.float()), torch.tensor(t, dtype=torch.float64))).double()
            share = torch.from_numpy(V @ np.linalg.inv(law.factor(t, "lower")).T / 2)
            drift = torch.einsum("ij,j...->i...", torch.from_numpy(F), parts) + torch.einsum(
                "ij,j...->i...", share, eps
            )
            return drift.numpy().ravel()

        found = solve_ivp(rate, (1.0, END), state.numpy().ravel(), rtol=tolerance, atol=tolerance, t_eval=[END])
        if not found.success:
            raise ArithmeticError(f"RK45: {found.message}")
        return torch.from_numpy(found.y[:, -1]).reshape(state.shape)[0].float(), int(found.nfev)


def ends(sde: Any, network: Any) -> tuple[float, float]:
    """Start and end of a run: PSLD's t = 1 and 1e-3, or the same noise levels elsewhere, as far as the network knows them."""
    if sde.name == SDE and network.kind != "denoiser":
        return 1.0, END
    low, high = sde.at().effective_sigma([END, sde.time[1]])
    levels = min(high, network.sigma_range[1]), max(low, LOW)
    first, last = TimeGrid.sigmas(sde, levels).times.tolist()
    return first, last


def judged(samples: torch.Tensor) -> dict[str, float]:
    """The Frechet distance with its standard error, the mean absolute Laplacian, and how many samples are not in sight."""
    finite = samples.isfinite().flatten(1).all(1) & (samples.flatten(1).abs().amax(1) < 10)
    kept = samples[finite].clamp(-1, 1)
    away = int((~finite).sum())
    if len(kept) < len(samples) / 2:
        return {"fd": float("inf"), "error": float("nan"), "laplacian": float("nan"), "away": away}
    found, error = frechet.distance_and_error(kept, "fashion")
    return {"fd": round(found, 3), "error": round(error, 3), "laplacian": round(laplacian(kept), 4), "away": away}


def laplacian(images: torch.Tensor) -> float:
    """The mean of |u_(i+1,j) + u_(i-1,j) + u_(i,j+1) + u_(i,j-1) - 4 u_(i,j)| over inner pixels."""
    inner = images[..., 1:-1, 1:-1]
    around = images[..., 2:, 1:-1] + images[..., :-2, 1:-1] + images[..., 1:-1, 2:] + images[..., 1:-1, :-2]
    return (around - 4 * inner).abs().mean().item()
