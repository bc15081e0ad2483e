"""docs/security.md holds what was tried at the front door and what came back; here it is tried again, row by row.

``python tests/test_security.py`` writes the table anew.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import struct
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import stepsmith as ss
from stepsmith.errors import InputError, Unsupported

PAGE = Path(__file__).parent.parent / "docs" / "security.md"
SDE: dict[str, Any] = {
    "name": "toy", "state": ["x", "m"], "params": {"a": 1.0}, "F": [["-a/2", "a"], ["-a", "-a/2"]],
    "G": [["sqrt(a)", "0"], ["0", "sqrt(a)"]], "initial": {"m": "1"},
}  # fmt: skip
SAMPLER: dict[str, Any] = {
    "name": "own", "family": "splitting", "composition": "E!", "parts": {"E": {"linear": "rest", "score": "all"}},
}  # fmt: skip
CASES: dict[str, tuple[str, Callable[[Path], Any]]] = {}  # what was tried -> (heading, call)


def tried(heading: str, what: str) -> Callable[[Callable[[Path], Any]], Callable[[Path], Any]]:
    def keep(call: Callable[[Path], Any]) -> Callable[[Path], Any]:
        assert what not in CASES, what
        CASES[what] = (heading, call)
        return call

    return keep


def sde(**changes: Any) -> dict[str, Any]:
    return {**SDE, **changes}


def entry(heading: str, what: str, text: Any) -> None:
    """``text`` as an entry of F."""
    tried(heading, what)(lambda _: ss.load_sde(sde(F=[[text, "a"], ["-a", "-a/2"]])))


def spec(heading: str, what: str, **changes: Any) -> None:
    """A diffusion with other keys, derived with one Euler step."""
    tried(heading, what)(lambda _: ss.derive(sde(**changes), SAMPLER))


def sampler(heading: str, what: str, **changes: Any) -> None:
    tried(heading, what)(lambda _: ss.derive(SDE, {**SAMPLER, **changes}))


def file(heading: str, what: str, make: Callable[[Path], Any], name: str = "spec.toml") -> None:
    """A file that ``make`` puts at a path, read as a diffusion."""

    def call(folder: Path) -> Any:
        make(folder / name)
        return ss.load_sde(folder / name)

    tried(heading, what)(call)


def toml(text: str = "", **lines: str) -> bytes:
    body = {"name": '"toy"', "state": '["x"]', "F": '[["-1"]]', "G": '[["1"]]', **lines}
    return ("[sde]\n" + "\n".join(f"{k} = {v}" for k, v in body.items()) + "\n" + text).encode()


# --- expressions -----------------------------------------------------------------------------------------------------

E = "Expressions"
for code in (
    "__import__('os').system('id')",
    "().__class__.__bases__",
    "t.is_zero",
    "exec(1)",
    "lambda: t",
    "open(1)",
    "x[0]",
    "a if t else 1",
):
    entry(E, f"`{code}`", code)
entry(E, "the look-alike `ａ` (U+FF41) and `−` (U+2212)", "ａ−1")
entry(E, "a literal of a million digits", "9" * 10**6)
entry(E, "`1e99999999`", "1e99999999")
for text in (
    "1e308*10",
    "1e-320",
    "nan",
    "inf",
    "0x10",
    "1j",
    "1_000",
    "10**10**10",
    "exp(exp(exp(100)))",
    "sqrt(-1)",
    "1/(t-t)",
):
    entry(E, f"`{text}`", text)
entry(E, "a float nan of TOML", float("nan"))
entry(E, "a thousand brackets", "(" * 1000 + "a" + ")" * 1000)
entry(E, "a tower of 40 powers", "^".join(["a"] * 40))
entry(E, "`(2/(10^39-1))^0.001`, which SymPy would factor for ever", "(2/" + "9" * 39 + ")^0.001")
entry(E, "an ANSI escape", "\x1b[31ma\x1b[0m")
entry(E, "a null byte", "a\0")

# --- lets and other names --------------------------------------------------------------------------------------------

N = "Names"
spec(
    N,
    "a billion laughs: 60 lets, each twice the one before",
    let={f"l{i}": f"l{i - 1}*l{i - 1}+t" if i else "a+t" for i in range(60)},
)
spec(N, "a let that names itself", let={"b": "b+1"})
spec(N, "a let that is used before it is defined", let={"b": "c", "c": "1"})
spec(N, "a let of degree 60, to the power 60", let={"w": "(1+a*t)^60"}, F=[["-w^60", "a"], ["-a", "-a/2"]])
for word in (
    "lambda",
    "match",
    "print",
    "float",
    "torch",
    "math",
    "times",
    "DATA",
    "s",
    "t",
    "__class__",
    "a.b",
    "x\n",
    "\x1b[2J",
):
    spec(N, f"a parameter named {word!a}", params={"a": 1.0, word: 2.0})
spec(
    N,
    "a parameter named like a table of the module, `factor_A1`-like `out_0`",
    params={"a": 1.0, "out_0": 2.0},
    F=[["-out_0", "a"], ["-a", "-a/2"]],
)
spec(N, "a block named `network`", state=["x", "network"], initial={"network": "1"})
spec(N, "two blocks of one name", state=["x", "x"], initial={})
for name in ("../../etc/cron", "a/b", "A", ".", "con\0", "x" * 300, "x\ny"):
    spec(N, f"the spec named {name[:20]!a}{'...' if len(name) > 20 else ''}", name=name)

# --- text that reaches the emitted module ------------------------------------------------------------------------------

T = "Text that is pasted into the emitted module"
for note in (
    '"""\nimport os\n"""',
    "a\\",
    "a\nimport os",
    'x" + __import__("os").name + "',
    "\u202e\u2066",
    "\x1b[31m",
):
    spec(T, f"doc {note!a}", doc=note)
    sampler(T, f"reference {note!a}", reference=note)


@tried(T, "doc '{{ 7*7 }} {% for x in y %} {# #}' (Jinja)")
def _jinja(_: Path) -> str:
    text = ss.emit(ss.derive(sde(doc="{{ 7*7 }} {% for x in y %} {# #}"), SAMPLER))
    assert "{{ 7*7 }} {% for x in y %} {# #}" in text and "49" not in text.splitlines()[0]
    ss.load(text)
    return "kept as it is written; the module runs"


@tried(T, "doc \"'''; import os; '''\"")
def _quotes(_: Path) -> str:
    text = ss.emit(ss.derive(sde(doc="'''; import os; '''"), SAMPLER))
    assert not hasattr(ss.load(text), "os")
    return "kept inside the docstring; the module runs and imports no os"


@tried(T, "a composition string with newlines and a docstring's end")
def _composition(_: Path) -> Any:
    return ss.derive(SDE, 'B!\nA\n"""\nimport os')


