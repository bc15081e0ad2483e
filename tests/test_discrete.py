"""Networks of discrete noise levels: the denoiser that each prediction means, and whole models of diffusers in `ss.sample`."""

import pytest
import torch

import stepsmith as ss
from stepsmith.errors import InputError

BAR = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)
SIGMAS = ((1 - BAR) / BAR).sqrt()


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("k", [0, 3, 500, 999])
def test_each_prediction_means_the_data_that_it_was_made_of(prediction, k):
    data, noise, seen = torch.randn(2, 3, 4, 4).double(), torch.randn(2, 3, 4, 4).double(), []
    a, s = BAR[k].sqrt(), (1 - BAR[k]).sqrt()
    answer = {"epsilon": noise, "v_prediction": a * noise - s * data, "sample": data}[prediction]

    def fn(x, index):
        seen.append((x, index))
        return torch.cat((answer, torch.full_like(answer, 7.0)), 1)  # a learned variance behind it

    network = ss.networks.discrete(fn, BAR, (3, 4, 4), prediction, dtype=torch.float64)
    (found,) = network((data + SIGMAS[k] * noise,), SIGMAS[k])
    assert torch.allclose(found, data, rtol=1e-9, atol=1e-9)
    assert torch.allclose(seen[0][0], a * data + s * noise, rtol=1e-12) and seen[0][1].tolist() == pytest.approx([k, k], abs=1e-6)


def test_an_index_lies_between_levels_or_is_the_nearest():
    seen = []
    fn = lambda x, k: seen.append(k) or x  # noqa: E731
    between = (SIGMAS[10] * SIGMAS[11]).sqrt()
    for whole in (False, True):
        ss.networks.discrete(fn, BAR, (1, 2, 2), whole=whole)((torch.zeros(1, 1, 2, 2),), between * 1.001)
    assert seen[0].item() == pytest.approx(10.5, abs=0.05) and seen[1].item() == 11 and seen[1].dtype == torch.int64


@pytest.mark.parametrize(
    ("bar", "prediction", "what"),
    [(BAR, "flow", "no prediction"), (BAR.flip(0), "epsilon", "does not fall"), (BAR[:1], "epsilon", "does not fall")],
)
def test_what_is_no_such_network_is_refused(bar, prediction, what):
    with pytest.raises(InputError, match=what):
        ss.networks.discrete(lambda x, k: x, bar, (1, 2, 2), prediction)


def test_a_unet_with_conditions_and_guidance_samples_as_its_pipeline_does():
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    unet = diffusers.UNet2DConditionModel(
        sample_size=8, in_channels=4, out_channels=4, layers_per_block=1, block_out_channels=(32, 32), cross_attention_dim=16,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    ).eval()  # fmt: skip
    peer = diffusers.DDIMScheduler(timestep_spacing="trailing", set_alpha_to_one=False, clip_sample=False)
    peer.set_timesteps(8)
    words, latents = torch.randn(2, 5, 16), torch.randn(2, 4, 8, 8)
    x = latents
    with torch.no_grad():
        for t in peer.timesteps[:-1]:
            none, own = (unet(x, t, encoder_hidden_states=w, return_dict=False)[0] for w in (torch.zeros_like(words), words))
            x = peer.step(none + 3.0 * (own - none), t, x, return_dict=False)[0]
    network = ss.networks.diffusers(unet, peer)
    assert network.shape == (4, 8, 8) and network.name == "UNet2DConditionModel"
    network = ss.networks.guided(network, 3.0, {"encoder_hidden_states": torch.zeros(1, 5, 16)})
    sigmas = ((1 - peer.alphas_cumprod) / peer.alphas_cumprod).sqrt().double()[peer.timesteps]
    spec = {"name": "wide", "state": ["x"], "alpha": "1/sqrt(1 + t^2)", "sigma": "t/sqrt(1 + t^2)", "time": [0, 200]}
    sde = ss.load_sde({"sde": spec})
    module = ss.load(ss.emit(ss.derive(sde, "ddim"), certified=False))
    found = ss.sample(
        module, network, ss.TimeGrid.sigmas(sde, sigmas), range(2), start=latents, cond={"encoder_hidden_states": words}
    )
    assert (found - x).abs().max() < 2e-4 * x.abs().max()


def test_a_flow_model_is_asked_at_its_timesteps():
    diffusers = pytest.importorskip("diffusers")
    seen = []

    class Model(torch.nn.Module):
        config = type("Config", (), {"sample_size": (4, 6), "in_channels": 2})

        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(1))

        def forward(self, x, k, return_dict):
            seen.append(k)
            return (0.5 * x,)

    network = ss.networks.diffusers(Model(), diffusers.FlowMatchEulerDiscreteScheduler())
    y, t = torch.randn(3, 2, 4, 6), 0.8
    (found,) = network((y,), torch.tensor(t / (1 - t), dtype=torch.float64))
    assert network.shape == (2, 4, 6) and seen[0].tolist() == pytest.approx([800.0] * 3)
    assert torch.allclose(found, (1 - t) * y * (1 - t * 0.5), rtol=1e-5)


TINY = {"block_out_channels": (8, 16), "norm_num_groups": 4, "layers_per_block": 1, "attention_head_dim": 4, "sample_size": 8}


@pytest.mark.parametrize("kind", ["classes", "texts"])
def test_conditions_go_with_their_samples_whatever_the_batch(kind):
    """A class of its own, or a text with what Stable Diffusion XL adds to it."""
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    if kind == "classes":
        blocks = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
        unet = diffusers.UNet2DModel(**TINY, **blocks, in_channels=1, out_channels=2, num_class_embeds=3)
        cond = {"class_labels": torch.tensor([0, 1, 2])}
    else:
        blocks = {"down_block_types": ("CrossAttnDownBlock2D",) * 2, "up_block_types": ("CrossAttnUpBlock2D",) * 2}
        added = {"addition_embed_type": "text_time", "addition_time_embed_dim": 4, "projection_class_embeddings_input_dim": 32}
        unet = diffusers.UNet2DConditionModel(
            **TINY, **blocks, **added, in_channels=1, out_channels=1, cross_attention_dim=8
        )
        sizes = {"encoder_hidden_states": (3, 8), "text_embeds": (8,), "time_ids": (6,)}
        cond = {name: torch.rand(3, *size) for name, size in sizes.items()}
    grid = ss.TimeGrid.logsnr(ss.load_sde("vp"), 3, 0.7, 0.02)

    def run(seeds, cond, fixed=None, batch=None):
        network = ss.networks.diffusers(unet.eval(), diffusers.DDPMScheduler(), fixed)
        return ss.sample("vp_dpmpp_2m", network, grid, seeds, cond=cond, batch=batch)

    together, last = run(range(3), cond), {name: value[2:] for name, value in cond.items()}
    assert torch.allclose(run(range(3), cond, batch=1), together, atol=1e-4)
    fixed = run(range(3), {}, last)
    assert torch.allclose(fixed[2], together[2], atol=1e-4) and (fixed[:2] - together[:2]).abs().amax((1, 2, 3)).min() > 1e-3
