"""A generated scheduler in the pipelines of diffusers, held to diffusers' own schedulers and to its module."""

import copy
import functools
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import stepsmith as ss
from stepsmith import tuning
from stepsmith.errors import Unsupported
from stepsmith.measure import choosing
from stepsmith.templates import attach

diffusers = pytest.importorskip("diffusers")
pytest.importorskip("transformers")
diffusers.utils.logging.set_verbosity_error()

GENERATED = Path(__file__).parents[1] / "generated"
SD = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "steps_offset": 1}
WIDE = {
    "sde": {"name": "wide", "doc": "sigma = t, wide", "state": ["x"], "time": [0.0, 1e6], "alpha": "1", "sigma": "t"},
}
SHAPE = (2, 4, 8, 8)
ORDINARY = [
    *("vp_ddim", "vp_dpmpp_2m", "vp_dpmpp_2s", "vp_dpmpp_3m", "vp_unipc_2", "vp_unipc_3", "vp_deis_2", "vp_deis_3", "vp_heun"),
    *("vp_adams_2", "vp_adams_3", "vp_adams_3_gaussian", "vp_conjugate"),
]
OTHERS = [
    *("psld_rvv2", "psld_adams_3", "psld_nvv", "psld_roba", "psld_sscs", "cld_conjugate", "hold_conjugate"),
    *("vp_sde_dpmpp_2m", "vp_sa_solver", "vp_dpmpp_3m_corrected"),
]


@pytest.fixture(scope="module")
def host():
    """The module of a name that is kept in generated/, with its scheduler."""
    return functools.cache(lambda name: ss.load(attach((GENERATED / f"{name}.py").read_text(), "diffusers")))


@pytest.fixture(scope="module")
def wide():
    """The scheduler of a sampler on a diffusion of the user's own, for the whole range of a flow."""
    emit = lambda sampler: ss.emit(ss.derive(ss.load_sde(WIDE), sampler), "diffusers", certified=False)  # noqa: E731
    return functools.cache(lambda sampler: ss.load(emit(sampler)).Scheduler)


@pytest.fixture
def few_candidates(monkeypatch):
    """Two rows on six grids, and a short search of the steps: what is chosen among does not matter here."""
    monkeypatch.setattr(tuning, "SEARCH", 1)
    monkeypatch.setattr(choosing, "ROWS", choosing.ROWS[:1] + choosing.ROWS[6:7])
    monkeypatch.setattr(choosing, "ASINH", ())


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
        block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4, sample_size=8, in_channels=channels,
        out_channels=channels, down_block_types=tuple(blocks), up_block_types=tuple(reversed(blocks.values())),
        attention_head_dim=4, **more,
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


@pytest.mark.parametrize("name", [*ORDINARY, *OTHERS])
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