# --- keys and values -----------------------------------------------------------------------------------------------

K = "Keys and values"
for key in (
    "name",
    "state",
    "data",
    "time",
    "F",
    "G",
    "alpha",
    "offset",
    "params",
    "let",
    "initial",
    "constraints",
    "doc",
):
    for value, words in (
        (3, "3"),
        ({"a": 1}, "a table"),
        ([[[]]], "[[[]]]"),
        ("x" * 5000, "a text of 5000 characters"),
    ):
        spec(K, f"`sde.{key}` is {words}", **{key: value})
for key in ("name", "family", "target", "composition", "parts", "params", "B", "reference"):
    for value, words in ((3, "3"), ([[[]]], "[[[]]]"), ("\0" * 50, "50 null bytes")):
        sampler(K, f"`sampler.{key}` is {words}", **{key: value})
for key in ("rows", "linear", "score", "noise", "noise_clock", "solve", "B"):
    for value, words in ((3, "3"), ({"zz": [1]}, "a table"), ("\x1b[31m", "an escape")):
        sampler(K, f"`sampler.parts.E.{key}` is {words}", parts={"E": {"linear": "rest", "score": "all", key: value}})
spec(K, "an unknown key", Ff=[["1"]])
spec(K, "a span that runs backwards", time=[1.0, 0.0])
spec(K, "a span that never ends", time=[0.0, float("inf")])
spec(K, "33 blocks", state=[f"b{i}" for i in range(33)])
spec(K, "a noise of 1000 columns", G=[["1"] * 1000] * 2)
spec(K, "a constraint that is a tower of exponentials", constraints=["exp(exp(exp(exp(100*a)))) > 0"])
spec(K, "a constraint that holds t", constraints=["t > 0"])
spec(K, "a parameter of 1e309", params={"a": 10**309})
for text in (
    "B! " * 65 + "A",
    "B!@7 A",
    "B!(1/0) A",
    "B!(-1/2) A",
    "\u0391! B",
    "B!\u0661",
    "B! " + " " * 5000,
    "!",
    "A(9999999)",
):
    tried(K, f"the composition {text[:12]!a}{'...' if len(text) > 12 else ''}")(
        lambda _, text=text: ss.derive(SDE, text)
    )

