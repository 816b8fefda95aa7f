"""What the README and docs/ say is so: pages are followed word for word, commands and links exist.

How a page is followed: a line that ends in "`path`:" writes the block below it to that file; one that ends in "Add to
`NAME` in `path`:" puts the block at the end of that list; a block in `sh` is run, and must succeed.
"""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from tests.doses import not_in_small_doses
from tests.project import write_project

from foundry.core.registry import registry

REPOSITORY = Path(__file__).parents[1]
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]

# The experiments of a project where a step takes no time.
BASELINE = """
model_args: {n_layer: 1, n_head: 2, n_embd: 16, block_size: 16}
data: {dataset: {type: text, path: corpus.txt}, tokenizer: byte}
training: {max_iters: 3, batch_size: 4, eval_tokens: 64, eval_interval: 0, threads: 1}
logging: {sample_tokens: 5}
"""


class Block(NamedTuple):
    """A fenced block, and the last line of the prose above it."""

    language: str
    text: str
    above: str


def section(page: Path, heading: str) -> str:
    """The text of a page from `## heading` to the next heading of that level."""
    _, found, rest = page.read_text().partition(f"\n## {heading}\n")
    assert found, f"{page.name} has no section {heading!r}"
    return rest.partition("\n## ")[0]


def blocks(text: str) -> Iterator[Block]:
    fence = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
    end = 0
    for match in fence.finditer(text):
        prose = text[end : match.start()].strip().split("\n\n")[-1]
        yield Block(match[1], match[2], " ".join(prose.split()))
        end = match.end()


def follow(text: str, project: Path, environment) -> str:
    """Do what a page says; what its commands printed."""
    printed = ""
    for block in blocks(text):
        if block.language == "sh":
            printed += environment.run(project, "bash", "-euo", "pipefail", "-c", block.text).stdout
        elif added := re.search(r"Add to `(\w+)` in `(\S+)`:$", block.above):
            extend_list(project / added[2], added[1], block.text)
        elif written := re.search(r"`(\S+\.\w+)`:$", block.above):
            write_project(project, {written[1]: block.text})
        else:
            pytest.fail(f"nobody can follow the block below {block.above!r}")
    return printed


def extend_list(path: Path, name: str, entry: str) -> None:
    source = path.read_text()
    extended, count = re.subn(rf"(^{name} = \[\n.*?)^\]$", rf"\g<1>{entry}]", source, flags=re.MULTILINE | re.DOTALL)
    assert count == 1, f"{path.name} has no list {name}"
    path.write_text(extended)


@pytest.fixture
def project(tmp_path) -> Path:
    corpus = "".join(f"{i} squared is {i * i}\n" for i in range(400))
    return write_project(tmp_path / "project", {"experiments/baseline.yaml": BASELINE, "corpus.txt": corpus})


@pytest.fixture(scope="module")
def foundry_alone(tmp_path_factory, make_environment) -> Iterator:
    """An environment into which no page here installs anything."""
    with make_environment(tmp_path_factory.mktemp("environment")).served() as environment:
        yield environment


def finished_runs(project: Path) -> list[str]:
    return sorted(path.parent.name.partition("-")[0] for path in project.glob("runs/*/result.json"))


HOW_TO = REPOSITORY / "docs" / "add-a-variant.md"


def test_a_file_in_the_project_becomes_a_variant(project, foundry_alone):
    printed = follow(section(HOW_TO, "1. A file in your project"), project, foundry_alone)
    assert re.search(r"\d+ passed", printed)
    assert finished_runs(project) == ["act_snake"]


@pytest.mark.slow
def test_a_file_in_the_project_becomes_an_attention(project, foundry_alone):
    assert "decode_equals_forward" in follow(section(HOW_TO, "An attention"), project, foundry_alone)
    assert finished_runs(project) == ["attn_tempered"]


def test_every_slot_has_its_row_and_its_section():
    page = HOW_TO.read_text()
    listed = re.findall(r"^\| \[`(\w+)`\]\((\S+)\)", section(HOW_TO, "The slots"), re.MULTILINE)
    assert {slot for slot, _ in listed} == {*registry().slots}
    assert all(link.endswith(".md") or f"\n### {slot}\n" in page or slot == "attention" for slot, link in listed)


