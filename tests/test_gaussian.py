"""The error of a run on Gaussian data: that of samples that are drawn, and of the exact flow with many steps."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import stepsmith as ss
from stepsmith.cli import cli
from stepsmith.errors import InputError, Unsupported
from stepsmith.measure import gaussian
from stepsmith.runtime.networks.base import Network

torch.set_num_threads(1)
VARIANCES = torch.tensor([0.01, 0.3, 2.0], dtype=torch.float64)
PSLD = ss.load_sde("psld")


@pytest.mark.parametrize(
    "name", ["psld_conjugate_ones_eps_l", "psld_rvv", "psld_conjugate_score", "psld_roba", "psld_baoab", "vp_sa_solver"]
)
def test_it_is_the_error_of_samples_that_are_drawn(name: str) -> None:
    module, grid = ss.load(name), ss.TimeGrid.quadratic(name.partition("_")[0], 12)
    params = {"lambda_": 0.4} if name.endswith("eps_l") else {}
    known = gaussian.network(module, VARIANCES)
    network = Network(known, module.NETWORK, (3,), None, module.INPUTS, module.OUTPUTS)
    drawn = ss.sample(module, network, grid, range(8000), params=params, last="denoise", dtype=torch.float64)
    found = gaussian.distance(module, grid, VARIANCES, params)
    wanted = (drawn.square().mean(0).sqrt() - VARIANCES.sqrt()).square().sum().sqrt().item()
    spread = drawn.square().mean(0).sqrt().sum().item() / (2 * 8000) ** 0.5  # of the standard deviations, added up
    assert found == pytest.approx(wanted, abs=3 * spread)


def test_it_falls_with_the_order_of_the_sampler() -> None:
    module = ss.load("psld_rvv2")
    errors = [gaussian.distance(module, ss.TimeGrid.quadratic(PSLD, n), VARIANCES[1:], last="none") for n in (100, 200)]
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.2)


def test_the_eigenvalues_of_images_covariances_and_their_own() -> None:
    images = torch.randn(500, 1, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    covariance = torch.cov(images.flatten(1).T)
    wanted = torch.linalg.eigvalsh(covariance)
    for given in (images, covariance, wanted):
        assert gaussian.modes(given).sort().values.numpy() == pytest.approx(wanted.numpy(), rel=1e-9)
    with pytest.raises(InputError, match="gaussian: it is no covariance"):
        gaussian.modes([1.0, -0.5])
    with pytest.raises(Unsupported, match="has constants"):
        gaussian.distance(ss.load("ir_sde_conjugate"), ss.TimeGrid.quadratic("ir-sde", 3), VARIANCES)


def test_the_verb_finds_a_lambda_that_is_better_than_its_neighbours(tmp_path: Path) -> None:
    np.savez(tmp_path / "s.npz", eigenvalues=VARIANCES.numpy())
    words = [
        "tune",
        "--sde",
        "psld",
        "--gaussian",
        str(tmp_path / "s.npz"),
        "--nfe",
        "20",
        "--out",
        str(tmp_path / "out"),
    ]
    done = CliRunner().invoke(cli, [*words, "--json"])
    assert done.exit_code == 0, done.output
    (record,) = json.loads(done.output)["records"]
    module, grid = ss.load("psld_conjugate_ones_eps_l"), ss.TimeGrid.quadratic(PSLD, 19)
    at = [
        gaussian.distance(module, grid, VARIANCES, {"lambda_": record["value"] + shift}) for shift in (-0.02, 0, 0.02)
    ]
    assert at[1] == pytest.approx(record["distance"]) and at[1] < min(at[0], at[2]) and at[1] < record["at 0"]
    assert json.loads((tmp_path / "out" / "psld_conjugate_ones_eps_l_lambda.json").read_text()) == [record]
    for file, word in (("none.npz", "holds no eigenvalues"), ("s.npz", "has no nu2")):
        bad = CliRunner().invoke(cli, [*words[:4], str(tmp_path / file), *words[5:], "--parameter", "nu2"])
        assert isinstance(bad.exception, InputError) and word in str(bad.exception)
