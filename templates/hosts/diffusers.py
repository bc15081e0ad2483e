"""The step module as a scheduler of diffusers."""

import linecache
from pathlib import Path

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.schedulers.scheduling_ddim import DDIMSchedulerOutput
from diffusers.schedulers.scheduling_utils import KarrasDiffusionSchedulers, SchedulerMixin

from stepsmith.generated.vp_dpmpp_2m import NFE, PARAMS, SAMPLER, SDE
from stepsmith.templates.hosts.replay import Replay
from stepsmith.templates.hosts.run import BAKED, Run, grid_of
from stepsmith.templates.hosts.trained import Discrete, Flow

FURTHER = "give params with which it goes further, such as Scheduler(params={'beta_max': 20.2}) of vp"


class Scheduler(SchedulerMixin, ConfigMixin):
    """The sampler of this module in a pipeline of diffusers: `Scheduler.from_config(pipeline.scheduler.config)`.

    The pipeline's network is of one of two kinds; x are the latents and s = sigma/alpha the effective sigma:
        variance-preserving  x = (data + s eps)/sqrt(1 + s^2),  prediction_type epsilon, v_prediction or sample
        flow                 x = (1 - t) data + t eps,  s = t/(1 - t),  prediction_type flow_prediction
    The steps take the denoiser D that its output means, and run in x/alpha and in what else their diffusion has, which stays
    inside.  A run starts from the latents, N(0, 1).  Every prev_sample is the next input of the network, the last one the data.
    What a pipeline changes in the latents between two calls (inpainting) is put into the state.

    A step may call the network more than once, or not at all: `timesteps` are those that it is asked for, `order` the
    calls a step.  final_sigmas_type "zero" ends with the mean of the data, "sigma_min" at the smallest sigma of the training.
    `params` are the module's own parameters.  Other arguments as in DPMSolverMultistepScheduler and
    FlowMatchEulerDiscreteScheduler.  A module that is baked runs on its own grid: ask for as many steps as it has, or
    for one more, which is the mean of the data behind them.
    """

    _compatibles = [*(each.name for each in KarrasDiffusionSchedulers), "FlowMatchEulerDiscreteScheduler"]  # noqa: RUF012
    order = NFE
    init_noise_sigma = 1.0

    @register_to_config
    def __init__(
        self,
        num_train_timesteps=1000,
        beta_start=0.0001,
        beta_end=0.02,
        beta_schedule="linear",
        trained_betas=None,
        rescale_betas_zero_snr=False,
        prediction_type="epsilon",
        timestep_spacing="linspace",
        steps_offset=0,
        use_karras_sigmas=False,
        final_sigmas_type="zero",
        use_flow_sigmas=False,
        flow_shift=1.0,
        shift=1.0,
        use_dynamic_shifting=False,
        base_shift=0.5,
        max_shift=1.15,
        base_image_seq_len=256,
        max_image_seq_len=4096,
        time_shift_type="exponential",
        shift_terminal=None,
        params=None,
    ):
        kinds = ("epsilon", "v_prediction", "sample", "flow_prediction")
        if prediction_type not in kinds:
            raise ValueError(f"prediction_type {prediction_type!r} is not known: give {', '.join(kinds)}")
        if final_sigmas_type not in ("zero", "sigma_min"):
            raise ValueError(f"final_sigmas_type {final_sigmas_type!r} is not known: give zero or sigma_min")
        if unknown := set(params or {}) - set(PARAMS):
            known = f"give one of {', '.join(PARAMS)}" if PARAMS else "leave params out"
            raise ValueError(f"{SDE} {SAMPLER} has no parameter {', '.join(sorted(unknown))}: {known}")
        self.trained = (Flow if prediction_type == "flow_prediction" else Discrete)(self.config)
        self.alphas_cumprod = self.trained.alphas_cumprod
        self.timesteps = torch.arange(num_train_timesteps - 1, -1, -1)
        self.num_inference_steps = self._run = self._begin_index = self._step_index = None

    @classmethod
    def from_config(cls, config=None, return_unused_kwargs=False, **kwargs):
        """A scheduler from another's configuration; that of a flow has a shift and no prediction type.

        ValueError for that of a network with EDM's preconditioning, whose inputs and outputs are scaled otherwise.
        """
        if config is not None and "sigma_data" in config:
            raise ValueError("a network with EDM's preconditioning (sigma_data) is a denoiser: use the dialect k-diffusion")
        if config is not None and "shift" in config and "prediction_type" not in config:
            kwargs.setdefault("prediction_type", "flow_prediction")
        return super().from_config(config, return_unused_kwargs, **kwargs)

    @property
    def step_index(self):
        """Which of `timesteps` is next; None before the first step."""
        return self._step_index

    @property
    def begin_index(self):
        """Which of `timesteps` is the first; None where the pipeline did not say."""
        return self._begin_index

    def set_begin_index(self, begin_index=0):
        """Start at this index of `timesteps`, a multiple of `order`: the latents are then those of that noise level."""
        self._begin_index = begin_index

    def set_timesteps(self, num_inference_steps=None, device=None, sigmas=None, mu=None, timesteps=None):
        """The noise levels of a run, and all coefficients, on the host.

        `sigmas` (VP: sqrt(1 - a)/sqrt(a), a = alphas_cumprod; flow: t before its shift) or `timesteps` are taken as they
        are; a last sigma of 0 is the end.  `mu` is the shift of a resolution.  ValueError for levels that do not decrease, and
        for those that the diffusion of the module does not reach.
        """
        count = num_inference_steps
        if sigmas is None and timesteps is None and not (hasattr(count, "__index__") and count >= 1):
            raise ValueError(f"{count!r} is no num_inference_steps: give a whole number from 1 on, or sigmas or timesteps")
        if sigmas is not None and float(sigmas[-1]) == 0:
            sigmas = sigmas[:-1]
        levels, stamps = self.trained.levels(count, sigmas, timesteps, mu)
        self.num_inference_steps = len(levels)
        mean = self.config.final_sigmas_type == "zero" if BAKED is None else len(levels) == len(BAKED)
        if not mean and (BAKED or levels[-1] > self.trained.least * (1 + 1e-9)):
            levels.append(self.trained.least)
        self._mean = mean
        self._times, self._levels = grid_of(levels, self.config.params or {}, FURTHER)
        self._run = self._replay(0)
        self._asked = [(sigma, self._stamp(sigma, stamps)) for _, sigma, _ in self._run.calls]
        stamps = [stamp for _, stamp in self._asked][: None if mean else -1]
        whole = all(isinstance(stamp, int) for stamp in stamps)
        self.timesteps = torch.tensor(stamps, dtype=torch.int64 if whole else torch.float32).to(device)
        sigmas = [self.trained.host_sigma(*asked) for asked in self._asked] + [0.0] * mean
        self.sigmas = torch.tensor(sigmas, dtype=torch.float32)
        self._begin_index = self._step_index = None

    def _replay(self, first):
        """The run from a level on."""
        return Replay(Run(self._times[first:], self._levels[first:], self._mean, self.config.params or {}))

    def _stamp(self, sigma, stamps):
        """The timestep of an effective sigma, that of the level where it is one."""
        own = () if BAKED else zip(self._levels, stamps, strict=False)
        return next((stamp for level, stamp in own if abs(sigma / level - 1) < 1e-9), self.trained.timestep(sigma))

    def scale_model_input(self, sample, timestep=None):
        """The sample: every prev_sample is an input of the network."""
        return sample

    def step(self, model_output, timestep, sample, generator=None, return_dict=True):
        """From the network's output at `sample` to its next input, or to the data.

        With `generator` for what is drawn: noise, and at the first step the blocks beside the data.  Computed in float32 at
        least.  pred_original_sample is the denoiser D.
        """
        if self._run is None:
            raise ValueError("call set_timesteps before step")
        x = sample.to(torch.promote_types(sample.dtype, torch.float32))
        if first := self._step_index is None:
            self._begin(timestep, x, generator)
        if self._step_index == len(self.timesteps):
            raise ValueError("every timestep is done: call set_timesteps before another run")
        run, (sigma, stamp) = self._run, self._asked[self._step_index]
        run.generator = generator
        alpha = self.trained.alpha(sigma)
        if first:
            run.put(x / alpha - run.y)
        elif sample is not self._given or sample._version != self._version:
            run.put((sample - self._next(sample.dtype)).to(x.dtype) / alpha)
        if model_output.shape[1] == 2 * sample.shape[1]:
            model_output = model_output[:, : sample.shape[1]]  # the rest is a learned variance
        p, q = self.trained.denoiser(sigma, stamp)
        denoised = p * x + q * model_output.to(x.dtype)
        run.send(denoised)
        self._step_index += 1
        self._given = self._next(sample.dtype)
        self._version = self._given._version
        if not return_dict:
            return (self._given, denoised)
        return DDIMSchedulerOutput(prev_sample=self._given, pred_original_sample=denoised)

    def _next(self, dtype):
        """The next input of the network, or the data."""
        left = self._asked[self._step_index :]
        return ((self.trained.alpha(left[0][0]) if left else 1.0) * self._run.y).to(dtype)

    def _begin(self, timestep, like, generator):
        """Set up the run from its first timestep on; which one that is is read from the device where the pipeline did not say."""
        index = self._begin_index
        if index is None:
            at = float(timestep)
            index = min(range(len(self.timesteps)), key=lambda k: (abs(self._asked[k][1] - at) > 1e-3, k % self.order))
        if index:
            sigma = self._asked[index][0]
            k = next((k for k, level in enumerate(self._levels) if abs(sigma / level - 1) < 1e-9), None)
            rest = None if k is None else self._replay(k)
            if rest is None or len(rest.calls) != len(self._asked) - index:
                fix = f"begin at a multiple of order, {self.order}" if self.order > 1 else "take another sampler"
                raise ValueError(f"a run would not ask for the timesteps from index {index} on: {fix}")
            self._run = rest
        self._step_index = index
        self._run.begin(like, generator)

    def add_noise(self, original_samples, noise, timesteps):
        """The data with the noise of some timesteps, a sample each."""
        factors = self.trained.mix(timesteps, original_samples)
        data, sigma = (factor.reshape(-1, *[1] * (noise.ndim - 1)) for factor in factors)
        return (data * original_samples + sigma * noise).to(original_samples.dtype)

    def scale_noise(self, sample, timestep, noise):
        """As add_noise, as pipelines of flow models call it."""
        return self.add_noise(sample, noise, timestep)

    def save_pretrained(self, save_directory, push_to_hub=False, **kwargs):
        """The configuration, and beside it this file, so that `from_pretrained(..., trust_remote_code=True)` needs no other."""
        super().save_pretrained(save_directory, push_to_hub=push_to_hub, **kwargs)
        Path(save_directory, f"{__name__.rpartition('.')[2]}.py").write_text("".join(linecache.getlines(__file__)))

    def __len__(self):
        return self.config.num_train_timesteps
