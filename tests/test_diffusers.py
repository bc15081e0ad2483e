"""The dialect diffusers: a generated scheduler in the pipelines of diffusers, held to diffusers' own schedulers and to the module."""

import copy
import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

import stepsmith as ss
from stepsmith.errors import Unsupported
from stepsmith.templates import attach

diffusers = pytest.importorskip("diffusers")
pytest.importorskip("transformers")
diffusers.utils.logging.set_verbosity_error()

SD = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "steps_offset": 1}
WIDE = {
    "sde": {"name": "wide", "doc": "sigma = t, wide", "state": ["x"], "time": [0.0, 1e6], "alpha": "1", "sigma": "t"},
}
SHAPE = (2, 4, 8, 8)
ONE_BLOCK = (
    "vp_ddim vp_dpmpp_2m vp_dpmpp_2s vp_dpmpp_3m vp_dpmpp_3m_corrected vp_unipc_2 vp_unipc_3 vp_deis_2 vp_deis_3 vp_heun vp_adams_2 "
    "vp_adams_3 vp_adams_3_gaussian vp_conjugate vp_conjugate_identity vp_euler"
).split()
MORE = "psld_rvv2 psld_adams_3 psld_nvv psld_roba cld_conjugate hold_conjugate vp_sde_dpmpp_2m vp_sa_solver psld_sscs".split()


@pytest.fixture(scope="module")
def host(emitted):
    """The module of a name of the catalogue with its scheduler."""
    loaded = {}

    def load(name):
        if name not in loaded:
            loaded[name] = ss.load(attach(emitted[name].text, "diffusers"))
        return loaded[name]

    return load


@pytest.fixture(scope="module")
def wide():
    """A scheduler on a diffusion of the user's own, for the whole range of a flow."""

    def load(sampler):
        return ss.load(ss.emit(ss.derive(ss.load_sde(WIDE), sampler), "diffusers", certified=False)).Scheduler

    return load


def distance(a, b):
    return ((a - b).abs().max() / b.abs().max()).item()


def toy(x, timestep):
    """A network of a noise prediction that is not linear."""
    return 0.9 * torch.tanh(x * (0.5 + float(timestep) / 1000)) + 0.05 * x.mean(dim=(-1, -2), keepdim=True)


def drive(scheduler, x, net=toy, seed=0, **timesteps):
    scheduler.set_timesteps(**timesteps)
    generator = torch.Generator().manual_seed(seed)
    for t in scheduler.timesteps:
        x = scheduler.step(net(x, t), t, x, generator=generator, return_dict=False)[0]
    return x


def unet(kind=diffusers.UNet2DConditionModel, channels=4):
    torch.manual_seed(0)
    blocks = {"DownBlock2D": "UpBlock2D", "CrossAttnDownBlock2D": "CrossAttnUpBlock2D"}
    more = {"cross_attention_dim": 8}
    if kind is diffusers.UNet2DModel:
        blocks, more = {"DownBlock2D": "UpBlock2D", "AttnDownBlock2D": "AttnUpBlock2D"}, {}
    return kind(
        block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4, sample_size=8, in_channels=channels, out_channels=channels,
        down_block_types=tuple(blocks), up_block_types=tuple(reversed(blocks.values())), attention_head_dim=4, **more,
    ).eval()  # fmt: skip


def stable_diffusion(scheduler, kind=diffusers.StableDiffusionPipeline):
    vae = diffusers.AutoencoderKL(block_out_channels=(8,), norm_num_groups=4, latent_channels=4)
    pipeline = kind(
        vae=vae, text_encoder=None, tokenizer=None, unet=unet(), scheduler=scheduler, safety_checker=None, feature_extractor=None,
        requires_safety_checker=False,
    )  # fmt: skip
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def drawn(pipeline, steps=10, **more):
    """Latents of a run with guidance."""
    prompts = torch.randn(2, 1, 4, 8, generator=torch.Generator().manual_seed(5))
    if "image" not in more:
        more |= {"height": 8 * pipeline.vae_scale_factor, "width": 8 * pipeline.vae_scale_factor}
    with torch.no_grad():
        return pipeline(
            prompt_embeds=prompts[0], negative_prompt_embeds=prompts[1], num_inference_steps=steps, output_type="latent",
            guidance_scale=3.0, generator=torch.Generator().manual_seed(0), **more,
        ).images  # fmt: skip


