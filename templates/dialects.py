"""Dialects: the text of a step module, and behind it the class or function by which a host runs it, in one file.

The parts of a host are files of templates/hosts, written for any module that keeps the contract.  What they import from
stepsmith stands above them in the file that is made.
"""

from __future__ import annotations

import ast
import sys
from importlib.resources import files

from stepsmith.errors import Unsupported

PARTS = {
    "torch": (),
    "diffusers": ("run", "replay", "trained", "diffusers"),
    "k-diffusion": ("run", "k_diffusion"),
    "comfyui": ("run", "k_diffusion", "comfyui"),
}


def attach(text: str, dialect: str) -> str:
    """The module ``text``, emitted or baked, with what the host ``dialect`` asks for; it stands on torch and the host alone.

    Raises Unsupported for a dialect that is not built, and for a module that is not run from a host's network alone: one for
    another network than the scalar denoiser, with constant components, an offset, or a coefficient a frequency.
    """
    if dialect not in PARTS:
        raise Unsupported(f"no dialect {dialect!r}", f"use {', '.join(PARTS)}")
    if dialect == "torch":
        return text
    known = _constants(text)
    if known["NETWORK"] != "denoiser":
        what = f"a host's network is reached through the denoiser, and this module calls {known['NETWORK']}"
        raise Unsupported(what, "take a denoiser: networks.from_eps, from_v and from_flow make one of another network")
    for name, what in (("CONSTANTS", "constant components"), ("FIELD", "a coefficient a frequency"), ("start_mean", "an offset")):
        if name in known:
            raise Unsupported(f"{known['SDE']} has {what}, which no host gives", "run it with stepsmith.sample")
    imports, body = _split(text)
    for part in PARTS[dialect]:
        source = files("stepsmith.templates").joinpath("hosts", f"{part}.py").read_text(encoding="utf-8")
        more, lines = _split(source)
        imports |= more
        body += f"\n\n# {ast.get_docstring(ast.parse(source))}\n\n{lines}"
    name = "_".join(known[key].replace("-", "_") for key in ("SDE", "SAMPLER"))
    return _head(text) + _sorted(imports) + "\n" + body.replace("sample_module", f"sample_{name}")


def _constants(text: str) -> dict[str, str]:
    """What a module defines, and the value of what is a literal text."""
    found = {}
    for node in ast.parse(text).body:
        if isinstance(node, ast.FunctionDef):
            found[node.name] = node.name
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            value = node.value.value if isinstance(node.value, ast.Constant) else ""
            found[node.targets[0].id] = str(value)
    return found


def _imports(text: str) -> list[ast.Import | ast.ImportFrom]:
    return [node for node in ast.parse(text).body if isinstance(node, ast.Import | ast.ImportFrom)]


def _head(text: str) -> str:
    """What stands above the first import: the docstring and comments."""
    return "".join(text.splitlines(keepends=True)[: _imports(text)[0].lineno - 1])


def _split(text: str) -> tuple[set[str], str]:
    """(the imports but for those of stepsmith, what stands below them)."""
    nodes = _imports(text)
    own = {ast.unparse(node) for node in nodes if not (getattr(node, "module", None) or "").startswith("stepsmith")}
    return own, "".join(text.splitlines(keepends=True)[nodes[-1].end_lineno or 0 :]).strip("\n") + "\n"


def _sorted(imports: set[str]) -> str:
    """The standard library first."""
    standard = {line for line in imports if line.split()[1].partition(".")[0] in sys.stdlib_module_names}
    order = lambda line: (line.startswith("from"), line)  # noqa: E731
    groups = (sorted(group, key=order) for group in (standard, imports - standard))
    return "\n".join("".join(f"{line}\n" for line in group) for group in groups if group)
