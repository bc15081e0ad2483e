"""Mutants: small faults planted in derive, templates and runtime, each of which the tests must see.

    python benchmarks/mutants.py LOG [--count N] [--only TEXT]

Sites are drawn with a fixed seed, room by room and operator by operator in turn, from the syntax trees of the rooms:

    sign        a + b -> a - b,  -a -> a
    constant    7 -> 8,  0.3 -> 0.45
    index       a[0] -> a[1],  a[-1] -> a[-2]
    term        a + b -> a or b,  p and q -> p or q alone
    comparison  a < b -> a >= b,  a == b -> a != b,  a in b -> a not in b
    factor      a * b -> a or b,  a / b -> a or a * b

Messages of errors, f-strings and limits (a number with a name in capitals, a tolerance under 1e-6) are left alone.  Beside them
stand four faults that an earlier review planted and no test saw.  Each is written alone into a copy of the tree, where a process
forked from this one runs the tests of its room until the first fails: the certificates of diffusions that no catalogue holds
come first.  SECONDS of processor time end a process, which counts as killed by time.

LOG takes a JSON object a line and a mutant; what stands in it is not run again, but for the survivors.  A survivor is a test that
is missing, or it changes nothing that can be seen: a person who has looked writes ``"equivalent": why`` into its line.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import importlib
import itertools
import json
import os
import resource
import shlex
import shutil
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
SEED, WANTED = 11, 84
SECONDS = 100  # of processor time, for a suite that takes under 60 without a mutant
FOLDERS = ("src", "derive", "templates", "runtime", "generated", "measure", "tests", "docs", "benchmarks", "examples")
COPIED = (*FOLDERS, "pyproject.toml", "README.md")

CERTIFICATES = "test_certificate.py -k 'leaves_with and (exact or noise or predictor or midpoint or own)'"
OTHERS = "test_certificate.py -k 'not planted and not exact and not noise and not predictor and not midpoint and not own'"
TEXTS = "test_generated.py -k 'byte_for_byte and (vp or psld_rvv or psld_conjugate)'"
ORDERS = ("test_printed.py", "test_orders.py -k 'not search_finds'")
LINES = "test_lines.py -k 'not no_line'"
SPLIT = "test_split.py -k 'not any_text'"
# The longest beginning of a file's path decides; each a file of tests and pytest's words.
SUITES: dict[str, tuple[str, ...]] = {
    "derive/maths": ("test_hard_sdes.py -k 'law or van_loan'", "test_kernel.py", "test_numeric.py"),
    "derive/sde": ("test_hard_sdes.py -k 'law or van_loan'", "test_kernel.py", "test_numeric.py"),
    "derive/maths/budget": ("test_budget.py",),
    "derive/proofs": (OTHERS, "test_kernel.py"),
    "derive/spec": (
        "test_front_door.py -k 'not unicode and not grammars'",
        "test_front_door_specs.py -k 'not random'",
        SPLIT,
        LINES,
    ),
    "derive/sampler": (SPLIT, LINES),
    "derive/sampler/network": (TEXTS, "test_frames.py"),
    "derive/lower": ("test_frames.py", LINES),
    "derive/lower/conjugate": ("test_conjugate.py",),
    "derive/lower/lines": (LINES,),
    "derive/lower/frames": ("test_frames.py", "test_adams.py -k every_network"),
    "derive/lower/adams": ("test_adams_noise.py", "test_adams.py -k 'not slope and not hold and not one_function and not names'"),
    "derive/program": ("test_passes.py", LINES),
    "derive/orders": ORDERS,
    "derive/orders/stability": ("test_stability.py", *ORDERS),
    "derive/orders/clock": ("test_adams.py", *ORDERS),
    "derive/orders/trial": ("test_orders.py -k search_finds",),
    "derive/": ("test_printed.py", SPLIT),
    "templates/": (OTHERS, "test_passes.py", TEXTS),
    "templates/dialects": ("test_k_diffusion.py", "test_hosts.py"),
    "templates/hosts": ("test_k_diffusion.py", "test_hosts.py"),
    "templates/hosts/trained": ("test_diffusers.py -k 'not process and not snippet'",),
    "templates/hosts/replay": ("test_diffusers.py -k 'not process and not snippet'",),
    "templates/hosts/diffusers": ("test_diffusers.py -k 'not process and not snippet'",),
    "templates/files": ("test_files.py", "test_front_door_runs.py"),
    "templates/torch": (OTHERS, "test_blurring.py"),
    "runtime/": ("test_printed.py -k run_starts", "test_loop.py", "test_noise.py", "test_watch.py"),
    "runtime/networks": ("test_networks.py", "test_watch.py"),
    "runtime/networks/unet": ("test_networks.py", "test_train.py -k 'exact or comes_back'"),
    "runtime/inversion": ("test_begin.py",),
    "runtime/data": ("test_train.py -k 'reads or images or none'", "test_offset.py"),
    "runtime/grid": ("test_grid.py",),
    "runtime/roots": ("test_grid.py",),
    "runtime/plan": ("test_printed.py -k run_starts", "test_front_door_runs.py", "test_loop.py", "test_offset.py"),
    "runtime/output": ("test_output.py",),
    "runtime/constants": ("test_offset.py",),
    "runtime/modules": ("test_front_door_runs.py", "test_loop.py"),
    "runtime/spectral": ("test_blurring.py",),
    "runtime/cache": ("test_cache.py",),
}
ROOMS: dict[str, tuple[str, ...]] = {
    "diffusions": ("derive/maths", "derive/sde", "derive/proofs"), "specs": ("derive/spec", "derive/sampler"),
    "programs": ("derive/lower", "derive/program"), "orders": ("derive/orders",),
    "printing": ("templates",), "core of a module": ("templates/torch",), "runtime": ("runtime",),
}  # fmt: skip
ASIDE = ("derive/orders/search.py", "derive/report.py", "runtime/networks/digits.py", "runtime/networks/galaxies.py")


@dataclass(frozen=True)
class Mutant:
    """The bytes ``start`` to ``end`` of a file replaced by ``new``; ``key`` names it however the lines move."""

    room: str
    operator: str
    file: str
    line: int
    key: str
    start: int
    end: int
    new: str

    @classmethod
    def of(cls, room: str, operator: str, file: str, text: bytes, start: int, end: int, new: str) -> Mutant:
        first, last = text.rfind(b"\n", 0, start) + 1, text.find(b"\n", end)
        lines = text[first:last], text[first:start] + new.encode() + text[end:last]
        before, after = (" ".join(line.decode().split()) for line in lines)
        return cls(
            room, operator, file, text.count(b"\n", 0, start) + 1, f"{file}: {before} -> {after}", start, end, new
        )

    def planted(self, text: bytes) -> bytes:
        return text[: self.start] + self.new.encode() + text[self.end :]


# -- the draw --------------------------------------------------------------------------------------------------------------


def survivors_of_old() -> Iterator[Mutant]:
    """The faults that no test saw once, each in the one place of its file."""
    for what, file, old, new in (
        ("dB/dt lost in a printed error", "derive/orders/conjugate.py", " + sde.written_out(B).diff(t)", ""),
        ("Var Z = 1/2", "derive/orders/strong.py", "at.point.ring.number(1, 3)", "at.point.ring.number(1, 2)"),
        ("h^2 in one coordinate", "derive/orders/moments.py", "(1, WIDTH) if most > 1", "(1,) if most > 1"),
        ("the plain part of the mean lost", "runtime/start.py", "(*given, torch.ones_like(like))", "(*given, like)"),
    ):
        text = (ROOT / file).read_bytes()
        if text.count(old.encode()) != 1:
            raise SystemExit(
                f"{file} holds {old!r} {text.count(old.encode())} times; a fault is planted where it stands once"
            )
        start = text.index(old.encode())
        yield Mutant.of("named", what, file, text, start, start + len(old.encode()), new)


def drawn(seed: int = SEED) -> Iterator[Mutant]:
    """All mutants, a room and an operator after the other, the order within by a hash: a change of one file moves no others."""
    cells: dict[tuple[str, str], dict[str, Mutant]] = {}
    for room in ROOMS:
        for file in files_of(room):
            for mutant in mutants_of(room, file):
                cells.setdefault((room, mutant.operator), {})[mutant.key] = mutant
    turn = lambda mutant: hashlib.sha256(f"{seed} {mutant.key}".encode()).digest()  # noqa: E731
    queues = [sorted(cells[cell].values(), key=turn) for cell in sorted(cells, key=lambda cell: cell[1])]
    for row in itertools.zip_longest(*queues):
        yield from (mutant for mutant in row if mutant is not None)


def files_of(room: str) -> list[str]:
    """The files of a room, those of a longer name of a room inside it left to that one."""
    inner = [folder for other, folders in ROOMS.items() if other != room for folder in folders]
    found = []
    for folder in ROOMS[room]:
        for path in sorted((ROOT / folder).rglob("*.py")):
            file = path.relative_to(ROOT).as_posix()
            if file not in ASIDE and not any(file.startswith(f"{i}/") and i.startswith(folder) for i in inner):
                found.append(file)
    return found


def mutants_of(room: str, file: str) -> Iterator[Mutant]:
    text = (ROOT / file).read_bytes()
    starts = [0, *(k + 1 for k, byte in enumerate(text) if byte == ord("\n"))]
    for node, index in sites(ast.parse(text)):
        start, end = starts[node.lineno - 1] + node.col_offset, starts[node.end_lineno - 1] + node.end_col_offset
        for operator, changed in changes(node, index):
            plain = isinstance(changed, ast.Constant | ast.Name)
            new = ast.unparse(changed) if plain else f"({ast.unparse(changed)})"
            yield Mutant.of(room, operator, file, text, start, end, new)


def sites(tree: ast.AST, index: bool = False) -> Iterator[tuple[Any, bool]]:
    """The expressions of a tree that may be changed, and whether each is an index."""
    for field, value in ast.iter_fields(tree):
        if field in ("annotation", "returns", "decorator_list"):
            continue
        for node in value if isinstance(value, list) else [value]:
            if (
                not isinstance(node, ast.AST)
                or isinstance(node, ast.Raise | ast.JoinedStr | ast.Assert)
                or _limit(node)
            ):
                continue
            inside = isinstance(tree, ast.Subscript) and field == "slice"
            if isinstance(node, ast.expr):
                yield node, inside
            yield from sites(node) if not (inside and _number(node) is not None) else ()


def _limit(node: ast.AST) -> bool:
    """A number, or several, under a name in capitals."""
    if not isinstance(node, ast.Assign | ast.AnnAssign) or node.value is None:
        return False
    names = [n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)]
    values = node.value.elts if isinstance(node.value, ast.Tuple) else [node.value]
    return all(name.isupper() for name in names) and all(_number(v) is not None for v in values)


def _number(node: Any) -> float | None:
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        value = _number(node.operand)
        return None if value is None else -value
    known = isinstance(node, ast.Constant) and isinstance(node.value, int | float) and not isinstance(node.value, bool)
    return node.value if known else None


NEGATED: dict[type, type] = {
    ast.Lt: ast.GtE, ast.GtE: ast.Lt, ast.Gt: ast.LtE, ast.LtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.In: ast.NotIn,
    ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is,
}  # fmt: skip


def changes(node: Any, index: bool) -> Iterator[tuple[str, ast.expr]]:
    """The mutants of one expression: (operator, what stands in its place)."""
    value = _number(node)
    if value is not None:
        if index and isinstance(value, int):
            yield "index", ast.Constant(value + 1 if value >= 0 else value - 1)
        elif isinstance(node, ast.Constant) and not 0 < abs(value) < 1e-6:
            yield "constant", ast.Constant(value + 1 if isinstance(value, int) else 1.5 * value or 1.0)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        yield "sign", node.operand
    elif isinstance(node, ast.BinOp) and not any(map(_text, (node.left, node.right))):
        yield from _of_two(node)
    elif isinstance(node, ast.BoolOp):
        for k in range(len(node.values)):
            rest = node.values[:k] + node.values[k + 1 :]
            yield "term", rest[0] if len(rest) == 1 else ast.BoolOp(node.op, rest)
    elif isinstance(node, ast.Compare) and len(node.ops) == 1:
        yield "comparison", ast.Compare(node.left, [NEGATED[type(node.ops[0])]()], node.comparators)


def _of_two(node: ast.BinOp) -> Iterator[tuple[str, ast.expr]]:
    left, right = node.left, node.right
    if isinstance(node.op, ast.Add | ast.Sub):
        yield "sign", ast.BinOp(left, ast.Sub() if isinstance(node.op, ast.Add) else ast.Add(), right)
        yield "term", left
        yield "term", right if isinstance(node.op, ast.Add) else ast.UnaryOp(ast.USub(), right)
    elif isinstance(node.op, ast.Mult | ast.Div):
        yield "factor", left
        yield "factor", right if isinstance(node.op, ast.Mult) else ast.BinOp(left, ast.Mult(), right)


def _text(node: ast.AST) -> bool:
    """A text or a list, which a sum joins and no arithmetic means."""
    return isinstance(node, ast.List | ast.Tuple | ast.ListComp | ast.JoinedStr) or (
        isinstance(node, ast.Constant) and isinstance(node.value, str)
    )


# -- a run -----------------------------------------------------------------------------------------------------------------


def suite_of(file: str) -> tuple[str, ...]:
    """The tests of a file, the certificates first."""
    return CERTIFICATES, *SUITES[max((start for start in SUITES if file.startswith(start)), key=len)]


class First:
    """A plugin of pytest: the first test that fails is written down."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed and not self.path.exists():
            self.path.write_text(report.nodeid.removeprefix("tests/"))


