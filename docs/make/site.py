"""Pages that mkdocs gets from the catalogue while it builds the site: one a sampler, one a diffusion, and their two lists.

Run by the plugin gen-files (mkdocs.yml); nothing is written into docs/.  A strip has a row for 5, 10, 20 and 50 network calls,
drawn from the same eight seeds with the network of the package; strips are kept in out/site, by the digest of their module.
"""

from __future__ import annotations

import io
import warnings
from collections import defaultdict
from pathlib import Path

import mkdocs_gen_files
import torch
from PIL import Image

import stepsmith as ss
from stepsmith.derive import catalogue, describe
from stepsmith.runtime import budget_steps
from stepsmith.runtime.output import image_grid

CALLS, SEEDS = (5, 10, 20, 50), range(8)
KEPT = Path("out/site")
TABLES = Path("docs/which-tables.md").read_text(encoding="utf-8")


def page(path: str, *blocks: str) -> None:
    """Write a page of blocks with an empty line between them."""
    with mkdocs_gen_files.open(path, "w") as file:
        file.write("\n\n".join(block for block in blocks if block) + "\n")


def code(lines: list[str]) -> str:
    return "\n".join(["```text", *lines, "```"])


def table(heads: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in (heads, ("---",) * len(heads), *rows))


def sentence(text: str) -> str:
    """With a capital and a full stop."""
    return f"{text[:1].upper()}{text[1:].rstrip('.')}."


def strip(method: ss.Method) -> bytes | None:
    """The PNG of samples at each budget; None for a network that the package has not, and where the runs are no images."""
    if method.network_name != "denoiser" or method.sde.constant:
        return None
    kept = KEPT / f"{method.digest}.png"
    if not kept.is_file():
        network, module = ss.networks.load("fashion"), ss.load(ss.emit(method))
        rows = []
        for calls in CALLS:
            steps, _ = budget_steps(calls, max(1, method.nfe), "none")
            rows.append(ss.sample(module, network, ss.TimeGrid.logsnr(method.sde, max(1, steps)), SEEDS))
        buffer = io.BytesIO()
        Image.fromarray(image_grid(torch.cat(rows), columns=len(SEEDS))).save(buffer, "PNG", optimize=True)
        KEPT.mkdir(parents=True, exist_ok=True)
        kept.write_bytes(buffer.getvalue())
    return kept.read_bytes()


def picture(method: ss.Method) -> str:
    """The strip of a method as Markdown, its file written; empty where there is none."""
    data = strip(method)
    if data is None:
        return ""
    with mkdocs_gen_files.open(f"pictures/{method.name}.png", "wb") as file:
        file.write(data)
    budgets = ", ".join(map(str, CALLS[:-1])) + f" and {CALLS[-1]}"
    alt = f"Four rows of eight samples, at {budgets} network calls"
    return (
        f"![{alt}](../pictures/{method.name}.png)\n\n"
        f"*The same eight seeds at {budgets} network calls (rows), on `{method.sde.name}` with the network of Fashion-MNIST, "
        "grid even in log-SNR. A sampler of two calls a step takes half the steps. Pictures show, they do not rank.*"
    )


def order(method: ss.Method) -> str:
    value = method.weak_order if method.random else method.order
    return ("weak " if method.random else "") + ("-" if value is None else f"{value:g}")


def when(name: str) -> str:
    """On which diffusions, and with how many calls, the tables of docs/which-tables.md have a sampler as the best or equal."""
    found = []
    for section in TABLES.split("\n## ")[1:-1]:
        rows = [line[2:-2].split(" | ") for line in section.splitlines() if line.startswith("| ")]
        if calls := [row[0] for row in rows if f"`{name}`" in row[2]]:
            found.append(f"{section.partition(chr(10))[0]} ({', '.join(calls)} calls)")
    where = f"It is the best, or within a tenth of it, on {'; '.join(found)}" if found else "It is never the best"
    return f"{where} in [the tables](../which-tables.md), which compare samplers with exact networks at 5 to 100 calls."


def sampler_page(name: str, rows: list[catalogue.Row]) -> tuple[str, ...]:
    """Write the page of a sampler; its line of the list."""
    method = next(row for row in rows if row.name in KEPT_NAMES or row is rows[-1]).derive()
    sampler = method.sampler
    source = f"Source: {sampler.reference}." if sampler.reference else ""
    known = table(
        ("module", "diffusion", "network"), [(f"`{r.name}`", f"[{r.sde}](../diffusions/{r.sde}.md)", r.network) for r in rows]
    )
    page(
        f"samplers/{name}.md",
        f"# {name}",
        f"{sentence(sampler.doc)} {source}",
        "## The step",
        f"On `{method.sde.name}`, from t0 to t1 = t0 - h:",
        code(describe.update_rule(method)),
        "## Cost and order",
        f"{describe.cost(method)} {describe.claims(method)} {describe.ASSUMED}",
        code(describe.leading(method)) if describe.leading(method) else "",
        "[What the words mean](../trust.md)",
        "## When",
        f"{when(name)} [Which sampler, when](../which.md) has the summary.",
        "## Samples",
        picture(method) or "The package has no network for this one.",
        "## Use it",
        f"```\nstepsmith sample --sde {method.sde.name} --sampler {name} --nfe 20 --out samples.png\n"
        f"stepsmith build {method.name} --out .\n```",
        "## In the catalogue",
        known,
    )
    return (f"[{name}]({name}.md)", sampler.family, str(method.nfe), order(method), sampler.doc)


def diffusion_page(name: str, rows: list[catalogue.Row]) -> tuple[str, ...]:
    """Write the page of a diffusion; its line of the list."""
    sde = ss.load_sde(name)
    lets = [f"with {key} = {value}" for key, value in sde.let.items()]
    constants = table(("parameter", "default"), [(f"`{key}`", f"{value:g}") for key, value in sde.params.items()])
    samplers = sorted({row.sampler for row in rows})
    page(
        f"diffusions/{name}.md",
        f"# {name}",
        sentence(sde.doc),
        "Forward in the network's time t:",
        code([*describe.equations(sde), *lets, *([describe.frequency(sde)] if sde.field else [])]),
        constants if sde.params else "",
        f"The span is {sde.time[0]} < t <= {sde.time[1]}. Blocks: {', '.join(f'`{block}`' for block in sde.state)}.",
        f"```\nstepsmith derive {name}     # its transition, covariance and stationary law\n```",
        "## Samplers in the catalogue",
        ", ".join(f"[{sampler}](../samplers/{sampler}.md)" for sampler in samplers),
    )
    return (f"[{name}]({name}.md)", str(len(sde.state)), sde.doc)


def pages() -> None:
    """All pages."""
    samplers, diffusions = defaultdict(list), defaultdict(list)
    for row in catalogue.rows():
        samplers[row.sampler].append(row)
        diffusions[row.sde].append(row)
    heads = ("sampler", "family", "calls a step", "proven order", "what it is")
    lines = [sampler_page(name, samplers[name]) for name in sorted(samplers)]
    said = "The order is that of a whole run, with its first and last steps; it is weak where the sampler draws noise."
    page("samplers/index.md", "# Samplers", said, table(heads, lines))
    lines = [diffusion_page(name, diffusions[name]) for name in sorted(diffusions)]
    page("diffusions/index.md", "# Diffusions", table(("diffusion", "blocks", "what it is"), lines))


KEPT_NAMES = {row.name for row in catalogue.kept()}
torch.set_num_threads(1)
warnings.filterwarnings("ignore", message="the grid reaches effective sigmas")  # clipping is meant here
pages()
