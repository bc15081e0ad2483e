"""Samplers as specifications: a family, a composition string and parts, bound to a diffusion only when derived."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from stepsmith.errors import InputError

from ..maths.budget import within
from ..maths.notation import html_table
from ..spec import formula, formula_reader
from ..spec import sources as spec
from ..spec.composition import Token, parse_composition
from ..spec.formula import Formula
from ..spec.words import refuse_taken
from . import adams
from .adams import Adams

LINES = ("step", "warmup", "final", "let")
KEYS = ("name", "doc", "reference", "family", "target", "composition", "parts", "params", "B", *adams.KEYS, *LINES)
SPLITTINGS = ("splitting", "conjugate-splitting")
FAMILIES = ("conjugate", *SPLITTINGS, "adams", *formula.FAMILIES)
PART_KEYS = ("rows", "linear", "offset", "score", "noise", "noise_clock", "solve", "B")
SOLVERS = ("exact", "euler", "conjugate")
COMPOSED = "the composition "  # and the string that a sampler was given as


@dataclass(frozen=True)
class PartSpec:
    """One part of a split as the user wrote it; see split.py for what the words mean."""

    letter: str
    rows: Any = "all"
    linear: Any = "none"
    offset: Any = None
    score: Any = "none"
    noise: Any = "none"
    noise_clock: Mapping[str, str] = field(default_factory=dict)
    solve: str = "euler"
    B: Any = "0"


@dataclass(frozen=True, repr=False)
class Sampler:
    """A sampler: ``family`` conjugate (with the matrix ``B``), splitting or conjugate-splitting (with parts), adams (with its
    settings), or one of the families whose steps are lines of text (``formula``).

    ``target`` is "ode" (probability flow) or "sde" (reverse SDE); ``params`` are parameters of its own, such as lambda.
    """

    name: str
    family: str
    target: str
    composition: tuple[Token, ...] = ()
    parts: Mapping[str, PartSpec] = field(default_factory=dict)
    params: Mapping[str, float] = field(default_factory=dict)
    B: Any = "0"
    doc: str = ""
    reference: str = ""
    where: str = "-"
    formula: Formula | None = None
    adams: Adams | None = None

    def __repr__(self) -> str:
        calls = f"{self.nfe} network call{'s' if self.nfe > 1 else ''} a step"
        return f"Sampler({self.name}: {self.text or self.family}, {calls})"

    def _repr_html_(self) -> str:
        """Name, composition, cost and source, for a notebook."""
        rows = {"sampler": self.name, "is": self.doc, "composition": self.text or self.family, "target": self.target}
        return html_table({**rows, "network calls a step": str(self.nfe), "source": self.reference})

    @property
    def text(self) -> str:
        """The composition as a string; the family of a sampler that has none but for the conjugate step."""
        if self.formula is not None or self.adams is not None:
            return self.family
        count = Counter(token.letter for token in self.composition)
        even = (token.share * count[token.letter] == 1 for token in self.composition)
        texts = zip(map(str, self.composition), even, strict=True)
        return " ".join(re.sub(r"\(1/\d+\)$", "", text) if same else text for text, same in texts)

    @property
    def called(self) -> str:
        """What a person calls it: its name, or the composition that it was given as."""
        return self.doc.removeprefix(COMPOSED) if self.doc.startswith(COMPOSED) else self.name

    @property
    def nfe(self) -> int:
        if self.formula is not None:
            return self.formula.calls(self.formula.step)
        return max(1, sum(token.fresh for token in self.composition))


# The parts behind a bare composition string, chosen by its letters (docs/sampler-specs.md).
_STANDARD = {
    "AB": ("ode", {
        "A": {"rows": "data", "linear": "rest", "score": "all"},
        "B": {"rows": "auxiliary", "linear": "rest", "score": "all"}}),
    "ABO": ("sde", {
        "O": {"linear": "diagonal", "noise": "all", "solve": "exact"},
        "A": {"rows": "data", "linear": "rest", "score": "all"},
        "B": {"rows": "auxiliary", "linear": "rest", "score": "all"}}),
    "AS": ("sde", {
        "A": {"linear": "stationary", "noise": "all", "solve": "exact"},
        "S": {"linear": "rest", "score": "all"}}),
    "E": ("ode", {"E": {"linear": "rest", "score": "all"}}),
}  # fmt: skip


@within("reading the sampler")
def load_sampler(source: Any) -> Sampler:
    """A Sampler from a catalogue name, a path to a .toml file, a dict of the same keys, or a composition string.

    A composition string (it holds a ``!``, or is capital letters alone) takes the standard parts of its letters: A and B
    (probability flow), O, A and B (reverse SDE), A and S (SSCS), E (Euler).  Raises InputError naming the file, the key and
    the fix.
    """
    if isinstance(source, Sampler):
        return source
    composed = isinstance(source, str) and ("!" in source or re.fullmatch(r"[A-Z](\s+[A-Z])*", source))
    if composed and not source.endswith(".toml"):
        return _from_string(source)
    where, table = spec.read(source, kind="sampler")
    spec.check_keys(where, "sampler", table, allowed=KEYS, required=("name", "family"))
    family, target = table["family"], table.get("target", "ode")
    _choice(where, "sampler.family", family, FAMILIES)
    _choice(where, "sampler.target", target, ("ode", "sde"))
    _check_fitting(where, table, family, target)
    composition: tuple[Token, ...] = ()
    if "composition" in table:
        composition = parse_composition(table["composition"], where, "sampler.composition")
    parts = {letter: _part(where, letter, part) for letter, part in table.get("parts", {}).items()}
    params = spec.table_of_numbers(where, "sampler.params", table.get("params", {}))
    refuse_taken(where, "sampler.params", params)
    return _checked(Sampler(
        spec.name_of(where, "sampler.name", table["name"]), family, target, composition, parts, params,
        table.get("B", "0"), str(table.get("doc", "")), str(table.get("reference", "")), where,
        formula_reader.read(where, table, parts, params, target) if family in formula.FAMILIES else None,
        adams.read(where, table) if family == "adams" else None,
    ))  # fmt: skip


def _check_fitting(where: str, table: Mapping[str, Any], family: str, target: str) -> None:
    """InputError for a key that belongs to other families, and for a splitting without its composition or parts."""
    lined = family in formula.FAMILIES
    own = LINES if lined else adams.KEYS if family == "adams" else ("composition", "parts", "B")
    for key in table:
        if key in {*LINES, *adams.KEYS, "composition", "B"} - {*own}:
            fix = f"a {family} sampler is written with {', '.join(own)}"
            raise InputError(where, f"sampler.{key}", f"does not belong to the family {family}", fix)
    own_target = family == "adams" or target == "ode"  # that of adams goes with its noise (adams.py)
    if family in ("conjugate", "adams") and not (own_target and {"composition", "parts"}.isdisjoint(table)):
        what = f"the step of the family {family} is one of the probability flow"
        raise InputError(where, "sampler.family", what, "leave out target, composition and parts, or change the family")
    if family in SPLITTINGS and not ("composition" in table and "parts" in table):
        raise InputError(where, "sampler.composition", f"a {family} sampler needs a composition and parts", "add both")
    if family in SPLITTINGS and "B" in table:
        raise InputError(
            where, "sampler.B", f"a {family} sampler has no B of its own", "write it into a conjugate part"
        )


def _choice(where: str, key: str, value: Any, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise InputError(where, key, f"{spec.shown(value)} is not one of {', '.join(allowed)}", "choose one of them")


def _part(where: str, letter: str, part: Any) -> PartSpec:
    key = f"sampler.parts.{letter}"
    if not re.fullmatch("[A-Z]", letter):
        raise InputError(where, key, "a part is named by one capital letter", "rename it")
    if not isinstance(part, Mapping):
        raise InputError(where, key, "a part is a table", "write rows, linear, score, noise, solve")
    spec.check_keys(where, key, part, allowed=PART_KEYS, required=())
    _choice(where, f"{key}.solve", part.get("solve", "euler"), SOLVERS)
    clock = part.get("noise_clock", {})
    spec.check_keys(where, f"{key}.noise_clock", clock, allowed=clock, required=())
    return PartSpec(letter=letter, **part)


def _checked(sampler: Sampler) -> Sampler:
    """Every letter has a part, every part is used, and no part needs a score before the first ``!``."""
    for what, fix in _faults(sampler):
        raise InputError(sampler.where, "sampler.composition", what, fix)
    return sampler


def _faults(sampler: Sampler) -> Iterator[tuple[str, str]]:
    """What is wrong about the composition, and the fix of it."""
    fresh, tokens, parts = False, sampler.composition, sampler.parts
    for token in tokens:
        letter = token.letter
        if letter not in parts:
            yield f"no part defines the letter {letter}", f"defined are {', '.join(parts) or 'none'}"
        noisy = parts[letter].noise != "none"
        if token.predict and (noisy or not fresh):
            reason = "the noise of its part" if fresh else "no earlier evaluation"
            yield f"{letter}!^ predicts with {reason}", "use ^ on a part without noise, after a first !"
        if token.share < 0 and noisy:
            what = f"a negative share of {letter}, which draws noise"
            yield what, "noise cannot be taken back: give it positive shares"
        fresh = fresh or token.fresh
        if parts[letter].score != "none" and not fresh:
            yield f"{letter} uses a score before the first !", f"write {letter}!"
    if tokens and not fresh:
        yield "no token evaluates the network", "mark one with !"
    if tokens and (unused := sorted(set(parts) - {token.letter for token in tokens})):
        yield f"the part {unused[0]} is never applied", "use its letter or remove the part"


def _from_string(text: str) -> Sampler:
    tokens = parse_composition(text)
    letters = "".join(sorted({token.letter for token in tokens}))
    if letters not in _STANDARD:
        unknown = [letter for letter in letters if letter not in "OABSE"]
        what = f"no part defines the letter {unknown[0]}" if unknown else f"no standard parts for the letters {letters}"
        raise InputError("-", "sampler", what, "use A B, O A B, A S or E, or write a .toml with parts")
    target, parts = _STANDARD[letters]
    text = " ".join(text.split())
    spelled = text.replace("@", "at").translate(str.maketrans("!^-", "fpm"))
    name = re.sub(r"[^A-Za-z0-9]+", "-", spelled).strip("-").lower()
    if len(name) > spec.MAX_NAME:  # a name is part of file names: cut, and still one name a composition
        name = f"{name[:27].strip('-')}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
    read = {letter: _part("-", letter, part) for letter, part in parts.items()}
    return _checked(Sampler(name, "splitting", target, tokens, read, doc=COMPOSED + text))