@pytest.mark.parametrize(("name", "order"), [("vp_dpmpp_3m", 3), ("vp_deis_2", 2), ("vp_deis_3", 3)])
def test_of_higher_rows_the_last_two_steps_differ_where_the_peer_lowers_its_order(name, order, host):
    """Below 15 steps it does so unless told; DEIS ends at the smallest sigma.  Else a row is its peer, to its float32 sigmas."""
    kind = diffusers.DPMSolverMultistepScheduler if name == "vp_dpmpp_3m" else diffusers.DEISMultistepScheduler
    end = {"final_sigmas_type": "zero" if name == "vp_dpmpp_3m" else "sigma_min"}
    x = torch.randn(SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for lowered in (False, True):
        peer = kind(**SD, solver_order=order, lower_order_final=lowered)
        peer.set_timesteps(12)
        scheduler = host(name).Scheduler.from_config(peer.config, **end)
        scheduler.set_timesteps(timesteps=peer.timesteps)
        one = two = x
        gaps = []
        for t in peer.timesteps:
            one, two = (s.step(toy(z, t), t, z, return_dict=False)[0] for s, z in ((scheduler, one), (peer, two)))
            gaps.append(distance(one, two))
        assert max(gaps[:-2] if lowered else gaps) < 2e-6 and (gaps[-1] > 2e-5) == lowered


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


def test_a_flow_is_flow_match_euler_in_flux_stable_diffusion_3_and_qwen(wide):
    """Shifts that depend on the resolution, a fixed one, and one to a last sigma; the peers' sigmas are float32."""
    for pipeline, peer in flows():
        expected = pipeline(peer)
        scheduler = wide("ddim").from_config(peer.config)
        assert distance(pipeline(scheduler), expected) < 3e-5
        assert torch.allclose(scheduler.timesteps, peer.timesteps) and torch.allclose(scheduler.sigmas, peer.sigmas)
        better = pipeline(wide("dpmpp-2m").from_config(peer.config))
        assert 1e-4 < distance(better, expected) < 0.2


FLOWS = [
    *("ddim", "dpmpp-2m", "dpmpp-2s", "dpmpp-3m", "unipc-2", "unipc-3", "deis-2", "deis-3", "heun-drift", "adams-2", "adams-3"),
    *("adams-3-gaussian", "conjugate", "conjugate-identity", "conjugate-ones", "dpmpp-3m-corrected", "euler"),
]


@pytest.fixture(scope="module")
def solutions():
    """The solution of each pipeline, from many steps of Euler's method with the scheduler of diffusers."""
    return [pipeline(peer, steps=400) for pipeline, peer in flows()]


@pytest.mark.parametrize("name", FLOWS)
def test_a_row_runs_in_the_pipelines_of_flows_and_comes_nearer_with_more_steps(name, solutions):
    make = ss.load(ss.emit(ss.derive("rectified-flow", name), "diffusers", certified=False)).Scheduler
    for (pipeline, peer), solution in zip(flows(), solutions, strict=True):
        scheduler = make.from_config(peer.config)
        few, many = (distance(pipeline(scheduler, steps=steps), solution) for steps in (6, 24))
        assert many < few < 0.2 and scheduler.step_index == len(scheduler.timesteps) >= 24


def flows():
    """The pipelines of flows, with the scheduler that their models come with."""
    kind = diffusers.FlowMatchEulerDiscreteScheduler
    resolution = {"use_dynamic_shifting": True}
    terminal = {"shift_terminal": 0.02, "max_shift": 0.9, "max_image_seq_len": 8192}
    return (flux, kind(**resolution)), (stable_diffusion_3, kind(shift=3.0)), (qwen_image, kind(**resolution, **terminal))


@pytest.mark.parametrize("name", ["dpmpp-2m", "unipc-2"])
def test_a_multistep_flow_is_the_scheduler_of_diffusers(name, wide):
    flow = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}
    kind = diffusers.DPMSolverMultistepScheduler if name == "dpmpp-2m" else diffusers.UniPCMultistepScheduler
    peer, x = kind(**flow, final_sigmas_type="zero"), torch.randn(SHAPE, generator=torch.Generator().manual_seed(1))
    scheduler, expected = wide(name).from_config(peer.config), x
    peer.set_timesteps(8)
    own = {"sigmas": torch.linspace(0.999, 0, 9)} if name == "dpmpp-2m" else {"num_inference_steps": 8}
    result = drive(scheduler, x, **own)
    for t, own in zip(peer.timesteps, scheduler.timesteps, strict=True):
        expected = peer.step(toy(expected, own), t, expected, return_dict=False)[0]
    assert distance(result, expected) < 3e-5


def test_a_step_that_pure_noise_would_break_is_refused():
    make = ss.load(ss.emit(ss.derive("rectified-flow", "heun"), "diffusers", certified=False)).Scheduler
    for pipeline, peer in flows():
        with pytest.raises(ValueError, match=r"multiplies the network's outputs by \d{3,}: take another sampler"):
            pipeline(make.from_config(peer.config))
    scheduler = make(prediction_type="flow_prediction")
    scheduler.set_timesteps(sigmas=[0.95, 0.6, 0.3])
    assert len(scheduler.timesteps) > 3


def test_heun_in_the_time_of_a_flow_is_flow_match_heun_from_pure_noise():
    peer, x = diffusers.FlowMatchHeunDiscreteScheduler(shift=3.0), torch.randn(SHAPE, generator=torch.Generator().manual_seed(1))
    peer.set_timesteps(8)
    make = ss.load(ss.emit(ss.derive("rectified-flow", "heun-drift"), "diffusers", certified=False)).Scheduler
    scheduler, expected = make(prediction_type="flow_prediction"), x
    result = drive(scheduler, x, sigmas=peer.sigmas.unique().flip(0)[:-1])
    for t, own in zip(peer.timesteps, scheduler.timesteps, strict=True):
        expected = peer.step(toy(expected, own), t, expected, return_dict=False)[0]
    assert distance(result, expected) < 3e-5


