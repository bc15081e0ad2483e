"""A report on a diffusion and some samplers: the mathematics that was derived, what was proven, and what was measured.

Everything in it comes from where it is derived or measured; here it is put into sections.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from stepsmith import certificate
from stepsmith.derive import describe, report
from stepsmith.derive.method import derive
from stepsmith.derive.orders.stability import curves
from stepsmith.errors import InputError, Unsupported
from stepsmith.files import write_whole
from stepsmith.loading import load
from stepsmith.measure import bench
from stepsmith.runtime import TimeGrid, budget_steps, sample
from stepsmith.runtime.output import image_grid
from stepsmith.templates.report import Block, Code, Math, Picture, Report, Section, Table, Text, render

BUDGETS, SEEDS, PATHS = (5, 10, 20, 50), range(8), 64
STYLES = ("-", "--", ":", "-.")
GREYS = ("black", "0.35", "0.55", "0.2")


def written(
    sde: Any, samplers: Sequence[Any], network: Any, out: Path, done: Callable[[str], None] = lambda text: None
) -> list[Path]:
    """Write report.html (with its pictures inside), report.md, report.tex and the pictures into a folder.

    ``sde``: a LinearSDE; ``samplers``: names, specs or compositions; ``network``: a denoiser; ``done`` is told the titles.
    """
    found = Report(f"{sde.name}: {sde.doc or 'a linear diffusion'}", tuple(told(sections(sde, samplers, network), done)))
    out.mkdir(parents=True, exist_ok=True)
    files = [(out / f"{picture.name}.png", picture.data) for picture in found.pictures]
    files += [(out / f"report.{form}", render(found, form).encode()) for form in ("md", "tex", "html")]
    for path, data in files:
        write_whole(path, data)
    return [path for path, _ in files]


def told(found: Iterator[Section], done: Callable[[str], None]) -> Iterator[Section]:
    for section in found:
        done(section.title)
        yield section


def sections(sde: Any, samplers: Sequence[Any], network: Any) -> Iterator[Section]:
    """The sections in turn: the diffusion, its kernel, each sampler, then what was measured of all."""
    yield diffusion(sde)
    yield kernel(sde)
    methods = [derive(sde, sampler, network.kind) for sampler in samplers]
    for method in methods:
        yield proven(method)
    modules = {method.name: load(certificate.emit(method)) for method in methods}
    if (found := stability(methods)) is not None:
        yield found
    yield errors(sde, methods, modules)
    yield samples(methods, modules, network)
    yield Section("What is proven, and what is not", (Text(TRUST),))


TRUST = (
    "Proven: the law of the diffusion, the orders and the leading errors, at random points or in symbols, for a smooth "
    "network, an exact start and bounded ratios of steps. Measured: the errors against network calls, on mixtures of Gaussians "
    "whose network is exact, and the samples, of one trained network. A proof of order says how an error falls, not how large "
    "it is."
)


def diffusion(sde: Any) -> Section:
    """The mathematics of the diffusion."""
    blocks: list[Block] = []
    for part in report.report(sde):
        blocks.append(Text(f"{part.title[:1].upper()}{part.title[1:]}" + ("" if part.title.endswith("=") else ":")))
        blocks += [Math(line) for line in part.latex.splitlines()]
    rows = tuple((name, f"{value:g}") for name, value in sde.params.items())
    return Section("The diffusion", (*blocks, *((Table(("parameter", "default"), rows),) if rows else ())))


def kernel(sde: Any) -> Section:
    """Mean, standard deviations, correlation and effective sigma against time."""
    view, (start, end) = sde.at(), (float(t) for t in sde.time)
    times = np.linspace(start, end, 61)[1:]
    means = np.array([view.transition(t, start)[:, sde.data[0]] for t in times])
    laws = np.array([view.covariance(t) for t in times])
    spreads = np.sqrt(np.einsum("tii->ti", laws))
    figure, axes = panels(3 if sde.n > 1 else 2)
    for k, block in enumerate(sde.state):
        axes[0].plot(times, means[:, k], STYLES[k % 4], color=GREYS[0], label=f"mean of {block}")
        axes[0].plot(times, spreads[:, k], STYLES[k % 4], color=GREYS[2], label=f"spread of {block}")
    axes[0].set(xlabel="t", title="for unit data")
    axes[1].semilogy(times, view.effective_sigma(times), color=GREYS[0])
    axes[1].set(xlabel="t", title="effective sigma")
    if sde.n > 1:
        for i in range(sde.n):
            for j in range(i):
                line = laws[:, i, j] / (spreads[:, i] * spreads[:, j])
                axes[2].plot(times, line, STYLES[(i + j) % 4], color=GREYS[0], label=f"{sde.state[j]}, {sde.state[i]}")
        axes[2].set(xlabel="t", title="correlation given the data")
        axes[2].legend(fontsize=8)
    axes[0].legend(fontsize=8)
    alt = "Mean and standard deviation of each block for unit data, the effective sigma, and correlations, against time"
    return Section("The law of the state given the data", (picture("kernel", alt, figure),))


def proven(method: Any) -> Section:
    """Rule, cost, orders and leading error of a sampler."""
    blocks: list[Block] = [Text(method.title), Code("\n".join(describe.update_rule(method)))]
    blocks.append(Text(f"{describe.cost(method)} {describe.claims(method)} {describe.ASSUMED}"))
    terms = method.local_error or ()
    if terms:
        blocks.append(Text("The local error of a step of length h, exact minus numerical:"))
        blocks += [Math(term.latex()) if len(str(term)) <= describe.MOST else Code(str(term)) for term in terms]
        blocks.append(Code("\n".join(terms[0].where)))
    return Section(f"The sampler {method.sampler.name}", tuple(blocks))


def stability(methods: Sequence[Any]) -> Section | None:
    """The spectral radius against the step, and the largest stable steps."""
    limits = {method.sampler.name: method.stability().largest for method in methods}
    lines = [f"{name}: largest stable step {', '.join(map(str, found))}" for name, found in limits.items() if found]
    figure, axes = panels(1)
    for k, method in enumerate(methods):
        try:
            _, lengths, radii, exact = curves(method)[1]
        except (Unsupported, ValueError):
            continue
        axes[0].loglog(lengths, exact, color="0.8", linewidth=3, label=None if k else "exact")
        axes[0].loglog(lengths, radii, STYLES[k % 4], color=GREYS[k % 4], label=method.sampler.name)
    if not lines:
        return None
    axes[0].axhline(1, color="0.8", linewidth=0.8)
    axes[0].set(xlabel="step h", ylabel="spectral radius")
    axes[0].legend(fontsize=8)
    told = Code("\n".join(lines))
    alt = "Spectral radius of a step from the middle of the span against its length, on Gaussian data; above 1 errors grow"
    return Section("Stability on Gaussian data", (picture("stability", alt, figure), told))


def errors(sde: Any, methods: Sequence[Any], modules: dict[str, Any]) -> Section:
    """Errors against network calls on exact problems."""
    ground = bench.Bench.exact(sde, PATHS)
    figure, axes = panels(1)
    rows = []
    for k, method in enumerate(methods):
        cells = [ground.cell(modules[method.name], "logsnr", calls) for calls in BUDGETS]
        key = "distance" if method.random else "median"
        values = [cell.get(key, np.nan) for cell in cells]
        rows.append((method.sampler.name, key, *(f"{value:.2g}" for value in values)))
        style = {"marker": "o", "markersize": 3, "color": GREYS[k % 4], "label": f"{method.sampler.name} ({key})"}
        axes[0].loglog(BUDGETS, values, STYLES[k % 4], **style)
    axes[0].set(xlabel="network calls")
    axes[0].set_xticks(BUDGETS, map(str, BUDGETS), minor=False)
    axes[0].legend(fontsize=8)
    head = Text(
        f"Three mixtures of Gaussians whose network is exact, {PATHS} paths each, grid even in log-SNR. Deterministic "
        "samplers: the median distance to the probability flow. Samplers that draw noise: the sliced Wasserstein distance to the "
        "law, which has a floor with so few paths. The two are not to be compared."
    )
    table = Table(("sampler", "measure", *(f"{calls} calls" for calls in BUDGETS)), tuple(rows))
    shown = picture("errors", "Error against network calls", figure)
    return Section("Error against network calls, measured", (head, shown, table))


def samples(methods: Sequence[Any], modules: dict[str, Any], network: Any) -> Section:
    """A strip of samples at each budget."""
    blocks: list[Block] = []
    sde = methods[0].sde
    low, high = sde.at().effective_sigma(np.array([float(sde.time[0]) + 1e-3, float(sde.time[1])])).tolist()
    least, most = network.sigma_range or (low, high)
    first, last = TimeGrid.sigmas(sde, [min(high, most), max(low, least)]).times.tolist()
    for method in methods:
        rows = []
        for calls in BUDGETS:
            steps = max(1, budget_steps(max(calls, method.nfe), max(1, method.nfe), "none")[0])
            grid = TimeGrid.logsnr(method.sde, steps, first, last)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                rows.append(sample(modules[method.name], network, grid, SEEDS))
        drawn = torch.cat(rows)
        sheet = image_grid(drawn if network.picture is None else network.picture(drawn), columns=len(SEEDS))
        budgets = ", ".join(map(str, BUDGETS))
        alt = f"{method.sampler.name}: the same eight seeds at {budgets} network calls (rows), network {network.name}"
        blocks.append(Picture(f"samples-{method.name}", alt, png(sheet)))
    return Section("Samples", tuple(blocks))


def panels(count: int) -> tuple[Any, list[Any]]:
    """A figure of panels side by side; InputError without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise InputError("-", "report", "matplotlib is not installed", "pip install 'stepsmith[report]'") from None
    figure = Figure(figsize=(4.2 * count if count > 1 else 6, 3.6), layout="constrained")
    axes = figure.subplots(1, count, squeeze=False)[0]
    for each in axes:
        each.spines[["top", "right"]].set_visible(False)
    return figure, list(axes)


def picture(name: str, alt: str, figure: Any) -> Picture:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    return Picture(name, alt, buffer.getvalue())


def png(sheet: Any) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(sheet).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
