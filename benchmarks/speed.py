"""What a step costs beside the memory it must move, and what a run costs outside its network.

    python benchmarks/speed.py [--json] [--rounds 15] [--compile]
    python benchmarks/speed.py --outside galaxies

A step is measured without a network: its outputs are there already.  The bound is the least number of tensors that the step moves
(between two network calls every tensor is read once, every new one written once) over three, times the time of torch.add(out=) on
as many tensors as the step holds, taken in turn.  Ways of making a step:

    step       the emitted function as it is written
    in place   what `stepsmith.sample` does (runtime/inplace.py)
    mm         all tensors as rows of one buffer, torch.mm(out=); outputs are copied into it
    compiled   torch.compile(step, fullgraph=True), the network's inputs handed out; with --compile, which needs a C++ compiler
    diffusers  the `step` of its scheduler, with prediction_type="sample", where there is the same sampler

Processor time of one thread, so that other work on the machine counts less; ways are interleaved, and a figure is the median
over rounds of the ratio to torch.add(out=) of the same round, in units of the bound.  ``--outside`` runs a whole
`stepsmith.sample` and prints the share of its time that is not the network's.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

import stepsmith as ss
from stepsmith.runtime.inplace import Call, InPlace, Recipe, Sum, read_step

SIZES = ((1, 3, 32, 32), (16, 3, 64, 64), (4, 4, 128, 128), (4, 16, 128, 128))
SAMPLERS = ("vp_ddim", "vp_dpmpp_2m", "vp_unipc_3", "psld_rvv", "psld_roba", "hold_conjugate")
PEERS = {
    "vp_ddim": ("DDIMScheduler", {"clip_sample": False}),
    "vp_dpmpp_2m": ("DPMSolverMultistepScheduler", {"solver_order": 2}),
    "vp_unipc_3": ("UniPCMultistepScheduler", {"solver_order": 3}),
}
STEPS = 20
Way = Callable[[], Any]


class Case:
    """A sampler at a size: the tensors of a step, and the ways of making it, each a function that takes STEPS steps."""

    def __init__(self, name: str, size: tuple[int, ...]) -> None:
        self.module, self.size, self.name = ss.load(name), size, name
        self.table = self.module.coefficients(torch.linspace(0.9, 0.1, STEPS + 9, dtype=torch.float64))[4:-4]  # past the warm-up
        recipe = read_step(self.module, self.module.step, self.module.DRAWS)
        assert recipe is not None
        self.recipe: Recipe = recipe
        torch.manual_seed(0)
        counts = (len(self.module.COMPONENTS), self.module.DRAWS, self.module.HISTORY)
        self.state, self.noise, self.history = (tuple(torch.randn(size) for _ in range(count)) for count in counts)
        self.calls = [part for part in recipe.parts if isinstance(part, Call)]
        self.outputs = [tuple(torch.randn(size) for _ in range(self.module.OUTPUTS)) for _ in self.calls]

    def groups(self) -> list[list[Sum]]:
        """The sums that are made at once: the inputs of each call, and what a step ends with; copies of outputs are left out."""
        found: list[list[Sum]] = [[]]
        for part in self.recipe.parts:
            if isinstance(part, Call):
                found.append([])
            elif any(column >= 0 for _, column in part.terms):
                found[-1].append(part)
        return found

    def moved(self) -> int:
        """The least number of tensors that are read and written."""
        return sum(len({place for one in group for place, _ in one.terms}) + len(group) for group in self.groups())

    def network(self) -> Callable[..., Any]:
        following = iter(self.outputs)
        return lambda inputs, time: next(following)

    def step(self) -> None:
        state, history = self.state, self.history
        for row in self.table.unbind():
            state, history = self.module.step(state, row.unbind(), self.network(), self.noise, history)

    def in_place(self) -> Way:
        memory, rows = InPlace(), [(row.unbind(), (*row.tolist(), 1.0)) for row in self.table.unbind()]

        def run() -> None:
            state, history = self.state, self.history
            for row, numbers in rows:
                state, history = memory.step(self.recipe, numbers, state, row, self.network(), self.noise, history)

        return run

    def mm(self) -> Way:
        given = (*self.state, *self.noise, *self.history)
        order = list(range(len(given)))  # the places of the rows of the buffer: what is given, and outputs
        made = len(given)
        for part in self.recipe.parts:
            order += range(made, made + self.module.OUTPUTS) if isinstance(part, Call) else ()
            made += self.module.OUTPUTS if isinstance(part, Call) else 1
        buffer = torch.stack([value.flatten() for value in (*given, *(value for each in self.outputs for value in each))])
        outs = [torch.empty(len(group), buffer.shape[1]) for group in self.groups()]
        weights = [torch.zeros(STEPS, len(group), len(order)) for group in self.groups()]
        for weight, group in zip(weights, self.groups(), strict=True):
            for i, one in enumerate(group):
                for place, column in one.terms:
                    weight[:, i, order.index(place)] = 1.0 if column < 0 else self.table[:, column].float()

        def run() -> None:
            for k in range(STEPS):
                seen = len(given)
                for weight, out, outputs in zip(weights, outs, (*self.outputs, ()), strict=True):
                    if len(out):
                        torch.mm(weight[k, :, :seen], buffer[:seen], out=out)
                    for value in outputs:
                        buffer[seen].copy_(value.view(-1))
                        seen += 1

        return run

    def compiled(self) -> Way:
        def whole(state: Any, row: Any, outputs: Any, noise: Any, history: Any) -> Any:
            seen: list[Any] = []
            following = iter(outputs)

            def network(inputs: Any, time: Any) -> Any:
                seen.extend(inputs)
                return next(following)

            return self.module.step(state, row, network, noise, history), seen

        torch._dynamo.reset()
        step = torch.compile(whole, fullgraph=True, dynamic=False)

        def run() -> None:
            state, history = self.state, self.history
            for row in self.table.unbind():
                (state, history), _ = step(state, row.unbind(), self.outputs, self.noise, history)

        return run

    def diffusers(self) -> Way:
        import diffusers

        name, options = PEERS[self.name]
        scheduler = getattr(diffusers, name)(prediction_type="sample", **options)
        (output,) = self.outputs[0]

        def run() -> None:
            scheduler.set_timesteps(STEPS)
            state = self.state[0]
            for t in scheduler.timesteps:
                state = scheduler.step(output, t, state).prev_sample

        return run

    def adds(self) -> Way:
        """STEPS times torch.add(out=) over as many tensors as a step holds."""
        count = len(self.state + self.noise + self.history) + sum(map(len, self.outputs)) + sum(map(len, self.groups()))
        held = [torch.randn(self.size) for _ in range(max(3, count))]
        triples = [[held[(3 * k + j) % len(held)] for j in range(3)] for k in range(STEPS)]

        def run() -> None:
            for a, b, out in triples:
                torch.add(a, b, out=out)

        return run


def measured(name: str, size: tuple[int, ...], rounds: int, compiled: bool) -> dict[str, Any]:
    """The ways of a sampler at a size, in units of the bound, whose microseconds stand beside them."""
    case = Case(name, size)
    ways: dict[str, Way] = {"add": case.adds(), "step": case.step, "in place": case.in_place(), "mm": case.mm()}
    ways |= {"compiled": case.compiled()} if compiled else {}
    ways |= {"diffusers": case.diffusers()} if name in PEERS else {}
    taken: dict[str, list[float]] = {way: [] for way in ways}
    with torch.no_grad():
        for turn in range(rounds + 2):
            for way, run in ways.items():
                begun = time.thread_time()
                run()
                if turn > 1:
                    taken[way].append(time.thread_time() - begun)
    adds = case.moved() / 3
    least = taken.pop("add")
    ratios = {way: statistics.median(a / b for a, b in zip(each, least, strict=True)) / adds for way, each in taken.items()}
    bound = statistics.median(least) / STEPS * adds * 1e6
    return {"sampler": name, "size": size, "bound, us": bound, "tensors": case.moved(), **ratios}


class Timed:
    """A network and the processor time of its calls."""

    def __init__(self, network: Any) -> None:
        self.network, self.shape, self.kind, self.seconds = network, network.shape, network.kind, 0.0

    def __call__(self, inputs: Any, at: Any) -> Any:
        begun = time.thread_time()
        outputs = self.network(inputs, at)
        self.seconds += time.thread_time() - begun
        return outputs


def outside(name: str, rounds: int, batch: int = 16) -> list[dict[str, Any]]:
    """The share of a run's time that is not its network's, from the call of ``sample`` to its return."""
    network, found = ss.networks.load(name), []
    for sampler in SAMPLERS:
        module, shares = ss.load(sampler), []
        for turn in range(rounds + 1):
            times = torch.linspace(0.9 * min(1, module.END), 0.05, STEPS + 1, dtype=torch.float64)
            timed, begun = Timed(network), time.thread_time()
            ss.sample(module, timed, ss.TimeGrid.explicit(times), range(batch))
            shares += [1 - timed.seconds / (time.thread_time() - begun)] if turn else []
        found.append({"sampler": sampler, "share": statistics.median(shares), "seconds": timed.seconds})
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--outside", metavar="NETWORK")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    given = parser.parse_args()
    torch.set_num_threads(1)
    found = []
    if given.outside:
        found = outside(given.outside, given.rounds)
        lines = ["{sampler:16} {share:7.2%} of a run is not the network's, {seconds:.2f} s are".format(**one) for one in found]
        print("\n".join([] if given.json else lines))
    for size, name in [] if given.outside else itertools.product(SIZES, SAMPLERS):
        rounds = given.rounds if math.prod(size) < 10**6 else max(5, given.rounds // 3)
        found.append(measured(name, size, rounds, given.compile))
        cells = "  ".join(f"{way} {value:6.2f}" for way, value in found[-1].items() if isinstance(value, float))
        if not given.json:
            print(f"{size!s:20} {name:16} {cells}", flush=True)
    if given.json:
        print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
