"""The wheels hold all of Foundry and nothing else, and run in an environment that never saw this checkout."""

import re
import sys
import tomllib
import zipfile
from email.parser import Parser
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from tests.project import QUICKLY

REPOSITORY = Path(__file__).parents[1]
PACKAGES = sorted(path.parent.name for path in REPOSITORY.glob("packages/*/pyproject.toml"))


@pytest.fixture(scope="module")
def installed(tmp_path_factory, make_environment):
    """The six wheels, built by way of their source archives, in an environment with nothing else of Foundry."""
    environment = make_environment(tmp_path_factory.mktemp("wheels") / "environment", with_foundry=False)
    built = environment.folder / "dist"
    environment.run(
        REPOSITORY, "uv", "build", "--all-packages", "--quiet", "--python", sys.executable, "--out-dir", built
    )
    # No index: strangers own names of ours there. What the wheels require is among them or installed already.
    wheels = [next(built.glob(f"{package.replace('-', '_')}-*.whl")) for package in PACKAGES]
    environment.run(built, "uv", "pip", "install", "--quiet", "--no-index", *wheels)
    return environment


def wheel(installed, package: str) -> zipfile.ZipFile:
    (path,) = (installed.folder / "dist").glob(f"{package.replace('-', '_')}-*.whl")
    return zipfile.ZipFile(path)


def test_there_are_six_packages():
    names = ("cli", "core", "data", "evals", "kernels", "modules")
    assert [f"foundry-{name}" for name in names] == PACKAGES


@pytest.mark.parametrize("package", PACKAGES)
def test_a_wheel_holds_the_sources_and_leaves_the_namespace_open(installed, package):
    source = REPOSITORY / "packages" / package / "src"
    expected = {
        file.relative_to(source).as_posix()
        for file in source.rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    with wheel(installed, package) as archive:
        inside = {name for name in archive.namelist() if ".dist-info/" not in name and not name.endswith("/")}
    assert inside == expected
    assert "foundry/__init__.py" not in inside
    assert f"foundry/{package.removeprefix('foundry-')}/py.typed" in inside


@pytest.mark.parametrize("package", PACKAGES)
def test_siblings_are_pinned_to_the_same_version(installed, package):
    with wheel(installed, package) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = Parser().parsestr(archive.read(name).decode())
    siblings = [each for each in metadata.get_all("Requires-Dist", []) if each.startswith("foundry")]
    assert all(each.endswith(f"=={metadata['Version']}") for each in siblings), siblings


def test_the_wheels_run_and_not_the_checkout(installed):
    for module in ("core", "zoo", "cli", "data", "evals", "kernels", "modules"):
        file = Path(installed.says(f"import foundry.{module} as m; print(m.__file__)"))
        assert file.is_relative_to(installed.site_packages)
        assert not file.is_symlink()
    assert installed.says("import foundry; print(getattr(foundry, '__file__', None))") == "None"
    path = installed.says("import sys, foundry; print(*sys.path, *foundry.__path__, sep='\\n')").splitlines()
    assert not [entry for entry in path if Path(entry).is_relative_to(REPOSITORY / "packages")]


def test_a_user_of_the_wheels_trains_and_generates(installed, tmp_path):
    foundry = installed.folder / "bin" / "foundry"
    version = installed.run(tmp_path, foundry, "--version").stdout
    assert re.fullmatch(r"foundry \d+\.\d+\.\d+\n", version)
    installed.run(tmp_path, foundry, "init", "project")
    project = tmp_path / "project"
    (project / "corpus.txt").write_text("".join(f"{i} squared is {i * i}\n" for i in range(400)))
    installed.run(project, foundry, "train", *QUICKLY, "--set", "data.dataset={type: text, path: corpus.txt}")
    (run,) = (project / "runs").iterdir()
    assert (run / "result.json").exists()
    written = installed.run(project, foundry, "generate", run, "--prompt", "12 squared", "--max-tokens", "5").stdout
    assert written.startswith("12 squared")


def test_the_lock_knows_the_public_index_and_this_folder_only():
    locked = tomllib.loads((REPOSITORY / "uv.lock").read_text())["package"]
    for package in locked:
        match package["source"]:
            case {"registry": index}:
                assert index == "https://pypi.org/simple", package["name"]
                files = [*package.get("wheels", []), *([package["sdist"]] if "sdist" in package else [])]
                assert {urlsplit(file["url"]).hostname for file in files} == {"files.pythonhosted.org"}, package["name"]
                assert not package["name"].startswith("foundry")
            case {"editable": folder} | {"virtual": folder}:
                assert not Path(folder).is_absolute()
                assert (REPOSITORY / folder).is_dir()
            case other:
                pytest.fail(f"{package['name']} comes from {other}")
    assert not re.search(r'["=]\s*(/|~|file:)', (REPOSITORY / "uv.lock").read_text())
