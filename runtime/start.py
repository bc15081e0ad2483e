"""Where a run starts, and what is known of it while it runs: the law of the state given the data, at a time of the grid.

    z_i = sum_j L_ij xi_j + sum_k D_ik x0_k + sum_k M_ik c_k,    L = start(t), D = start_data(t), M = start_mean(t)

xi standard normals, x0 the data blocks, c the constant components and 1.  Without data a run starts at the mean that the
constants make: D x0 is unknown there and small at the end of the span.  The states at two times of one path of the diffusion
are jointly Gaussian (Bridge), Psi = transition(t0, t1) the matrix between them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from stepsmith.errors import InputError
from stepsmith.runtime.constants import blocks_of, fitted, names_of
from stepsmith.runtime.noise import upload

UNIT = "unit"  # a start as if the data were N(0, 1)
State = tuple[torch.Tensor, ...]
Rows = tuple[tuple[Any, ...], ...]  # numbers, or tensors over the frequencies of a FIELD


@dataclass(frozen=True)
class Law:
    """L, D and M of one time on the host, a row a block that moves; D is empty where it was not asked for."""

    factor: Rows
    data: Rows
    mean: Rows

    @classmethod
    def at(cls, module: Any, time: float, params: Mapping[str, Any], data: bool = False) -> Law:
        """The law at a time.  InputError (key ``start``) for entries that are not finite, and where the module cannot say D."""
        if data and not hasattr(module, "start_data"):
            what = f"{module.SDE} {module.SAMPLER} does not say how the state follows from the data"
            raise InputError("-", "init", what, "emit or bake the module again")
        n, m = blocks_of(module), len(names_of(module)) + 1
        asked = {"start": n, **({"start_data": None} if data else {})}
        asked |= {"start_mean": m} if hasattr(module, "start_mean") else {}
        tables = {name: _table(module, name, time, params, (n, width)) for name, width in asked.items()}
        return cls(*(tables.get(name, ()) for name in ("start", "start_data", "start_mean")))

    def of_unit_data(self) -> Law:
        """The law without data where these are N(0, 1): the factor of L L^T + D D^T."""
        L, D = (torch.tensor(rows, dtype=torch.float64) for rows in (self.factor, self.data))
        return Law(tuple(map(tuple, torch.linalg.cholesky(L @ L.mT + D @ D.mT).tolist())), (), self.mean)

    def beside(self, rows: Rows, other: Law, state: State, normals: State, given: State, data: State) -> State:
        """This mean, and ``rows`` times what a state differs by from the mean of another law, and normals."""
        centre = replace(other, factor=((0.0,) * len(normals),) * len(rows)).drawn(normals, given, data, normals[0].dtype)
        gaps = (z - m for z, m in zip(state, centre, strict=False))
        return replace(self, factor=rows).drawn((*gaps, *normals), given, data, state[0].dtype)

    def drawn(self, normals: Sequence[torch.Tensor], given: State, data: State, dtype: torch.dtype) -> State:
        """The blocks that move, summed in the dtype of the normals and rounded once to ``dtype``; ``given`` the constants,
        ``data`` x0 or nothing."""
        like = torch.zeros_like(normals[0])
        state = []
        for i, row in enumerate(self.factor):
            terms = [(w, xi) for w, xi in zip(row, normals, strict=True) if not isinstance(w, float) or w]
            terms += zip(self.data[i], data, strict=True) if data else ()
            terms += zip(self.mean[i], (*given, torch.ones_like(like)), strict=True) if self.mean else ()
            state.append(sum((_on(w, like) * value.to(like.dtype) for w, value in terms), like).to(dtype))
        return tuple(state)


@dataclass(frozen=True)
class Bridge:
    """The states z0 and z1 of one path at the times t0 > t1, each given the other and the data; m0 and m1 are their means:

        down    z1 - m1 = L1 C L0^-1 (z0 - m0) + L1 (1 - C C^T)^(1/2) xi,    C = (L0^-1 Psi(t0, t1) L1)^T
        up      z0 - m0 = Psi(t0, t1) (z1 - m1) + L0 (1 - C^T C)^(1/2) xi,   the same whatever the data

    The matrices of a direction stand side by side, a row a block.
    """

    upper: Law
    lower: Law
    fall: Rows
    rise: Rows

    @classmethod
    def of(cls, module: Any, times: tuple[float, float], laws: tuple[Law, Law], params: Mapping[str, Any]) -> Bridge:
        psi = torch.as_tensor(asked(module, functools.partial(module.transition, times[0]), times[1], params))
        L0, L1 = (torch.tensor(law.factor, dtype=torch.float64) for law in laws)
        C = torch.linalg.solve_triangular(L0, psi @ L1, upper=False).mT
        fall = torch.cat((torch.linalg.solve_triangular(L0, L1 @ C, upper=False, left=False), L1 @ _rest(C)), dim=1)
        rise = torch.cat((psi, L0 @ _rest(C.mT)), dim=1)
        return cls(*laws, *(tuple(map(tuple, table.tolist())) for table in (fall, rise)))

    def down(self, state: State, normals: State, given: State, data: State) -> State:
        """z1 of the state z0."""
        return self.lower.beside(self.fall, self.upper, state, normals, given, data)

    def up(self, state: State, normals: State, given: State, data: State) -> State:
        """z0 of the state z1."""
        return self.upper.beside(self.rise, self.lower, state, normals, given, data)


def _rest(C: torch.Tensor) -> torch.Tensor:
    """A square root of 1 - C C^T, C no longer than 1."""
    values, vectors = torch.linalg.eigh(torch.eye(len(C), dtype=C.dtype) - C @ C.mT)
    return vectors * values.clamp_min(0).sqrt()


def _on(weight: Any, like: torch.Tensor) -> Any:
    return upload(weight.to(like.dtype), like.device) if isinstance(weight, torch.Tensor) else weight


def _table(module: Any, name: str, time: float, params: Mapping[str, Any], shape: tuple[int, int | None]) -> Rows:
    """What a function of the module gives at a time, a row a block; refused where it is no such matrix of finite numbers."""
    table = torch.as_tensor(asked(module, getattr(module, name), time, params), dtype=torch.float64)
    fits = table.dim() >= 2 and table.shape[0] == shape[0] and shape[1] in (None, table.shape[1])
    if not fits or not torch.isfinite(table).all():
        what = f"{name} at the time {time:g} is no finite matrix of {shape[0]} rows"
        raise InputError("-", "start", what, "check the parameters and the grid's start")
    rows = table.tolist() if table.dim() == 2 else [row.unbind(0) for row in table.unbind(0)]
    return tuple(tuple(row) for row in rows)


def asked(module: Any, function: Any, times: Any, params: Mapping[str, Any]) -> Any:
    """What a function of the module gives; its ValueError (a constraint, a grid) and numbers that float64 cannot hold
    become an InputError."""
    try:
        return function(times, **params)
    except InputError:
        raise
    except (ValueError, ArithmeticError) as error:
        why = error if isinstance(error, ValueError) else "float64 cannot hold what they make"
        name = f"{module.SDE} {module.SAMPLER}"
        if params:
            raise InputError("-", "params", f"{name} refuses them ({why})", "change the parameters or the grid") from error
        fix = "change the grid, such as by an earlier start, or take another sampler"
        raise InputError("-", "grid", f"{name} refuses these times ({why})", fix) from error


@dataclass(frozen=True, eq=False)
class Known:
    """What a run is given of its samples: ``data``, a tensor a data block, alone or with the ``state`` that it starts from;
    and with ``mask`` (1 where the data stay as they are) the law at every time of the grid, or what lies between them."""

    data: State = ()
    state: State = ()
    mask: torch.Tensor | None = None
    laws: tuple[Law, ...] = ()
    bridges: tuple[Bridge, ...] = ()

    @classmethod
    def of(
        cls, module: Any, init: Any, start: Any, mask: Any, seeds: int, shape: tuple[int, ...], dtype: torch.dtype
    ) -> Known:
        """InputError (keys ``init``, ``start``, ``mask``) for what does not broadcast to (seeds, *shape), for data that are whole
        numbers, for a mask outside of [0, 1], and for what does not go together."""
        if isinstance(start, str) and (start != UNIT or hasattr(module, "FIELD")):
            what = f"{start!r} is no start" if start != UNIT else "the state is made of frequencies, not of pixels"
            raise InputError("-", "start", what, f"give {UNIT!r}, or a tensor a component")
        if init is not None and start is not None and (mask is None or isinstance(start, str)):
            raise InputError("-", "init", "start says where the run begins already", "give one of the two")
        if mask is not None and (init is None or hasattr(module, "FIELD")):
            what = "there are no data to keep" if init is None else "the state is made of frequencies, not of pixels"
            raise InputError("-", "mask", what, "give init too" if init is None else "use a diffusion without a field")
        fit = lambda key, value: fitted(key, "what is given", value, (seeds, *shape), dtype)  # noqa: E731
        own, blocks = None if isinstance(start, str) else start, blocks_of(module)
        if own is not None and (count := len(_each(own))) != blocks:
            what = f"it has {count} component{'s' * (count != 1)}, and {module.SDE} has {blocks}"
            raise InputError("-", "start", what, f"give a tuple, one tensor a component: {', '.join(module.COMPONENTS[:blocks])}")
        data, state = (tuple(fit(key, value) for value in _each(values)) for key, values in (("init", init), ("start", own)))
        if not all(torch.as_tensor(value).is_floating_point() for value in _each(init)):
            fix = "give floating-point data in the range that the network was trained on, such as image / 127.5 - 1"
            raise InputError("-", "init", "it has whole numbers, as pixels of 0 .. 255 are", fix)
        keep = None if mask is None else fit("mask", mask)
        if keep is not None and not ((keep >= 0) & (keep <= 1)).all():
            fix = "give 1 where init stays and 0 elsewhere; divide a mask of 0 .. 255 by 255"
            raise InputError("-", "mask", "it has values outside of [0, 1]", fix)
        return cls(data, state, keep)

    def of_seeds(self, part: slice) -> Known:
        """The same of some of the seeds."""
        cut = lambda value: value if value.shape[0] == 1 else value[part]  # noqa: E731
        mask = None if self.mask is None else cut(self.mask)
        return replace(self, data=tuple(map(cut, self.data)), state=tuple(map(cut, self.state)), mask=mask)

    def to(self, device: torch.device) -> Known:
        """The same on a device."""
        data, state = (tuple(upload(value, device) for value in values) for values in (self.data, self.state))
        return replace(self, data=data, state=state, mask=None if self.mask is None else upload(self.mask, device))

    def ahead(self, k: int, state: State, normals: State, own: Callable[[str], State], given: State) -> State:
        """What is known at the end of step k: of the path that the state at its beginning is on, or of the start's normals."""
        if self.bridges:
            return self.bridges[k].down(state, own("known"), given, self.data)
        return self.laws[k + 1].drawn(normals, given, self.data, state[0].dtype) if self.laws else ()

    def kept(self, state: State, fresh: State) -> State:
        """The state with what is known put in its place."""
        if self.mask is None:
            return state
        mask, moving = self.mask, len(fresh)
        mixed = (torch.lerp(z, own, mask.to(z.dtype)) for z, own in zip(state, fresh, strict=False))
        return (*mixed, *state[moving:])


def _each(value: Any) -> tuple[Any, ...]:
    return () if value is None else tuple(value) if isinstance(value, tuple | list) else (value,)
