"""A report as HTML, Markdown and LaTeX: a document of few kinds of blocks, and one template a format."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any, ClassVar

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup  # comes with jinja2

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
    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
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
    """Text for LaTeX: every character that is special there is escaped."""
    return "".join(SPECIAL.get(letter, letter) for letter in text)


def markdown(text: str) -> str:
    """Text for Markdown: no markup of HTML, no cell of a table."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|")


def mathml(block: Math) -> Markup:
    """A formula as MathML, which browsers show without a script; InputError without latex2mathml."""
    try:
        from latex2mathml.converter import convert
    except ImportError:
        raise InputError("-", "report", "latex2mathml is not installed", "pip install 'stepsmith[report]'") from None
    return Markup(convert(block.latex, display="block"))


def render(report: Report, form: str) -> str:
    """The text of a report as ``html``, ``md`` or ``tex``."""
    space = Environment(
        loader=PackageLoader("stepsmith.templates", "report"), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        keep_trailing_newline=True, autoescape=form == "html",
    )  # fmt: skip
    space.filters["markdown"] = markdown
    helpers: dict[str, Any] = {"tex": tex, "md": markdown, "mathml": mathml}
    helpers["base64"] = lambda block: base64.b64encode(block.data).decode()
    return space.get_template(f"page.{form}.jinja").render(report=report, **helpers)
