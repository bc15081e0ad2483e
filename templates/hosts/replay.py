"""A run of the step module in which somebody else calls the network."""

import torch
from diffusers.utils.torch_utils import randn_tensor

from stepsmith.generated.vp_dpmpp_2m import COMPONENTS, HISTORY, start


class Asked(Exception):
    """A step asks for a network output that is not there yet."""


class Replay:
    """A run of the steps whose network is called by somebody else.

    A step is taken anew, with the outputs so far, until it asks for one more: its input then is `y`.
    """

    def __init__(self, run):
        self.run, self.calls = run, run.calls()
        self.factor = start(float(run.times[0]), **run.params).tolist() if len(COMPONENTS) > 1 else []
        self.gain = run.gain(self.calls[0])

    def begin(self, like, generator):
        """From the state's law for data 0; of one block the first input, which is put in, leaves nothing to draw."""
        self.row, self.call, self.outputs, self.noise, self.generator = 0, 0, [], None, generator
        self.history = (torch.zeros_like(like),) * HISTORY
        normals = self._normals(like, len(self.factor))
        drawn = [sum(w * z for w, z in zip(row, normals, strict=True)) for row in self.factor]
        self.state = tuple(drawn or [torch.zeros_like(like)])
        self._go()

    def put(self, change):
        """Put a change of the network's input into the state, as the conditional mean of a Gaussian."""
        ratios = self.run.gain(self.calls[self.call]) if self.call else self.gain
        self.state = tuple(z + g * change for z, g in zip(self.state, ratios, strict=True))
        self._go()

    def send(self, output):
        """Go on with the network's output."""
        self.outputs.append(output)
        self.call += 1
        self._go()

    def _go(self):
        """Steps until the network is asked; at the end `y` is the data."""
        try:
            while self.row < len(self.run.rows):
                step_of_row, draws = self.run.steps[self.row]
                if self.noise is None:
                    self.noise = self._normals(self.state[0], draws)
                given = self.run.rows[self.row], self._network(), self.noise, self.history
                self.state, self.history = step_of_row(self.state, *given)
                self.row, self.outputs, self.noise = self.row + 1, [], None
            self.y = self.run.end(self.state, self.history, self._network())
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
