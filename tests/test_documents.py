"""The documents keep up with the code: keys, commands, links, file names, versions."""

import re
import tomllib

import pytest
from places import ROOT

from fedllm_app.commands.main import SUBCOMMANDS
from fedllm_app.commands.run import is_local
from fedllm_app.config.parse import default_run_config

PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").glob("*.md")])
CONFIGURATION = ROOT / "docs" / "configuration.md"


def first_cells(text: str) -> list[str]:
    """The first cell of every row of the Markdown tables in a text."""
    return [line.split("|")[1] for line in text.splitlines() if line.startswith("|")]


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings: small letters, hyphens for blanks, without punctuation."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def without_code(text: str) -> str:
    """A page without its code blocks, in which brackets are no links."""
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


def is_there(path: str) -> bool:
    """Whether a path that a document names exists, from the project's root or from the package."""
    return (ROOT / path).exists() or (ROOT / "fedllm_app" / path).exists()


def test_every_key_has_a_line_in_a_table_of_the_configuration_page():
    """A table names each key of pyproject.toml in its first cell."""
    documented = {key for cell in first_cells(CONFIGURATION.read_text()) for key in re.findall(r"`([^`]+)`", cell)}
    assert sorted(default_run_config(ROOT).keys() - documented) == []


def test_the_configuration_page_names_no_key_that_is_gone():
    """What looks like a key in a first cell (a section of pyproject.toml, a dot, a name) is one."""
    keys = default_run_config(ROOT).keys()
    sections = {key.partition(".")[0] for key in keys}
    named = {key for cell in first_cells(CONFIGURATION.read_text()) for key in re.findall(r"`([a-z]+\.[^`]+)`", cell)}
    assert sorted(key for key in named - keys if key.partition(".")[0] in sections) == []


def test_every_command_has_a_section_with_an_example():
    """Each subcommand has the heading `## fedllm <name>`, and a code block below it that calls it."""
    sections = re.split(r"^## ", (ROOT / "docs" / "cli.md").read_text(), flags=re.MULTILINE)
    for name in SUBCOMMANDS:
        command = f"fedllm {name}"
        section = next((text for text in sections if text.startswith(f"{command}\n")), "")
        assert re.search(rf"```sh\n(?:.*\n)*?{command}\b", section), f"docs/cli.md has no example of {command}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_relative_links_lead_somewhere(page):
    """A link to a file names one that exists, and a link to a heading one that the page has."""
    for target in re.findall(r"\]\(([^)\s]+)\)", without_code(page.read_text())):
        if target.startswith(("https://", "http://")):
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), f"{page.name} links to {target}, which does not exist"
        if anchor:
            assert anchor in anchors(linked.read_text()), f"{page.name} links to {target}, and there is no such heading"


@pytest.mark.parametrize(
    "page", [ROOT / "docs" / "architecture.md", ROOT / "CONTRIBUTING.md"], ids=lambda page: page.name
)
def test_files_that_a_page_names_exist(page):
    """Text in backticks that has a slash or ends in .py is a path, unless it is a command, a variable or a pattern."""
    spans = re.findall(r"`([^`\n]+)`", without_code(page.read_text()))
    paths = {
        span for span in spans if re.fullmatch(r"[\w./-]*(/[\w./-]*|\.py)", span) and not span.startswith("FEDLLM")
    }
    assert len(paths) > 5
    assert sorted(path for path in paths if not is_there(path)) == []


def test_the_flower_configuration_in_the_documents_is_complete(flower_home):
    """Written as it stands to $FLWR_HOME/config.toml, local runs are the default and `sites` is a connection."""
    (block,) = re.findall(
        r"^```toml\n(\[superlink\]\n.*?)^```$", (ROOT / "docs" / "deployment.md").read_text(), re.MULTILINE | re.DOTALL
    )
    (flower_home / "config.toml").write_text(block)
    assert is_local(None)
    assert not is_local("sites")


def test_one_version_everywhere():
    """pyproject.toml, CITATION.cff and the first released section of CHANGELOG.md name the same version."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    cited = re.search(r"^version: (.+)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE).group(1)
    released = re.findall(r"^## \[(\d[^\]]*)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert (cited, released[0]) == (version, version)
