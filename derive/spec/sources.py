"""Reading specs: TOML files, catalogue names and dicts become one plain table, and its entries are checked where they
are used.

A source is a dict, a path (a ``Path``, or a string that ends in .toml or holds a slash) or a name of the catalogue.
Files are UTF-8, at most 256 KiB, and hold the table [sde] or [sampler]; a dict is that table or holds it. What comes
out is a copy made of str, int, float, bool, list and dict alone, at most 16 levels deep. What is refused is an
``InputError`` with the file (``-`` for a dict), the key and the fix; no source raises anything else.
"""

from __future__ import annotations

import builtins
import keyword
import math
import os
import re
import stat
import tomllib
from collections.abc import Collection, Iterable, Mapping
from importlib import resources
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal

import sympy

from stepsmith.derive.spec.expression import MAX_NAME, parse, suggest
from stepsmith.derive.spec.gauge import FUNCTIONS, Gauge
from stepsmith.errors import InputError

Kind = Literal["sde", "sampler"]
KINDS = ("sde", "sampler")
MAX_FILE = 256 * 1024  # bytes
MAX_NEST = 16  # brackets in brackets, parts of a dotted key, levels of a dict
MAX_ENTRIES = 20_000  # keys and values of a spec
MAX_MATRIX = 20_000  # numbers, names, operators and calls of a matrix, its names written out
MAX_BLOCKS = 32  # of a diffusion
MAX_COLUMNS = 64  # of its noise
MAX_NOTE = 500  # characters of doc and reference
# Names become arguments of emitted functions, which must not hide what those functions call.
RESERVED = frozenset(("t", "pi", *FUNCTIONS, *keyword.kwlist, *keyword.softkwlist, *dir(builtins)))

NAME = "[a-z][a-z0-9_-]*"  # of a diffusion or a sampler

_TABLES = ("params", "let", "initial", "parts")
_NOTES = ("doc", "reference")


# --- sources ---------------------------------------------------------------------------------------------------------


def read(source: Any, *, kind: Kind) -> tuple[str, dict[str, Any]]:
    """Where the spec comes from and its [sde] or [sampler] table.

    Checked here: params, let, initial and parts are tables where they are present, doc and reference are one line that
    is safe inside a docstring. Which keys there are otherwise, and what they hold, is for the caller to check.
    """
    where, table = _located(source, kind)
    table = _Copy(where).of(table, kind, 0)
    if not isinstance(source, Mapping) or any(name in table for name in KINDS):
        check_keys(where, "top level", table, allowed=KINDS, required=())
        if kind not in table:
            other = f"only [{next(iter(table))}]" if table else "nothing"
            raise InputError(where, kind, f"holds no [{kind}], {other}", f"write a [{kind}] table")
        table = table[kind]
    check_keys(where, kind, table, allowed=table, required=())
    for key in _TABLES:
        check_keys(where, f"{kind}.{key}", table.get(key, {}), allowed=table.get(key, {}), required=())
    for key in _NOTES:
        check_note(where, f"{kind}.{key}", table.get(key, ""))
    return where, table


def catalogue(kind: Kind) -> tuple[str, ...]:
    """The names of the catalogue's diffusions or samplers, sorted."""
    folder = resources.files("stepsmith.derive") / "specs" / kind
    files = [entry.name for entry in folder.iterdir()] if folder.is_dir() else []
    return tuple(sorted(name.removesuffix(".toml") for name in files if name.endswith(".toml")))


def _located(source: Any, kind: Kind) -> tuple[str, Any]:
    """Where a source is and what it holds, as yet unchecked."""
    if isinstance(source, Mapping):
        return "-", source
    if isinstance(source, Path) or (isinstance(source, str) and re.search(r"[/\\]|\.toml$", source)):
        where = "".join(sign if sign.isprintable() else "?" for sign in str(source)[:1000])
        return where, toml(where, _bytes(where, kind, Path(source)))
    if not isinstance(source, str):
        raise InputError("-", kind, f"is {shown(source)}", "give a name, a path to a .toml file or a dict")
    names = catalogue(kind)
    if source not in names or not re.fullmatch(NAME, source):
        raise InputError("-", kind, f"no {kind} of the catalogue is named {shown(source)}", suggest(source, names))
    where = f"{kind}/{source}.toml"
    return where, toml(where, (resources.files("stepsmith.derive") / "specs" / where).read_bytes())


def _bytes(where: str, kind: Kind, path: Path) -> bytes:
    """The bytes of a plain file: a pipe, a device or a folder is none, even one that was swapped in a moment ago."""
    fix = f"give a .toml file, or one of: {', '.join(catalogue(kind))}"
    try:
        with open(path, "rb", opener=_opened) as file:
            data = file.read(MAX_FILE + 1) if stat.S_ISREG(os.fstat(file.fileno()).st_mode) else None
    except PermissionError as error:
        raise InputError(where, kind, f"cannot be read ({error.strerror})", "give a file that can") from None
    except (OSError, ValueError):  # ValueError: a null byte or a lone surrogate in the name
        data = None
    if data is None:
        raise InputError(where, kind, "there is no such file", fix)
    if len(data) > MAX_FILE:
        raise InputError(where, kind, f"the file is larger than {MAX_FILE // 1024} KiB", "a spec is a page of text")
    return data


