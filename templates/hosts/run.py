"""What every host needs of a step module: its steps in their order, what they ask of the network, the times of noise levels."""

import math

import torch

from stepsmith.generated.vp_dpmpp_2m import (
    COMPONENTS,
    DRAWS,
    END,
    HISTORY,
    SDE,
    START,
    coefficients,
    denoise,
    start,
    step,
)

PURE = 1e6  # the effective sigma that stands for an infinite one


def steps_of(rows):
    """The step function of every row and how many normals it draws; the first and the last row may have their own."""
    own, chosen = globals(), [(step, DRAWS)] * len(rows)
    for at, end in ((-1, "last"), (0, "first")):
        if chosen and f"step_{end}" in own:
            chosen[at] = own[f"step_{end}"], own[f"DRAWS_{end.upper()}"]
    return chosen


def end_of(rows, sigma):
    """`denoise` behind the last row; where there is no row the state is the network's input, at this effective sigma."""
    if rows:
        return lambda state, network: denoise(state, rows[-1], network)
    return lambda state, network: network(state[:1], sigma)


def calls_of(rows, sigma):
    """What the network is asked: (row, effective sigma, weights of the state in its input), that at the end last."""
    found, n = [], len(COMPONENTS)
    state, zero = torch.eye(n, dtype=torch.float64).unbind(), torch.zeros(n, dtype=torch.float64)

    def network(inputs, at):
        found.append((row, float(at), inputs[0]))
        return (zero,)

    for row, (run, draws) in enumerate(steps_of(rows)):
        run(state, rows[row], network, (zero,) * draws, (zero,) * HISTORY)
    row = len(rows)
    end_of(rows, sigma)(state, network)
    return found


def gain(time, weights, params):
    """By how much the state at `time` changes when the network's input w z, w the weights, is known to be larger by 1.

    With Sigma the covariance at that time: Sigma w^T/(w Sigma w^T), as in the conditional mean of z given w z.
    """
    if len(weights) == 1:
        return [1 / float(weights)]
    L = start(time, **params)
    pull = weights @ L
    return (L @ pull / (pull @ pull)).tolist()


def sigmas_at(times, params):
    """The effective sigma, sigma/alpha, at decreasing times but the first: what `denoise` asks for behind each row."""
    found, zero = [], torch.zeros(len(times) - 1, dtype=torch.float64)

    def network(inputs, sigma):
        found.append(sigma + zero)
        return inputs

    denoise((zero,) * len(COMPONENTS), coefficients(times, **params).unbind(1), network)
    return found[0]


def knots(high, low, params):
    """(times from START + high down to START + low, their effective sigmas)."""
    reach = high * (low / high) ** torch.linspace(0, 1, 200, dtype=torch.float64)
    times = START + torch.cat((reach[:1], reach[:1] * (1 - 1e-13), reach[1:]))
    return times[1:], sigmas_at(times, params)


def spanning(most, least, params):
    """Knots between effective sigmas; beyond END where the module goes on, and to where it ends for an infinite one."""
    high, low = END - START, 1e-6 * (END - START)
    times, found = knots(high, low, params)
    while found[0] < min(most, PURE) * (1 - 1e-6):
        high *= 2
        try:
            times, found = knots(high, low, params)
        except ValueError as refused:
            if most == math.inf and found[0] > 500:
                break
            what = f"the effective sigma of {SDE} ends at {found[0]:.6g}, and {most:.6g} is asked for"
            raise ValueError(f"{what}: take a diffusion that goes on, or other parameters") from refused
    while found[-1] > least:
        low /= 10
        if low < 1e-13 * high:
            raise ValueError(f"the effective sigma of {SDE} is never as small as {least:.6g}: end earlier")
        times, found = knots(high, low, params)
    return times, found


def times_at(sigmas, params):
    """(times, effective sigmas): where the effective sigma has some decreasing values, by interpolation in logarithms.

    The first value may be infinite, the pure noise of a flow: it stands for PURE, or for END where the module ends before.
    Raises ValueError where the diffusion does not reach a value.
    """
    goal = torch.as_tensor(sigmas, dtype=torch.float64)
    if not ((goal.diff() < 0).all() and goal[-1] > 0):
        raise ValueError(f"the noise levels must decrease strictly and be positive: {goal.tolist()}")
    times, found = spanning(float(goal[0]), float(goal[-1]), params)
    goal = goal.nan_to_num(posinf=PURE).clamp(max=float(found[0]))
    head = times[:1] + (times[:1] - START) * 1e-13
    best, last = None, math.inf
    while True:
        x, y = found.log().flip(0), (times - START).log().flip(0)
        i = torch.searchsorted(x, goal.log()).clamp(1, len(x) - 1)
        share = ((goal.log() - x[i - 1]) / (x[i] - x[i - 1]).clamp_min(1e-300)).clamp(0, 1)
        t = START + (y[i - 1] + share * (y[i] - y[i - 1])).exp().clamp_max(float(times[0] - START))
        sigma = sigmas_at(torch.cat((head, t)), params)
        gap = float((sigma / goal - 1).abs().max())
        if not gap < last / 2:
            return best, goal.tolist()
        best, last = t, gap
        times, order = torch.cat((times, t)).sort(descending=True, stable=True)
        found = torch.cat((found, sigma))[order]
