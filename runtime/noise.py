"""Noise as a pure function of (seed, stream, step, index): batch size, order, shards and resumed runs never change a
sample.

Bits come from Philox4x32-10 (Salmon et al., SC 2011), a counter-based generator: a 64-bit key and a 128-bit counter go
in, four 32-bit words come out, and no state is kept. Here

    key     = (seed mod 2^32, seed div 2^32)
    counter = (block, index, step, stream),  stream = first 32 bits of the SHA-256 of its name, block = element // 4.

Two words u, v of 32 bits make two normals by Box and Muller in float64: r = sqrt(-2 log((u + 1/2)/2^32)), r cos(2 pi
v/2^32) and r sin(2 pi v/2^32); so |normal| < 6.77. All integer work is int64 with wrap-around and gives the same bits
on every device; the normals agree across devices to the rounding of log, sin and cos in float64. Nothing here reads a
value back from the device.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from stepsmith.errors import InputError

_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_MASK = 0xFFFFFFFF
_MOST_SEEDS = 10_000_000


def philox(counter: Sequence[torch.Tensor], key: Sequence[torch.Tensor], rounds: int = 10) -> tuple[torch.Tensor, ...]:
    """Philox4x32: four int64 tensors of 32-bit words from ``counter`` (four) and ``key`` (two), which broadcast
    together.

    A round: (c0, c1, c2, c3) -> (hi(M1 c2) ^ c1 ^ k0, lo(M1 c2), hi(M0 c0) ^ c3 ^ k1, lo(M0 c0)), then k += (W0, W1)
    mod 2^32. Products wrap in int64, which leaves their 64 bits right. What stands above the low 32 bits of c1 and c3,
    and what the arithmetic shift brings in, is masked where it would matter: before the next product, and at the end.
    All rounds write into the same six tensors.
    """
    whole = torch.broadcast_tensors(*counter, *key)
    c0, c1, c2, c3, one, two = (word.clone(memory_format=torch.contiguous_format) for word in whole)
    k0, k1 = key
    for _ in range(rounds):
        torch.bitwise_right_shift(c2.mul_(_MULTIPLIERS[1]), 32, out=one)
        torch.bitwise_right_shift(c0.mul_(_MULTIPLIERS[0]), 32, out=two)
        one.bitwise_xor_(c1).bitwise_xor_(k0).bitwise_and_(_MASK)
        two.bitwise_xor_(c3).bitwise_xor_(k1).bitwise_and_(_MASK)
        c0, c1, c2, c3, one, two = one, c2, two, c0, c1, c3
        k0, k1 = (k0 + _WEYL[0]) & _MASK, (k1 + _WEYL[1]) & _MASK
    return c0, c1.bitwise_and_(_MASK), c2, c3.bitwise_and_(_MASK)


def upload(tensor: torch.Tensor, device: torch.device | str) -> torch.Tensor:
    """The one place where the runtime moves data from the host to a device; always before the loop."""
    return tensor.to(device)


def widest(device: torch.device | str) -> torch.dtype:
    """float64; float32 on a device that has no other, as Apple's MPS."""
    return torch.float32 if torch.device(device).type == "mps" else torch.float64


def parse_seeds(seeds: str | int | Iterable[int]) -> tuple[int, ...]:
    """Seeds as a tuple, from integers (any iterable, or one) or from text such as ``0-63`` or ``0,3,7-9`` (both ends
    included).

    Raises :class:`InputError` (key ``seeds``) for no seeds, a malformed or descending range, or a seed outside 0 ..
    2^63 - 1.
    """
    if isinstance(seeds, str):
        found: list[int] = []
        for part in seeds.split(","):
            found.extend(_seed_range(part.strip()))
    else:
        try:
            found = [_whole(seed) for seed in ([seeds] if isinstance(seeds, int) else seeds)]
        except TypeError:
            raise _bad_seeds(f"{seeds!r} are not whole numbers") from None
    if not found:
        raise _bad_seeds("there are none")
    for seed in found:
        if not 0 <= seed < 2**63:
            raise _bad_seeds(f"{seed} is outside 0 .. 2^63 - 1")
    return tuple(found)


