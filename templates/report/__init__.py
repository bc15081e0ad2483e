"""A report as HTML, Markdown and LaTeX: a document of few kinds of blocks, and one template a format."""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape  # comes with jinja2

from stepsmith.errors import InputError


@dataclass(frozen=True)
class Text:
    """Prose."""

    text: str
    kind: ClassVar[str] = "text"


@dataclass(frozen=True)
class Math:
    """A displayed formula."""

    latex: str
    kind: ClassVar[str] = "math"


@dataclass(frozen=True)
class Code:
    """Lines as they are."""

    text: str
    kind: ClassVar[str] = "code"


@dataclass(frozen=True)
class Table:
    """Cells are text, or formulas."""

    heads: tuple[str, ...]
    rows: tuple[tuple[str | Math, ...], ...]
    kind: ClassVar[str] = "table"


@dataclass(frozen=True)
class Picture:
    """A PNG; ``alt`` says what one sees, and is the caption."""

    name: str
    alt: str
    data: bytes
    kind: ClassVar[str] = "picture"


Block = Text | Math | Code | Table | Picture


@dataclass(frozen=True)
class Section:
    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Report:
    """A title and sections."""

    title: str
    sections: tuple[Section, ...]

    @property
    def pictures(self) -> tuple[Picture, ...]:
        return tuple(block for section in self.sections for block in section.blocks if isinstance(block, Picture))


SPECIAL = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "%": r"\%", "_": r"\_",
    "^": r"\textasciicircum{}", "~": r"\textasciitilde{}", "<": r"\textless{}", ">": r"\textgreater{}", "±": r"$\pm$",
}  # fmt: skip


def tex(text: str) -> str:
    """Text for LaTeX: what is special there is escaped, what pdflatex's fonts have no letter for is a question mark."""
    known = {letter for letter in text if letter.isascii() or (letter.isalpha() and letter < LATIN)}
    return "".join(SPECIAL.get(letter, letter if letter in known else "?") for letter in text)


LATIN = "\u0180"  # the letters of Latin-1 and Latin Extended-A end before it


def tex_lines(text: str) -> list[str]:
    """Lines of code for LaTeX, their spaces kept."""
    return [tex(line).replace("  ", r"\ \ ").replace(r"\  ", r"\ \ ") or r"\ " for line in text.splitlines()]


def markdown(text: str) -> str:
    """Text for Markdown: no markup of it or of HTML, no formula, no cell of a table."""
    return re.sub(r"([\\`*_\[\]|$~#])", r"\\\1", text.replace("&", "&amp;").replace("<", "&lt;"))


def fence(text: str) -> str:
    """More backticks than stand anywhere in the code."""
    return "`" * max([3, *(len(run) + 1 for run in re.findall("`+", text))])


def check() -> None:
    """InputError without latex2mathml."""
    try:
        import latex2mathml.converter  # noqa: F401
    except ImportError:
        raise InputError("-", "report", "latex2mathml is not installed", "pip install 'stepsmith[report]'") from None


def mathml(block: Math, display: str = "block") -> Markup:
    """A formula as MathML, which browsers show without a script; as LaTeX where the converter cannot read it."""
    from latex2mathml.converter import convert

    try:
        return Markup(convert(block.latex, display=display))
    except Exception:  # of any kind: one formula must not cost the page, which took a minute
        return Markup("<code>{}</code>").format(block.latex)


def cell(form: str, value: str | Math) -> str:
    """A cell of a table: text, or a formula in a line."""
    if isinstance(value, Math):
        return mathml(value, "inline") if form == "html" else f"${value.latex}$"
    return {"html": escape, "md": markdown, "tex": tex}[form](value)


def render(report: Report, form: str) -> str:
    """The text of a report as ``html``, ``md`` or ``tex``."""
    space = Environment(
        loader=PackageLoader("stepsmith.templates", "report"), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        keep_trailing_newline=True, autoescape=form == "html",
    )  # fmt: skip
    space.filters["cell"] = partial(cell, form)
    helpers: dict[str, Any] = {"tex": tex, "tex_lines": tex_lines, "md": markdown, "fence": fence, "mathml": mathml}
    helpers["base64"] = lambda block: base64.b64encode(block.data).decode()
    return space.get_template(f"page.{form}.jinja").render(report=report, **helpers)
