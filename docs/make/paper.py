"""The page docs/paper.md, its curve and its strips, from the record of ``stepsmith bench paper``; nothing is measured here."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

from stepsmith import plots
from stepsmith.measure import frechet, paper

RECORD = Path("benchmarks/paper.jsonl")
PICTURES = Path("docs/pictures")
Cells = dict[tuple[str, int], dict[str, float]]
CLAIMS = (  # the paper's claim, the sampler that is to have the smaller distance, the other one, the budget
    ("Reuse of a score helps a deterministic splitting", "RVV", "NVV", 50),
    ("Reuse of a score helps a stochastic splitting", "ROBA", "NOBA", 50),
    ("ROBA is better than Euler-Maruyama", "ROBA", "EM", 50),
    ("ROBA is better than SSCS", "ROBA", "SSCS", 50),
    ("SSCS is better than Euler-Maruyama", "SSCS", "EM", 50),
    ("ROBA is better than a deterministic splitting", "ROBA", "RVV", 50),
    ("Conjugate splitting is better than splitting", "conjugate VV", "RVV", 50),
    ("Conjugation hurts the stochastic splitting", "ROBA", "conjugate OBA", 50),
    ("A lambda helps at few calls", "lambda-DDIM-II, .5", "conjugate, lambda 0", 20),
    ("A lambda helps at fifty", "lambda-DDIM-II, .25", "conjugate, lambda 0", 50),
    ("lambda-DDIM-II is better than lambda-DDIM-I", "lambda-DDIM-II, .5", "lambda-DDIM-I, .5", 20),
)
OWN = (
    ("The eps-R frame does what a lambda imitates", "conjugate in eps-R", "lambda-DDIM-II, .5", 20),
    ("conjugate VV is better with epsilon held than with the data", "conjugate VV", "conjugate VV in x0", 50),
    ("conjugate OBA is better with the data held than with epsilon", "conjugate OBA in x0", "conjugate OBA", 50),
    ("adams-3 at 20 calls is better than ROBA at 50", "adams-3, log-SNR grid@20", "ROBA@50", 0),
    ("adams-3-gaussian at 20 calls is better than ROBA at 50", "adams-3-gaussian, tan grid@20", "ROBA@50", 0),
)
USUAL, MANY, FEW = 1000, 5000, 100  # samples a cell: of the tables, of what is compared closely, of a run of 200 calls
CLOSE = (
    ("adams-2 at 20 calls is better than ROBA at 100", "adams-2, log-SNR grid@20", "ROBA@100"),
    ("conjugate VV at 50 calls is better than adams-2 at 20", "conjugate VV@50", "adams-2, log-SNR grid@20"),
    ("lambda-DDIM-I at 50 calls is better than adams-2 at 20", "lambda-DDIM-I, .5@50", "adams-2, log-SNR grid@20"),
)
SHOWN = ("EM", "SSCS", "ROBA", "RVV", "conjugate, lambda 0", "lambda-DDIM-II, .5", "conjugate in eps-R", "conjugate VV", "RVV2",
         "adams-3, log-SNR grid", "adams-3-gaussian, tan grid")  # fmt: skip


def read(path: Path = RECORD) -> tuple[str, dict[int, Cells]]:
    """The networks, and the cells of each number of samples by (label, calls)."""
    counts: dict[int, Cells] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        samples, _, networks = entry["setting"].partition(" samples, ")
        label, _, nfe = entry["name"].rpartition(" @ ")
        counts.setdefault(int(samples), {})[label, int(nfe)] = entry["value"]
    return networks, counts


def verdict(cells: Cells, better: str, worse: str, nfe: int) -> str:
    """Shown, contradicted or not shown: whether the difference passes two standard errors."""
    keys = [(name.partition("@")[0], int(name.partition("@")[2] or nfe)) for name in (better, worse)]
    if not all(key in cells for key in keys):
        return "not measured"
    one, two = (cells[key] for key in keys)
    told = (
        f"{one['fd']:.2f} against {two['fd']:.2f}"
        if math.isfinite(two["fd"])
        else f"{one['fd']:.2f}, the other diverges"
    )
    error = math.hypot(one["error"], two["error"]) if math.isfinite(two["fd"]) else 0.0
    gap = two["fd"] - one["fd"]
    word = "shown" if gap > 2 * error else "contradicted" if gap < -2 * error else "not shown"
    return f"**{word}**: {told}" + (f" (two standard errors: {2 * error:.2f})" if error else "")


def claimed(counts: dict[int, Cells], better: str, worse: str, nfe: int) -> str:
    """The verdict of many samples where both cells have them, else that of the usual number."""
    many = verdict(counts.get(MANY, {}), better, worse, nfe)
    return verdict(counts[USUAL], better, worse, nfe) if many == "not measured" else f"{many}; {MANY:,} samples"


def table(cells: Cells, rows: Sequence[paper.Row]) -> list[str]:
    """Distances of rows at each budget."""
    heads = ["sampler", "paper, FID at 50", *(f"{nfe} calls" for nfe in paper.BUDGETS), "Laplacian at 50"]
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    for row in rows:
        found = [cells.get((row.label, nfe)) for nfe in paper.BUDGETS]
        texts = ["" if cell is None else distance(cell) for cell in found]
        middle = cells.get((row.label, 50), {}).get("laplacian", math.nan)
        said = "" if row.paper is None else f"{row.paper:g}"
        lines.append(
            f"| {row.label} | {said} | {' | '.join(texts)} | {'' if math.isnan(middle) else f'{middle:.3f}'} |"
        )
    return lines


def beside(cells: Cells, nfe: int = 50) -> list[str]:
    """The rows on the uniform grid, and without the last step, beside the usual run."""
    heads = ["sampler", "quadratic grid", "uniform grid", "no last step"]
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    for row in (*paper.PAPER, *paper.OURS):
        found = [cells.get((each.label, nfe)) for each in (row, row.varied("uniform", None), row.varied(None, "none"))]
        if all(found):
            lines.append(f"| {row.label} | {' | '.join(map(distance, filter(None, found)))} |")
    if len(lines) == 2:
        return []
    words = (
        f"At {nfe} calls. The uniform grid has equal steps in t. Without the last step the samples are the state at t = 1e-3, "
        "and its network call is spent on one more step."
    )
    return ["## Another grid, and no last step", words, "\n".join(lines)]


def scan(cells: Cells) -> list[str]:
    """lambda-DDIM-II at six values of lambda, those of the rule among them, beside what it would be for Gaussian data."""
    labels = {0.0: "conjugate, lambda 0", 0.25: "lambda-DDIM-II, .25", 0.5: "lambda-DDIM-II, .5"}
    labels |= {row.params["lambda_"]: row.label for row in paper.SCAN}
    values = sorted(labels)
    if not all((labels[value], nfe) in cells for value in values for nfe in paper.BUDGETS):
        return []
    heads = ["calls", "the rule", *(f"lambda = {value:g}" for value in values)]
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    for nfe in paper.BUDGETS:
        found = (distance(cells[labels[value], nfe]) for value in values)
        lines.append(f"| {nfe} | {paper.RULE[nfe]:g} | {' | '.join(found)} |")
    best = ", ".join(f"{min(values, key=lambda v: cells[labels[v], nfe]['fd']):g}" for nfe in paper.BUDGETS)
    words = (
        "The rule is `stepsmith tune --gaussian`: the lambda that is best for Gaussian data with the covariance of the images, "
        "found without a network. The distances are those of the trained network. They are smallest at lambda = "
        f"{best}, but from 50 calls on several values lie within the errors."
    )
    return ["## A rule for lambda", words, "\n".join(lines)]


def adaptive(cells: Cells) -> str:
    """What RK45 reached, and with how many calls."""
    found = [(label, cell) for (label, nfe), cell in cells.items() if nfe == 0]
    told = "; ".join(f"{label}: {distance(cell)} in {cell['calls']:.0f} calls" for label, cell in found)
    return f"scipy's RK45 on the probability flow of all samples as one system: {told}." if told else ""


def closely(many: Cells, few: Cells) -> list[str]:
    """The cells of many samples, what they tell apart, and what diverges at 200 calls."""
    rows = [row for row in paper.ROWS if any(label == row.label for label, _ in many)]
    long = {label: cell["away"] for (label, nfe), cell in few.items() if nfe == 200}
    diverged = [label for label, away in long.items() if away]
    return [
        f"## {MANY:,} samples, and 200 calls",
        f"{len(rows)} samplers with {MANY:,} samples a cell; the standard error is about a third.",
        "\n".join(table(many, rows)),
        "\n".join(["| question | result |", "|---|---|", *(f"| {words} | {verdict(many, *two, 0)} |" for words, *two in CLOSE)]),
        f"In runs of 200 calls, of {FEW} samples of each of {len(long)} samplers, "
        + (f"some of {', '.join(diverged)} diverge." if diverged else "none diverges."),
    ]


def distance(cell: dict[str, float]) -> str:
    """The distance of a cell as the tables print it."""
    if not math.isfinite(cell["fd"]):
        return "diverges"
    away = f", {cell['away']:.0f} diverged" if cell["away"] else ""
    return f"{cell['fd']:.2f} ± {cell['error']:.2f}{away}"


def curve(cells: Cells, path: Path) -> None:
    """Distance against calls."""
    budgets = sorted({nfe for name, nfe in cells if name in SHOWN})
    lines = {label: [cells.get((label, nfe), {"fd": math.nan})["fd"] for nfe in budgets] for label in SHOWN}
    finite = {label: [fd if math.isfinite(fd) else math.nan for fd in values] for label, values in lines.items()}
    plots.measures({"Frechet distance (Fashion-MNIST features)": finite}, budgets).save(path)


INTRO = """# The paper on real images