def forked(work: Callable[[], int]) -> tuple[int, float]:
    """(exit status, seconds of processor time) of a function in a process of its own; minus a signal where one ended it."""
    begun = resource.getrusage(resource.RUSAGE_CHILDREN)
    if not (pid := os.fork()):
        status = 70
        try:
            resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
            status = work()
        finally:
            os._exit(status)
    _, status = os.waitpid(pid, 0)
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return os.waitstatus_to_exitcode(status), ended.ru_utime - begun.ru_utime


def tested(tree: Path, suite: Sequence[str], first: Path) -> int:
    """pytest's exit status of a suite in a copy of the tree; runs in a forked process."""
    import pytest

    log = os.open(tree / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.chdir(tree)
    os.environ |= {"STEPSMITH_CACHE": str(tree / "cache"), "PYTHONPATH": str(tree / "src")}
    sys.path.insert(0, str(tree / "src"))
    sys.dont_write_bytecode = True
    try:
        import stepsmith
    except Exception:
        first.write_text("import stepsmith")
        return 1
    if not str(stepsmith.__file__).startswith(str(tree)):
        raise SystemExit(f"{stepsmith.__file__} is not the copy under test")
    for one in suite:
        file, *words = shlex.split(one)
        status = pytest.main(
            ["-xq", "-p", "no:cacheprovider", "--tb=line", f"tests/{file}", *words], plugins=[First(first)]
        )
        if status:
            return int(status)
    return 0


def fate_of(tree: Path, mutant: Mutant | None, suite: Sequence[str]) -> dict[str, Any]:
    """What becomes of a mutant (None: of the tree as it is) in its copy, which is put back."""
    first = tree / "first.txt"
    first.unlink(missing_ok=True)
    where = tree / (mutant.file if mutant else "pyproject.toml")
    kept, times = where.read_bytes(), where.stat()
    if mutant:
        where.write_bytes(mutant.planted(kept))
    try:
        status, seconds = forked(lambda: tested(tree, suite, first))
    finally:
        where.write_bytes(kept)
        os.utime(where, ns=(times.st_atime_ns, times.st_mtime_ns))
    fate = "survived" if status == 0 else "time" if status == -signal.SIGKILL else "killed"
    by = first.read_text() if first.exists() else "" if fate != "killed" else f"status {status}"
    return {"fate": fate, "by": by, "seconds": round(seconds, 1)}


def copied(folder: str) -> Path:
    tree = Path(folder)
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, tree / name, symlinks=True)
        else:
            shutil.copy2(source, tree / name)
    return tree


