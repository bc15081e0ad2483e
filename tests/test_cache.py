"""``ss.load`` of a module of the catalogue that is not kept on disk: derived once, cached, and never run from a changed file."""

import os
import re
import subprocess
import sys

import pytest
import torch

import stepsmith as ss
from stepsmith import loading
from stepsmith.derive import catalogue
from stepsmith.errors import InputError
from stepsmith.runtime import cache, modules

NAME = "vp_euler"  # of the catalogue, not kept
TIMES = [1.0, 0.4, 0.1]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty cache folder of its own, and nothing loaded."""
    monkeypatch.setenv("STEPSMITH_CACHE", str(tmp_path / "cache"))
    loading.derived.cache_clear()
    yield tmp_path / "cache"
    loading.derived.cache_clear()


@pytest.fixture
def text(emitted, monkeypatch):
    """The text of NAME, which counts as that of digests.txt."""
    found = emitted[NAME]
    line = loading.digests.Line.of(NAME, found.method.digest, found.text)
    monkeypatch.setattr(loading, "known", lambda: {NAME: line})
    return found.text


@pytest.fixture
def derivations(text, monkeypatch):
    """The names that were derived; each gives the text of this session."""
    names = []
    monkeypatch.setattr(loading, "emitted", lambda name: names.append(name) or text)
    return names


def files(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def reload(name=NAME):
    loading.derived.cache_clear()
    return ss.load(name)


# --- deriving and caching --------------------------------------------------------------------------------------------


def test_a_row_that_is_not_kept_is_derived_and_is_the_module_of_its_text(folder, text):
    assert NAME not in modules.installed()
    module, same = ss.load(NAME), ss.load("VP-euler")
    assert module is same and (module.SDE, module.SAMPLER, module.__name__) == ("vp", "euler", NAME)
    assert torch.equal(module.coefficients(TIMES), ss.load(text).coefficients(TIMES))
    assert [path.read_bytes() for path in files(folder)] == [text.encode()]


def test_a_run_takes_such_a_name_too(folder, derivations):
    grid = ss.TimeGrid.explicit(TIMES)
    samples = [
        ss.sample(source, lambda y, sigma: (y[0] / 2,), grid, [0, 1], shape=(3,)) for source in (NAME, ss.load(NAME))
    ]
    assert torch.equal(*samples) and derivations == [NAME]


def test_it_is_derived_once_and_then_read_under_its_version_and_digest(folder, derivations, monkeypatch):
    first = reload()
    (path,) = files(folder)
    assert path.parent.name == ss.__version__ and path.stem == f"{NAME}-{first.DIGEST[:16]}"
    assert reload().DIGEST == first.DIGEST and derivations == [NAME]
    monkeypatch.setattr(loading, "__version__", "0.0.1")
    reload()
    assert derivations == [NAME, NAME] and len(files(folder)) == 2


@pytest.mark.parametrize("change", ["append", "empty", "cut", "binary"])
def test_a_changed_file_is_never_run_but_made_anew(folder, derivations, text, change):
    reload()
    (path,) = files(folder)
    evil = f"open({str(folder / 'ran')!r}, 'w')\n"
    path.write_bytes(
        {"append": (text + evil).encode(), "empty": b"", "cut": text[:-9].encode(), "binary": b"\xff\0"}[change]
    )
    assert reload().SAMPLER == "euler" and derivations == [NAME, NAME]
    assert not (folder / "ran").exists() and path.read_bytes() == text.encode()


def test_a_text_that_digests_do_not_know_is_run_but_not_cached(folder, text, monkeypatch):
    monkeypatch.setattr(loading, "emitted", lambda name: text + "# of another SymPy\n")
    assert reload().SAMPLER == "euler" and files(folder) == []


@pytest.mark.parametrize("spoil", ["no folder", "a folder there", "no replace"])
def test_a_cache_that_cannot_be_used_costs_time_only(folder, derivations, monkeypatch, spoil):
    if spoil == "no folder":
        folder.write_text("a file")
    if spoil == "a folder there":
        reload()
        (path,) = files(folder)
        path.unlink()
        path.mkdir()
    if spoil == "no replace":

        def full(*_):
            raise OSError("the disk is full")

        monkeypatch.setattr(cache.os, "replace", full)
    done = len(derivations)
    assert reload().SAMPLER == reload().SAMPLER == "euler" and len(derivations) == done + 2
    assert not list(folder.rglob("*.tmp"))


def test_an_interrupted_write_leaves_nothing_behind(folder, derivations, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(cache.os, "replace", stop)
    with pytest.raises(KeyboardInterrupt):
        reload()
    assert files(folder) == []


def test_the_cache_folder_is_the_users(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    for name in ("STEPSMITH_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert cache.cache_folder() == tmp_path / ".cache" / "stepsmith"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # to be ignored, says the XDG specification
    assert cache.cache_folder() == tmp_path / ".cache" / "stepsmith"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "shared"))
    assert cache.cache_folder() == tmp_path / "shared" / "stepsmith"
    monkeypatch.setenv("STEPSMITH_CACHE", str(tmp_path / "own"))
    assert cache.cache_folder() == tmp_path / "own"


# --- what is refused -------------------------------------------------------------------------------------------------

WITHOUT = """
import sys
for name in ("sympy", "jinja2", "flint"):
    sys.modules[name] = None
import stepsmith as ss
for name in sys.argv[1:]:
    try:
        print(ss.load(name).SAMPLER)
    except ss.InputError as error:
        print(error)
"""


def test_without_what_derives_a_kept_or_cached_module_loads_and_another_names_the_command(folder, emitted):
    reload(NAME)
    assert len(files(folder)) == 1, "run `stepsmith build`"
    names = ["psld_rvv", NAME, "cld_nvv"]
    done = subprocess.run([sys.executable, "-c", WITHOUT, *names], capture_output=True, text=True, env=dict(os.environ))
    *loaded, refusal = done.stdout.splitlines()
    assert loaded == ["rvv", "euler"], done.stderr
    words = r"module: cld_nvv is not kept .* cannot be derived here \(.*(sympy|jinja2).*\); .*`stepsmith build cld_nvv .*"
    assert re.fullmatch(words, refusal)


@pytest.mark.parametrize(
    ("name", "closest"),
    [("psld_rvw", "psld_rvv"), ("vp-eulr", "vp_euler"), ("cld_nvvv", "cld_nvv"), ("vp_rvv", "psld_rvv"), ("qqqq", "source text")],
)  # fmt: skip
def test_a_name_that_no_module_has_is_one_line_with_the_closest(name, closest):
    with pytest.raises(InputError, match=re.escape(f"module: there is no generated module {name!r}; ")) as error:
        ss.load(name)
    told = re.findall(r"\w+_\w+", error.value.fix)
    assert closest in error.value.fix and "\n" not in str(error.value) and len(set(told)) == len(told)


def test_paths_and_texts_load_as_before(tmp_path, emitted):
    path = tmp_path / "own.py"
    path.write_text(emitted[NAME].text)
    assert (
        ss.load(path).DIGEST
        == ss.load(str(path)).DIGEST
        == ss.load(emitted[NAME].text).DIGEST
        == emitted[NAME].method.digest
    )
    with pytest.raises(InputError, match="there is no such file"):
        ss.load(tmp_path / "none.py")


def test_every_row_has_a_place(folder):
    assert {row.name for row in catalogue.rows()} == set(loading.known()) >= set(modules.installed())
