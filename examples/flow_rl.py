"""Reinforcement learning on a rectified flow: a stochastic sampler with exact densities, a reward, fifty updates on a CPU.

    python examples/flow_rl.py [--updates 50]

The model is the exact velocity of a mixture in the plane and a small network that starts at zero; the reward is the share of
samples near one of its modes.  `ddim-eta` on `rectified-flow` draws its noise after its only network call, with marginals that
are those of the flow at any eta, so a run has the density prod_k p(z_k+1 | z_k); REINFORCE follows its gradient.
"""

import argparse

import torch

import stepsmith as ss
from stepsmith.measure.problems import GaussianMixture

MIXTURE = GaussianMixture([0.5, 0.5], [[1.0, 0.0], [-1.0, 0.0]], [0.2, 0.2])
WANTED = torch.tensor([1.0, 0.0])
BATCH, STEPS, ETA = 256, 10, 1.0


def velocity(policy, x, t):
    """n = (x - E[x0 | x])/t, and what the policy adds."""
    data = MIXTURE.denoiser((x / (1 - t)).double(), torch.tensor(t / (1 - t))).float()
    return (x - data) / t + policy(torch.cat((x, x.new_full((len(x), 1), t)), 1))


def learned(policy, module, table, updates, seed=0):
    """The reward of every update: the mean of exp(-|x - WANTED|^2)."""
    generator = torch.Generator().manual_seed(seed)
    draw = lambda: torch.randn(BATCH, 2, generator=generator)  # noqa: E731
    network = lambda inputs, time: (velocity(policy, inputs[0], float(time)),)  # noqa: E731
    optimizer, rewards = torch.optim.Adam(policy.parameters(), 3e-3), []
    for _ in range(updates):
        states = [(draw(),)]
        with torch.no_grad():
            for row in table:
                states.append(ss.transition(module, row, states[-1], network).draw((draw(),)))
        reward = torch.exp(-(states[-1][0] - WANTED).square().sum(1))
        rewards.append(reward.mean().item())
        better = (reward - reward.mean()) / reward.std()
        optimizer.zero_grad()
        for row, before, after in zip(table, states, states[1:], strict=False):
            (-better * ss.transition(module, row, before, network).log_prob(after)).mean().backward()
        optimizer.step()
    return rewards


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--updates", type=int, default=50)
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    policy = torch.nn.Sequential(torch.nn.Linear(3, 32), torch.nn.SiLU(), torch.nn.Linear(32, 2))
    torch.nn.init.zeros_(policy[2].weight)
    torch.nn.init.zeros_(policy[2].bias)
    module = ss.load(ss.emit(ss.derive("rectified-flow", "ddim-eta", "flow")))
    table = module.coefficients(torch.linspace(0.98, 0.02, STEPS + 1, dtype=torch.float64), eta=ETA)
    rewards = learned(policy, module, table, given.updates)
    first, last = (sum(part) / len(part) for part in (rewards[:5], rewards[-5:]))
    print(f"reward {first:.3f} in the first five updates, {last:.3f} in the last five of {given.updates}")


if __name__ == "__main__":
    main()
