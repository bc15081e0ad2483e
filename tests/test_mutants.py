"""The mutants of `make mutants`: each is the small change that its operator says, in a text that is still Python."""

from __future__ import annotations

import ast
import itertools
import json
from pathlib import Path

import mutants
import mutations
import pytest

RECORD = Path(mutants.__file__).with_suffix(".jsonl")


@pytest.mark.parametrize(
    ("text", "made"),
    [
        ("a + b", {"sign: (a - b)", "term: a", "term: b"}), ("a - b", {"sign: (a + b)", "term: a", "term: (-b)"}),
        ("-a", {"sign: a"}), ("a * b", {"factor: a", "factor: b"}), ("a / b", {"factor: a", "factor: (a * b)"}),
        ("7", {"constant: 8"}), ("0.5", {"constant: 0.75"}), ("1e-9", set()), ("a[0]", {"index: 1"}), ("a[-1]", {"index: -2"}),
        ("a < b", {"comparison: (a >= b)"}), ("a in b", {"comparison: (a not in b)"}), ("a and b", {"term: a", "term: b"}),
        ("'a' + b", set()), ("[0] * n", {"constant: 1"}), ("f'{1 + a}'", set()), ("True", set()),
    ],
)  # fmt: skip
def test_an_operator_changes_what_it_is_named_for(text: str, made: set[str]) -> None:
    found = set()
    for node, index in mutations.sites(ast.parse(text)):
        for operator, changed in mutations.changes(node, index):
            new = ast.unparse(changed)
            found.add(f"{operator}: {new if isinstance(changed, ast.Constant | ast.Name) else f'({new})'}".replace("(-2)", "-2"))
    assert found == made


@pytest.mark.parametrize("text", ["LIMIT = 3", "LOW, HIGH = 1, 2.5", "def f(x: t[3]) -> t[4]: raise E(1 + x)", "assert 1 < x"])
def test_limits_annotations_and_messages_are_left_alone(text: str) -> None:
    assert not [change for node, index in mutations.sites(ast.parse(text)) for change in mutations.changes(node, index)]


def test_every_mutant_is_python_and_differs_in_its_place_alone() -> None:
    texts: dict[str, bytes] = {}
    for mutant in itertools.islice(mutations.drawn(), 0, 400, 4):
        text = texts.setdefault(mutant.file, (mutations.ROOT / mutant.file).read_bytes())
        planted = mutant.planted(text)
        ast.parse(planted)
        assert planted != text and planted.startswith(text[: mutant.start]) and planted.endswith(text[mutant.end :])


def test_rooms_and_operators_take_turns_and_each_file_has_its_tests() -> None:
    first = list(itertools.islice(mutations.drawn(), 42))
    assert len({(mutant.room, mutant.operator) for mutant in first}) == 42
    for mutant in mutations.drawn():
        for words in mutants.suite_of(mutant.file):
            assert (mutations.ROOT / "tests" / words.split()[0]).is_file()


def test_the_faults_that_no_test_saw_once_are_seen() -> None:
    known = {one["key"]: one for one in map(json.loads, RECORD.read_text().splitlines())}
    assert {known[mutant.key]["fate"] for mutant in mutations.survivors_of_old()} == {"killed"}


def test_whatever_survived_is_explained() -> None:
    for one in map(json.loads, RECORD.read_text().splitlines()):
        assert one["fate"] in ("killed", "time") or one["equivalent"]
