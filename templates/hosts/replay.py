"""A run of the step module in which somebody else calls the network."""

import torch
from diffusers.utils.torch_utils import randn_tensor

from stepsmith.generated.vp_dpmpp_2m import COMPONENTS, HISTORY, coefficients, start
from stepsmith.templates.hosts.run import calls_of, end_of, gain, steps_of


class Asked(Exception):
    """A step asks for a network output that is not there yet."""


class Replay:
    """A run of the steps whose network is called by somebody else.

    A step is run anew, with the outputs so far, until it asks for one more; what it asks it of is `y`.
    """

    def __init__(self, times, sigmas, params):
        self.times, self.params = times, params
        self.rows = coefficients(times, **params).tolist() if len(times) > 1 else []
        self.steps, self.end = steps_of(self.rows), end_of(self.rows, sigmas[-1])
        self.calls = calls_of(self.rows, sigmas[-1])

    def begin(self, like, generator):
        """From the state's law for data 0; of one block the first input, which is put in, leaves nothing to draw."""
        self.row, self.call, self.outputs, self.generator = 0, 0, [], generator
        self.history = (torch.zeros_like(like),) * HISTORY
        L = start(float(self.times[0]), **self.params).tolist() if len(COMPONENTS) > 1 else []
        normals = self._normals(like, len(L))
        drawn = [sum(w * z for w, z in zip(row, normals, strict=True)) for row in L]
        self.state = tuple(drawn or [torch.zeros_like(like)])
        self.noise = self._normals(like, self.steps[0][1] if self.steps else 0)
        self._run()

    def put(self, change):
        """Put a change of the network's input into the state, as the conditional mean of a Gaussian."""
        row, _, weights = self.calls[self.call]
        ratios = gain(float(self.times[row]), weights, self.params)
        self.state = tuple(z + g * change for z, g in zip(self.state, ratios, strict=True))
        self._run()

    def send(self, output):
        """Go on with the network's output."""
        self.outputs.append(output)
        self.call += 1
        self._run()

    def _run(self):
        """Steps until the network is asked; at the end `y` is the data."""
        try:
            while self.row < len(self.rows):
                run, c = self.steps[self.row][0], self.rows[self.row]
                self.state, self.history = run(self.state, c, self._network(), self.noise, self.history)
                self.row, self.outputs = self.row + 1, []
                if self.row < len(self.rows):
                    self.noise = self._normals(self.state[0], self.steps[self.row][1])
            (self.y,) = self.end(self.state, self._network())
        except Asked as asked:
            (self.y,) = asked.args

    def _network(self):
        known = iter(self.outputs)

        def network(inputs, sigma):
            for output in known:
                return (output,)
            raise Asked(*inputs)

        return network

    def _normals(self, like, count):
        given = {"generator": self.generator, "device": like.device, "dtype": like.dtype}
        return tuple(randn_tensor(like.shape, **given) for _ in range(count))