# -- equal to the module ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*ONE_BLOCK, *MORE])
def test_a_scheduler_takes_the_steps_of_its_module(name, host):
    """The loop of the module's docstring on the same rows, start and noise, the network called by the step itself."""
    module = host(name)
    scheduler = module.Scheduler(**SD, final_sigmas_type="sigma_min")
    x = torch.randn(SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    result = drive(scheduler, x, num_inference_steps=6)

    scheduler.set_timesteps(6)
    sigmas = torch.tensor(scheduler._levels, dtype=torch.float64)
    replay = scheduler._run
    replay.begin(x, torch.Generator().manual_seed(0))
    replay.put(x * (1 + sigmas[0] ** 2).sqrt() - replay.y)
    state, generator, noise = replay.state, replay.generator, replay.noise

    def network(inputs, sigma):
        timestep = torch.tensor(scheduler.trained.timestep(float(sigma)), dtype=torch.float32)
        return (inputs[0] - sigma * toy(inputs[0] / (1 + sigma**2).sqrt(), timestep),)

    table = module.coefficients(scheduler._times)
    history = (torch.zeros_like(x),) * module.HISTORY
    for i, row in enumerate(table):
        end = {0: "_first", len(table) - 1: "_last"}.get(i, "")
        end = end if hasattr(module, f"step{end}") else ""
        if i:
            draws = getattr(module, f"DRAWS{end.upper()}")
            noise = [torch.randn(SHAPE, dtype=torch.float64, generator=generator) for _ in range(draws)]
        state, history = getattr(module, f"step{end}")(state, row.unbind(), network, noise, history)
    seen = []
    module.denoise(state, table[-1].unbind(), lambda inputs, sigma: seen.extend((inputs[0], sigma)) or inputs)
    assert distance(seen[0] / (1 + seen[1] ** 2).sqrt(), result) < 1e-11


# -- equal to diffusers -------------------------------------------------------------------------------------------------

PEERS = {
    "vp_ddim": diffusers.DDIMScheduler(**SD, clip_sample=False),
    "vp_dpmpp_2m": diffusers.DPMSolverMultistepScheduler(**SD),
    "vp_unipc_2": diffusers.UniPCMultistepScheduler(**SD, solver_order=2, final_sigmas_type="zero"),
    "vp_unipc_3": diffusers.UniPCMultistepScheduler(**SD, solver_order=3, final_sigmas_type="zero"),
    "vp_sde_dpmpp_2m": diffusers.DPMSolverMultistepScheduler(**SD, algorithm_type="sde-dpmsolver++"),
}


@pytest.mark.parametrize("name", PEERS)
def test_a_row_is_the_scheduler_of_diffusers_in_stable_diffusion(name, host):
    """With guidance, at the peer's own timesteps, from its configuration; float32, where they keep sigmas in float32."""
    peer = PEERS[name]
    peer.set_timesteps(12)
    scheduler = host(name).Scheduler.from_config(peer.config)
    given = {"timesteps": peer.timesteps.tolist()} if name == "vp_ddim" else {}
    result = drawn(stable_diffusion(scheduler), steps=12, **given)
    assert scheduler.timesteps.tolist() == peer.timesteps.tolist()
    assert distance(result, drawn(stable_diffusion(peer), steps=12)) < 3e-5


@pytest.mark.parametrize("name", ["vp_ddim", "vp_dpmpp_2m", "vp_unipc_3"])
def test_in_float64_only_the_rounding_of_the_peers_sigmas_to_float32_is_left(name, host):
    peer = PEERS[name]
    peer.set_timesteps(12)
    x = torch.randn(SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    scheduler, expected = host(name).Scheduler.from_config(peer.config), x
    result = drive(scheduler, x, timesteps=peer.timesteps)
    for t in peer.timesteps:
        expected = peer.step(toy(expected, t), t, expected, return_dict=False)[0]
    assert distance(result, expected) < 2e-6


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize(
    "more",
    [
        {"timestep_spacing": "leading", "steps_offset": 0},
        {"timestep_spacing": "trailing"},
        {"beta_schedule": "squaredcos_cap_v2", "timestep_spacing": "leading"},
        {"rescale_betas_zero_snr": True, "timestep_spacing": "leading"},
        {"final_sigmas_type": "sigma_min", "lower_order_final": False},
        {"use_karras_sigmas": True},
        {"trained_betas": torch.linspace(0.001, 0.015, 1000).tolist()},
    ],
    ids=lambda more: ",".join(more),
)
def test_the_configuration_of_a_peer_means_the_same(kind, more, host):
    peer = diffusers.DPMSolverMultistepScheduler(**{**SD, "prediction_type": kind, **more})
    peer.set_timesteps(7)
    scheduler = host("vp_dpmpp_2m").Scheduler.from_config(peer.config)
    x = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1))
    result, expected = drive(scheduler, x, num_inference_steps=7), x
    assert [round(t) for t in scheduler.timesteps.tolist()] == peer.timesteps.tolist()
    for t, own in zip(peer.timesteps, scheduler.timesteps, strict=True):
        expected = peer.step(toy(expected, own), t, expected, return_dict=False)[0]
    assert distance(result, expected) < 3e-5
