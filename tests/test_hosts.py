"""docs/hosts.md runs as it stands (diffusers in test_diffusers.py, ONNX in test_onnx.py); the dialects on the command line."""

import ast
import re
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

import stepsmith as ss
from stepsmith.certificate import unbound
from stepsmith.cli import cli
from stepsmith.errors import Unsupported
from stepsmith.runtime.modules import check_module
from stepsmith.templates import attach

PAGE = (Path(__file__).parents[1] / "docs" / "hosts.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
COMMANDS = [text.split()[1:] for kind, text in BLOCKS if kind == "bash"]
SNIPPETS = [text for kind, text in BLOCKS if kind == "python"]


@pytest.fixture
def built(tmp_path, monkeypatch):
    """Run a command of the page in an empty folder, whose modules can then be imported."""

    def run(arguments):
        result = CliRunner().invoke(cli, arguments, catch_exceptions=False)
        assert result.exit_code == 0 and "1 module built" in result.output
        return sorted(tmp_path.rglob("*.py"))

    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield run
    for name in ("vp_dpmpp_2m", "vp_dpmpp_2m_logsnr_10"):
        sys.modules.pop(name, None)


def test_the_page_has_a_command_a_host_and_a_snippet_where_one_writes_python():
    hosts = [arguments[arguments.index("--dialect") + 1] for arguments in COMMANDS if "--dialect" in arguments]
    assert hosts == ["diffusers", "k-diffusion", "comfyui"] and "--bake" in COMMANDS[3]
    assert len(SNIPPETS) == 5


def test_the_command_of_diffusers_runs_where_diffusers_is_not_installed(built, monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    (file,) = built(COMMANDS[0])
    assert "class Scheduler(SchedulerMixin, ConfigMixin):" in file.read_text()


def test_the_snippet_of_k_diffusion_runs(built):
    built(COMMANDS[1])
    space = {}
    exec(SNIPPETS[2], space)
    assert 0.9 < space["samples"].std() < 1.1


def test_the_node_file_lies_where_comfyui_looks(built):
    (file,) = built(COMMANDS[2])
    module = ss.load(file)
    assert file.parts[-3:] == ("ComfyUI", "custom_nodes", "vp_sde_dpmpp_2m.py") and len(module.NODE_CLASS_MAPPINGS) == 1


def test_the_snippet_of_a_baked_file_runs(built):
    built(COMMANDS[3])
    torch.manual_seed(0)
    space = {}
    exec(SNIPPETS[3], space)
    assert space["data"].dtype == torch.float32 and 0.9 < space["data"].std() < 1.1


def test_a_file_of_a_dialect_keeps_the_contract_and_the_text_of_the_module():
    method = ss.derive("edm", "ddim")
    plain, more = ss.emit(method, certified=False), ss.emit(method, dialect="k-diffusion", certified=False)
    assert method.digest == check_module(ss.load(more)).DIGEST
    body = plain[plain.index("API = 1") :]
    assert body in more and more.startswith(plain[: plain.index("import torch")])
    assert more.index(body) == more.index("API = 1")


@pytest.mark.parametrize("dialect", ["diffusers", "comfyui"])  # that of comfyui has all of k-diffusion
def test_in_every_file_of_a_dialect_each_name_is_bound_once(dialect):
    """No part of a host takes a name that a module has, and all that it reads is there."""
    done = 0
    for path in sorted((Path(__file__).parents[1] / "generated").glob("*.py")):
        text = path.read_text()
        if 'NETWORK = "denoiser"' not in text or "CONSTANTS =" in text:
            continue
        text = attach(text, dialect)
        names = [n.name for n in ast.parse(text).body if isinstance(n, ast.FunctionDef | ast.ClassDef)]
        assert len(set(names)) == len(names) and set(unbound(text)) <= {"__file__", ".order"}, path  # of the class itself
        done += 1
    assert done > 40


def test_a_dialect_that_is_not_built_is_told_with_those_that_are():
    with pytest.raises(Unsupported, match="no dialect 'jax'; use torch, diffusers, k-diffusion, comfyui"):
        ss.emit(ss.derive("vp", "ddim"), dialect="jax")


def test_the_command_line_wants_names_and_a_folder_for_a_dialect(built):
    for arguments in (["build", "--dialect", "diffusers", "--out", "."], ["build", "vp_ddim", "--dialect", "diffusers"]):
        result = CliRunner().invoke(cli, arguments)
        assert result.exception is not None and result.exit_code != 0
