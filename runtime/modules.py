"""Load an emitted step module and hold it to the contract: the constants and functions that a runner may rely on."""

from __future__ import annotations

import difflib
import hashlib
import importlib
import importlib.util
import linecache
import os
import pkgutil
import re
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

from stepsmith.errors import InputError

API = 1
_GENERATED = "stepsmith.generated"
_TYPES: dict[str, tuple[type, ...]] = {
    "SDE": (str,),
    "SAMPLER": (str,),
    "NETWORK": (str,),
    "NFE": (int,),
    "DRAWS": (int,),
    "HISTORY": (int,),
    "DATA": (int,),
    "ORDER": (int, type(None)),
    "WEAK_ORDER": (int, float, type(None)),
    "STRONG_ORDER": (int, float, type(None)),
    "COMPONENTS": (tuple,),
    "COEFFICIENTS": (tuple,),
    "PARAMS": (dict,),
    "DIGEST": (str,),
}
_FUNCTIONS = ("coefficients", "step", "start", "denoise")


def load(source: str | os.PathLike[str]) -> ModuleType:
    """The step module from the name of one that is kept in ``stepsmith.generated``, a path to a .py file, or source text
    (anything with a newline).

    A name may be written with dashes. The module's API number and every constant and function of the contract are
    checked. Loading runs the module's code. Raises :class:`InputError` where there is no such module, it does not run,
    or it breaks the contract.  (``stepsmith.load`` also derives the modules of the catalogue that are not kept.)
    """
    if is_name(source):
        return _from_name(str(source))
    if isinstance(source, str) and "\n" in source:
        return from_text(source)
    text = os.fspath(source)
    return check_module(_from_path(Path(text)), text)


def is_name(source: str | os.PathLike[str]) -> bool:
    """Whether a source of :func:`load` is the name of a module, no path and no text."""
    return isinstance(source, str) and not ("\n" in source or source.endswith(".py") or os.sep in source)


def spelled(name: str) -> str:
    """A name of a module as its file spells it."""
    return name.replace("-", "_").lower()


def installed() -> list[str]:
    """The names of the modules that are kept in ``stepsmith.generated``."""
    return sorted(info.name for info in pkgutil.iter_modules(importlib.import_module(_GENERATED).__path__))


def unknown(name: str, known: Iterable[str]) -> InputError:
    """The refusal of a name that no module has, with the closest names that one has."""
    close = difflib.get_close_matches(spelled(name), dict.fromkeys(known), n=3)
    other = "give a generated module's name, a path to a .py file or source text"
    fix = f"did you mean {' or '.join(close)}?" if close else other
    return InputError("-", "module", f"there is no generated module {name!r}", fix)


def check_module(module: Any, where: str = "-") -> Any:
    """``module`` itself if it has what the contract asks for; else :class:`InputError` naming what is missing or
    wrong."""
    if not isinstance(module, ModuleType) and not hasattr(module, "API"):
        what = f"it is of type {type(module).__name__}, and no emitted module"
        raise InputError(where, "module", what, "give ss.load(ss.emit(method)) of a Method, or what ss.load takes")
    if getattr(module, "API", None) != API:
        have = repr(getattr(module, "API", "no API constant"))
        raise InputError(where, "API", f"this stepsmith runs modules of API {API}, not {have}", "emit the module again")
    for name, types in _TYPES.items():
        value = getattr(module, name, NotImplemented)
        if value is NotImplemented or isinstance(value, bool) or not isinstance(value, types):
            what = "is missing" if value is NotImplemented else f"is {value!r}"
            raise InputError(where, name, f"the constant {what}", "emit the module again")
    for name in _FUNCTIONS:
        if not callable(getattr(module, name, None)):
            raise InputError(where, name, "the function is missing", "emit the module again")
    if not 0 <= module.DATA < len(module.COMPONENTS):
        raise InputError(
            where, "DATA", f"{module.DATA} is no component of {module.COMPONENTS}", "emit the module again"
        )
    field = getattr(module, "FIELD", "")
    if not isinstance(field, str) or (field and field in module.PARAMS):
        raise InputError(where, "FIELD", f"{field!r} names no field of its own", "emit the module again")
    constants = getattr(module, "CONSTANTS", ())
    if constants and (
        module.COMPONENTS[-len(constants) :] != tuple(constants)
        or len(constants) == len(module.COMPONENTS)
        or not callable(getattr(module, "start_mean", None))
    ):
        what = f"{constants} are not the last of {module.COMPONENTS}, with start_mean beside start"
        raise InputError(where, "CONSTANTS", what, "emit the module again")
    return module


def _from_name(name: str) -> ModuleType:
    known = installed()
    if spelled(name) not in known:
        raise unknown(name, known)
    return check_module(importlib.import_module(f"{_GENERATED}.{spelled(name)}"), name)


def _from_path(path: Path) -> ModuleType:
    if not os.path.isfile(path):  # a folder, or a pipe that would be waited for
        raise InputError(str(path), "module", "there is no such file", "give the path of an emitted .py file")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            str(path), "module", f"it cannot be read ({error})", "give the path of an emitted .py file"
        ) from None
    return _execute(text, re.sub(r"\W", "_", path.stem), str(path))


def from_text(text: str, name: str = "") -> ModuleType:
    """The module whose source is ``text``, checked; ``name`` is its ``__name__``, by default one made of its sha256."""
    where = name or "-"
    name = name or "emitted_" + hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:12]
    filename = f"<{name}>"
    lines = text.splitlines(keepends=True)
    linecache.cache[filename] = (len(text), None, lines, filename)  # so that tracebacks show its lines
    return check_module(_execute(text, name, filename), where)


def _execute(text: str, name: str, filename: str) -> ModuleType:
    module = ModuleType(name)
    module.__file__ = filename
    try:
        exec(compile(text, filename, "exec"), module.__dict__)
    except (Exception, SystemExit) as error:
        raise InputError(
            filename, "module", f"it does not run ({type(error).__name__}: {error})", "give an emitted module"
        ) from error
    return module