@pytest.mark.slow
def test_files_in_the_project_fill_every_slot_of_an_experiment(project, foundry_alone):
    for heading in ("The other parts of a layer", "What trains the model", "Text: datasets and tokenizers"):
        follow(section(HOW_TO, heading), project, foundry_alone)
    assert finished_runs(project) == ["parts", "text", "trained"]


@pytest.mark.slow
@not_in_small_doses
def test_files_in_the_project_do_what_foundry_asks_of_their_slots(project, foundry_alone):
    """And fill the slots that no experiment chooses."""
    printed = follow(section(HOW_TO, "What no experiment chooses"), project, foundry_alone)
    assert finished_runs(project) == ["first", "second"]
    assert "experiments/plain.yaml" in printed
    for block in blocks(HOW_TO.read_text()):
        if written := re.search(r"`((?:variants/|test_variants)\S+)`:$", block.above):
            write_project(project, {written[1]: block.text})
    printed = foundry_alone.run(project, "pytest", "-q", "test_variants.py").stdout
    assert re.search(r"\d+ passed", printed)


def test_a_file_in_the_project_becomes_an_objective(project, foundry_alone):
    printed = follow(REPOSITORY.joinpath("docs", "add-an-objective.md").read_text(), project, foundry_alone)
    assert "micro_batches_add_up" in printed
    assert finished_runs(project) == ["obj_stay_close"]
    (run,) = project.glob("runs/obj_stay_close*")
    assert all("divergence" in row for row in (run / "metrics.jsonl").read_text().splitlines())


def test_a_file_in_the_project_becomes_a_task_and_a_metric(project, foundry_alone):
    printed = follow(REPOSITORY.joinpath("docs", "add-a-task.md").read_text(), project, foundry_alone)
    assert "layernorm" in printed
    assert "closeness.digits_right" in printed


@pytest.mark.slow
@not_in_small_doses
def test_a_package_becomes_a_variant(project, environment):
    printed = follow(section(HOW_TO, "2. A package"), project, environment)
    assert re.search(r"\d+ passed", printed)
    assert finished_runs(project) == ["act_mish"]


@pytest.mark.slow
@not_in_small_doses
def test_a_module_and_an_entry_become_a_built_in(project, environment):
    for folder in ("packages", "plugins"):
        shutil.copytree(REPOSITORY / folder, project / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copyfile(REPOSITORY / "pyproject.toml", project / "pyproject.toml")
    editable = ["uv", "pip", "install", "--no-deps", "--quiet", "-e"]
    environment.run(project, *editable, "packages/foundry-modules")
    printed = follow(section(HOW_TO, "3. A built-in"), project, environment)
    assert re.search(r"\d+ passed", printed)
    assert finished_runs(project) == ["act_hardswish"]


def test_the_readmes_variant_works(project, foundry_alone):
    follow(section(REPOSITORY / "README.md", "Add a variant"), project, foundry_alone)
    assert len(finished_runs(project)) == 1


def test_the_readme_names_every_command_and_none_that_is_missing(foundry_alone, tmp_path):
    readme = REPOSITORY / "README.md"
    listed = set(re.findall(r"^\| `foundry (\w[\w-]*)", section(readme, "Commands"), re.MULTILINE))
    help_page = foundry_alone.run(tmp_path, "foundry", "--help").stdout
    commands = set(re.findall(r"^  (\w[\w-]*)  ", help_page.partition("Commands:")[2], re.MULTILINE))
    assert listed == commands
    here, _, later = readme.read_text().partition("\n## Not yet\n")
    assert later
    assert named_commands(here) <= commands
    assert not named_commands(later) & commands


def named_commands(text: str) -> set[str]:
    return set(re.findall(r"(?:^|`|uv run | )foundry ([a-z][a-z-]*)", text, re.MULTILINE))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", linked.read_text(), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}, target