def test_rectified_flow_starts_at_pure_noise(host):
    peer = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    result = stable_diffusion_3(host("rectified_flow_conjugate").Scheduler.from_config(peer.config))
    assert distance(result, stable_diffusion_3(peer)) < 3e-5


@pytest.mark.parametrize("more", [{"shift_terminal": 0.02}, {"time_shift_type": "linear"}], ids=lambda more: ",".join(more))
def test_the_sigmas_of_a_flow_are_those_of_flow_match_euler(more, wide):
    peer = diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, **more)
    scheduler = wide("ddim").from_config(peer.config)
    for given in ({"num_inference_steps": 6}, {"sigmas": [1.0, 0.6, 0.3]}, {"timesteps": [900.0, 600.0, 250.0]}):
        peer.set_timesteps(**given, mu=0.8)
        scheduler.set_timesteps(**given, mu=0.8)
        assert torch.allclose(scheduler.sigmas, peer.sigmas, atol=2e-6)
    with pytest.raises(ValueError, match="use_dynamic_shifting asks for mu"):
        scheduler.set_timesteps(6)


def flux(scheduler, steps=6):
    torch.manual_seed(0)
    transformer = diffusers.FluxTransformer2DModel(
        patch_size=1, in_channels=4, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=32, pooled_projection_dim=32, axes_dims_rope=[4, 4, 8],
    )  # fmt: skip
    vae = diffusers.AutoencoderKL(block_out_channels=(4,), norm_num_groups=2, latent_channels=1, shift_factor=0.0)
    texts = {name: None for name in ("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")}
    pipeline = diffusers.FluxPipeline(scheduler=scheduler, vae=vae, transformer=transformer.eval(), **texts)
    pipeline.set_progress_bar_config(disable=True)
    prompts = {"prompt_embeds": torch.randn(1, 6, 32), "pooled_prompt_embeds": torch.randn(1, 32)}
    with torch.no_grad():
        return pipeline(
            **prompts, height=32, width=32, num_inference_steps=steps, output_type="latent",
            generator=torch.Generator().manual_seed(0),
        ).images  # fmt: skip


def stable_diffusion_3(scheduler, steps=6):
    torch.manual_seed(0)
    transformer = diffusers.SD3Transformer2DModel(
        sample_size=8, patch_size=1, in_channels=4, num_layers=1, attention_head_dim=8, num_attention_heads=4,
        joint_attention_dim=32, caption_projection_dim=32, pooled_projection_dim=64, out_channels=4,
    )  # fmt: skip
    vae = diffusers.AutoencoderKL(block_out_channels=(4,), norm_num_groups=2, latent_channels=4, shift_factor=0.0)
    texts = {f"{kind}{k}": None for kind in ("text_encoder", "tokenizer") for k in ("", "_2", "_3")}
    pipeline = diffusers.StableDiffusion3Pipeline(scheduler=scheduler, vae=vae, transformer=transformer.eval(), **texts)
    pipeline.set_progress_bar_config(disable=True)
    kinds = {"prompt_embeds": (1, 6, 32), "pooled_prompt_embeds": (1, 64)}
    prompts = {name: torch.randn(shape) for kind, shape in kinds.items() for name in (kind, f"negative_{kind}")}
    with torch.no_grad():
        return pipeline(
            **prompts, height=8, width=8, num_inference_steps=steps, output_type="latent", guidance_scale=2.0,
            generator=torch.Generator().manual_seed(0),
        ).images  # fmt: skip


def qwen_image(scheduler, steps=6):
    torch.manual_seed(0)
    transformer = diffusers.QwenImageTransformer2DModel(
        patch_size=2, in_channels=16, out_channels=4, num_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=16, axes_dims_rope=(8, 4, 4),
    )  # fmt: skip
    vae = diffusers.AutoencoderKLQwenImage(
        base_dim=24, z_dim=4, dim_mult=[1, 2, 4], num_res_blocks=1, temperal_downsample=[False, True], latents_mean=[0.0] * 4,
        latents_std=[1.0] * 4,
    )  # fmt: skip
    texts = {"text_encoder": None, "tokenizer": None}
    pipeline = diffusers.QwenImagePipeline(scheduler=scheduler, vae=vae, transformer=transformer.eval(), **texts)
    pipeline.set_progress_bar_config(disable=True)
    prompts = {f"{kind}prompt_embeds": torch.randn(1, 7, 16) for kind in ("", "negative_")}
    masks = {f"{name}_mask": torch.ones(1, 7, dtype=torch.long) for name in prompts}
    with torch.no_grad():
        return pipeline(
            **prompts, **masks, true_cfg_scale=2.0, height=32, width=32, num_inference_steps=steps, output_type="latent",
            generator=torch.Generator().manual_seed(0),
        ).images  # fmt: skip


