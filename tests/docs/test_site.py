"""The site builds without a warning, its pages are listed, and its code stays short and complete."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml

from ctsr_lightning.cli import COMMANDS, load_command
from ctsr_lightning.commands.parsers import positional, printed
from recipes.__main__ import RECIPES

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"


class Text(HTMLParser):
    """The text of a page and where its links go.

    Args:
        page: The HTML file.
    """

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.text, self.links = "", set[str]()
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs) -> None:
        if tag == "a":
            self.links.add(dict(attrs).get("href") or "")

    def handle_data(self, data) -> None:
        self.text += data


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site; a link or a cross-reference that leads nowhere is a failure."""
    pytest.importorskip("mkdocs")
    folder = tmp_path_factory.mktemp("site")
    environment = {**os.environ, "CTSR_DOCS_SEARCH": "false", "NO_MKDOCS_2_WARNING": "1"}
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    return folder


@pytest.mark.slow
def test_the_site_builds_strictly_and_equations_lead_to_their_functions(site: Path) -> None:
    method = Text(site / "method" / "index.html")
    assert "../api/losses/#ctsr_lightning.losses.score_distillation.align" in method.links
    assert "../api/models/#ctsr_lightning.models.tradeoff.TradeOff.latent_at" in method.links
    assert all(rf"\tag{{{number}}}" in method.text for number in range(1, 7))
    assert "[ctsr_lightning" not in method.text  # a reference that was not resolved stays as it was written
    extend = Text(site / "extend" / "index.html")
    assert "class ShuffleCodec(LatentCodec)" in extend.text
    assert "--8<--" not in extend.text


def test_every_page_is_in_the_navigation() -> None:
    def pages(entry: object) -> list[str]:
        if isinstance(entry, str):
            return [entry]
        return [page for part in (entry.values() if isinstance(entry, dict) else entry) for page in pages(part)]

    class Loader(yaml.SafeLoader):
        """Reads mkdocs' tag for environment variables as plain values."""

    Loader.add_constructor("!ENV", lambda loader, node: loader.construct_sequence(node)[-1])
    listed = pages(yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), Loader)["nav"])
    there = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md") if not path.stem.endswith("_reading")}
    assert sorted(listed) == sorted(there)


def test_the_api_has_a_page_for_every_room() -> None:
    rooms = {path.parent.name for path in (ROOT / "ctsr_lightning").glob("*/__init__.py")}
    assert rooms == {path.stem for path in (DOCS / "api").glob("*.md")} - {"index", "core"}


def test_the_readme_is_one_page_and_its_files_are_there() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 120
    targets = [part.split(")")[0] for part in text.split("](")[1:]]
    files = [target.split("#")[0] for target in targets if not target.startswith("http")]
    assert files
    assert [name for name in files if not (ROOT / name).exists()] == []


def test_files_to_learn_from_are_short() -> None:
    lengths = {path.name: len(path.read_text().splitlines()) for path in (DOCS / "extend").glob("*")}
    lengths |= {path.name: len(path.read_text().splitlines()) for path in (ROOT / "examples").glob("*.py")}
    assert {name: length for name, length in lengths.items() if length > 50} == {}


def commands() -> list[tuple[str, str, list[str]]]:
    """Commands and recipes that the pages and `--help` show, with the names of their options."""
    generated = {"claims.md", "results.md"}
    pages = [ROOT / "README.md", *(path for path in sorted(DOCS.glob("*.md")) if path.name not in generated)]
    text = "\n".join(path.read_text(encoding="utf-8") for path in pages)
    found = []
    blocks = re.findall(r"^```bash\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    blocks += [inspect.getdoc(load_command(place)) or "" for table in (COMMANDS, RECIPES) for place in table.values()]
    for block in blocks:
        for line in block.replace("\\\n", " ").splitlines():
            words = re.sub(r'"[^"]*"|#(?! or:).*', " ", line)
            for table, start in ((COMMANDS, r"(?:ctsr|ctsr_lightning\.cli) +"), (RECIPES, r"python -m recipes ")):
                match = re.search(f"{start}({'|'.join(table)})\\b(.*)", words)
                if match:
                    options = re.findall(r"--([\w-]+)", match[2])
                    found.append((match[1], table[match[1]], [option.replace("-", "_") for option in options]))
    return found


def test_commands_in_the_pages_have_the_options_that_they_show() -> None:
    shown = commands()
    assert {name for name, _, _ in shown} == {*COMMANDS, *RECIPES}
    known = {}
    for place in {place for _, place, _ in shown}:
        function = load_command(place)
        names = set(inspect.signature(function).parameters) - {word.name for word in positional(function)}
        known[place] = names | {"config", "help"} | printed(function) | ({"trust"} if "checkpoint" in names else set())
    unknown = [(name, option) for name, place, options in shown for option in options if option not in known[place]]
    assert unknown == []
