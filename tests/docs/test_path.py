"""The pages are a path: each has neighbours, something to predict and a command on the demo model, which exists."""

import re
import shlex
from pathlib import Path

import click
import pytest

from fathom.cli.main import VERBS, verbs
from tests.docs.test_figures import DOCS, PAGES
from tests.house.test_docs import name, refresh

ON_THE_PATH = [path for path in PAGES if path.name != "README.md"]


def calls(path: Path) -> list[list[str]]:
    """The words of each `fathom` command in the sh blocks of a page."""
    blocks = re.findall(r"```sh\n(.*?)```", path.read_text(encoding="utf-8"), re.S)
    lines = [line.partition("  #")[0] for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    found = [re.search(r"(?:^|[|;] *)fathom (.*)", line) for line in lines]
    return [shlex.split(match[1], comments=True) for match in found if match]


@pytest.mark.parametrize("path", ON_THE_PATH, ids=name)
def test_a_page_has_neighbours_something_to_predict_and_a_command(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count("<!-- path -->") == 2, "once under the title, once at the end"
    _, start, then = text.partition("## Try it\n")
    assert start and "**Predict first.**" in then, "a question under 'Try it'"
    assert re.search(r"```sh\n.*?```", then, re.S) and "<details><summary>What happens</summary>" in then
    assert "runs/" in then, "the command runs on the demo model"


@pytest.mark.parametrize("path", [*PAGES, DOCS.parent / "README.md"], ids=name)
def test_commands_and_options_exist(path: Path) -> None:
    context = click.Context(verbs)
    for verb, *words in calls(path):
        assert verb in VERBS, f"fathom {verb}"
        command = verbs.get_command(context, verb)
        assert command is not None
        known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
        options = {word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)}
        assert not options - known - {"--help", "--help-all", "--overwrite"}, f"fathom {verb}"


def test_the_path_has_every_page_once() -> None:
    rows = [row["page"] for row in refresh.ROW.finditer((DOCS / "README.md").read_text(encoding="utf-8"))]
    assert sorted(rows) == sorted(path.name for path in ON_THE_PATH)
