"""The largest stable step that ``stepsmith error`` reports, held to the emitted modules of PSLD and CLD."""

import functools
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import stepsmith as ss
from stepsmith.derive import catalogue
from stepsmith.derive.orders.stability import SHORTEST, Limit, Linear, spectral_radius
from stepsmith.measure import problems
from stepsmith.measure.probe import affine_map
from stepsmith.runtime.networks import Network

torch.set_num_threads(1)
VARIANCE = 0.25
TIMES = (0.8, 0.5, 0.1)
# Those with a history, adams, have none: a long step has no room for equal steps before it.
ROWS = {
    row.name: row
    for row in catalogue.rows()
    if row.sde in ("psld", "cld") and row.network != "eps-R" and not row.sampler.startswith("adams")
}
LONGEST = 1 - 1e-3  # of the way to the start of the span


def edm_network(sigma_data: float) -> Network:
    """The exact F of D(y) = c_skip y + c_out F, D the denoiser of N(0, VARIANCE), told ln(sigma)/4."""

    def call(inputs: tuple[torch.Tensor, ...], time: torch.Tensor) -> tuple[torch.Tensor, ...]:
        sigma = torch.exp(4 * time)
        total = sigma**2 + sigma_data**2
        y = inputs[0] * total.sqrt()
        return ((VARIANCE / (VARIANCE + sigma**2) - sigma_data**2 / total) * y / (sigma * sigma_data / total.sqrt()),)

    return Network(call, "edm", ())


@functools.cache
def view_of(sde: str) -> Any:
    return ss.load_sde(sde).at()


def amplification(module: Any, t0: float, h: float) -> float:
    """The spectral radius of the emitted step t0 -> t0 - h on data N(0, VARIANCE)."""
    exact = problems.Gaussian(0.0, VARIANCE)
    if module.NETWORK == "edm":
        network = edm_network(module.PARAMS["sigma_data"])
    elif module.NETWORK == "denoiser":
        network = exact.network()
    else:
        network = exact.score_network(module.NETWORK, view_of(module.SDE))
    return spectral_radius(affine_map(module, module.coefficients([t0, t0 - h])[0], network).A.numpy())


@pytest.mark.parametrize("name", ROWS)
def test_the_emitted_step_amplifies_beyond_the_largest_stable_step_and_not_before(name: str, emitted: Any) -> None:
    """Exact steps do not amplify here (the test below), so a step is stable where its radius is at most 1 + 1e-9."""
    module, probe = emitted[name].module, Linear(emitted[name].method, VARIANCE)
    for t0 in TIMES[1:2] if "conjugate" in name else TIMES:  # a conjugate step is dear to derive
        limit = probe.largest(t0)
        assert limit.h > 0
        assert amplification(module, t0, limit.h * 0.999) <= 1 + 1e-9
        if limit.bracketed:
            assert amplification(module, t0, limit.h * 1.001) > 1 + 1e-9
        else:
            assert limit.h == pytest.approx(LONGEST * t0, rel=1e-12)
            assert amplification(module, t0, limit.h) <= 1 + 1e-9
        for share in np.linspace(0.05, 0.95, 6):  # and no shorter step amplifies
            assert amplification(module, t0, limit.h * share) <= 1 + 1e-9


@pytest.mark.parametrize("sampler", ["rvv", "roba"])
@pytest.mark.parametrize("sde", ["psld", "cld"])
def test_the_exact_step_carries_the_covariance_and_does_not_amplify(sde: str, sampler: str) -> None:
    """The flow carries S_t0 to S_t1, the mean of the reverse SDE to less: E S_t0 E^T <= S_t1."""
    probe = Linear(ss.derive(sde, sampler), VARIANCE)
    for t0 in TIMES:
        for share in (0.3, LONGEST):
            t1 = t0 - t0 * share
            E, before, after = probe.flow(t0, t1), probe.law(t0)[2], probe.law(t1)[2]
            assert spectral_radius(E) < 1
            rest = np.linalg.eigvalsh(after - E @ before @ E.T)
            assert rest.min() > -1e-12 if sampler == "roba" else np.abs(rest).max() < 1e-12


def test_rvv_on_psld_is_not_stable_at_any_step_from_a_tenth() -> None:
    """The report said "any": from t = 0.1 a step of 0.097 amplifies fourfold."""
    assert amplification(ss.load("psld_rvv"), 0.1, 0.097) > 4
    last = ss.derive("psld", "rvv").stability().lines()[-1]
    assert last.strip() == "largest stable step: 0.248 from t = 0.8, 0.226 from t = 0.5, 0.0904 from t = 0.1"


@dataclass(frozen=True, eq=False)
class Intervals(Linear):
    """Steps that are stable on the given intervals of their length."""

    intervals: tuple[tuple[float, float], ...] = ()

    def stable(self, t0: float, h: float) -> bool:
        return any(low <= h <= high for low, high in self.intervals)


@pytest.mark.parametrize(
    ("intervals", "h", "bracketed", "text"),
    [
        (((0.0, 0.3),), 0.3, True, "0.299 from t = 1"),
        (((0.0, 0.3), (0.5, 1.0)), 0.3, True, "0.299 from t = 1"),  # stable again, but not all the way
        (((0.0, 1.0),), LONGEST, False, "at least 0.999 from t = 1"),
        (((0.0, 0.998),), 0.998, True, "0.997 from t = 1"),  # between the last length but one and the end
        (((0.0, 3e-5),), 3e-5, True, "2.99e-05 from t = 1"),  # shorter than every length of the scan
        (((0.0, 1e-9),), 0.0, True, "none found from t = 1"),
    ],
)
def test_the_largest_stable_step_ends_the_first_stable_interval(
    intervals: tuple[tuple[float, float], ...], h: float, bracketed: bool, text: str
) -> None:
    method = SimpleNamespace(sde=SimpleNamespace(time=(0.0, 1.0)))
    found = Intervals(method, VARIANCE, intervals).largest(1.0)
    assert found.bracketed == bracketed and str(found) == text
    assert h * (1 - 1e-4) <= found.h <= h and (found.h > SHORTEST or h == 0)


def test_a_printed_step_is_never_longer_than_the_one_that_was_found() -> None:
    for h in (0.2469, 0.9999e-3, 0.1, 0.0999, 5.0, 12.345, 1e-5):
        text = str(Limit(0.5, h, True))
        printed = float(text.split()[0])
        assert h * (1 - 1e-2) < printed <= h * (1 + 1e-12), text