# --- files ---------------------------------------------------------------------------------------------------------

F = "Files"
file(F, "a named pipe", os.mkfifo)
file(F, "a folder", lambda path: path.mkdir())
file(F, "a link to /dev/zero", lambda path: path.symlink_to("/dev/zero"))
file(F, "a link to itself", lambda path: path.symlink_to(path))
file(
    F,
    "a link to another spec",
    lambda path: (path.with_name("o.toml").write_bytes(toml()), path.symlink_to(path.with_name("o.toml"))),
)
file(F, "300 KiB of comments", lambda path: path.write_bytes(toml("#" * 300_000)))
file(F, "a zip file", lambda path: path.write_bytes(b"PK\x03\x04" + bytes(range(256))))
file(F, "bytes that are not UTF-8", lambda path: path.write_bytes(toml() + b"doc = '\xff\xfe'"))
file(F, "UTF-16", lambda path: path.write_bytes(toml().decode().encode("utf-16")))
file(F, "a byte order mark and CRLF", lambda path: path.write_bytes(b"\xef\xbb\xbf" + toml().replace(b"\n", b"\r\n")))
file(F, "a key given twice", lambda path: path.write_bytes(toml("name = 'b'\n")))
file(F, "100,000 brackets", lambda path: path.write_bytes(toml("z = " + "[" * 100_000)))
file(F, "a dotted key of 100,000 parts", lambda path: path.write_bytes(toml(".".join("z" * 100_000) + " = 1")))
file(F, "an integer of 5000 digits", lambda path: path.write_bytes(toml("z = " + "9" * 5000)))
file(F, "an empty file", lambda path: path.write_bytes(b""))
for path in ("/etc/passwd", "/dev/tcp/x.toml", "a\0.toml", "../" * 50 + "x.toml"):
    tried(F, f"the path {path[:20]!a}")(lambda _, path=path: ss.load_sde(path))

# --- derivations -----------------------------------------------------------------------------------------------------

D = "Derivations"
P12 = {f"p{i}": 0.1 + i / 100 for i in range(12)}


def dense(n: int) -> dict[str, Any]:
    """A dense F of rational functions of twelve parameters."""

    def at(i: int, j: int) -> str:
        return f"-(p{(i + j) % 12}+p{(i * j + 1) % 12}^2)/(1+p{(i + 2 * j) % 12}*p{(3 * i + j) % 12})" + "-3" * (i == j)

    blocks = [f"b{chr(97 + i)}" for i in range(n)]
    return {
        "name": "dense", "state": blocks, "params": P12, "F": [[at(i, j) for j in range(n)] for i in range(n)],
        "G": [["1" if i == j else "0" for j in range(n)] for i in range(n)], "initial": dict.fromkeys(blocks[1:], "p1"),
    }  # fmt: skip


for n in (2, 3, 6):
    tried(D, f"the stationary law of {n} blocks, dense in 12 parameters")(
        lambda _, n=n: ss.load_sde(dense(n)).stationary()
    )
    tried(D, f"SSCS on them, {n} blocks")(lambda _, n=n: ss.derive(dense(n), "sscs"))