The source paper, [arXiv 2310.07894](https://arxiv.org/abs/2310.07894), compares its samplers by the FID of CIFAR-10 images
from a trained PSLD network, which is not public. Here the same samplers run on another network, `fashion-psld-eps-l`. It
predicts the noise of PSLD on Fashion-MNIST, has half a million parameters, and was trained on a CPU by examples/train.py. It
is one network from one training run, and nothing here was measured on a GPU. You can compare with the paper which sampler is
better, but not the numbers.

**The measure.** The distance is the Frechet distance between samples and data, in 64 features of a classifier of
Fashion-MNIST ({accuracy:.1f} % correct), with its standard error from the bootstrap. For {count} images it is
{scale}. The features hardly see grain and punish blur. The tables therefore also have the mean absolute Laplacian of the
pictures, which is {laplacian:.3f} for the data; a lower value means that details are washed out, a higher one that the
pictures are grainy. A sample that is not finite, or exceeds 10
where images lie in [-1, 1], has *diverged* and is left out.

`stepsmith bench paper` measures this ({setting}), and `python docs/make paper` writes this page.

## At equal network calls

All runs go from t = 1 to 1e-3 on the quadratic grid. A last network call gives the mean of the data, and is counted.
"""
SCALE = {
    "data drawn again": "floor",
    "held-out images": "held",
    "data with noise of standard deviation 0.1": "noise .10",
    "data blurred over 2 x 2 pixels": "blurred",
    "Gaussian noise": "ceiling",
}


def measured(networks: str, counts: dict[int, Cells]) -> str:
    """What the record says."""
    cells = counts[USUAL]
    figures = frechet.reference("fashion").figures
    known = {"accuracy": 100 * figures["accuracy"], "count": figures["count"], "laplacian": figures["laplacian"]}
    scale = ", ".join(f"{figures[key]:.2f} for {words}" for words, key in SCALE.items())
    paper_says = [
        f"| {claim} | {one} below {two} | {nfe} | {claimed(counts, one, two, nfe)} |" for claim, one, two, nfe in CLAIMS
    ]
    we_say = [f"| {claim} | {claimed(counts, one, two, nfe)} |" for claim, one, two, nfe in OWN]
    blocks = (
        INTRO.format(setting=f"{USUAL} samples, {networks}", scale=scale, **known).rstrip(),
        "\n".join(table(cells, paper.PAPER)),
        adaptive(cells),
        "## Other samplers on the same network",
        "The rows of `adams` use the same weights as a prediction of the data (`networks.predicting_data`).",
        "\n".join(table(cells, paper.OURS)),
        "![Frechet distance against network calls](pictures/paper-curve.svg)",
        "![Eight samples of each sampler at 20 network calls, from the same seeds](pictures/paper-strips.png)",
        f"*At 20 calls, the same seeds; from the top: {', '.join(SHOWN)}.*",
        *scan(cells),
        *beside(cells),
        *closely(counts.get(MANY, {}), counts.get(FEW, {})),
        "## A plain denoiser instead",
        "The network `fashion` has the same size and removes plain noise. It drives samplers of VP, and those of PSLD through "
        "the [bridge](concepts.md#the-network).",
        "\n".join(table(cells, paper.BRIDGED)),
        "## What the paper says",
        "*Shown* and *contradicted* mean that the difference exceeds two standard errors, *not shown* that it does not. "
        f"Where both have them, the {MANY:,} samples are compared. This says nothing about other networks.",
        "\n".join(["| claim of the paper | that is, in distance | calls | result here |", "|---|---|---|---|", *paper_says]),
        "\n".join(["| claim of stepsmith | result here |", "|---|---|", *we_say]),
    )
    return "\n\n".join(block for block in blocks if block)


def strips(path: Path) -> None:
    """Eight samples of the rows that are shown, at 20 calls."""
    import torch
    from PIL import Image

    from stepsmith.cli.paper import table as made
    from stepsmith.runtime.output import image_grid

    torch.set_num_threads(1)
    drawn = made(Path("out/unused.jsonl"), 8)
    rows = {row.label: row for row in paper.ROWS}
    samples = [drawn.draw(rows[label], 20, range(8)) for label in SHOWN]
    Image.fromarray(image_grid(torch.cat(samples), columns=8)).save(path, optimize=True)
