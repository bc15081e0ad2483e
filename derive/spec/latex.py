r"""The LaTeX that a name of a spec may carry, such as ``M^{-1}``: letters, digits, indices, powers and a few commands.

    expression := { atom [^ script] [_ script] }      atom   := letter | digit | + | - | , | \symbol | \accent{expression}
                                                      script := letter | digit | \symbol | {expression}

Nothing in it can be expanded by TeX, close what it stands in, or be markup of HTML.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from stepsmith.errors import InputError

from .sources import check_keys, shown

MOST = 60  # characters
SYMBOLS = re.findall(  # Greek letters and a few signs
    r"\w+",
    "alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi pi rho sigma tau upsilon phi "
    "varphi chi psi omega Gamma Delta Theta Lambda Xi Pi Sigma Upsilon Phi Psi Omega ell infty prime star",
)
ACCENTS = ("bar", "hat", "tilde", "dot", "vec", "mathrm", "mathbf", "mathcal")
SYMBOL = re.compile(rf"\\(?:{'|'.join(SYMBOLS)})(?![A-Za-z])")
PLAIN = r"(?:[A-Za-z0-9+,!-](?:\^[A-Za-z0-9](?:_[A-Za-z0-9])?|_[A-Za-z0-9](?:\^[A-Za-z0-9])?)?)+"  # ! is an accent
ACCENT = re.compile(rf"\\(?:{'|'.join(ACCENTS)})\{{{PLAIN}\}}")
SCRIPT = re.compile(rf"([\^_])\{{{PLAIN}\}}")


def read(where: str, key: str, table: Any, names: Mapping[str, Any]) -> dict[str, str]:
    """The table ``latex`` of a spec: a formula for some of its names.  InputError names the entry that is none."""
    check_keys(where, key, table, allowed=names, required=())
    for name, text in table.items():
        if not isinstance(text, str) or not is_formula(text):
            signs = " ".join(f"\\{accent}{{}}" for accent in ACCENTS)
            fix = f"write up to {MOST} letters, digits, + - , ^ _ with braces, Greek letters such as \\alpha, {signs}"
            raise InputError(where, f"{key}.{name}", f"{shown(text)} is no formula for a name", fix)
    return dict(table)


def is_formula(text: str) -> bool:
    """Whether the grammar above derives the text: innermost braces are replaced by a letter until none are left."""
    if len(text) > MOST or not text.isascii() or "!" in text:
        return False
    text = SYMBOL.sub("a", text).replace(" ", "")
    before = ""
    while before != text:
        before, text = text, SCRIPT.sub(r"\1a", ACCENT.sub("!", text))
    return re.fullmatch(PLAIN, text) is not None