tried(D, "an Euler step on 10 such blocks")(lambda _: ss.derive(dense(10), SAMPLER))
tried(D, "the covariance of 3 such blocks in closed form")(lambda _: ss.load_sde(dense(3)).covariance(1))
tried(D, "one network call and 64 tokens after it")(lambda _: ss.derive("psld", "B! " + "O A B " * 21))
tried(D, "64 network calls")(lambda _: ss.derive("psld", "B! A! " * 32))
spec(D, "rates `(1+t+a)^60`, integrated", F=[["-(1+t+a)^60", "0"], ["0", "-1"]])
spec(
    D,
    "149 terms `a*sin(i*t)` in a rate",
    F=[["-" + "-".join(f"a*sin({i}*t)" for i in range(1, 150)), "0"], ["0", "-1"]],
)
tried(D, "alpha = cos(t)^20 exp(-t), sigma = sin(t)(1+t)^10")(
    lambda _: ss.derive(
        {"name": "pair", "state": ["x"], "alpha": "cos(t)^20*exp(-t)", "sigma": "sin(t)*(1+t)^10"}, "conjugate"
    )
)
tried(D, "alpha and sigma with powers of sums of three parameters")(
    lambda _: ss.derive(
        {"name": "pair", "state": ["x"], "params": {"a": 0.1, "b": 0.2, "c": 0.3}, "alpha": "1/(1+t*(a+b+c+t)^20)",
         "sigma": "t*(a+b+t)^20"}, "conjugate",
    )
)  # fmt: skip

# --- diffusions that are singular ---------------------------------------------------------------------------------------

S = "Diffusions that are singular"
spec(S, "no noise at all", G=[["0"], ["0"]], initial={})
spec(S, "F = 0 and one noise for two blocks", F=[["0", "0"], ["0", "0"]], G=[["1"], ["1"]], initial={})
spec(S, "a block that no noise reaches", F=[["-1", "0"], ["0", "-1"]], G=[["1"], ["0"]], initial={}, data=["x"])
spec(S, "the same block with an initial variance", F=[["-1", "0"], ["0", "-1"]], G=[["1"], ["0"]])
spec(
    S,
    "two blocks that share their noise and their rates",
    F=[["-1", "0"], ["0", "-1"]],
    G=[["1"], ["1"]],
    initial={},
    data=["x"],
)
spec(S, "an unstable F", F=[["1", "a"], ["-a", "1"]])
spec(S, "a defective F", F=[["-1", "1"], ["0", "-1"]])
spec(S, "F = 0", F=[["0", "0"], ["0", "0"]])
spec(S, "noise under the root of a negative parameter", G=[["sqrt(-a)", "0"], ["0", "1"]])
spec(S, "a pole inside the span", F=[["-1/(t-0.5)", "a"], ["-a", "-1"]])
spec(S, "a pole between the places that are looked at", F=[["-1/(t-0.4)", "a"], ["-a", "-1"]])
spec(S, "a kink, `abs(t - 0.3)`", F=[["-abs(t-0.3)", "a"], ["-a", "-1"]])
spec(S, "an oscillation, `cos(100*t)`", F=[["-1", "a"], ["-a", "-1-cos(100*t)"]])
spec(S, "noise of 1e-170", G=[["1e-170"], ["0"]])
spec(S, "noise of 1e200", G=[["1e200"], ["0"]])
tried(S, "a schedule with a kink, sigma = t abs(t - 0.5)")(
    lambda _: ss.load_sde({"name": "kink", "state": ["x"], "alpha": "1", "sigma": "t*abs(t-0.5)"})
)
for deviation in ("0", "-t"):
    tried(S, f"a schedule with sigma = {deviation}")(
        lambda _, deviation=deviation: ss.load_sde({"name": "s", "state": ["x"], "alpha": "1", "sigma": deviation})
    )
tried(S, "the stationary law of an unstable F")(lambda _: ss.load_sde(sde(F=[["1", "a"], ["-a", "1"]])).stationary())
tried(S, "the effective sigma of one without noise")(
    lambda _: ss.load_sde(sde(G=[["0"], ["0"]], initial={"m": "0"})).at().effective_sigma(0.5)
)
tried(S, "rates a million apart, in the numeric view")(
    lambda _: ss.load_sde(sde(F=[["0", "1"], ["-1", "-1e6"]])).at().covariance(1.0)
)
spec(S, "a negative initial variance", initial={"m": "-a"})
spec(S, "an initial variance that holds t", initial={"m": "t"})
tried(S, "the stationary law of F = 0")(lambda _: ss.load_sde("ve").stationary())
tried(S, "the stationary law of an F with the eigenvalues 1 and -1")(
    lambda _: ss.load_sde(sde(F=[["1", "0"], ["0", "-1"]])).stationary()
)
sampler(S, "noise given to two parts", target="sde", composition="E! A B", parts={
    "E": {"linear": "rest", "score": "all"}, "A": {"noise": "all"}, "B": {"noise": "all"}})  # fmt: skip

