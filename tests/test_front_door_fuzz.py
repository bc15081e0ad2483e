"""100,000 hostile specs: each is a value or one line of refusal, and none of them touches a file, the network or an import.

The cases come from a seeded generator, in a process of its own whose audit hook forbids to open, connect, execute,
compile or import anything; hypothesis does the same for its few cases in the other files, where it can shrink them.
"""

from __future__ import annotations

import ast
import json
import os
import random
import resource
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

EXPRESSIONS, COMPOSITIONS, SPECS = 40_000, 57_000, 3_000
DERIVED = 24  # specs that were read are derived and emitted, too
GROWTH = 400  # MiB that the process may grow by
FORBIDDEN = ("open", "exec", "compile", "import", "socket.", "os.", "subprocess.", "shutil.", "ctypes.", "urllib.")

# --- the generators -----------------------------------------------------------------------------------------------------

NAMES = ("x", "y", "t", "a", "let_a", "positive")
CALLS = (
    "sqrt",
    "abs",
    "exp",
    "log",
    "sin",
    "cos",
    "tan",
    "sinh",
    "cosh",
    "tanh",
    "asin",
    "acos",
    "atan",
    "eval",
    "Symbol",
)
NUMBERS = (
    "0",
    "1",
    "2",
    "0.5",
    "1e-3",
    "64",
    "65",
    "1e308",
    "1e-308",
    "9" * 39,
    "0.1234567890123456789",
    "7/3",
    "1e999",
)
NOISE = (
    *"()+-*/^.,[]{}'\"\\;:=_#@!~%&|<>?$` \t\n\r\0\x1b\x7f", "**", "//", "__", "\u0661", "\uff11", "\ud800", "\u202e", "\u00b5",
)  # fmt: skip


def tree(draw: random.Random, depth: int) -> str:
    """An expression of the grammar, deep with a small probability."""
    kind = draw.random()
    if depth <= 0 or kind < 0.25:
        return draw.choice(NAMES) if draw.random() < 0.6 else draw.choice(NUMBERS)
    if kind < 0.65:
        return f"{tree(draw, depth - 1)}{draw.choice('+-*/')}{tree(draw, depth - 1)}"
    if kind < 0.75:
        return (
            f"({tree(draw, depth - 1)}){draw.choice(('^', '**'))}{tree(draw, 0 if draw.random() < 0.8 else depth - 1)}"
        )
    if kind < 0.9:
        return f"{draw.choice(CALLS)}({tree(draw, depth - 1)})"
    return f"-({tree(draw, depth - 1)})"


def mutated(draw: random.Random, text: str, noise: tuple[str, ...] = NOISE) -> str:
    """A text with a few pieces cut, doubled, swapped, repeated many times or replaced by noise."""
    for _ in range(draw.randint(1, 3)):
        i, j = sorted(draw.randint(0, len(text)) for _ in range(2))
        kind = draw.randrange(5)
        if kind == 0:
            text = text[:i] + text[j:]
        elif kind == 1:
            text = text[:i] + draw.choice(noise) + text[i:]
        elif kind == 2:
            text = text[:j] + text[i:j] + text[j:]
        elif kind == 3:
            text = text[:i] + text[i:j] * draw.choice((1, 2, 3, 50)) + text[j:]
        else:
            text = text[i:j] + draw.choice(noise) * draw.choice((1, 2, 100)) + text[:i]
    return text[:10_000]


def expression_text(draw: random.Random) -> str:
    text = tree(draw, draw.choice((1, 2, 3, 3, 4, 6)))
    return mutated(draw, text) if draw.random() < 0.4 else text


def composition_text(draw: random.Random) -> str:
    tokens = []
    rare = ("@0/0", "@7", "@-1", "(1/2)", "(1/3)", "(-1)", "(1/0)", "(0)", "^")
    for _ in range(draw.choice((1, 2, 3, 4, 8, 70))):
        token = draw.choice("OABSEX") + draw.choice(("", "", "!", "!@1", "!@1/2", "!^", "!^@2/3"))
        tokens.append(token + (draw.choice(rare) if draw.random() < 0.05 else ""))
    text = draw.choice(("", " ")).join(tokens)
    return mutated(draw, text) if draw.random() < 0.3 else text


