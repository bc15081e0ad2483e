"""The pictures: one quiet style that is read in grey too, and a function a picture, which says in words what one sees.

Lines differ in brightness, dashes and marks.  ``matplotlib`` comes with the extra ``plot``.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stepsmith.errors import InputError, Unsupported

LINES = (
    {"color": "#111111", "linestyle": "-", "marker": "o"},
    {"color": "#c0562f", "linestyle": "--", "marker": "s"},
    {"color": "#2f7fb8", "linestyle": "-.", "marker": "^"},
    {"color": "#8a9a2b", "linestyle": ":", "marker": "D"},
    {"color": "#7a4b8c", "linestyle": (0, (5, 1, 1, 1, 1, 1)), "marker": "v"},
    {"color": "#8c8c8c", "linestyle": "-", "marker": "x"},
    {"color": "#4d6b57", "linestyle": (0, (1, 1)), "marker": "*"},
    {"color": "#d9a441", "linestyle": (0, (7, 2)), "marker": "+"},
    {"color": "#a63d5c", "linestyle": (0, (3, 1, 1, 1)), "marker": "P"},
    {"color": "#39707a", "linestyle": (0, (9, 1)), "marker": "X"},
    {"color": "#5b5b9e", "linestyle": (0, (2, 3)), "marker": "<"},
    {"color": "#6e6259", "linestyle": "-", "marker": ">"},
)
FAINT: dict[str, Any] = {"color": "#bbbbbb", "linewidth": 1}
STYLE: dict[Any, Any] = {
    "font.size": 9, "axes.titlesize": 9, "legend.fontsize": 8, "legend.frameon": False, "lines.linewidth": 1.3,
    "lines.markersize": 3.5, "axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.6, "svg.fonttype": "none",
}  # fmt: skip
FROM = ("axes.", "lines.", "legend.", "font.", "figure.", "xtick.", "ytick.")
POINTS = 24  # of a curve
SUFFIXES = (".png", ".pdf", ".svg")


@dataclass(frozen=True)
class Plot:
    """A figure of matplotlib and the sentence that stands for it where it is not seen."""

    figure: Any
    alt: str

    def png(self) -> bytes:
        buffer = io.BytesIO()
        self.figure.savefig(buffer, format="png", dpi=150, metadata={"Software": None})
        return buffer.getvalue()

    def save(self, path: Path) -> None:
        """Write the picture; SVG and PDF carry the sentence as their title."""
        told = {".svg": {"Title": self.alt, "Date": None}, ".pdf": {"Title": self.alt, "CreationDate": None}}
        self.figure.savefig(path, dpi=150, metadata=told.get(path.suffix.lower(), {"Description": self.alt}))


def check(path: Path | None, key: str = "plot") -> None:
    """Refuse, before any long work, a picture of another kind, one that has no folder, and any without matplotlib."""
    if path is None:
        return
    need()
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(str(path), key, f"the suffix {path.suffix!r} is not known", f"use one of {', '.join(SUFFIXES)}")
    if not path.resolve().parent.is_dir():
        raise InputError(str(path), key, "its folder does not exist", "choose another place")


def need() -> None:
    """InputError without matplotlib."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        raise InputError("-", "plot", "matplotlib is not installed", "pip install 'stepsmith[plot]'") from None


def styled(draw: Callable[..., Any]) -> Callable[..., Any]:
    """Draw in the style, whatever that of the caller's matplotlib is."""

    @functools.wraps(draw)
    def drawn(*args: Any, **given: Any) -> Any:
        need()
        from matplotlib import rc_context, rcParamsDefault

        plain: dict[Any, Any] = {key: value for key, value in rcParamsDefault.items() if key.startswith(FROM)}
        with rc_context({**plain, **STYLE}):
            return draw(*args, **given)

    return drawn


