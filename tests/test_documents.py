"""What README and docs say of the command line, the recipes and each other is so."""

import argparse
import re
import shlex
from pathlib import Path

import pytest

from tfds_builders.choices import FORMATS
from trainers.cli import build_parser, parse
from trainers.recipes.catalogue import RECIPES

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXTS = {page.relative_to(ROOT).as_posix(): page.read_text() for page in PAGES}


def commands_in(text: str) -> list[str]:
    """The command lines of its indented blocks, those that go on in the next line in one piece."""
    joined = re.sub(r"\\\n\s+", "", text)
    lines = re.findall(r"^ {4,}(?:\$ )?(?:\.venv/bin/)?(shardbox .*)$", joined, flags=re.MULTILINE)
    # `[...]` may be left out, `...` stands for what the text before it said, `$seed` is the shell's.
    return [re.sub(r" \.\.\.|[\[\]]|\s+#.*", "", line).replace("$seed", "0") for line in lines]


COMMANDS = [(page, line) for page, text in TEXTS.items() for line in commands_in(text)]


@pytest.mark.parametrize(("page", "line"), COMMANDS)
def test_the_command_line_takes_every_command_shown(page: str, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        parse(shlex.split(line)[1:])
    except SystemExit:
        pytest.fail(f"{page}: {line}: {capsys.readouterr().err}")


def test_commands_are_found() -> None:
    assert len(COMMANDS) > 30 and {page for page, _ in COMMANDS} >= {"README.md", "docs/runners.md", "docs/recipes.md"}


@pytest.mark.parametrize("page", PAGES, ids=TEXTS)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", page.read_text()):
        name, _, anchor = target.partition("#")
        there = (page.parent / name).resolve() if name else page
        assert there.is_file(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", there.read_text(), flags=re.MULTILINE)
            assert anchor in [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]


def test_every_page_is_found_from_the_readme() -> None:
    assert all(f"]({name})" in TEXTS["README.md"] for name in TEXTS if name != "README.md")


def test_the_readme_has_every_command() -> None:
    [commands] = [action for action in build_parser()._actions if isinstance(action, argparse._SubParsersAction)]
    told = TEXTS["README.md"] + TEXTS["docs/runners.md"]
    assert [name for name in commands.choices if f"`shardbox {name}" not in told] == []


def test_recipes_and_formats_are_all_in_their_tables() -> None:
    assert [make().name for make in RECIPES if f"`{make().name}`" not in TEXTS["docs/recipes.md"]] == []
    assert [name for name in FORMATS if f"| `{name}` |" not in TEXTS["docs/sources.md"]] == []
