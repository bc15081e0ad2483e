"""The command line: what each verb gives, and that bad input is one line on stderr and exit status 2."""

import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open

import stepsmith
import stepsmith.generated
from stepsmith import cli
from stepsmith.cli import run as runs
from stepsmith.cli import shared
from stepsmith.cli.sample import GRIDS
from stepsmith.derive import catalogue, list_samplers, list_sdes
from stepsmith.derive.sampler import network
from stepsmith.errors import InputError
from stepsmith.runtime import TimeGrid, load, networks, parse_seeds, sample
from stepsmith.runtime.networks.shipped import WEIGHTS

GENERATED = Path(stepsmith.generated.__path__[0])
ROOT = Path(__file__).parent.parent
KNOWN = tomllib.loads((ROOT / "derive/specs/defaults.toml").read_text(encoding="utf-8"))


@pytest.fixture
def run(monkeypatch, capfd):
    """``run("list", "--json")`` in this process: status, out, err."""

    def run(*words) -> SimpleNamespace:
        monkeypatch.setattr(sys, "argv", ["stepsmith", *map(str, words)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as caught:
            cli.main()
        out, err = capfd.readouterr()
        return SimpleNamespace(status=caught.value.code or 0, out=out, err=err)

    yield run
    torch.set_num_threads(1)


@pytest.fixture
def refused(run):
    """``refused(words, where, key, what, fix)``: exit 2, nothing on stdout, one line on stderr that says just that."""

    def refused(words, where, key, what, fix="", longest=500) -> None:
        found = run(*words)
        assert (found.status, found.out) == (2, ""), found
        assert found.err.count("\n") == 1 and found.err.endswith("\n"), found.err
        line = found.err.rstrip("\n")
        assert line.isprintable() and len(line) < longest, line
        start = f"{where}: {key}: ".removeprefix("-: ")  # no file
        assert line.startswith(start), line
        told, _, advice = line.removeprefix(start).rpartition("; ")
        assert what in told and fix in advice and advice, line

    return refused


def done(found) -> str:
    assert found.status == 0, found.err
    return found.out


# --- specs to spoil --------------------------------------------------------------------------------------------------

SDE = {
    "name": '"mine"',
    "state": '["x", "m"]',
    "F": '[["-beta*Gamma/2", "beta*Minv/2"], ["-beta/2", "-beta*nu/2"]]',
    "G": '[["sqrt(beta*Gamma)", "0"], ["0", "sqrt(beta*nu/Minv)"]]',
    "params": "{ Gamma = 0.01, nu = 4.01, kappa = 0.04, beta = 8.0 }",
    "let": '{ Minv = "(Gamma - nu)**2/4" }',
    "initial": '{ m = "kappa/Minv" }',
}
SAMPLER = {
    "name": '"mine"',
    "family": '"splitting"',
    "target": '"sde"',
    "composition": '"O B! A"',
    "parts": """{ O = { linear = "diagonal", noise = "all", solve = "exact" }, \
A = { rows = ["x"], linear = "rest", score = "all" }, B = { rows = ["m"], linear = "rest", score = "all" } }""",
}


@pytest.fixture
def spec(tmp_path):
    """``spec("sde", F=...)``: the path of a .toml file with some entries changed; None leaves one out."""

    def spec(kind: str, **changes: str | None) -> Path:
        table = {**(SDE if kind == "sde" else SAMPLER), **changes}
        path = tmp_path / f"own_{kind}.toml"
        lines = [f"{key} = {value}" for key, value in table.items() if value is not None]
        path.write_text("\n".join([f"[{kind}]", *lines]) + "\n")
        return path

    return spec


def test_the_specs_to_spoil_are_good(run, spec, tmp_path):
    words = ("build", "--sde", spec("sde"), "--sampler", spec("sampler"), "--out", tmp_path / "out")
    assert "1 module built" in done(run(*words))
    assert load(tmp_path / "out" / "mine_mine.py").DRAWS == 2


# --- list, derive, show ----------------------------------------------------------------------------------------------


def test_help_and_version_come_without_the_heavy_imports():
    code = "import sys, stepsmith.cli; print({'torch', 'sympy', 'jinja2', 'numpy'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"


def test_the_help_lists_the_verbs_that_are_built(run):
    text = done(run("--help"))
    for verb in ("list", "derive", "build", "show", "sample"):
        assert re.search(rf"^  {verb} +[A-Z]", text, re.M)
        assert "Usage: " in done(run(verb, "--help"))
    for verb in set(cli.cli.commands):
        assert re.search(rf"^  {verb} ", text, re.M)
    assert done(run("--version")) == f"stepsmith, version {stepsmith.__version__}\n"


def test_every_verb_shows_examples_and_they_are_calls_of_it():
    for name, verb in cli.cli.commands.items():
        lines = re.findall(r"^  stepsmith (.*)$", verb.epilog or "", re.M)
        assert lines, name
        for line in lines:
            own, *words = shlex.split(line)
            assert own == name
            verb.make_context(name, words)


def test_list_names_every_diffusion_and_sampler_and_with_a_word_the_modules(run):
    told = json.loads(done(run("list", "--json")))
    text = done(run("list", "--long")) + done(run("list", "_"))
    assert tuple(told["sdes"]) == list_sdes() and tuple(told["samplers"]) == list_samplers()
    assert told["modules"] == [row.name for row in catalogue.rows()]
    for name in (*told["sdes"], *told["samplers"], *told["modules"]):
        assert re.search(rf"^{re.escape(name)}\b", text, re.M), name
    assert told["samplers"]["rvv"]["composition"] == "B! A B!@1" and told["samplers"]["rvv"]["nfe"] == 2
    assert re.search(r"^baoab +B! A! O A!@1 B!@1 +4 ", text, re.M)


def test_list_fits_a_screen(run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    text = done(run("list"))
    assert set(list_sdes() + list_samplers()) <= set(text.split())
    assert len(text.splitlines()) < 24 and max(map(len, text.splitlines())) <= 80


@pytest.mark.parametrize("name", ["psld", "vp-cosine", "ve"])
def test_derive_prints_the_mathematics_in_three_ways(run, name):
    text, latex, told = (done(run("derive", name, *more)) for more in ((), ("--latex",), ("--json",)))
    told = json.loads(told)
    assert told["source"] == name and {
        "sde",
        "transition",
        "covariance",
        "stationary",
        "probability_flow",
        "reverse_sde",
    } <= set(told)
    for title in ("transition Psi(t, 0)", "covariance Sigma(t)", "stationary law", "probability flow", "reverse SDE"):
        assert re.search(rf"^{re.escape(title)}", text, re.M) and title in latex
    assert all(line.strip() in text for key, value in told.items() if key != "source" for line in value.splitlines())
    assert r"\,dt" in latex and r"\left" not in text and (r"\left[\begin{matrix}" in latex) == (name == "psld")
    assert text.count("int_beta = ") == latex.count(r"I_{\beta} = ") == (name != "ve")


def test_derive_knows_what_is_true_and_what_has_no_closed_form(run, spec):
    flow = json.loads(done(run("derive", "vp", "--json")))["probability_flow"]
    assert flow == "[0][0]  beta/2"
    assert json.loads(done(run("derive", "vp", "--json")))["stationary"] == "[0][0]  1"
    assert json.loads(done(run("derive", "psld", "--json")))["reverse_sde"].splitlines()[0] == "[0][0]  Gamma*beta"
    turning = spec("sde", F='[["-Gamma*t", "1"], ["-1", "-nu"]]')
    text = done(run("derive", turning))
    assert "does not commute" in text and "not in closed form" in text


def test_show_prints_the_program_whose_digest_the_module_has(run):
    text = done(run("show", "psld_rvv"))
    assert text.count(" = network(") == 3 and "\nlast\n" in text  # two a step and one at the end
    assert hashlib.sha256(text.encode()).hexdigest() == load("psld_rvv").DIGEST
    assert done(run("show", "psld-rvv")) == text


# --- build -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def quick(monkeypatch, emitted):
    """``build`` with a catalogue of four rows, two of them kept, and the texts that this session has emitted already."""
    from stepsmith.cli import build

    few = tuple(row for row in catalogue.rows() if row.name in ("psld_rvv", "cld_nvv", "vp_euler", "vp_conjugate"))
    monkeypatch.setattr(catalogue, "rows", lambda: few)
    monkeypatch.setattr(
        build, "_from_row", lambda row, text: build.Emitted(row.name, emitted[row.name].method.digest, emitted[row.name].text)
    )


@pytest.fixture
def copied(tmp_path, run, quick):
    """A folder as ``build`` leaves it."""
    folder = tmp_path / "generated"
    folder.mkdir()
    shutil.copy(GENERATED / "__init__.py", folder)
    assert "4 modules built" in done(run("build", "--out", folder))
    return folder


def test_build_writes_the_kept_modules_and_a_digest_of_every_row(copied, emitted):
    kept = ("psld_rvv", "vp_conjugate")
    assert {path.name for path in copied.iterdir()} == {"__init__.py", "digests.txt", *(f"{name}.py" for name in kept)}
    assert all((copied / f"{name}.py").read_text() == emitted[name].text for name in kept)
    for line in (copied / "digests.txt").read_text().splitlines():
        name, program, text = line.split(" ")
        assert program == emitted[name].module.DIGEST
        assert text == hashlib.sha256(emitted[name].text.encode()).hexdigest()


def test_build_names_the_files_that_it_writes(run, tmp_path):
    first, *_ = done(run("build", "vp_ddim", "--out", tmp_path, "--no-certificate")).splitlines()
    assert Path(first) == tmp_path / "vp_ddim.py" and Path(first).is_file()


def test_build_check_passes_on_what_is_current_and_shows_a_changed_character(run, copied):
    found = run("build", "--out", copied, "--check")
    assert found.status == 0 and re.search(r"files that differ in .*: 0$", found.out, re.M), found.out[:2000]
    path = copied / "psld_rvv.py"
    text = path.read_text()
    path.write_text(text.replace("NFE = 2", "NFE = 3", 1))
    found = run("build", "--out", copied, "--check")
    assert found.status == 1 and re.search(r"files that differ in .*: 1$", found.out, re.M)
    assert f"--- {path} (file)" in found.out and "\n-NFE = 3\n+NFE = 2\n" in found.out
    assert path.read_text() != text  # a check writes nothing
    told = json.loads(run("build", "--out", copied, "--check", "--json").out)
    assert told["changed"] == ["psld_rvv"] and told["checked"] is True
    assert done(run("build", "--out", copied)).endswith(f"files changed in {copied}: 1\n") and path.read_text() == text


@pytest.mark.parametrize("change", ["program", "text", "missing", "extra", "order"])
def test_build_check_holds_every_row_to_its_digests(run, copied, change):
    path = copied / "digests.txt"
    text = path.read_text()
    lines = text.splitlines(keepends=True)
    _, program, sha = next(line for line in lines if line.startswith("cld_nvv ")).split()  # a row that is not kept
    path.write_text(
        {
            "program": text.replace(program, "0" * 64),
            "text": text.replace(sha, "0" * 64),
            "missing": "".join(line for line in lines if not line.startswith("cld_nvv ")),
            "extra": text + f"none {program} {sha}\n",
            "order": "".join(lines[::-1]),
        }[change]
    )
    found = run("build", "--out", copied, "--check")
    assert found.status == 1 and f"--- {path} (file)" in found.out and re.search(r"files that differ in .*: 1$", found.out, re.M)
    assert done(run("build", "--out", copied)).endswith(f"files changed in {copied}: 1\n") and path.read_text() == text


@pytest.mark.parametrize("name", ["psld_none.py", "cld_nvv.py", "notes.txt", "psld_rvv.py.tmp"])
def test_build_check_names_an_orphan_and_build_removes_it(run, copied, name):
    before = set(copied.iterdir())
    (copied / name).write_text("")
    found = run("build", "--out", copied, "--check")
    assert found.status == 1 and f"{copied / name}: an orphan" in found.out
    assert re.search(r"files that differ in .*: 1$", found.out, re.M)
    assert (copied / name).exists()
    assert done(run("build", "--out", copied)).endswith(f"files changed in {copied}: 1\n") and set(copied.iterdir()) == before


def test_in_a_folder_of_the_users_only_an_emitted_module_is_an_orphan(run, copied, emitted):
    (copied / "__init__.py").write_text("")
    (copied / "notes.txt").write_text("")
    (copied / "vp_euler.py").write_text(emitted["vp_euler"].text)
    told = json.loads(run("build", "--out", copied, "--check", "--json").out)
    assert told["changed"] == ["vp_euler"]


def test_build_check_sees_a_missing_file_and_another_end_of_line(run, copied):
    (copied / "vp_conjugate.py").unlink()
    found = run("build", "--out", copied, "--check")
    assert found.status == 1 and '+"""' in found.out and not (copied / "vp_conjugate.py").exists()
    path = copied / "psld_rvv.py"
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert re.search(r"files that differ in .*: 2$", run("build", "--out", copied, "--check").out, re.M)


def test_build_of_a_name_in_a_checkout_wants_one_that_is_kept(run, refused, quick, monkeypatch, tmp_path):
    (tmp_path / "pyproject.toml").write_text("")
    (tmp_path / "generated").mkdir()
    monkeypatch.chdir(tmp_path)
    refused(("build", "cld_nvv"), "-", "name", "cld_nvv is not kept in ./generated", "--out")
    assert "1 module built" in done(run("build", "psld_rvv"))
    assert [path.name for path in (tmp_path / "generated").iterdir()] == ["psld_rvv.py"]


def test_many_modules_are_made_by_several_processes_in_their_order(tmp_path, emitted):
    from stepsmith import certificate
    from stepsmith.cli import build

    rows = [catalogue.find(name) for name in ("vp_euler", "ve_euler", "vp_conjugate", "vp_ddim", "vp_heun")] * 2
    made = list(build._from_rows(rows, certificate.written))
    assert [module.name for module in made] == [row.name for row in rows]
    assert all(
        module == (row.name, emitted[row.name].method.digest, emitted[row.name].text)
        for module, row in zip(made, rows, strict=True)
    )


def test_build_of_one_name_writes_that_file_alone_and_the_same_bytes(run, tmp_path, emitted):
    """As users run it, in a process of its own; then one character changes."""
    words = ("build", "vp_conjugate", "--out", tmp_path / "new")
    subprocess.run([Path(sys.executable).with_name("stepsmith"), *words], check=True, capture_output=True)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["vp_conjugate.py"]
    path = tmp_path / "new" / "vp_conjugate.py"
    assert path.read_text() == emitted["vp_conjugate"].text
    path.write_text(path.read_text().replace("torch", "torsh", 1))
    found = run(*words, "--check")
    assert found.status == 1 and "torsh" in found.out and found.err == ""


def test_build_of_ones_own_diffusion_and_composition(run, spec, tmp_path):
    words = ("build", "--sde", spec("sde"), "--sampler", "B! A B!@1/2", "--network", "eps-L", "--out", tmp_path / "out")
    told = json.loads(done(run(*words, "--json")))
    (name,) = told["modules"]
    module = load(tmp_path / "out" / f"{name}.py")
    assert (module.SDE, module.NETWORK, module.NFE, module.INPUTS) == ("mine", "eps-L", 2, 2)
    assert json.loads(done(run(*words, "--check", "--json")))["changed"] == []


@pytest.mark.parametrize(
    ("kind", "words"),
    [("sampler", ("--sde", "psld", "--sampler")), ("sde", ("--sampler", "rvv", "--sde"))],
)
def test_build_refuses_a_module_of_the_name_of_another_one(refused, spec, tmp_path, kind, words):
    """Dashes become underscores: psld_damped_rvv would be damped-rvv on psld, rvv on psld_damped and rvv on psld-damped."""
    own = spec(kind, name='"damped-rvv"' if kind == "sampler" else '"psld_damped"')
    what = "psld_damped_rvv is the module of rvv on psld-damped, of the catalogue, and of"
    refused(("build", *words, own, "--out", tmp_path / "out"), "-", "name", what, "rename")
    assert not (tmp_path / "out").exists()


def test_names_with_underscores_build(run, spec, tmp_path):
    words = ("--sde", spec("sde", name='"my_own"'), "--sampler", spec("sampler", name='"a_b-c"'))
    done(run("build", *words, "--out", tmp_path / "out"))
    module = load(tmp_path / "out" / "my_own_a_b_c.py")
    assert (module.SDE, module.SAMPLER) == ("my_own", "a_b-c")


def test_two_rows_of_the_catalogue_never_have_one_name():
    rows = [catalogue.Row("a", "b-c"), catalogue.Row("a", "b"), catalogue.Row("a-b", "c")]
    assert list(catalogue.named(rows[:2])) == ["a_b_c", "a_b"]
    with pytest.raises(InputError, match="a_b_c is the module of b-c on a and of c on a-b"):
        catalogue.named(rows)


# --- sample ----------------------------------------------------------------------------------------------------------

QUICK = ("sample", "--sde", "vp", "--sampler", "conjugate", "--steps", "3", "--seeds", "0-3")


def test_samples_are_written_three_ways_with_their_record(run, tmp_path):
    told = {}
    for suffix in ("png", "npz", "safetensors"):
        path = tmp_path / "deep" / f"a.{suffix}"
        found = run(*QUICK, "--out", path)
        assert found.status == 0 and f"{path}: 4 samples of " in found.out and ", 3 steps, 3 calls a sample, " in found.out
        told[suffix] = path
    with Image.open(told["png"]) as image:
        assert image.mode == "L" and image.size[0] == image.size[1] > 2 * 8
        record = json.loads(image.text["record"])
    with np.load(told["npz"]) as file:
        array = file["samples"]
        assert json.loads(str(file["record"])) == record
    with safe_open(told["safetensors"], "pt") as file:
        assert torch.equal(file.get_tensor("samples"), torch.from_numpy(array))
        assert json.loads(file.metadata()["record"]) == record
    assert array.shape == (4, 1, 28, 28) and array.dtype == np.float32 and np.isfinite(array).all()
    module, network = load("vp_conjugate"), networks.load("fashion")
    grid = TimeGrid.explicit(record["grid"]["times"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert np.array_equal(sample(module, network, grid, "0-3").numpy(), array)
    assert (record["sde"], record["sampler"], record["network"]) == ("vp", "conjugate", "denoiser")
    assert record["digest"] == module.DIGEST and record["seeds"] == "0-3" and record["nfe"] == 3
    assert record["grid"]["name"] == "logsnr" and len(grid.times) == 4
    sigma = stepsmith.load_sde("vp").at().effective_sigma(grid.times.numpy())
    low, high = network.sigma_range  # the grid lies in it
    assert sigma[0] == pytest.approx(high, rel=1e-9) and sigma[-1] > low and record["grid"]["times"][-1] == 1e-3
    assert record["model"] == {"name": "fashion", "digest": network.digest} and len(network.digest) == 64
    assert set(record["versions"]) == {"stepsmith", "torch", "python"}


@pytest.mark.parametrize(
    ("words", "steps", "nfe", "left"),
    [
        (("--sampler", "rvv", "--nfe", "7"), 3, 6, 1),
        (("--sampler", "rvv", "--nfe", "7", "--last", "denoise"), 3, 7, 0),
        (("--sampler", "baoab", "--nfe", "11", "--last", "denoise"), 2, 9, 2),
        (("--sampler", "B! A! B!", "--nfe", "3"), 1, 3, 0),
    ],
)
def test_a_budget_of_calls_buys_steps_and_the_rest_is_told(run, tmp_path, words, steps, nfe, left):
    words = ("sample", "--seeds", "5", "--out", tmp_path / "a.npz", *words)
    told = json.loads(done(run(*words, "--json")))
    assert (told["steps"], told["nfe"], told["left"]) == (steps, nfe, left)
    assert told["record"]["nfe"] == nfe and len(told["record"]["grid"]["times"]) == steps + 1
    assert told["samples"] == 1 and told["seconds"] > 0
    text = done(run(*words))
    assert f" {steps} steps, {nfe} calls a sample" in text
    assert (f"{left} call{'s' * (left > 1)} left over" in text) == (left > 0)


@pytest.mark.parametrize(("calls", "nearest"), [("2", 5), ("14", 10), ("15", 20)])
@pytest.mark.parametrize(("sde", "blocks"), [("vp", "one"), ("psld", "several")])
def test_a_diffusion_alone_has_the_default_of_the_nearest_number_of_calls(run, tmp_path, sde, blocks, calls, nearest):
    (row,) = (row for row in KNOWN[blocks] if row["calls"] == nearest)
    words = ("sample", "--sde", sde, "--nfe", calls, "--seeds", "1", "--out", tmp_path / "a.npz", "--json")
    told = json.loads(done(run(*words)))["record"]
    assert told["sampler"] == told["specs"]["sampler"] == row["sampler"] and told["grid"]["name"] == row["grid"]


@pytest.mark.parametrize("steps", [5, 20])
@pytest.mark.parametrize(("sde", "kind"), [("psld", "eps-L"), ("psld", "score"), ("cld", "eps-R"), ("vp", "v"), ("vp", "score")])
def test_networks_of_every_kind_have_a_default(tmp_path, sde, kind, steps):
    words = {**dict.fromkeys(runs.Request.__dataclass_fields__), "sde": sde, "steps": steps}
    method, grid = runs.chosen(stepsmith.load_sde(sde), runs.Request(**words), kind)
    assert method.sampler.name in {row["sampler"] for name in KNOWN for row in KNOWN[name]} and grid in GRIDS


def test_where_the_nearest_default_is_not_derived_the_next_one_is_taken():
    """UniPC takes no offset; adams does."""
    words = {**dict.fromkeys(runs.Request.__dataclass_fields__), "sde": "ir-sde", "nfe": 5}
    method, grid = runs.chosen(stepsmith.load_sde("ir-sde"), runs.Request(**words), "denoiser")
    assert (method.sampler.name, grid) == ("adams-3", "asinh")


def test_a_diffusion_without_a_default_says_which_networks_it_takes(refused, tmp_path):
    words = ("sample", "--sde", "blurring", "--steps", "2", "--seeds", "1", "--out", tmp_path / "a.npz")
    refused(words, "-", "unsupported", "one noise level", "eps-L")


def test_a_network_of_ones_own_is_named_by_its_module(run, refused, tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(
        "from stepsmith import networks\n"
        "net = networks.channels(lambda z, t: 0 * z, 2, (1, 4, 4), 'eps-L')\n"
        "def make():\n    return networks.denoiser(lambda y, s: 0 * y, (1, 4, 4))\n"
        "def wrong():\n    return 3\n"
    )
    monkeypatch.chdir(tmp_path)
    for name, kind in (("mine:net", "eps-L"), ("mine.py:net", "eps-L"), ("mine:make", "denoiser")):
        words = ("sample", "--network", name, "--sampler", "conjugate", "--steps", "2", "--out", "a.npz", "--json")
        assert json.loads(done(run(*words)))["record"]["network"] == kind
    for name, what in (("mine:wrong", "a Network but"), ("mine:none", "AttributeError"), ("nowhere:net", "ModuleNotFoundError")):
        refused(("sample", "--network", name, "--steps", "2"), "-", "network", what, "Network")


@pytest.mark.parametrize(
    ("sde", "kind", "parts"),
    [("psld", "eps-L", 2), ("vp", "eps", 1), ("vp", "v", 1), ("vp", "x0", 1), ("psld", "score", 2), ("rectified-flow", "flow", 1),
     ("vp", "edm", 1), ("psld", "denoiser", 1)],
)  # fmt: skip
def test_a_function_or_a_module_of_torch_is_a_network_of_the_kind_that_is_said(run, tmp_path, monkeypatch, sde, kind, parts):
    """Channels and the shape of the time are as the page says."""
    (tmp_path / "raw.py").write_text(
        "import torch\n"
        "def fn(z, t):\n"
        f"    assert z.shape == (2, {parts}, 4, 4) and t.shape == {'()' if kind == 'denoiser' else '(2,)'}\n"
        "    return 0.1 * z\n"
        "class Net(torch.nn.Module):\n"
        "    def forward(self, z, t):\n        return fn(z, t)\n"
        "net = Net()\n"
    )
    monkeypatch.chdir(tmp_path)
    for name in ("fn", "net", "Net"):
        words = ("sample", "--sde", sde, "--network", f"raw.py:{name}", "--kind", kind, "--shape", "1,4,4", "--steps", "2")
        found = run(*words, "--sampler", "conjugate", "--seeds", "0-1", "--out", "a.npz", "--json")
        assert json.loads(done(found))["record"]["network"] == ("eps-L" if kind == "eps" else kind)


def test_a_kind_that_does_not_fit_is_refused(refused, tmp_path, monkeypatch):
    (tmp_path / "raw.py").write_text("def fn(z, t):\n    return z\n")
    monkeypatch.chdir(tmp_path)
    words = ("sample", "--steps", "2", "--network")
    refused((*words, "raw.py:fn"), "-", "network", "does not say what it predicts", "say it with kind and shape")
    refused((*words, "raw.py:fn", "--kind", "eps-L"), "-", "shape", "does not say the shape of a sample", "1,28,28")
    refused((*words, "raw.py:fn", "--kind", "eps-L", "--shape", "a"), "-", "shape", "'a' is no shape", "whole numbers")
    refused((*words, "fashion", "--kind", "eps-L"), "-", "kind", "is a network of kind denoiser, not eps-L", "give denoiser")


def test_an_error_in_code_of_the_user_is_one_line_with_its_place(run, tmp_path, monkeypatch):
    """The line of the user's own file, not that of torch below it or of stepsmith above it."""
    (tmp_path / "raw.py").write_text(
        "import torch\n"
        "def deep(z, t):\n    return torch.nn.functional.conv2d(z, torch.ones(1, 2, 3, 3))\n"
        "def own(z, t):\n    return z.nothing\n"
    )
    monkeypatch.chdir(tmp_path)
    for name, line, what in (("deep", 3, "RuntimeError: Given groups=1"), ("own", 5, "AttributeError: 'Tensor' object")):
        words = ("--sde", "vp", "--sampler", "ddim", "--network", f"raw.py:{name}", "--kind", "eps", "--shape", "1,4,4")
        found = run("sample", *words, "--steps", "2", "--out", "a.npz")
        assert found.status == 2 and f"\nraw.py: line {line}: {what}" in f"\n{found.err}" and "Traceback" not in found.err
        assert not (tmp_path / "a.npz").exists()


def test_a_baked_module_says_for_which_diffusion_it_was_made(run, refused, tmp_path, monkeypatch):
    (tmp_path / "raw.py").write_text("def fn(z, t):\n    return 0.1 * z\n")
    monkeypatch.chdir(tmp_path)
    done(run("build", "--sde", "vp", "--sampler", "ddim", "--network", "eps-L", "--bake", "--steps", "3", "--out", "."))
    words = ("sample", "--sampler", "vp_ddim_eps_l_quadratic_3.py", "--network", "raw.py:fn", "--kind", "eps", "--shape", "1,4,4")
    assert json.loads(done(run(*words, "--out", "a.npz", "--json")))["record"]["sde"] == "vp"
    refused((*words, "--sde", "ve", "--out", "b.npz"), "-", "sde", "was made for vp, not ve", "leave --sde out")


def test_the_kinds_of_the_command_line_are_those_of_derive():
    assert set(shared.KINDS) == {*network.KINDS, network.FLOW, "eps"}


@pytest.mark.parametrize("grid", GRIDS)
def test_each_grid_ends_where_it_is_asked_to(run, tmp_path, grid):
    words = (*QUICK, "--grid", grid, "--start", "1", "--end", "0.01", "--out", tmp_path / "a.npz", "--json")
    record = json.loads(done(run(*words)))["record"]
    times = record["grid"]["times"]
    assert record["grid"]["name"] == grid and (times[0], times[-1]) == (1.0, 0.01) and len(times) == 4
    sde = stepsmith.load_sde("vp")
    assert times == getattr(TimeGrid, grid)(sde, 3, end=0.01).times.tolist()


def test_parameters_dtype_and_seeds_reach_the_samples(run, tmp_path):
    def drawn(*words):
        done(run("sample", "--sde", "psld", "--sampler", "roba", "--steps", "2", "--out", tmp_path / "a.npz", *words))
        with np.load(tmp_path / "a.npz") as file:
            return file["samples"], json.loads(str(file["record"]))

    base, record = drawn("--seeds", "0,3-4")
    assert record["seeds"] == "0,3-4" and parse_seeds(record["seeds"]) == (0, 3, 4)
    assert np.abs(drawn("--seeds", "3")[0] - base[1:2]).max() < 1e-5 * np.abs(base).max()
    other, record = drawn("--seeds", "0,3-4", "--param", "Gamma=0.02", "--param", "lambda_s=1.3")
    assert record["params"]["Gamma"] == 0.02 and record["params"]["lambda_s"] == 1.3 and record["params"]["nu"] == 4.01
    assert np.abs(other - base).max() > 1e-4
    wide, record = drawn("--seeds", "0,3-4", "--dtype", "float64")
    assert (
        wide.dtype == np.float64
        and record["dtype"] == "float64"
        and np.abs(wide - base).max() < 1e-4 * np.abs(base).max()
    )
    half, record = drawn("--seeds", "0,3-4", "--dtype", "bfloat16")
    assert record["dtype"] == "bfloat16" and 0 < np.abs(half - base).max() < 0.5 * np.abs(base).max()


def test_the_diffusion_of_the_docs_that_is_in_no_catalogue_draws_samples(run, tmp_path):
    words = (
        "sample",
        "--sde",
        ROOT / "docs" / "three-blocks.toml",
        "--sampler",
        "rvv",
        "--steps",
        "2",
        "--seeds",
        "0-1",
    )
    told = json.loads(done(run(*words, "--out", tmp_path / "a.npz", "--json")))
    assert told["nfe"] == 4 and told["record"]["sde"] not in list_sdes()
    with np.load(tmp_path / "a.npz") as file:
        assert file["samples"].shape == (2, 1, 28, 28) and np.isfinite(file["samples"]).all()


# --- what is refused -------------------------------------------------------------------------------------------------

NESTS = {"entry": '"' + "(" * 100_000 + "t" + ")" * 100_000 + '"', "array": "[" * 100_000 + "]" * 100_000}


@pytest.mark.parametrize(
    ("changes", "key", "what", "fix"),
    [
        ({"F": '[["-bata", "0"], ["0", "0"]]'}, "sde.F[0][0]", "column 2: unknown name 'bata'", "did you mean 'beta'"),
        ({"G": '[["Q", "0"], ["0", "1"]]'}, "sde.G[0][0]", "unknown name 'Q'", "known: "),
        ({"let": '{ Minv = "1/mass" }'}, "sde.let.Minv", "unknown name 'mass'", "known: "),
        ({"F": """[["__import__('os').system('true')", "0"], ["0", "0"]]"""}, "sde.F[0][0]", "column 1: '_'", "use names"),
        ({"F": """[["t.__class__", "0"], ["0", "0"]]"""}, "sde.F[0][0]", "column 2: '.'", "use names"),
        ({"F": """[["eval(t)", "0"], ["0", "0"]]"""}, "sde.F[0][0]", "unknown function 'eval'", "known: "),
        ({"F": f"[[{NESTS['entry']}, '0'], ['0', '0']]"}, "sde.F[0][0]", "more than 4096", "name parts"),
        ({"F": """[["((((((((((t", "0"], ["0", "0"]]"""}, "sde.F[0][0]", "'(' is never closed", "close it"),
        ({"F": f"[['{'(' * 200}t{')' * 200}', '0'], ['0', '0']]"}, "sde.F[0][0]", "nested more than", "name a part"),
        ({"F": NESTS["array"]}, "TOML", "nested more than 16 deep", "a few levels"),
        ({"F": '[["9^9^9^9^9", "0"], ["0", "0"]]'}, "sde.F[0][0]", "column", ""),
        ({"F": '[["1", "0", "0"], ["0", "1", "0"]]'}, "sde.F", "entry [0][2] is one too many", "a row has 2 entries"),
        ({"F": '[["1"], ["0"]]'}, "sde.F", "entry [0][1] is missing", "a row has 2 entries"),
        ({"F": '[["1", "0"]]'}, "sde.F", "row [1] is missing", "2 rows"),
        ({"F": '[["1", "0"], ["0"]]'}, "sde.F", "entry [1][1] is missing", "2 entries"),
        ({"F": '"beta"'}, "sde.F", "not a list of rows", "write"),
        ({"G": '[["1", "0"]]'}, "sde.G", "row [1] is missing", "2 rows"),
        ({"G": '[["1", "0"], ["0"]]'}, "sde.G", "entry [1][1] is missing", "2 entries"),
        ({"offset": '["0"]'}, "sde.offset", "row [1] is missing", "2 rows"),
        ({"F": None}, "sde", "the key 'F' is missing", "add it"),
        ({"drift": '"0"'}, "sde", "unknown key 'drift'", "known: "),
        ({"state": '["x", "x"]'}, "sde.state", "'x' is defined twice", "rename"),
        ({"time": "[1.0, 0.0]"}, "sde.time", "no span", "0 <= start < end"),
        ({"initial": '{ q = "1" }'}, "sde.initial", "unknown key 'q'", "known: m, x"),
        ({"initial": '{ m = "t" }'}, "sde.initial.m", "unknown name 't'", "known: "),
        ({"constraints": '["Gamma > nu"]'}, "constraints", "Gamma > nu does not hold", "defaults"),
        ({"params": "{ beta = nan }"}, "sde.params.beta", "not a number that float64 holds", "finite"),
        ({"doc": '"a \\" b"'}, "sde.doc", "'a \" b'", "without double quotes"),
        ({"name": '"../x"'}, "sde.name", "no name of a spec", "a-z"),
        ({"F": "[["}, "line 5", "is not TOML", "fix the line"),
    ],
    ids=range(30),
)  # fmt: skip
def test_a_bad_diffusion_is_refused_by_file_key_and_fix(refused, spec, tmp_path, changes, key, what, fix):
    path = spec("sde", **changes)
    refused(("derive", path), path, key, what, fix)
    refused(("sample", "--sde", path, "--out", tmp_path / "a.png"), path, key, what, fix)
    assert not (tmp_path / "a.png").exists()


PARTS = SAMPLER["parts"]


@pytest.mark.parametrize(
    ("changes", "key", "what", "fix"),
    [
        ({"composition": '"O B! A C"'}, "sampler.composition", "no part defines the letter C", "O, A, B"),
        ({"composition": '"O B A!"'}, "sampler.composition", "B uses a score before the first !", "write B!"),
        ({"composition": '"A O B!"'}, "sampler.composition", "A uses a score before the first !", "write A!"),
        ({"composition": '"O A B!^"'}, "sampler.composition", "A uses a score before the first !", "write A!"),
        ({"composition": '"O B!(1/2) A B!(1/3)"'}, "sampler.composition", "the shares of B sum to 5/6", "sum to 1"),
        ({"composition": '"O B!(1/2) A B!"'}, "sampler.composition", "some tokens of B carry a share", "or none"),
        ({"composition": '"O B! A(1/0)"'}, "sampler.composition", "division by zero", "q > 0"),
        ({"composition": '"O B!@2 A"'}, "sampler.composition", "@2 lies outside the step", "from 0"),
        ({"composition": '"O B! A?"'}, "sampler.composition", "'?' at column 7", "a token is"),
        ({"composition": '"O B!"'}, "sampler.composition", "the part A is never applied", "use its letter"),
        ({"composition": '""'}, "sampler.composition", "empty", "write one"),
        ({"composition": f'"{"O " * 100}B! A"'}, "sampler.composition", "more than 64 tokens", "shorten"),
        ({"family": '"spliting"'}, "sampler.family", "'spliting' is not one of", "choose"),
        ({"parts": "{ O = 1 }", "composition": '"O!"'}, "sampler.parts.O", "a part is a table", "write rows"),
        ({"parts": PARTS.replace("solve", "solver")}, "sampler.parts.O", "unknown key 'solver'", "did you mean 'solve'"),
        ({"parts": PARTS.replace('rows = ["x"]', 'rows = ["y"]')}, "sampler.parts.A.rows", "names no blocks of mine", "x, m"),
        ({"parts": PARTS.replace('linear = "diagonal"', 'linear = [["a", "0"], ["0", "0"]]')}, "sampler.parts.O.linear[0][0]",
         "unknown name 'a'", "known: "),
        ({"parts": PARTS.replace('linear = "diagonal"', 'linear = [["0", "0"]]')}, "sampler.parts.O.linear",
         "row [1] is missing", "2 rows"),
        # The sum of the parts: a score, a linear term, a noise, missing and twice.
        ({"parts": PARTS.replace('"rest", score = "all" }, B', '"rest", score = "none" }, B')}, "sampler.parts",
         "do not sum to the reverse SDE of mine: score of row x in the score of x, missing", "exactly one part"),
        ({"parts": PARTS.replace('{ rows = ["x"], linear = "rest"', '{ rows = ["x"], linear = "none"')}, "sampler.parts",
         "linear of row x in x, missing Gamma*beta", "exactly one part"),
        ({"parts": PARTS.replace('noise = "all"', 'noise = ["x"]')}, "sampler.parts",
         "noise of row m in m, missing", "exactly one part"),
        ({"parts": PARTS.replace('rows = ["m"]', 'rows = ["x", "m"]')}, "sampler.parts", "row x in x, ", "exactly one part"),
        ({"target": '"ode"'}, "sampler.parts",
         "do not sum to the probability flow of mine: noise of row x in x, extra", "exactly one part"),
        ({"parts": PARTS.replace('score = "all" } }', 'score = [["0", "0"], ["1", "0"]] } }')}, "sampler.parts",
         "score of row m in the score of x, extra 1", "exactly one part"),
    ],
    ids=range(24),
)  # fmt: skip
def test_a_bad_sampler_is_refused_by_file_key_and_fix(refused, spec, tmp_path, changes, key, what, fix):
    path = spec("sampler", **changes)
    refused(("build", "--sde", spec("sde"), "--sampler", path, "--out", tmp_path / "out"), path, key, what, fix)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "what", "fix"),
    [
        ("O B! A C", "no part defines the letter C", "with parts"), ("B A!", "B uses a score before the first !", "write B!"),
        ("B!(1/2) A B!(1/3)", "the shares of B sum to 5/6", "must sum to 1"), 
        ("O! S", "no standard parts for the letters OS", "with parts"),
        ("b!", "'b' at column 1", "a token is"),
    ],
)  # fmt: skip
def test_a_bad_composition_on_the_command_line_is_refused(refused, tmp_path, text, what, fix):
    found = ("sample", "--sampler", text, "--out", tmp_path / "a.png")
    key = "sampler" if ("letter" in what and "defines" in what) or "standard" in what else "composition"
    refused(found, "-", key if "score before" not in what else "sampler.composition", what, fix)


@pytest.mark.parametrize(
    ("times", "what"),
    [
        ([0.1, 0.5, 0.9], "times 0 and 1 (0.1, 0.5) do not decrease"),
        ([0.9, 0.5, 0.5], "times 1 and 2 (0.5, 0.5) do not decrease"),
        ([0.9, float("nan"), 0.1], "time 1 is nan"), ([0.9, 0.1, -float("inf")], "time 2 is -inf"), ([0.5], "shape (1,)"),
        ([1.5, 0.5], "1.5 is outside the time span (0, 1] of vp"), ([0.5, 0.0], "0.0 is outside the time span"),
        ("abc", "not times"),
    ],
)  # fmt: skip
def test_a_bad_grid_is_refused_in_one_line(times, what):
    with pytest.raises(InputError) as caught:
        TimeGrid.explicit(times, stepsmith.load_sde("vp"))
    text = str(caught.value)
    assert text.startswith("grid: ") and what in text and "\n" not in text and caught.value.fix


@pytest.mark.parametrize(
    ("words", "key", "what", "fix"),
    [
        (("--sampler", "rvv", "--nfe", "1"), "nfe", "a budget of 1 buys no step", "nfe >= 2"),
        (("--sampler", "rvv", "--nfe", "2", "--last", "denoise"), "nfe", "a budget of 2 buys no step", "nfe >= 3"),
        (("--nfe", "-5"), "nfe", "a budget of -5 buys no step", "nfe >= 1"),
        (("--nfe", "4", "--steps", "2"), "nfe", "exclude each other", "give one"),
        (("--steps", "0"), "steps", "0 steps cannot be taken", "1 or more"),
        (("--steps", "many"), "steps", "'many' is not a valid integer", "--help"),
        (("--end", "nan"), "end", "nan is not a time", "finite"),
        (("--end", "2"), "end", "2 is not below the start 1", "runs down"),
        (("--end", "0"), "end", "0.0 is outside the time span", "end above"),
        (("--grid", "cubic"), "grid", "'cubic' is not one of", "--help"),
        (("--network", "nope"), "network", "unknown network 'nope'", "digits, galaxies"),
        (("--sde", "pslt"), "sde", "no sde of the catalogue is named 'pslt'", "did you mean 'psld'"),
        (("--sampler", "rvw"), "sampler", "no sampler of the catalogue is named 'rvw'", "did you mean 'rvv'"),
        (("--sampler", "A B"), "sampler.composition", "A uses a score before the first !", "write A!"),
        (("--sde", "ir-sde"), "constants", "mu of ir-sde is missing", "--constant mu=FILE"),
        (("--sde", "vp", "--sampler", "rvv"), "sampler.parts.B.rows", "vp has no auxiliary block", "auxiliary blocks"),
        (("--param", "Gamma"), "param", "'Gamma' is no NAME=VALUE", "Gamma=0.02"),
        (("--param", "Gama=0.1"), "params", "'Gama'", "Gamma"),
        (("--param", "Gamma=4.01"), "constraints", "Gamma != nu", "change the parameters"),
        (("--seeds", "3-1"), "seeds", "3-1", ""),
        (("--seeds", "-1"), "seeds", "-1", ""),
        (("--device", "nowhere"), "device", "'nowhere' is not a device", "cpu"),
        (("--device", "meta"), "device", "'meta' cannot be used", "cpu"),
        (("--dtype", "int8"), "dtype", "'int8' is not one of", "see stepsmith sample --help"),
        (("--threads", "0"), "threads", "0 is not in the range", "--help"),
        (("--bogus", "1"), "--bogus", "No such option", "--help"),
        (("extra",), "arguments", "unexpected extra argument (extra)", "--help"),
    ],
    ids=lambda value: value if isinstance(value, str) and " " not in value else None,
)  # fmt: skip
def test_bad_arguments_of_sample_are_refused_and_write_nothing(refused, tmp_path, words, key, what, fix):
    where = "sampler/rvv.toml" if key.startswith("sampler.parts") else "psld" if key == "constraints" else "-"
    refused(("sample", "--out", tmp_path / "a.png", *words), where, key, what, fix)
    assert not (tmp_path / "a.png").exists()


def test_tune_refuses_every_budget_before_it_tunes_for_the_first(refused, tmp_path):
    words = ("tune", "--network", "digits", "--nfe", "4,11", "--teacher", "20", "--seeds", "0-7", "--out", tmp_path / "tuned")
    refused(words, "-", "nfe", "11 calls", "give 2 to 10")
    assert not (tmp_path / "tuned").exists()


def test_search_refuses_a_diffusion_with_a_noise_level_for_each_frequency(refused):
    refused(("search", "blurring"), "blurring", "data", "one noise level", "another diffusion")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a cuda device")
def test_a_device_that_is_not_there_is_refused(refused, tmp_path):
    refused(("sample", "--device", "cuda", "--out", tmp_path / "a.png"), "-", "device", "'cuda' cannot be used", "cpu")


def test_two_data_blocks_are_refused_for_the_bridge_and_taken_without(run, refused, spec, tmp_path):
    path = spec("sde", initial=None, let=None, params="{ Gamma = 1.0, nu = 1.0, beta = 2.0, Minv = 1.0 }")
    path.write_text(path.read_text() + 'data = ["x", "m"]\n')
    words = ("--sde", path, "--sampler", "euler")
    for verb in ("build", "sample"):
        out = tmp_path / ("g" if verb == "build" else "a.png")
        refused(
            (verb, *words, "--out", out),
            "mine",
            "data",
            "the bridge needs one data block, and mine has 2",
            "initial variance",
        )
    refused(
        ("build", *words, "--network", "edm", "--out", tmp_path / "g"),
        "mine",
        "data",
        "needs one data block",
        "variance",
    )


def test_an_unknown_parameterisation_module_verb_or_lonely_option_is_refused(run, refused, tmp_path):
    out = ("--out", tmp_path / "g")
    refused(
        ("build", "--sde", "psld", "--sampler", "rvv", "--network", "eps", *out),
        "-",
        "network",
        "no parameterisation 'eps'",
        "eps-L",
    )
    refused(("build", "--sde", "psld", *out), "-", "sampler", "go together", "give both")
    refused(("build", "--sampler", "rvv", *out), "-", "sde", "go together", "give both")
    refused(("build", "psld_rvw", *out), "-", "name", "no module 'psld_rvw'", "did you mean psld_rvv")
    refused(("show", "psld_rvw"), "-", "name", "no module 'psld_rvw'", "did you mean psld_rvv")
    refused(("frobnicate",), "-", "arguments", "No such command 'frobnicate'", "--help")
    assert "Usage: " in done(run())
    refused(("derive",), "-", "sde", "Missing argument 'SDE'", "--help")
    refused(("derive", "nowhere/at/all.toml"), "nowhere/at/all.toml", "sde", "there is no such file", "psld")
    refused(("list", "--bogus"), "-", "--bogus", "No such option", "--help")
    wrong = ("build", "--sde", "psld", "--sampler", "rvv", "--frame", "eps-R", *out)
    refused(wrong, "-", "unsupported", "a splitting sampler has no conjugate part", "leave the frame out")
    assert not (tmp_path / "g").exists()


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: data[: len(data) // 2], lambda data: data[:5], lambda data: b"", lambda data: b"\0" * 4096,
        lambda data: b"GIF89a" + data,
    ],
    ids=["half", "header", "empty", "zeros", "shifted"],
)  # fmt: skip
def test_a_spoiled_checkpoint_is_refused_by_its_path(refused, tmp_path, spoil):
    path = tmp_path / "net.safetensors"
    path.write_bytes(spoil((WEIGHTS / "digits.safetensors").read_bytes()))
    refused(
        ("sample", "--network", path, "--out", tmp_path / "a.png"),
        path,
        "checkpoint",
        "not a whole safetensors file",
        "",
    )
    assert not (tmp_path / "a.png").exists()


def test_a_checkpoint_that_is_not_there_is_refused_and_a_whole_one_is_taken(run, refused, tmp_path):
    path = tmp_path / "net.safetensors"
    refused(("sample", "--network", path, "--out", tmp_path / "a.png"), path, "checkpoint", "no such file", "")
    path.write_bytes((WEIGHTS / "digits.safetensors").read_bytes())
    assert "4 samples" in done(run(*QUICK, "--network", path, "--out", tmp_path / "a.png"))


def test_a_place_that_cannot_be_written_is_refused_before_any_work(refused, monkeypatch, tmp_path):
    import stepsmith.derive.method

    def never(*_):
        raise AssertionError("derived")

    monkeypatch.setattr(stepsmith.derive.method, "derive", never)
    monkeypatch.setattr(catalogue.Row, "derive", never)
    file = tmp_path / "file"
    file.write_text("")
    under = file / "deep" / "a.png"
    refused(("sample", "--out", under), under, "out", f"the folder {file} cannot be written", "another place")
    (tmp_path / "taken").touch()
    refused(("sample", "--out", tmp_path / "taken"), tmp_path / "taken", "out", "it is a file", "a suffix")
    refused(("sample", "--out", tmp_path / "a.gif"), tmp_path / "a.gif", "out", "suffix '.gif' is not known", ".npz")
    (tmp_path / "d.png").mkdir()
    refused(("sample", "--out", tmp_path / "d.png"), tmp_path / "d.png", "out", "it is a folder", "path of a file")
    refused(("build", "--out", file), file, "out", "cannot be written", "--out")
    refused(("build", "--out", file / "deep"), file / "deep", "out", "cannot be written", "--out")
    monkeypatch.chdir(tmp_path)
    refused(("build",), "-", "out", "no checkout of stepsmith", "--out")
    if os.geteuid() != 0:
        closed = tmp_path / "closed"
        closed.mkdir(mode=0o500)
        refused(("build", "--out", closed / "g"), closed / "g", "out", "cannot be written", "--out")
        refused(("sample", "--out", closed / "a.png"), closed / "a.png", "out", "cannot be written", "another place")


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="no /proc")
def test_a_place_that_fails_only_when_it_is_written_is_one_line_too(run):
    for words in (("build", "vp_conjugate", "--out", "/proc/nowhere"), (*QUICK, "--out", "/proc/nowhere/a.npz")):
        found = run(*words)
        lines = [line for line in found.err.splitlines() if not line.startswith(("note: ", "deriving "))]
        assert found.status == 2 and len(lines) == 1 and lines[0].startswith("/proc/nowhere"), found.err


def test_a_refusal_in_a_process_of_its_own_is_one_line_and_nothing_of_python(tmp_path):
    """As users meet it: the whole stderr of the installed command, warnings of libraries included."""
    path = tmp_path / "bad.toml"
    path.write_text(
        "[sde]\n" + "\n".join(f"{key} = {value}" for key, value in SDE.items()).replace("beta/2", "bato/2", 1)
    )
    command = [Path(sys.executable).with_name("stepsmith"), "sample", "--sde", path, "--out", tmp_path / "a.png"]
    found = subprocess.run(command, capture_output=True, text=True)
    assert (found.returncode, found.stdout) == (2, "")
    assert re.fullmatch(
        rf"{re.escape(str(path))}: sde\.F\[1\]\[0\]: .*unknown name 'bato'; did you mean 'beta'\?.*\n", found.stderr
    )


def test_a_reader_that_stops_early_is_no_error():
    command = [sys.executable, "-c", "from stepsmith.cli import main; main()", "list"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.close()
        assert process.stderr.read() == "" and process.wait() == 0


def test_what_would_be_in_vain_is_refused_before_the_work(refused, tmp_path):
    """A picture without a format ended in a traceback, after all the work."""
    own = tmp_path / "own"
    own.write_text("")
    refused(["error", "vp", "euler", "--plot", tmp_path / "a.foo"], tmp_path / "a.foo", "plot", "suffix", "use one of")
    refused(["error", "vp", "euler", "--plot", own / "a.png"], own / "a.png", "plot", "does not exist", "another place")
    refused(["sample", "--steps", "10000000000"], "-", "steps", "cannot be taken", "1000000")
    refused(["sample", "--nfe", "1000000000000"], "-", "steps", "cannot be taken", "1000000")
    refused(["sample", "--param", "Gamma=inf"], "psld", "params.Gamma", "is not a number that float64 holds", "finite")
    refused(["sample", "--threads", "100000"], "-", "threads", "range", "--help")
