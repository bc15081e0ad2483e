"""``stepsmith.load``: a step module by its name, a path or its text.

Some fifty modules are kept in ``stepsmith.generated``.  The others of the catalogue are derived and emitted when they are
asked for, and their text is cached.
"""

from __future__ import annotations

import functools
import importlib.resources
import os
from types import ModuleType

from stepsmith import __version__, digests
from stepsmith.errors import InputError
from stepsmith.runtime import modules
from stepsmith.runtime.cache import cache_folder, read_cached, write_cached


def load(source: str | os.PathLike[str]) -> ModuleType:
    """The step module from a name of the catalogue, a path to a .py file, or source text (anything with a newline).

    A name may be written with dashes. A module that is not kept in ``stepsmith.generated`` is derived, which takes seconds the
    first time. The module's API number and every constant and function of the contract are checked. Loading runs the module's
    code. Raises :class:`InputError` where there is no such module, it does not run, or it breaks the contract.
    """
    if not modules.is_name(source):
        return modules.load(source)
    name = modules.spelled(str(source))
    if name in modules.installed():
        return modules.load(name)
    if name in known():
        return derived(name)
    raise modules.unknown(str(source), [*modules.installed(), *known()])


@functools.cache
def known() -> dict[str, digests.Line]:
    """The lines of the installed ``digests.txt``; none where it was never built."""
    file = importlib.resources.files("stepsmith.generated") / digests.FILE
    return digests.read(file.read_text(encoding="utf-8")) if file.is_file() else {}


@functools.cache
def derived(name: str) -> ModuleType:
    """A module of the catalogue that is not kept: out of the cache, or derived and emitted.

    A cached text runs only if ``digests.txt`` has its sha256, so a damaged or foreign file is never run.  A text that is derived
    here and differs from that one (under another version of SymPy, or in a tree that is being changed) runs, but is not cached.
    """
    line = known()[name]
    place = cache_folder() / "modules" / __version__ / f"{name}-{line.program[:16]}.py"
    blob = read_cached(place, line.text)
    if blob is not None:
        return modules.from_text(blob.decode(), name)
    text = emitted(name)
    if digests.Line.of(name, line.program, text) == line:
        write_cached(place, text.encode())
    return modules.from_text(text, name)


def emitted(name: str) -> str:
    """The text of a row of the catalogue, certified; InputError where what derives it is not installed."""
    try:
        from stepsmith.certificate import emit
        from stepsmith.derive import catalogue
    except ImportError as error:
        what = f"{name} is not kept in stepsmith.generated and cannot be derived here ({error})"
        fix = f"run `stepsmith build {name} --out .` where all of stepsmith is installed, and load that file"
        raise InputError("-", "module", what, fix) from None
    return emit(catalogue.find(name).derive())