# -- in pipelines -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*ORDINARY, "psld_rvv2", "psld_adams_3"])
def test_a_row_runs_in_the_pipelines(name, host):
    """Stable Diffusion with custom timesteps, image to image from a strength, DDPM: finite, and as many calls as promised."""
    make = host(name).Scheduler
    latents = drawn(stable_diffusion(make(**SD)), steps=None, timesteps=[900, 600, 400, 200, 50])
    image = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(2))
    pipeline = stable_diffusion(make(**SD), diffusers.StableDiffusionImg2ImgPipeline)
    again = drawn(pipeline, steps=6, image=image, strength=0.5)
    pipeline = diffusers.DDPMPipeline(unet(diffusers.UNet2DModel, 3), make(beta_end=0.018))
    pipeline.set_progress_bar_config(disable=True)
    picture = pipeline(generator=torch.Generator().manual_seed(0), num_inference_steps=5, output_type="np").images
    assert latents.isfinite().all() and again.isfinite().all() and picture.shape == (1, 8, 8, 3)
    assert pipeline.scheduler.step_index == len(pipeline.scheduler.timesteps) >= 5


def test_image_to_image_is_that_of_the_peer(host):
    image = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(2))
    for name in ("vp_dpmpp_2m", "vp_unipc_2"):
        peer = PEERS[name]
        one, two = (
            drawn(stable_diffusion(s, diffusers.StableDiffusionImg2ImgPipeline), steps=12, image=image, strength=0.6)
            for s in (host(name).Scheduler.from_config(peer.config), peer)
        )
        assert distance(one, two) < 3e-5


def test_inpainting_is_that_of_the_peer(host):
    """The pipeline puts the known part, noised, in the place of what was returned: one step forgets nothing else."""
    image, mask = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(2)), torch.zeros(1, 1, 8, 8)
    mask[..., :4] = 1
    peer = diffusers.DDIMScheduler(**SD, clip_sample=False)
    peer.set_timesteps(8)
    results = []
    for scheduler in (host("vp_ddim").Scheduler(**SD, timestep_spacing="leading"), peer):
        scheduler.set_timesteps(timesteps=peer.timesteps) if scheduler is not peer else None
        x, noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1)), torch.ones_like(image)
        for t, after in zip(peer.timesteps, [*peer.timesteps[1:], None], strict=True):
            x = scheduler.step(toy(x, t), t, x, return_dict=False)[0]
            known = image if after is None else scheduler.add_noise(image, noise, after[None])
            x = (1 - mask) * known + mask * x
        results.append(x)
    assert distance(*results) < 3e-5


# -- the law ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["vp_dpmpp_2m", "psld_adams_3", "psld_sscs"])
def test_image_to_image_of_gaussian_data_gives_gaussian_data(name, host):
    """From data noised to half of the timesteps, the exact score: mean and variance within three standard errors of 10,000."""
    mean, spread, count = 0.7, 0.5, 10_000
    scheduler = host(name).Scheduler(**SD)
    scheduler.set_timesteps(100)
    index = 50
    scheduler.set_begin_index(index)
    generator = torch.Generator().manual_seed(3)
    draw = lambda: torch.randn(count, 1, 1, 1, dtype=torch.float64, generator=generator)  # noqa: E731
    x = scheduler.add_noise(mean + spread * draw(), draw(), scheduler.timesteps[index].expand(count))
    for t in scheduler.timesteps[index:]:
        a = scheduler.alphas_cumprod[t].double()
        noise = (x - a.sqrt() * denoiser(x / a.sqrt(), (1 - a) / a, mean, spread)) / (1 - a).sqrt()
        x = scheduler.step(noise, t, x, generator=generator).prev_sample
    # The last step gives the mean of the data given the state, less spread by what that state does not tell.
    a = scheduler.alphas_cumprod[scheduler.timesteps[-1]].double()
    expected = spread**2 * a * spread**2 / (a * spread**2 + 1 - a)
    assert abs(x.mean() - mean) < 3 * (expected / count) ** 0.5
    assert abs(x.var() / expected - 1) < 3 * (2 / count) ** 0.5