def seeds_text(seeds: Iterable[int]) -> str:
    """Seeds as text that :func:`parse_seeds` reads back, in their order: runs of consecutive seeds become ranges, such
    as ``0-3,7``, however many seeds there are."""
    runs: list[list[int]] = []
    for seed in seeds:
        if runs and seed == runs[-1][1] + 1 and seed - runs[-1][0] < _MOST_SEEDS:
            runs[-1][1] = seed
        else:
            runs.append([seed, seed])
    return ",".join(f"{first}" if first == last else f"{first}-{last}" for first, last in runs)


def _whole(seed: object) -> int:
    if isinstance(seed, bool) or not hasattr(seed, "__index__"):
        raise TypeError
    return seed.__index__()


def _seed_range(part: str) -> range:
    match = re.fullmatch(r"(\d{1,19})(?:\s*-\s*(\d{1,19}))?", part)
    if match is None:
        raise _bad_seeds(f"{part!r} is neither a seed nor a range")
    first = int(match[1])
    last = first if match[2] is None else int(match[2])
    if last < first:
        raise _bad_seeds(f"the range {part!r} runs backwards")
    if last - first >= _MOST_SEEDS:
        raise _bad_seeds(f"the range {part!r} has more than {_MOST_SEEDS} seeds")
    return range(first, last + 1)


def _bad_seeds(what: str) -> InputError:
    return InputError(where="-", key="seeds", what=what, fix="give whole numbers such as 0-63 or 0,3,7-9")


