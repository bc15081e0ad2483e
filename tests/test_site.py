"""The pages for newcomers: links lead somewhere, no page is too long, and what they show runs, from top to bottom."""

import inspect
import re
import shlex
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

import stepsmith as ss
from stepsmith.cli import cli
from stepsmith.derive.method import derive

ROOT = Path(__file__).parents[1]
FRONT = [ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")]
PAGES = [*FRONT, *sorted(ROOT.glob("docs/*.md"))]
MADE = ("samplers/", "diffusions/")  # by docs/make/site.py, while the site is built: mkdocs looks after these
WALK = ("index.md", "invent.md", "generated-file.md")  # pages that are followed from top to bottom


def prose(text: str) -> str:
    """A page without its code, tables and pictures."""
    text = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    return "\n".join(line for line in text.splitlines() if not line.startswith(("|", "    ", "![")))


def anchors(text: str) -> set[str]:
    """The anchors of the headings of a page."""
    heads = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).strip().replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_and_headings_that_exist(page: Path) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", page.read_text())
    for link in (x for x in links if not x.startswith(("http", *MADE))):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target.read_text()), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_page_has_more_than_1500_words_of_prose(page: Path) -> None:
    assert len(prose(page.read_text()).split()) <= 1500


def test_the_reference_has_every_public_name() -> None:
    named = set(re.findall(r"`ss\.(\w+)`", (ROOT / "docs/python.md").read_text()))
    assert named == set(ss.__all__) - {"__version__"}


def test_help_on_derive_speaks_of_the_function_first() -> None:
    function, (summary, _, signature, *_) = inspect.getdoc(derive), (ss.derive.__doc__ or "").splitlines()
    assert function and summary == function.splitlines()[0] and signature == f"derive{inspect.signature(derive)}"


def test_the_snippet_of_the_front_page_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (text,) = re.findall(r"^```python\n(.*?)^```", FRONT[0].read_text(), re.MULTILINE | re.DOTALL)
    space: dict[str, object] = {}
    exec(compile(text, "README.md", "exec"), space)
    assert tuple(space["clothes"].shape) == (64, 1, 28, 28) and "def step(" in capsys.readouterr().out  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", WALK)
def test_a_walk_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TOML is saved under its name, Python is executed, and lines that begin with stepsmith are commands that succeed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(ROOT / "generated"))
    monkeypatch.delitem(sys.modules, "psld_rvv", raising=False)
    generated = (ROOT / "generated/psld_rvv.py").read_text()
    ran = 0
    for language, text in re.findall(r"^```(\w*)\n(.*?)^```", (ROOT / "docs" / name).read_text(), re.MULTILINE | re.DOTALL):
        commands = [line for line in text.splitlines() if line.startswith("stepsmith ")]
        if language == "toml":
            found = re.search(r'^name = "([\w-]+)"', text, re.MULTILINE)
            assert found
            Path(f"{found[1]}.toml").write_text(text)
        elif language == "python" and "import" in text:
            exec(compile(text, name, "exec"), {})
        elif language in ("python", "text"):
            assert all(line.strip() in generated for line in text.splitlines())  # quoted from the file
            continue
        for command in commands:
            result = CliRunner().invoke(cli, shlex.split(command, comments=True)[1:])
            assert result.exit_code == 0, (command, result.output)
        ran += bool(commands) or language in ("toml", "python")
    assert ran