def mutated_bytes(draw: random.Random, data: bytes) -> bytes:
    """A spec with bytes flipped, numbers and keys exchanged, lines cut, doubled or swapped."""
    kind = draw.random()
    if kind < 0.35:
        spoiled = bytearray(data)
        for _ in range(draw.choice((1, 1, 2, 8))):
            spoiled[draw.randrange(len(spoiled))] = draw.randrange(256)
        return bytes(spoiled)
    lines = data.decode().splitlines()
    i, j = draw.randrange(len(lines)), draw.randrange(len(lines))
    if kind < 0.55:
        lines[i], lines[j] = lines[j], lines[i]
    elif kind < 0.7:
        lines[i] = lines[i].split("=")[0] + "= " + draw.choice(VALUES)
    elif kind < 0.85:
        lines[i] = mutated(draw, lines[i])
    else:
        lines[i : i + 1] = [lines[i]] * draw.choice((0, 2)) + [f"{draw.choice(KEYS)} = {draw.choice(VALUES)}"]
    return "\n".join(lines).encode("utf-8", "surrogatepass")


KEYS = (
    'name', 'state', 'data', 'time', 'F', 'G', 'alpha', 'sigma', 'offset', 'params', 'let', 'initial',
    'constraints', 'doc', 'family', 'target', 'composition', 'parts', 'B', 'rows', 'linear', 'score', 'noise',
    'solve', 'noise_clock',
)  # fmt: skip
VALUES = (
    '3', '-1', '1e308', 'nan', 'inf', 'true', '""', '"x"', '"t"', '"../../etc/passwd"', '[]', '[[]]', '["x"]',
    '[[1]]', '{}', '{ x = 1 }', '[["1", "t"], ["t^2", "exp(t)"]]', '[0, 1]', '[1, 0]', '[0.0, 1e300]',
    '2020-01-01', '0x10', '"1/0"', '["x", "x"]', '{ x = "lambda_" }', '"rest"', '"all"', '"data"', '"A! A"', '[{}]',
    '"sin(t)/t"', '"-8*t^64"',
)  # fmt: skip

# --- the run, in a process of its own ----------------------------------------------------------------------------------


class Watch:
    """The audit hook: what is forbidden while ``on``, by name."""

    def __init__(self) -> None:
        self.on, self.seen = False, Counter[str]()
        sys.addaudithook(self.heard)

    def heard(self, event: str, args: tuple[Any, ...]) -> None:
        if self._monomials(event, args):
            return
        if self.on and threading.current_thread() is threading.main_thread() and event.startswith(FORBIDDEN):
            self.seen[f"{event} {str(args[0])[:80]}"] += 1

    @staticmethod
    def _monomials(event: str, args: tuple[Any, ...]) -> bool:
        """SymPy compiles its products of monomials for a number of names it has not met, Cython what finds its frame."""
        if event == "compile":
            return isinstance(args[0], bytes) and (args[0].startswith(b"def monomial_") or args[0] == b"_getframe()")
        return event == "exec" and args[0].co_names[:1] != () and args[0].co_names[0].startswith("monomial_")


def outcome(call: Callable[[], Any]) -> str:
    """ok, or the kind of refusal; anything else than one clear line propagates."""
    from stepsmith.errors import InputError, Unsupported

    try:
        call()
    except InputError as error:
        told = str(error)
        good = told.isprintable() and len(told) < 3000 and error.where and error.key and error.what and error.fix
        return "InputError" if good else f"unclear: {told!r}"
    except Unsupported as error:
        return "Unsupported" if str(error).isprintable() and error.hint else f"unclear: {error!r}"
    return "ok"


