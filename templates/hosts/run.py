"""What every host needs of a step module: its steps in their order, what they ask of the network, the times of noise levels."""

import math

import torch

from stepsmith.generated.vp_dpmpp_2m import (
    COMPONENTS,
    DATA,
    DRAWS,
    END,
    HISTORY,
    SAMPLER,
    SDE,
    START,
    coefficients,
    denoise,
    start,
    step,
)

BAKED = globals().get("TIMES")  # of a module whose table is that of one grid
PURE = 1e6  # the effective sigma that stands for an infinite one
LOUD = 100.0  # the largest weight of a network's output in the data; bounded weights are of the order of 1


class Run:
    """The rows of a run through decreasing `times`, at effective `sigmas`, to the mean of the data behind them if `mean`.

    That mean is a step to sigma = 0: the last row knows that one more follows, but it is not taken from the table.  ValueError
    where the step out of pure noise does not bound what the network's error does to it.
    """

    def __init__(self, times, sigmas, mean, params):
        self.times, self.sigma, self.mean, self.params = times, sigmas[-1], mean, params
        behind = START + (times[-1:] - START) / 2
        more = mean and BAKED is None
        grid = torch.cat((times, behind)) if more else times
        self.rows = coefficients(grid, **params).tolist()[: len(times) - 1]
        self.steps = steps_of(len(grid) - 1)[: len(self.rows)]
        self.known = mean and more and len(self.rows) > 0 and globals().get("NFE_LAST") == 0
        if sigmas[0] > PURE / 2 and self.rows and (weight := self.weight()) > LOUD:
            what = f"out of pure noise a step of {SDE} {SAMPLER} multiplies the network's outputs by {weight:.0f}"
            raise ValueError(f"{what}: take another sampler, such as heun-drift or dpmpp-2m, or begin with less noise")

    def weight(self):
        """The sum of the absolute weights of the network's outputs in the data behind the first row."""
        run, draws = self.steps[0]
        outputs = torch.eye(16, dtype=torch.float64)  # one a call
        zero, known = torch.zeros_like(outputs[0]), iter(outputs)
        given = (zero,) * len(COMPONENTS), self.rows[0], lambda *_: (next(known),), (zero,) * draws, (zero,) * HISTORY
        return float(run(*given)[0][DATA].abs().sum())

    def end(self, state, history, network):
        """The mean of the data behind the last row: what the network said last, where the last step would ask for no more."""
        if self.known:
            return history[0]
        return denoise(state, self.rows[-1], network)[DATA] if self.rows else network(state[:1], self.sigma)[0]

    def calls(self):
        """What the network is asked: (row, effective sigma, weights of the state in its input)."""
        found, n = [], len(COMPONENTS)
        state, zero = torch.eye(n, dtype=torch.float64).unbind(), torch.zeros(n, dtype=torch.float64)

        def network(inputs, at):
            found.append((row, float(at), inputs[0]))
            return (zero,)

        for row, (run, draws) in enumerate(self.steps):
            run(state, self.rows[row], network, (zero,) * draws, (zero,) * HISTORY)
        row = len(self.rows)
        self.end(state, (zero,) * HISTORY, network)
        return found

    def gain(self, call):
        """By how much the state before a call's row changes when the network's input w z is known to be larger by 1.

        With Sigma the covariance at that time: Sigma w^T/(w Sigma w^T), as in the conditional mean of z given w z.
        """
        row, _, weights = call
        if len(weights) == 1:
            return [1 / float(weights)]
        L = start(float(self.times[row]), **self.params)
        pull = weights @ L
        return (L @ pull / (pull @ pull)).tolist()


def steps_of(count):
    """The step function of every row and how many normals it draws; the first and the last row may have their own."""
    own, chosen = globals(), [(step, DRAWS)] * count
    for at, end in ((-1, "last"), (0, "first")):
        if chosen and f"step_{end}" in own:
            chosen[at] = own[f"step_{end}"], own[f"DRAWS_{end.upper()}"]
    return chosen


