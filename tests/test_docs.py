"""Every TOML block of the documents is a complete spec that loads, and says what the catalogue says where it has its name."""

import re
import tomllib
from pathlib import Path

import pytest

import stepsmith as ss

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))]
SPECS = ROOT / "derive" / "specs"
BLOCKS = [
    pytest.param(text, id=f"{page.name}:{page.read_text()[: found.start()].count(chr(10)) + 1}")
    for page in PAGES
    for found in re.finditer(r"^```toml *\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    for text in [found[1]]
]


def test_the_documents_show_specs_of_diffusions_and_of_samplers() -> None:
    kinds = [kind for block in BLOCKS for kind in tomllib.loads(str(block.values[0]))]
    assert kinds.count("sde") >= 3 and kinds.count("sampler") >= 2 and set(kinds) == {"sde", "sampler"}


@pytest.mark.parametrize("text", BLOCKS)
def test_a_block_of_toml_loads(text: str, tmp_path: Path) -> None:
    (tmp_path / "block.toml").write_text(text)
    ((kind, table),) = tomllib.loads(text).items()
    load = {"sde": ss.load_sde, "sampler": ss.load_sampler}[kind]
    assert load(tmp_path / "block.toml").name == table["name"]


@pytest.mark.parametrize("text", BLOCKS)
def test_a_block_with_a_name_of_the_catalogue_is_the_catalogues(text: str) -> None:
    """Down to what it leaves out: notes, constraints, and lambda_s of the published splittings, 1 by default."""
    ((kind, table),) = tomllib.loads(text).items()
    path = SPECS / kind / f"{table['name']}.toml"
    if path.exists():
        known = tomllib.loads(path.read_text())[kind]
        for letter, part in table.get("parts", {}).items():
            assert part.items() <= known["parts"].pop(letter).items()
        for key, value in table.items():
            if key == "constraints":
                assert set(value) <= set(known[key])
            elif key != "parts":
                assert known[key] == value, key
    else:
        assert table["name"] not in (*ss.list_sdes(), *ss.list_samplers())