@pytest.mark.parametrize(("name", "fine"), [("vp_dpmpp_2m", "vp_conjugate"), ("psld_adams_3", "psld_conjugate")])
def test_image_to_image_from_one_picture_has_the_exact_conditional_law(name, fine, host):
    """z_t given the data is N(Psi e x, Sigma), and the exact flow of Gaussian data is affine: 500 steps of another sampler."""
    x0, mean, spread, count, index = 1.3, 0.7, 0.5, 10_000, 50
    scheduler = host(name).Scheduler(**SD)
    scheduler.set_timesteps(100)
    scheduler.set_begin_index(index)
    first, last = (float(scheduler._times[k]) for k in (index, -1))
    generator = torch.Generator().manual_seed(4)
    noise = torch.randn(count, 1, 1, 1, dtype=torch.float64, generator=generator)
    x = scheduler.add_noise(torch.full_like(noise, x0), noise, scheduler.timesteps[[index]])
    for t in scheduler.timesteps[index:]:
        a = scheduler.alphas_cumprod[t].double()
        noise = (x - a.sqrt() * denoiser(x / a.sqrt(), (1 - a) / a, mean, spread)) / (1 - a).sqrt()
        x = scheduler.step(noise, t, x, generator=generator).prev_sample

    module, law = host(fine), ss.load_sde(name.split("_")[0]).at()
    n = len(module.COMPONENTS)
    state = tuple(torch.cat((torch.eye(n), torch.zeros(1, n))).double().T)  # a unit in each block, and none
    network = lambda inputs, sigma: (denoiser(inputs[0], sigma**2, mean, spread),)  # noqa: E731
    table = module.coefficients(torch.logspace(math.log10(first), math.log10(last), 501, dtype=torch.float64))
    for row in table:
        state, _ = module.step(state, row.unbind(), network)
    ends = module.denoise(state, table[-1].unbind(), network)[module.DATA]
    gains, push, sigma = ends[:n] - ends[n], torch.tensor(law.transition(first, 0.0))[:, module.DATA], law.covariance(first)
    expected, variance = ends[n] + gains @ push * x0, gains @ torch.tensor(sigma) @ gains
    assert abs(x.mean() - expected) < 3 * (variance / count) ** 0.5
    assert abs(x.var() / variance - 1) < 3 * (2 / count) ** 0.5


def denoiser(y, variance, mean, spread):
    """E[data | data + noise = y] of normal data."""
    return mean + spread**2 / (spread**2 + variance) * (y - mean)


# -- what pipelines ask for ---------------------------------------------------------------------------------------------


def test_a_pipeline_saved_with_its_scheduler_gives_the_same_samples_in_a_process_without_stepsmith(tmp_path):
    file = tmp_path / "vp_unipc_3.py"
    file.write_text(attach((GENERATED / "vp_unipc_3.py").read_text(), "diffusers"))
    scheduler = ss.load(file).Scheduler(timestep_spacing="trailing", beta_end=0.018)
    pipeline = diffusers.DDPMPipeline(unet(diffusers.UNet2DModel, 3), scheduler)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.save_pretrained(tmp_path / "saved")
    picture = pipeline(generator=torch.Generator().manual_seed(0), num_inference_steps=5, output_type="np").images
    code = f"""
import sys; sys.modules["stepsmith"] = None
import torch, diffusers
torch.set_num_threads(1)
pipeline = diffusers.DiffusionPipeline.from_pretrained({str(tmp_path / "saved")!r}, trust_remote_code=True)
assert type(pipeline.scheduler).__name__ == "Scheduler" and pipeline.scheduler.config.beta_end == 0.018
images = pipeline(generator=torch.Generator().manual_seed(0), num_inference_steps=5, output_type="np").images
torch.save(torch.from_numpy(images), {str(tmp_path / "images.pt")!r})
"""
    env = {**os.environ, "HF_HOME": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}
    subprocess.run([sys.executable, "-c", code], check=True, env=env, cwd=tmp_path, capture_output=True)
    again = torch.load(tmp_path / "images.pt", weights_only=True)
    assert (again - torch.from_numpy(picture)).abs().max() < 5e-5  # weights that are mapped from a file take other kernels