def panels(count: int, height: float = 3.0, rows: int = 1) -> tuple[Any, list[Any]]:
    """A figure of so many panels side by side, in rows of this height."""
    from matplotlib.figure import Figure

    columns = count // rows
    figure = Figure(figsize=(3.7 * columns if columns > 1 else 6.4, height * rows), layout="constrained")
    return figure, list(figure.subplots(rows, columns, squeeze=False).flat)


def line(k: int, marks: bool = True) -> dict[str, Any]:
    """The look of line k; the marks are for measured points."""
    chosen = dict(LINES[k % len(LINES)])
    return chosen if marks else {**chosen, "marker": ""}


def plain(axis: Any) -> None:
    """Numbers as one writes them on a log axis, 0.95, not 9.5 x 10^-1, the fewer the longer it is; powers of ten past 10^4."""
    from matplotlib.ticker import FuncFormatter, LogLocator

    low, high = axis.get_view_interval()
    if not 1e-4 < low < high < 1e4:
        return
    decades = np.log10(high / low)
    shown = (1, 2, 3, 4, 5, 6, 7, 8, 9) if decades < 0.7 else (1, 2, 5) if decades < 2 else (1,)
    axis.set_major_locator(LogLocator(subs=shown))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.4g}"))
    axis.set_minor_formatter(FuncFormatter(lambda value, _: ""))


TITLES = ("mean for unit data", "standard deviations given the data", "effective sigma")


@styled
def law(sde: Any) -> Plot:
    """Mean and standard deviation of each block for unit data, the effective sigma and the correlations, against t."""
    view, (start, end) = sde.at(), (float(t) for t in sde.time)
    times = np.linspace(start, end, 81)[1:]
    means = np.array([view.transition(t, start)[:, sde.data[0]] for t in times])
    covariances = np.array([view.covariance(t) for t in times])
    spreads = np.sqrt(np.einsum("tii->ti", covariances))
    single = sde.n == 1
    figure, axes = panels(3) if single else panels(4, 2.6, rows=2)
    for k, block in enumerate(sde.state):
        axes[0].plot(times, means[:, k], **line(k, False), label=block)
        axes[1].plot(times, spreads[:, k], **line(k, False), label=block)
    axes[2].semilogy(times, view.effective_sigma(times), **line(0, False))
    titles = ("alpha: mean for unit data", "sigma: standard deviation", "effective sigma") if single else TITLES
    for panel, title in zip(axes, titles, strict=False):
        panel.set(xlabel="t", title=title)
    if not single:
        pairs = [(i, j) for i in range(sde.n) for j in range(i)]
        for k, (i, j) in enumerate(pairs):
            found = covariances[:, i, j] / (spreads[:, i] * spreads[:, j])
            axes[3].plot(times, found, **line(k, False), label=f"{sde.state[j]}, {sde.state[i]}")
        axes[3].set(xlabel="t", title="correlations given the data", ylim=(-1.05, 1.05))
        for panel in (axes[0], axes[1], axes[3]):
            panel.legend(frameon=True, framealpha=0.8, edgecolor="none")  # read above the lines of many blocks
    high = float(view.effective_sigma(end))
    ends = f"end at {_listed(means[-1])}, their standard deviations given the data at {_listed(spreads[-1])}"
    told = f"Against t from {start:g} to {end:g}: the means of the blocks for unit data {ends}, effective sigma {high:.3g}."
    return Plot(figure, told)


@styled
def stability(methods: Sequence[Any]) -> Plot | None:
    """Spectral radius of a step on Gaussian data against its length, from three times of one method, or the middle of several."""
    from stepsmith.derive.orders.stability import curves

    found = {}
    for method in methods:
        try:
            found[method.sampler.called] = curves(method, points=POINTS)
        except Unsupported:
            continue
    if not found:
        return None
    figure, axes = panels(3)
    for k, panel in enumerate(axes):
        time = next(iter(found.values()))[k][0]
        for j, (name, curve) in enumerate(found.items()):
            _, lengths, radii, exact = curve[k]
            panel.loglog(lengths, exact, **FAINT, label="" if j else "exact")
            panel.loglog(lengths, radii, **line(j, False), label=name)
        panel.axhline(1, color="#dddddd", linewidth=0.6)
        plain(panel.yaxis)
        panel.set(xlabel="step h", title=f"from t = {time:.3g}")
    axes[0].set_ylabel("spectral radius")
    axes[0].legend()
    told = f"Spectral radius of a step against its length h on Gaussian data, for {', '.join(found)}; "
    return Plot(figure, told + "above 1 and the grey exact line errors grow.")