def grid_of(sigmas, params, advice):
    """(times, effective sigmas) of a run: where the effective sigma is that of `sigmas`, or the grid that is baked.

    ValueError, with `advice` of the host, where the diffusion does not go as far as the first of them.
    """
    if BAKED is None:
        return times_at(sigmas, params, advice)
    if len(BAKED) != len(sigmas):
        what = f"{SDE} {SAMPLER} is baked for {len(BAKED) - 1} steps, {len(BAKED)} with the mean of the data at the end"
        raise ValueError(f"{what}: ask for as many")
    times = torch.tensor(BAKED, dtype=torch.float64)
    first = Run(times, [0.0], True, params).calls()[0][1]
    return times, [first, *sigmas_at(times, params).tolist()]


def sigmas_at(times, params):
    """The effective sigma, sigma/alpha, at decreasing times but the first: what `denoise` asks for behind each row."""
    found, zero = [], torch.zeros(len(times) - 1, dtype=torch.float64)

    def network(inputs, sigma):
        found.append(sigma + zero)
        return inputs

    denoise((zero,) * len(COMPONENTS), coefficients(times, **params).unbind(1), network)
    return found[0]


def knots(high, low, params):
    """(times from START + high down to START + low, even in the logarithm of the distance to either end, their effective
    sigmas)."""
    share = torch.linspace(0, 1, 200, dtype=torch.float64)
    near = high * (1 - 1e-12 ** share[1:150])  # 1 - alpha may be all that is left there
    reach = torch.cat((high * (low / high) ** share, near[near > low])).unique().flip(0)
    times = START + torch.cat((reach[:1], reach[:1] * (1 - 1e-13), reach[1:]))
    return times[1:], sigmas_at(times, params)


def spanning(most, least, params, advice):
    """Knots between effective sigmas; beyond END where the module goes on, and to where it ends for an infinite one."""
    high, low = END - START, 1e-6 * (END - START)
    try:
        times, found = knots(high, low, params)
    except ValueError:  # END itself may have no data in it
        high *= 1 - 1e-9
        times, found = knots(high, low, params)
    more, wanted = high, min(most, PURE) * (1 - 1e-6)
    while found[0] < wanted and more > 1e-9 * high:
        try:
            further = knots(high + more, low, params)
        except ValueError:
            further = (times, -found)
        if further[1][0] > found[0]:
            high, more, (times, found) = high + more, 2 * more, further
        else:  # beyond alpha = 0, or the end of the span
            more /= 4
    if found[0] < wanted and not (most == math.inf and found[0] > 500):
        begin = "pure noise" if most == math.inf else f"{most:.6g}"
        fix = "take a module of rectified-flow" if most == math.inf else advice
        what = f"the effective sigma of {SDE} ends at {found[0]:.6g}, and the noise levels begin at {begin}"
        raise ValueError(f"{what}: {fix}, or begin with less noise")
    while found[-1] > least:
        low /= 10
        if low < 1e-13 * high:
            raise ValueError(f"the effective sigma of {SDE} is never as small as {least:.6g}: end with a larger one")
        times, found = knots(high, low, params)
    return times, found


def times_at(sigmas, params, advice):
    """(times, effective sigmas): where the effective sigma has some decreasing values, by interpolation in logarithms.

    The first value may be infinite, the pure noise of a flow: it stands for PURE, or for END where the module ends before.
    Raises ValueError where the diffusion does not reach a value.
    """
    if not sigmas:
        raise ValueError("there are no noise levels: give one above 0 at least")
    goal = torch.as_tensor(sigmas, dtype=torch.float64)
    for high, low in zip(sigmas, [*sigmas[1:], 0.0], strict=True):
        if not high > low:
            raise ValueError(f"the noise levels must decrease to a positive one, and {high:.6g} stands before {low:.6g}")
    times, found = spanning(float(goal[0]), float(goal[-1]), params, advice)
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