def test_the_snippets_of_the_page_run(tmp_path, monkeypatch, few_candidates):
    class Tiny(diffusers.StableDiffusionPipeline):
        def encode_prompt(self, *args, **kwargs):
            return torch.zeros(1, 4, 8), torch.zeros(1, 4, 8)

    page = (GENERATED.parent / "docs" / "hosts.md").read_text()
    first, second, *_ = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    (tmp_path / "vp_dpmpp_2m.py").write_text(attach((GENERATED / "vp_dpmpp_2m.py").read_text(), "diffusers"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    tiny = stable_diffusion(diffusers.DDIMScheduler(**SD, clip_sample=False), Tiny)
    monkeypatch.setattr(diffusers.StableDiffusionPipeline, "from_pretrained", lambda path: tiny)
    monkeypatch.delitem(sys.modules, "vp_dpmpp_2m", raising=False)  # of another file of tests in this process
    space = {}
    exec(first, space)
    del sys.modules["vp_dpmpp_2m"]
    assert type(space["pipeline"].scheduler).__module__ == "vp_dpmpp_2m" and space["image"].size[0] > 0
    saved = tmp_path / "with-my-sampler" / "scheduler" / "vp_dpmpp_2m.py"
    assert saved.read_text() == (tmp_path / "vp_dpmpp_2m.py").read_text()
    exec(second, space)
    assert len(space["pipeline"].scheduler.timesteps) == 10 == space["tuned"].record["nfe"]


def test_a_copy_runs_apart_and_a_second_run_is_the_first(host):
    x = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1))
    scheduler = host("psld_sscs").Scheduler(**SD)
    first = drive(scheduler, x, num_inference_steps=4)
    twin = copy.deepcopy(scheduler)
    assert torch.equal(drive(twin, x, num_inference_steps=4), first)
    assert torch.equal(drive(scheduler, x, num_inference_steps=4), first)
    assert not torch.equal(drive(scheduler, x, seed=1, num_inference_steps=4), first)


def test_half_precision_latents_are_stepped_in_float32_and_learned_variances_are_dropped(host):
    x = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1)).half()
    double = lambda x, t: torch.cat((toy(x, t), torch.full_like(x, torch.nan)), dim=1)  # noqa: E731
    result = drive(host("vp_dpmpp_2m").Scheduler(**SD), x, net=double, num_inference_steps=5)
    assert result.dtype == torch.float16 and result.shape == SHAPE
    assert distance(result.float(), drive(host("vp_dpmpp_2m").Scheduler(**SD), x.float(), num_inference_steps=5)) < 2e-2


def test_a_run_reads_nothing_back_from_the_device(host, fake_cuda):
    for name in ("vp_unipc_3", "psld_rvv2", "vp_sde_dpmpp_2m"):
        scheduler = host(name).Scheduler(**SD)
        scheduler.set_timesteps(4)
        scheduler.set_begin_index(0)
        calls = len(scheduler.timesteps)
        with fake_cuda.guard():
            x, t = torch.empty(SHAPE, device="cuda"), torch.empty((), device="cuda")
            for _ in range(calls):
                x = scheduler.step(x * 0.5, t, x, return_dict=False)[0]
            assert x.device.type == "cuda" and x.dtype == torch.float32