# -- the record ------------------------------------------------------------------------------------------------------------


def table(mutants: Sequence[Mutant], known: dict[str, dict[str, Any]]) -> Iterator[str]:
    """A row a room, then the mutants that survived."""
    yield "| room | mutants | by a test | by time | equivalent | survived |"
    yield "|---|---|---|---|---|---|"
    rows: dict[str, Counter[str]] = {}
    for mutant in mutants:
        found = known[mutant.key]
        rows.setdefault(mutant.room, Counter())["equivalent" if "equivalent" in found else found["fate"]] += 1
    for room, row in (*rows.items(), ("all", sum(rows.values(), Counter()))):
        counts = (row.total(), row["killed"], row["time"], row["equivalent"], row["survived"])
        yield f"| {room} | " + " | ".join(map(str, counts)) + " |"
    for mutant in mutants:
        if known[mutant.key]["fate"] == "survived":
            yield f"{mutant.operator}: {mutant.key}: {known[mutant.key].get('equivalent', 'SURVIVED')}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("log", type=Path)
    parser.add_argument("--count", type=int, default=WANTED, help="mutants drawn, beside the named ones")
    parser.add_argument("--only", default="", help="mutants whose file or key holds this text")
    given = parser.parse_args()
    lines = given.log.read_text().splitlines() if given.log.exists() else []
    known = {one["key"]: one for one in map(json.loads, lines)}
    draw = drawn()
    mutants = [*survivors_of_old(), *(next(draw) for _ in range(given.count))]
    mutants = [mutant for mutant in mutants if given.only in mutant.key]
    for name in ("diffusers", "flint", "hypothesis", "pytest", "scipy.linalg", "sympy", "torch"):  # once, before the forks
        importlib.import_module(name)
    sys.modules["torch"].set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder, given.log.open("a") as log:
        tree = copied(folder)
        for mutant in mutants:
            if mutant.key in known and (known[mutant.key]["fate"] != "survived" or "equivalent" in known[mutant.key]):
                continue
            fate = fate_of(tree, mutant, suite_of(mutant.file))
            known[mutant.key] = {"key": mutant.key, "operator": mutant.operator, "line": mutant.line, **fate}
            print(
                f"{fate['seconds']:5.1f} s {fate['fate']:8} {mutant.operator:10} {mutant.key}  [{fate['by']}]",
                flush=True,
            )
            log.write(json.dumps(known[mutant.key]) + "\n")
            log.flush()
        survived = {suite_of(mutant.file) for mutant in mutants if known[mutant.key]["fate"] == "survived"}
        for suite in sorted(
            {suite_of(mutant.file) for mutant in mutants} - survived
        ):  # has it passed, then, without a mutant?
            clean = fate_of(tree, None, suite)
            print(f"{clean['seconds']:5.1f} s without a mutant: {', '.join(suite)}", flush=True)
            if clean["fate"] != "survived":
                raise SystemExit(f"without a mutant {clean['by'] or 'the time'} ends {suite}")
    print("\n".join(table(mutants, known)))


if __name__ == "__main__":
    main()
