"""The front door: every file, name and dict becomes a plain table whose entries are checked, or an InputError."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import sympy
from hypothesis import given, settings
from hypothesis import strategies as st

from stepsmith.derive.spec import sources as spec
from stepsmith.errors import InputError

X, Y, T = (sympy.Symbol(name, real=True) for name in "xyt")
NAMES = {"x": X, "y": Y, "t": T}
SDE = {"name": "toy", "state": ["x"], "params": {"a": 1}, "F": [["-a"]], "G": [[1.0]]}
TOML = '[sde]\nname = "toy"\nstate = ["x"]\nF = [["-a"]]\nG = [[1.0]]\n[sde.params]\na = 1\n'


def write(folder: Path, text: str | bytes, name: str = "toy.toml") -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def spec_refused(words: str, call: Any, *args: Any, **kwargs: Any) -> InputError:
    with pytest.raises(InputError) as caught:
        call(*args, **kwargs)
    assert words in str(caught.value), str(caught.value)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 1500
    return caught.value


def test_a_spec_is_the_same_from_a_path_a_string_and_a_dict(tmp_path: Path) -> None:
    path = write(tmp_path, TOML)
    assert spec.read(path, kind="sde") == spec.read(str(path), kind="sde") == (str(path), SDE)
    assert spec.read(write(tmp_path, b"\xef\xbb\xbf" + TOML.replace("\n", "\r\n").encode()), kind="sde")[1] == SDE
    for source in (SDE, {"sde": SDE}, {"sde": SDE, "sampler": {}}):
        where, table = spec.read(source, kind="sde")
        assert (where, table) == ("-", SDE) and table["F"] is not SDE["F"] and table["params"] is not SDE["params"]


@pytest.mark.parametrize("kind", spec.KINDS)
def test_every_entry_of_the_catalogue_is_read_under_its_own_name(kind: Any) -> None:
    assert list(spec.catalogue(kind)) == sorted(spec.catalogue(kind))
    for name in spec.catalogue(kind):
        where, table = spec.read(name, kind=kind)
        assert where == f"{kind}/{name}.toml" and spec.name_of(where, "name", table["name"]) == name


@pytest.mark.parametrize(
    "name", ["", "psdl", "PSLD", "../sde/psld", "psld\0", "\uff50sld", "a b", "x" * 10_000, ".", "~"]
)
def test_an_unknown_name_is_refused(name: str) -> None:
    spec_refused("known: " if "/" not in name else "no such file", spec.read, name, kind="sde")


@pytest.mark.parametrize(
    "source",
    [
        None,
        3,
        b"psld",
        ["psld"],
        Path("/"),
        Path("/nowhere.toml"),
        "nowhere/a.toml",
        "a\0.toml",
        "/dev/zero",
        "\ud800.toml",
        "x" * 5000 + ".toml",
    ],
)
def test_what_is_no_source_is_refused(source: Any) -> None:
    spec_refused("", spec.read, source, kind="sde")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[sde]\nname = 'a'\nF = [\n", "is not TOML"), ("[sde]\nname = a\n", "line 2"),
        ("[sde]\na = 1\na = 2\n", "line 3"), ("", "holds no [sde], nothing"),
        ("[sampler]\nname = 'a'\n", "holds no [sde], only [sampler]"), ("name = 'a'\n", "unknown key 'name'"),
        ("sde = 3", "not a table"),
        ("[sde]\n[sdee]\n", "did you mean 'sde'"), (b"[sde]\nname = '\xff'\n", "line 2: is not UTF-8"),
        ("#" * (256 * 1024), "holds no"), ("#" * (256 * 1024 + 1), "larger than 256 KiB"),
        ("[sde]\nparams = 3\n", "sde.params: is an integer, not a table"),
        ("[sde]\nday = 2020-01-01\n", "sde.day: is a date"), ("[sde]\n'a b' = 1\n", "cannot be a key"),
        ("[sde]\na = " + "9" * 5000, "TOML"), ("[sde]\na = 0x" + "f" * 5000, "sde.a"),
        ("[sde]\na = " + "[" * 100_000, "16 deep"), ("a = " + "{a=" * 50_000, "16 deep"),
        ("[sde]\n" + ".".join("a" * 100_000) + " = 1", "16 deep"), ("[" + " . ".join("a" * 50_000) + "]", "16 deep"),
        ("[sde]\n" + '"+".' * 40_000 + "a = 1", "16 deep"),
        ("[sde]\na = [" + "1," * 50_000 + "]", "20000 entries"),
        ("[sde]\na = " + '"\\""' * 9 + "\n" + '\\"""\n' * 50_000, "not TOML"), ("\0", "line 1"),
        ("[sde]\na = '\0'", "line 2"),
        ('[sde]\ndoc = "a\\n\\"\\"\\" + boom"\n', "sde.doc"), ("[sde]\ndoc = 'a\\'\n", "sde.doc"),
        ("[sde]\nreference = 3\n", "sde.reference"),
    ],
)  # fmt: skip
def test_a_broken_file_is_refused_with_its_place(tmp_path: Path, text: str | bytes, words: str) -> None:
    path = write(tmp_path, text)
    assert spec_refused(words, spec.read, path, kind="sde").where == str(path)


def test_brackets_and_dots_inside_strings_and_comments_are_no_nests(tmp_path: Path) -> None:
    text = (
        TOML
        + "# "
        + "[" * 50
        + "\n[sde.let]\nb = '"
        + "(" * 40
        + ".".join("a" * 40)
        + '\'\nc = """[[[[[[[[[[[[[[[[[[[ "" \' """\n'
    )
    assert set(spec.read(write(tmp_path, text), kind="sde")[1]["let"]) == {"b", "c"}


