"""A report on a diffusion and some samplers: the mathematics that was derived, what was proven, and what was measured.

Everything in it comes from where it is derived (derive), measured (measure) or drawn (plots); here it is put into sections, and
in derived_sections.py.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from stepsmith import certificate, plots
from stepsmith.derive.method import derive
from stepsmith.derived_sections import VARIANCE, diffusion, law, picture, sampler
from stepsmith.errors import InputError, Unsupported
from stepsmith.files import write_whole
from stepsmith.loading import load
from stepsmith.measure import bench
from stepsmith.measure.budgets import steps_within
from stepsmith.measure.orders import reference
from stepsmith.measure.slopes import Slope, measure
from stepsmith.runtime import TimeGrid, sample
from stepsmith.runtime.output import image_grid
from stepsmith.templates.report import Block, Picture, Report, Section, Table, Text, check, render

BUDGETS, SEEDS, PATHS, GRID = (5, 10, 20, 50), range(8), 64, "uniform"
OWN = "eps-L"  # the network of a diffusion with a field, which no denoiser of plain noise drives

STABLE = (
    f"Data N(0, {VARIANCE:g}) with their exact network. A step is stable where its spectral radius is at most 1, or that of the "
    "exact flow, to one part in 10^9: a slow growth counts. The largest stable step is bracketed to one part in ten thousand; "
    '"at least" where no longer one could be tried. A sampler that reads earlier steps is left out: a long step has no room for '
    "them."
)
SLOPES = (
    "Deterministic samplers run from states of a mixture of Gaussians with its exact network, and are held to the probability "
    "flow; those that draw noise are held to the exact mean and covariance on Gaussian data, without Monte Carlo. Equal steps in "
    "t, between effective sigmas of about 2 and 0.6."
)
ERRORS = (
    "Three mixtures of Gaussians whose network is exact, a grid even in log-SNR. Deterministic samplers: the median distance to "
    "the probability flow. Samplers that draw noise: the sliced Wasserstein distance to the law, which has a floor with so few "
    "paths. The two are not to be compared."
)
GIVEN = (
    "Not measured: {name} has constant components ({names}), which belong to a sample and are given with it, as an image to be "
    "restored is. stepsmith.sample(..., constants=...) draws samples."
)
SPECTRAL = (
    "Not measured: {name} has a noise level for each frequency, and a denoiser of plain noise is given one. The samplers above "
    "are derived for a network of this diffusion, of the kind {kind}. stepsmith.sample draws samples with such a network."
)
NOISE = (
    "Where a sampler has too few network calls, its samples are noise or grain: the error of its steps is then as large as the "
    "picture, whatever its order. More calls or another sampler help; the network is the same in every row."
)
TRUST = (
    "Proven: the law of the diffusion, the orders and the leading errors, at random points or in symbols, for a smooth network, "
    "an exact start and bounded ratios of steps. Computed: sizes and stability, on Gaussian data. Measured: {measured}. A proof "
    "of order says how an error falls, not how large it is."
)


def written(
    sde: Any, samplers: Sequence[Any], network: Any, out: Path, begun: Callable[[str, int], None] = lambda title, count: None
) -> list[Path]:
    """Write report.html (with its pictures inside), report.md, report.tex and the pictures into a folder.

    ``sde``: a LinearSDE; ``samplers``: names, specs or compositions; ``network``: a denoiser; ``begun`` is told the title of a
    section before it is made, and how many there are.
    """
    check()
    plots.need()
    parts, found = Subject(sde, tuple(samplers), network).parts, []
    for title, make in parts:
        begun(title, len(parts))
        blocks = tuple(make())
        found += [Section(title, blocks)] if blocks else []
    page = Report(f"{sde.name}: {sde.doc or 'a linear diffusion'}", tuple(found))
    files = [(out / f"{picture.name}.png", picture.data) for picture in page.pictures]
    files += [(out / f"report.{form}", render(page, form).encode()) for form in ("md", "tex", "html")]
    out.mkdir(parents=True, exist_ok=True)
    for path, data in files:
        write_whole(path, data)
    return [path for path, _ in files]


@dataclass(frozen=True)
class Subject:
    """What the report is about; each piece is made when a section first asks for it."""

    sde: Any
    samplers: tuple[Any, ...]
    network: Any

    @property
    def parts(self) -> list[tuple[str, Callable[[], Iterator[Block]]]]:
        """The sections: a title, and what makes its blocks."""
        own = [(f"The sampler {method.sampler.called}", lambda method=method: sampler(method)) for method in self.methods]
        return [
            ("The diffusion", lambda: diffusion(self.sde)),
            ("The law of the state given the data", lambda: law(self.sde)),
            *own,
            ("Stability on Gaussian data", lambda: stability(self.methods)),
            ("Order, proven and measured", lambda: orders(self)),
            ("Error against network calls", lambda: errors(self)),
            ("Samples", lambda: samples(self)),
            ("What is proven, and what is measured", lambda: summary(self)),
        ]

    @cached_property
    def methods(self) -> list[Any]:
        kind, found = OWN if self.sde.field else self.network.kind, dict[str, Any]()
        for source in self.samplers:
            method = derive(self.sde, source, kind)
            if method.sampler.name in found:  # a picture and a row for each name
                what = f"two of them have the name {method.sampler.name}"
                raise InputError("-", "samplers", what, "give each once, with a name of its own")
            found[method.sampler.name] = method
        return list(found.values())

    @property
    def unmeasured(self) -> str:
        """Why no network and no mixture drives the samplers; nothing where they do."""
        if self.sde.field:
            return SPECTRAL.format(name=self.sde.name, kind=OWN)
        return GIVEN.format(name=self.sde.name, names=", ".join(self.sde.constant)) if self.sde.constant else ""

    @cached_property
    def modules(self) -> dict[str, Any]:
        """The emitted modules by the names of their samplers."""
        return {method.sampler.name: load(certificate.emit(method)) for method in self.methods}

    @cached_property
    def slopes(self) -> dict[str, Slope]:
        """Runs on more and more steps of a mixture of Gaussians (weak orders: of a Gaussian)."""
        ground = reference(self.sde)
        return {name: measure(module, ground, GRID) for name, module in self.modules.items()}


def stability(methods: Sequence[Any]) -> Iterator[Block]:
    """The spectral radius against the step, and the largest stable steps."""
    drawn, rows = plots.stability(methods), []
    for method in methods:
        try:
            rows += [(method.sampler.called, ", ".join(map(str, method.stability(VARIANCE).largest)))]
        except Unsupported:
            continue
    rows = [(name, limits) for name, limits in rows if limits]
    if drawn is None or not rows:
        return
    yield Text(STABLE)
    yield picture("stability", drawn)
    yield Table(("sampler", "largest stable step"), tuple(rows))


def orders(subject: Subject) -> Iterator[Block]:
    """Error against steps beside lines of the proven slopes."""
    yield Text(SLOPES)
    pairs = zip(subject.methods, subject.slopes.values(), strict=True)
    runs = {m.sampler.called: (slope.steps, slope.errors, proven(m)) for m, slope in pairs}
    yield picture("orders", plots.orders(runs))


def errors(subject: Subject) -> Iterator[Block]:
    """Errors against network calls on exact problems."""
    if subject.unmeasured:
        yield Text(subject.unmeasured)
        return
    ground = bench.Bench.exact(subject.sde, PATHS)
    found: dict[str, dict[str, list[float]]] = {}
    for method in subject.methods:
        cells = [ground.cell(subject.modules[method.sampler.name], "logsnr", calls) for calls in BUDGETS]
        key = "distance" if method.random else "median"
        found.setdefault(MEASURES[key], {})[method.sampler.called] = [cell.get(key, np.nan) for cell in cells]
    yield Text(f"{ERRORS} {PATHS} paths a mixture.")
    yield picture("errors", plots.measures(found, BUDGETS))
    rows = [(name, title, *(plain(e) for e in values)) for title, group in found.items() for name, values in group.items()]
    yield Table(("sampler", "measure", *(f"{calls} calls" for calls in BUDGETS)), tuple(rows))


def plain(value: float) -> str:
    """Two digits, and a power of ten only beyond four places."""
    return f"{value:.2g}" if not 1e-4 <= abs(value) < 1e4 else np.format_float_positional(value, 2, fractional=False, trim="-")


MEASURES = {"median": "median distance to the flow", "distance": "distance to the law"}


def samples(subject: Subject) -> Iterator[Block]:
    """A strip of samples at each budget, from the same seeds; none of a diffusion that is given more than a seed."""
    if subject.unmeasured:
        return
    sde, network = subject.sde, subject.network
    low, high = sde.at().effective_sigma(np.array([float(sde.time[0]) + 1e-3, float(sde.time[1])])).tolist()
    least, most = network.sigma_range or (low, high)
    first, last = TimeGrid.sigmas(sde, [min(high, most), max(low, least)]).times.tolist()
    yield Text(NOISE)
    for method in subject.methods:
        name, module, rows = method.sampler.name, subject.modules[method.sampler.name], []
        for calls in BUDGETS:
            grid = TimeGrid.logsnr(sde, max(1, steps_within(module, calls)), first, last)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                rows.append(sample(module, network, grid, SEEDS))
        budgets = ", ".join(map(str, BUDGETS))
        told = f"the same {len(SEEDS)} seeds at {budgets} network calls, a row each; network {network.name}"
        yield Picture(f"samples-{name}", f"{method.sampler.called}: {told}", strips(rows, network))


def summary(subject: Subject) -> Iterator[Block]:
    """Proven and measured side by side, and what the words mean."""
    rows = []
    for method in subject.methods:
        order, slope = proven(method), subject.slopes[method.sampler.name]
        kind = "weak order" if method.random else "order"
        read = f"{slope.lowest:.2f}{'' if slope.converged else ', not converged'}"
        claim = f"{kind} {'-' if order is None else order}"
        rows.append((method.sampler.called, str(method.nfe), str(method.draws), claim, read))
    yield Table(("sampler", "calls a step", "draws a step", "proven", "measured slope"), tuple(rows))
    more = "the slopes" if subject.unmeasured else "the slopes and the errors against network calls"
    drawn = "" if subject.unmeasured else ", and the samples, of one trained network"
    yield Text(TRUST.format(measured=f"{more}, on mixtures of Gaussians whose network is exact{drawn}"))


def proven(method: Any) -> int | None:
    return method.weak_order if method.random else method.order


def strips(rows: Sequence[torch.Tensor], network: Any) -> bytes:
    """Rows of samples as a PNG, each with its network calls before it."""
    from PIL import Image, ImageDraw, ImageFont

    drawn = torch.cat(list(rows))
    sheet = Image.fromarray(image_grid(drawn if network.picture is None else network.picture(drawn), columns=len(SEEDS)))
    scale = max(1, 640 // sheet.width)
    sheet = sheet.convert("RGB").resize((sheet.width * scale, sheet.height * scale), Image.Resampling.NEAREST)
    page = Image.new("RGB", (sheet.width + MARGIN, sheet.height), "white")
    page.paste(sheet, (MARGIN, 0))
    height, font = sheet.height / len(rows), ImageFont.load_default(size=18)
    for k, calls in enumerate(BUDGETS):
        ImageDraw.Draw(page).text((MARGIN - 8, (k + 0.5) * height), str(calls), fill="#333333", font=font, anchor="rm")
    buffer = io.BytesIO()
    page.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


MARGIN = 40  # pixels before a row