# --- checkpoints ---------------------------------------------------------------------------------------------------

C = "Checkpoints"


def checkpoint(what: str, data: Callable[[], bytes], name: str = "net.safetensors") -> None:
    def call(folder: Path) -> Any:
        (folder / name).write_bytes(data())
        return ss.networks.load(str(folder / name))

    tried(C, what)(call)


def weights() -> bytes:
    from stepsmith.runtime.networks.shipped import WEIGHTS

    return (WEIGHTS / "digits.safetensors").read_bytes()


def poisoned() -> bytes:
    """The digits with one weight that is no number."""
    data = bytearray(weights())
    data[-4:] = struct.pack("<f", float("nan"))
    return bytes(data)


def pickled() -> bytes:
    import pickle

    class Bomb:
        def __reduce__(self) -> Any:
            return (os.abort, ())

    return pickle.dumps(Bomb())


def zipped(kind: str) -> bytes:
    import io

    import numpy as np

    handle = io.BytesIO()
    np.savez(handle, a=np.array([object()], dtype=object), allow_pickle=True) if kind == "npz" else None
    return handle.getvalue()


checkpoint("a pickle that aborts the process", pickled)
checkpoint("the same, named .pt", pickled, "net.pt")
checkpoint("an .npz with a pickle in it", lambda: zipped("npz"), "net.npz")
checkpoint("half a file", lambda: weights()[: len(weights()) // 2])
checkpoint("a header of 2^63 bytes", lambda: struct.pack("<Q", 2**63) + weights()[8:])
checkpoint("a header of 2^40 bytes", lambda: struct.pack("<Q", 2**40) + weights()[8:])
checkpoint("a weight that is nan", poisoned)
checkpoint("a tensor of 2^60 numbers in 8 bytes", lambda: _tensor([2**60], 8))
checkpoint("the metadata of something else", lambda: _tensor([1], 4))


def _tensor(shape: list[int], size: int, meta: dict[str, str] | None = None) -> bytes:
    ours = {"__metadata__": {"format": "stepsmith-unet-1", **meta}} if meta else {}
    head = json.dumps({**ours, "w": {"dtype": "F32", "shape": shape, "data_offsets": [0, size]}}).encode()
    return struct.pack("<Q", len(head)) + head + b"\0" * size


@tried(C, "a named pipe as a checkpoint")
def _pipe(folder: Path) -> Any:
    os.mkfifo(folder / "net.safetensors")
    return ss.networks.load(str(folder / "net.safetensors"))


checkpoint("metadata of 100,000 brackets", lambda: _tensor([1], 4, {"sizes": "[" * 100_000}))
checkpoint("a width of Infinity", lambda: _tensor([1], 4, {"sizes": '{"width": Infinity}'}))

# --- runs ------------------------------------------------------------------------------------------------------------

R = "Runs, modules and constants"


def run(what: str, steps: int = 2, **options: Any) -> None:
    def call(_: Path) -> Any:
        grid = ss.TimeGrid.uniform(ss.load_sde("psld"), steps)
        return ss.sample(ss.load("psld-rvv"), ss.networks.load("digits"), grid, "0", **options)

    tried(R, what)(call)


for number in (float("nan"), float("inf"), 1e308, -1.0):
    run(f"the parameter `beta_max` = {number}", params={"beta_max": number})
run("10^11 steps", steps=10**11)
run("samples of shape (2^62,)", shape=(2**62,))
for name, code in (("raises SystemExit", "raise SystemExit(0)"), ("holds a surrogate", "\ud800"), ("has no API", "a = 1")):
    tried(R, f"a module that {name}")(lambda _, code=code: ss.load(f"{code}\n"))
for name, make in (("a pipe", os.mkfifo), ("a link to /dev/zero", lambda path: path.symlink_to("/dev/zero"))):
    tried(R, f"{name} as a module")(lambda folder, make=make: (make(folder / "m.py"), ss.load(folder / "m.py")))


def constant(what: str, values: Any) -> None:
    def call(folder: Path) -> Any:
        import numpy as np

        from stepsmith.runtime.constants import read_constant

        np.savez(folder / "c.npz", samples=np.array(values))
        return read_constant(folder / "c.npz")

    tried(R, what)(call)


constant("a constant of text", ["a"])
constant("a constant of complex numbers", [1j])

# --- the page --------------------------------------------------------------------------------------------------------


def outcome(call: Callable[[Path], Any]) -> str:
    """What comes back, in one line: a refusal's own words, or what was made."""
    with tempfile.TemporaryDirectory() as name:
        try:
            result = call(Path(name))
        except (InputError, Unsupported) as error:
            told = str(error).replace(f"{name}/", "")
            assert told.isprintable(), told
            told = re.sub(r"(known: |known are |one of: )(?:[\w-]+, ){4,}[\w-]+", r"\1...", told)  # they grow with the catalogue
            return f"{type(error).__name__}: {told if len(told) <= 240 else told[:240] + '...'}"
    return result if isinstance(result, str) and "\n" not in result else "accepted"


def cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


HEAD = """# Security: untrusted input, and how it is answered

Specs, compositions, checkpoints and parameters may come from people you do not trust. They are never executed. Each row
of the tables below is a test: the left column is an input, and the right column is the result, which is a value or one
line that names the place and a fix. `tests/test_security.py` tries all of them again and compares; `python
tests/test_security.py` writes this page. In addition, `tests/test_front_door_fuzz.py` makes 100,000 random cases (from
the grammar, mutated texts, mutated bytes of the catalogue) in a process that may not open, connect, execute, compile or
import anything.

Two inputs are executed, because you name them as code: a network `module:name` or `file.py:name`, and the argument of
`stepsmith check`.

The limits are:

| limit | where | value |
|---|---|---|
| a spec: bytes, levels, entries | `derive/spec/sources.py` | 256 KiB, 16, 20,000 |
| an expression: characters, nodes, levels, digits | `derive/spec/expression.py` | 4096, 2000, 64, 40 |
| what SymPy builds, names written out | `derive/spec/gauge.py` | degree 100, 65,536 bits, 8 nested powers, roots of 1000 bits |
| a matrix: blocks, columns of noise, nodes | `derive/spec/sources.py` | 32, 64, 20,000 |
| a composition: characters, tokens | `derive/spec/composition.py` | 4096, 64 |
| multiplied out; simplified; integrated | `derive/maths/bounded.py` | 500 monomials; 40 nodes; 200 terms of degree 24 |
| the stationary law | `derive/sde/stationary.py` | 12 blocks, 5000 monomials on the way, 500 in the result |
| draws merged over linear forms | `derive/program/passes.py` | 2000 products |
| zero, sign and commutation | `derive/maths/point.py` | balls at random points; nothing is expanded |
| the clock | `derive/maths/budget.py` | 60 s of processor time a call; a timer in the main thread, between steps in others |
"""


def page() -> str:
    lines, heading = [HEAD], ""
    for what, (own, call) in CASES.items():
        if own != heading:
            lines.append(f"## {own}\n\n| input | result |\n|---|---|")
            heading = own
        lines.append(f"| {cell(what)} | {cell(outcome(call))} |")
    text = "\n".join(lines) + "\n"
    return re.sub(r"(?<=\|)\n## ", "\n\n## ", text)


def rows() -> Iterator[tuple[str, str]]:
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        parts = re.split(r"(?<!\\)\|", line)
        if len(parts) == 4:
            yield parts[1].strip(), parts[2].strip()


@pytest.mark.parametrize("what", list(CASES))
def test_what_comes_back_is_what_the_page_says(what: str) -> None:
    assert dict(rows())[cell(what)] == cell(outcome(CASES[what][1]))


def test_the_page_has_a_row_for_each_case_and_no_other() -> None:
    told = [what for what, _ in rows()]
    limits = HEAD.count("\n| ") - 1
    assert told[limits + 1 :] == [w for w in told[limits + 1 :] if w in {*map(cell, CASES), "input", "---"}]
    assert {*map(cell, CASES)} <= {*told}


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        PAGE.write_text(page(), encoding="utf-8")
        sys.stdout.write(f"{PAGE}: {len(CASES)} cases\n")