def _opened(name: str, flags: int) -> int:
    """Open without waiting: a pipe that nobody writes to would wait for ever."""
    return os.open(name, flags | getattr(os, "O_NONBLOCK", 0))


def toml(where: str, data: bytes) -> dict[str, Any]:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(where, f"line {line}", "is not UTF-8", "save the file as UTF-8") from None
    _refuse_nests(where, text)
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise InputError(where, "TOML", "is nested too deeply for this stack", "write it flatter") from None
    except ValueError as error:  # TOMLDecodeError, and the longest integers
        if not isinstance(error, tomllib.TOMLDecodeError):
            raise InputError(where, "TOML", "holds an integer of thousands of digits", "write fewer") from None
        what, _, place = " ".join(str(error).split()).partition(" (at ")
        line_number = re.match(r"line \d+", place)
        key = line_number[0] if line_number else "last line" if place else "TOML"
        raise InputError(where, key, f"is not TOML: {what[:100].lower()}", "fix the line") from None


# Strings and comments of TOML, also those that are never closed, so that the scan is linear whatever the file holds.
_QUOTED = re.compile(
    r"'''(?s:.*?)(?:'''|\Z)|'[^'\n]*+'?|#[^\n]*+"
    r"|\"\"\"(?:[^\"\\]|\\(?s:.)|\"(?!\"\"))*+(?:\"\"\"|\Z|\\)|\"(?:[^\"\\\n]|\\[^\n])*+\"?"
)
_DOTTED = re.compile(rf"(?<![\w-])(?:[\w-]++[ \t]*+\.[ \t]*+){{{MAX_NEST}}}")


def _refuse_nests(where: str, text: str) -> None:
    """Refuse what tomllib takes very long for: it is recursive in brackets, quadratic in the parts of a dotted key."""
    bare = _QUOTED.sub(lambda match: " " if match[0][0] == "#" else "s", text)
    levels = accumulate(1 if sign in "[{" else -1 for sign in re.findall(r"[][{}]", bare))
    if max(levels, default=0) > MAX_NEST or _DOTTED.search(bare):
        raise InputError(where, "TOML", f"is nested more than {MAX_NEST} deep", "a spec needs a few levels")


class _Copy:
    """Copies what TOML can say into plain values, within limits that no spec comes near."""

    def __init__(self, where: str) -> None:
        self.where, self.entries = where, 0

    def of(self, value: Any, key: str, depth: int) -> Any:
        self.entries += 1
        if depth > MAX_NEST or self.entries > MAX_ENTRIES:
            limit = f"{MAX_NEST} levels" if depth > MAX_NEST else f"{MAX_ENTRIES} entries"
            raise InputError(self.where, key, f"the spec has more than {limit}", "a spec is a page of text")
        if isinstance(value, Mapping):
            return {self.key(k, key): self.of(v, f"{key}.{k}", depth + 1) for k, v in value.items()}
        if isinstance(value, list | tuple):
            return [self.of(v, f"{key}[{i}]", depth + 1) for i, v in enumerate(value)]
        if isinstance(value, float):
            return float(value)
        if isinstance(value, str | int) and not (isinstance(value, int) and value.bit_length() > 1024):
            return value
        what = "is an integer of more than 1024 bits" if isinstance(value, int) else f"is {shown(value)}"
        raise InputError(self.where, key, what, "write text, a number, a list or a table")

    def key(self, key: Any, parent: str) -> str:
        if not isinstance(key, str) or not re.fullmatch(rf"[A-Za-z0-9_-]{{1,{MAX_NAME}}}", key):
            what = f"{shown(key)} cannot be a key"
            raise InputError(self.where, parent, what, f"use up to {MAX_NAME} letters, digits, _ and -")
        return key


# --- entries ---------------------------------------------------------------------------------------------------------


def check_keys(where: str, key: str, table: Any, allowed: Collection[str], required: Collection[str]) -> None:
    """Refuse what is no table, a key that is not allowed (naming the closest), and the lack of a required one."""
    if not isinstance(table, Mapping):
        raise InputError(where, key, f"is {shown(table)}, not a table", "write key = value under it")
    for name in table:
        if name not in allowed:
            raise InputError(where, key, f"unknown key {shown(name)}", suggest(str(name), allowed))
    for name in required:
        if name not in table:
            raise InputError(where, key, f"the key {name!r} is missing", "add it")