def test_a_baked_module_runs_on_its_own_grid(host):
    """What a module that keeps the contract with TIMES as literals does: another grid is refused by its coefficients."""
    scheduler = host("psld_rvv2").Scheduler(**SD)
    x = torch.randn(SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    free = drive(scheduler, x, num_inference_steps=6)
    times = f"TIMES = {tuple(scheduler._times.tolist())}\n"
    text = (GENERATED / "psld_rvv2.py").read_text().replace("START, END =", f"{times}START, END =")
    own = ss.load(attach(text, "diffusers")).Scheduler(**SD)
    assert distance(drive(own, x, num_inference_steps=6), free) < 1e-5  # its timesteps are not rounded
    assert torch.allclose(own.timesteps.double(), scheduler.timesteps.double())
    with pytest.raises(ValueError, match="psld rvv2 is baked for 5 steps, 6 with the mean"):
        own.set_timesteps(20)


def test_a_sampler_that_is_tuned_to_a_pipelines_network_and_its_guidance_runs_in_the_pipeline(few_candidates, tmp_path):
    """The file of `tune` takes the steps of its module from the pipeline's latents, at the guidance that it was tuned for."""
    pipeline, steps = stable_diffusion(diffusers.DDIMScheduler(**SD, clip_sample=False)), 6
    own, none = torch.randn(2, 1, 4, 8, generator=torch.Generator().manual_seed(5))
    network = ss.networks.diffusers(pipeline.unet, pipeline.scheduler, {"encoder_hidden_states": own})
    network = ss.networks.guided(network, 3.0, {"encoder_hidden_states": none})
    tuned = ss.tune("vp", network, steps, seeds="0-7", teacher=40)
    assert tuned.record["held_out"]["pooled"] <= tuned.record["baseline"]["pooled"]
    module = ss.load(tuned.write(tmp_path, dialect="diffusers"))
    pipeline.scheduler = module.Scheduler.from_config(pipeline.scheduler.config)
    result = drawn(pipeline, steps=steps)
    assert len(pipeline.scheduler.timesteps) == steps == module.nfe(steps)
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    assert distance(result, ss.sample(tuned.module, network, None, [0], start=latents)) < 3e-5


@pytest.mark.parametrize("name", ["vp_dpmpp_2m", "vp_sde_dpmpp_2m"])
def test_sample_from_a_unit_start_and_a_generator_is_the_pipeline(name, host):
    scheduler = host(name).Scheduler(**SD)
    pipeline = stable_diffusion(scheduler)
    own, none = torch.randn(2, 1, 4, 8, generator=torch.Generator().manual_seed(5))
    network = ss.networks.diffusers(pipeline.unet, scheduler, {"encoder_hidden_states": own})
    network = ss.networks.guided(network, 3.0, {"encoder_hidden_states": none})
    expected, grid = drawn(pipeline), ss.TimeGrid.explicit(scheduler._times)
    given = {"start": "unit", "last": "denoise", "generator": torch.Generator().manual_seed(0)}
    assert distance(ss.sample(name, network, grid, [0], **given), expected) < 3e-5


def test_what_does_not_fit_is_told(host):
    make = host("vp_dpmpp_2m").Scheduler
    further = r"effective sigma of vp ends at 152\.167, and the noise levels begin at 157\.407: give params .* of vp, or begin"
    with pytest.raises(ValueError, match=further) as told:
        make().set_timesteps(10)
    make(**eval(re.search(r"Scheduler\((params=.*?)\)", str(told.value))[1].join(("dict(", ")")))).set_timesteps(10)
    with pytest.raises(ValueError, match="and the noise levels begin at pure noise: take a module of rectified-flow"):
        host("vp_ddim").Scheduler(prediction_type="flow_prediction").set_timesteps(10)
    for count in (None, 0, -3, 10.0, "10"):
        with pytest.raises(ValueError, match=f"{count!r} is no num_inference_steps: give a whole number from 1 on"):
            make(**SD).set_timesteps(count)
    with pytest.raises(ValueError, match="vp dpmpp-2m has no parameter Gamma, x: give one of beta_min, beta_max"):
        make.from_config(make().config, params={"beta_max": 25, "x": 3, "Gamma": 1})
    with pytest.raises(ValueError, match="noise levels must decrease to a positive one, and"):
        make(**SD).set_timesteps(timesteps=[10, 20])
    with pytest.raises(ValueError, match="prediction_type 'noise' is not known"):
        make(prediction_type="noise")
    with pytest.raises(ValueError, match="EDM's preconditioning"):
        make.from_config(diffusers.EDMEulerScheduler().config)
    with pytest.raises(ValueError, match="call set_timesteps before step"):
        make(**SD).step(torch.zeros(SHAPE), 0, torch.zeros(SHAPE))
    for name, fix in (("vp_heun", "begin at a multiple of order, 2"), ("vp_dpmpp_3m_corrected", "take another sampler")):
        scheduler = host(name).Scheduler(**SD)
        scheduler.set_timesteps(5)
        scheduler.set_begin_index(3)
        with pytest.raises(ValueError, match=f"would not ask for the timesteps from index 3 on: {fix}"):
            scheduler.step(torch.zeros(SHAPE), scheduler.timesteps[3], torch.zeros(SHAPE))


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("psld_conjugate_eps_l", "calls eps-L"),
        ("ir_sde_conjugate", "constant components"),
        ("edm_dpmpp_2m_edm", "calls edm"),
    ],
)
def test_a_module_that_a_host_cannot_feed_is_refused(name, why):
    with pytest.raises(Unsupported, match=why):
        attach((GENERATED / f"{name}.py").read_text(), "diffusers")