def main(seed: int, expressions: int, compositions: int, specs: int, derived: int) -> None:
    import sympy

    from stepsmith.derive import catalogue, load_sampler, load_sde
    from stepsmith.derive.method import derive
    from stepsmith.derive.spec import sources as spec
    from stepsmith.derive.spec.composition import parse_composition
    from stepsmith.derive.spec.expression import Names, parse
    from stepsmith.templates import emit

    draw = random.Random(seed)
    names = Names(
        {n: sympy.Symbol(n, real=True) for n in NAMES} | {"positive": sympy.Symbol("positive", positive=True)}
    )
    names.let("let_a", (names["x"] + names["t"] + 1) ** 5)
    files = {kind: [p.read_bytes() for p in sorted((resources.files("stepsmith.derive") / "specs" / kind).iterdir(), key=str)]
             for kind in spec.KINDS}  # fmt: skip
    methods = [row.derive() for row in catalogue.rows()[::9]]  # what SymPy loads at its first use is loaded here
    emit(methods[0])
    for text in (
        "sin(x)^2/tan(x+1)",
        "acos(x)-asin(y)*atan(t)+log(x^2)+cosh(t)+abs(x)^(1/3)",
        "sqrt(2)+exp(1)+pi",
        "tanh(a)^a",
    ):
        parse(text, names, where="-", key="F")
    psld, euler, rvv = load_sde("psld"), load_sampler("euler"), load_sampler("rvv")
    watch = Watch()
    found: Counter[str] = Counter()
    read: list[tuple[Any, Any]] = []

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024

    def tell(kind: str, case: Any, call: Callable[[], Any], watched: bool = True) -> None:
        watch.on = watched
        try:
            result = outcome(call)
        except BaseException as error:
            result = f"{type(error).__name__}: {error}"
        watch.on = False
        if result.startswith(("ok", "InputError", "Unsupported")) and not watch.seen:
            found[f"{kind} {result}"] += 1
        else:
            print(json.dumps({"bad": kind, "case": repr(case)[:3000], "result": result[:500], "seen": watch.seen}))
            watch.seen.clear()

    def load(kind: str, data: bytes) -> None:
        table = spec.toml("fuzz.toml", data)
        if kind == "sde":
            read.append((load_sde(table), euler if draw.random() < 0.5 else rvv))
        else:
            read.append((psld, load_sampler(table)))

    for _ in range(expressions):
        text = expression_text(draw)
        tell("expression", text, lambda text=text: parse(text, names, where="fuzz.toml", key="sde.F[0][0]"))
    for _ in range(compositions):
        text = composition_text(draw)
        tell("composition", text, lambda text=text: parse_composition(text))
    for _ in range(specs):
        kind = draw.choice(spec.KINDS)
        data = mutated_bytes(draw, draw.choice(files[kind]))
        tell(kind, data, lambda kind=kind, data=data: load(kind, data))
    for sde, sampler in draw.sample(read, min(derived, len(read))):
        made: list[Any] = []
        tell("derivation", (sde, sampler), lambda pair=(sde, sampler), made=made: made.append(derive(*pair)))
        for method in made:
            tell("emission", (sde, sampler), lambda method=method: only_torch(emit(method)), watched=False)
    print(json.dumps({"found": found, "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024 - before}))


def only_torch(text: str) -> None:
    """The emitted text is a module of constants, functions and classes that imports torch and math alone."""
    module = ast.parse(text)
    imported = [name.name for node in ast.walk(module) if isinstance(node, ast.Import) for name in node.names]
    kinds = (ast.Import, ast.FunctionDef, ast.ClassDef, ast.Assign)
    strange = [node for node in module.body[1:] if not isinstance(node, kinds)]
    calls = {
        node.func.id for node in ast.walk(module) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    if (
        sorted(imported) not in (["torch"], ["math", "torch"])
        or strange
        or calls & {"eval", "exec", "open", "__import__", "compile", "getattr"}
    ):
        raise AssertionError(text)


def run(seed: int, *counts: int) -> dict[str, Any]:
    """The cases in a process of its own; what it says at the end."""
    code = f"import runpy; runpy.run_path({str(Path(__file__))!r})['main']({', '.join(map(str, (seed, *counts)))})"
    place = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "PYTHONHASHSEED": "0"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=place, capture_output=True, text=True, timeout=1500, check=False
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, done.stderr[-3000:]
    bad = [line for line in lines if "bad" in line]
    assert not bad, (len(bad), bad[:5])
    return lines[-1]


def test_a_hundred_thousand_cases_end_in_a_value_or_one_line_and_touch_nothing() -> None:
    told = run(20240229, EXPRESSIONS, COMPOSITIONS, SPECS, DERIVED)
    found = told["found"]
    for kind, least in (("expression", EXPRESSIONS), ("composition", COMPOSITIONS)):
        ways = {how: count for how, count in found.items() if how.startswith(kind)}
        assert sum(ways.values()) == least and min(ways.values()) > least / 10, found  # both ends are well met
    assert found["sde ok"] + found["sampler ok"] > SPECS / 20 and found["derivation ok"] > DERIVED / 4, found
    assert told["peak"] < GROWTH, told


@pytest.mark.parametrize("forbidden", ["open(__file__).close()", "__import__('colorsys')", "compile('1', 'x', 'eval')"])
def test_the_watch_sees_what_is_forbidden(forbidden: str) -> None:
    code = (
        f"import runpy; w = runpy.run_path({str(Path(__file__))!r})['Watch'](); __file__ = {str(Path(__file__))!r}; "
        f"w.on = True; {forbidden}; w.on = False; print(len(w.seen))"
    )
    place = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    done = subprocess.run([sys.executable, "-c", code], env=place, capture_output=True, text=True, check=True)
    assert int(done.stdout) > 0
