"""How the network of a pipeline was trained: noise levels, timesteps, and the denoiser that an output means."""

import itertools
import math

import torch


class Discrete:
    """x = (data + sigma eps)/sqrt(1 + sigma^2), at the sigmas of the timesteps of the training and between them."""

    def __init__(self, config):
        self.config = config
        n, first, last = config.num_train_timesteps, config.beta_start, config.beta_end
        if config.trained_betas is not None:
            betas = torch.tensor(config.trained_betas, dtype=torch.float32)
        elif config.beta_schedule == "linear":
            betas = torch.linspace(first, last, n, dtype=torch.float32)
        elif config.beta_schedule == "scaled_linear":
            betas = torch.linspace(first**0.5, last**0.5, n, dtype=torch.float32) ** 2
        elif config.beta_schedule == "squaredcos_cap_v2":
            bar = [math.cos((k / n + 0.008) / 1.008 * math.pi / 2) ** 2 for k in range(n + 1)]
            betas = torch.tensor([min(1 - b / a, 0.999) for a, b in itertools.pairwise(bar)])
        else:
            raise ValueError(f"beta_schedule {config.beta_schedule!r} is not known: give its betas as trained_betas")
        bar = torch.cumprod(1 - betas, dim=0)  # float32, as networks are trained
        if config.rescale_betas_zero_snr:
            root = bar.sqrt()
            bar = ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2
            bar[-1] = 2**-24
        self.alphas_cumprod = bar
        self.sigmas = ((1 - bar.double()) / bar.double()).sqrt()
        self.logs = self.sigmas.log()

    def levels(self, count, sigmas, timesteps, mu):
        """(effective sigmas, timesteps) of a run, those that are given as they are."""
        if sigmas is not None:
            sigmas = torch.as_tensor(sigmas, dtype=torch.float64)
        elif timesteps is not None:
            timesteps = torch.as_tensor(timesteps, dtype=torch.float64)
        else:
            timesteps = self._spaced(count)
        if sigmas is None:
            sigmas = self._between(timesteps, self.logs).exp()
            if self.config.use_karras_sigmas:
                root = self.sigmas[[-1, 0]] ** (1 / 7)
                sigmas = (root[0] + torch.linspace(0, 1, len(sigmas), dtype=torch.float64) * (root[1] - root[0])) ** 7
        return sigmas.tolist(), [self.timestep(sigma) for sigma in sigmas.tolist()]

    def _spaced(self, count):
        """The timesteps of DPMSolverMultistepScheduler."""
        n, spacing = self.config.num_train_timesteps, self.config.timestep_spacing
        if spacing == "linspace":
            return torch.linspace(0, n - 1, count + 1, dtype=torch.float64).round().flip(0)[:-1]
        if spacing == "leading":
            return torch.arange(count, 0, -1, dtype=torch.float64) * (n // (count + 1)) + self.config.steps_offset
        if spacing == "trailing":
            return (n - torch.arange(count, dtype=torch.float64) * (n / count)).round() - 1
        raise ValueError(f"timestep_spacing {spacing!r} is not known: give linspace, leading or trailing")

    def _between(self, timesteps, logs):
        low = timesteps.floor().clamp(0, len(logs) - 2)
        return torch.lerp(logs[low.long()], logs[low.long() + 1], (timesteps - low).clamp(0, 1).to(logs.dtype))

    def timestep(self, sigma):
        """Where log sigma is, linear between timesteps; whole where it is that of a timestep."""
        goal = math.log(sigma)
        i = int(torch.searchsorted(self.logs, goal).clamp(1, len(self.logs) - 1))
        share = float((goal - self.logs[i - 1]) / (self.logs[i] - self.logs[i - 1]))
        at = i - 1 + min(max(share, 0.0), 1.0)
        return round(at) if abs(at - round(at)) < 1e-4 else at

    @property
    def least(self):
        """The smallest sigma."""
        return float(self.sigmas[0])

    def alpha(self, sigma):
        """The factor of the data in x."""
        return 1 / math.sqrt(1 + sigma**2)

    def denoiser(self, sigma, timestep):
        """(p, q) with D = p x + q output."""
        alpha = self.alpha(sigma)
        kinds = {"epsilon": (1 / alpha, -sigma), "sample": (0.0, 1.0), "v_prediction": (alpha, -sigma * alpha)}
        return kinds[self.config.prediction_type]

    def host_sigma(self, sigma, timestep):
        """The pipeline's own sigma."""
        return sigma

    def mix(self, timesteps, like):
        """What multiplies data and noise in x."""
        logs = self.logs.float().to(like.device)
        sigma = self._between(timesteps.float().to(like.device), logs).exp()
        return (1 + sigma**2).rsqrt(), sigma * (1 + sigma**2).rsqrt()


class Flow:
    """x = (1 - t) data + t eps, the timestep num_train_timesteps t; its effective sigma is t/(1 - t)."""

    def __init__(self, config):
        self.config, self.alphas_cumprod = config, None
        self.shift = config.flow_shift if config.use_flow_sigmas else config.shift
        self.least = 1 / (config.num_train_timesteps - 1)

    def levels(self, count, sigmas, timesteps, mu):
        """(effective sigmas, timesteps) of a run; values of t are shifted, as FlowMatchEulerDiscreteScheduler does."""
        n = self.config.num_train_timesteps
        if self.config.use_dynamic_shifting and mu is None:
            raise ValueError("use_dynamic_shifting asks for mu, the shift of this resolution: set_timesteps(..., mu=mu)")
        if sigmas is None:
            sigmas = self._spaced(count, mu) if timesteps is None else torch.as_tensor(timesteps, dtype=torch.float64) / n
        t = self._shifted(torch.as_tensor(sigmas, dtype=torch.float64), mu)
        if self.config.shift_terminal:
            t = 1 - (1 - t) * (1 - self.config.shift_terminal) / (1 - t[-1])
        return (t / (1 - t)).tolist(), (n * t).tolist()

    def _spaced(self, count, mu):
        """Even values of t: those of UniPCMultistepScheduler, or of FlowMatchEulerDiscreteScheduler."""
        least = 1 / self.config.num_train_timesteps
        if self.config.use_flow_sigmas:
            return torch.linspace(1, least, count + 1, dtype=torch.float64)[:-1]
        end = least if self.config.use_dynamic_shifting else float(self._shifted(torch.tensor(least).double(), mu))
        return torch.linspace(1, end, count, dtype=torch.float64)

    def _shifted(self, t, mu):
        if not self.config.use_dynamic_shifting:
            return self.shift * t / (1 + (self.shift - 1) * t)
        factor = math.exp(mu) if self.config.time_shift_type == "exponential" else mu
        return factor / (factor + (1 / t - 1))

    def timestep(self, sigma):
        """num_train_timesteps t."""
        return self.config.num_train_timesteps * sigma / (1 + sigma)

    def alpha(self, sigma):
        """The factor of the data in x."""
        return 1 / (1 + sigma)

    def denoiser(self, sigma, timestep):
        """(p, q) with D = p x + q output."""
        return 1.0, -timestep / self.config.num_train_timesteps

    def host_sigma(self, sigma, timestep):
        """The pipeline's own sigma, t."""
        return timestep / self.config.num_train_timesteps

    def mix(self, timesteps, like):
        """What multiplies data and noise in x."""
        t = timesteps.float().to(like.device) / self.config.num_train_timesteps
        return 1 - t, t