def check_names(where: str, key: str, names: Iterable[Any]) -> None:
    """Refuse names that are no identifiers of at most 40 ASCII characters, that are reserved, or that occur twice.

    Reserved are t, pi, the functions of the grammar, Python's keywords and its built-in names.
    """
    seen: set[str] = set()
    for name in names:
        if not isinstance(name, str) or not re.fullmatch("[A-Za-z][A-Za-z0-9_]*", name):
            raise InputError(where, key, f"{shown(name)} is no name", "start with a letter; use letters, digits and _")
        if len(name) > MAX_NAME:
            raise InputError(where, key, f"{shown(name)} has more than {MAX_NAME} characters", "shorten it")
        if name in RESERVED:
            raise InputError(where, key, f"{name!r} is reserved", f"rename it, to {name}_ for example")
        if name in seen:
            raise InputError(where, key, f"{name!r} is defined twice", "rename one")
        seen.add(name)


def name_of(where: str, key: str, value: Any) -> str:
    """The name of a spec, which is part of file names: a letter of a-z, then a-z, 0-9, - and _, at most 40 characters."""
    if not isinstance(value, str) or len(value) > MAX_NAME or not re.fullmatch(NAME, value):
        fix = f"use up to {MAX_NAME} of a-z, 0-9, - and _, a letter first"
        raise InputError(where, key, f"{shown(value)} is no name of a spec", fix)
    return value


def table_of_numbers(where: str, key: str, table: Any) -> dict[str, float]:
    """A table of parameters, each a number that float64 holds (an integer exactly)."""
    check_keys(where, key, table, allowed=table, required=())
    check_names(where, key, table)
    for name, value in table.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise InputError(where, f"{key}.{name}", f"is {shown(value)}, not a number", "write one, such as 4.01")
        if not (abs(value) <= 1e308 and math.isfinite(value) and float(value) == value):
            raise InputError(where, f"{key}.{name}", "is not a number that float64 holds", "write a finite one")
    return {name: float(value) for name, value in table.items()}


def listed(where: str, key: str, value: Any, most: int = MAX_ENTRIES) -> list[Any]:
    """A list of at most so many items."""
    if not isinstance(value, list | tuple):
        raise InputError(where, key, f"is {shown(value)}, not a list", "put it in [ ]")
    if len(value) > most:
        raise InputError(where, key, f"has {len(value)} items, more than {most}", "write fewer")
    return list(value)


def matrix(
    where: str, key: str, rows: Any, shape: tuple[int, int | None], names: Mapping[str, sympy.Expr]
) -> sympy.Matrix:
    """A matrix of expressions, a list of rows; a width of None is that of its first row, at least 1."""
    height, width = shape
    if width is None and isinstance(rows, list | tuple) and rows and isinstance(rows[0], list | tuple):
        listed(where, f"{key}[0]", rows[0], MAX_COLUMNS)
    if not isinstance(rows, list | tuple):
        raise InputError(where, key, f"is {shown(rows)}, not a list of rows", 'write [["a", "b"], ["c", "d"]]')
    for i, row in enumerate(rows):
        if not isinstance(row, list | tuple):
            raise InputError(where, key, f"row [{i}] is {shown(row)}, not a list", "put its entries in [ ]")
        width = max(1, len(row)) if width is None else width
        if len(row) != width:
            fault = f"entry [{i}][{min(width, len(row))}] is {'missing' if len(row) < width else 'one too many'}"
            raise InputError(where, key, fault, f"a row has {width} entries, here it has {len(row)}")
    if len(rows) != height:
        fault = f"row [{min(height, len(rows))}] is {'missing' if len(rows) < height else 'one too many'}"
        raise InputError(where, key, fault, f"it has {height} rows, here {len(rows)}")
    entries, size, measures = [], 0, getattr(names, "measures", {})
    for i, row in enumerate(rows):
        for j, text in enumerate(row):
            place = f"{key}[{i}][{j}]"
            entries.append(parse(text, names, where=where, key=place))
            size += Gauge(measures)(entries[-1]).nodes
            if size > MAX_MATRIX:
                raise InputError(where, place, f"the matrix has more than {MAX_MATRIX} nodes", "write less")
    return sympy.Matrix(height, width or 0, entries)


def check_note(where: str, key: str, value: Any) -> None:
    """Refuse a note that could end, or run on past, the docstring it will stand in."""
    if not isinstance(value, str) or not value.isprintable() or set(value) & {'"', "\\"} or len(value) > MAX_NOTE:
        fix = f"write one line of up to {MAX_NOTE} characters, without double quotes and backslashes"
        raise InputError(where, key, f"is {shown(value)}", fix)


def shown(value: Any) -> str:
    """A value in a message: short, on one line, and never its own repr unless it is text."""
    words = {dict: "a table", list: "a list", bool: "a truth value", int: "an integer", float: "a number"}
    if isinstance(value, str):
        return repr(str(value[:MAX_NAME])) + ("..." if len(value) > MAX_NAME else "")
    return words.get(type(value), f"a {type(value).__name__}")