@styled
def orders(runs: Mapping[str, tuple[Sequence[int], Sequence[float], int | None]]) -> Plot:
    """Error against steps, name -> (steps, errors, proven order), each beside a line of the proven slope through its last run."""
    figure, axes = panels(1, 3.4)
    for k, (name, (steps, errors, proven)) in enumerate(runs.items()):
        axes[0].loglog(steps, errors, **line(k), label=name if proven is None else f"{name}, proven {proven}")
        if proven is not None:
            ends = np.array([steps[0], steps[-1]], dtype=float)
            axes[0].loglog(ends, errors[-1] * (ends / steps[-1]) ** -proven, **FAINT, zorder=1)
    axes[0].set(xlabel="steps N", ylabel="error in standard deviations")
    known = sorted({n for steps, _, _ in runs.values() for n in steps})
    axes[0].set_xticks(known, map(str, known))
    axes[0].set_xticks([], minor=True)
    axes[0].legend()
    return Plot(figure, f"Error of a run against its steps for {', '.join(runs)}; the grey lines have the proven slopes.")


@styled
def measures(groups: Mapping[str, Mapping[str, Sequence[float]]], budgets: Sequence[int], log: bool = True) -> Plot:
    """Measures against network calls, a panel a measure, title -> name -> values at the budgets."""
    figure, axes = panels(len(groups), 3.2)
    names = list(dict.fromkeys(name for lines in groups.values() for name in lines))
    known: dict[str, Any] = {}
    for panel, (title, lines) in zip(axes, groups.items(), strict=True):
        for name, values in lines.items():
            (known[name],) = panel.plot(budgets, values, **line(names.index(name)))
        panel.set(xscale="log", yscale="log" if log else "linear", xlabel="network calls", title=title)
        panel.set_xticks(budgets, map(str, budgets), minor=False)
        panel.set_xticks([], minor=True)
        low, high = panel.get_ylim()
        if log and 0 < high < 10 * low:  # a log axis of less than a decade may have no label, and a small change looks large
            panel.set_ylim(10 ** np.floor(np.log10(low)), 10 ** np.ceil(np.log10(high)))
        if log:
            plain(panel.yaxis)
    figure.legend(known.values(), known, loc="outside right upper")
    told = f"{_listed(groups)} against {_listed(budgets)} network calls for {', '.join(names)}."
    return Plot(figure, told[:1].upper() + told[1:])


@styled
def grids(sde: Any, times: Mapping[str, Any]) -> Plot:
    """Grids of one diffusion: where they stop in t, and the effective sigma there, a line a grid."""
    sigma, (figure, axes) = sde.at().effective_sigma, panels(2)
    for k, (name, grid) in enumerate(times.items()):
        values = np.asarray(grid, dtype=np.float64)
        axes[0].plot(values, [k] * len(values), **{**line(k), "linestyle": ""})
        axes[1].semilogy(range(len(values)), sigma(values), **line(k), label=name)
    axes[0].set_yticks(range(len(times)), times)
    axes[0].set(xlabel="t", title="times")
    axes[0].invert_yaxis()
    axes[1].set(xlabel="k", title="effective sigma of time k")
    axes[1].legend()
    told = f"The times of the grids {', '.join(times)} on {sde.name}, and the effective sigma there, from noise to data."
    return Plot(figure, told)


def _listed(values: Iterable[Any]) -> str:
    return ", ".join(value if isinstance(value, str) else f"{value:.3g}" for value in values)
