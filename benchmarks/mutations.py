"""Small faults of a source text, each in one expression of its syntax tree.

Sites are drawn with a fixed seed, room by room and operator by operator in turn, from the syntax trees of the rooms:

    sign        a + b -> a - b,  -a -> a
    constant    7 -> 8,  0.3 -> 0.45
    index       a[0] -> a[1],  a[-1] -> a[-2]
    term        a + b -> a or b,  p and q -> p or q alone
    comparison  a < b -> a >= b,  a == b -> a != b,  a in b -> a not in b
    factor      a * b -> a or b,  a / b -> a or a * b

Messages of errors, f-strings and limits (a number with a name in capitals, a tolerance under 1e-6) are left alone.
"""

from __future__ import annotations

import ast
import hashlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
SEED = 11
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


def survivors_of_old() -> Iterator[Mutant]:
    """The faults that no test saw once, each in the one place of its file."""
    for what, file, old, new in (
        ("dB/dt lost in a printed error", "derive/orders/conjugate.py", " + sde.written_out(B).diff(t)", ""),
        ("Var Z = 1/2", "derive/orders/strong.py", "at.point.ring.number(1, 3)", "at.point.ring.number(1, 2)"),
        ("h^2 in one coordinate", "derive/orders/moments.py", "(1, (4, 5)), (WIDTH, (4,))) if most", "(1, (4, 5)),) if most"),
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