@dataclass(frozen=True, eq=False)
class NoiseSource:
    """Standard normals for a batch of samples, one independent stream a seed.

    ``seeds``: integers, a range, or text (see :func:`parse_seeds`). ``normal`` may be asked for any draw, in any order,
    any number of times; the same (seed, stream, step, index, shape) is the same noise, whatever stands beside it in the
    batch. A longer shape begins with the elements of a shorter one. ``to(device)`` puts the keys on a device, once,
    before a loop; where that has no float64 they stay, and what is drawn is uploaded.
    """

    seeds: tuple[int, ...]
    keys: torch.Tensor = field(repr=False)
    device: torch.device  # of the normals

    def __init__(self, seeds: str | int | Iterable[int]) -> None:
        values = parse_seeds(seeds)
        object.__setattr__(self, "seeds", values)
        words = torch.tensor(values, dtype=torch.int64)
        object.__setattr__(self, "keys", torch.stack([words & _MASK, words >> 32]))
        object.__setattr__(self, "device", self.keys.device)

    ahead = 2**18  # normals made at once, where a step needs fewer

    def __len__(self) -> int:
        return len(self.seeds)

    def of_seeds(self, part: slice) -> NoiseSource:
        """The same of some of the seeds."""
        return NoiseSource(self.seeds[part])

    def to(self, device: torch.device | str) -> NoiseSource:
        """The same source of normals on ``device``."""
        if (device := torch.device(device)) == self.device:
            return self
        here = widest(device) == torch.float64
        keys = upload(self.keys, device) if here else self.keys
        moved = object.__new__(NoiseSource)
        for name, value in (("seeds", self.seeds), ("keys", keys), ("device", keys.device if here else device)):
            object.__setattr__(moved, name, value)
        return moved

    def normal(
        self,
        shape: Sequence[int],
        stream: str,
        step: int = 0,
        index: int = 0,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> torch.Tensor:
        """Standard normals of shape (len(seeds), *shape) in ``dtype``; ``shape`` is that of one sample.

        ``stream`` names a use ("start", "step"), ``step`` the step of the grid, ``index`` the draw within it.
        ``device`` defaults to that of the keys; where it is another, the keys are uploaded for this call (call ``to``
        first inside a loop). Raises ValueError for a step or index outside 0 .. 2^32 - 1.
        """
        source = self if device is None else self.to(device)
        return source.block(shape, stream, step, 1, 1, index, dtype).flatten(0, 2)

    def block(
        self,
        shape: Sequence[int],
        stream: str,
        step: int,
        steps: int,
        draws: int,
        index: int = 0,
        dtype: torch.dtype = torch.float32,
    ) -> torch.Tensor:
        """The draws index .. index + draws - 1 of steps step .. step + steps - 1 at once, where the keys are:
        (steps, draws, len(seeds), *shape), each the same bits as :meth:`normal` gives it. Many small draws cost one."""
        if min(step, index) < 0 or max(step + steps, index + draws) > _MASK + 1:
            raise ValueError(f"step {step} and index {index} must lie in 0 .. 2^32 - 1")
        size, device = math.prod(shape), self.keys.device

        def ranged(first: int, count: int, trailing: int) -> torch.Tensor:
            values = torch.arange(first, first + count, dtype=torch.int64, device=device)
            return values.reshape(count, *(1,) * trailing)

        name = int.from_bytes(hashlib.sha256(stream.encode()).digest()[:4], "little")
        low, high = self.keys.unsqueeze(-1).unbind(0)
        counter = (ranged(0, (size + 3) // 4, 0), ranged(index, draws, 2), ranged(step, steps, 3), ranged(name, 1, 0))
        normals = _box_muller(philox(counter, (low, high)), dtype).narrow(-1, 0, size)
        normals = normals.flatten().reshape(steps, draws, len(self.seeds), *shape)
        return normals if device == self.device else upload(normals, self.device)


@dataclass(frozen=True, eq=False)
class GeneratorSource:
    """Standard normals from generators of torch, as the pipelines of diffusers draw them: one a sample, or one for the batch.

    Every draw moves a generator on, so a run is repeated by generators in the same state, and with one for the batch a sample
    depends on its neighbours.  Drawn in ``drawn_in`` where the generator is, then brought to the device.
    """

    generators: tuple[torch.Generator, ...]
    count: int
    drawn_in: torch.dtype
    device: Any = None
    ahead = 1  # in the order of their use

    @classmethod
    def of(cls, generator: Any, count: int, dtype: torch.dtype) -> GeneratorSource:
        """InputError (key ``generator``) for what is neither a generator nor one a sample."""
        given = tuple(generator) if isinstance(generator, list | tuple) else (generator,)
        if not all(isinstance(each, torch.Generator) for each in given) or len(given) not in (1, count):
            what = f"{len(given)} of {', '.join({type(each).__name__ for each in given})}"
            raise InputError("-", "generator", what, f"give one torch.Generator, or a list of {count}, one a sample")
        return cls(given, count, dtype)

    def __len__(self) -> int:
        return self.count

    def of_seeds(self, part: slice) -> GeneratorSource:
        """The same of some of the samples."""
        generators = self.generators if len(self.generators) != self.count else self.generators[part]
        return replace(self, generators=generators, count=len(range(self.count)[part]))

    def to(self, device: torch.device | str) -> GeneratorSource:
        """The same source with its normals on ``device``."""
        return replace(self, device=device)

    def normal(
        self, shape: Sequence[int], stream: str, step: int = 0, index: int = 0, dtype: torch.dtype = torch.float32
    ) -> torch.Tensor:
        """Standard normals (count, *shape): the next ones, whatever stream, step and index say."""
        share = self.count // len(self.generators)
        size = (share, *shape)
        drawn = [torch.randn(size, generator=each, dtype=self.drawn_in, device=each.device) for each in self.generators]
        return upload(torch.cat(drawn), self.device or "cpu").to(dtype)

    def block(
        self, shape: Sequence[int], stream: str, step: int, steps: int, draws: int, dtype: torch.dtype = torch.float32
    ) -> torch.Tensor:
        """The next draws of some steps, (steps, draws, count, *shape)."""
        drawn = [self.normal(shape, stream, dtype=dtype) for _ in range(steps * draws)]
        return torch.stack(drawn).unflatten(0, (steps, draws))


def _box_muller(words: Sequence[torch.Tensor], dtype: torch.dtype) -> torch.Tensor:
    """(..., 4 blocks) normals, made in float64 and rounded once, from four (..., blocks) words; block b fills elements
    4b .. 4b + 3."""
    normals = []
    for u, v in (words[:2], words[2:]):
        radius = u.to(torch.float64).add_(0.5).mul_(2.0**-32).log_().mul_(-2.0).sqrt_()
        angle = v.to(torch.float64).mul_(2.0 * math.pi * 2.0**-32)
        normals += [angle.cos().mul_(radius).to(dtype), angle.sin_().mul_(radius).to(dtype)]
    return torch.stack(normals, dim=-1).flatten(-2)