def test_dicts_that_no_file_could_hold_are_refused() -> None:
    loop: dict[str, Any] = {}
    loop["a"] = loop
    wide: Any = [1]
    for _ in range(14):
        wide = [wide] * 10
    for odd in (
        loop,
        {"a": wide},
        {1: 2},
        {"a": X},
        {"a": {1, 2}},
        {"": 1},
        {"a\nb": 1},
        {"a": None},
        {"a": 1 << 2000},
        {"sde": {}, "b": 1},
    ):
        spec_refused("", spec.read, odd, kind="sde")


@settings(max_examples=400, deadline=None, derandomize=True, database=None)
@given(
    st.binary(max_size=80)
    | st.lists(
        st.sampled_from(
            ["[sde]", "\n", "=", "a", ".", "[", "]", "{", "}", '"', "'", '"""', "'''", "1", ",", "#", "\\", " "]
        ),
        max_size=40,
    )
    .map("".join)
    .map(str.encode)
)
def test_random_files_are_read_or_refused(tmp_path_factory: Any, data: bytes) -> None:
    path = write(tmp_path_factory.getbasetemp(), data, "random.toml")
    try:
        assert isinstance(spec.read(path, kind="sde")[1], dict)
    except InputError as error:
        assert str(error).isprintable()


# --- entries ---------------------------------------------------------------------------------------------------------


def test_unknown_and_missing_keys_are_named() -> None:
    spec_refused(
        "unknown key 'nmae'; did you mean 'name'? known: F, name",
        spec.check_keys,
        "a",
        "sde",
        {"nmae": 1},
        ("name", "F"),
        (),
    )
    spec_refused("the key 'F' is missing", spec.check_keys, "a", "sde", {"name": 1}, ("name", "F"), ("name", "F"))
    spec_refused("is a list, not a table", spec.check_keys, "a", "sde", [], ("name",), ())
    spec.check_keys("a", "sde", {"name": 1}, ("name", "F"), ("name",))


@pytest.mark.parametrize(
    "name",
    [
        "",
        "1a",
        "_a",
        "a-b",
        "a b",
        "a\n",
        "\u03b2",
        "\uff41",
        "t",
        "pi",
        "exp",
        "abs",
        "lambda",
        "None",
        "a" * 41,
        3,
        None,
    ],
)
def test_what_cannot_be_a_name_is_refused(name: Any) -> None:
    spec_refused("", spec.check_names, "a", "sde.params", ["good", name])
    spec_refused("", spec.table_of_numbers, "a", "sde.params", {name: 1.0})


def test_names_are_unique() -> None:
    spec_refused("'x' is defined twice", spec.check_names, "a", "sde.params", ("x", "y", "x"))
    spec.check_names("a", "sde.params", ("x", "beta_min", "T", "e", "a" * 40))


@pytest.mark.parametrize("value", [True, "1", None, float("nan"), float("inf"), 10**400, 2**53 + 1, [1], {}])
def test_parameters_are_finite_numbers(value: Any) -> None:
    assert spec_refused("", spec.table_of_numbers, "a", "sde.params", {"b": value}).key == "sde.params.b"
    assert spec.table_of_numbers("a", "sde.params", {"b": 2, "c": -0.5}) == {"b": 2.0, "c": -0.5}


@pytest.mark.parametrize("name", ["", "A", "aB", "_a", "-a", "2a", "a.b", "a/b", "..", "a\n", "ä", "a" * 41, 3, None])
def test_names_of_specs_are_fit_for_files(name: Any) -> None:
    spec_refused("no name of a spec", spec.name_of, "a", "sde.name", name)

@pytest.mark.parametrize("name", ["a", "psld-damped", "psld_damped", "a2_-", "a" * 40])
def test_names_of_specs_have_letters_digits_dashes_and_underscores(name: str) -> None:
    assert spec.name_of("a", "sde.name", name) == name


def test_matrices_have_their_shape() -> None:
    assert spec.matrix("a", "sde.F", [["x", 1], [0.5, "-y/2"]], (2, 2), NAMES) == sympy.Matrix(
        [[X, 1], [sympy.Rational(1, 2), -Y / 2]]
    )
    assert spec.matrix("a", "sde.G", [["x", 1, 0]], (1, None), NAMES).shape == (1, 3)


@pytest.mark.parametrize(
    ("rows", "shape", "words"),
    [
        ("x", (2, 2), "sde.F: is 'x', not a list of rows"), (["x"], (1, 1), "row [0] is 'x', not a list"),
        ([["x", "y"]], (2, 2), "row [1] is missing"),
        ([["x"], ["y"]], (1, 1), "row [1] is one too many"), ([["x", "y"], ["x"]], (2, 2), "entry [1][1] is missing"),
        ([[]], (1, None), "entry [0][0] is missing"),
        ([["x", "y"], ["x", "y", "t"]], (2, None), "entry [1][2] is one too many"),
        ([["x", "z"]], (1, 2), "sde.F[0][1]: column 1: unknown name 'z'"), ([[True]], (1, 1), "sde.F[0][0]"),
    ],
)  # fmt: skip
def test_the_fault_of_a_matrix_is_named_by_row_and_column(rows: Any, shape: Any, words: str) -> None:
    spec_refused(words, spec.matrix, "a", "sde.F", rows, shape, NAMES)
